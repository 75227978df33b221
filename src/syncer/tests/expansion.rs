//! Grant expansion: who inherits what, through whom.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// A tenant of groups only: `members` are `(group, user)`, `nested` are `(inner, outer, shallow, types)`: whoever is
/// in `inner` is in `outer` too.
#[derive(Debug, Clone)]
struct Tenant {
    groups: usize,
    members: BTreeSet<(usize, usize)>,
    nested: Vec<(usize, usize, bool, Vec<&'static str>)>,
}

fn name(number: usize) -> String {
    format!("g{number}")
}

fn member_of(number: usize) -> String {
    format!("group:g{number}:member")
}

impl Tenant {
    fn connector(&self) -> FakeConnector {
        let mut connector = three_types();
        for number in 0..self.groups {
            let group = group(&name(number));
            connector = connector
                .with_entitlement(entitlement(&group, "member"))
                .with_resource(group);
        }
        for &(number, who) in &self.members {
            let given = entitlement(&group(&name(number)), "member");
            connector = connector.with_grant(grant(&given, &id("user", &format!("u{who}"))));
        }
        // A pair holds one grant, whose expansion is that of the first edge.
        let mut pairs = BTreeSet::new();
        for (inner, outer, shallow, types) in &self.nested {
            if !pairs.insert((*inner, *outer)) {
                continue;
            }
            let given = entitlement(&group(&name(*outer)), "member");
            let expansion = v2::GrantExpandable {
                entitlement_ids: vec![member_of(*inner)],
                shallow: *shallow,
                resource_type_ids: types.iter().map(|&kind| kind.to_owned()).collect(),
            };
            connector =
                connector.with_grant(expandable(&given, &id("group", &name(*inner)), &expansion));
        }
        connector
    }

    /// The expected grants, computed in memory by another way: sets of pairs and a closure by squaring.
    fn oracle(&self) -> BTreeMap<(usize, String), BTreeMap<String, bool>> {
        let mut edges: BTreeMap<(usize, usize), (bool, BTreeSet<&str>)> = BTreeMap::new();
        for (inner, outer, shallow, types) in &self.nested {
            edges
                .entry((*inner, *outer))
                .or_insert_with(|| (*shallow, types.iter().copied().collect()));
        }
        let mut reach = vec![vec![false; self.groups]; self.groups];
        for &(from, to) in edges.keys() {
            reach[from][to] = true;
        }
        for middle in 0..self.groups {
            for from in 0..self.groups {
                for to in 0..self.groups {
                    reach[from][to] |= reach[from][middle] && reach[middle][to];
                }
            }
        }
        let together = |a: usize, b: usize| a == b || (reach[a][b] && reach[b][a]);
        let leader: Vec<usize> = (0..self.groups)
            .map(|each| (0..=each).find(|&other| together(each, other)).unwrap())
            .collect();
        let mut between: BTreeMap<(usize, usize), (bool, BTreeSet<&str>)> = BTreeMap::new();
        for (&(from, to), (shallow, types)) in &edges {
            let key = (leader[from], leader[to]);
            if key.0 == key.1 {
                continue;
            }
            match between.get_mut(&key) {
                None => {
                    between.insert(key, (*shallow, types.clone()));
                }
                Some(known) => {
                    known.0 = known.0 && *shallow;
                    if known.1.is_empty() || types.is_empty() {
                        known.1.clear();
                    } else {
                        known.1.extend(types);
                    }
                }
            }
        }
        let mut held: BTreeMap<(usize, String), BTreeMap<String, bool>> = BTreeMap::new();
        for &(number, who) in &self.members {
            held.insert((number, format!("user:u{who}")), BTreeMap::new());
        }
        for &(inner, outer) in edges.keys() {
            held.insert((outer, format!("group:{}", name(inner))), BTreeMap::new());
        }
        // A component comes after all that reach it.
        let mut order: Vec<usize> = (0..self.groups)
            .filter(|&each| leader[each] == each)
            .collect();
        order.sort_by_key(|&each| {
            (0..self.groups)
                .filter(|&from| leader[from] != each && reach[from][each])
                .count()
        });
        for &source in &order {
            for (&(_, target), (shallow, types)) in
                between.iter().filter(|((from, _), _)| *from == source)
            {
                for from in (0..self.groups).filter(|&each| leader[each] == source) {
                    let holders: Vec<_> = held
                        .iter()
                        .filter(|((number, _), _)| *number == from)
                        .map(|((_, who), sources)| (who.clone(), sources.clone()))
                        .collect();
                    for (who, sources) in holders {
                        let kind = who.split(':').next().unwrap();
                        let direct = sources.is_empty() || sources.contains_key(&member_of(from));
                        if (!types.is_empty() && !types.contains(kind)) || (*shallow && !direct) {
                            continue;
                        }
                        for to in (0..self.groups).filter(|&each| leader[each] == target) {
                            let key = (to, who.clone());
                            let existed = held.contains_key(&key);
                            let known = held.entry(key).or_default();
                            if existed && known.is_empty() {
                                known.insert(member_of(to), true);
                            }
                            *known.entry(member_of(from)).or_default() |= direct;
                        }
                    }
                }
            }
        }
        held
    }
}

fn expanded(reader: &Reader) -> BTreeMap<(usize, String), BTreeMap<String, bool>> {
    all_grants(reader)
        .into_values()
        .map(|grant| {
            let own = grant
                .entitlement
                .as_ref()
                .unwrap()
                .resource
                .as_ref()
                .unwrap();
            let number = own
                .id
                .as_ref()
                .unwrap()
                .resource
                .trim_start_matches('g')
                .parse()
                .unwrap();
            let who =
                crate::model::resource_text(grant.principal.as_ref().unwrap().id.as_ref().unwrap());
            ((number, who), sources(&grant))
        })
        .collect()
}

fn tenants() -> impl Strategy<Value = Tenant> {
    (2_usize..9).prop_flat_map(|groups| {
        let types = prop_oneof![
            4 => Just(vec![]),
            1 => Just(vec!["user"]),
            1 => Just(vec!["group"]),
            1 => Just(vec!["user", "group"]),
        ];
        (
            proptest::collection::btree_set((0..groups, 0_usize..6), 0..14),
            proptest::collection::vec((0..groups, 0..groups, any::<bool>(), types), 0..18),
        )
            .prop_map(move |(members, nested)| Tenant {
                groups,
                members,
                nested,
            })
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn check(tenant: &Tenant) -> BTreeMap<(usize, String), BTreeMap<String, bool>> {
    let bench = Bench::new();
    block_on(bench.sync(&tenant.connector(), &SyncRequest::default())).unwrap();
    let found = expanded(&bench.open());
    assert_eq!(found, tenant.oracle());
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn expansion_agrees_with_a_naive_computation(tenant in tenants()) {
        check(&tenant);
    }
}

fn direct(ids: &[(&str, bool)]) -> BTreeMap<String, bool> {
    ids.iter()
        .map(|&(id, direct)| (id.to_owned(), direct))
        .collect()
}

#[test]
fn a_chain_names_immediate_sources_only() {
    let found = check(&Tenant {
        groups: 3,
        members: [(0, 1)].into(),
        nested: vec![(0, 1, false, vec![]), (1, 2, false, vec![])],
    });
    let user = "user:u1".to_owned();
    assert_eq!(
        found[&(1, user.clone())],
        direct(&[("group:g0:member", true)])
    );
    assert_eq!(found[&(2, user)], direct(&[("group:g1:member", false)]));
    assert!(
        found.contains_key(&(2, "group:g0".to_owned())),
        "groups are principals too"
    );
}

#[test]
fn a_chain_may_be_longer_than_twenty() {
    let groups = 40;
    let found = check(&Tenant {
        groups,
        members: [(0, 1)].into(),
        nested: (1..groups)
            .map(|outer| (outer - 1, outer, false, vec![]))
            .collect(),
    });
    assert!(found.contains_key(&(groups - 1, "user:u1".to_owned())));
}

#[test]
fn members_of_a_cycle_do_not_inherit_from_each_other_but_pass_on_together() {
    let found = check(&Tenant {
        groups: 4,
        members: [(0, 1), (1, 2), (3, 3)].into(),
        nested: vec![
            (0, 1, false, vec![]),
            (1, 0, false, vec![]),
            (1, 2, false, vec![]),
            (3, 0, false, vec![]),
        ],
    });
    let has = |group: usize, user: usize| found.contains_key(&(group, format!("user:u{user}")));
    assert!(!has(0, 2) && !has(1, 1), "inside the cycle nothing moves");
    assert!(has(2, 1) && has(2, 2), "out of the cycle both move");
    assert!(has(0, 3) && has(1, 3), "into the cycle feeds both");
    assert!(has(2, 3));
}

#[test]
fn a_group_that_holds_itself_changes_nothing() {
    let found = check(&Tenant {
        groups: 1,
        members: [(0, 1)].into(),
        nested: vec![(0, 0, false, vec![])],
    });
    assert_eq!(found.len(), 2);
}

#[test]
fn shallow_edges_pass_direct_holders_only() {
    let found = check(&Tenant {
        groups: 3,
        members: [(0, 1), (1, 2)].into(),
        nested: vec![(0, 1, false, vec![]), (1, 2, true, vec![])],
    });
    assert!(found.contains_key(&(2, "user:u2".to_owned())));
    assert!(!found.contains_key(&(2, "user:u1".to_owned())));
}

#[test]
fn many_holders_are_passed_on_over_many_pages() {
    let found = check(&Tenant {
        groups: 2,
        members: (0..700).map(|who| (0, who)).collect(),
        nested: vec![(0, 1, false, vec!["user"])],
    });
    assert_eq!(
        found.keys().filter(|(group, _)| *group == 1).count(),
        701,
        "all users, and the group itself"
    );
}

#[tokio::test]
async fn a_source_of_another_resource_than_the_principal_ends_the_sync() {
    let other = entitlement(&group("other"), "member");
    let connector = small_tenant()
        .with_resource(group("other"))
        .with_entitlement(other.clone())
        .with_grant(expandable(
            &entitlement(&app("a"), "access"),
            &id("group", "x"),
            &inherits(&other),
        ));
    let error = fails(&connector, &SyncRequest::default()).await;
    assert!(
        error
            .to_string()
            .starts_with("source entitlement resource id did not match grant principal id")
    );
}

#[tokio::test]
async fn edges_to_unknown_entitlements_are_left_out_with_one_warning() {
    let access = entitlement(&app("a"), "access");
    let mut connector = small_tenant();
    for number in 0..40 {
        let unknown = entitlement(&group(&format!("gone{number}")), "member");
        connector = connector.with_grant(expandable(
            &access,
            &id("group", &format!("gone{number}")),
            &inherits(&unknown),
        ));
    }
    let bench = Bench::new();
    let report = bench
        .sync(&connector, &SyncRequest::default())
        .await
        .unwrap();
    assert_eq!(report.warnings.len(), 1);
    assert!(report.warnings[0].starts_with("40 inheritances were left out"));
    assert_eq!(report.warnings[0].matches("group:gone").count(), 25);
    assert_eq!(report.expanded_grants, 1);
}

#[tokio::test]
async fn grants_that_were_expandable_stay_so() {
    let bench = Bench::new();
    let tenant = Tenant {
        groups: 3,
        members: [(0, 1)].into(),
        nested: vec![
            (0, 1, false, vec![]),
            (1, 2, false, vec![]),
            (0, 2, false, vec![]),
        ],
    };
    bench
        .sync(&tenant.connector(), &SyncRequest::default())
        .await
        .unwrap();
    let reader = bench.open();
    let run = reader.latest_sync().unwrap();
    // Direct and inherited through g1 at once: rewritten by the expansion, its columns untouched.
    let row = reader
        .grant(&run.sync_id, "group:g2:member:group:g0")
        .unwrap()
        .unwrap();
    assert_eq!(
        sources(&row.grant),
        direct(&[("group:g1:member", true), ("group:g2:member", true)])
    );
    assert!(row.needs_expansion);
    assert_eq!(row.expansion.unwrap().entitlement_ids, ["group:g0:member"]);
    assert!(!proto::has::<v2::GrantImmutable>(&row.grant.annotations));
}
