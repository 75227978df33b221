//! The graph of grant expansion: which entitlement passes its holders on to which other.
//!
//! Nodes are entitlements, an edge `S → D` says that whoever holds S also holds D. Parallel edges are merged and
//! cycles are collapsed: the entitlements of a cycle do not feed each other, but an edge into the cycle feeds all of
//! them and an edge out of it is fed by all of them. Memory grows with entitlements and edges, never with grants.

use std::collections::{BTreeMap, HashMap};

use crate::proto::connector as v2;

/// How holders are passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    /// Direct holders only.
    pub(super) shallow: bool,
    /// Sorted numbers of the principal types that pass; `None` = all.
    types: Option<Box<[u32]>>,
}

impl Edge {
    /// Joins a parallel edge: the wider of each property wins.
    fn widen(&mut self, other: &Self) {
        self.shallow &= other.shallow;
        self.types = match (self.types.take(), &other.types) {
            (Some(mine), Some(theirs)) => {
                let mut union: Vec<u32> = mine.iter().chain(theirs).copied().collect();
                union.sort_unstable();
                union.dedup();
                Some(union.into())
            }
            _ => None,
        };
    }
}

/// An entitlement of the graph.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) entitlement_id: String,
    pub(super) resource: v2::ResourceId,
}

/// The graph while it is being built.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    by_id: HashMap<String, u32>,
    types: HashMap<String, u32>,
    edges: BTreeMap<(u32, u32), Edge>,
}

impl Graph {
    /// The node of an entitlement, when it is part of the graph already.
    pub(super) fn find(&self, entitlement_id: &str) -> Option<u32> {
        self.by_id.get(entitlement_id).copied()
    }

    /// Adds a node that is not part of the graph yet.
    pub(super) fn add_node(&mut self, entitlement_id: &str, resource: v2::ResourceId) -> u32 {
        let number = number(self.nodes.len());
        self.nodes.push(Node {
            entitlement_id: entitlement_id.to_owned(),
            resource,
        });
        self.by_id.insert(entitlement_id.to_owned(), number);
        number
    }

    pub(super) fn node(&self, number: u32) -> Option<&Node> {
        self.nodes.get(number as usize)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    /// Adds an edge; an empty list of types lets all pass.
    pub(super) fn add_edge(&mut self, from: u32, to: u32, shallow: bool, types: &[String]) {
        let types = (!types.is_empty()).then(|| {
            let mut numbers: Vec<u32> = types.iter().map(|name| self.type_number(name)).collect();
            numbers.sort_unstable();
            numbers.dedup();
            numbers.into_boxed_slice()
        });
        let edge = Edge { shallow, types };
        self.edges
            .entry((from, to))
            .and_modify(|known| known.widen(&edge))
            .or_insert(edge);
    }

    fn type_number(&mut self, name: &str) -> u32 {
        if let Some(known) = self.types.get(name) {
            return *known;
        }
        let next = number(self.types.len());
        self.types.insert(name.to_owned(), next);
        next
    }

    /// Whether a principal of this type passes an edge.
    fn passes(&self, edge: &Edge, principal_type: &str) -> bool {
        edge.types.as_ref().is_none_or(|types| {
            self.types
                .get(principal_type)
                .is_some_and(|number| types.binary_search(number).is_ok())
        })
    }

    /// Collapses cycles and orders what is left: all sources of an entitlement come before it.
    pub(super) fn plan(self) -> Plan {
        let mut outgoing: Vec<Vec<u32>> = vec![Vec::new(); self.nodes.len()];
        for &(from, to) in self.edges.keys() {
            if let Some(list) = outgoing.get_mut(from as usize) {
                list.push(to);
            }
        }
        let components = strong_components(&outgoing);
        let mut component_of = vec![0_u32; self.nodes.len()];
        for (index, members) in components.iter().enumerate() {
            for &member in members {
                if let Some(slot) = component_of.get_mut(member as usize) {
                    *slot = number(index);
                }
            }
        }
        let component = |node: u32| component_of.get(node as usize).copied().unwrap_or_default();
        let mut merged: BTreeMap<(u32, u32), Edge> = BTreeMap::new();
        for (&(from, to), edge) in &self.edges {
            let (from, to) = (component(from), component(to));
            if from != to {
                merged
                    .entry((from, to))
                    .and_modify(|known| known.widen(edge))
                    .or_insert_with(|| edge.clone());
            }
        }
        // Tarjan's algorithm completes a component after everything that it reaches: the reverse order is topological.
        let mut targets: Vec<Vec<(u32, Edge)>> = vec![Vec::new(); components.len()];
        for ((from, to), edge) in merged {
            if let Some(list) = targets.get_mut(from as usize) {
                list.push((to, edge));
            }
        }
        let sources = (0..components.len())
            .rev()
            .filter(|&index| targets.get(index).is_some_and(|list| !list.is_empty()))
            .flat_map(|index| {
                components
                    .get(index)
                    .into_iter()
                    .flatten()
                    .map(move |&node| (node, number(index)))
            })
            .collect();
        Plan {
            graph: Self {
                edges: BTreeMap::new(),
                by_id: HashMap::new(),
                ..self
            },
            components,
            targets,
            sources,
        }
    }
}

/// The order of evaluation.
#[derive(Debug)]
pub(super) struct Plan {
    graph: Graph,
    /// Members of each component.
    components: Vec<Vec<u32>>,
    /// Outgoing edges of each component.
    targets: Vec<Vec<(u32, Edge)>>,
    /// Entitlements with outgoing edges, and their components, in topological order.
    sources: Vec<(u32, u32)>,
}

impl Plan {
    /// How many entitlements pass their holders on.
    pub(super) fn len(&self) -> usize {
        self.sources.len()
    }

    /// The entitlement whose holders are passed on in step `index`.
    pub(super) fn source(&self, index: usize) -> Option<&Node> {
        let (node, _) = self.sources.get(index)?;
        self.graph.node(*node)
    }

    /// The entitlements that the holders of step `index` get.
    pub(super) fn targets(&self, index: usize) -> impl Iterator<Item = (&Node, &Edge)> {
        let component = self.sources.get(index).map(|(_, component)| *component);
        component
            .and_then(|component| self.targets.get(component as usize))
            .into_iter()
            .flatten()
            .flat_map(|(to, edge)| {
                self.components
                    .get(*to as usize)
                    .into_iter()
                    .flatten()
                    .filter_map(|&node| self.graph.node(node))
                    .map(move |node| (node, edge))
            })
    }

    /// Whether a principal of this type passes an edge.
    pub(super) fn passes(&self, edge: &Edge, principal_type: &str) -> bool {
        self.graph.passes(edge, principal_type)
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Tarjan's strongly connected components without recursion; each after all that it reaches.
fn strong_components(outgoing: &[Vec<u32>]) -> Vec<Vec<u32>> {
    const UNSEEN: u32 = u32::MAX;
    let count = outgoing.len();
    let mut order = vec![UNSEEN; count];
    let mut low = vec![0_u32; count];
    let mut is_open = vec![false; count];
    let mut open: Vec<u32> = Vec::new();
    let mut path: Vec<(u32, usize)> = Vec::new();
    let mut next = 0_u32;
    let mut components = Vec::new();
    let at = |values: &[u32], node: u32| values.get(node as usize).copied().unwrap_or_default();
    let put = |values: &mut [u32], node: u32, value: u32| {
        if let Some(slot) = values.get_mut(node as usize) {
            *slot = value;
        }
    };
    for root in 0..number(count) {
        if at(&order, root) != UNSEEN {
            continue;
        }
        path.push((root, 0));
        while let Some((node, position)) = path.pop() {
            if position == 0 && at(&order, node) == UNSEEN {
                put(&mut order, node, next);
                put(&mut low, node, next);
                next += 1;
                open.push(node);
                if let Some(flag) = is_open.get_mut(node as usize) {
                    *flag = true;
                }
            }
            let successor = outgoing
                .get(node as usize)
                .and_then(|list| list.get(position))
                .copied();
            if let Some(successor) = successor {
                path.push((node, position + 1));
                if at(&order, successor) == UNSEEN {
                    path.push((successor, 0));
                } else if is_open.get(successor as usize) == Some(&true) {
                    let lower = at(&low, node).min(at(&order, successor));
                    put(&mut low, node, lower);
                }
                continue;
            }
            if at(&low, node) == at(&order, node) {
                let mut members = Vec::new();
                while let Some(member) = open.pop() {
                    if let Some(flag) = is_open.get_mut(member as usize) {
                        *flag = false;
                    }
                    members.push(member);
                    if member == node {
                        break;
                    }
                }
                members.sort_unstable();
                components.push(members);
            }
            if let Some(&(parent, _)) = path.last() {
                let lower = at(&low, parent).min(at(&low, node));
                put(&mut low, parent, lower);
            }
        }
    }
    components
}
