package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	v2 "github.com/conductorone/baton-sdk/pb/c1/connector/v2"
	"github.com/conductorone/baton-sdk/pkg/dotc1z"
	"github.com/conductorone/baton-sdk/pkg/dotc1z/c1zstore"
	"github.com/conductorone/baton-sdk/pkg/synccompactor"
)

const apiKey = "conformance-SECRETSEED-key"

// The application that stands for JumpCloud itself; administrators hold it.
const ownApp = "2UjI0eIRo77RGFwi2GKpAa0Til0"

type tenant struct {
	name string
	args []string
}

var shapes = []tenant{
	{"empty", []string{"--users", "0", "--groups", "0", "--members-per-group", "0", "--apps", "0", "--groups-per-app", "0", "--users-per-app", "0", "--admins", "1"}},
	{"tiny", []string{"--users", "3", "--groups", "1", "--members-per-group", "2", "--apps", "1", "--groups-per-app", "1", "--users-per-app", "1", "--admins", "1"}},
	{"awkward", []string{"--users", "120", "--groups", "14", "--members-per-group", "9", "--apps", "6", "--groups-per-app", "3", "--users-per-app", "4", "--admins", "9", "--dangling-edges", "25", "--shuffle", "--hide-totals", "--seed", "11"}},
	{"5000 users", []string{"--users", "5000", "--groups", "200", "--members-per-group", "60", "--apps", "80", "--groups-per-app", "4", "--users-per-app", "5", "--admins", "15"}},
	// Made by the producer: groups in groups, also in a ring, under names in many scripts.
	{"nested", nil},
}

// truth is the part of the simulator's truth that decides which rows there are.
type truth struct {
	Users  map[string]json.RawMessage `json:"users"`
	Admins map[string]struct {
		Roles []string `json:"roles"`
	} `json:"admins"`
	Groups map[string]struct {
		Members []string `json:"members"`
		Nested  []string `json:"nested"`
		Dynamic bool     `json:"dynamic"`
	} `json:"groups"`
	Apps map[string]struct {
		Groups    []string `json:"groups"`
		Users     []string `json:"users"`
		Effective []string `json:"effective"`
	} `json:"apps"`
	Roles []string `json:"roles"`
}

// below are the groups in a group, however deep.
func (t *truth) below(group string, seen map[string]bool) map[string]bool {
	for _, nested := range t.Groups[group].Nested {
		if !seen[nested] {
			seen[nested] = true
			t.below(nested, seen)
		}
	}
	return seen
}

// members are the users of a group and of the groups below it. As in the SDK, groups of a ring give each other nothing.
func (t *truth) members(group string) []string {
	all := slices.Clone(t.Groups[group].Members)
	for nested := range t.below(group, map[string]bool{}) {
		if !t.below(nested, map[string]bool{})[group] {
			all = append(all, t.Groups[nested].Members...)
		}
	}
	return all
}

// startSimulator starts a JumpCloud simulator and answers with its address. Without arguments it is the producer's.
func (r *run) startSimulator(ctx context.Context, folder string, args ...string) (string, func(), error) {
	port := filepath.Join(folder, "port")
	os.Remove(port)
	command := exec.CommandContext(ctx, r.simulator, append([]string{"jumpcloud", "--listen", "127.0.0.1:0", "--port-file", port, "--api-key", apiKey}, args...)...)
	if args == nil {
		command = exec.CommandContext(ctx, r.producer, "simulator", port, apiKey)
	}
	// The producer's simulator ends with its input.
	if _, err := command.StdinPipe(); err != nil {
		return "", nil, err
	}
	log, err := os.Create(filepath.Join(folder, "simulator.log"))
	if err != nil {
		return "", nil, err
	}
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		return "", nil, err
	}
	stop := func() {
		command.Process.Signal(syscall.SIGTERM)
		command.Wait()
		log.Close()
	}
	for range 600 {
		if address, err := os.ReadFile(port); err == nil && len(address) > 0 {
			return "http://" + strings.TrimSpace(string(address)), stop, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	return "", nil, fmt.Errorf("the simulator does not start")
}

func truthOf(base string) (*truth, error) {
	answer, err := http.Get(base + "/_sim/truth")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	t := &truth{}
	return t, json.NewDecoder(answer.Body).Decode(t)
}

// oneShot writes a file with the connector's one-shot mode.
func (r *run) oneShot(ctx context.Context, folder, base, file string) error {
	secret := filepath.Join(folder, "api-key")
	if err := os.WriteFile(secret, []byte(apiKey), 0o600); err != nil {
		return err
	}
	command := exec.CommandContext(ctx, r.connector, "--api-key-file", secret, "--base-url", base, "-f", file, "--log-format", "json", "--work-dir", folder)
	command.Env = []string{}
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("baton-jumpcloud: %w\n%s", err, tail(out))
	}
	return nil
}

func tail(out []byte) string {
	if len(out) > 2000 {
		out = out[len(out)-2000:]
	}
	return string(out)
}

func tenants(ctx context.Context, r *run) {
	files := map[string]string{}
	contents := map[string]*content{}
	for _, shape := range shapes {
		if r.quick && shape.name != "awkward" {
			continue
		}
		folder, err := r.folder("tenant-" + strings.ReplaceAll(shape.name, " ", "-"))
		if err != nil {
			r.check("tenant "+shape.name, func() (string, error) { return "", err })
			continue
		}
		file := filepath.Join(folder, "sync.c1z")
		var want *truth
		var got *content
		if !r.check(shape.name+": rows are the truth", func() (string, error) {
			base, stop, err := r.startSimulator(ctx, folder, shape.args...)
			if err != nil {
				return "", err
			}
			defer stop()
			if err := r.oneShot(ctx, folder, base, file); err != nil {
				return "", err
			}
			if want, err = truthOf(base); err != nil {
				return "", err
			}
			if err := r.breakFile(file); err != nil {
				return "", err
			}
			if got, err = read(ctx, file); err != nil {
				return "", err
			}
			return got.String(), againstTruth(got, want)
		}) && got == nil {
			continue
		}
		files[shape.name], contents[shape.name] = file, got
		r.check(shape.name+": reader services agree", func() (string, error) {
			answers, err := services(ctx, file, got)
			return fmt.Sprintf("%d answers", answers), err
		})
		r.check(shape.name+": schema is the SDK's", func() (string, error) {
			return r.sameSchema(ctx, file)
		})
		r.check(shape.name+": columns are the SDK's", func() (string, error) {
			theirs := filepath.Join(folder, "sdk.c1z")
			if err := rewrite(ctx, got, theirs, c1zstore.EngineSQLite); err != nil {
				return "", fmt.Errorf("writing with the SDK: %w", err)
			}
			rows, err := sameColumns(file, theirs, whole[*v2.Grant])
			return fmt.Sprintf("%d rows", rows), err
		})
		r.check(shape.name+": conversion to v3 keeps all", func() (string, error) {
			converted, err := convert(ctx, file, filepath.Join(folder, "converted.c1z"))
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("%d rows", converted.rows()), sameRows(got, converted)
		})
	}
	if r.quick {
		return
	}
	ours, other := files["awkward"], files["tiny"]
	if ours == "" || other == "" {
		return
	}
	folder, err := r.folder("compaction")
	if err != nil {
		r.check("compaction", func() (string, error) { return "", err })
		return
	}
	// A later file of the same tenant in which one grant changed hands.
	r.check("compaction: two of our files", func() (string, error) {
		return compaction(ctx, folder, "two", []string{ours, ours}, contents["awkward"])
	})
	r.check("compaction: two tenants of ours", func() (string, error) {
		return compaction(ctx, folder, "tenants", []string{other, ours}, union(contents["tiny"], contents["awkward"]))
	})
	for _, engine := range []c1zstore.Engine{c1zstore.EngineSQLite, c1zstore.EnginePebble} {
		theirs := filepath.Join(folder, "sdk-"+string(engine)+".c1z")
		for _, order := range []string{"ours first", "ours last"} {
			r.check(fmt.Sprintf("compaction: with the SDK's %s, %s", engine, order), func() (string, error) {
				if _, err := os.Stat(theirs); err != nil {
					if err := rewrite(ctx, contents["tiny"], theirs, engine); err != nil {
						return "", err
					}
				}
				inputs := []string{ours, theirs}
				if order == "ours last" {
					inputs = []string{theirs, ours}
				}
				return compaction(ctx, folder, string(engine)+" "+order, inputs, union(contents["tiny"], contents["awkward"]))
			})
		}
	}
}

// breakFile applies the fault of a self-test to a file.
func (r *run) breakFile(file string) error {
	switch r.fault {
	case "dropped-grant":
		return tamper(file, func(db *sql.DB) error {
			_, err := db.Exec("delete from v1_grants where id = (select min(id) from v1_grants)")
			return err
		})
	case "index":
		return tamper(file, func(db *sql.DB) error {
			const name = "idx_grants_entitlement_id_principal_id_v1"
			var found int
			if err := db.QueryRow("select count(*) from sqlite_master where name = ?", name).Scan(&found); err != nil {
				return err
			}
			if found != 1 {
				return fmt.Errorf("there is no index %s to break", name)
			}
			_, err := db.Exec("drop index " + name + "; create index " + name + " on v1_grants (principal_resource_id)")
			return err
		})
	}
	return nil
}

var notWord = regexp.MustCompile(`[^a-z0-9]+`)

func roleID(name string) string {
	return "role_" + notWord.ReplaceAllString(strings.ToLower(name), "_")
}

// againstTruth compares the ids of all resources and all grants with what the simulator says there must be.
func againstTruth(got *content, want *truth) error {
	wrong := &problems{}
	resources, grants := map[string]bool{}, map[string]bool{}
	for id := range want.Users {
		resources[key("user", id)] = true
	}
	for id, admin := range want.Admins {
		resources[key("user", id)] = true
		grants[key("app:"+ownApp, "user", id)] = true
		for _, role := range admin.Roles {
			resources[key("role", roleID(role))] = true
			grants[key("role:"+roleID(role), "user", id)] = true
		}
	}
	resources[key("app", ownApp)] = true
	for id, group := range want.Groups {
		resources[key("group", id)] = true
		for _, member := range want.members(id) {
			grants[key("group:"+id, "user", member)] = true
		}
		for _, nested := range group.Nested {
			grants[key("group:"+id, "group", nested)] = true
		}
	}
	for id, app := range want.Apps {
		resources[key("app", id)] = true
		for _, group := range app.Groups {
			grants[key("app:"+id, "group", group)] = true
		}
		for _, user := range app.Effective {
			grants[key("app:"+id, "user", user)] = true
		}
	}
	for _, role := range want.Roles {
		resources[key("role", roleID(role))] = true
	}
	differ(wrong, "resource", keys(got.resources), resources)
	differ(wrong, "grant", keys(got.grants), grants)
	for name, each := range got.grants {
		if got.resources[resourceKey(each.GetPrincipal().GetId())] == nil {
			wrong.add("grant %s: its principal does not exist", shown(name))
		}
		if got.entitlements[each.GetEntitlement().GetId()] == nil {
			wrong.add("grant %s: its entitlement does not exist", shown(name))
		}
	}
	for name, each := range got.entitlements {
		if got.resources[resourceKey(each.GetResource().GetId())] == nil {
			wrong.add("entitlement %s: its resource does not exist", name)
		}
	}
	return wrong.err()
}

func keys[T any](all map[string]T) map[string]bool {
	found := map[string]bool{}
	for name := range all {
		found[name] = true
	}
	return found
}

func differ(wrong *problems, kind string, got, want map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !got[name] {
			wrong.add("%s is missing: %s", kind, shown(name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if !want[name] {
			wrong.add("%s is there and should not be: %s", kind, shown(name))
		}
	}
}

// sameSchema compares all columns and indexes with those of a file that the SDK makes.
func (r *run) sameSchema(ctx context.Context, file string) (string, error) {
	model := filepath.Join(r.work, "schema.c1z")
	os.Remove(model)
	store, err := dotc1z.NewStore(ctx, model, dotc1z.WithEngine(c1zstore.EngineSQLite))
	if err != nil {
		return "", err
	}
	if _, err := store.StartNewSync(ctx, "full", ""); err != nil {
		return "", err
	}
	if err := store.EndSync(ctx); err != nil {
		return "", err
	}
	if err := store.Close(ctx); err != nil {
		return "", err
	}
	theirs, err := schema(model)
	if err != nil {
		return "", err
	}
	ours, err := schema(file)
	if err != nil {
		return "", err
	}
	wrong := &problems{}
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		if ours[name] != theirs[name] {
			wrong.add("%s:\n  ours   %s\n  theirs %s", name, ours[name], theirs[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ours)) {
		if _, there := theirs[name]; !there {
			wrong.add("%s: the SDK has none", name)
		}
	}
	return fmt.Sprintf("%d columns and indexes", len(theirs)), wrong.err()
}

// convert turns a file into format v3 and reads the result.
func convert(ctx context.Context, from, to string) (*content, error) {
	writable := sibling(to, ".v1.c1z")
	if err := copyFile(from, writable); err != nil {
		return nil, err
	}
	source, err := dotc1z.NewC1ZFile(ctx, writable)
	if err != nil {
		return nil, err
	}
	defer source.Close(ctx)
	os.Remove(to)
	if _, err := source.ToPebble(ctx, to, ""); err != nil {
		return nil, fmt.Errorf("converting: %w", err)
	}
	store, err := openStore(ctx, to)
	if err != nil {
		return nil, err
	}
	defer store.Close(ctx)
	if format := store.Metadata().Format; format != "v3" {
		return nil, fmt.Errorf("the converted file has format %s", format)
	}
	return readStore(ctx, store)
}

// union is what compaction of two files of different tenants has to hold; rows that both have are the later file's.
func union(earlier, later *content) *content {
	both := &content{
		types: maps.Clone(earlier.types), resources: maps.Clone(earlier.resources), entitlements: maps.Clone(earlier.entitlements),
		grants: maps.Clone(earlier.grants), expandable: maps.Clone(earlier.expandable),
	}
	maps.Copy(both.types, later.types)
	maps.Copy(both.resources, later.resources)
	maps.Copy(both.entitlements, later.entitlements)
	maps.Copy(both.grants, later.grants)
	maps.Copy(both.expandable, later.expandable)
	return both
}

func compaction(ctx context.Context, folder, name string, inputs []string, want *content) (string, error) {
	out := filepath.Join(folder, strings.ReplaceAll(name, " ", "-"))
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	var entries []*synccompactor.CompactableSync
	for number, input := range inputs {
		path := filepath.Join(out, fmt.Sprintf("input-%d.c1z", number))
		if err := copyFile(input, path); err != nil {
			return "", err
		}
		c, err := read(ctx, path)
		if err != nil {
			return "", err
		}
		entries = append(entries, &synccompactor.CompactableSync{FilePath: path, SyncID: c.sync.ID})
	}
	compactor, cleanup, err := synccompactor.NewCompactor(ctx, out, entries, synccompactor.WithTmpDir(out))
	if err != nil {
		return "", err
	}
	defer cleanup()
	done, err := compactor.Compact(ctx)
	if err != nil {
		return "", fmt.Errorf("compacting: %w", err)
	}
	got, err := read(ctx, done.FilePath)
	if err != nil {
		return "", fmt.Errorf("reading what was compacted: %w", err)
	}
	// The rows that both inputs have differ only where the two tenants name the same thing differently.
	wrong := &problems{}
	differ(wrong, "resource type", keys(got.types), keys(want.types))
	differ(wrong, "resource", keys(got.resources), keys(want.resources))
	differ(wrong, "entitlement", keys(got.entitlements), keys(want.entitlements))
	differ(wrong, "grant", keys(got.grants), keys(want.grants))
	if err := wrong.err(); err != nil || inputs[0] != inputs[1] {
		return fmt.Sprintf("%d rows", got.rows()), err
	}
	return fmt.Sprintf("%d rows", got.rows()), sameRows(want, got)
}
