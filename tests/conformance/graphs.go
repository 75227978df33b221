package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"

	"database/sql"

	v2 "github.com/conductorone/baton-sdk/pb/c1/connector/v2"
	"github.com/conductorone/baton-sdk/pkg/annotations"
	"github.com/conductorone/baton-sdk/pkg/dotc1z"
	"github.com/conductorone/baton-sdk/pkg/dotc1z/c1zstore"
	"github.com/conductorone/baton-sdk/pkg/sdk"
	batonsync "github.com/conductorone/baton-sdk/pkg/sync"
)

// directory is a made-up tenant.
type directory struct {
	name         string
	types        []*v2.ResourceType
	resources    []*v2.Resource
	entitlements []*v2.Entitlement
	grants       []*v2.Grant
	// deep graphs are beyond the depth that the SDK's SQLite engine allows.
	deep bool
}

func resourceOf(kind, id string) *v2.Resource {
	r := v2.Resource_builder{
		Id:          v2.ResourceId_builder{ResourceType: kind, Resource: id}.Build(),
		DisplayName: "The " + kind + " " + id,
	}.Build()
	if kind == "user" {
		r.SetAnnotations(annotations.New(&v2.UserTrait{}))
	}
	if kind == "group" {
		r.SetAnnotations(annotations.New(&v2.GroupTrait{}))
	}
	return r
}

func typesOf() []*v2.ResourceType {
	return []*v2.ResourceType{
		v2.ResourceType_builder{Id: "user", DisplayName: "User", Traits: []v2.ResourceType_Trait{v2.ResourceType_TRAIT_USER}}.Build(),
		v2.ResourceType_builder{Id: "group", DisplayName: "Group", Traits: []v2.ResourceType_Trait{v2.ResourceType_TRAIT_GROUP}}.Build(),
		v2.ResourceType_builder{Id: "app", DisplayName: "App"}.Build(),
	}
}

func entitlementOf(r *v2.Resource, slug string) *v2.Entitlement {
	id := r.GetId().GetResourceType() + ":" + r.GetId().GetResource() + ":" + slug
	return v2.Entitlement_builder{Id: id, Resource: r, Slug: slug, DisplayName: slug, Purpose: v2.Entitlement_PURPOSE_VALUE_ASSIGNMENT}.Build()
}

func grantOf(e *v2.Entitlement, principal *v2.Resource, extra ...proto.Message) *v2.Grant {
	id := e.GetId() + ":" + principal.GetId().GetResourceType() + ":" + principal.GetId().GetResource()
	return v2.Grant_builder{Id: id, Entitlement: e, Principal: principal, Annotations: annotations.New(extra...)}.Build()
}

// randomDirectory makes a graph with cycles, self loops, shallow and filtered edges, edges from nowhere, principals that
// hold an entitlement both directly and through others, and names that are not ASCII.
func randomDirectory(seed int) *directory {
	random := rand.New(rand.NewPCG(uint64(seed), 0xC0FFEE))
	chance := func(percent int) bool { return random.IntN(100) < percent }
	d := &directory{name: fmt.Sprintf("graph-%d", seed), types: typesOf()}
	var users, groups []*v2.Resource
	for n := range 1 + random.IntN(9) {
		users = append(users, resourceOf("user", fmt.Sprintf("u%d·é", n)))
	}
	for n := range 1 + random.IntN(9) {
		groups = append(groups, resourceOf("group", fmt.Sprintf("g:%d/名", n)))
	}
	apps := []*v2.Resource{resourceOf("app", "a0"), resourceOf("app", "a1")}
	d.resources = slices.Concat(users, groups, apps)
	own := map[string][]*v2.Entitlement{}
	for _, each := range slices.Concat(groups, apps) {
		for _, slug := range []string{"member", "owner"}[:1+random.IntN(2)] {
			e := entitlementOf(each, slug)
			if chance(15) {
				e.SetId(fmt.Sprintf("opaque-%d", len(d.entitlements)))
			}
			d.entitlements = append(d.entitlements, e)
			own[resourceKey(each.GetId())] = append(own[resourceKey(each.GetId())], e)
		}
	}
	held := map[string]bool{}
	give := func(e *v2.Entitlement, principal *v2.Resource, extra ...proto.Message) {
		g := grantOf(e, principal, extra...)
		if held[grantKey(g)] {
			return
		}
		held[grantKey(g)] = true
		if chance(20) {
			g.SetId(fmt.Sprintf("own-id-%d", len(d.grants)))
		}
		d.grants = append(d.grants, g)
	}
	density := 10 + random.IntN(50)
	for _, e := range d.entitlements {
		for _, u := range users {
			if chance(density) {
				give(e, u)
			}
		}
		for _, g := range groups {
			if !chance(density / 2) {
				continue
			}
			expandable := &v2.GrantExpandable{}
			expandable.SetShallow(chance(30))
			switch random.IntN(6) {
			case 0:
				expandable.SetResourceTypeIds([]string{"user"})
			case 1:
				expandable.SetResourceTypeIds([]string{"group"})
			case 2:
				expandable.SetResourceTypeIds([]string{"user", "group"})
			}
			sources := own[resourceKey(g.GetId())]
			ids := []string{sources[0].GetId()}
			if len(sources) > 1 && chance(50) {
				ids = append(ids, sources[1].GetId())
			}
			if chance(8) {
				ids = append(ids, "group:gone:member")
			}
			expandable.SetEntitlementIds(ids)
			if chance(10) {
				give(e, g)
			} else {
				give(e, g, expandable)
			}
		}
	}
	return d
}

// chain is one user at the end of a row of groups.
func chain(length int) *directory {
	d := &directory{name: fmt.Sprintf("chain-%d", length), types: typesOf(), deep: length > 15}
	user := resourceOf("user", "u")
	d.resources = []*v2.Resource{user}
	var before *v2.Entitlement
	for n := range length {
		g := resourceOf("group", fmt.Sprintf("g%d", n))
		e := entitlementOf(g, "member")
		d.resources = append(d.resources, g)
		d.entitlements = append(d.entitlements, e)
		if before == nil {
			d.grants = append(d.grants, grantOf(e, user))
		} else {
			expandable := &v2.GrantExpandable{}
			expandable.SetEntitlementIds([]string{before.GetId()})
			d.grants = append(d.grants, grantOf(e, before.GetResource(), expandable))
		}
		before = e
	}
	return d
}

func encoded[T proto.Message](messages []T) ([]string, error) {
	texts := []string{}
	for _, each := range messages {
		bytes, err := proto.Marshal(each)
		if err != nil {
			return nil, err
		}
		texts = append(texts, base64.StdEncoding.EncodeToString(bytes))
	}
	return texts, nil
}

// produce lets our engine write every directory twice: unexpanded and expanded.
func (r *run) produce(ctx context.Context, folder string, all []*directory) error {
	source, err := os.Create(filepath.Join(folder, "directories.jsonl"))
	if err != nil {
		return err
	}
	defer source.Close()
	lines := json.NewEncoder(source)
	for _, d := range all {
		line := map[string]any{"name": d.name}
		for name, encode := range map[string]func() ([]string, error){
			"types":        func() ([]string, error) { return encoded(d.types) },
			"resources":    func() ([]string, error) { return encoded(d.resources) },
			"entitlements": func() ([]string, error) { return encoded(d.entitlements) },
			"grants":       func() ([]string, error) { return encoded(d.grants) },
		} {
			if line[name], err = encode(); err != nil {
				return err
			}
		}
		if err := lines.Encode(line); err != nil {
			return err
		}
	}
	if out, err := exec.CommandContext(ctx, r.producer, "files", source.Name(), folder).CombinedOutput(); err != nil {
		return fmt.Errorf("producer: %w\n%s", err, tail(out))
	}
	return nil
}

// sdkExpand runs the SDK's expansion over a file, in place, and reads the result.
func sdkExpand(ctx context.Context, path string) (*content, error) {
	store, err := dotc1z.NewStore(ctx, path)
	if err != nil {
		return nil, err
	}
	run, err := store.SyncMeta().LatestFinishedSyncOfAnyType(ctx)
	if err != nil {
		return nil, err
	}
	empty, err := sdk.NewEmptyConnector()
	if err != nil {
		return nil, err
	}
	syncer, err := batonsync.NewSyncer(ctx, empty, batonsync.WithConnectorStore(store), batonsync.WithSyncID(run.ID), batonsync.WithOnlyExpandGrants())
	if err != nil {
		return nil, err
	}
	if err := syncer.Sync(ctx); err != nil {
		return nil, err
	}
	if err := syncer.Close(ctx); err != nil {
		return nil, err
	}
	return read(ctx, path)
}

// disagrees says whether the SDK gives another result for the same file when it is asked again. Its SQLite engine goes
// through the graph in the order of a Go map, and on some graphs the order decides what comes out; such a result judges
// nobody. Its Pebble engine does not have this, and judges every graph.
func disagrees(ctx context.Context, plain, path string, first *content) (bool, error) {
	for range 12 {
		if err := copyFile(plain, path); err != nil {
			return false, err
		}
		other, err := sdkExpand(ctx, path)
		if err != nil {
			return false, err
		}
		if sameGrants(first, other) != nil {
			return true, nil
		}
	}
	return false, nil
}

// sameGrants compares all grants and their sources exactly.
func sameGrants(ours, theirs *content) error {
	wrong := &problems{}
	differ(wrong, "expansion: grant", keys(ours.grants), keys(theirs.grants))
	for _, name := range slices.Sorted(maps.Keys(theirs.grants)) {
		mine, their := ours.grants[name], theirs.grants[name]
		if mine == nil {
			continue
		}
		if !proto.Equal(mine.GetSources(), their.GetSources()) {
			wrong.add("expansion: sources of %s: ours %s, the SDK's %s", shown(name), text(mine.GetSources()), text(their.GetSources()))
		}
		if a, b := grantView(mine), grantView(their); !proto.Equal(a, b) {
			wrong.add("expansion: %s:\n  ours   %s\n  theirs %s", shown(name), text(a), text(b))
		}
	}
	return wrong.err()
}

func graphs(ctx context.Context, r *run) {
	folder, err := r.folder("graphs")
	if err != nil {
		r.check("expansion", func() (string, error) { return "", err })
		return
	}
	all := []*directory{chain(3), chain(12)}
	if !r.quick {
		all = append(all, chain(60))
	}
	for seed := range r.seeds {
		all = append(all, randomDirectory(seed))
	}
	if !r.check("expansion: our engine writes the graphs", func() (string, error) {
		return fmt.Sprintf("%d graphs, %d files", len(all), 2*len(all)), r.produce(ctx, folder, all)
	}) {
		return
	}
	if r.fault == "source" {
		if err := tamper(filepath.Join(folder, "chain-3.expanded.c1z"), wrongSource); err != nil {
			r.check("self-test", func() (string, error) { return "", err })
			return
		}
	}
	ours := map[string]*content{}
	r.check("expansion: nothing else changes", func() (string, error) {
		wrong := &problems{}
		rows := 0
		for _, d := range all {
			plain, err := read(ctx, filepath.Join(folder, d.name+".plain.c1z"))
			if err != nil {
				return "", fmt.Errorf("%s: %w", d.name, err)
			}
			expanded, err := read(ctx, filepath.Join(folder, d.name+".expanded.c1z"))
			if err != nil {
				return "", fmt.Errorf("%s: %w", d.name, err)
			}
			ours[d.name] = expanded
			rows += expanded.rows()
			compare(wrong, d.name+" type", plain.types, expanded.types, whole[*v2.ResourceType])
			compare(wrong, d.name+" resource", plain.resources, expanded.resources, whole[*v2.Resource])
			compare(wrong, d.name+" entitlement", plain.entitlements, expanded.entitlements, whole[*v2.Entitlement])
			if len(plain.grants) != len(d.grants) {
				wrong.add("%s: %d grants were given, %d are in the file", d.name, len(d.grants), len(plain.grants))
			}
			for _, given := range d.grants {
				stored := plain.grants[grantKey(given)]
				if stored == nil {
					wrong.add("%s: grant %s is missing", d.name, given.GetId())
				} else if a, b := grantView(given), grantView(stored); !proto.Equal(a, b) {
					wrong.add("%s: grant %s: given %s, stored %s", d.name, given.GetId(), text(a), text(b))
				}
			}
		}
		return fmt.Sprintf("%d rows", rows), wrong.err()
	})
	for _, engine := range []c1zstore.Engine{c1zstore.EngineSQLite, c1zstore.EnginePebble} {
		r.check("expansion: grants and sources as by "+string(engine), func() (string, error) {
			tried, made, grants := 0, 0, 0
			var unstable []string
			for _, d := range all {
				if d.deep && engine == c1zstore.EngineSQLite {
					continue
				}
				plain := filepath.Join(folder, d.name+".plain.c1z")
				path := filepath.Join(folder, d.name+"."+string(engine)+".c1z")
				if engine == c1zstore.EngineSQLite {
					if err := copyFile(plain, path); err != nil {
						return "", err
					}
				} else if _, err := convert(ctx, plain, path); err != nil {
					return "", fmt.Errorf("%s: %w", d.name, err)
				}
				theirs, err := sdkExpand(ctx, path)
				if err != nil {
					return "", fmt.Errorf("%s: the SDK cannot expand: %w", d.name, err)
				}
				if ours[d.name] == nil {
					return "", fmt.Errorf("%s: our file could not be read", d.name)
				}
				tried++
				if err := sameGrants(ours[d.name], theirs); err != nil {
					if engine == c1zstore.EnginePebble || r.fault != "" {
						return "", fmt.Errorf("%s: %w", d.name, err)
					}
					again, failed := disagrees(ctx, plain, path, theirs)
					if failed != nil {
						return "", failed
					}
					if !again {
						return "", fmt.Errorf("%s: %w", d.name, err)
					}
					unstable = append(unstable, d.name)
					continue
				}
				grants += len(theirs.grants)
				made += len(theirs.grants) - len(d.grants)
			}
			if made == 0 {
				return "", fmt.Errorf("no graph made any grant")
			}
			if len(unstable)*4 > tried {
				return "", fmt.Errorf("%d of %d graphs differ, too many to blame the SDK: %v", len(unstable), tried, unstable)
			}
			told := fmt.Sprintf("%d graphs, %d grants, %d of them inherited", tried, grants, made)
			if len(unstable) > 0 {
				told += fmt.Sprintf("; the SDK's own runs differ on %d: %v", len(unstable), unstable)
			}
			return told, nil
		})
	}
	for _, name := range slices.Sorted(maps.Keys(r.uploaded)) {
		if name != "unexpanded" || r.uploaded["full"] == "" {
			continue
		}
		r.check("expansion: JumpCloud's tenant as by the SDK", func() (string, error) {
			path := filepath.Join(folder, "uploaded.c1z")
			if err := copyFile(r.uploaded["unexpanded"], path); err != nil {
				return "", err
			}
			before, err := read(ctx, path)
			if err != nil {
				return "", err
			}
			theirs, err := sdkExpand(ctx, path)
			if err != nil {
				return "", err
			}
			mine, err := read(ctx, r.uploaded["full"])
			if err != nil {
				return "", err
			}
			if len(before.grants) >= len(mine.grants) {
				return "", fmt.Errorf("the unexpanded file has %d grants, the expanded one %d", len(before.grants), len(mine.grants))
			}
			return fmt.Sprintf("%d grants, %d of them inherited", len(theirs.grants), len(theirs.grants)-len(before.grants)), sameGrants(mine, theirs)
		})
	}
}

// wrongSource puts a source that is none into one grant that the expansion made.
func wrongSource(db *sql.DB) error {
	rows, err := db.Query("select id, data from v1_grants")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var data []byte
		if err := rows.Scan(&id, &data); err != nil {
			return err
		}
		g := &v2.Grant{}
		if err := proto.Unmarshal(data, g); err != nil {
			return err
		}
		for source := range g.GetSources().GetSources() {
			g.GetSources().GetSources()[source+"-other"] = g.GetSources().GetSources()[source]
			delete(g.GetSources().GetSources(), source)
			if data, err = proto.Marshal(g); err != nil {
				return err
			}
			rows.Close()
			_, err = db.Exec("update v1_grants set data = ? where id = ?", data, id)
			return err
		}
	}
	return fmt.Errorf("no grant has sources")
}
