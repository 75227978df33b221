package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/conductorone/baton-sdk/pkg/field"
)

// setting is one of ours.
type setting struct{ Name, Variable, Short, Default, Kind, Treatment string }

// What differs from the SDK's flags, each with the reason.
var flagDiffers = map[string]string{
	"log-format default": "the SDK chooses console on a terminal when nothing is said; ours has no default and does the same",
	"provisioning kind":  "ours takes the SDK's true and false, and dry-run besides",
	"workers default":    "ours limits its requests by what JumpCloud takes, so listings need not go one after the other",
}

func flags(ctx context.Context, r *run) {
	r.check("flags: every flag of an SDK connector", func() (string, error) {
		path := filepath.Join(r.work, "settings.jsonl")
		if out, err := exec.CommandContext(ctx, r.producer, "settings", path).CombinedOutput(); err != nil {
			return "", fmt.Errorf("producer: %w\n%s", err, out)
		}
		file, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer file.Close()
		ours := map[string]setting{}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			var s setting
			if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
				return "", err
			}
			ours[s.Name] = s
		}
		wrong := &problems{}
		accepted, ignored, refused := 0, 0, 0
		explained := map[string]bool{}
		for _, theirs := range field.DefaultFields {
			mine, there := ours[theirs.GetName()]
			if !there {
				wrong.add("--%s is unknown to ours", theirs.GetName())
				continue
			}
			switch {
			case strings.HasPrefix(mine.Treatment, "Unsupported"):
				refused++
				// A refusal must come before anything is done, name the flag, and end with Unimplemented.
				argument := "--" + mine.Name
				if mine.Kind != "Switch" {
					argument += "=x"
				}
				command := exec.CommandContext(ctx, r.connector, argument)
				command.Env = []string{"BATON_API_KEY=" + apiKey}
				out, err := command.CombinedOutput()
				if code := exitCode(err); code != int(codes.Unimplemented) || !strings.Contains(string(out), "--"+mine.Name) {
					wrong.add("--%s: exit code %d, %s", mine.Name, code, tail(out))
				}
				continue
			case strings.HasPrefix(mine.Treatment, "Refused"):
				refused++
			case strings.HasPrefix(mine.Treatment, "Ignored"):
				ignored++
			default:
				accepted++
			}
			if want := "BATON_" + strings.ToUpper(strings.ReplaceAll(theirs.GetName(), "-", "_")); mine.Variable != want {
				wrong.add("--%s: variable %s, the SDK's is %s", mine.Name, mine.Variable, want)
			}
			if mine.Short != theirs.GetCLIShortHand() {
				wrong.add("--%s: short form %q, the SDK's is %q", mine.Name, mine.Short, theirs.GetCLIShortHand())
			}
			kind := map[field.Variant]string{field.BoolVariant: "Switch", field.IntVariant: "Integer", field.StringSliceVariant: "List"}[theirs.Variant]
			if mine.Kind == "Mode" {
				explained[mine.Name+" kind"] = true
				if flagDiffers[mine.Name+" kind"] == "" {
					wrong.add("--%s: kind %s without a reason", mine.Name, mine.Kind)
				}
				mine.Kind = "Switch"
			}
			if kind != "" && mine.Kind != kind || kind == "" && (mine.Kind == "Switch" || mine.Kind == "Integer" || mine.Kind == "List") {
				wrong.add("--%s: kind %s, the SDK's is %s", mine.Name, mine.Kind, theirs.Variant)
			}
			plain := func(value string) string {
				if value == "false" || value == "0" || value == "[]" || value == "<nil>" {
					return ""
				}
				return value
			}
			if a, b := plain(mine.Default), plain(fmt.Sprint(theirs.DefaultValue)); a != b {
				explained[mine.Name+" default"] = true
				if flagDiffers[mine.Name+" default"] == "" {
					wrong.add("--%s: default %q, the SDK's is %q", mine.Name, a, b)
				}
			}
		}
		for name := range flagDiffers {
			if !explained[name] {
				wrong.add("%s differs no more; its reason can go", name)
			}
		}
		return fmt.Sprintf("%d flags: %d accepted, %d accepted without effect, %d refused, %d differ with a reason", len(field.DefaultFields), accepted, ignored, refused, len(flagDiffers)), wrong.err()
	})
	r.check("flags: a process ends as the SDK's does", func() (string, error) { return r.exitCodes(ctx) })
}

// What ends with another code than a connector of the SDK, each with the reason.
var exitDiffers = map[string]string{
	"an unknown flag":                  "a mistake of the person is told apart from an unknown failure: InvalidArgument",
	"an unknown command":               "as an unknown flag",
	"a text for a number":              "as an unknown flag",
	"a number out of range":            "as an unknown flag",
	"no credentials":                   "as an unknown flag",
	"an address that is none":          "as an unknown flag; found before the first request",
	"a folder that does not exist":     "as an unknown flag; found before the first request",
	"a log level that is none":         "the SDK takes it for info; ours refuses it before the first request",
	"a type that is none":              "the SDK syncs nothing; ours refuses it before the first request",
	"capabilities without credentials": "the SDK wants every required flag even for this; ours needs nothing to know them",
	"a client id without its secret":   "a daemon ends with 64 (EX_USAGE), so that a service manager can stop restarting it",
}

// Where a connector of the SDK may end with 0 as well: its process and that of its child end each other, and who is first
// decides between the code of the failure and 0.
var exitVaries = []string{"a key that is refused", "a key without permission", "nobody at the address", "tickets"}

// exitCodes starts ours and a connector of the SDK (the judge itself) with the same arguments.
func (r *run) exitCodes(ctx context.Context) (string, error) {
	folder, err := r.folder("exit")
	if err != nil {
		return "", err
	}
	judge, err := os.Executable()
	if err != nil {
		return "", err
	}
	base, stop, err := r.startSimulator(ctx, folder, shapes[1].args...)
	if err != nil {
		return "", err
	}
	defer stop()
	forbidding, stopForbidding, err := r.startSimulator(ctx, folder, append(slices.Clone(shapes[1].args), "--deny", "users")...)
	if err != nil {
		return "", err
	}
	defer stopForbidding()
	file := filepath.Join(folder, "sync.c1z")
	syncing := func(base string, more ...string) []string {
		return append([]string{"--base-url", base, "-f", file}, more...)
	}
	cases := []struct {
		what, key string
		arguments []string
		ours      codes.Code
	}{
		{"a sync that works", apiKey, syncing(base), codes.OK},
		{"a key that is refused", "another-SECRETSEED-key", syncing(base), codes.Unauthenticated},
		{"a key without permission", apiKey, syncing(forbidding), codes.PermissionDenied},
		{"no credentials", "", syncing(base), codes.InvalidArgument},
		{"an address that is none", apiKey, syncing("nowhere"), codes.InvalidArgument},
		{"a log level that is none", apiKey, syncing(base, "--log-level", "loud"), codes.InvalidArgument},
		{"a type that is none", apiKey, syncing(base, "--sync-resource-types", "planet"), codes.InvalidArgument},
		{"a folder that does not exist", apiKey, syncing(base, "--c1z-temp-dir", filepath.Join(folder, "none")), codes.InvalidArgument},
		{"a number out of range", apiKey, syncing(base, "--http-timeout-seconds", "-1"), codes.InvalidArgument},
		{"a text for a number", apiKey, syncing(base, "--workers", "x"), codes.InvalidArgument},
		{"an unknown flag", apiKey, syncing(base, "--nonsense"), codes.InvalidArgument},
		{"an unknown command", apiKey, []string{"surplus"}, codes.InvalidArgument},
		{"a client id without its secret", apiKey, []string{"--client-id", "a@b.test/c"}, 64},
		{"tickets", apiKey, []string{"--list-ticket-schemas", "--base-url", base}, codes.Unimplemented},
		// Tried again for a good minute first; everything else ends meanwhile.
		{"nobody at the address", apiKey, syncing("http://127.0.0.1:9"), codes.Unavailable},
		{"a daemon that does not answer", apiKey, []string{"health-check", "--health-check-port", "9"}, codes.Unavailable},
		{"capabilities", apiKey, []string{"capabilities"}, codes.OK},
		{"capabilities without credentials", "", []string{"capabilities"}, codes.OK},
		{"config", "", []string{"config"}, codes.OK},
		{"help", "", []string{"--help"}, codes.OK},
		{"version", "", []string{"--version"}, codes.OK},
	}
	end := func(program string, arguments, environment []string) (int, []byte) {
		limited, cancel := context.WithTimeout(ctx, 3*time.Minute)
		defer cancel()
		command := exec.CommandContext(limited, program, arguments...)
		command.Env, command.Dir = environment, folder
		out, err := command.CombinedOutput()
		return exitCode(err), out
	}
	connector, err := filepath.Abs(r.connector)
	if err != nil {
		return "", err
	}
	type result struct {
		ours, theirs       int
		ourText, theirText []byte
	}
	results := make([]result, len(cases))
	// Two at a time, and one more that waits.
	turns := make(chan struct{}, 3)
	var running sync.WaitGroup
	for number, each := range slices.Backward(cases) {
		own := filepath.Join(folder, fmt.Sprint(number))
		if err := os.Mkdir(own, 0o755); err != nil {
			return "", err
		}
		environment := []string{"HOME=" + own, "TMPDIR=" + own}
		if each.key != "" {
			environment = append(environment, "BATON_API_KEY="+each.key)
		}
		for index, argument := range each.arguments {
			if argument == file {
				each.arguments[index] = filepath.Join(own, "sync.c1z")
			}
		}
		running.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			var got result
			got.ours, got.ourText = end(connector, each.arguments, environment)
			got.theirs, got.theirText = end(judge, each.arguments, append(slices.Clone(environment), asConnector+"=1"))
			results[number] = got
		})
	}
	running.Wait()
	wrong := &problems{}
	same, explained := 0, 0
	for number, each := range cases {
		got := results[number]
		if got.ours != int(each.ours) {
			wrong.add("%s: exit code %d, wanted %d\n%s", each.what, got.ours, each.ours, tail(got.ourText))
		}
		switch reason := exitDiffers[each.what]; {
		case got.ours == got.theirs && reason != "":
			wrong.add("%s differs no more; its reason can go", each.what)
		case got.ours == got.theirs:
			same++
		case got.theirs == 0 && slices.Contains(exitVaries, each.what):
			same++
		case reason == "":
			wrong.add("%s: exit code %d, the SDK's is %d\n%s", each.what, got.ours, got.theirs, tail(got.theirText))
		default:
			explained++
		}
	}
	return fmt.Sprintf("%d ends: %d the same, %d differ with a reason", len(cases), same, explained), wrong.err()
}

func exitCode(err error) int {
	var ended *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ended):
		return ended.ExitCode()
	default:
		return -1
	}
}
