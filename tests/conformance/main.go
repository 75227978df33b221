// Judge decides by the official SDK's own code whether our files, our messages and our descriptors are what the SDK
// expects. It prints one line a check and ends with 1 when a check failed.
//
//	judge -bin DIR -examples DIR            all checks
//	judge -bin DIR -examples DIR -selftest  breaks one thing after the other and wants the right check to fail
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A run of the checks. fault names the one thing that is broken on purpose; empty means nothing is.
type run struct {
	connector, simulator, producer string
	work                           string
	fault                          string
	seeds                          int
	quick                          bool
	failed                         []string
	passed                         int
	quiet                          bool
	// Files that the daemon uploaded, by what they are.
	uploaded map[string]string
}

// check runs one check; its text says what was compared and how much of it.
func (r *run) check(name string, body func() (string, error)) bool {
	began := time.Now()
	text, err := guarded(body)
	took := time.Since(began).Round(100 * time.Millisecond)
	if err != nil {
		r.failed = append(r.failed, name+": "+err.Error())
		if !r.quiet {
			fmt.Printf("WRONG %-44s %s\n", name, strings.ReplaceAll(err.Error(), "\n", "\n      "))
		}
		return false
	}
	r.passed++
	if !r.quiet {
		fmt.Printf("ok    %-44s %s (%s)\n", name, text, took)
	}
	return true
}

func guarded(body func() (string, error)) (text string, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("panic: %v", panicked)
		}
	}()
	return body()
}

// problems gathers differences and shows the first few.
type problems struct {
	first []string
	count int
}

func (p *problems) add(format string, arguments ...any) {
	p.count++
	if len(p.first) < 5 {
		p.first = append(p.first, fmt.Sprintf(format, arguments...))
	}
}

func (p *problems) err() error {
	if p.count == 0 {
		return nil
	}
	return fmt.Errorf("%d differences\n%s", p.count, strings.Join(p.first, "\n"))
}

func (r *run) folder(name string) (string, error) {
	path := filepath.Join(r.work, name)
	if err := os.RemoveAll(path); err != nil {
		return "", err
	}
	return path, os.MkdirAll(path, 0o755)
}

func main() {
	if os.Getenv(asConnector) != "" {
		runAsConnector()
	}
	bin := flag.String("bin", "target/debug", "folder of baton-jumpcloud and baton-sim")
	examples := flag.String("examples", "target/debug/examples", "folder of producer")
	only := flag.String("only", "", "descriptors, control, tenants, graphs, encryption or flags")
	seeds := flag.Int("seeds", 60, "how many random graphs")
	keep := flag.String("work", "", "folder for the files, kept; a temporary one otherwise")
	selftest := flag.Bool("selftest", false, "break one thing after the other and want the right check to fail")
	flag.Parse()

	work := *keep
	if work == "" {
		made, err := os.MkdirTemp("", "conformance-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		work = made
	}
	r := &run{
		connector: filepath.Join(*bin, "baton-jumpcloud"),
		simulator: filepath.Join(*bin, "baton-sim"),
		producer:  filepath.Join(*examples, "producer"),
		work:      work,
		seeds:     *seeds,
		uploaded:  map[string]string{},
	}
	// The storage engine of the SDK tells through this one that it opened a file.
	log.SetOutput(io.Discard)
	// The SDK makes its temporary files here.
	os.Setenv("TMPDIR", work)
	for _, path := range []string{r.connector, r.simulator, r.producer} {
		if _, err := os.Stat(path); err != nil {
			fmt.Fprintln(os.Stderr, "conformance:", err)
			os.Exit(2)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	var err error
	if *selftest {
		err = faults(ctx, *r)
	} else {
		err = everything(ctx, r, *only)
	}
	cancel()
	if *keep == "" {
		os.RemoveAll(work)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance failed:", err)
		os.Exit(1)
	}
}

func everything(ctx context.Context, r *run, only string) error {
	for _, part := range []struct {
		name string
		run  func(context.Context, *run)
	}{{"descriptors", descriptors}, {"control", control}, {"tenants", tenants}, {"graphs", graphs}, {"encryption", encryption}, {"flags", flags}} {
		if only == "" || only == part.name {
			part.run(ctx, r)
		}
	}
	if len(r.failed) > 0 {
		return fmt.Errorf("%d of %d checks\n%s", len(r.failed), len(r.failed)+r.passed, strings.Join(r.failed, "\n"))
	}
	fmt.Printf("conformance passed: %d checks\n", r.passed)
	return nil
}

// faults breaks one thing at a time. The named check has to fail, for the named reason, and without the fault the same
// part has to pass.
func faults(ctx context.Context, base run) error {
	var wrong []error
	for _, each := range []struct {
		fault, what, check, reason string
		part                       func(context.Context, *run)
	}{
		{"", "nothing (descriptors)", "", "", descriptors},
		{"field-number", "a field number", "descriptors", "number", descriptors},
		{"", "nothing (control plane)", "", "", control},
		{"chunk", "a chunk over the limit", "control plane", "value length must be between 1 and 1048576", control},
		{"", "nothing (files)", "", "", tenants},
		{"dropped-grant", "a grant dropped from the file", "rows", "grant is missing", tenants},
		{"index", "a wrong index in the schema", "schema", "idx_grants_entitlement_id_principal_id_v1", tenants},
		{"", "nothing (expansion)", "", "", graphs},
		{"source", "a wrong expansion source", "expansion", "sources", graphs},
		{"", "nothing (encryption)", "", "", encryption},
		{"sealed-byte", "a byte of an encrypted secret", "the SDK opens what ours sealed", "do not open", encryption},
		{"key-id", "a wrong key id", "the SDK opens what ours sealed", "key ids", encryption},
	} {
		r := base
		r.fault, r.quick, r.quiet, r.seeds = each.fault, true, true, 6
		r.uploaded = map[string]string{}
		each.part(ctx, &r)
		switch {
		case each.fault == "" && len(r.failed) == 0:
			fmt.Printf("ok    %-34s all %d checks pass\n", each.what, r.passed)
		case each.fault == "":
			wrong = append(wrong, errors.New(strings.Join(r.failed, "\n")))
			fmt.Printf("WRONG %-34s %s\n", each.what, strings.Join(r.failed, "\n"))
		default:
			found := ""
			for _, text := range r.failed {
				if strings.Contains(text, each.check) && strings.Contains(text, each.reason) {
					found = text
				}
			}
			if found == "" {
				wrong = append(wrong, fmt.Errorf("%s was not found", each.what))
				fmt.Printf("WRONG %-34s not found; failed: %q\n", each.what, r.failed)
			} else {
				fmt.Printf("ok    %-34s found: %s\n", each.what, strings.SplitN(found, "\n", 2)[0])
			}
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("self-test: %w", errors.Join(wrong...))
	}
	fmt.Println("self-test passed: every fault was found")
	return nil
}
