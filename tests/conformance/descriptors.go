package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	_ "github.com/conductorone/baton-sdk/pb/c1/config/v1"
	_ "github.com/conductorone/baton-sdk/pb/c1/connectorapi/baton/v1"
)

// Files of the SDK in our packages that we do not carry, each with the reason.
var leftOut = map[string]string{
	"c1/connector/v2/config.proto":                "the older form of configuration schemas; nothing on the wire names it",
	"c1/connectorapi/baton/v1/config.proto":       "configuration of the hosted runtime",
	"c1/connectorapi/baton/v1/servedpolicy.proto": "policy service of the hosted runtime",
	"c1/connectorapi/baton/v1/session.proto":      "session storage of the hosted runtime",
	"c1/connectorapi/baton/v1/source_cache.proto": "source cache of the hosted runtime",
}

// Services of the SDK that stay between its own two processes; we carry their messages and call no such service.
const carriedService = "method c1.connectorapi.baton.v1.BatonService."

// descriptors compares everything in the descriptor set of our build with what the SDK registers.
func descriptors(ctx context.Context, r *run) {
	r.check("descriptors", func() (string, error) {
		path := filepath.Join(r.work, "descriptors.bin")
		if out, err := exec.CommandContext(ctx, r.producer, "descriptors", path).CombinedOutput(); err != nil {
			return "", fmt.Errorf("producer: %w\n%s", err, out)
		}
		bytes, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		set := &descriptorpb.FileDescriptorSet{}
		if err := proto.Unmarshal(bytes, set); err != nil {
			return "", err
		}
		if r.fault == "field-number" {
			for _, file := range set.GetFile() {
				if file.GetName() == "c1/connectorapi/baton/v1/baton.proto" {
					file.MessageType[1].Field[0].Number = proto.Int32(9)
				}
			}
		}
		wrong := &problems{}
		files, rows, local := 0, 0, 0
		carried := map[string]bool{}
		for _, ours := range set.GetFile() {
			carried[ours.GetName()] = true
			if !strings.HasPrefix(ours.GetPackage(), "c1.") {
				continue
			}
			descriptor, err := protoregistry.GlobalFiles.FindFileByPath(ours.GetName())
			if err != nil {
				wrong.add("%s is not in the SDK", ours.GetName())
				continue
			}
			files++
			mine, theirs := table(ours), table(protodesc.ToFileDescriptorProto(descriptor))
			rows += len(mine)
			for name, facts := range theirs {
				_, there := mine[name]
				switch {
				case there:
				case strings.HasPrefix(name, "method ") && !strings.HasPrefix(name, carriedService):
					local++
				default:
					wrong.add("%s: ours lacks it (%s)", name, facts)
				}
			}
			for name, facts := range mine {
				if other, there := theirs[name]; !there {
					wrong.add("%s: the SDK lacks it (%s)", name, facts)
				} else if other != facts {
					wrong.add("%s: ours is %s, the SDK's is %s", name, facts, other)
				}
			}
		}
		var unexplained []string
		protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
			inScope := false
			for _, scope := range []string{"c1/connectorapi/", "c1/connector/v2/", "c1/config/v1/"} {
				inScope = inScope || strings.HasPrefix(file.Path(), scope)
			}
			if inScope && !carried[file.Path()] && leftOut[file.Path()] == "" {
				unexplained = append(unexplained, file.Path())
			}
			return true
		})
		sort.Strings(unexplained)
		for _, path := range unexplained {
			wrong.add("%s is in the SDK and neither carried nor explained", path)
		}
		return fmt.Sprintf("%d files, %d rows equal; left out with a reason: %d files, %d methods of services inside the SDK's process", files, rows, len(leftOut), local), wrong.err()
	})
}

// table lists what a file declares: a name and the facts that the wire depends on.
func table(file *descriptorpb.FileDescriptorProto) map[string]string {
	rows := map[string]string{"file " + file.GetName(): fmt.Sprintf("package %s, syntax %s", file.GetPackage(), file.GetSyntax())}
	for _, each := range file.GetEnumType() {
		enumRows(file.GetPackage(), each, rows)
	}
	for _, each := range file.GetMessageType() {
		messageRows(file.GetPackage(), each, rows)
	}
	for _, service := range file.GetService() {
		for _, method := range service.GetMethod() {
			rows[fmt.Sprintf("method %s.%s.%s", file.GetPackage(), service.GetName(), method.GetName())] = fmt.Sprintf(
				"%s to %s, streams %t %t", method.GetInputType(), method.GetOutputType(),
				method.GetClientStreaming(), method.GetServerStreaming())
		}
	}
	return rows
}

func enumRows(parent string, enum *descriptorpb.EnumDescriptorProto, rows map[string]string) {
	name := parent + "." + enum.GetName()
	rows["enum "+name] = fmt.Sprintf("%d values", len(enum.GetValue()))
	for _, value := range enum.GetValue() {
		rows["value "+name+"."+value.GetName()] = fmt.Sprintf("number %d", value.GetNumber())
	}
}

func messageRows(parent string, message *descriptorpb.DescriptorProto, rows map[string]string) {
	name := parent + "." + message.GetName()
	rows["message "+name] = fmt.Sprintf("map entry %t", message.GetOptions().GetMapEntry())
	for _, field := range message.GetField() {
		oneof := ""
		if field.OneofIndex != nil {
			oneof = message.GetOneofDecl()[field.GetOneofIndex()].GetName()
		}
		rows["field "+name+"."+field.GetName()] = fmt.Sprintf("number %d, %s %s, %s, oneof %q, optional %t, json %s",
			field.GetNumber(), field.GetType(), field.GetTypeName(), field.GetLabel(), oneof, field.GetProto3Optional(), field.GetJsonName())
	}
	for _, each := range message.GetEnumType() {
		enumRows(name, each, rows)
	}
	for _, each := range message.GetNestedType() {
		messageRows(name, each, rows)
	}
}
