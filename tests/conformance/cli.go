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
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/conductorone/baton-sdk/pkg/field"
)

// setting is one of ours.
type setting struct{ Name, Variable, Short, Default, Kind, Treatment string }

// What differs from the SDK's flags, each with the reason.
var flagDiffers = map[string]string{
	"log-format default": "the SDK chooses console on a terminal when nothing is said; ours has no default and does the same",
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
		return fmt.Sprintf("%d flags: %d accepted, %d accepted without effect, %d refused, %d defaults differ with a reason", len(field.DefaultFields), accepted, ignored, refused, len(flagDiffers)), wrong.err()
	})
	r.check("flags: exit codes are gRPC codes", func() (string, error) {
		folder, err := r.folder("exit")
		if err != nil {
			return "", err
		}
		base, stop, err := r.startSimulator(ctx, folder, shapes[1].args...)
		if err != nil {
			return "", err
		}
		defer stop()
		wrong := &problems{}
		cases := []struct {
			what, key, base string
			want            codes.Code
		}{
			{"a sync that works", apiKey, base, codes.OK},
			{"a key that is refused", "another-SECRETSEED-key", base, codes.Unauthenticated},
			{"an address that is none", apiKey, "nowhere", codes.InvalidArgument},
		}
		for _, each := range cases {
			command := exec.CommandContext(ctx, r.connector, "--base-url", each.base, "-f", filepath.Join(folder, "sync.c1z"))
			command.Env = []string{"BATON_API_KEY=" + each.key}
			out, err := command.CombinedOutput()
			if code := exitCode(err); code != int(each.want) {
				wrong.add("%s: exit code %d, wanted %d\n%s", each.what, code, each.want, tail(out))
			}
		}
		return fmt.Sprintf("%d ends", len(cases)), wrong.err()
	})
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
