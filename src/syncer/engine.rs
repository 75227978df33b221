//! The run of one sync: phases in order, listings side by side inside a phase.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    Environment, Error, Limits, Report, SyncRequest, expand,
    ingest::{self, Types},
    invariants,
    retry::{self, Policy},
    token::{Quality, Token},
};
use crate::{
    c1z::{Finish, GrantOutcome, InvariantMarker, SyncStart, Writer},
    connector::{self, Connector, Page, SyncScope, Validation},
    error::{Class, Classify, Code},
    model::{self, SyncId},
    proto::{self, connector as v2},
};

/// Listings at once when the request leaves it to the engine.
const WORKERS: usize = 8;
/// Attempts of the start-up check.
const VALIDATE_ATTEMPTS: u32 = 5;
/// No attempt of the start-up check begins later than this: a connector that waits by itself has waited enough then.
const VALIDATE_BUDGET: Duration = Duration::from_mins(1);
/// Stored resources read at once, to be listed or multiplied.
const RESOURCES: usize = 256;
/// Listings between two looks at the share of warnings.
const CHECK_EVERY: u64 = 100;
/// Warnings kept word by word.
const WARNINGS_KEPT: usize = 100;
/// Limits of `EnqueuePageTokens`.
const TOKENS_PER_RESPONSE: usize = 1024;
const TOKEN_BYTES: usize = 1 << 20;
const TOKEN_BYTES_PER_RESPONSE: usize = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Full,
    ResourcesOnly,
    Partial,
}

impl Kind {
    fn of(request: &SyncRequest) -> Self {
        if request.empty {
            Self::Full
        } else if !request.targeted.is_empty() {
            Self::Partial
        } else if request.skip_entitlements_and_grants {
            Self::ResourcesOnly
        } else {
            Self::Full
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ResourcesOnly => "resources_only",
            Self::Partial => "partial",
        }
    }
}

/// Runs one sync; see [`super::sync_to_file`].
pub(super) async fn run(
    connector: &dyn Connector,
    request: &SyncRequest,
    environment: Environment<'_>,
    limits: Limits,
    target: &Path,
) -> Result<Report, Error> {
    let started_at = environment.clock.now();
    let start = SyncStart {
        sync_id: SyncId::generate(started_at).into(),
        sync_type: Kind::of(request).name().to_owned(),
        started_at,
    };
    let sync_id = start.sync_id.clone();
    tracing::info!(sync.id = sync_id, sync.type = start.sync_type, "sync begins");
    let begun = Instant::now();
    let result = write(connector, request, environment, limits, target, start).await;
    if tokio::time::timeout(limits.cleanup_timeout, connector.cleanup(&sync_id))
        .await
        .is_err()
    {
        tracing::warn!(sync.id = sync_id, "the connector did not clean up in time");
    }
    if let Ok(report) = &result {
        tracing::info!(
            sync.id = sync_id,
            duration_ms = millis(begun.elapsed()),
            resources = report.resources.values().sum::<u64>(),
            entitlements = report.entitlements.values().sum::<u64>(),
            grants = report.grants.values().sum::<u64>(),
            grants.expanded = report.expanded_grants,
            warnings = report.warnings.len(),
            file.bytes = report.file_bytes,
            "sync complete"
        );
    }
    result
}

async fn write(
    connector: &dyn Connector,
    request: &SyncRequest,
    environment: Environment<'_>,
    limits: Limits,
    target: &Path,
    start: SyncStart,
) -> Result<Report, Error> {
    let mut steps = BTreeMap::new();
    let begun = Instant::now();
    let policy = Policy {
        attempts: VALIDATE_ATTEMPTS,
        budget: limits.retry_budget.min(VALIDATE_BUDGET),
    };
    let Validation {
        mut warnings,
        unreadable,
    } = tokio::select! {
        biased;
        () = environment.cancel.cancelled() => return Err(Error::Cancelled),
        validated = retry::call(policy, "validate", || connector.validate()) =>
            validated.map_err(Error::Validate)?,
    };
    steps.insert("validate", begun.elapsed());

    let sync_id = start.sync_id.clone();
    let kind = Kind::of(request);
    let writer = Writer::create(
        environment.work_dir,
        start,
        environment.cancel.child_token(),
    )
    .await?;
    let mut engine = Engine {
        connector,
        request,
        environment,
        kind,
        scope: SyncScope {
            sync_id: sync_id.clone(),
            resource_type_ids: request.resource_type_ids.clone(),
            folder: None,
        },
        unreadable,
        policy: Policy {
            attempts: u32::MAX,
            budget: limits.retry_budget,
        },
        writer: &writer,
        types: Types::default(),
        state: Mutex::default(),
        steps,
        expansion: None,
    };
    // Whatever runs inside is cancel-safe: pages that the writer already has are written whole, then it is discarded.
    let gathered = tokio::select! {
        biased;
        () = environment.cancel.cancelled() => Err(Error::Cancelled),
        gathered = engine.gather() => gathered,
    };
    let Engine {
        state,
        mut steps,
        expansion,
        ..
    } = engine;
    if let Err(error) = gathered {
        writer.discard().await;
        return Err(error);
    }
    let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    warnings.extend(state.summary(expansion.as_ref()));
    warnings.extend(connector.take_warnings(&sync_id));

    environment.progress.phase("seal");
    let begun = Instant::now();
    let listed = kind != Kind::ResourcesOnly;
    let finish = Finish {
        ended_at: environment.clock.now(),
        token: state.token(request, kind).to_json(),
        supports_diff: kind == Kind::Full && !request.empty,
        // An empty sync was not checked, as there was nothing to check.
        invariants: (!request.empty).then(|| InvariantMarker {
            generation: invariants::GENERATION.to_owned(),
            coverage: vec!["I5".to_owned(), "I10".to_owned()],
            mode: invariants::MODE.to_owned(),
        }),
        step_durations_ms: steps
            .iter()
            .map(|(&name, &took)| (name.replace(' ', "-"), millis(took)))
            .collect(),
    };
    let sealed = writer.seal(finish, listed, target).await?;
    steps.insert("seal", begun.elapsed());
    Ok(Report {
        sync_id,
        sync_type: kind.name().to_owned(),
        resources: sealed.counts.resources,
        entitlements: sealed.counts.entitlements,
        grants: sealed.counts.grants,
        expanded_grants: expansion.map_or(0, |expansion| expansion.created),
        warnings,
        steps,
        file_bytes: sealed.bytes,
    })
}

/// What the listings of a sync share.
#[derive(Debug, Default)]
struct State {
    /// Listings found by other listings of the running phase.
    spawned: VecDeque<Job>,
    /// Child listings that were scheduled.
    children: HashSet<(String, String, String)>,
    /// Enqueued cursors that were admitted.
    cursors: HashSet<CursorKey>,
    enqueued: u64,
    drained: u64,
    completed: u64,
    /// Listings that answered "not found".
    missing: u64,
    warnings: Vec<String>,
    /// Warnings beyond those kept.
    more_warnings: u64,
    quality: Quality,
    grants: GrantOutcome,
    has_external_matches: bool,
    /// Done and total by resource type, in the running phase.
    progress: BTreeMap<String, (u64, u64)>,
}

type CursorKey = (&'static str, bool, String, String, String);

impl State {
    fn warn(&mut self, warning: String) {
        if self.warnings.len() < WARNINGS_KEPT {
            self.warnings.push(warning);
        } else {
            self.more_warnings += 1;
        }
    }

    fn token(&self, request: &SyncRequest, kind: Kind) -> Token {
        Token {
            needs_expansion: self.grants.expandable > 0 && !request.skip_expand_grants,
            has_external_resource_grants: self.has_external_matches,
            should_fetch_related_resources: kind == Kind::Partial,
            should_skip_entitlements_and_grants: request.skip_entitlements_and_grants,
            should_skip_grants: request.skip_grants,
            completed_actions: self.completed,
            quality: self.quality,
        }
    }

    /// What a person should know of the whole sync.
    fn summary(&self, expansion: Option<&expand::Expansion>) -> Vec<String> {
        let mut lines = self.warnings.clone();
        let mut say = |count: u64, what: &str| {
            if count > 0 {
                lines.push(format!("{count} {what}"));
            }
        };
        say(self.more_warnings, "further objects were not found");
        let Quality {
            entitlements_dropped,
            grants_dropped,
            grant_resources_dropped,
            expansion_types_dropped: _,
            expansions_dropped,
            invalid_resource_types,
            invalid_resources,
            invalid_entitlements,
        } = self.quality;
        say(
            invalid_resource_types,
            "resource types without id were left out",
        );
        say(
            invalid_resources,
            "resources without type or id were left out",
        );
        say(
            invalid_entitlements,
            "entitlements without id or resource were left out",
        );
        say(
            entitlements_dropped,
            "entitlements of resource types that are not synced were left out",
        );
        say(
            grants_dropped,
            "grants of or to resource types that are not synced were left out",
        );
        say(
            grant_resources_dropped,
            "resources brought by grants were left out",
        );
        say(
            expansions_dropped,
            "grants lost their expansion because none of its resource types is synced",
        );
        say(
            self.grants.incomplete,
            "grants without id, entitlement, resource or principal were left out",
        );
        say(
            self.grants.duplicate_pairs,
            "grants were left out because their principal has another grant of the same entitlement",
        );
        say(
            self.grants.taken_ids,
            "grants were left out because another grant has the same id",
        );
        if let Some(expansion) = expansion {
            say(
                expansion.taken_ids,
                "inherited grants were left out because another grant has the same id",
            );
            if expansion.skipped > 0 {
                lines.push(format!(
                    "{} inheritances were left out because these entitlements are not part of the sync: {}",
                    expansion.skipped,
                    expansion.examples.join(", ")
                ));
            }
        }
        lines
    }
}

/// Which of the two listings a resource has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listing {
    Entitlements,
    Grants,
}

impl Listing {
    fn phase(self) -> &'static str {
        match self {
            Self::Entitlements => "entitlements",
            Self::Grants => "grants",
        }
    }

    fn operation(self) -> &'static str {
        match self {
            Self::Entitlements => "list the entitlements",
            Self::Grants => "list the grants",
        }
    }
}

/// One listing, from its first page to its last.
#[derive(Debug)]
enum Job {
    Resources {
        type_id: String,
        parent: Option<v2::ResourceId>,
    },
    Static {
        type_id: String,
    },
    Target(Box<v2::Resource>),
    Rows {
        listing: Listing,
        /// The resource, or a stub `{type, type}` for a listing of a whole type.
        resource: Box<v2::Resource>,
        is_type_scoped: bool,
        /// A cursor that another page enqueued.
        cursor: Option<String>,
    },
}

/// Where the listings of a phase come from.
enum Feed {
    Jobs(VecDeque<Job>),
    Stored {
        listing: Listing,
        /// Types whose resources are listed one by one.
        types: VecDeque<String>,
        after: i64,
        page: VecDeque<v2::Resource>,
    },
}

struct Engine<'a> {
    connector: &'a dyn Connector,
    request: &'a SyncRequest,
    environment: Environment<'a>,
    kind: Kind,
    scope: SyncScope,
    /// Resource types that are left out because the connector may not read them.
    unreadable: Vec<String>,
    policy: Policy,
    writer: &'a Writer,
    types: Types,
    state: Mutex<State>,
    steps: BTreeMap<&'static str, Duration>,
    expansion: Option<expand::Expansion>,
}

impl Engine<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The types that restrict what is stored; only a full sync knows all of them.
    fn restriction(&self) -> Option<&Types> {
        (self.kind == Kind::Full).then_some(&self.types)
    }

    async fn gather(&mut self) -> Result<(), Error> {
        if self.request.empty {
            return Ok(());
        }
        self.begin("resource types");
        let begun = Instant::now();
        self.types = self.resource_types().await?;
        self.end("resource types", begun)?;
        if self.kind == Kind::Partial {
            return self.gather_targets().await;
        }

        self.phase("resources", self.top_level()).await?;
        if self.kind == Kind::ResourcesOnly {
            return self.check_invariants().await;
        }
        let templates = self.each_type(|type_id| Job::Static { type_id });
        self.phase("static entitlements", templates).await?;
        for listing in [Listing::Entitlements, Listing::Grants] {
            if listing == Listing::Grants && self.request.skip_grants {
                continue;
            }
            let scoped = self.type_scoped(listing);
            self.state().spawned.extend(scoped);
            self.begin(listing.phase());
            let begun = Instant::now();
            self.tell_totals(listing).await?;
            self.run_jobs(self.stored(listing)).await?;
            self.end(listing.phase(), begun)?;
        }
        self.check_invariants().await?;
        if !self.request.skip_expand_grants && self.state().grants.expandable > 0 {
            self.begin("expansion");
            let begun = Instant::now();
            let Environment {
                clock, progress, ..
            } = self.environment;
            let expansion = expand::expand(self.writer, clock, |done, total| {
                progress.advance("entitlement", done, total);
            })
            .await?;
            tracing::debug!(
                grants.created = expansion.created,
                grants.updated = expansion.updated,
                "grants expanded"
            );
            self.expansion = Some(expansion);
            self.end("expansion", begun)?;
        }
        Ok(())
    }

    async fn gather_targets(&mut self) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        let filter = &self.request.resource_type_ids;
        let targets: Vec<_> = self
            .request
            .targeted
            .iter()
            .filter(|target| {
                let Some(id) = target.id.as_ref() else {
                    return false;
                };
                let parent = target.parent_resource_id.as_ref();
                (filter.is_empty() || filter.contains(&id.resource_type))
                    && seen.insert((
                        model::resource_text(id),
                        parent.map(model::resource_text).unwrap_or_default(),
                    ))
            })
            .map(|target| Job::Target(Box::new(target.clone())))
            .collect();
        self.phase("resources", Feed::Jobs(targets.into())).await?;
        // What the targets left for the later phases was set aside by `target`.
        for listing in [Listing::Entitlements, Listing::Grants] {
            let jobs = {
                let mut state = self.state();
                let (now, later): (VecDeque<_>, VecDeque<_>) =
                    std::mem::take(&mut state.spawned).into_iter().partition(
                        |job| matches!(job, Job::Rows { listing: of, .. } if *of == listing),
                    );
                state.spawned = later;
                now
            };
            let later = std::mem::take(&mut self.state().spawned);
            self.phase(listing.phase(), Feed::Jobs(jobs)).await?;
            self.state().spawned = later;
        }
        self.check_invariants().await
    }

    fn begin(&self, name: &'static str) {
        tracing::debug!(sync.id = self.scope.sync_id, phase = name, "phase begins");
        self.environment.progress.phase(name);
        self.state().progress.clear();
    }

    fn end(&mut self, name: &'static str, begun: Instant) -> Result<(), Error> {
        self.steps.insert(name, begun.elapsed());
        self.check_warnings()
    }

    async fn phase(&mut self, name: &'static str, feed: Feed) -> Result<(), Error> {
        self.begin(name);
        let begun = Instant::now();
        self.run_jobs(feed).await?;
        self.end(name, begun)
    }

    async fn run_jobs(&self, mut feed: Feed) -> Result<(), Error> {
        let workers = match self.request.workers {
            0 => WORKERS,
            chosen => chosen,
        };
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < workers {
                let spawned = self.take_spawned();
                let job = match spawned {
                    Some(job) => Some(job),
                    None => self.next_job(&mut feed).await?,
                };
                let Some(job) = job else { break };
                running.push(Box::pin(self.execute(job)));
            }
            let Some(done) = running.next().await else {
                return Ok(());
            };
            done?;
            let completed = {
                let mut state = self.state();
                state.completed += 1;
                state.completed
            };
            if completed.is_multiple_of(CHECK_EVERY) {
                self.check_warnings()?;
            }
        }
    }

    /// The next listing that belongs to the running phase.
    fn take_spawned(&self) -> Option<Job> {
        let mut state = self.state();
        if self.kind != Kind::Partial {
            return state.spawned.pop_front();
        }
        // Targets leave listings of later phases behind; those wait.
        let position = state.spawned.iter().position(|job| match job {
            Job::Rows { cursor, .. } => cursor.is_some(),
            _ => true,
        })?;
        state.spawned.remove(position)
    }

    async fn next_job(&self, feed: &mut Feed) -> Result<Option<Job>, Error> {
        let (listing, types, after, page) = match feed {
            Feed::Jobs(jobs) => return Ok(jobs.pop_front()),
            Feed::Stored {
                listing,
                types,
                after,
                page,
            } => (*listing, types, after, page),
        };
        loop {
            if let Some(resource) = page.pop_front() {
                if self.is_skipped(listing, &resource) {
                    self.finished(&resource);
                    continue;
                }
                return Ok(Some(Job::Rows {
                    listing,
                    resource: Box::new(resource),
                    is_type_scoped: false,
                    cursor: None,
                }));
            }
            let Some(type_id) = types.front().cloned() else {
                return Ok(None);
            };
            let from = *after;
            let rows = self
                .writer
                .run(move |store| store.resources(&type_id, from, RESOURCES))
                .await?;
            if let Some(last) = rows.last() {
                *after = last.row;
                page.extend(rows.into_iter().map(|row| row.message));
            } else {
                types.pop_front();
                *after = 0;
            }
        }
    }

    fn each_type(&self, job: impl Fn(String) -> Job) -> Feed {
        Feed::Jobs(self.types.order.iter().cloned().map(job).collect())
    }

    fn top_level(&self) -> Feed {
        self.each_type(|type_id| Job::Resources {
            type_id,
            parent: None,
        })
    }

    /// The stored resources of all types that have this listing resource by resource.
    fn stored(&self, listing: Listing) -> Feed {
        Feed::Stored {
            listing,
            types: self
                .types
                .order
                .iter()
                .filter(|type_id| !self.is_scoped(listing, type_id))
                .filter(|type_id| !self.is_type_skipped(listing, type_id))
                .cloned()
                .collect(),
            after: 0,
            page: VecDeque::new(),
        }
    }

    fn is_scoped(&self, listing: Listing, type_id: &str) -> bool {
        let annotations = self.types.annotations(type_id);
        match listing {
            Listing::Entitlements => proto::has::<v2::TypeScopedEntitlements>(annotations),
            Listing::Grants => proto::has::<v2::TypeScopedGrants>(annotations),
        }
    }

    /// Listings of whole types. The stub carries the marker of the request, so that a connector can tell it apart.
    fn type_scoped(&self, listing: Listing) -> Vec<Job> {
        self.types
            .order
            .iter()
            .filter(|type_id| self.is_scoped(listing, type_id))
            .map(|type_id| Job::Rows {
                listing,
                resource: Box::new(v2::Resource {
                    id: Some(v2::ResourceId {
                        resource_type: type_id.clone(),
                        resource: type_id.clone(),
                        ..v2::ResourceId::default()
                    }),
                    annotations: vec![match listing {
                        Listing::Entitlements => {
                            proto::pack(&v2::TypeScopedEntitlements::default())
                        }
                        Listing::Grants => proto::pack(&v2::TypeScopedGrants::default()),
                    }],
                    ..v2::Resource::default()
                }),
                is_type_scoped: true,
                cursor: None,
            })
            .collect()
    }

    /// Whether no resource of a type has this listing. `SkipGrants` on a type has no effect, as in the official engine.
    fn is_type_skipped(&self, listing: Listing, type_id: &str) -> bool {
        let annotations = self.types.annotations(type_id);
        proto::has::<v2::SkipEntitlementsAndGrants>(annotations)
            || (listing == Listing::Entitlements && proto::has::<v2::SkipEntitlements>(annotations))
    }

    fn is_skipped(&self, listing: Listing, resource: &v2::Resource) -> bool {
        let own = &resource.annotations;
        let type_id = resource
            .id
            .as_ref()
            .map_or("", |id| id.resource_type.as_str());
        self.request.skip_entitlements_and_grants
            || proto::has::<v2::SkipEntitlementsAndGrants>(own)
            || self.is_type_skipped(listing, type_id)
            || match listing {
                Listing::Entitlements => proto::has::<v2::SkipEntitlements>(own),
                Listing::Grants => self.request.skip_grants || proto::has::<v2::SkipGrants>(own),
            }
    }

    async fn tell_totals(&self, listing: Listing) -> Result<(), Error> {
        let Feed::Stored { types, .. } = self.stored(listing) else {
            return Ok(());
        };
        for type_id in types {
            let id = type_id.clone();
            let total = self
                .writer
                .run(move |store| store.count_resources(&id))
                .await?;
            self.state().progress.insert(type_id.clone(), (0, total));
            self.environment.progress.advance(&type_id, 0, total);
        }
        Ok(())
    }

    /// One more resource has been listed, or needs no listing.
    fn finished(&self, resource: &v2::Resource) {
        if let Some(id) = &resource.id {
            self.advance(&id.resource_type, 1);
        }
    }

    fn advance(&self, type_id: &str, by: u64) {
        let (done, total) = {
            let mut state = self.state();
            let progress = state.progress.entry(type_id.to_owned()).or_default();
            progress.0 += by;
            *progress
        };
        self.environment.progress.advance(type_id, done, total);
    }

    fn check_warnings(&self) -> Result<(), Error> {
        let state = self.state();
        if too_many(state.missing, state.completed) {
            return Err(Error::TooManyWarnings {
                warnings: state.missing,
                completed: state.completed,
                first: state.warnings.first().cloned().unwrap_or_default(),
            });
        }
        Ok(())
    }

    async fn check_invariants(&mut self) -> Result<(), Error> {
        let (enqueued, drained) = {
            let state = self.state();
            (state.enqueued, state.drained)
        };
        self.writer
            .run(|store| invariants::exclusion_groups(store))
            .await??;
        if enqueued != drained {
            return Err(Error::Invariant {
                rule: "I10",
                problem: format!(
                    "{enqueued} page tokens were enqueued and {drained} read to the end"
                ),
            });
        }
        Ok(())
    }

    async fn resource_types(&self) -> Result<Types, Error> {
        let filter = &self.request.resource_type_ids;
        let all = self.connector.resource_types();
        let known: Vec<_> = all
            .iter()
            .filter(|each| !each.id.is_empty())
            .map(|each| each.id.clone())
            .collect();
        self.state().quality.invalid_resource_types += (all.len() - known.len()) as u64;
        if let Some(unknown) = filter.iter().find(|id| !known.contains(id)) {
            return Err(Error::UnknownFilterType {
                id: unknown.clone(),
                known: known.join(", "),
            });
        }
        let wanted: Vec<_> = all
            .into_iter()
            .filter(|each| !each.id.is_empty())
            .filter(|each| filter.is_empty() || filter.contains(&each.id))
            .filter(|each| !self.unreadable.contains(&each.id))
            .collect();
        let stored = wanted.clone();
        let now = self.environment.clock.now();
        self.writer
            .run(move |store| store.put_resource_types(&stored, now))
            .await?;
        self.state().completed += 1;
        Ok(Types::new(wanted))
    }

    /// Runs a listing to its end. "Not found" ends it with a warning.
    async fn execute(&self, job: Job) -> Result<(), Error> {
        let result = match job {
            Job::Resources { type_id, parent } => {
                self.list_resources(&type_id, parent.as_ref()).await
            }
            Job::Static { type_id } => self.list_static(&type_id).await,
            Job::Target(target) => self.target(&target).await,
            Job::Rows {
                listing,
                resource,
                is_type_scoped,
                cursor,
            } => {
                let is_enqueued = cursor.is_some();
                let listed = self
                    .list_rows(listing, &resource, is_type_scoped, cursor)
                    .await;
                if is_enqueued {
                    self.state().drained += 1;
                } else if !is_type_scoped {
                    self.finished(&resource);
                }
                listed
            }
        };
        match result {
            Err(error) if is_missing(&error) => {
                let warning = crate::error::chain(&error);
                tracing::warn!(sync.id = self.scope.sync_id, error = %warning, "a listing was left out");
                let mut state = self.state();
                state.missing += 1;
                state.warn(warning);
                Ok(())
            }
            other => other,
        }
    }

    async fn list_resources(
        &self,
        type_id: &str,
        parent: Option<&v2::ResourceId>,
    ) -> Result<(), Error> {
        let operation = "list the resources";
        let subject = || match parent {
            Some(parent) => format!("type {type_id} under {}", model::resource_text(parent)),
            None => format!("type {type_id}"),
        };
        let mut token: Option<String> = None;
        loop {
            let page = retry::call(self.policy, operation, || {
                self.connector
                    .list_resources(&self.scope, type_id, parent, token.as_deref())
            })
            .await
            .map_err(connector_error(operation, &subject))?;
            let next = next_token(&page, token.as_deref(), operation, &subject)?;
            let resources = ingest::resources(page.items, &mut self.state().quality)?;
            for resource in &resources {
                let id = ingest::complete_id(Some(resource)).map_or("", |id| &id.resource_type);
                let Some(resource_type) = self.types.get(id) else {
                    return Err(Error::Connector {
                        operation,
                        subject: subject(),
                        source: connector::Error::NotFound {
                            what: format!("resource type {id} of a listed resource"),
                        },
                    });
                };
                ingest::check_traits(resource, resource_type)?;
            }
            self.schedule_children(&resources);
            let count = resources.len() as u64;
            let now = self.environment.clock.now();
            self.writer
                .run(move |store| store.put_resources(&resources, now))
                .await?;
            self.advance(type_id, count);
            match next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Child listings, once for each pair of child type and parent.
    fn schedule_children(&self, resources: &[v2::Resource]) {
        let filter = &self.request.resource_type_ids;
        for resource in resources {
            let Some(id) = &resource.id else { continue };
            for child in resource
                .annotations
                .iter()
                .filter(|any| proto::is::<v2::ChildResourceType>(any))
                .filter_map(|any| {
                    <v2::ChildResourceType as prost::Message>::decode(any.value.as_slice()).ok()
                })
                .map(|child| child.resource_type_id)
                .filter(|child| filter.is_empty() || filter.contains(child))
            {
                let mut state = self.state();
                let key = (child.clone(), id.resource_type.clone(), id.resource.clone());
                if state.children.insert(key) {
                    state.spawned.push_back(Job::Resources {
                        type_id: child,
                        parent: Some(id.clone()),
                    });
                }
            }
        }
    }

    async fn list_static(&self, type_id: &str) -> Result<(), Error> {
        let operation = "list the static entitlements";
        let subject = || format!("type {type_id}");
        let mut token: Option<String> = None;
        loop {
            let page = retry::call(self.policy, operation, || {
                self.connector
                    .list_static_entitlements(&self.scope, type_id, token.as_deref())
            })
            .await
            .map_err(connector_error(operation, &subject))?;
            let next = next_token(&page, token.as_deref(), operation, &subject)?;
            if !page.items.is_empty() {
                self.multiply(type_id, page.items).await?;
            }
            match next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Gives every stored resource of a type its own copy of each template.
    async fn multiply(&self, type_id: &str, templates: Vec<v2::Entitlement>) -> Result<(), Error> {
        let templates = std::sync::Arc::new(templates);
        let mut after = 0;
        loop {
            let templates = std::sync::Arc::clone(&templates);
            let type_id = type_id.to_owned();
            let now = self.environment.clock.now();
            let last = self
                .writer
                .run(move |store| {
                    let rows = store.resources(&type_id, after, RESOURCES)?;
                    let Some(last) = rows.last().map(|row| row.row) else {
                        return Ok(None);
                    };
                    for row in rows {
                        let copies: Vec<_> = templates
                            .iter()
                            .filter_map(|template| instantiate(template, &row.message))
                            .collect();
                        store.put_entitlements(&copies, now)?;
                    }
                    Ok(Some(last))
                })
                .await?;
            match last {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    async fn list_rows(
        &self,
        listing: Listing,
        resource: &v2::Resource,
        is_type_scoped: bool,
        cursor: Option<String>,
    ) -> Result<(), Error> {
        let operation = listing.operation();
        let subject = || {
            let id = resource.id.as_ref();
            if is_type_scoped {
                id.map(|id| format!("type {}", id.resource_type))
            } else {
                id.map(model::resource_text)
            }
            .unwrap_or_default()
        };
        let mut token = cursor;
        loop {
            let (next, annotations) = match listing {
                Listing::Entitlements => {
                    let page = retry::call(self.policy, operation, || {
                        self.connector
                            .list_entitlements(&self.scope, resource, token.as_deref())
                    })
                    .await
                    .map_err(connector_error(operation, &subject))?;
                    let next = next_token(&page, token.as_deref(), operation, &subject)?;
                    self.store_entitlements(page.items).await?;
                    (next, page.annotations)
                }
                Listing::Grants => {
                    let page = retry::call(self.policy, operation, || {
                        self.connector
                            .list_grants(&self.scope, resource, token.as_deref())
                    })
                    .await
                    .map_err(connector_error(operation, &subject))?;
                    let next = next_token(&page, token.as_deref(), operation, &subject)?;
                    self.store_grants(page.items, &page.annotations).await?;
                    (next, page.annotations)
                }
            };
            let cursors = enqueued(&annotations, next.as_deref()).map_err(|problem| {
                Error::EnqueuedTokens {
                    operation,
                    subject: subject(),
                    problem,
                }
            })?;
            self.enqueue(listing, resource, is_type_scoped, cursors);
            match next {
                Some(next) => token = Some(next),
                None => return Ok(()),
            }
        }
    }

    fn enqueue(
        &self,
        listing: Listing,
        resource: &v2::Resource,
        is_type_scoped: bool,
        cursors: Vec<String>,
    ) {
        let Some(id) = &resource.id else { return };
        for cursor in cursors {
            let mut state = self.state();
            let key = (
                listing.phase(),
                is_type_scoped,
                id.resource_type.clone(),
                id.resource.clone(),
                cursor.clone(),
            );
            if !state.cursors.insert(key) {
                tracing::warn!(
                    sync.id = self.scope.sync_id,
                    resource.type = id.resource_type,
                    "a page token was enqueued twice; the second is ignored"
                );
                continue;
            }
            state.enqueued += 1;
            state.spawned.push_back(Job::Rows {
                listing,
                resource: Box::new(resource.clone()),
                is_type_scoped,
                cursor: Some(cursor),
            });
        }
    }

    async fn store_entitlements(&self, entitlements: Vec<v2::Entitlement>) -> Result<(), Error> {
        let kept =
            ingest::entitlements(entitlements, self.restriction(), &mut self.state().quality)?;
        if kept.is_empty() {
            return Ok(());
        }
        let now = self.environment.clock.now();
        Ok(self
            .writer
            .run(move |store| store.put_entitlements(&kept, now))
            .await?)
    }

    async fn store_grants(
        &self,
        grants: Vec<v2::Grant>,
        annotations: &[proto::Any],
    ) -> Result<(), Error> {
        let page = ingest::grants(
            grants,
            annotations,
            self.restriction(),
            &mut self.state().quality,
        )?;
        self.state().has_external_matches |= page.has_external_matches;
        if self.kind == Kind::Partial {
            self.fetch_related(&page.grants).await?;
        }
        if page.grants.is_empty() && page.resources.is_empty() {
            return Ok(());
        }
        let now = self.environment.clock.now();
        let outcome = self
            .writer
            .run(move |store| {
                let mut absent = Vec::new();
                for resource in page.resources {
                    // A stub inside a grant must not replace what the listing of resources said.
                    let is_known = match &resource.id {
                        Some(id) => store.resource(id)?.is_some(),
                        None => true,
                    };
                    if !is_known {
                        absent.push(resource);
                    }
                }
                store.put_resources(&absent, now)?;
                store.put_grants(page.grants, now)
            })
            .await?;
        self.state().grants.add(outcome);
        Ok(())
    }

    /// In a targeted sync, the resources of entitlements that are not stored yet.
    async fn fetch_related(&self, grants: &[v2::Grant]) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        for grant in grants {
            let Some(id) = grant
                .entitlement
                .as_ref()
                .and_then(|entitlement| ingest::complete_id(entitlement.resource.as_ref()))
            else {
                continue;
            };
            if !self.types.contains(&id.resource_type) || !seen.insert(model::resource_text(id)) {
                continue;
            }
            let wanted = id.clone();
            let is_stored = self
                .writer
                .run(move |store| Ok(store.resource(&wanted)?.is_some()))
                .await?;
            if !is_stored && let Some(resource) = self.fetch(id).await? {
                self.put_resource(resource).await?;
            }
        }
        Ok(())
    }

    async fn put_resource(&self, resource: v2::Resource) -> Result<(), Error> {
        let now = self.environment.clock.now();
        Ok(self
            .writer
            .run(move |store| store.put_resources(&[resource], now))
            .await?)
    }

    /// One resource; `None` when the connector does not have it, or cannot fetch resources of its type.
    async fn fetch(&self, id: &v2::ResourceId) -> Result<Option<v2::Resource>, Error> {
        let operation = "fetch the resource";
        let subject = || model::resource_text(id);
        let answer = retry::call(self.policy, operation, || {
            self.connector.get_resource(&self.scope, id)
        })
        .await;
        match answer {
            Ok(resource) => {
                let mut kept = ingest::resources(vec![resource], &mut self.state().quality)?;
                Ok(kept.pop())
            }
            Err(error)
                if error.class() == Class::NotFound || error.code() == Code::Unimplemented =>
            {
                tracing::debug!(
                    resource.type = id.resource_type,
                    error = %error,
                    "a resource was not fetched"
                );
                Ok(None)
            }
            Err(error) => Err(connector_error(operation, &subject)(error)),
        }
    }

    async fn target(&self, target: &v2::Resource) -> Result<(), Error> {
        let Some(id) = ingest::complete_id(Some(target)) else {
            self.state().quality.invalid_resources += 1;
            return Ok(());
        };
        let Some(mut resource) = self.fetch(id).await? else {
            self.state().warn(format!(
                "targeted resource {} does not exist (any more) and was left out",
                model::resource_text(id)
            ));
            return Ok(());
        };
        if resource.parent_resource_id.is_none() {
            resource
                .parent_resource_id
                .clone_from(&target.parent_resource_id);
        }
        self.put_resource(resource.clone()).await?;
        self.advance(&id.resource_type, 1);
        self.schedule_children(std::slice::from_ref(&resource));
        for listing in [Listing::Entitlements, Listing::Grants] {
            let type_id = &id.resource_type;
            if !self.is_skipped(listing, &resource) && !self.is_scoped(listing, type_id) {
                self.state().spawned.push_back(Job::Rows {
                    listing,
                    resource: Box::new(resource.clone()),
                    is_type_scoped: false,
                    cursor: None,
                });
            }
        }
        Ok(())
    }
}

/// More than 10 warnings, and more than a tenth of what was done.
pub(super) fn too_many(warnings: u64, completed: u64) -> bool {
    warnings > 10 && completed > 0 && warnings.saturating_mul(10) > completed
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Connector { source, .. } if source.class() == Class::NotFound)
}

fn connector_error(
    operation: &'static str,
    subject: &dyn Fn() -> String,
) -> impl FnOnce(connector::Error) -> Error {
    move |source| Error::Connector {
        operation,
        subject: subject(),
        source,
    }
}

/// The token of the next page, refused when it is the one just used.
fn next_token<T>(
    page: &Page<T>,
    used: Option<&str>,
    operation: &'static str,
    subject: &dyn Fn() -> String,
) -> Result<Option<String>, Error> {
    let next = page.next.clone().filter(|token| !token.is_empty());
    if next.is_some() && next.as_deref() == used {
        return Err(Error::RepeatedPageToken {
            operation,
            subject: subject(),
        });
    }
    Ok(next)
}

/// The tokens that a response enqueues.
fn enqueued(annotations: &[proto::Any], next: Option<&str>) -> Result<Vec<String>, String> {
    let mut found = annotations
        .iter()
        .filter(|any| proto::is::<v2::EnqueuePageTokens>(any));
    let Some(any) = found.next() else {
        return Ok(Vec::new());
    };
    if found.next().is_some() {
        return Err("more than one EnqueuePageTokens annotation".to_owned());
    }
    let message = <v2::EnqueuePageTokens as prost::Message>::decode(any.value.as_slice())
        .map_err(|error| format!("EnqueuePageTokens cannot be read: {error}"))?;
    let tokens = message.page_tokens;
    if tokens.len() > TOKENS_PER_RESPONSE {
        return Err(format!(
            "{} page tokens; at most {TOKENS_PER_RESPONSE} are allowed",
            tokens.len()
        ));
    }
    if tokens.iter().any(String::is_empty) {
        return Err("an empty page token".to_owned());
    }
    if let Some(long) = tokens.iter().find(|token| token.len() > TOKEN_BYTES) {
        return Err(format!(
            "a page token of {} bytes; at most {TOKEN_BYTES} are allowed",
            long.len()
        ));
    }
    let bytes: usize = tokens.iter().map(String::len).sum();
    if bytes > TOKEN_BYTES_PER_RESPONSE {
        return Err(format!(
            "page tokens of {bytes} bytes together; at most {TOKEN_BYTES_PER_RESPONSE} are allowed"
        ));
    }
    let mut seen: BTreeSet<&str> = next.into_iter().collect();
    if !tokens.iter().all(|token| seen.insert(token)) {
        return Err("duplicate or cyclic spawned cursor".to_owned());
    }
    Ok(tokens)
}

/// A template as the entitlement of one resource; `None` when either lacks its ids.
fn instantiate(template: &v2::Entitlement, resource: &v2::Resource) -> Option<v2::Entitlement> {
    let id = resource.id.as_ref()?;
    if template.slug.is_empty() {
        return None;
    }
    let or = |own: &str, other: &str| if own.is_empty() { other } else { own }.to_owned();
    let annotations = template
        .annotations
        .iter()
        .map(|any| {
            let group = proto::is::<v2::EntitlementExclusionGroup>(any)
                .then(|| {
                    <v2::EntitlementExclusionGroup as prost::Message>::decode(any.value.as_slice())
                })
                .and_then(Result::ok)
                .filter(|group| group.scope_to_resource);
            match group {
                Some(mut group) => {
                    group.exclusion_group_id =
                        format!("{}-{}", group.exclusion_group_id, id.resource);
                    proto::pack(&group)
                }
                None => any.clone(),
            }
        })
        .collect();
    Some(v2::Entitlement {
        id: model::entitlement_id(id, &template.slug),
        resource: Some(resource.clone()),
        display_name: or(&template.display_name, &resource.display_name),
        description: or(&template.description, &resource.description),
        slug: template.slug.clone(),
        purpose: template.purpose,
        grantable_to: template.grantable_to.clone(),
        annotations,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
