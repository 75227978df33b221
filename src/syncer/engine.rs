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
    Environment, Error, Limits, Report, SyncRequest,
    checkpoint::{Checkpoint, Counters, Phase, Position},
    expand,
    ingest::{self, Types},
    invariants,
    kept::{connector_folder, keeps, unfinished},
    retry::{self, Policy},
    token::{Quality, Token},
};
use crate::{
    c1z::{self, Finish, Forgotten, InvariantMarker, StoredRow, SyncStart, Writer},
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
pub(super) enum Kind {
    Full,
    ResourcesOnly,
    Partial,
}

impl Kind {
    pub(super) fn of(request: &SyncRequest) -> Self {
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

    pub(super) fn name(self) -> &'static str {
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
    let kind = Kind::of(request);
    let fresh = SyncStart {
        sync_id: SyncId::generate(started_at).into(),
        sync_type: kind.name().to_owned(),
        started_at,
    };
    let found = if keeps(environment, request) {
        unfinished(environment, kind).await?
    } else {
        None
    };
    let (start, kept) = match found {
        Some((writer, start, checkpoint)) => (start, Some((writer, checkpoint))),
        None => (fresh, None),
    };
    let is_resumed = kept.is_some();
    let sync_id = start.sync_id.clone();
    if let Some((_, checkpoint)) = &kept {
        tracing::info!(
            sync.id = sync_id,
            sync.type = start.sync_type,
            sync.age_s = started_at.duration_since(start.started_at).as_secs(),
            phase = checkpoint.as_ref().map_or(Phase::Seal, |checkpoint| checkpoint.phase).name(),
            "a sync goes on where it stopped"
        );
    } else {
        tracing::info!(sync.id = sync_id, sync.type = start.sync_type, "sync begins");
    }
    let begun = Instant::now();
    let result = write(connector, request, environment, limits, target, start, kept).await;
    if tokio::time::timeout(limits.cleanup_timeout, connector.cleanup(&sync_id))
        .await
        .is_err()
    {
        tracing::warn!(sync.id = sync_id, "the connector did not clean up in time");
    }
    let report = Report {
        is_resumed,
        ..result?
    };
    tracing::info!(
        sync.id = sync_id,
        duration_ms = millis(begun.elapsed()),
        resources = report.resources.values().sum::<u64>(),
        entitlements = report.entitlements.values().sum::<u64>(),
        grants = report.grants.values().sum::<u64>(),
        grants.expanded = report.expanded_grants,
        warnings = report.warnings.len(),
        file.bytes = report.file_bytes,
        resumed = is_resumed,
        "sync complete"
    );
    Ok(report)
}

async fn write(
    connector: &dyn Connector,
    request: &SyncRequest,
    environment: Environment<'_>,
    limits: Limits,
    target: &Path,
    start: SyncStart,
    kept: Option<(Writer, Option<Checkpoint>)>,
) -> Result<Report, Error> {
    let kind = Kind::of(request);
    let sync_id = start.sync_id.clone();
    let mut steps = BTreeMap::new();
    let folder = if keeps(environment, request) {
        Some(connector_folder(environment.work_dir, kept.is_none()).await?)
    } else {
        None
    };
    let is_resumed = kept.is_some();
    let (writer, checkpoint) = if let Some(kept) = kept {
        kept
    } else {
        let keeps = folder.is_some();
        let (writer, checkpoint) =
            begin(connector, environment, limits, keeps, start, &mut steps).await?;
        (writer, Some(checkpoint))
    };
    let Some(checkpoint) = checkpoint else {
        // The last attempt did everything but the packing.
        let listed = kind != Kind::ResourcesOnly;
        environment.progress.phase(Phase::Seal.name());
        let sealed = writer.seal(None, listed, target).await?;
        return Ok(report(sync_id, kind, sealed, steps));
    };
    if checkpoint.pace > 0 {
        connector.set_pace(checkpoint.pace);
    }
    let mut engine = Engine {
        connector,
        request,
        environment,
        kind,
        scope: SyncScope {
            sync_id: sync_id.clone(),
            resource_type_ids: request.resource_type_ids.clone(),
            folder,
        },
        notes: checkpoint.notes,
        unreadable: checkpoint.unreadable,
        is_resumed,
        direct_grants: checkpoint.direct_grants,
        checkpoint_every: limits.checkpoint_every,
        policy: Policy {
            attempts: u32::MAX,
            budget: limits.retry_budget,
        },
        writer: &writer,
        types: Types::default(),
        state: Mutex::new(State {
            counters: checkpoint.counters,
            ..State::default()
        }),
        steps,
        expansion: None,
    };
    // Whatever runs inside is cancel-safe: pages that the writer already has are written whole, then it is discarded.
    let gathered = tokio::select! {
        biased;
        () = environment.cancel.cancelled() => Err(Error::Cancelled),
        gathered = engine.gather(checkpoint.phase, checkpoint.position) => gathered,
    };
    let Engine {
        state,
        mut steps,
        expansion,
        notes,
        ..
    } = engine;
    if let Err(error) = gathered {
        writer.discard().await;
        return Err(error);
    }
    let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut warnings = notes;
    warnings.extend(state.summary(expansion.as_ref()));
    warnings.extend(connector.take_warnings(&sync_id));

    environment.progress.phase(Phase::Seal.name());
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
    let sealed = writer.seal(Some(finish), listed, target).await?;
    steps.insert(Phase::Seal.name(), begun.elapsed());
    Ok(Report {
        expanded_grants: expansion.map_or(0, |expansion| expansion.created),
        warnings,
        ..report(sync_id, kind, sealed, steps)
    })
}

/// Checks that the connector can sync, and begins the sync in a new database.
async fn begin(
    connector: &dyn Connector,
    environment: Environment<'_>,
    limits: Limits,
    keeps: bool,
    start: SyncStart,
    steps: &mut BTreeMap<&'static str, Duration>,
) -> Result<(Writer, Checkpoint), Error> {
    let begun = Instant::now();
    let policy = Policy {
        attempts: VALIDATE_ATTEMPTS,
        budget: limits.retry_budget.min(VALIDATE_BUDGET),
    };
    let Validation {
        warnings,
        unreadable,
    } = tokio::select! {
        biased;
        () = environment.cancel.cancelled() => return Err(Error::Cancelled),
        validated = retry::call(policy, "validate", || connector.validate()) =>
            validated.map_err(Error::Validate)?,
    };
    steps.insert("validate", begun.elapsed());
    let cancel = environment.cancel.child_token();
    let writer = if keeps {
        Writer::create_kept(environment.work_dir, start, cancel).await?
    } else {
        Writer::create(environment.work_dir, start, cancel).await?
    };
    Ok((writer, Checkpoint::at_start(warnings, unreadable)))
}

fn report(
    sync_id: String,
    kind: Kind,
    sealed: c1z::Sealed,
    steps: BTreeMap<&'static str, Duration>,
) -> Report {
    Report {
        sync_id,
        sync_type: kind.name().to_owned(),
        resources: sealed.counts.resources,
        entitlements: sealed.counts.entitlements,
        grants: sealed.counts.grants,
        steps,
        file_bytes: sealed.bytes,
        ..Report::default()
    }
}

/// What the listings of a sync share.
#[derive(Debug, Default)]
struct State {
    /// Listings found by other listings of the running phase.
    spawned: VecDeque<Job>,
    /// The running phase had such listings; they are in no checkpoint.
    has_spawned: bool,
    /// Child listings that were scheduled.
    children: HashSet<(String, String, String)>,
    /// Enqueued cursors that were admitted.
    cursors: HashSet<CursorKey>,
    counters: Counters,
    /// Done and total by resource type, in the running phase.
    progress: BTreeMap<String, (u64, u64)>,
}

type CursorKey = (&'static str, bool, String, String, String);

impl State {
    fn warn(&mut self, warning: String) {
        let counters = &mut self.counters;
        if counters.warnings.len() < WARNINGS_KEPT {
            counters.warnings.push(warning);
        } else {
            counters.more_warnings += 1;
        }
    }

    fn spawn(&mut self, job: Job) {
        self.has_spawned = true;
        self.spawned.push_back(job);
    }

    fn token(&self, request: &SyncRequest, kind: Kind) -> Token {
        Token {
            needs_expansion: self.counters.grants.expandable > 0 && !request.skip_expand_grants,
            has_external_resource_grants: self.counters.has_external_matches,
            should_fetch_related_resources: kind == Kind::Partial,
            should_skip_entitlements_and_grants: request.skip_entitlements_and_grants,
            should_skip_grants: request.skip_grants,
            completed_actions: self.counters.completed,
            quality: self.counters.quality,
        }
    }

    /// What a person should know of the whole sync.
    fn summary(&self, expansion: Option<&expand::Expansion>) -> Vec<String> {
        let mut lines = self.counters.warnings.clone();
        let mut say = |count: u64, what: &str| {
            if count > 0 {
                lines.push(format!("{count} {what}"));
            }
        };
        say(
            self.counters.more_warnings,
            "further objects were not found",
        );
        let Quality {
            entitlements_dropped,
            grants_dropped,
            grant_resources_dropped,
            expansion_types_dropped: _,
            expansions_dropped,
            invalid_resource_types,
            invalid_resources,
            invalid_entitlements,
        } = self.counters.quality;
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
            self.counters.grants.incomplete,
            "grants without id, entitlement, resource or principal were left out",
        );
        say(
            self.counters.grants.duplicate_pairs,
            "grants were left out because their principal has another grant of the same entitlement",
        );
        say(
            self.counters.grants.taken_ids,
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
    fn phase(self) -> Phase {
        match self {
            Self::Entitlements => Phase::Entitlements,
            Self::Grants => Phase::Grants,
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

impl Job {
    /// The resource type of a listing of all its top-level resources, or of its templates.
    fn type_id(&self) -> Option<&str> {
        match self {
            Self::Resources {
                type_id,
                parent: None,
            }
            | Self::Static { type_id } => Some(type_id),
            Self::Resources { .. } | Self::Target(_) | Self::Rows { .. } => None,
        }
    }
}

/// Where the listings of a phase come from.
enum Feed {
    Jobs(VecDeque<Job>),
    Stored {
        listing: Listing,
        /// Rows that an earlier process had begun with; they come first.
        again: VecDeque<i64>,
        /// Types whose resources are listed one by one.
        types: VecDeque<String>,
        /// The last row that was read ahead.
        after: i64,
        /// The last row that was taken, of the first of the types.
        taken: i64,
        page: VecDeque<StoredRow<v2::Resource>>,
    },
}

impl Feed {
    /// What is left when the listings of `open` are not done.
    fn position(&self, open: &BTreeSet<Key>) -> Position {
        match self {
            Self::Jobs(jobs) => Position::Types(
                open.iter()
                    .filter_map(Key::type_id)
                    .chain(jobs.iter().filter_map(Job::type_id))
                    .map(str::to_owned)
                    .collect(),
            ),
            Self::Stored {
                again,
                types,
                taken,
                ..
            } => Position::Rows {
                open: open
                    .iter()
                    .filter_map(Key::row)
                    .chain(again.iter().copied())
                    .collect(),
                type_id: types.front().cloned(),
                after: *taken,
            },
        }
    }
}

/// What a checkpoint calls a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Type(String),
    Row(i64),
    /// Found by another listing; in no checkpoint.
    Spawned,
}

impl Key {
    fn type_id(&self) -> Option<&str> {
        match self {
            Self::Type(type_id) => Some(type_id),
            Self::Row(_) | Self::Spawned => None,
        }
    }

    fn row(&self) -> Option<i64> {
        match self {
            Self::Row(row) => Some(*row),
            Self::Type(_) | Self::Spawned => None,
        }
    }
}

struct Engine<'a> {
    connector: &'a dyn Connector,
    request: &'a SyncRequest,
    environment: Environment<'a>,
    kind: Kind,
    scope: SyncScope,
    /// What the start-up check said.
    notes: Vec<String>,
    /// Resource types that are left out because the connector may not read them.
    unreadable: Vec<String>,
    /// Goes on with what an earlier process left.
    is_resumed: bool,
    /// Grants before the expansion, where a checkpoint said so.
    direct_grants: Option<u64>,
    checkpoint_every: Duration,
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

    /// Reads everything that is left from a phase on.
    async fn gather(&mut self, from: Phase, position: Position) -> Result<(), Error> {
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
        let phases: &[Phase] = match (self.kind, self.request.skip_grants) {
            (Kind::ResourcesOnly, _) => &[Phase::Resources],
            (_, true) => &[
                Phase::Resources,
                Phase::StaticEntitlements,
                Phase::Entitlements,
            ],
            (_, false) => &[
                Phase::Resources,
                Phase::StaticEntitlements,
                Phase::Entitlements,
                Phase::Grants,
            ],
        };
        let mut position = Some(position);
        for &phase in phases.iter().filter(|&&phase| phase >= from) {
            let position = position
                .take()
                .filter(|_| phase == from)
                .unwrap_or(Position::Start);
            self.checkpoint(phase, position.clone()).await?;
            if self.is_resumed && phase == from {
                self.forget(phase, &position).await?;
            }
            let feed = self.feed(phase, position);
            self.state().has_spawned = false;
            for listing in [Listing::Entitlements, Listing::Grants] {
                if listing.phase() == phase {
                    for job in self.type_scoped(listing) {
                        self.state().spawn(job);
                    }
                }
            }
            self.phase(phase, feed).await?;
        }
        self.check_invariants().await?;
        if self.kind == Kind::Full && !self.request.skip_expand_grants {
            self.expand().await?;
        }
        self.checkpoint(Phase::Seal, Position::Start).await
    }

    async fn expand(&mut self) -> Result<(), Error> {
        if self.state().counters.grants.expandable == 0 {
            return Ok(());
        }
        let direct = match self.direct_grants {
            Some(counted) => counted,
            None => self.writer.run(|store| store.count_grants()).await?,
        };
        self.direct_grants = Some(direct);
        self.checkpoint(Phase::Expansion, Position::Start).await?;
        self.begin(Phase::Expansion.name());
        let begun = Instant::now();
        let Environment {
            clock, progress, ..
        } = self.environment;
        let mut expansion = expand::expand(self.writer, clock, |done, total| {
            progress.advance("entitlement", done, total);
        })
        .await?;
        if self.is_resumed {
            // What the last attempt had inherited already counts too.
            let all = self.writer.run(|store| store.count_grants()).await?;
            expansion.created = all.saturating_sub(direct);
        }
        tracing::debug!(
            grants.created = expansion.created,
            grants.updated = expansion.updated,
            "grants expanded"
        );
        self.expansion = Some(expansion);
        self.end(Phase::Expansion.name(), begun)
    }

    /// Keeps what is done so far, where the sync is one that can be gone on with.
    async fn checkpoint(&self, phase: Phase, position: Position) -> Result<(), Error> {
        if self.scope.folder.is_none() {
            return Ok(());
        }
        let checkpoint = Checkpoint {
            phase,
            position,
            counters: self.state().counters.clone(),
            direct_grants: self.direct_grants,
            pace: self.connector.pace(),
            ..Checkpoint::at_start(self.notes.clone(), self.unreadable.clone())
        };
        let state = checkpoint.to_json();
        self.writer
            .run(move |store| store.checkpoint(&state))
            .await?;
        Ok(())
    }

    /// Deletes the rows of listings that an earlier process began and that are read again.
    async fn forget(&self, phase: Phase, position: &Position) -> Result<(), Error> {
        let position = position.clone();
        Ok(self
            .writer
            .run(move |store| match (phase, position) {
                (Phase::Resources, position) => {
                    store.forget(&Forgotten::Resources(position.types()))
                }
                (Phase::StaticEntitlements, position) => {
                    store.forget(&Forgotten::Entitlements(position.types()))
                }
                (Phase::Grants, Position::Rows { open, .. }) => {
                    for row in open {
                        let resource = store.resource_at(row)?;
                        if let Some(id) = resource.and_then(|resource| resource.id) {
                            store.forget(&Forgotten::Grants(Some(id)))?;
                        }
                    }
                    Ok(())
                }
                (Phase::Grants, _) => store.forget(&Forgotten::Grants(None)),
                // Entitlements of a listing and of a template cannot be told apart; both are written over.
                (Phase::Entitlements | Phase::Expansion | Phase::Seal, _) => Ok(()),
            })
            .await?)
    }

    /// The listings of a phase that are left.
    fn feed(&self, phase: Phase, position: Position) -> Feed {
        let left = |job: &dyn Fn(String) -> Job| {
            let is_left = |type_id: &&String| match &position {
                Position::Types(left) => left.contains(type_id),
                Position::Start | Position::Rows { .. } => true,
            };
            let left = self.types.order.iter().filter(is_left);
            Feed::Jobs(left.cloned().map(job).collect())
        };
        match phase {
            Phase::Entitlements => self.stored(Listing::Entitlements, position),
            Phase::Grants => self.stored(Listing::Grants, position),
            Phase::StaticEntitlements => left(&|type_id| Job::Static { type_id }),
            Phase::Resources | Phase::Expansion | Phase::Seal => left(&|type_id| Job::Resources {
                type_id,
                parent: None,
            }),
        }
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
        self.phase(Phase::Resources, Feed::Jobs(targets.into()))
            .await?;
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

    async fn phase(&mut self, phase: Phase, feed: Feed) -> Result<(), Error> {
        self.begin(phase.name());
        let begun = Instant::now();
        self.tell_totals(&feed).await?;
        self.run_jobs(phase, feed).await?;
        self.end(phase.name(), begun)
    }

    async fn run_jobs(&self, phase: Phase, mut feed: Feed) -> Result<(), Error> {
        let workers = match self.request.workers {
            0 => WORKERS,
            chosen => chosen,
        };
        let mut running = FuturesUnordered::new();
        let mut open = BTreeSet::new();
        let mut last_checkpoint = Instant::now();
        loop {
            while running.len() < workers {
                let spawned = self.take_spawned();
                let next = match spawned {
                    Some(job) => Some((Key::Spawned, job)),
                    None => self.next_job(&mut feed).await?,
                };
                let Some((key, job)) = next else { break };
                open.insert(key.clone());
                running.push(Box::pin(async move { (key, self.execute(job).await) }));
            }
            let Some((key, done)) = running.next().await else {
                return Ok(());
            };
            done?;
            open.remove(&key);
            let (completed, has_spawned) = {
                let mut state = self.state();
                state.counters.completed += 1;
                (state.counters.completed, state.has_spawned)
            };
            if completed.is_multiple_of(CHECK_EVERY) {
                self.check_warnings()?;
            }
            if !has_spawned && last_checkpoint.elapsed() >= self.checkpoint_every {
                self.checkpoint(phase, feed.position(&open)).await?;
                last_checkpoint = Instant::now();
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

    async fn next_job(&self, feed: &mut Feed) -> Result<Option<(Key, Job)>, Error> {
        let (listing, again, types, after, taken, page) = match feed {
            Feed::Jobs(jobs) => {
                return Ok(jobs.pop_front().map(|job| {
                    let key = job
                        .type_id()
                        .map_or(Key::Spawned, |id| Key::Type(id.to_owned()));
                    (key, job)
                }));
            }
            Feed::Stored {
                listing,
                again,
                types,
                after,
                taken,
                page,
            } => (*listing, again, types, after, taken, page),
        };
        let rows = |row: i64, resource: v2::Resource| {
            let job = Job::Rows {
                listing,
                resource: Box::new(resource),
                is_type_scoped: false,
                cursor: None,
            };
            (Key::Row(row), job)
        };
        while let Some(row) = again.pop_front() {
            let stored = self.writer.run(move |store| store.resource_at(row)).await?;
            if let Some(resource) = stored {
                return Ok(Some(rows(row, resource)));
            }
        }
        loop {
            if let Some(StoredRow { row, message }) = page.pop_front() {
                *taken = row;
                if self.is_skipped(listing, &message) {
                    self.finished(&message);
                    continue;
                }
                return Ok(Some(rows(row, message)));
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
                page.extend(rows);
            } else {
                types.pop_front();
                *after = 0;
                *taken = 0;
            }
        }
    }

    /// The stored resources of all types that have this listing resource by resource, as far as they are left.
    fn stored(&self, listing: Listing, position: Position) -> Feed {
        let mut types: VecDeque<String> = self
            .types
            .order
            .iter()
            .filter(|type_id| !self.is_scoped(listing, type_id))
            .filter(|type_id| !self.is_type_skipped(listing, type_id))
            .cloned()
            .collect();
        let (again, after) = match position {
            Position::Rows {
                open,
                type_id,
                after,
            } => {
                while types.front() != type_id.as_ref() && types.pop_front().is_some() {}
                (open.into(), after)
            }
            Position::Start | Position::Types(_) => (VecDeque::new(), 0),
        };
        Feed::Stored {
            listing,
            again,
            types,
            after,
            taken: after,
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

    async fn tell_totals(&self, feed: &Feed) -> Result<(), Error> {
        let Feed::Stored {
            again,
            types,
            after,
            ..
        } = feed
        else {
            return Ok(());
        };
        let open = again.len() as u64;
        let mut after = *after;
        for type_id in types {
            let id = type_id.clone();
            let last = std::mem::take(&mut after);
            let (done, total) = self
                .writer
                .run(move |store| {
                    let total = store.count_resources(&id, i64::MAX)?;
                    Ok((store.count_resources(&id, last)?, total))
                })
                .await?;
            let done = done.saturating_sub(open);
            self.state().progress.insert(type_id.clone(), (done, total));
            self.environment.progress.advance(type_id, done, total);
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
        let counters = &state.counters;
        if too_many(counters.missing, counters.completed) {
            return Err(Error::TooManyWarnings {
                warnings: counters.missing,
                completed: counters.completed,
                first: counters.warnings.first().cloned().unwrap_or_default(),
            });
        }
        Ok(())
    }

    async fn check_invariants(&mut self) -> Result<(), Error> {
        let (enqueued, drained) = {
            let state = self.state();
            (state.counters.enqueued, state.counters.drained)
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
        if !self.is_resumed {
            self.state().counters.quality.invalid_resource_types +=
                (all.len() - known.len()) as u64;
        }
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
        if wanted.is_empty() && !self.unreadable.is_empty() {
            return Err(Error::Validate(connector::Error::Permission {
                what: format!(
                    "the key may read none of the resource types that were asked for ({})",
                    filter.join(", ")
                ),
                words: None,
            }));
        }
        let stored = wanted.clone();
        let now = self.environment.clock.now();
        self.writer
            .run(move |store| store.put_resource_types(&stored, now))
            .await?;
        self.state().counters.completed += u64::from(!self.is_resumed);
        Ok(Types::new(wanted))
    }

    /// Runs a listing to its end. "Not found" ends it with a warning.
    async fn execute(&self, job: Job) -> Result<(), Error> {
        // Counted only when the listing is done, so that what a killed process had half read does not count twice.
        let mut tally = Counters::default();
        let result = match job {
            Job::Resources { type_id, parent } => {
                self.list_resources(&type_id, parent.as_ref(), &mut tally)
                    .await
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
                    .list_rows(listing, &resource, is_type_scoped, cursor, &mut tally)
                    .await;
                if is_enqueued {
                    tally.drained += 1;
                } else if !is_type_scoped {
                    self.finished(&resource);
                }
                listed
            }
        };
        let mut state = self.state();
        state.counters.add(&tally);
        match result {
            Err(error) if is_missing(&error) => {
                let warning = crate::error::told(&error);
                tracing::warn!(sync.id = self.scope.sync_id, error = %warning, "a listing was left out");
                state.counters.missing += 1;
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
        tally: &mut Counters,
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
            let resources = ingest::resources(page.items, &mut tally.quality)?;
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
                    state.spawn(Job::Resources {
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
        tally: &mut Counters,
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
                    self.store_entitlements(page.items, tally).await?;
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
                    self.store_grants(page.items, &page.annotations, tally)
                        .await?;
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
                listing.phase().name(),
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
            state.counters.enqueued += 1;
            state.spawn(Job::Rows {
                listing,
                resource: Box::new(resource.clone()),
                is_type_scoped,
                cursor: Some(cursor),
            });
        }
    }

    async fn store_entitlements(
        &self,
        entitlements: Vec<v2::Entitlement>,
        tally: &mut Counters,
    ) -> Result<(), Error> {
        let kept = ingest::entitlements(entitlements, self.restriction(), &mut tally.quality)?;
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
        tally: &mut Counters,
    ) -> Result<(), Error> {
        let page = ingest::grants(grants, annotations, self.restriction(), &mut tally.quality)?;
        tally.has_external_matches |= page.has_external_matches;
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
        tally.grants.add(outcome);
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
                let mut kept =
                    ingest::resources(vec![resource], &mut self.state().counters.quality)?;
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
            self.state().counters.quality.invalid_resources += 1;
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
