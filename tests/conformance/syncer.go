package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	v2 "github.com/conductorone/baton-sdk/pb/c1/connector/v2"
	"github.com/conductorone/baton-sdk/pkg/annotations"
	"github.com/conductorone/baton-sdk/pkg/dotc1z/c1zstore"
	"github.com/conductorone/baton-sdk/pkg/sdk"
	batonsync "github.com/conductorone/baton-sdk/pkg/sync"
	"github.com/conductorone/baton-sdk/pkg/types"
)

// replay is a connector that gives what a file holds, so that the SDK's own syncer reads the same directory as ours did.
type replay struct {
	types.ConnectorClient
	content *content
}

func (p *replay) ListStaticEntitlements(_ context.Context, request *v2.EntitlementsServiceListStaticEntitlementsRequest, _ ...grpc.CallOption) (*v2.EntitlementsServiceListStaticEntitlementsResponse, error) {
	return v2.EntitlementsServiceListStaticEntitlementsResponse_builder{List: p.content.templates[request.GetResourceTypeId()]}.Build(), nil
}

func (p *replay) ListResourceTypes(context.Context, *v2.ResourceTypesServiceListResourceTypesRequest, ...grpc.CallOption) (*v2.ResourceTypesServiceListResourceTypesResponse, error) {
	return v2.ResourceTypesServiceListResourceTypesResponse_builder{List: sorted(p.content.types, func(*v2.ResourceType) bool { return true })}.Build(), nil
}

func (p *replay) ListResources(_ context.Context, request *v2.ResourcesServiceListResourcesRequest, _ ...grpc.CallOption) (*v2.ResourcesServiceListResourcesResponse, error) {
	return v2.ResourcesServiceListResourcesResponse_builder{List: sorted(p.content.resources, func(r *v2.Resource) bool {
		return r.GetId().GetResourceType() == request.GetResourceTypeId() && resourceKey(r.GetParentResourceId()) == resourceKey(request.GetParentResourceId())
	})}.Build(), nil
}

func (p *replay) ListEntitlements(_ context.Context, request *v2.EntitlementsServiceListEntitlementsRequest, _ ...grpc.CallOption) (*v2.EntitlementsServiceListEntitlementsResponse, error) {
	return v2.EntitlementsServiceListEntitlementsResponse_builder{List: sorted(p.content.entitlements, func(e *v2.Entitlement) bool {
		return resourceKey(e.GetResource().GetId()) == resourceKey(request.GetResource().GetId())
	})}.Build(), nil
}

func (p *replay) ListGrants(_ context.Context, request *v2.GrantsServiceListGrantsRequest, _ ...grpc.CallOption) (*v2.GrantsServiceListGrantsResponse, error) {
	var list []*v2.Grant
	for _, name := range slices.Sorted(maps.Keys(p.content.grants)) {
		g := p.content.grants[name]
		if resourceKey(g.GetEntitlement().GetResource().GetId()) != resourceKey(request.GetResource().GetId()) {
			continue
		}
		g = proto.Clone(g).(*v2.Grant)
		if expandable := p.content.expandable[name]; expandable != nil {
			all := annotations.Annotations(g.GetAnnotations())
			all.Update(expandable)
			g.SetAnnotations(all)
		}
		list = append(list, g)
	}
	return v2.GrantsServiceListGrantsResponse_builder{List: list}.Build(), nil
}

func sorted[T any](all map[string]T, wanted func(T) bool) []T {
	var list []T
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if wanted(all[name]) {
			list = append(list, all[name])
		}
	}
	return list
}

// given is what a made-up directory holds.
func given(d *directory) *content {
	c := &content{templates: d.templates, types: map[string]*v2.ResourceType{}, resources: map[string]*v2.Resource{}, entitlements: map[string]*v2.Entitlement{}, grants: map[string]*v2.Grant{}}
	for _, each := range d.types {
		c.types[each.GetId()] = each
	}
	for _, each := range d.resources {
		c.resources[resourceKey(each.GetId())] = each
	}
	for _, each := range d.entitlements {
		c.entitlements[each.GetId()] = each
	}
	for _, each := range d.grants {
		c.grants[grantKey(each)] = each
	}
	return c
}

// surfaces compares what the two engines make of everything that a connector can say about how it wants to be read.
func surfaces(ctx context.Context, r *run, folder string) {
	r.check("sync: what annotations ask for", func() (string, error) {
		var all []*directory
		for seed := range r.seeds {
			all = append(all, randomSurface(seed))
		}
		if err := r.produce(ctx, folder, all); err != nil {
			return "", err
		}
		rows := 0
		for _, d := range all {
			ours, theirs := filepath.Join(folder, d.name+".expanded.c1z"), filepath.Join(folder, d.name+".synced.c1z")
			if err := sdkSync(ctx, given(d), theirs); err != nil {
				return "", fmt.Errorf("%s: %w", d.name, err)
			}
			compared, err := sameColumns(ours, theirs, inheritedView)
			if err == nil {
				err = sameRun(ours, theirs)
			}
			if err != nil {
				return "", fmt.Errorf("%s: %w", d.name, err)
			}
			rows += compared
		}
		return fmt.Sprintf("%d directories, %d rows", len(all), rows), nil
	})
}

// randomSurface makes a directory with child resources, skip annotations on types and resources, static entitlements,
// exclusion groups, and grants whose entitlement or principal does not exist.
func randomSurface(seed int) *directory {
	random := rand.New(rand.NewPCG(uint64(seed), 0x5EED))
	chance := func(percent int) bool { return random.IntN(100) < percent }
	d := &directory{name: fmt.Sprintf("surface-%d", seed), types: typesOf(), templates: map[string][]*v2.Entitlement{}}
	var all []proto.Message
	if chance(20) {
		all = append(all, &v2.SkipEntitlementsAndGrants{})
	}
	if chance(20) {
		all = append(all, &v2.SkipEntitlements{})
	}
	d.types = append(d.types, v2.ResourceType_builder{Id: "folder", DisplayName: "Folder", Annotations: annotations.New(all...)}.Build())
	for n := range random.IntN(3) {
		template := v2.Entitlement_builder{
			Slug: fmt.Sprintf("static-%d", n), Purpose: v2.Entitlement_PURPOSE_VALUE_PERMISSION,
			GrantableTo: []*v2.ResourceType{d.types[0]},
		}.Build()
		if chance(50) {
			template.SetDisplayName("Static")
			template.SetDescription("for everybody")
		}
		if chance(30) {
			group := &v2.EntitlementExclusionGroup{}
			group.SetExclusionGroupId("either")
			group.SetScopeToResource(true)
			template.SetAnnotations(annotations.New(group))
		}
		kind := []string{"group", "folder"}[random.IntN(2)]
		d.templates[kind] = append(d.templates[kind], template)
	}
	noted := func(r *v2.Resource) *v2.Resource {
		list := annotations.Annotations(r.GetAnnotations())
		for _, each := range []proto.Message{&v2.SkipEntitlementsAndGrants{}, &v2.SkipEntitlements{}, &v2.SkipGrants{}} {
			if chance(8) {
				list.Append(each)
			}
		}
		r.SetAnnotations(list)
		d.resources = append(d.resources, r)
		return r
	}
	children := func(r *v2.Resource) *v2.Resource {
		list := annotations.Annotations(r.GetAnnotations())
		child := &v2.ChildResourceType{}
		child.SetResourceTypeId("folder")
		list.Append(child)
		r.SetAnnotations(list)
		return r
	}
	var users, owners []*v2.Resource
	for n := range 2 + random.IntN(5) {
		users = append(users, noted(resourceOf("user", fmt.Sprintf("u%d", n))))
	}
	for n := range 1 + random.IntN(4) {
		owners = append(owners, noted(resourceOf("group", fmt.Sprintf("g%d", n))))
	}
	for n := range 1 + random.IntN(3) {
		app := resourceOf("app", fmt.Sprintf("a%d", n))
		// A parent that does not say so has children that nobody asks for.
		if chance(80) {
			app = children(app)
		}
		owners = append(owners, noted(app))
		for m := range random.IntN(3) {
			folder := resourceOf("folder", fmt.Sprintf("f%d-%d", n, m))
			folder.SetParentResourceId(app.GetId())
			if chance(50) {
				folder = children(folder)
			}
			owners = append(owners, noted(folder))
			if chance(60) {
				inner := resourceOf("folder", fmt.Sprintf("f%d-%d-x", n, m))
				inner.SetParentResourceId(folder.GetId())
				owners = append(owners, noted(inner))
			}
		}
	}
	held := map[string]bool{}
	for _, owner := range owners {
		e := entitlementOf(owner, "member")
		if chance(90) {
			d.entitlements = append(d.entitlements, e)
		}
		for _, u := range users {
			if chance(15) {
				u = resourceOf("user", "gone")
			}
			g := grantOf(e, u)
			if chance(10) {
				metadata := &v2.GrantMetadata{}
				g.SetAnnotations(annotations.New(metadata))
			}
			if chance(50) && !held[grantKey(g)] {
				held[grantKey(g)] = true
				d.grants = append(d.grants, g)
			}
		}
	}
	return d
}

// sdkSync lets the SDK's syncer write a file of format v1 from a content.
func sdkSync(ctx context.Context, c *content, path string) error {
	os.Remove(path)
	empty, err := sdk.NewEmptyConnector()
	if err != nil {
		return err
	}
	syncer, err := batonsync.NewSyncer(ctx, &replay{empty, c}, batonsync.WithC1ZPath(path), batonsync.WithStorageEngine(c1zstore.EngineSQLite))
	if err != nil {
		return err
	}
	if err := syncer.Sync(ctx); err != nil {
		return fmt.Errorf("the SDK's syncer: %w", err)
	}
	return syncer.Close(ctx)
}

// What may differ in the row of a sync, each with the reason.
var runDiffers = map[string]string{
	"id":                   "row number",
	"sync_id":              "made for each sync",
	"started_at":           "time",
	"ended_at":             "time",
	"ingest_invariant_gen": "ours makes no claim about checks that the SDK's engine runs",
	"sync_token":           "compared member by member",
	"stats":                "compared member by member",
}

// sameRun compares the rows of the two syncs: columns, the members of the token and the statistics.
func sameRun(ours, theirs string) error {
	mine, err := runOf(ours)
	if err != nil {
		return err
	}
	other, err := runOf(theirs)
	if err != nil {
		return err
	}
	wrong := &problems{}
	for _, name := range slices.Sorted(maps.Keys(other)) {
		if runDiffers[name] != "" || strings.HasPrefix(name, "ingest_invariant") {
			continue
		}
		if fmt.Sprintf("%T %v", mine[name], mine[name]) != fmt.Sprintf("%T %v", other[name], other[name]) {
			wrong.add("column %s of the sync: ours %T %v, theirs %T %v", name, mine[name], mine[name], other[name], other[name])
		}
	}
	token := func(run map[string]any, column string) map[string]any {
		members := map[string]any{}
		if err := json.Unmarshal([]byte(fmt.Sprint(run[column])), &members); err != nil {
			wrong.add("column %s is no JSON: %.200v", column, run[column])
		}
		return members
	}
	a, b := token(mine, "sync_token"), token(other, "sync_token")
	for _, name := range []string{"version", "needs_expansion", "action_order", "actions_map", "has_external_resource_grants"} {
		if !reflect.DeepEqual(a[name], b[name]) {
			wrong.add("member %s of the token: ours %v, theirs %v", name, a[name], b[name])
		}
	}
	for name := range a {
		if _, there := b[name]; !there {
			wrong.add("member %s of the token: the SDK writes none", name)
		}
	}
	a, b = token(mine, "stats"), token(other, "stats")
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if !reflect.DeepEqual(a[name], b[name]) {
			wrong.add("statistics %s: ours %v, theirs %v", name, a[name], b[name])
		}
	}
	return wrong.err()
}

func runOf(path string) (map[string]any, error) {
	plain, err := unpack(path)
	if err != nil {
		return nil, err
	}
	defer os.Remove(plain)
	db, err := sql.Open("sqlite", plain)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rows, err := db.Query("select * from v1_sync_runs")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	if !rows.Next() {
		return nil, fmt.Errorf("no sync in %s", path)
	}
	values := make([]any, len(names))
	pointers := make([]any, len(names))
	for i := range values {
		pointers[i] = &values[i]
	}
	if err := rows.Scan(pointers...); err != nil {
		return nil, err
	}
	run := map[string]any{}
	for i, name := range names {
		if text, ok := values[i].([]byte); ok {
			values[i] = string(text)
		}
		run[name] = values[i]
	}
	if rows.Next() {
		return nil, fmt.Errorf("two syncs in %s", path)
	}
	return run, rows.Err()
}
