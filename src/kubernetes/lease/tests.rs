//! The election, played against a server that keeps Leases as the API does.

use std::sync::Mutex;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::*;
use crate::{
    clock::{ManualClock, paused},
    kubernetes::tests::{Call, Server, lines, log, server, settle},
    supervisor::lock,
};

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/baton/leases";

/// What the server does with the requests of one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Up,
    /// Requests are taken and never answered.
    Hanging,
    /// Requests are carried out, and the answers get lost.
    Deaf,
    Refused(u16),
}

/// The Lease that the candidates share.
#[derive(Debug, Default)]
struct Store {
    lease: Option<Value>,
    version: u64,
    /// Lines of the requests that were answered, of all candidates.
    log: Vec<String>,
}

impl Store {
    fn written(&mut self, mut lease: Value) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        lease["metadata"]["name"] = json!("baton");
        self.lease = Some(lease.clone());
        lease
    }

    /// Status and body for a request, as the API server would answer.
    fn answer(&mut self, call: &Call) -> (u16, Value) {
        self.log.push(call.line.clone());
        let refusal = |status| (status, crate::kubernetes::tests::refusal(status, "no"));
        let (method, path) = call.line.split_once(' ').unwrap();
        let mut body = call.body.clone();
        match (method, path.strip_prefix(PATH).unwrap(), &self.lease) {
            ("GET", "/baton", Some(lease)) => (200, lease.clone()),
            ("GET" | "PUT", "/baton", None) => refusal(404),
            ("POST", "", None) => {
                assert!(body["metadata"].get("resourceVersion").is_none(), "{body}");
                (201, self.written(body.take()))
            }
            ("POST", "", Some(_)) => refusal(409),
            ("PUT", "/baton", Some(lease)) => {
                let version = &body["metadata"]["resourceVersion"];
                assert!(version.is_string(), "a write without a version: {body}");
                if *version != lease["metadata"]["resourceVersion"] {
                    return refusal(409);
                }
                (200, self.written(body.take()))
            }
            other => panic!("{other:?}"),
        }
    }
}

type Shared = Arc<Mutex<Store>>;

/// One candidate, and the wire between it and the server.
struct Replica {
    leading: watch::Receiver<bool>,
    link: Arc<Mutex<Link>>,
    clock: ManualClock,
    shutdown: CancellationToken,
    running: JoinSet<()>,
}

fn replica(store: &Shared, identity: &str) -> Replica {
    let (client, server) = server();
    let (to, leading) = watch::channel(false);
    let shutdown = CancellationToken::new();
    let link = Arc::new(Mutex::new(Link::Up));
    let clock = ManualClock::new("2026-11-26T10:00:00Z".parse::<Timestamp>().unwrap());
    let settings = Settings::new(
        "baton".to_owned(),
        "baton".to_owned(),
        Arc::new(clock.clone()),
    );
    let mut running = JoinSet::new();
    running.spawn(run(
        client,
        identity.to_owned(),
        settings,
        to,
        shutdown.clone(),
    ));
    running.spawn(serve(server, Arc::clone(store), Arc::clone(&link)));
    Replica {
        leading,
        link,
        clock,
        shutdown,
        running,
    }
}

async fn serve(mut server: Server, store: Shared, link: Arc<Mutex<Link>>) {
    let mut hanging = Vec::new();
    loop {
        let call = server.call().await;
        let link = *lock(&link);
        match link {
            Link::Hanging => hanging.push(call),
            Link::Refused(status) => call.refuse(status, "no"),
            Link::Up => {
                let (status, body) = lock(&store).answer(&call);
                call.answer(status, &body);
            }
            Link::Deaf => {
                lock(&store).answer(&call);
                hanging.push(call);
            }
        }
    }
}

impl Replica {
    fn leads(&self) -> bool {
        *self.leading.borrow()
    }

    fn set(&self, link: Link) {
        *lock(&self.link) = link;
    }

    /// Waits until it leads, or no longer does; answers with how long that took.
    async fn until(&mut self, leads: bool) -> Duration {
        let begun = Instant::now();
        let changed = self.leading.wait_for(|now| *now == leads);
        let changed = timeout(Duration::from_mins(2), changed).await;
        assert!(changed.expect("nothing changed").is_ok());
        begun.elapsed()
    }
}

fn spec(store: &Shared) -> Value {
    lock(store).lease.as_ref().unwrap()["spec"].clone()
}

/// A Lease of another program, such as client-go's.
fn foreign(store: &Shared, spec: &Value) {
    lock(store).written(json!({
        "kind": "Lease", "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"namespace": "baton", "labels": {"kept": "yes"}},
        "spec": spec,
    }));
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn the_first_replica_makes_the_lease_and_renews_it() {
    let store = Shared::default();
    let mut first = replica(&store, "a");
    assert!(seconds(first.until(true).await) < 0.1);
    let begun = spec(&store);
    assert_eq!(
        begun,
        json!({
            "holderIdentity": "a", "leaseDurationSeconds": 15, "leaseTransitions": 0,
            "acquireTime": "2026-11-26T10:00:00.000000Z", "renewTime": "2026-11-26T10:00:00.000000Z",
        })
    );
    first.clock.advance(Duration::from_mins(1));
    sleep(Duration::from_mins(1)).await;
    assert!(first.leads());
    let renewed = spec(&store);
    assert_eq!(renewed["renewTime"], "2026-11-26T10:01:00.000000Z");
    assert_eq!(renewed["acquireTime"], begun["acquireTime"]);
    assert_eq!(renewed["leaseTransitions"], 0);
    // One write each 2 to 2.4 seconds, and no reading while nobody else writes.
    let log = lock(&store).log.clone();
    let (reads, writes): (Vec<_>, Vec<_>) = log.iter().partition(|line| line.starts_with("GET"));
    assert_eq!(reads.len(), 1);
    assert!((25..=31).contains(&writes.len()), "{}", writes.len());
}

#[tokio::test(start_paused = true)]
async fn a_standby_knows_its_place_and_takes_over_what_is_released_at_once() {
    let store = Shared::default();
    let mut first = replica(&store, "a");
    first.until(true).await;
    let mut second = replica(&store, "b");
    second.leading.changed().await.unwrap();
    assert!(!second.leads());
    sleep(Duration::from_mins(5)).await;
    assert!(first.leads() && !second.leads());
    first.shutdown.cancel();
    first.until(false).await;
    settle().await;
    let free = spec(&store);
    assert_eq!(free.get("holderIdentity"), None);
    assert_eq!(free["leaseDurationSeconds"], 1);
    assert!(first.running.join_next().await.unwrap().is_ok());
    assert!(seconds(second.until(true).await) < 4.5);
    assert_eq!(spec(&store)["holderIdentity"], "b");
    assert_eq!(spec(&store)["leaseTransitions"], 1);
    assert_eq!(spec(&store)["leaseDurationSeconds"], 15);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_died_is_followed_when_its_lease_has_run_out() {
    let store = Shared::default();
    let mut first = replica(&store, "a");
    first.until(true).await;
    let mut second = replica(&store, "b");
    second.leading.changed().await.unwrap();
    sleep(Duration::from_secs(30)).await;
    drop(first);
    let waited = seconds(second.until(true).await);
    assert!((12.0..22.0).contains(&waited), "{waited}");
    assert_eq!(spec(&store)["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn two_replicas_never_lead_at_once_whatever_the_network_does() {
    for fault in [
        Link::Hanging,
        Link::Deaf,
        Link::Refused(403),
        Link::Refused(500),
    ] {
        for seed in 0..10 {
            let store = Shared::default();
            let mut first = replica(&store, "a");
            first.until(true).await;
            let second = replica(&store, "b");
            // The clocks of the two are hours apart, which must not matter.
            first.clock.advance(Duration::from_hours(7));
            sleep(Duration::from_millis(20_000 + 333 * seed)).await;
            first.set(fault);
            let (mut first_ended, mut second_began) = (None, None);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_mins(1) {
                assert!(!(first.leads() && second.leads()), "{fault:?} {seed}");
                if !first.leads() {
                    first_ended.get_or_insert(begun.elapsed());
                }
                if second.leads() {
                    second_began.get_or_insert(begun.elapsed());
                }
                sleep(Duration::from_millis(50)).await;
            }
            let ended = seconds(first_ended.expect("the first goes on"));
            assert!((7.0..=10.1).contains(&ended), "{fault:?} {seed}: {ended}");
            let began = seconds(second_began.expect("the second does not begin"));
            assert!((12.5..27.0).contains(&began), "{fault:?} {seed}: {began}");
            // It comes back as one that stands by.
            first.set(Link::Up);
            sleep(Duration::from_secs(30)).await;
            assert!(!first.leads() && second.leads(), "{fault:?} {seed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_changes_nothing_and_a_long_one_alone_ends_and_begins_it() {
    let (_guard, captured) = log();
    let store = Shared::default();
    let mut first = replica(&store, "a");
    first.until(true).await;
    first.set(Link::Hanging);
    sleep(Duration::from_secs(7)).await;
    assert!(first.leads());
    first.set(Link::Up);
    sleep(Duration::from_secs(20)).await;
    assert!(first.leads());
    first.set(Link::Refused(500));
    let waited = seconds(first.until(false).await);
    assert!((7.0..=10.1).contains(&waited), "{waited}");
    assert_eq!(lines(&captured, "warn", "could not be renewed in time"), 1);
    sleep(Duration::from_mins(10)).await;
    let told = lines(&captured, "warn", "cannot be read or written");
    assert!((9..=12).contains(&told), "{told}");
    first.set(Link::Up);
    // It is still in its own name, so there is nobody to wait for.
    assert!(seconds(first.until(true).await) < 10.0);
    assert_eq!(spec(&store)["leaseTransitions"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_wrote_over_is_lost_at_once() {
    let store = Shared::default();
    let mut first = replica(&store, "a");
    first.until(true).await;
    foreign(
        &store,
        &json!({"holderIdentity": "thief", "leaseDurationSeconds": 15, "leaseTransitions": 7}),
    );
    assert!(seconds(first.until(false).await) < 2.5);
    // The thief never renews.
    let waited = seconds(first.until(true).await);
    assert!((15.0..20.0).contains(&waited), "{waited}");
    let taken = lock(&store).lease.clone().unwrap();
    assert_eq!(taken["spec"]["leaseTransitions"], 8);
    assert_eq!(taken["metadata"]["labels"]["kept"], "yes");
}

#[tokio::test(start_paused = true)]
async fn a_write_beside_a_renewal_costs_nothing() {
    let store = Shared::default();
    let mut first = replica(&store, "a");
    first.until(true).await;
    for _ in 0..20 {
        // A label, so that the next renewal is refused with 409.
        let mut lease = lock(&store).lease.clone().unwrap();
        lease["metadata"]["labels"] = json!({"touched": "yes"});
        lock(&store).written(lease);
        sleep(Duration::from_secs(3)).await;
        assert!(first.leads());
    }
    assert_eq!(
        lock(&store).lease.as_ref().unwrap()["metadata"]["labels"]["touched"],
        "yes"
    );
    assert_eq!(spec(&store)["leaseTransitions"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_deleted_is_made_again() {
    let store = Shared::default();
    let mut first = replica(&store, "a");
    first.until(true).await;
    lock(&store).lease = None;
    sleep(Duration::from_secs(3)).await;
    assert!(first.leads());
    assert_eq!(spec(&store)["holderIdentity"], "a");
}

#[tokio::test(start_paused = true)]
async fn of_two_that_come_at_the_same_time_one_wins() {
    for _ in 0..10 {
        let store = Shared::default();
        let replicas = [
            replica(&store, "a"),
            replica(&store, "b"),
            replica(&store, "c"),
        ];
        sleep(Duration::from_secs(5)).await;
        let leading = replicas.iter().filter(|replica| replica.leads()).count();
        assert_eq!(leading, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_others_wrote_of_time_decides_nothing() {
    // A holder of long ago, one of the future, and one whose record says a longer time than ours.
    for (renewed, duration, least) in [
        ("2020-01-01T00:00:00.000000Z", 15, 15.0),
        ("2040-01-01T00:00:00.000000Z", 15, 15.0),
        ("2026-11-26T10:00:00.000000Z", 40, 40.0),
    ] {
        let store = Shared::default();
        foreign(
            &store,
            &json!({"holderIdentity": "x", "leaseDurationSeconds": duration, "renewTime": renewed}),
        );
        let mut first = replica(&store, "a");
        let waited = seconds(first.until(true).await);
        assert!(
            (least..least + 5.0).contains(&waited),
            "{renewed}: {waited}"
        );
        assert_eq!(spec(&store)["leaseTransitions"], 1);
    }
    // An empty name is how older versions of client-go release it.
    let store = Shared::default();
    foreign(
        &store,
        &json!({"holderIdentity": "", "leaseDurationSeconds": 1}),
    );
    let mut first = replica(&store, "a");
    assert!(seconds(first.until(true).await) < 0.1);
}

#[tokio::test(start_paused = true)]
async fn a_replica_without_an_answer_says_nothing_and_then_whose_turn_it_is() {
    let (_guard, captured) = log();
    let store = Shared::default();
    let mut first = replica(&store, "a");
    first.set(Link::Refused(403));
    sleep(Duration::from_mins(1)).await;
    assert!(!first.leading.has_changed().unwrap());
    assert!(
        lines(
            &captured,
            "warn",
            "resourceNames [baton], verbs [get, update]"
        ) >= 1
    );
    first.set(Link::Up);
    first.until(true).await;
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_nobody() {
    let store = Shared::default();
    let mut first = replica(&store, "a");
    first.until(true).await;
    first.set(Link::Hanging);
    first.shutdown.cancel();
    let begun = Instant::now();
    first.until(false).await;
    assert!(first.running.join_next().await.unwrap().is_ok());
    assert!(seconds(begun.elapsed()) < 1.0);
    // One that stands by has nothing to release.
    let mut second = replica(&store, "b");
    second.leading.changed().await.unwrap();
    let asked = lock(&store).log.len();
    second.shutdown.cancel();
    assert!(second.running.join_next().await.unwrap().is_ok());
    assert_eq!(lock(&store).log.len(), asked);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 8,
        failure_persistence: None,
        ..proptest::prelude::ProptestConfig::default()
    })]

    #[test]
    fn whatever_the_network_and_the_clocks_do_at_most_one_leads_and_in_the_end_one_does(
        moves in proptest::collection::vec((0_usize..3, 0_u8..6, 0_u64..25_000), 1..14),
    ) {
        paused(async move {
                let store = Shared::default();
                let replicas = [
                    replica(&store, "a"),
                    replica(&store, "b"),
                    replica(&store, "c"),
                ];
                let leading = || replicas.iter().filter(|replica| replica.leads()).count();
                for (who, what, time) in &moves {
                    match what {
                        0 => replicas[*who].set(Link::Hanging),
                        1 => replicas[*who].set(Link::Deaf),
                        2 => replicas[*who].set(Link::Refused(500)),
                        3 => replicas[*who].clock.advance(Duration::from_hours(*time)),
                        _ => replicas[*who].set(Link::Up),
                    }
                    let begun = Instant::now();
                    while begun.elapsed() < Duration::from_millis(*time) {
                        assert!(leading() <= 1, "{moves:?}");
                        sleep(Duration::from_millis(100)).await;
                    }
                }
                for replica in &replicas {
                    replica.set(Link::Up);
                }
                // Nobody may have it before it ran out, or before a request that hangs is given up.
                for _ in 0..600 {
                    assert!(leading() <= 1, "{moves:?}");
                    sleep(Duration::from_millis(100)).await;
                }
                assert_eq!(leading(), 1, "{moves:?}");
            });
    }
}
