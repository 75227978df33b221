//! Grant expansion: holders of one entitlement also get those that it passes on.
//!
//! Driven by the store: grants of a source are read page by page and written in batches, so memory depends on the
//! graph alone. Entitlements are evaluated in topological order, each once; there is no limit of depth (the official
//! engine limits it to 20 on SQLite files and not at all on its newer ones).

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Error,
    graph::{Edge, Graph, Node, Plan},
};
use crate::{
    c1z::{self, PrincipalCursor, Store, StoredRow, Writer},
    clock::Clock,
    model,
    proto::{self, connector as v2},
};

/// Grants read at once.
const PAGE: usize = 256;
/// Pairs of grant and target after which the thread of the database is given back.
const PAIRS_PER_TURN: usize = 4096;
/// How many ids a warning shows.
const EXAMPLES: usize = 25;

/// What an expansion did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Expansion {
    /// Grants made.
    pub(super) created: u64,
    /// Grants that got a further source.
    pub(super) updated: u64,
    /// Inherited grants that could not be made because another pair has their id.
    pub(super) taken_ids: u64,
    /// Edges left out because an entitlement is not stored.
    pub(super) skipped: u64,
    /// Some of the entitlements that are not stored.
    pub(super) examples: Vec<String>,
}

/// Expands all grants of the store that need it.
pub(super) async fn expand(
    writer: &Writer,
    clock: &dyn Clock,
    mut tell: impl FnMut(u64, u64),
) -> Result<Expansion, Error> {
    let (graph, mut expansion) = writer
        .run(|store| build(store).map_or_else(fail, |built| Ok(Ok(built))))
        .await??;
    if graph.is_empty() {
        return Ok(expansion);
    }
    let plan = Arc::new(graph.plan());
    let total = plan.len() as u64;
    let mut cursor = Cursor::default();
    while (cursor.step as u64) < total {
        let plan = Arc::clone(&plan);
        let now = clock.now();
        let tally;
        (cursor, tally) = writer
            .run(move |store| advance(store, &plan, cursor, now))
            .await?;
        expansion.created += tally.created;
        expansion.updated += tally.updated;
        expansion.taken_ids += tally.taken_ids;
        tell(cursor.step as u64, total);
    }
    Ok(expansion)
}

/// Splits what the store could not do from what the data does not allow.
fn fail<T>(error: Error) -> Result<Result<T, Error>, c1z::Error> {
    match error {
        Error::File(error) => Err(error),
        other => Ok(Err(other)),
    }
}

fn build(store: &Store) -> Result<(Graph, Expansion), Error> {
    let mut graph = Graph::default();
    let mut expansion = Expansion::default();
    let mut after = 0;
    loop {
        let page = store.expandable_grants(after, PAGE)?;
        let Some(last) = page.last() else { break };
        after = last.row;
        for grant in &page {
            for source_id in &grant.expansion.entitlement_ids {
                let Some(source) = node(store, &mut graph, source_id)? else {
                    skip(&mut expansion, source_id);
                    continue;
                };
                let resource = graph.node(source).map(|node| &node.resource);
                if resource.is_none_or(|resource| !same(resource, &grant.principal)) {
                    return Err(Error::SourceMismatch {
                        source_entitlement: source_id.clone(),
                        principal: model::resource_text(&grant.principal),
                        entitlement: grant.entitlement_id.clone(),
                    });
                }
                let Some(target) = node(store, &mut graph, &grant.entitlement_id)? else {
                    skip(&mut expansion, &grant.entitlement_id);
                    continue;
                };
                graph.add_edge(
                    source,
                    target,
                    grant.expansion.shallow,
                    &grant.expansion.resource_type_ids,
                );
            }
        }
    }
    Ok((graph, expansion))
}

fn node(store: &Store, graph: &mut Graph, id: &str) -> Result<Option<u32>, Error> {
    if let Some(known) = graph.find(id) {
        return Ok(Some(known));
    }
    Ok(store
        .entitlement_resource(id)?
        .map(|resource| graph.add_node(id, resource)))
}

fn skip(expansion: &mut Expansion, id: &str) {
    expansion.skipped += 1;
    if expansion.examples.len() < EXAMPLES && !expansion.examples.iter().any(|known| known == id) {
        expansion.examples.push(id.to_owned());
    }
}

fn same(a: &v2::ResourceId, b: &v2::ResourceId) -> bool {
    a.resource_type == b.resource_type && a.resource == b.resource
}

/// Where the evaluation stands.
#[derive(Debug, Default)]
struct Cursor {
    step: usize,
    after: Option<PrincipalCursor>,
}

#[derive(Debug, Default)]
struct Tally {
    created: u64,
    updated: u64,
    taken_ids: u64,
}

/// Evaluates until enough pairs were seen or nothing is left.
fn advance(
    store: &mut Store,
    plan: &Plan,
    mut cursor: Cursor,
    now: Timestamp,
) -> Result<(Cursor, Tally), c1z::Error> {
    let mut tally = Tally::default();
    let mut pairs = 0;
    while pairs < PAIRS_PER_TURN
        && let Some(source) = plan.source(cursor.step)
    {
        let page = store.grants_of(&source.entitlement_id, cursor.after.as_ref(), PAGE)?;
        for (target, edge) in plan.targets(cursor.step) {
            for row in &page {
                pass_on(
                    store,
                    plan,
                    source,
                    (target, edge),
                    &row.message,
                    now,
                    &mut tally,
                )?;
                pairs += 1;
            }
        }
        cursor.after = page.last().and_then(principal_cursor);
        if page.len() < PAGE || cursor.after.is_none() {
            cursor.step += 1;
            cursor.after = None;
        }
        pairs += 1;
    }
    Ok((cursor, tally))
}

fn principal_cursor(row: &StoredRow<v2::Grant>) -> Option<PrincipalCursor> {
    let id = row.message.principal.as_ref()?.id.as_ref()?;
    Some((id.resource_type.clone(), id.resource.clone()))
}

fn pass_on(
    store: &mut Store,
    plan: &Plan,
    source: &Node,
    (target, edge): (&Node, &Edge),
    grant: &v2::Grant,
    now: Timestamp,
    tally: &mut Tally,
) -> Result<(), c1z::Error> {
    let Some(principal) = &grant.principal else {
        return Ok(());
    };
    let Some(principal_id) = &principal.id else {
        return Ok(());
    };
    if !plan.passes(edge, &principal_id.resource_type) {
        return Ok(());
    }
    let sources = grant.sources.as_ref().map(|sources| &sources.sources);
    let is_direct = sources
        .is_none_or(|sources| sources.is_empty() || sources.contains_key(&source.entitlement_id));
    if edge.shallow && !is_direct {
        return Ok(());
    }
    let by_source = v2::grant_sources::GrantSource { is_direct };
    match store.grant_to(&target.entitlement_id, principal_id)? {
        None => {
            let inherited = v2::Grant {
                id: model::grant_id(&target.entitlement_id, principal_id),
                // Ids only: a copy of the whole resource in each of a million rows would only swell the file, and
                // readers look entitlements up by id.
                entitlement: Some(v2::Entitlement {
                    id: target.entitlement_id.clone(),
                    resource: Some(v2::Resource {
                        id: Some(target.resource.clone()),
                        ..v2::Resource::default()
                    }),
                    ..v2::Entitlement::default()
                }),
                principal: Some(principal.clone()),
                sources: Some(v2::GrantSources {
                    sources: [(source.entitlement_id.clone(), by_source)].into(),
                }),
                annotations: vec![proto::pack(&v2::GrantImmutable::default())],
            };
            if store.put_inherited(&inherited, now)? {
                tally.created += 1;
            } else {
                tally.taken_ids += 1;
            }
        }
        Some(StoredRow { row, mut message }) => {
            let sources = &mut message.sources.get_or_insert_default().sources;
            let mut is_changed = false;
            if sources.is_empty() {
                sources.insert(
                    target.entitlement_id.clone(),
                    v2::grant_sources::GrantSource { is_direct: true },
                );
                is_changed = true;
            }
            match sources.get_mut(&source.entitlement_id) {
                None => {
                    sources.insert(source.entitlement_id.clone(), by_source);
                    is_changed = true;
                }
                Some(known) if is_direct && !known.is_direct => {
                    known.is_direct = true;
                    is_changed = true;
                }
                Some(_) => {}
            }
            if is_changed {
                store.replace_grant(row, &message)?;
                tally.updated += 1;
            }
        }
    }
    Ok(())
}
