package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	v2 "github.com/conductorone/baton-sdk/pb/c1/connector/v2"
	baton "github.com/conductorone/baton-sdk/pb/c1/connectorapi/baton/v1"
	"github.com/conductorone/baton-sdk/pkg/crypto/providers"
	"github.com/conductorone/baton-sdk/pkg/crypto/providers/jwk"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// task is one task of a session, what must come of it, and what has come.
type task struct {
	name string
	give *baton.Task
	want outcome
	// The first tries of these calls are refused, as by a server that goes down.
	refuseUpload, refuseFinish bool
	// The heartbeat, counted from 1, whose answer cancels the task; 0 is none.
	cancelAt int

	given, done bool
	doneAt      time.Time
	heartbeats  int
	uploads     [][]byte
	chunks      int
	tries       int
	finished    *baton.BatonServiceFinishTaskRequest
	hello       bool
}

// outcome is how a task has to end.
type outcome struct {
	hello     bool
	code      codes.Code
	final     bool
	anyCode   bool
	response  proto.Message
	syncType  string
	unchecked bool
}

// crossing is how long after the end of a task a heartbeat may still be on its way; a daemon that goes on with them sends
// one every second.
const crossing = 3 * time.Second

// session is one life of the daemon, and the judge of every message in it.
type session struct {
	baton.UnimplementedBatonServiceServer
	run   *run
	batch bool
	// How many of the tasks are syncs; they come first.
	syncs int
	door  *door
	stop  context.CancelFunc

	mu       sync.Mutex
	tasks    []*task
	byID     map[string]*task
	messages map[string]int
	wrong    problems
	greeted  bool
	refused  bool
	polls    int
	idle     int
}

func (s *session) complain(format string, arguments ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong.add(format, arguments...)
}

// judge looks at one message that arrived.
func (s *session) judge(ctx context.Context, method string, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%s: %T is no message", method, message)
	}
	s.mu.Lock()
	s.messages[method]++
	s.mu.Unlock()
	if err := s.door.admitted(ctx); err != nil {
		s.complain("%s: %v", method, err)
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if err := inspect(m); err != nil {
		s.complain("%s: %v", method, err)
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return nil
}

func (s *session) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := s.judge(ctx, filepath.Base(info.FullMethod), request); err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

type judgedStream struct {
	grpc.ServerStream
	session *session
	method  string
}

func (j judgedStream) RecvMsg(message any) error {
	if err := j.ServerStream.RecvMsg(message); err != nil {
		return err
	}
	if upload, ok := message.(*baton.BatonServiceUploadAssetRequest); ok && j.session.run.fault == "chunk" && upload.HasData() {
		upload.GetData().SetData(make([]byte, 1<<20+1))
	}
	return j.session.judge(j.Context(), j.method, message)
}

func (s *session) streamed(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(server, judgedStream{stream, s, filepath.Base(info.FullMethod)})
}

// end notes that the daemon is done with a task.
func (t *task) end() { t.done, t.doneAt = true, time.Now() }

// known answers with a task that was handed out and is not done.
func (s *session) known(method, id string) (*task, error) {
	t := s.byID[id]
	switch {
	case t == nil || !t.given:
		s.wrong.add("%s: no such task was given out: %q", method, id)
	case t.done && method == "Heartbeat" && time.Since(t.doneAt) < crossing:
		// It was sent before the end was reported, or beside it: this server takes calls in any order.
	case t.done:
		s.wrong.add("%s: task %s is done already", method, t.name)
	default:
		return t, nil
	}
	return nil, status.Error(codes.NotFound, "no such task")
}

func (s *session) Hello(_ context.Context, request *baton.BatonServiceHelloRequest) (*baton.BatonServiceHelloResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if request.GetTaskId() == "" {
		if s.greeted {
			s.wrong.add("Hello: a second greeting without a task")
		}
		if !s.refused {
			s.refused = true
			return nil, status.Error(codes.Unavailable, "come back soon")
		}
		s.greeted = true
	} else {
		t, err := s.known("Hello", request.GetTaskId())
		if err != nil {
			return nil, err
		}
		if !t.want.hello {
			s.wrong.add("Hello: task %s is not a hello task", t.name)
		}
		t.hello = true
		t.end()
	}
	if request.GetBuildInfo().GetPackage() == "" || request.GetOsInfo().GetOs() == "" {
		s.wrong.add("Hello: build or system is missing: %s", text(request))
	}
	metadata := request.GetConnectorMetadata()
	if metadata.GetDisplayName() == "" || metadata.GetCapabilities() == nil {
		s.wrong.add("Hello: the metadata has no name or no capabilities")
	}
	return &baton.BatonServiceHelloResponse{}, nil
}

func (s *session) next() *task {
	for number, t := range s.tasks {
		// What changes the directory waits until the syncs are done, so that they all read the same one.
		if s.batch && number == s.syncs && slices.ContainsFunc(s.tasks[:number], func(t *task) bool { return !t.done }) {
			break
		}
		if !t.given {
			t.given = true
			return t
		}
	}
	s.idle++
	return nil
}

func (s *session) polled(batch bool) {
	s.polls++
	if !s.greeted {
		s.wrong.add("a poll before Hello was accepted")
	}
	if batch != s.batch {
		s.wrong.add("a poll in the wrong mode")
	}
}

func (s *session) GetTask(_ context.Context, _ *baton.BatonServiceGetTaskRequest) (*baton.BatonServiceGetTaskResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.polled(false)
	give := baton.Task_builder{None: &baton.Task_NoneTask{}}.Build()
	if t := s.next(); t != nil {
		give = t.give
	}
	return baton.BatonServiceGetTaskResponse_builder{Task: give, NextPoll: durationpb.New(50 * time.Millisecond), NextHeartbeat: durationpb.New(time.Second)}.Build(), nil
}

func (s *session) GetTasks(_ context.Context, request *baton.BatonServiceGetTasksRequest) (*baton.BatonServiceGetTasksResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.polled(true)
	for _, id := range request.GetKnownTaskIds() {
		if t := s.byID[id]; t == nil || !t.given {
			s.wrong.add("GetTasks: knows a task that was never given out: %q", id)
		}
	}
	var give []*baton.Task
	for range request.GetPageSize() {
		if t := s.next(); t != nil {
			give = append(give, t.give)
		}
	}
	return baton.BatonServiceGetTasksResponse_builder{Tasks: give, NextPoll: durationpb.New(50 * time.Millisecond), NextHeartbeat: durationpb.New(time.Second)}.Build(), nil
}

func (s *session) Heartbeat(_ context.Context, request *baton.BatonServiceHeartbeatRequest) (*baton.BatonServiceHeartbeatResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.known("Heartbeat", request.GetTaskId())
	if err != nil {
		return nil, err
	}
	t.heartbeats++
	return baton.BatonServiceHeartbeatResponse_builder{
		NextHeartbeat: durationpb.New(time.Second), Cancelled: t.cancelAt > 0 && t.heartbeats >= t.cancelAt,
	}.Build(), nil
}

func (s *session) FinishTask(_ context.Context, request *baton.BatonServiceFinishTaskRequest) (*baton.BatonServiceFinishTaskResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.known("FinishTask", request.GetTaskId())
	if err != nil {
		return nil, err
	}
	if t.refuseFinish {
		t.refuseFinish = false
		return nil, status.Error(codes.Unavailable, "come back soon")
	}
	t.finished = request
	t.end()
	return &baton.BatonServiceFinishTaskResponse{}, nil
}

func (s *session) UploadAsset(stream grpc.ClientStreamingServer[baton.BatonServiceUploadAssetRequest, baton.BatonServiceUploadAssetResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if !first.HasMetadata() {
		s.complain("UploadAsset: the first message is %s", text(first))
		return status.Error(codes.InvalidArgument, "metadata first")
	}
	s.mu.Lock()
	t, err := s.known("UploadAsset", first.GetMetadata().GetTaskId())
	if err == nil {
		t.tries++
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	var file bytes.Buffer
	chunks, short := 0, false
	for {
		message, err := stream.Recv()
		if err != nil {
			// A cancelled task breaks its upload off; any other end before the checksum is a fault.
			if t.cancelAt == 0 {
				s.complain("UploadAsset of %s ends before the checksum: %v", t.name, err)
			}
			return err
		}
		if message.HasData() {
			data := message.GetData().GetData()
			if short {
				s.complain("UploadAsset of %s: a short piece is not the last", t.name)
			}
			short = len(data) != 512<<10
			if len(data) > 512<<10 {
				s.complain("UploadAsset of %s: a piece of %d bytes", t.name, len(data))
			}
			file.Write(data)
			chunks++
			s.mu.Lock()
			refuse := t.refuseUpload
			t.refuseUpload = false
			s.mu.Unlock()
			if refuse {
				return status.Error(codes.Unavailable, "come back soon")
			}
			continue
		}
		if !message.HasEof() {
			s.complain("UploadAsset of %s: metadata in the middle", t.name)
			return status.Error(codes.InvalidArgument, "metadata in the middle")
		}
		sum := sha256.Sum256(file.Bytes())
		if !bytes.Equal(sum[:], message.GetEof().GetSha256Checksum()) {
			s.complain("UploadAsset of %s: the checksum is wrong", t.name)
			return status.Error(codes.InvalidArgument, "checksum")
		}
		break
	}
	if extra, err := stream.Recv(); err == nil {
		s.complain("UploadAsset of %s: a message after the checksum: %s", t.name, text(extra))
	}
	s.mu.Lock()
	t.uploads = append(t.uploads, file.Bytes())
	t.chunks += chunks
	s.mu.Unlock()
	return stream.SendAndClose(&baton.BatonServiceUploadAssetResponse{})
}

// finished says whether every task is done, and a poll has come after the last.
func (s *session) finished() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tasks {
		if !t.done {
			return false
		}
	}
	return s.idle > 1
}

// verdicts compares the end of every task with what it has to be.
func (s *session) verdicts(ctx context.Context, folder string) {
	for _, t := range s.tasks {
		request := t.finished
		switch {
		case t.want.hello:
			if !t.hello || request != nil {
				s.wrong.add("%s: answered by Hello %t, and by FinishTask %t", t.name, t.hello, request != nil)
			}
			continue
		case request == nil:
			s.wrong.add("%s: no end was reported", t.name)
			continue
		case t.want.code != codes.OK || t.want.anyCode:
			code := codes.Code(request.GetStatus().GetCode())
			if !request.HasError() || code == codes.OK || code != t.want.code && !t.want.anyCode || request.GetError().GetNonRetryable() != t.want.final {
				s.wrong.add("%s: wanted an error %s, final %t; got %s", t.name, t.want.code, t.want.final, text(request))
			}
			if request.GetStatus().GetMessage() == "" {
				s.wrong.add("%s: an error without a message", t.name)
			}
		default:
			if !request.HasSuccess() || request.GetStatus().GetCode() != 0 {
				s.wrong.add("%s: wanted success, got %s", t.name, text(request))
				continue
			}
			response := request.GetSuccess().GetResponse()
			switch {
			case t.want.response == nil && response != nil:
				s.wrong.add("%s: a response that nobody expects: %s", t.name, text(response))
			case t.want.response != nil && !response.MessageIs(t.want.response):
				s.wrong.add("%s: wanted a response %T, got %s", t.name, t.want.response, text(response))
			case response != nil:
				// The SDK's own validation, which sees nothing inside an Any by itself.
				inner, err := response.UnmarshalNew()
				if judged, ok := inner.(interface{ ValidateAll() error }); err == nil && ok {
					err = judged.ValidateAll()
				}
				if err != nil {
					s.wrong.add("%s: the response is not valid: %v", t.name, err)
				}
			}
		}
		if t.want.syncType == "" {
			if len(t.uploads) > 0 {
				s.wrong.add("%s: uploaded a file", t.name)
			}
			continue
		}
		if len(t.uploads) != 1 || t.heartbeats == 0 {
			s.wrong.add("%s: %d uploads, %d heartbeats", t.name, len(t.uploads), t.heartbeats)
			continue
		}
		path := filepath.Join(folder, strings.ReplaceAll(t.name, " ", "-")+".c1z")
		if err := os.WriteFile(path, t.uploads[0], 0o600); err != nil {
			s.wrong.add("%v", err)
			continue
		}
		c, err := read(ctx, path)
		switch {
		case err != nil:
			s.wrong.add("%s: the SDK cannot read what was uploaded: %v", t.name, err)
			continue
		case string(c.sync.Type) != t.want.syncType:
			s.wrong.add("%s: sync type %s, wanted %s", t.name, c.sync.Type, t.want.syncType)
		}
		switch t.name {
		case "resources only":
			if len(c.resources) == 0 || len(c.entitlements)+len(c.grants) != 0 {
				s.wrong.add("%s: %s", t.name, c)
			}
		case "no grants":
			if len(c.entitlements) == 0 || len(c.grants) != 0 {
				s.wrong.add("%s: %s", t.name, c)
			}
		case "two types":
			for name, each := range c.resources {
				if kind := each.GetId().GetResourceType(); kind != "user" && kind != "group" {
					s.wrong.add("%s: resource %s", t.name, shown(name))
				}
			}
		case "targeted":
			if len(c.resources) != 1 {
				s.wrong.add("%s: %s", t.name, c)
			}
		case "full", "unexpanded":
			if len(c.grants) == 0 {
				s.wrong.add("%s: no grants", t.name)
			}
			s.run.uploaded[t.name] = path
		}
	}
}

func fullSync(name, syncType string, options *baton.Task_SyncFullTask) *task {
	return &task{name: name, give: baton.Task_builder{SyncFull: options}.Build(), want: outcome{syncType: syncType}}
}

func refused(name string, code codes.Code, b baton.Task_builder) *task {
	return &task{name: name, give: b.Build(), want: outcome{code: code, final: true}}
}

func later(t *task) *task { t.want.final = false; return t }

func answered(name string, response proto.Message, b baton.Task_builder) *task {
	return &task{name: name, give: b.Build(), want: outcome{response: response}}
}

// changesOf is every kind of task that changes the directory: refused while that is off, and done where it is on.
func changesOf(ctx context.Context, t *truth) ([]*task, error) {
	nobody := resourceOf("user", "65a000000000000000000001")
	nothing := resourceOf("group", "65a000000000000000000002")
	memberOf := func(group *v2.Resource) *v2.Entitlement {
		id := "group:" + group.GetId().GetResource()
		return v2.Entitlement_builder{Id: id, Resource: group, Slug: "member", Purpose: v2.Entitlement_PURPOSE_VALUE_ASSIGNMENT}.Build()
	}
	none := memberOf(nothing)
	grant := func(e *v2.Entitlement, p *v2.Resource) baton.Task_builder {
		return baton.Task_builder{Grant: baton.Task_GrantTask_builder{Entitlement: e, Principal: p}.Build()}
	}
	revoke := func(g *v2.Grant) baton.Task_builder {
		return baton.Task_builder{Revoke: baton.Task_RevokeTask_builder{Grant: g}.Build()}
	}
	remove := baton.Task_builder{DeleteResource: baton.Task_DeleteResourceTask_builder{ResourceId: nothing.GetId()}.Build()}
	rotate := func(id *v2.ResourceId, options *v2.CredentialOptions, keys ...*v2.EncryptionConfig) baton.Task_builder {
		return baton.Task_builder{RotateCredentials: baton.Task_RotateCredentialsTask_builder{ResourceId: id, CredentialOptions: options, EncryptionConfigs: keys}.Build()}
	}
	issue := baton.Task_builder{IssueCredential: baton.Task_IssueCredentialTask_builder{IdentityId: nobody.GetId()}.Build()}
	invoke := func(name string, args map[string]any) baton.Task_builder {
		packed, _ := structpb.NewStruct(args)
		return baton.Task_builder{ActionInvoke: baton.Task_ActionInvokeTask_builder{Name: name, Args: packed}.Build()}
	}
	if t == nil {
		off := codes.FailedPrecondition
		return []*task{
			refused("grant", off, grant(none, nobody)),
			refused("revoke", off, revoke(grantOf(none, nobody))),
			refused("create account", off, baton.Task_builder{CreateAccount: baton.Task_CreateAccountTask_builder{AccountInfo: &v2.AccountInfo{}}.Build()}),
			refused("create resource", off, baton.Task_builder{CreateResource: baton.Task_CreateResourceTask_builder{Resource: nothing}.Build()}),
			refused("delete resource", off, remove),
			refused("rotate credentials", off, rotate(nobody.GetId(), nil)),
			refused("issue credential", off, issue),
			refused("invoke action", off, invoke("none", nil)),
		}, nil
	}
	var crew string
	for _, id := range slices.Sorted(maps.Keys(t.Groups)) {
		if !t.Groups[id].Dynamic && len(t.Groups[id].Members) > 0 {
			crew = id
			break
		}
	}
	var outsiders []string
	for _, id := range slices.Sorted(maps.Keys(t.Users)) {
		var user struct {
			Status string `json:"status"`
		}
		if err := json.Unmarshal(t.Users[id], &user); err != nil {
			return nil, err
		}
		if user.Status == "active" && !slices.Contains(t.Groups[crew].Members, id) {
			outsiders = append(outsiders, id)
		}
	}
	if crew == "" || len(outsiders) < 3 {
		return nil, fmt.Errorf("the tenant has nobody to change: group %q, %d users", crew, len(outsiders))
	}
	provider, err := providers.GetEncryptionProvider(jwk.EncryptionProviderJwk)
	if err != nil {
		return nil, err
	}
	key, _, err := provider.GenerateKey(ctx)
	if err != nil {
		return nil, err
	}
	random := v2.CredentialOptions_builder{RandomPassword: v2.CredentialOptions_RandomPassword_builder{Length: 20}.Build()}.Build()
	member := memberOf(resourceOf("group", crew))
	held := resourceOf("user", t.Groups[crew].Members[0])
	hire := v2.AccountInfo_builder{
		Emails: []*v2.AccountInfo_Email{v2.AccountInfo_Email_builder{Address: "conformance.hire@example.com", IsPrimary: true}.Build()},
		Login:  "conformance.hire",
	}.Build()
	return []*task{
		answered("grant", &v2.GrantManagerServiceGrantResponse{}, grant(member, resourceOf("user", outsiders[0]))),
		refused("grant of nothing", codes.NotFound, grant(none, nobody)),
		answered("revoke", &v2.GrantManagerServiceRevokeResponse{}, revoke(grantOf(member, held))),
		answered("create account", &v2.CreateAccountResponse{}, baton.Task_builder{CreateAccount: baton.Task_CreateAccountTask_builder{
			AccountInfo: hire, CredentialOptions: random, EncryptionConfigs: []*v2.EncryptionConfig{key},
		}.Build()}),
		refused("create nobody", codes.InvalidArgument, baton.Task_builder{CreateAccount: baton.Task_CreateAccountTask_builder{AccountInfo: &v2.AccountInfo{}}.Build()}),
		answered("create resource", &v2.CreateResourceResponse{}, baton.Task_builder{CreateResource: baton.Task_CreateResourceTask_builder{
			Resource: v2.Resource_builder{Id: v2.ResourceId_builder{ResourceType: "group"}.Build(), DisplayName: "Conformance crew"}.Build(),
		}.Build()}),
		answered("delete resource", &v2.DeleteResourceResponse{}, remove),
		answered("rotate credentials", &v2.RotateCredentialResponse{}, rotate(resourceOf("user", outsiders[1]).GetId(), random, key)),
		refused("rotate for nobody to read", codes.InvalidArgument, rotate(nobody.GetId(), random)),
		refused("issue credential", codes.Unimplemented, issue),
		answered("invoke action", &v2.InvokeActionResponse{}, invoke("suspend_user", map[string]any{"user_id": outsiders[2]})),
		later(refused("invoke no action", codes.NotFound, invoke("none", nil))),
	}, nil
}

// refusals is every other kind of task that syncs nothing, with the end that it has to have.
func refusals() []*task {
	unknown := baton.Task_builder{}.Build()
	unknown.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 199, protowire.BytesType), []byte{}))
	return []*task{
		{name: "hello", give: baton.Task_builder{Hello: &baton.Task_HelloTask{}}.Build(), want: outcome{hello: true}},
		refused("event feed", codes.Unimplemented, baton.Task_builder{EventFeed: &baton.Task_EventFeedTask{}}),
		refused("create ticket", codes.Unimplemented, baton.Task_builder{CreateTicketTask: &baton.Task_CreateTicketTask{}}),
		refused("ticket schemas", codes.Unimplemented, baton.Task_builder{ListTicketSchemas: &baton.Task_ListTicketSchemasTask{}}),
		refused("get ticket", codes.Unimplemented, baton.Task_builder{GetTicket: baton.Task_GetTicketTask_builder{TicketId: "1"}.Build()}),
		refused("create tickets", codes.Unimplemented, baton.Task_builder{BulkCreateTickets: &baton.Task_BulkCreateTicketsTask{}}),
		refused("get tickets", codes.Unimplemented, baton.Task_builder{BulkGetTickets: &baton.Task_BulkGetTicketsTask{}}),
		refused("create sync diff", codes.Unimplemented, baton.Task_builder{CreateSyncDiff: &baton.Task_CreateSyncDiffTask{}}),
		refused("compact syncs", codes.Unimplemented, baton.Task_builder{CompactSyncs: &baton.Task_CompactSyncs{}}),
		answered("action schemas", &v2.ListActionSchemasResponse{}, baton.Task_builder{ActionListSchemas: &baton.Task_ActionListSchemasTask{}}),
		later(refused("action schema", codes.NotFound, baton.Task_builder{ActionGetSchema: baton.Task_ActionGetSchemaTask_builder{Name: "none"}.Build()})),
		later(refused("action schema without name", codes.InvalidArgument, baton.Task_builder{ActionGetSchema: &baton.Task_ActionGetSchemaTask{}})),
		later(refused("action status", codes.NotFound, baton.Task_builder{ActionStatus: baton.Task_ActionStatusTask_builder{Id: "none"}.Build()})),
		answered("event feeds", &v2.ListEventFeedsResponse{}, baton.Task_builder{ListEventFeeds: &baton.Task_ListEventFeedsTask{}}),
		refused("events", codes.NotFound, baton.Task_builder{ListEvents: baton.Task_ListEventsTask_builder{EventFeedId: "none", PageSize: 10}.Build()}),
		refused("a type of the future", codes.Unimplemented, baton.Task_builder{}),
		{name: "a type out of the future's contract", give: unknown, want: outcome{code: codes.Unimplemented, final: true}},
	}
}

// control runs the real daemon against a server made of the SDK's generated code.
func control(ctx context.Context, r *run) {
	slow := []*task{
		fullSync("full", "full", &baton.Task_SyncFullTask{}),
		fullSync("resources only", "resources_only", baton.Task_SyncFullTask_builder{SkipEntitlementsAndGrants: true}.Build()),
		fullSync("no grants", "full", baton.Task_SyncFullTask_builder{SkipGrants: true, StorageEngine: "pebble"}.Build()),
		fullSync("two types", "full", baton.Task_SyncFullTask_builder{SyncResourceTypeIds: []string{"user", "group"}, StorageEngine: "sqlite"}.Build()),
	}
	filter := fullSync("unknown type", "", baton.Task_SyncFullTask_builder{SyncResourceTypeIds: []string{"nothing"}}.Build())
	filter.want = outcome{anyCode: true}
	for number, at := range []int{1, 2} {
		cancelled := fullSync(fmt.Sprintf("cancelled %d", number+1), "", &baton.Task_SyncFullTask{})
		cancelled.want = outcome{code: codes.Canceled}
		cancelled.cancelAt = at
		slow = append(slow, cancelled)
	}
	slow = append(slow, filter)
	slow[0].refuseUpload, slow[1].refuseFinish = true, true
	awkward := append(slices.Clone(shapes[2].args), "--latency", "120ms")
	if r.quick {
		slow = slow[:1]
		awkward = shapes[1].args
	}
	r.session(ctx, "control plane: one task a poll", awkward, slow, false)
	if r.quick {
		return
	}
	r.session(ctx, "control plane: batches of tasks", shapes[3].args, []*task{
		fullSync("full", "full", &baton.Task_SyncFullTask{}),
		fullSync("unexpanded", "full", baton.Task_SyncFullTask_builder{SkipExpandGrants: true}.Build()),
	}, true)
}

func (r *run) session(ctx context.Context, name string, tenant []string, syncs []*task, batch bool) {
	r.check(name, func() (string, error) {
		folder, err := r.folder(strings.ReplaceAll(strings.ReplaceAll(name, " ", "-"), ":", ""))
		if err != nil {
			return "", err
		}
		directory, stopDirectory, err := r.startSimulator(ctx, folder, tenant...)
		if err != nil {
			return "", err
		}
		defer stopDirectory()
		if !r.quick && !batch {
			t, err := truthOf(directory)
			if err != nil {
				return "", err
			}
			for id := range t.Groups {
				syncs = append(syncs, fullSync("targeted", "partial", baton.Task_SyncFullTask_builder{
					TargetedSyncResources: []*v2.Resource{v2.Resource_builder{Id: v2.ResourceId_builder{ResourceType: "group", Resource: id}.Build()}.Build()},
				}.Build()))
				break
			}
		}
		var directoryTruth *truth
		if batch {
			if directoryTruth, err = truthOf(directory); err != nil {
				return "", err
			}
		}
		changes, err := changesOf(ctx, directoryTruth)
		if err != nil {
			return "", err
		}
		s := &session{run: r, batch: batch, syncs: len(syncs), tasks: slices.Concat(syncs, changes, refusals()), byID: map[string]*task{}, messages: map[string]int{}}
		for number, t := range s.tasks {
			id := fmt.Sprintf("conformance%016d", number)
			t.give.SetId(id)
			t.give.SetStatus(baton.Task_STATUS_PENDING)
			s.byID[id] = t
		}
		if s.door, err = open(folder, s, batch); err != nil {
			return "", err
		}
		defer s.door.close()
		if err := r.daemon(ctx, s, folder, directory); err != nil {
			if s.wrong.count > 0 {
				err = fmt.Errorf("%w\n%w", s.wrong.err(), err)
			}
			return "", err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.verdicts(ctx, folder)
		for _, problem := range s.door.wrong() {
			s.wrong.add("%s", problem)
		}
		total, chunks := 0, 0
		for _, count := range s.messages {
			total += count
		}
		for _, t := range s.tasks {
			chunks += t.chunks
		}
		if batch && chunks < 4 {
			s.wrong.add("the uploads had %d pieces; larger files are wanted", chunks)
		}
		return fmt.Sprintf("%d messages validated, %d tasks ended, %d pieces uploaded, %d assertions verified", total, len(s.tasks), chunks, s.door.tokens()), s.wrong.err()
	})
}

// daemon runs the real program until every task is done, and ends it with SIGTERM.
func (r *run) daemon(ctx context.Context, s *session, folder, directory string) error {
	file := func(name, content string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			s.complain("%v", err)
		}
		return path
	}
	work, err := os.MkdirTemp(folder, "work")
	if err != nil {
		return err
	}
	arguments := []string{
		"--client-id", s.door.clientID,
		"--client-secret-file", file("client-secret", s.door.secret),
		"--ca-file", file("ca.pem", s.door.authority),
		"--api-key-file", file("api-key", apiKey),
		"--base-url", directory, "--work-dir", work, "--log-format", "json",
	}
	if s.batch {
		arguments = append(arguments, "--provisioning")
	}
	command := exec.CommandContext(ctx, r.connector, arguments...)
	command.Env = []string{"BATON_HOST_ID=conformance-host"}
	if s.batch {
		command.Env = append(command.Env, "BATON_GET_TASKS=true")
	}
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	limit := time.After(4 * time.Minute)
	if r.fault != "" {
		limit = time.After(15 * time.Second)
	}
	for !s.finished() {
		select {
		case err := <-ended:
			return fmt.Errorf("the daemon ended: %v\n%s", err, tail(out.Bytes()))
		case <-limit:
			command.Process.Kill()
			<-ended
			var open []string
			s.mu.Lock()
			for _, t := range s.tasks {
				if !t.done {
					open = append(open, t.name)
				}
			}
			s.mu.Unlock()
			return fmt.Errorf("not done in time: %v\n%s", open, tail(out.Bytes()))
		case <-time.After(50 * time.Millisecond):
		}
	}
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("the daemon ended with %w after SIGTERM\n%s", err, tail(out.Bytes()))
		}
	case <-time.After(time.Minute):
		command.Process.Kill()
		return fmt.Errorf("the daemon does not end on SIGTERM")
	}
	left, err := os.ReadDir(work)
	// What is remembered of changes and syncs stays.
	left = slices.DeleteFunc(left, func(entry os.DirEntry) bool { return entry.Name() == "baton-jumpcloud-state" })
	if err != nil || len(left) > 0 {
		return fmt.Errorf("the work folder is not empty: %v %v", left, err)
	}
	if bytes.Contains(out.Bytes(), []byte("SECRETSEED")) || bytes.Contains(out.Bytes(), []byte(s.door.secret)) {
		return fmt.Errorf("a secret is in the log")
	}
	return nil
}
