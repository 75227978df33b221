package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	v2 "github.com/conductorone/baton-sdk/pb/c1/connector/v2"
	reader_v2 "github.com/conductorone/baton-sdk/pb/c1/reader/v2"
	"github.com/conductorone/baton-sdk/pkg/annotations"
	"github.com/conductorone/baton-sdk/pkg/connectorstore"
	"github.com/conductorone/baton-sdk/pkg/dotc1z"
	"github.com/conductorone/baton-sdk/pkg/dotc1z/c1zstore"
)

// content is what the SDK reads from one file: messages by the id that names them.
type content struct {
	types        map[string]*v2.ResourceType
	resources    map[string]*v2.Resource
	entitlements map[string]*v2.Entitlement
	grants       map[string]*v2.Grant
	expandable   map[string]*v2.GrantExpandable
	sync         *c1zstore.SyncRun
	// Only where the content stands for a connector.
	templates map[string][]*v2.Entitlement
}

func (c *content) rows() int {
	return len(c.types) + len(c.resources) + len(c.entitlements) + len(c.grants)
}

func (c *content) String() string {
	return fmt.Sprintf("%d types, %d resources, %d entitlements, %d grants", len(c.types), len(c.resources), len(c.entitlements), len(c.grants))
}

// key joins the parts of an id in a way that no id can forge.
func key(parts ...string) string { return strings.Join(parts, "\x1f") }

func resourceKey(id *v2.ResourceId) string { return key(id.GetResourceType(), id.GetResource()) }

func grantKey(g *v2.Grant) string {
	return key(g.GetEntitlement().GetId(), resourceKey(g.GetPrincipal().GetId()))
}

// shown makes a key fit for a person.
func shown(text string) string { return strings.ReplaceAll(text, "\x1f", " ") }

const pageSize = 1000

// pages follows page tokens to the end of a listing.
func pages[T any](list func(token string) ([]T, string, error)) ([]T, error) {
	var all []T
	token := ""
	for {
		items, next, err := list(token)
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
		if next == "" {
			return all, nil
		}
		if next == token {
			return nil, fmt.Errorf("the page token %q repeats", token)
		}
		token = next
	}
}

func byKey[T any](kind string, items []T, name func(T) string) (map[string]T, error) {
	found := make(map[string]T, len(items))
	for _, item := range items {
		if _, twice := found[name(item)]; twice {
			return nil, fmt.Errorf("%s %s is there twice", kind, shown(name(item)))
		}
		found[name(item)] = item
	}
	return found, nil
}

func openStore(ctx context.Context, path string) (c1zstore.Store, error) {
	return dotc1z.NewStore(ctx, path, dotc1z.WithReadOnly(true))
}

// read opens a file and lists every kind of row, through the plain listings.
func read(ctx context.Context, path string) (*content, error) {
	store, err := openStore(ctx, path)
	if err != nil {
		return nil, err
	}
	defer store.Close(ctx)
	return readStore(ctx, store)
}

func readStore(ctx context.Context, store c1zstore.Store) (*content, error) {
	c := &content{}
	run, err := store.SyncMeta().LatestFinishedSyncOfAnyType(ctx)
	if err != nil {
		return nil, err
	}
	if run == nil {
		return nil, fmt.Errorf("the file has no finished sync")
	}
	c.sync = run
	if viewer, ok := store.(interface {
		ViewSync(context.Context, string) error
	}); ok {
		if err := viewer.ViewSync(ctx, run.ID); err != nil {
			return nil, err
		}
	}
	types, err := pages(func(token string) ([]*v2.ResourceType, string, error) {
		page, err := store.ListResourceTypes(ctx, v2.ResourceTypesServiceListResourceTypesRequest_builder{PageSize: pageSize, PageToken: token}.Build())
		return page.GetList(), page.GetNextPageToken(), err
	})
	if err != nil {
		return nil, fmt.Errorf("listing resource types: %w", err)
	}
	if c.types, err = byKey("resource type", types, (*v2.ResourceType).GetId); err != nil {
		return nil, err
	}
	resources, err := pages(func(token string) ([]*v2.Resource, string, error) {
		page, err := store.ListResources(ctx, v2.ResourcesServiceListResourcesRequest_builder{PageSize: pageSize, PageToken: token}.Build())
		return page.GetList(), page.GetNextPageToken(), err
	})
	if err != nil {
		return nil, fmt.Errorf("listing resources: %w", err)
	}
	if c.resources, err = byKey("resource", resources, func(r *v2.Resource) string { return resourceKey(r.GetId()) }); err != nil {
		return nil, err
	}
	entitlements, err := pages(func(token string) ([]*v2.Entitlement, string, error) {
		page, err := store.ListEntitlements(ctx, v2.EntitlementsServiceListEntitlementsRequest_builder{PageSize: pageSize, PageToken: token}.Build())
		return page.GetList(), page.GetNextPageToken(), err
	})
	if err != nil {
		return nil, fmt.Errorf("listing entitlements: %w", err)
	}
	if c.entitlements, err = byKey("entitlement", entitlements, (*v2.Entitlement).GetId); err != nil {
		return nil, err
	}
	grants, err := pages(func(token string) ([]*v2.Grant, string, error) {
		page, err := store.ListGrants(ctx, v2.GrantsServiceListGrantsRequest_builder{PageSize: pageSize, PageToken: token}.Build())
		return page.GetList(), page.GetNextPageToken(), err
	})
	if err != nil {
		return nil, fmt.Errorf("listing grants: %w", err)
	}
	if c.grants, err = byKey("grant", grants, grantKey); err != nil {
		return nil, err
	}
	c.expandable = map[string]*v2.GrantExpandable{}
	for row, err := range store.Grants().ListWithAnnotations(ctx) {
		if err != nil {
			return nil, fmt.Errorf("listing expandable grants: %w", err)
		}
		if row.Annotation != nil {
			c.expandable[grantKey(row.Grant)] = row.Annotation
		}
	}
	return c, nil
}

// services asks every other reader service for the same rows, and says how many answers were compared.
func services(ctx context.Context, path string, c *content) (int, error) {
	store, err := openStore(ctx, path)
	if err != nil {
		return 0, err
	}
	defer store.Close(ctx)
	wrong := &problems{}
	answers := 0
	same := func(what string, got, want proto.Message) {
		answers++
		if !proto.Equal(got, want) {
			wrong.add("%s: %s, listed as %s", what, text(got), text(want))
		}
	}
	for id, want := range c.types {
		got, err := store.GetResourceType(ctx, reader_v2.ResourceTypesReaderServiceGetResourceTypeRequest_builder{ResourceTypeId: id}.Build())
		if err != nil {
			return answers, fmt.Errorf("GetResourceType %s: %w", id, err)
		}
		same("GetResourceType", got.GetResourceType(), want)
		listed, err := pages(func(token string) ([]*v2.Resource, string, error) {
			page, err := store.ListResources(ctx, v2.ResourcesServiceListResourcesRequest_builder{ResourceTypeId: id, PageSize: pageSize, PageToken: token}.Build())
			return page.GetList(), page.GetNextPageToken(), err
		})
		if err != nil {
			return answers, fmt.Errorf("ListResources %s: %w", id, err)
		}
		count := 0
		for _, each := range c.resources {
			if each.GetId().GetResourceType() == id {
				count++
			}
		}
		if len(listed) != count {
			wrong.add("ListResources of type %s: %d, all together list %d", id, len(listed), count)
		}
		for _, got := range listed {
			same("ListResources", got, c.resources[resourceKey(got.GetId())])
		}
		ofType, err := pages(func(token string) ([]*v2.Grant, string, error) {
			page, err := store.ListGrantsForResourceType(ctx, reader_v2.GrantsReaderServiceListGrantsForResourceTypeRequest_builder{ResourceTypeId: id, PageSize: pageSize, PageToken: token}.Build())
			return page.GetList(), page.GetNextPageToken(), err
		})
		if err != nil {
			return answers, fmt.Errorf("ListGrantsForResourceType %s: %w", id, err)
		}
		for _, got := range ofType {
			same("ListGrantsForResourceType", got, c.grants[grantKey(got)])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.resources)) {
		want := c.resources[name]
		if answers%7 != 0 && len(c.resources) > 1000 {
			answers++
			continue
		}
		got, err := store.GetResource(ctx, reader_v2.ResourcesReaderServiceGetResourceRequest_builder{ResourceId: want.GetId()}.Build())
		if err != nil {
			return answers, fmt.Errorf("GetResource %s: %w", shown(name), err)
		}
		same("GetResource", got.GetResource(), want)
	}
	ofEntitlements := 0
	for id, want := range c.entitlements {
		got, err := store.GetEntitlement(ctx, reader_v2.EntitlementsReaderServiceGetEntitlementRequest_builder{EntitlementId: id}.Build())
		if err != nil {
			return answers, fmt.Errorf("GetEntitlement %s: %w", id, err)
		}
		same("GetEntitlement", got.GetEntitlement(), want)
		grants, err := pages(func(token string) ([]*v2.Grant, string, error) {
			page, err := store.ListGrantsForEntitlement(ctx, reader_v2.GrantsReaderServiceListGrantsForEntitlementRequest_builder{Entitlement: want, PageSize: pageSize, PageToken: token}.Build())
			return page.GetList(), page.GetNextPageToken(), err
		})
		if err != nil {
			return answers, fmt.Errorf("ListGrantsForEntitlement %s: %w", id, err)
		}
		ofEntitlements += len(grants)
		for _, got := range grants {
			same("ListGrantsForEntitlement", got, c.grants[grantKey(got)])
		}
	}
	if ofEntitlements != len(c.grants) {
		wrong.add("grants of all entitlements: %d, all together list %d", ofEntitlements, len(c.grants))
	}
	held := map[string][]*v2.Grant{}
	for _, each := range c.grants {
		held[resourceKey(each.GetPrincipal().GetId())] = append(held[resourceKey(each.GetPrincipal().GetId())], each)
	}
	for number, name := range slices.Sorted(maps.Keys(held)) {
		if number >= 300 {
			break
		}
		grants, err := pages(func(token string) ([]*v2.Grant, string, error) {
			page, err := store.ListGrantsForPrincipal(ctx, reader_v2.GrantsReaderServiceListGrantsForPrincipalRequest_builder{
				PrincipalId: held[name][0].GetPrincipal().GetId(), PageSize: pageSize, PageToken: token}.Build())
			return page.GetList(), page.GetNextPageToken(), err
		})
		if err != nil {
			return answers, fmt.Errorf("ListGrantsForPrincipal %s: %w", shown(name), err)
		}
		answers++
		if len(grants) != len(held[name]) {
			wrong.add("ListGrantsForPrincipal %s: %d, listed %d", shown(name), len(grants), len(held[name]))
		}
		got, err := store.GetGrant(ctx, reader_v2.GrantsReaderServiceGetGrantRequest_builder{GrantId: held[name][0].GetId()}.Build())
		if err != nil {
			return answers, fmt.Errorf("GetGrant %s: %w", held[name][0].GetId(), err)
		}
		same("GetGrant", got.GetGrant(), held[name][0])
	}
	// What the sync run says of its own rows.
	stats, err := store.SyncMeta().StatsV2(ctx, connectorstore.SyncType(c.sync.Type), c.sync.ID)
	if err != nil {
		return answers, fmt.Errorf("StatsV2: %w", err)
	}
	counted := [4]int64{int64(len(c.types)), int64(len(c.resources)), int64(len(c.entitlements)), int64(len(c.grants))}
	told := [4]int64{stats.GetResourceTypes(), stats.GetResources(), stats.GetEntitlements(), stats.GetGrants()}
	answers++
	if counted != told {
		wrong.add("statistics tell %v rows (types, resources, entitlements, grants), listed are %v", told, counted)
	}
	perType := map[string]int64{}
	for _, each := range c.grants {
		perType[each.GetEntitlement().GetResource().GetId().GetResourceType()]++
	}
	if !maps.Equal(perType, stats.GetGrantsByResourceType()) && len(perType)+len(stats.GetGrantsByResourceType()) > 0 {
		wrong.add("statistics tell grants by type %v, listed are %v", stats.GetGrantsByResourceType(), perType)
	}
	return answers, wrong.err()
}

func text(m proto.Message) string {
	if m == nil || !m.ProtoReflect().IsValid() {
		return "nothing"
	}
	out := prototext.MarshalOptions{Multiline: false}.Format(m)
	if len(out) > 600 {
		out = out[:600] + "…"
	}
	return out
}

// compare lists the differences between two maps of messages, each seen through a view.
func compare[T proto.Message](wrong *problems, kind string, ours, theirs map[string]T, view func(T) proto.Message) {
	for _, name := range slices.Sorted(maps.Keys(ours)) {
		other, there := theirs[name]
		if !there {
			wrong.add("%s %s: only ours has it", kind, shown(name))
			continue
		}
		if a, b := view(ours[name]), view(other); !proto.Equal(a, b) {
			wrong.add("%s %s:\n  ours   %s\n  theirs %s", kind, shown(name), text(a), text(b))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		if _, there := ours[name]; !there {
			wrong.add("%s %s: ours lacks it", kind, shown(name))
		}
	}
}

func whole[T proto.Message](m T) proto.Message { return m }

// stub is what a file of format v3 keeps of a resource inside another row.
func stub(r *v2.Resource) *v2.Resource {
	if r == nil {
		return nil
	}
	return v2.Resource_builder{Id: v2.ResourceId_builder{ResourceType: r.GetId().GetResourceType(), Resource: r.GetId().GetResource()}.Build()}.Build()
}

// The views of a row that a file of format v3 keeps; what they leave out is what the SDK drops on conversion.
func resourceView(r *v2.Resource) proto.Message {
	out := proto.Clone(r).(*v2.Resource)
	out.ClearExternalId()
	out.SetCreationSource(0)
	out.SetBatonResource(false)
	return out
}

func entitlementView(e *v2.Entitlement) proto.Message {
	out := proto.Clone(e).(*v2.Entitlement)
	out.SetResource(stub(e.GetResource()))
	var grantable []*v2.ResourceType
	for _, each := range e.GetGrantableTo() {
		grantable = append(grantable, v2.ResourceType_builder{Id: each.GetId()}.Build())
	}
	out.SetGrantableTo(grantable)
	return out
}

func grantView(g *v2.Grant) proto.Message {
	out := proto.Clone(g).(*v2.Grant)
	out.SetEntitlement(v2.Entitlement_builder{Id: g.GetEntitlement().GetId(), Resource: stub(g.GetEntitlement().GetResource())}.Build())
	out.SetPrincipal(stub(g.GetPrincipal()))
	// The annotation moves in and out of its own column; it is compared by itself.
	kept := annotations.Annotations{}
	for _, each := range out.GetAnnotations() {
		if !each.MessageIs(&v2.GrantExpandable{}) {
			kept = append(kept, each)
		}
	}
	out.SetAnnotations(kept)
	return out
}

// sameRows compares two contents row by row in the view of format v3.
func sameRows(ours, theirs *content) error {
	wrong := &problems{}
	compare(wrong, "resource type", ours.types, theirs.types, whole[*v2.ResourceType])
	compare(wrong, "resource", ours.resources, theirs.resources, func(r *v2.Resource) proto.Message { return resourceView(r) })
	compare(wrong, "entitlement", ours.entitlements, theirs.entitlements, func(e *v2.Entitlement) proto.Message { return entitlementView(e) })
	compare(wrong, "grant", ours.grants, theirs.grants, func(g *v2.Grant) proto.Message { return grantView(g) })
	compare(wrong, "expandable", ours.expandable, theirs.expandable, whole[*v2.GrantExpandable])
	return wrong.err()
}

// rewrite writes the rows of a content with the SDK's own writer.
func rewrite(ctx context.Context, c *content, path string, engine c1zstore.Engine) error {
	store, err := dotc1z.NewStore(ctx, path, dotc1z.WithEngine(engine))
	if err != nil {
		return err
	}
	if _, err = store.StartNewSync(ctx, c.sync.Type, ""); err != nil {
		return err
	}
	if err = store.PutResourceTypes(ctx, slices.Collect(maps.Values(c.types))...); err != nil {
		return err
	}
	if err = store.PutResources(ctx, slices.Collect(maps.Values(c.resources))...); err != nil {
		return err
	}
	if err = store.PutEntitlements(ctx, slices.Collect(maps.Values(c.entitlements))...); err != nil {
		return err
	}
	grants := make([]*v2.Grant, 0, len(c.grants))
	for name, each := range c.grants {
		if expandable := c.expandable[name]; expandable != nil {
			each = proto.Clone(each).(*v2.Grant)
			list := annotations.Annotations(each.GetAnnotations())
			list.Update(expandable)
			each.SetAnnotations(list)
		}
		grants = append(grants, each)
	}
	if err = store.PutGrants(ctx, grants...); err != nil {
		return err
	}
	if err = store.EndSync(ctx); err != nil {
		return err
	}
	return store.Close(ctx)
}

func copyFile(from, to string) error {
	bytes, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, bytes, 0o600)
}

// The envelope of format v1, unpacked and packed without the SDK: for looking at tables and for breaking them.
var magic = []byte("C1ZF\x00")

func unpack(path string) (string, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	body, ok := bytes.CutPrefix(file, magic)
	if !ok {
		return "", fmt.Errorf("%s is no file of format v1", path)
	}
	decoder, err := zstd.NewReader(bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	defer decoder.Close()
	plain := path + ".db"
	out, err := os.Create(plain)
	if err != nil {
		return "", err
	}
	defer out.Close()
	if _, err := io.Copy(out, decoder); err != nil {
		return "", err
	}
	return plain, out.Close()
}

// tamper runs a change on the database inside a file.
func tamper(path string, change func(*sql.DB) error) error {
	plain, err := unpack(path)
	if err != nil {
		return err
	}
	defer os.Remove(plain)
	db, err := sql.Open("sqlite", plain)
	if err != nil {
		return err
	}
	err = change(db)
	if closed := db.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	body, err := os.ReadFile(plain)
	if err != nil {
		return err
	}
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(slices.Clone(magic), encoder.EncodeAll(body, nil)...), 0o600)
}

// schema describes every table and index of the database inside a file.
func schema(path string) (map[string]string, error) {
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
	facts := map[string]string{}
	add := func(query string) error {
		rows, err := db.Query(query)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name, fact string
			if err := rows.Scan(&name, &fact); err != nil {
				return err
			}
			facts[name] = strings.TrimPrefix(facts[name]+" | "+fact, " | ")
		}
		return rows.Err()
	}
	for _, query := range []string{
		`select 'column ' || m.name || '.' || c.name, c.type || ' notnull ' || c."notnull" || ' default ' || ifnull(c.dflt_value, '-') || ' pk ' || c.pk
		 from sqlite_master m, pragma_table_info(m.name) c where m.type = 'table' and m.name not like 'sqlite_%'`,
		`select 'index ' || i.name, 'on ' || m.name || ' unique ' || i."unique" || ' partial ' || i.partial
		 from sqlite_master m, pragma_index_list(m.name) i where m.type = 'table' and i.name not like 'sqlite_%'`,
		`select 'index ' || i.name, ifnull(x.name, '-') || ' ' || x.desc || ' ' || x.coll
		 from sqlite_master m, pragma_index_list(m.name) i, pragma_index_xinfo(i.name) x
		 where m.type = 'table' and i.name not like 'sqlite_%' and x.key = 1 order by i.name, x.seqno`,
		`select 'index ' || name, 'where ' || replace(replace(lower(trim(substr(sql, instr(lower(sql), ' where ') + 7))), '"', ''), '` + "`" + `', '')
		 from sqlite_master where type = 'index' and instr(lower(sql), ' where ') > 0`,
	} {
		if err := add(query); err != nil {
			return nil, err
		}
	}
	return facts, nil
}

// columns reads every row of the four tables as text, without what differs from run to run.
func columns(path string) (map[string]string, map[string][]byte, error) {
	plain, err := unpack(path)
	if err != nil {
		return nil, nil, err
	}
	defer os.Remove(plain)
	db, err := sql.Open("sqlite", plain)
	if err != nil {
		return nil, nil, err
	}
	defer db.Close()
	texts, blobs := map[string]string{}, map[string][]byte{}
	for _, table := range []string{"v1_resource_types", "v1_resources", "v1_entitlements", "v1_grants"} {
		rows, err := db.Query("select * from " + table)
		if err != nil {
			return nil, nil, err
		}
		names, err := rows.Columns()
		if err != nil {
			return nil, nil, err
		}
		for rows.Next() {
			values := make([]any, len(names))
			pointers := make([]any, len(names))
			for i := range values {
				pointers[i] = &values[i]
			}
			if err := rows.Scan(pointers...); err != nil {
				rows.Close()
				return nil, nil, err
			}
			id, parts := "", []string{}
			var data []byte
			for i, name := range names {
				switch name {
				case "id", "sync_id", "discovered_at":
				case "external_id":
					id = fmt.Sprint(values[i])
				case "data":
					data, _ = values[i].([]byte)
				default:
					parts = append(parts, fmt.Sprintf("%s=%T:%v", name, values[i], values[i]))
				}
			}
			name := table + " " + id
			if _, twice := texts[name]; twice {
				rows.Close()
				return nil, nil, fmt.Errorf("%s is there twice", name)
			}
			texts[name], blobs[name] = strings.Join(parts, ", "), data
		}
		if err := rows.Err(); err != nil {
			return nil, nil, err
		}
		rows.Close()
	}
	return texts, blobs, nil
}

// sameColumns compares two files of format v1 table by table: columns as they are, blobs as messages.
// Grants are seen through a view.
func sameColumns(ours, theirs string, view func(*v2.Grant) proto.Message) (int, error) {
	ourTexts, ourBlobs, err := columns(ours)
	if err != nil {
		return 0, err
	}
	theirTexts, theirBlobs, err := columns(theirs)
	if err != nil {
		return 0, err
	}
	wrong := &problems{}
	for _, name := range slices.Sorted(maps.Keys(ourTexts)) {
		other, there := theirTexts[name]
		if !there {
			wrong.add("%s: only ours has it", name)
			continue
		}
		if ourTexts[name] != other {
			wrong.add("%s:\n  ours   %s\n  theirs %s", name, ourTexts[name], other)
		}
		var a, b proto.Message
		switch strings.SplitN(name, " ", 2)[0] {
		case "v1_resource_types":
			a, b = &v2.ResourceType{}, &v2.ResourceType{}
		case "v1_resources":
			a, b = &v2.Resource{}, &v2.Resource{}
		case "v1_entitlements":
			a, b = &v2.Entitlement{}, &v2.Entitlement{}
		default:
			a, b = &v2.Grant{}, &v2.Grant{}
		}
		if err := proto.Unmarshal(ourBlobs[name], a); err != nil {
			wrong.add("%s: our blob: %v", name, err)
			continue
		}
		if err := proto.Unmarshal(theirBlobs[name], b); err != nil {
			return 0, fmt.Errorf("%s: their blob: %w", name, err)
		}
		if g, ok := a.(*v2.Grant); ok {
			a, b = view(g), view(b.(*v2.Grant))
		}
		if !proto.Equal(a, b) {
			wrong.add("%s:\n  ours   %s\n  theirs %s", name, text(a), text(b))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(theirTexts)) {
		if _, there := ourTexts[name]; !there {
			wrong.add("%s: ours lacks it", name)
		}
	}
	return len(ourTexts), wrong.err()
}

func sibling(path, suffix string) string {
	return strings.TrimSuffix(path, filepath.Ext(path)) + suffix
}
