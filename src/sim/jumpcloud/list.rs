//! The list conventions of both generations: `limit`, `skip`, `sort`, `fields`, `filter` and the frame of the answer.

use std::{cmp::Ordering, sync::Arc};

use serde::Serialize;
use serde_json::Value;

use super::{generator::gcd, id::mix, render::Kind, tenant::Tenant};

/// How a list is framed, sorted, projected and filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `{totalCount, results}`; separators are spaces, operators begin with a dollar sign.
    V1,
    /// A bare array with the header `x-total-count`; separators are commas.
    V2,
    /// The frame of the first generation with the separators of the second.
    V2Wrapped,
}

/// The parameters of one list request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ListQuery {
    pub limit: usize,
    pub skip: usize,
    /// Field names and whether they descend.
    pub sort: Vec<(String, bool)>,
    pub fields: Option<Vec<String>>,
    pub filters: Vec<Filter>,
    pub targets: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    field: String,
    operator: Operator,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

impl Operator {
    fn parse(text: &str, dialect: Dialect) -> Option<Self> {
        let name = match dialect {
            Dialect::V1 => text.strip_prefix('$')?,
            Dialect::V2 | Dialect::V2Wrapped => text,
        };
        match (name, dialect) {
            ("eq", _) => Some(Self::Equal),
            ("ne", _) => Some(Self::NotEqual),
            ("lt", _) => Some(Self::Less),
            ("gt", _) => Some(Self::Greater),
            ("in", _) => Some(Self::In),
            ("lte", Dialect::V1) | ("le", Dialect::V2 | Dialect::V2Wrapped) => {
                Some(Self::LessOrEqual)
            }
            ("gte", Dialect::V1) | ("ge", Dialect::V2 | Dialect::V2Wrapped) => {
                Some(Self::GreaterOrEqual)
            }
            _ => None,
        }
    }
}

/// Why a list request is answered 400: the message.
pub(super) type Refusal = String;

impl ListQuery {
    /// Reads the query of a request; the error is the message of a 400.
    pub(super) fn parse(query: &str, dialect: Dialect) -> Result<Self, Refusal> {
        let mut list = Self {
            limit: 10,
            ..Self::default()
        };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "limit" => {
                    list.limit = match number("limit", &value)? {
                        0 => 10,
                        limit if limit > 100 => {
                            return Err(
                                "Bad Request: request parameter \"limit\" exceeds maximum value of 100"
                                    .to_owned(),
                            );
                        }
                        limit => limit,
                    };
                }
                "skip" => list.skip = number("skip", &value)?,
                "sort" => {
                    list.sort = words(&value, dialect)
                        .map(|word| match word.strip_prefix('-') {
                            Some(name) => (name.to_owned(), true),
                            None => (word.to_owned(), false),
                        })
                        .collect();
                }
                "fields" => {
                    list.fields = Some(words(&value, dialect).map(str::to_owned).collect());
                }
                "filter" => match filter(&value, dialect) {
                    Some(filter) => list.filters.push(filter),
                    // The first generation takes a filter that it cannot read for none.
                    None if dialect == Dialect::V1 => {}
                    None => return Err("invalid filter".to_owned()),
                },
                "targets" => list.targets.push(value.into_owned()),
                _ => {}
            }
        }
        // An empty projection is no projection.
        list.fields = list.fields.filter(|names| !names.is_empty());
        Ok(list)
    }
}

fn number(name: &str, value: &str) -> Result<usize, Refusal> {
    value.parse().map_err(|_problem| {
        format!("Bad Request: request parameter \"{name}\" must be a number of at least 0")
    })
}

fn words(text: &str, dialect: Dialect) -> impl Iterator<Item = &str> {
    let separator = match dialect {
        Dialect::V1 => ' ',
        Dialect::V2 | Dialect::V2Wrapped => ',',
    };
    text.split(separator)
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

pub(super) fn filter(text: &str, dialect: Dialect) -> Option<Filter> {
    let (field, rest) = text.split_once(':')?;
    let (operator, value) = rest.split_once(':')?;
    Some(Filter {
        field: field.to_owned(),
        operator: Operator::parse(operator, dialect)?,
        value: value.to_owned(),
    })
}

/// How a fault bends a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Twist {
    #[default]
    None,
    WrongTotal,
    NoTotal,
    DuplicatePage,
    EndlessPaging,
}

/// One page, before it becomes an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListReply {
    pub body: Vec<u8>,
    /// For the header `x-total-count`.
    pub total: Option<String>,
    /// For the header `Link`.
    pub next_skip: Option<usize>,
}

/// Which part of a list a request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    from: usize,
    to: usize,
    total: usize,
    next: Option<usize>,
}

fn cut(length: usize, query: &ListQuery, twist: Twist) -> Cut {
    let skip = match twist {
        Twist::DuplicatePage => query.skip.saturating_sub(query.limit),
        Twist::EndlessPaging => 0,
        Twist::None | Twist::WrongTotal | Twist::NoTotal => query.skip,
    };
    let from = skip.min(length);
    let to = skip.saturating_add(query.limit).min(length);
    let after = query.skip.saturating_add(query.limit);
    let total = if twist == Twist::EndlessPaging {
        length.max(after.saturating_add(query.limit))
    } else {
        length
    };
    Cut {
        from,
        to,
        total,
        next: (after < total).then_some(after),
    }
}

/// Frames `length` rows, of which `write` renders the one at a position.
fn frame(
    length: usize,
    query: &ListQuery,
    dialect: Dialect,
    twist: Twist,
    mut write: impl FnMut(usize, &mut Vec<u8>),
) -> ListReply {
    let cut = cut(length, query, twist);
    let total = match twist {
        Twist::NoTotal => None,
        Twist::WrongTotal => Some("many".to_owned()),
        Twist::None | Twist::DuplicatePage | Twist::EndlessPaging => Some(cut.total.to_string()),
    };
    let mut body = Vec::with_capacity(1024 * (cut.to - cut.from) + 64);
    if dialect != Dialect::V2 {
        body.push(b'{');
        if let Some(total) = &total {
            let quote = if twist == Twist::WrongTotal { "\"" } else { "" };
            body.extend_from_slice(format!("\"totalCount\":{quote}{total}{quote},").as_bytes());
        }
        body.extend_from_slice(b"\"results\":");
    }
    body.push(b'[');
    for position in cut.from..cut.to {
        if position > cut.from {
            body.push(b',');
        }
        write(position, &mut body);
    }
    body.push(b']');
    if dialect != Dialect::V2 {
        body.push(b'}');
    }
    ListReply {
        body,
        total: total.filter(|_| dialect == Dialect::V2),
        next_skip: cut.next,
    }
}

/// A page of rows that are there already, such as graph connections.
pub(super) fn rows<T: Serialize>(
    rows: &[T],
    query: &ListQuery,
    dialect: Dialect,
    twist: Twist,
) -> ListReply {
    frame(rows.len(), query, dialect, twist, |position, body| {
        if let Some(row) = rows.get(position) {
            // Into memory, with text keys only: cannot fail.
            serde_json::to_writer(body, row).unwrap_or_default();
        }
    })
}

/// A page of graph connections or other rows that are made only for the page that is asked for.
pub(super) fn lazy_rows<T: Serialize>(
    length: usize,
    query: &ListQuery,
    dialect: Dialect,
    twist: Twist,
    make: impl Fn(usize) -> Option<T>,
) -> ListReply {
    frame(length, query, dialect, twist, |position, body| {
        if let Some(row) = make(position) {
            serde_json::to_writer(body, &row).unwrap_or_default();
        }
    })
}

/// A page of a collection. `shuffle` is the number of an order of its own for lists without a sort.
pub(super) fn objects(
    tenant: &Tenant,
    kind: &Kind,
    query: &ListQuery,
    dialect: Dialect,
    twist: Twist,
    shuffle: Option<u64>,
) -> Result<ListReply, Refusal> {
    objects_where(tenant, kind, query, dialect, twist, shuffle, None)
}

/// A page of the objects of a collection that `keep` lets through, by their slot.
pub(super) fn objects_where(
    tenant: &Tenant,
    kind: &Kind,
    query: &ListQuery,
    dialect: Dialect,
    twist: Twist,
    shuffle: Option<u64>,
    keep: Option<&dyn Fn(u32) -> bool>,
) -> Result<ListReply, Refusal> {
    if dialect != Dialect::V1
        && let Some(unknown) = query
            .filters
            .iter()
            .find(|filter| !kind.has_field(head(&filter.field)))
    {
        return Err(format!("invalid filter: unknown field {:?}", unknown.field));
    }
    let order = order(tenant, kind, &query.sort);
    let sorted = query.sort.iter().any(|(name, _)| kind.has_field(name));
    let slots: Arc<[u32]> = if query.filters.is_empty() && keep.is_none() {
        order
    } else {
        order
            .iter()
            .copied()
            .filter(|&slot| {
                query
                    .filters
                    .iter()
                    .all(|filter| passes(tenant, kind, slot, filter))
                    && keep.is_none_or(|keep| keep(slot))
            })
            .collect()
    };
    let places = Permutation::new(slots.len(), shuffle.filter(|_| !sorted));
    let projection = query.fields.as_deref();
    let fields = kind.projected(projection);
    Ok(frame(
        slots.len(),
        query,
        dialect,
        twist,
        |position, body| {
            if let Some(&slot) = slots.get(places.at(position)) {
                kind.write(tenant, slot, &fields, projection, body);
            }
        },
    ))
}

/// A reordering of positions that costs nothing to keep.
#[derive(Debug, Clone, Copy)]
pub(super) struct Permutation {
    length: usize,
    step: usize,
    start: usize,
}

impl Permutation {
    /// The order with this number; `None` leaves all in place.
    pub(super) fn new(length: usize, order: Option<u64>) -> Self {
        let unchanged = Self {
            length,
            step: 1,
            start: 0,
        };
        let (Some(order), Ok(below)) = (order, u32::try_from(length)) else {
            return unchanged;
        };
        if below < 2 {
            return unchanged;
        }
        let below_wide = u64::from(below);
        let mut step = u32::try_from(mix(order) % below_wide).unwrap_or(1).max(1);
        while gcd(step, below) != 1 {
            step = step % below + 1;
        }
        Self {
            length,
            step: step as usize,
            start: usize::try_from(mix(order ^ 1) % below_wide).unwrap_or(0),
        }
    }

    pub(super) fn at(self, position: usize) -> usize {
        if self.length == 0 {
            return 0;
        }
        (self.start + position.wrapping_mul(self.step)) % self.length
    }
}

/// How many sort orders are kept per organisation.
const ORDERS_KEPT: usize = 16;

/// The slots of a collection in the order asked for; unknown fields are ignored.
fn order(tenant: &Tenant, kind: &Kind, sort: &[(String, bool)]) -> Arc<[u32]> {
    let sort: Vec<&(String, bool)> = sort
        .iter()
        .filter(|(name, _)| kind.has_field(name))
        .collect();
    let key = (
        kind.name,
        sort.iter()
            .map(|(name, down)| format!("{}{name}", if *down { "-" } else { "" }))
            .collect::<Vec<_>>()
            .join(","),
    );
    let mut kept = tenant
        .orders
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((generation, order)) = kept.get(&key)
        && *generation == tenant.generation
    {
        return Arc::clone(order);
    }
    let mut slots = (kind.live)(tenant);
    // The least important field first; the sort is stable.
    for (name, down) in sort.into_iter().rev() {
        let direction = |ordering: Ordering| if *down { ordering.reverse() } else { ordering };
        if matches!(name.as_str(), "_id" | "id") {
            slots.sort_by(|&a, &b| direction((kind.id)(tenant, a).cmp(&(kind.id)(tenant, b))));
        } else {
            let mut keyed: Vec<(Vec<u8>, u32)> = slots
                .into_iter()
                .map(|slot| (kind.field(tenant, slot, name).unwrap_or_default(), slot))
                .collect();
            keyed.sort_by(|(a, _), (b, _)| direction(a.cmp(b)));
            slots = keyed.into_iter().map(|(_, slot)| slot).collect();
        }
    }
    let order: Arc<[u32]> = slots.into();
    if kept.len() >= ORDERS_KEPT {
        kept.clear();
    }
    kept.insert(key, (tenant.generation, Arc::clone(&order)));
    order
}

fn head(field: &str) -> &str {
    field.split_once('.').map_or(field, |(head, _)| head)
}

pub(super) fn passes(tenant: &Tenant, kind: &Kind, slot: u32, filter: &Filter) -> bool {
    let value = kind.value(tenant, slot, head(&filter.field));
    let value = filter.field.split('.').skip(1).fold(&value, |value, name| {
        value.get(name).unwrap_or(&Value::Null)
    });
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let ordering = text.as_str().cmp(&filter.value);
    match filter.operator {
        Operator::Equal => ordering.is_eq(),
        Operator::NotEqual => ordering.is_ne(),
        Operator::Less => ordering.is_lt(),
        Operator::LessOrEqual => ordering.is_le(),
        Operator::Greater => ordering.is_gt(),
        Operator::GreaterOrEqual => ordering.is_ge(),
        Operator::In => filter
            .value
            .trim_matches(['[', ']'])
            .split([',', '|'])
            .any(|choice| choice.trim() == text),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn limit_and_skip_are_read_or_refused() {
        for (query, want) in [
            ("", Ok((10, 0))),
            ("limit=0", Ok((10, 0))),
            ("limit=100&skip=7", Ok((100, 7))),
            ("limit=101", Err(())),
            ("limit=-1", Err(())),
            ("limit=ten", Err(())),
            ("limit=", Err(())),
            ("skip=-1", Err(())),
            ("skip=1.5", Err(())),
        ] {
            let got = ListQuery::parse(query, Dialect::V1)
                .map(|list| (list.limit, list.skip))
                .map_err(|_message| ());
            assert_eq!(got, want, "{query}");
        }
    }

    #[test]
    fn each_generation_has_its_separators() {
        let v1 = ListQuery::parse("sort=a+-b&fields=c+d", Dialect::V1).unwrap();
        let v2 = ListQuery::parse("sort=a,-b&fields=c,d", Dialect::V2).unwrap();
        assert_eq!(v1, v2);
        let crossed = ListQuery::parse("fields=c,d", Dialect::V1).unwrap();
        assert_eq!(crossed.fields, Some(vec!["c,d".to_owned()]));
    }

    #[test]
    fn a_filter_in_the_other_dialect_is_refused_by_v2_and_ignored_by_v1() {
        assert!(ListQuery::parse("filter=email:$eq:a", Dialect::V2).is_err());
        assert_eq!(
            ListQuery::parse("filter=email:eq:a", Dialect::V1)
                .unwrap()
                .filters,
            []
        );
        assert_eq!(
            ListQuery::parse("filter=email:$eq:a:b", Dialect::V1)
                .unwrap()
                .filters[0]
                .value,
            "a:b"
        );
    }

    #[test]
    fn pages_are_cut_with_a_next_page_only_when_there_is_one() {
        let query = |skip| ListQuery {
            limit: 10,
            skip,
            ..ListQuery::default()
        };
        let cut = |skip, twist| {
            let cut = cut(25, &query(skip), twist);
            (cut.from, cut.to, cut.total, cut.next)
        };
        assert_eq!(cut(0, Twist::None), (0, 10, 25, Some(10)));
        assert_eq!(cut(20, Twist::None), (20, 25, 25, None));
        assert_eq!(cut(40, Twist::None), (25, 25, 25, None));
        assert_eq!(cut(usize::MAX, Twist::None), (25, 25, 25, None));
        assert_eq!(cut(20, Twist::DuplicatePage), (10, 20, 25, None));
        assert_eq!(cut(20, Twist::EndlessPaging), (0, 10, 40, Some(30)));
    }

    proptest::proptest! {
        #[test]
        fn no_query_makes_a_page_that_is_not_there(
            query in r"(limit|skip|sort|fields|filter|targets)=[-a-z0-9%+:$,]{0,24}(&(limit|skip)=[0-9]{0,20})?",
            length in 0_usize..300,
        ) {
            for dialect in [Dialect::V1, Dialect::V2, Dialect::V2Wrapped] {
                let Ok(list) = ListQuery::parse(&query, dialect) else { continue };
                proptest::prop_assert!((1..=100).contains(&list.limit));
                for twist in [Twist::None, Twist::DuplicatePage, Twist::EndlessPaging] {
                    let cut = cut(length, &list, twist);
                    proptest::prop_assert!(cut.from <= cut.to && cut.to <= length);
                    proptest::prop_assert!(cut.to - cut.from <= list.limit);
                }
            }
        }
    }

    #[test]
    fn a_permutation_visits_every_position_once() {
        for length in [0, 1, 2, 3, 10, 97, 100] {
            for order in 0..20 {
                let permutation = Permutation::new(length, Some(order));
                let seen: HashSet<_> = (0..length).map(|p| permutation.at(p)).collect();
                assert_eq!(seen.len(), length);
            }
        }
    }
}
