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
	// Static entitlements, by the type that has them.
	templates map[string][]*v2.Entitlement
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
		templates := map[string][]string{}
		for kind, list := range d.templates {
			if templates[kind], err = encoded(list); err != nil {
				return err
			}
		}
		line["templates"] = templates
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

// collapses says whether a cycle of the graph feeds an entitlement outside itself. The SDK's SQLite engine calls the
// expansion done as soon as every edge is marked, and the first of the cycle's entitlements to be read marks the edge of
// all of them; what the others would have given is lost, in the order of a Go map. Its Pebble engine does not do this.
// On such a graph the SQLite engine can only say which grants must be there at least.
func collapses(d *directory) bool {
	stored := map[string]bool{}
	for _, e := range d.entitlements {
		stored[e.GetId()] = true
	}
	edges := map[string][]string{}
	for _, g := range d.grants {
		list := annotations.Annotations(g.GetAnnotations())
		expandable := &v2.GrantExpandable{}
		if found, err := list.Pick(expandable); err != nil || !found {
			continue
		}
		for _, source := range expandable.GetEntitlementIds() {
			if stored[source] {
				edges[source] = append(edges[source], g.GetEntitlement().GetId())
			}
		}
	}
	reach := map[string]map[string]bool{}
	for id := range stored {
		found, todo := map[string]bool{}, slices.Clone(edges[id])
		for len(todo) > 0 {
			next := todo[0]
			todo = todo[1:]
			if !found[next] {
				found[next] = true
				todo = append(todo, edges[next]...)
			}
		}
		reach[id] = found
	}
	for from, tos := range edges {
		onCycle := false
		for other := range reach[from] {
			onCycle = onCycle || other != from && reach[other][from]
		}
		for _, to := range tos {
			if onCycle && !reach[to][from] {
				return true
			}
		}
	}
	return false
}

// atLeast wants every grant of the SDK in ours, with at least its sources.
func atLeast(ours, theirs *content) error {
	wrong := &problems{}
	for name, their := range theirs.grants {
		mine := ours.grants[name]
		if mine == nil {
			wrong.add("expansion: grant is missing: %s", shown(name))
			continue
		}
		for source := range their.GetSources().GetSources() {
			if mine.GetSources().GetSources()[source] == nil {
				wrong.add("expansion: sources of %s: ours lack %s", shown(name), source)
			}
		}
	}
	return wrong.err()
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
			lossy := 0
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
					if engine == c1zstore.EnginePebble || !collapses(d) {
						return "", fmt.Errorf("%s: %w", d.name, err)
					}
					if err := atLeast(ours[d.name], theirs); err != nil {
						return "", fmt.Errorf("%s: %w", d.name, err)
					}
					lossy++
					continue
				}
				grants += len(theirs.grants)
				made += len(theirs.grants) - len(d.grants)
			}
			if made == 0 {
				return "", fmt.Errorf("no graph made any grant")
			}
			told := fmt.Sprintf("%d graphs, %d grants, %d of them inherited", tried, grants, made)
			if engine == c1zstore.EngineSQLite {
				told += fmt.Sprintf("; on %d the SDK lost grants behind a cycle", lossy)
			}
			return told, nil
		})
	}
	r.check("expansion: done again it changes nothing", func() (string, error) {
		tried := 0
		for number, d := range all {
			if number%3 != 0 {
				continue
			}
			path := filepath.Join(folder, d.name+".again.c1z")
			if _, err := convert(ctx, filepath.Join(folder, d.name+".expanded.c1z"), path); err != nil {
				return "", fmt.Errorf("%s: %w", d.name, err)
			}
			theirs, err := sdkExpand(ctx, path)
			if err != nil {
				return "", fmt.Errorf("%s: the SDK cannot expand: %w", d.name, err)
			}
			if err := sameGrants(ours[d.name], theirs); err != nil {
				return "", fmt.Errorf("%s: %w", d.name, err)
			}
			tried++
		}
		return fmt.Sprintf("%d graphs", tried), nil
	})
	surfaces(ctx, r, folder)
	r.check("sync: the graphs as by the SDK's syncer", func() (string, error) {
		rows := 0
		for _, d := range all {
			if d.deep || collapses(d) {
				continue
			}
			path := filepath.Join(folder, d.name+".synced.c1z")
			if err := sdkSync(ctx, given(d), path); err != nil {
				return "", fmt.Errorf("%s: %w", d.name, err)
			}
			compared, err := sameColumns(filepath.Join(folder, d.name+".expanded.c1z"), path, inheritedView)
			if err != nil {
				return "", fmt.Errorf("%s: %w", d.name, err)
			}
			if err := sameRun(filepath.Join(folder, d.name+".expanded.c1z"), path); err != nil {
				return "", fmt.Errorf("%s: %w", d.name, err)
			}
			rows += compared
		}
		return fmt.Sprintf("%d rows", rows), nil
	})
	if r.uploaded["unexpanded"] != "" && r.uploaded["full"] != "" {
		r.check("sync: JumpCloud's tenant as by the SDK's", func() (string, error) {
			before, err := read(ctx, r.uploaded["unexpanded"])
			if err != nil {
				return "", err
			}
			path := filepath.Join(folder, "synced.c1z")
			if err := sdkSync(ctx, before, path); err != nil {
				return "", err
			}
			rows, err := sameColumns(r.uploaded["full"], path, inheritedView)
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("%d rows", rows), sameRun(r.uploaded["full"], path)
		})
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

// inheritedView takes grants that were given as they are. In a grant that the expansion made the SDK repeats the whole
// entitlement and its resource; ours names them, which readers follow and conversion to v3 does to every grant.
func inheritedView(g *v2.Grant) proto.Message {
	immutable := &v2.GrantImmutable{}
	all := annotations.Annotations(g.GetAnnotations())
	if len(g.GetSources().GetSources()) > 0 && all.Contains(immutable) {
		return grantView(g)
	}
	return g
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
