//! JumpCloud's side, judged by JumpCloud's own descriptions.
//!
//! `tests/contract/jumpcloud.tsv` is derived from the published descriptions by `derive.py`, which explains the rows.
//! `tests/contract/overlay.tsv` holds what is known beyond them, each row with its evidence: `recorded` (exchanges with
//! the real service), `vendor client` (JumpCloud's own tools do it), `help page` (JumpCloud's prose says it), `third
//! party` (another integration does it) or `inferred` (it follows from the conventions of other endpoints, or the
//! simulator is more awkward than any answer seen, so that the connector has to bear it). A row of the overlay whose
//! place ends with `*` holds for all places that begin so.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    time::Duration,
};

use baton_jumpcloud::{
    clock::SystemClock,
    connector::{
        Connector,
        jumpcloud::{
            Allowed, JumpCloud, Settings,
            client::{self, Auth, Client},
        },
    },
    proto::connector as v2,
    sim::jumpcloud::{
        CLIENT_ID, CLIENT_SECRET, Config, Entry, FULL_KEY, HELP_DESK_KEY, JumpCloudSim,
        MembershipMethod, Requests, Shape, Status,
    },
    syncer::{self, SyncRequest},
};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

const TABLE: &str = include_str!("../contract/jumpcloud.tsv");
const OVERLAY: &str = include_str!("../contract/overlay.tsv");
const EVIDENCE: [&str; 5] = [
    "help page",
    "inferred",
    "recorded",
    "third party",
    "vendor client",
];

/// Headers of HTTP itself, which no description lists.
const HTTP_HEADERS: [&str; 6] = [
    "accept",
    "accept-encoding",
    "content-length",
    "content-type",
    "host",
    "user-agent",
];

// ---------------------------------------------------------------------------------------------- the table

/// A type of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Type {
    /// How many arrays are around it.
    depth: usize,
    name: String,
    null: bool,
    required: bool,
    values: Vec<String>,
    separator: Option<char>,
    least: Option<i64>,
    most: Option<i64>,
    default: Option<usize>,
}

impl Type {
    fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let mut name = words.next().unwrap();
        let mut depth = 0;
        while let Some(inner) = name.strip_prefix("[]") {
            (name, depth) = (inner, depth + 1);
        }
        let mut kind = Self {
            depth,
            name: name.to_owned(),
            null: false,
            required: false,
            values: Vec::new(),
            separator: None,
            least: None,
            most: None,
            default: None,
        };
        for word in words {
            match word {
                "null" => kind.null = true,
                "required" => kind.required = true,
                "csv" => kind.separator = Some(','),
                "multi" => {}
                _ if word.starts_with("default=") => {
                    kind.default = Some(word["default=".len()..].parse().unwrap());
                }
                _ if word.contains("..") => {
                    let (least, most) = word.split_once("..").unwrap();
                    kind.least = (!least.is_empty()).then(|| least.parse().unwrap());
                    kind.most = (!most.is_empty()).then(|| most.parse().unwrap());
                }
                _ => kind.values = word.split('|').map(str::to_owned).collect(),
            }
        }
        kind
    }

    fn item(&self) -> Self {
        Self {
            depth: self.depth - 1,
            null: false,
            ..self.clone()
        }
    }

    fn is_schema(&self) -> bool {
        self.name.contains('.')
    }

    /// Whether a value is one of these, without a look into objects and arrays.
    fn fits(&self, value: &Value) -> bool {
        if value.is_null() {
            return self.null;
        }
        if self.depth > 0 {
            return value.is_array();
        }
        match self.name.as_str() {
            "any" => true,
            "boolean" => value.is_boolean(),
            "integer" => value
                .as_i64()
                .is_some_and(|number| self.least.is_none_or(|least| number >= least)),
            "number" => value.is_number(),
            "string" => value.as_str().is_some_and(|text| {
                self.values.is_empty() || self.values.iter().any(|known| known == text)
            }),
            _ => value.is_object(),
        }
    }
}

#[derive(Debug)]
struct Row {
    kind: String,
    place: String,
    name: String,
    r#type: Type,
}

fn row(line: &str) -> (Row, Option<&str>) {
    let cells: Vec<&str> = line.split('\t').collect();
    assert!(matches!(cells.len(), 4 | 5), "{line:?}");
    let row = Row {
        kind: cells[0].to_owned(),
        place: cells[1].to_owned(),
        name: cells[2].to_owned(),
        r#type: Type::parse(cells[3]),
    };
    (row, cells.get(4).copied())
}

/// The table and its overlay, with a note of which rows of the overlay were needed.
struct Contract {
    table: BTreeMap<(String, String, String), Type>,
    overlay: Vec<Row>,
    needed: RefCell<BTreeSet<usize>>,
}

/// A type out of the table, or out of this row of the overlay.
type Known = (Type, Option<usize>);

impl Contract {
    fn new() -> Self {
        let table = TABLE
            .lines()
            .map(|line| row(line).0)
            .map(|row| ((row.kind, row.place, row.name), row.r#type))
            .collect();
        Self {
            table,
            overlay: OVERLAY.lines().map(|line| row(line).0).collect(),
            needed: RefCell::default(),
        }
    }

    /// What is known of a name: first what is described, then what the overlay says.
    fn known(&self, kind: &str, place: &str, name: &str) -> Vec<Known> {
        let key = (kind.to_owned(), place.to_owned(), name.to_owned());
        let mut known: Vec<Known> = Vec::new();
        // A path that is not described has a row as well, which is no permission.
        if let Some(found) = self.table.get(&key)
            && !matches!(found.name.as_str(), "no" | "named")
        {
            known.push((found.clone(), None));
        }
        let covers = |of: &str| match of.strip_suffix('*') {
            Some(beginning) => place.starts_with(beginning),
            None => of == place,
        };
        for (number, row) in self.overlay.iter().enumerate() {
            if row.kind == kind && row.name == name && covers(&row.place) {
                known.push((row.r#type.clone(), Some(number)));
            }
        }
        known
    }

    /// The first type that passes; a row of the overlay counts as needed when it is the one.
    fn first(&self, known: Vec<Known>, passes: impl Fn(&Type) -> bool) -> Option<Type> {
        let (found, from) = known.into_iter().find(|(found, _)| passes(found))?;
        self.needed.borrow_mut().extend(from);
        Some(found)
    }

    fn knows(&self, kind: &str, place: &str, name: &str) -> bool {
        self.first(self.known(kind, place, name), |_| true)
            .is_some()
    }

    /// The types that a field of this name can have in a schema or in a body of an inline type.
    fn fields_of(&self, of: &[Known], name: &str) -> Vec<Known> {
        let schemas = of.iter().filter(|(of, _)| of.is_schema());
        schemas
            .flat_map(|(of, _)| self.known("field", &of.name, name))
            .collect()
    }

    /// All endpoints, described or not.
    fn endpoints(&self) -> Vec<String> {
        let described = self.table.keys().filter(|(kind, ..)| kind == "path");
        let added = self.overlay.iter().filter(|row| row.kind == "path");
        let mut all: Vec<String> = described
            .map(|(_, place, _)| place.clone())
            .chain(added.map(|row| row.place.clone()))
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// The endpoint of a request, the exact path before one with an id.
    fn endpoint(&self, method: &str, path: &str) -> Option<String> {
        let matches = |endpoint: &String| {
            let (of, template) = endpoint.split_once(' ').unwrap();
            let (want, have): (Vec<&str>, Vec<&str>) =
                (template.split('/').collect(), path.split('/').collect());
            of == method
                && want.len() == have.len()
                && want
                    .iter()
                    .zip(&have)
                    .all(|(want, have)| want == have || (*want == "{id}" && !have.is_empty()))
        };
        let mut found: Vec<String> = self.endpoints().into_iter().filter(matches).collect();
        found.sort_by_key(|endpoint| endpoint.matches("{id}").count());
        found.into_iter().next()
    }

    fn answer(&self, endpoint: &str, status: u16) -> Option<Type> {
        self.first(self.known("answer", endpoint, &status.to_string()), |_| {
            true
        })
    }

    /// The schema of the rows of a list, or of the one object.
    fn row_schema(&self, endpoint: &str) -> Option<String> {
        let answer = self.answer(endpoint, 200)?;
        if answer.depth == 0
            && let Some(results) =
                self.first(self.known("field", &answer.name, "results"), |_| true)
        {
            return Some(results.name);
        }
        Some(answer.name)
    }

    /// The most rows that a page may have.
    fn most(&self, endpoint: &str) -> Option<i64> {
        self.first(self.known("query", endpoint, "limit"), |of| {
            of.most.is_some()
        })?
        .most
    }

    fn needless(&self) -> Vec<&'static str> {
        let needed = self.needed.borrow();
        OVERLAY
            .lines()
            .enumerate()
            .filter_map(|(number, line)| (!needed.contains(&number)).then_some(line))
            .collect()
    }
}

// ---------------------------------------------------------------------------------------------- the judges

type Faults = BTreeSet<String>;

fn judge_request(contract: &Contract, entry: &Entry, faults: &mut Faults) {
    let Some(endpoint) = contract.endpoint(&entry.method, &entry.path) else {
        faults.insert(format!("{} {}: no such endpoint", entry.method, entry.path));
        return;
    };
    let mut fault = |words: String| {
        faults.insert(format!("{endpoint}: {words}"));
    };
    if !contract.knows("path", &endpoint, "described") {
        fault("the path is not described".to_owned());
    }
    for name in &entry.headers {
        if !HTTP_HEADERS.contains(&name.as_str()) && !contract.knows("header", &endpoint, name) {
            fault(format!("header {name} is not known"));
        }
    }
    for name in &entry.form {
        if !contract.knows("form", &endpoint, name) {
            fault(format!("form parameter {name} is not known"));
        }
    }
    for words in judge_body(contract, &endpoint, &entry.fields) {
        fault(words);
    }
    let mut seen = BTreeSet::new();
    for (name, value) in url::form_urlencoded::parse(entry.query.as_bytes()) {
        let known = contract.known("query", &endpoint, &name);
        if known.is_empty() {
            fault(format!("query parameter {name} is not known"));
            continue;
        }
        if !seen.insert(name.to_string()) {
            fault(format!("query parameter {name} is there twice"));
        }
        let form = contract.first(known, |of| parameter_fits(of, &value));
        let Some(form) = form else {
            fault(format!(
                "query parameter {name} cannot have the value {value:?}"
            ));
            continue;
        };
        match name.as_ref() {
            "limit" => match contract.most(&endpoint) {
                None => fault("the highest limit is not known".to_owned()),
                Some(most) if value.parse::<i64>().unwrap() > most => {
                    fault(format!("limit {value} is more than {most}"));
                }
                Some(_) => {}
            },
            "sort" | "fields" => {
                let schema = contract.row_schema(&endpoint).unwrap_or_default();
                for field in value.split(form.separator.unwrap_or(' ')) {
                    let field = match name.as_ref() {
                        "sort" => field.strip_prefix('-').unwrap_or(field),
                        _ => field,
                    };
                    if !contract.knows("field", &schema, field) {
                        fault(format!("{name} has {field:?}, which {schema} has not"));
                    }
                }
            }
            _ => {}
        }
    }
    let required = contract
        .table
        .iter()
        .filter(|((kind, place, _), of)| kind == "query" && *place == endpoint && of.required);
    for ((_, _, name), _) in required {
        if !seen.contains(name) {
            fault(format!("query parameter {name} is missing"));
        }
    }
}

/// The names of the fields of a body, such as `attributes[].name`, and those that it must have.
fn judge_body(contract: &Contract, endpoint: &str, fields: &[String]) -> Vec<String> {
    let bodies = contract.known("body", endpoint, "body");
    let mut faults = Vec::new();
    if bodies.is_empty() {
        if !fields.is_empty() {
            faults.push("a body is not known".to_owned());
        }
        return faults;
    }
    contract.first(bodies.clone(), |_| true);
    'names: for name in fields {
        let mut of = bodies.clone();
        for part in name.split('.') {
            if of.iter().any(|(of, _)| of.name == "any") {
                continue 'names;
            }
            of = contract.fields_of(&of, part.trim_end_matches("[]"));
            if of.is_empty() {
                faults.push(format!("body field {name} is not known"));
                continue 'names;
            }
        }
        contract.first(of, |_| true);
    }
    for (body, from) in &bodies {
        if from.is_some() || fields.is_empty() && endpoint.ends_with("activate") {
            continue;
        }
        let required = contract
            .table
            .iter()
            .filter(|((kind, place, _), of)| kind == "field" && *place == body.name && of.required);
        for ((_, _, name), _) in required {
            if !fields.contains(name) {
                faults.push(format!("body field {name} is missing"));
            }
        }
    }
    faults
}

fn parameter_fits(of: &Type, text: &str) -> bool {
    match of.name.as_str() {
        "integer" => text.parse::<i64>().is_ok_and(|number| {
            of.least.is_none_or(|least| number >= least)
                && of.most.is_none_or(|most| number <= most)
        }),
        "string" if of.depth == 0 => {
            of.values.is_empty() || of.values.iter().any(|known| known == text)
        }
        "string" => text
            .split(of.separator.unwrap_or(' '))
            .all(|word| !word.is_empty()),
        _ => false,
    }
}

/// One answer of the simulator.
#[derive(Debug, Clone)]
struct Answer {
    endpoint: String,
    status: u16,
    headers: BTreeSet<String>,
    body: Value,
    /// Whether the request had no `limit`.
    unlimited: bool,
    /// Whether the request asked for all fields.
    whole: bool,
}

fn judge_answer(contract: &Contract, answer: &Answer, faults: &mut Faults) {
    let endpoint = &answer.endpoint;
    let wrong = |words: &str| format!("{endpoint} {}: {words}", answer.status);
    if !contract.knows("path", endpoint, "described") {
        faults.insert(wrong("the path is not described"));
    }
    if !(200..300).contains(&answer.status) {
        let schema = match (endpoint.contains("/api/v2/"), answer.status) {
            (false, _) => "v1.Error",
            (true, 400) => "v2.ErrorDetails",
            (true, _) => "v2.Error",
        };
        let of = Type::parse(schema);
        if !of.fits(&answer.body) {
            faults.insert(wrong("the error is no object"));
        }
        judge_value(contract, &answer.body, &of, true, faults);
        return;
    }
    let Some(of) = contract.answer(endpoint, answer.status) else {
        faults.insert(wrong("the answer is not known"));
        return;
    };
    if of.name == "none" {
        if !answer.body.is_null() && answer.body != json!({}) {
            faults.insert(wrong("there is a body"));
        }
        return;
    }
    if !of.fits(&answer.body) {
        faults.insert(wrong(&format!("the answer is not {of:?}")));
        return;
    }
    judge_value(contract, &answer.body, &of, answer.whole, faults);
    let wrapped = of.depth == 0 && answer.body.get("results").is_some();
    let rows = if wrapped {
        answer.body.get("results")
    } else {
        Some(&answer.body)
    };
    let rows = rows.and_then(Value::as_array);
    for name in ["x-total-count", "link"] {
        let there = answer.headers.contains(name);
        if there && !contract.knows("answer-header", endpoint, name) {
            faults.insert(wrong(&format!("header {name} is not known")));
        }
    }
    let total = answer.body.get("totalCount").is_some_and(Value::is_u64);
    if wrapped && !total {
        faults.insert(wrong("a wrapped list without totalCount"));
    }
    if of.depth > 0
        && endpoint.starts_with("GET /api/v2/")
        && !answer.headers.contains("x-total-count")
    {
        faults.insert(wrong("a bare list without x-total-count"));
    }
    if let Some(rows) = rows
        && answer.unlimited
    {
        let default = contract
            .first(contract.known("query", endpoint, "limit"), |of| {
                of.default.is_some()
            })
            .and_then(|of| of.default);
        if default.is_none_or(|default| rows.len() > default) {
            faults.insert(wrong(&format!(
                "{} rows without a limit, where the default is {default:?}",
                rows.len()
            )));
        }
    }
}

fn judge_value(contract: &Contract, value: &Value, of: &Type, whole: bool, faults: &mut Faults) {
    if let (Value::Array(items), true) = (value, of.depth > 0) {
        let item_type = of.item();
        for item in items {
            if !item_type.fits(item) {
                faults.insert(format!("an element of a list is {item}, not {item_type:?}"));
            }
            judge_value(contract, item, &item_type, whole, faults);
        }
    }
    let (Value::Object(map), true) = (value, of.depth == 0 && of.is_schema()) else {
        return;
    };
    let schema = &of.name;
    for (name, value) in map {
        let known = contract.known("field", schema, name);
        if known.is_empty() {
            faults.insert(format!("{schema} has no field {name}"));
            continue;
        }
        match contract.first(known.clone(), |of| of.fits(value)) {
            Some(of) => judge_value(contract, value, &of, whole, faults),
            None => {
                faults.insert(format!(
                    "{schema}.{name} cannot be {}, known are {:?}",
                    shape(value),
                    known
                        .iter()
                        .map(|(of, _)| format!(
                            "{}{}{}",
                            "[]".repeat(of.depth),
                            of.name,
                            if of.null { " null" } else { "" }
                        ))
                        .collect::<Vec<_>>()
                ));
            }
        }
    }
    if whole {
        let required = contract
            .table
            .iter()
            .filter(|((kind, place, _), of)| kind == "field" && place == schema && of.required);
        for ((_, _, name), _) in required {
            if !map.contains_key(name) {
                faults.insert(format!("{schema}.{name} is missing"));
            }
        }
    }
}

/// A value as it may stand in a message: no text of unknown length, which could be a secret.
fn shape(value: &Value) -> String {
    match value {
        Value::String(text) if text.len() > 40 => format!("a text of {} bytes", text.len()),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string(),
    }
}

// ---------------------------------------------------------------------------------------------- what wire.rs reads

/// A field as the source says it: the name on the wire, the function that reads it, the type in Rust.
type Read = (String, String, String);

/// The structures of a source file, by name.
fn structures(source: &str) -> BTreeMap<String, Vec<Read>> {
    let mut found: BTreeMap<String, Vec<Read>> = BTreeMap::new();
    let (mut current, mut camel) = (None, false);
    let (mut rename, mut with) = (None, String::new());
    let quoted = |text: &str, key: &str| {
        let rest = text.split(&format!("{key} = \"")).nth(1)?;
        Some(rest.split('"').next().unwrap().to_owned())
    };
    for line in source.lines() {
        let line = line.trim();
        if line.starts_with("#[serde(") {
            camel |= current.is_none() && line.contains("rename_all = \"camelCase\"");
            if current.is_some() {
                rename = quoted(line, "rename");
                with = quoted(line, "deserialize_with").unwrap_or_default();
            }
        } else if let Some(rest) = line.strip_prefix("pub struct ")
            && let Some(name) = rest.strip_suffix(" {")
        {
            current = Some(name.to_owned());
            found.insert(name.to_owned(), Vec::new());
        } else if line.starts_with('}') {
            (current, camel) = (None, false);
        } else if let (Some(name), Some((field, kind))) = (&current, line.split_once(": "))
            && !line.starts_with('/')
        {
            let field = field.strip_prefix("pub ").unwrap_or(field);
            let name_there = rename.take().unwrap_or_else(|| {
                if camel {
                    camel_case(field)
                } else {
                    field.to_owned()
                }
            });
            let kind = kind.trim_end_matches(',').to_owned();
            let read = (name_there, std::mem::take(&mut with), kind);
            found.get_mut(name).unwrap().push(read);
        } else if current.is_none() && !line.starts_with('#') && !line.starts_with("//") {
            camel = false;
        }
    }
    found
}

fn camel_case(name: &str) -> String {
    let mut text = String::new();
    for (number, word) in name.split('_').enumerate() {
        let (head, tail) = word.split_at(word.len().min(1));
        if number == 0 {
            text.push_str(word);
        } else {
            write!(text, "{}{tail}", head.to_uppercase()).unwrap();
        }
    }
    text
}

fn judge_structure(
    contract: &Contract,
    all: &BTreeMap<String, Vec<Read>>,
    name: &str,
    schema: &str,
    reached: &mut BTreeSet<String>,
    faults: &mut Faults,
) {
    reached.insert(name.to_owned());
    let Some(fields) = all.get(name) else {
        faults.insert(format!("wire.rs has no structure {name}"));
        return;
    };
    for (field, with, rust) in fields {
        let known = contract.known("field", schema, field);
        // Both spellings of an id are read everywhere; one of them has to be there.
        let id = |name: &str| !contract.known("field", schema, name).is_empty();
        if known.is_empty() && field == "_id" && id("id") {
            continue;
        }
        let bare = rust
            .trim_start_matches("Option<")
            .trim_start_matches("Vec<")
            .trim_end_matches('>');
        let listed = rust.starts_with("Vec<");
        let fits = |of: &Type| {
            let inner = match bare {
                "bool" => of.name == "boolean",
                "String" | "Text" => matches!(of.name.as_str(), "string" | "integer"),
                "serde_json::Value" => true,
                _ => of.is_schema(),
            };
            inner && (of.depth > 0) == listed
        };
        let expected = match bare {
            "bool" => "flag",
            // Decides what an edge means, so it is read strictly.
            "String" if name == "GraphObject" && field == "type" => "",
            "String" if matches!(field.as_str(), "_id" | "id") => "id_text",
            "String" => "text",
            _ => "lenient",
        };
        if with != expected {
            faults.insert(format!(
                "{name}.{field}: read with {with:?}, not {expected:?}"
            ));
        }
        match contract.first(known, fits) {
            None => {
                faults.insert(format!("{name}.{field}: {schema} has no such {rust}"));
            }
            Some(of) if of.is_schema() && bare != "serde_json::Value" => {
                judge_structure(contract, all, bare, &of.name, reached, faults);
            }
            Some(_) => {}
        }
    }
}

/// The structures that are read from an answer, and the endpoint of it.
const READ_FROM: [(&str, &str); 8] = [
    ("Administrator", "GET /api/users"),
    ("Application", "GET /api/applications"),
    ("Edge", "GET /api/v2/applications/{id}/associations"),
    ("Edge", "GET /api/v2/usergroups/{id}/members"),
    ("Role", "GET /api/v2/roles"),
    ("SystemUser", "GET /api/systemusers"),
    ("SystemUser", "GET /api/systemusers/{id}"),
    ("UserGroup", "GET /api/v2/usergroups"),
];

fn judge_wire(contract: &Contract, source: &str) -> Faults {
    let all = structures(source);
    let (mut reached, mut faults) = (BTreeSet::new(), Faults::new());
    for (name, endpoint) in READ_FROM {
        let schema = contract.row_schema(endpoint).unwrap_or_default();
        judge_structure(contract, &all, name, &schema, &mut reached, &mut faults);
    }
    for (name, fields) in &all {
        if !fields.is_empty() && !reached.contains(name) {
            faults.insert(format!("{name}: the tests do not know where it is read"));
        }
    }
    faults
}

fn wire() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/connector/jumpcloud/wire.rs");
    fs::read_to_string(path).unwrap()
}

// ---------------------------------------------------------------------------------------------- what happens

/// Everything that is judged, made once.
struct Happened {
    requests: Vec<Entry>,
    answers: Vec<Answer>,
    /// Writes that the simulator accepted from the tests themselves.
    written: Vec<Entry>,
}

async fn happened() -> &'static Happened {
    static HAPPENED: OnceCell<Happened> = OnceCell::const_new();
    HAPPENED
        .get_or_init(|| async {
            let (answers, written) = all_answers().await;
            Happened {
                requests: all_requests().await,
                answers,
                written,
            }
        })
        .await
}

async fn simulator() -> JumpCloudSim {
    let shape = Shape {
        seed: 11,
        users: 250,
        groups: 24,
        members_per_group: 120,
        apps: 12,
        groups_per_app: 12,
        users_per_app: 12,
        admins: 12,
        ..Shape::default()
    };
    let sim = JumpCloudSim::start(Config::of(shape)).await.unwrap();
    sim.edit(|tenant| {
        let (users, groups) = (tenant.user_ids(), tenant.group_ids());
        for (user, status) in users.iter().zip([
            Status::Active,
            Status::Staged,
            Status::Suspended,
            Status::Locked,
            Status::NeverActivated,
            Status::Legacy,
            Status::LegacySuspended,
        ]) {
            tenant.set_status(*user, status).unwrap();
        }
        for (group, method) in groups.iter().zip([
            MembershipMethod::Notset,
            MembershipMethod::Static,
            MembershipMethod::DynamicAutomated,
            MembershipMethod::DynamicReviewRequired,
        ]) {
            tenant.set_membership_method(*group, method).unwrap();
        }
    })
    .unwrap();
    sim
}

struct Way<'a> {
    auth: Auth,
    org_id: Option<&'a str>,
    merge_administrators: bool,
    request: &'a SyncRequest,
    validates: bool,
}

async fn sync(sim: &JumpCloudSim, way: Way<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let url: url::Url = sim.base_url.parse().unwrap();
    let client = Client::try_new(client::Settings {
        console_url: url.clone(),
        insights_url: url,
        auth: way.auth,
        org_id: way.org_id.map(str::to_owned),
        timeout: Duration::from_secs(20),
        extra_ca_pem: None,
        max_concurrency: 8,
        rotation_wait: Duration::ZERO,
    })
    .unwrap();
    let settings = Settings {
        merge_administrators: way.merge_administrators,
        work_dir: folder.path().to_owned(),
        optional: Vec::new(),
        allowed: Allowed::default(),
    };
    let connector = JumpCloud::new(client, settings);
    assert_eq!(connector.validate().await.is_ok(), way.validates);
    let cancel = CancellationToken::new();
    let environment = syncer::Environment {
        work_dir: folder.path(),
        clock: &SystemClock,
        progress: &syncer::NoProgress,
        cancel: &cancel,
        keep: false,
    };
    let target = folder.path().join("sync.c1z");
    let synced = syncer::sync_to_file(&connector, way.request, environment, &target).await;
    assert_eq!(synced.is_ok(), way.validates, "{synced:?}");
}

fn targeted(sim: &JumpCloudSim) -> SyncRequest {
    let truth = sim.truth();
    let linked = truth.admins.keys().next().unwrap().to_string();
    let mut ids = vec![
        ("role", "role_administrator_with_billing".to_owned()),
        ("app", "2UjI0eIRo77RGFwi2GKpAa0Til0".to_owned()),
        ("user", linked),
    ];
    // One of them has a manager, whose e-mail address is asked for.
    ids.extend(
        truth
            .users
            .keys()
            .take(40)
            .map(|id| ("user", id.to_string())),
    );
    ids.push(("group", truth.groups.keys().next().unwrap().to_string()));
    ids.push(("app", truth.apps.keys().next().unwrap().to_string()));
    SyncRequest {
        targeted: ids
            .into_iter()
            .map(|(kind, id)| v2::Resource {
                id: Some(v2::ResourceId {
                    resource_type: kind.to_owned(),
                    resource: id,
                    ..v2::ResourceId::default()
                }),
                ..v2::Resource::default()
            })
            .collect(),
        ..SyncRequest::default()
    }
}

/// What the client asks in whole and partial syncs, in every way that it can be told to.
async fn all_requests() -> Vec<Entry> {
    let sim = simulator().await;
    let org_id = sim.organization_id().unwrap().to_string();
    let key = |key: &str| Auth::ApiKey(SecretString::from(key));
    let everything = SyncRequest::default();
    let of_apps = SyncRequest {
        resource_type_ids: vec!["app".to_owned()],
        ..SyncRequest::default()
    };
    let targets = targeted(&sim);
    let plain = || Way {
        auth: key(FULL_KEY),
        org_id: None,
        merge_administrators: false,
        request: &everything,
        validates: true,
    };
    let ways = [
        plain(),
        Way {
            org_id: Some(&org_id),
            merge_administrators: true,
            ..plain()
        },
        Way {
            auth: Auth::ClientCredentials {
                token_url: sim.token_url().parse().unwrap(),
                client_id: CLIENT_ID.to_owned(),
                client_secret: SecretString::from(CLIENT_SECRET),
            },
            org_id: Some(&org_id),
            ..plain()
        },
        Way {
            request: &of_apps,
            ..plain()
        },
        Way {
            request: &targets,
            ..plain()
        },
        Way {
            auth: key(HELP_DESK_KEY),
            validates: false,
            ..plain()
        },
    ];
    for way in ways {
        sync(&sim, way).await;
    }
    sim.change_behaviour(|behaviour| behaviour.refuse_org_on_admins = true);
    let scoped = Way {
        org_id: Some(&org_id),
        ..plain()
    };
    sync(&sim, scoped).await;
    let Requests {
        total,
        recent,
        unexpected,
        ..
    } = sim.requests();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    assert_eq!(total, recent.len() as u64, "some requests were forgotten");
    recent.into()
}

struct Asker<'a> {
    http: reqwest::Client,
    sim: &'a JumpCloudSim,
    answers: Vec<Answer>,
    /// The writes that were made.
    written: Vec<Entry>,
}

impl Asker<'_> {
    /// Asks for an expected status; the ids stand in the order of the path.
    async fn write(&mut self, endpoint: &str, ids: &[&str], body: Value, expected: u16) -> Value {
        let (method, template) = endpoint.split_once(' ').unwrap();
        let org_id = self.sim.organization_id().unwrap().to_string();
        let path = ids
            .iter()
            .fold(template.to_owned(), |path, id| path.replacen("{id}", id, 1));
        let request = self
            .http
            .request(
                method.parse().unwrap(),
                format!("{}{path}", self.sim.base_url),
            )
            .header("x-api-key", FULL_KEY)
            .header("x-org-id", org_id)
            .json(&body);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        assert_eq!(status, expected, "{method} {path} {body}");
        if status < 300 {
            self.written
                .extend(self.sim.requests().recent.back().cloned());
        }
        let endpoint = endpoint.split('?').next().unwrap();
        let headers = answer.headers().keys().map(ToString::to_string).collect();
        let body: Value = match answer.bytes().await.unwrap() {
            bytes if bytes.is_empty() => Value::Null,
            bytes => serde_json::from_slice(&bytes).unwrap(),
        };
        self.answers.push(Answer {
            endpoint: endpoint.to_owned(),
            status,
            headers,
            body: body.clone(),
            unlimited: false,
            whole: true,
        });
        body
    }

    async fn ask(&mut self, endpoint: &str, id: &str, query: &str) -> Value {
        let (method, template) = endpoint.split_once(' ').unwrap();
        let path = template.replace("{id}", id);
        let url = format!("{}{path}?{query}", self.sim.base_url);
        let mut request = self.http.request(method.parse().unwrap(), url);
        request = match template {
            "/oauth2/token" => request
                .basic_auth(CLIENT_ID, Some(CLIENT_SECRET))
                .form(&[("grant_type", "client_credentials"), ("scope", "api")]),
            _ => request.header("x-api-key", FULL_KEY),
        };
        if template.starts_with("/insights/") {
            request = request
                .json(&json!({"service": ["directory"], "start_time": "2026-10-01T00:00:00Z"}));
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let headers = answer.headers().keys().map(ToString::to_string).collect();
        let body: Value = answer.json().await.unwrap();
        self.answers.push(Answer {
            endpoint: endpoint.to_owned(),
            status,
            headers,
            body: body.clone(),
            unlimited: !query.contains("limit="),
            whole: true,
        });
        body
    }

    /// All pages of a list, then its first page without a limit; the ids of the rows.
    async fn list(&mut self, endpoint: &str, id: &str, query: &str) -> Vec<String> {
        let mut ids = Vec::new();
        loop {
            let page = format!("{query}limit=100&skip={}", ids.len());
            let body = self.ask(endpoint, id, &page).await;
            let rows = body.get("results").unwrap_or(&body).as_array().unwrap();
            let of = |row: &Value| {
                let id = ["_id", "id"].into_iter().find_map(|name| row.get(name));
                id.and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            ids.extend(rows.iter().map(of));
            if rows.len() < 100 {
                break;
            }
        }
        self.ask(endpoint, id, query).await;
        ids
    }
}

/// Every answer of every endpoint, with all fields.
async fn all_answers() -> (Vec<Answer>, Vec<Entry>) {
    let sim = simulator().await;
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(20))
        .no_proxy()
        .build()
        .unwrap();
    let mut asker = Asker {
        http,
        sim: &sim,
        answers: Vec::new(),
        written: Vec::new(),
    };
    let mut ids = BTreeMap::new();
    for path in [
        "/api/applications",
        "/api/organizations",
        "/api/systemusers",
        "/api/users",
        "/api/v2/directories",
        "/api/v2/roles",
        "/api/v2/usergroups",
    ] {
        let found = asker.list(&format!("GET {path}"), "", "").await;
        assert!(!found.is_empty(), "{path}");
        ids.insert(path, found);
    }
    for path in ids.keys().filter(|path| !path.ends_with("/directories")) {
        let endpoint = format!("GET {path}/{{id}}");
        for id in &ids[path] {
            asker.ask(&endpoint, id, "").await;
        }
        asker.ask(&endpoint, "64ab0000000000000000dead", "").await;
    }
    for (path, from, queries) in [
        (
            "applications/{id}/associations",
            "/api/applications",
            &["targets=user&", "targets=user_group&"][..],
        ),
        (
            "applications/{id}/usergroups",
            "/api/applications",
            &[""][..],
        ),
        ("applications/{id}/users", "/api/applications", &[""][..]),
        (
            "usergroups/{id}/associations",
            "/api/v2/usergroups",
            &["targets=application&"][..],
        ),
        ("usergroups/{id}/members", "/api/v2/usergroups", &[""][..]),
        (
            "usergroups/{id}/membership",
            "/api/v2/usergroups",
            &[""][..],
        ),
        (
            "users/{id}/associations",
            "/api/systemusers",
            &["targets=application&"][..],
        ),
        ("users/{id}/applications", "/api/systemusers", &[""][..]),
        ("users/{id}/memberof", "/api/systemusers", &[""][..]),
    ] {
        let endpoint = format!("GET /api/v2/{path}");
        for id in ids[from].iter().take(24) {
            for query in queries {
                asker.list(&endpoint, id, query).await;
            }
        }
        asker
            .ask(&endpoint, "64ab0000000000000000dead", queries[0])
            .await;
        asker.ask(&endpoint, &ids[from][0], "limit=101").await;
    }
    for endpoint in [
        "GET /api/users/getSelf",
        "POST /insights/directory/v1/events/count",
        "POST /oauth2/token",
    ] {
        asker.ask(endpoint, "", "").await;
    }
    asker.ask("GET /api/systemusers", "", "limit=101").await;
    asker.writes().await;
    (asker.answers, asker.written)
}

impl Asker<'_> {
    /// Every write, made and refused in each way, and the reads of what was written.
    async fn writes(&mut self) {
        const NOBODY: &str = "64ab0000000000000000dead";
        let text = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
        let users = "POST /api/systemusers";
        let user = self
            .write(
                users,
                &[],
                json!({
                    "username": "dana.new", "email": "dana.new@example.com", "state": "STAGED", "lastname": "New",
                    "password": "SECRETSEED-kx9-Good", "attributes": [{"name": "badge", "value": "B-90"}],
                    "phoneNumbers": [{"type": "work", "number": "+31 30 555 0101"}],
                    "addresses": [{"type": "home", "country": "NL"}],
                    "relationships": [{"type": "buddy", "value": "blake.sample"}],
                }),
                200,
            )
            .await;
        let id = text(&user, "_id");
        let again = json!({"username": "dana.new", "email": "dana.new@example.com"});
        self.write(users, &[], again, 409).await;
        self.write(users, &[], json!({}), 400).await;
        let search = "POST /api/search/systemusers";
        for skip in [0, 100, 200] {
            let page = json!({"limit": 100, "skip": skip});
            self.write(search, &[], page, 200).await;
        }
        self.write(search, &[], json!({"filter": 7}), 400).await;
        let one = "PUT /api/systemusers/{id}";
        let change = json!({"jobTitle": "Lead", "ssh_keys": [{"name": "a", "public_key": "ssh-ed25519 AAAA"}]});
        self.write(one, &[&id], change, 200).await;
        self.write(one, &[&id], json!({"state": "GONE"}), 400).await;
        self.write(one, &[NOBODY], json!({}), 404).await;
        for (action, body) in [
            ("state/activate", json!({"email": false})),
            ("unlock", json!({})),
            ("expire", json!({})),
            ("resetmfa", json!({"exclusion": true, "exclusionDays": 3})),
        ] {
            let endpoint = format!("POST /api/systemusers/{{id}}/{action}");
            self.write(&endpoint, &[&id], body, 200).await;
            self.write(&endpoint, &[NOBODY], json!({}), 404).await;
        }
        self.write(
            "POST /api/systemusers/{id}/state/activate",
            &[&id],
            json!({}),
            400,
        )
        .await;
        let keys = "POST /api/systemusers/{id}/sshkeys";
        let key = json!({"name": "laptop", "public_key": "ssh-ed25519 AAAA"});
        let key = self.write(keys, &[&id], key, 200).await;
        self.write(keys, &[&id], json!({}), 400).await;
        self.ask("GET /api/systemusers/{id}/sshkeys", &id, "").await;
        let key_gone = "DELETE /api/systemusers/{id}/sshkeys/{id}";
        let key = text(&key, "_id");
        self.write(key_gone, &[&id, &key], json!({}), 200).await;
        self.write(key_gone, &[&id, &key], json!({}), 404).await;

        let states = "POST /api/v2/bulk/userstates";
        let job =
            json!({"user_ids": [id], "state": "SUSPENDED", "start_date": "2026-12-31T17:00:00Z"});
        let jobs = self.write(states, &[], job, 201).await;
        self.write(states, &[], json!({}), 400).await;
        let waiting = self.ask("GET /api/v2/bulk/userstates", "", "").await;
        assert_eq!(waiting, jobs);
        let job = text(&jobs[0], "scheduledJobId");
        let cancel = "DELETE /api/v2/bulk/userstates/{id}";
        self.write(cancel, &[&job], json!({}), 204).await;
        self.write(cancel, &[&job], json!({}), 404).await;

        let groups = "POST /api/v2/usergroups";
        let filter = r#"{"field":"company","operator":"eq","value":"-"}"#;
        let query = json!({"queryType": "FilterQuery", "filters": [filter]});
        let group = json!({
            "name": "Builders", "description": "x", "attributes": {"sambaEnabled": true}, "memberQuery": query,
            "memberQueryExemptions": [{"id": id, "type": "user"}],
        });
        let group = self.write(groups, &[], group, 201).await;
        let group = text(&group, "id");
        self.write(groups, &[], json!({"name": "builders"}), 409)
            .await;
        self.write(groups, &[], json!({}), 400).await;
        let replace = "PUT /api/v2/usergroups/{id}";
        self.write(
            replace,
            &[&group],
            json!({"name": "Builders", "membershipMethod": "STATIC"}),
            200,
        )
        .await;
        self.write(replace, &[&group], json!({}), 400).await;
        self.write(replace, &[NOBODY], json!({"name": "x"}), 404)
            .await;

        let app = self.sim.truth().apps.keys().next().unwrap().to_string();
        for (endpoint, from, kind, to) in [
            ("POST /api/v2/usergroups/{id}/members", &group, "user", &id),
            (
                "POST /api/v2/usergroups/{id}/associations",
                &group,
                "application",
                &app,
            ),
            (
                "POST /api/v2/users/{id}/associations",
                &id,
                "application",
                &app,
            ),
            (
                "POST /api/v2/applications/{id}/associations",
                &app,
                "user",
                &id,
            ),
            (
                "POST /api/v2/applications/{id}/associations",
                &app,
                "user_group",
                &group,
            ),
        ] {
            let change = |op: &str| json!({"op": op, "type": kind, "id": to, "attributes": {"sudo": {"enabled": true}}});
            let listed = match kind {
                "user" if endpoint.ends_with("members") => "",
                kind => &format!("targets={kind}"),
            };
            for (op, status) in [("add", 204), ("add", 409), ("update", 204)] {
                self.write(endpoint, &[from], change(op), status).await;
            }
            self.list(
                &endpoint.replace("POST", "GET"),
                from,
                &format!("{listed}&"),
            )
            .await;
            for path in ["applications/{id}/users", "applications/{id}/usergroups"] {
                self.list(&format!("GET /api/v2/{path}"), &app, "").await;
            }
            for (op, status) in [("remove", 204), ("remove", 404), ("update", 404)] {
                self.write(endpoint, &[from], change(op), status).await;
            }
            self.write(endpoint, &[from], json!({}), 400).await;
            self.write(endpoint, &[NOBODY], change("add"), 404).await;
        }

        let admins = "POST /api/users";
        let admin = json!({
            "email": "dana.admin@example.com", "roleName": "Manager", "enableMultiFactor": true, "firstname": "Dana",
            "lastname": "Admin",
        });
        let made = self.write(admins, &[], admin.clone(), 200).await;
        let made = text(&made, "_id");
        self.write(admins, &[], admin, 409).await;
        self.write(admins, &[], json!({}), 400).await;
        let update = "PUT /api/users/{id}";
        self.write(
            update,
            &[&made],
            json!({"roleNames": ["Help Desk", "Manager"]}),
            200,
        )
        .await;
        self.write(update, &[&made], json!({"roleName": "Emperor"}), 400)
            .await;
        self.write(update, &[NOBODY], json!({}), 404).await;

        for (endpoint, of) in [
            ("DELETE /api/users/{id}", &made),
            ("DELETE /api/v2/usergroups/{id}", &group),
            ("DELETE /api/systemusers/{id}?cascade_manager=null", &id),
        ] {
            self.write(endpoint, &[of], json!({}), 200).await;
            self.write(endpoint, &[of], json!({}), 404).await;
        }
        self.sim
            .change_behaviour(|behaviour| behaviour.silent_group_deletion = true);
        let group = self.write(groups, &[], json!({"name": "Short"}), 201).await;
        let group = text(&group, "id");
        self.write("DELETE /api/v2/usergroups/{id}", &[&group], json!({}), 204)
            .await;
    }
}

fn judge_requests(contract: &Contract, requests: &[Entry]) -> Faults {
    let mut faults = Faults::new();
    for entry in requests {
        judge_request(contract, entry, &mut faults);
    }
    faults
}

fn judge_answers(contract: &Contract, answers: &[Answer]) -> Faults {
    let mut faults = Faults::new();
    for answer in answers {
        judge_answer(contract, answer, &mut faults);
    }
    faults
}

// ---------------------------------------------------------------------------------------------- the tests

#[tokio::test]
async fn every_request_of_every_kind_of_sync_is_one_that_jumpcloud_describes() {
    let (contract, requests) = (Contract::new(), &happened().await.requests);
    let faults = judge_requests(&contract, requests);
    assert!(faults.is_empty(), "{faults:#?}");
    let asked: BTreeSet<String> = requests
        .iter()
        .filter_map(|entry| contract.endpoint(&entry.method, &entry.path))
        .collect();
    assert_eq!(
        asked.iter().map(String::as_str).collect::<Vec<_>>(),
        [
            "GET /api/applications",
            "GET /api/applications/{id}",
            "GET /api/systemusers",
            "GET /api/systemusers/{id}",
            "GET /api/users",
            "GET /api/users/{id}",
            "GET /api/v2/applications/{id}/associations",
            "GET /api/v2/roles",
            "GET /api/v2/usergroups",
            "GET /api/v2/usergroups/{id}",
            "GET /api/v2/usergroups/{id}/members",
            "POST /oauth2/token",
        ],
        "another endpoint is used than was judged so far"
    );
    let with = |name: &str| {
        requests
            .iter()
            .any(|entry| entry.headers.iter().any(|header| header == name))
    };
    assert!(with("x-api-key") && with("authorization") && with("x-org-id"));
}

#[tokio::test]
async fn every_answer_of_the_simulator_is_one_that_jumpcloud_describes() {
    let (contract, answers) = (Contract::new(), &happened().await.answers);
    let faults = judge_answers(&contract, answers);
    assert!(faults.is_empty(), "{faults:#?}");
    let unasked: Vec<String> = contract
        .endpoints()
        .into_iter()
        .filter(|endpoint| {
            !answers
                .iter()
                .any(|it| it.endpoint == *endpoint && (200..300).contains(&it.status))
        })
        .collect();
    assert!(unasked.is_empty(), "never asked: {unasked:?}");
}

#[tokio::test]
async fn every_write_that_the_simulator_accepts_is_one_that_jumpcloud_describes() {
    let (contract, written) = (Contract::new(), &happened().await.written);
    let faults = judge_requests(&contract, written);
    assert!(faults.is_empty(), "{faults:#?}");
    let made: BTreeSet<String> = written
        .iter()
        .filter_map(|entry| contract.endpoint(&entry.method, &entry.path))
        .collect();
    let unmade: Vec<String> = contract
        .endpoints()
        .into_iter()
        .filter(|endpoint| !endpoint.starts_with("GET ") && !made.contains(endpoint))
        .collect();
    assert_eq!(
        unmade,
        [
            "POST /insights/directory/v1/events/count",
            "POST /oauth2/token"
        ]
    );
}

#[test]
fn every_field_that_the_connector_reads_is_one_that_jumpcloud_describes() {
    let faults = judge_wire(&Contract::new(), &wire());
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn nothing_is_in_the_overlay_that_is_not_needed() {
    let contract = Contract::new();
    let happened = happened().await;
    judge_requests(&contract, &happened.requests);
    judge_requests(&contract, &happened.written);
    judge_answers(&contract, &happened.answers);
    judge_wire(&contract, &wire());
    let needless = contract.needless();
    assert!(needless.is_empty(), "{needless:#?}");
}

#[test]
fn the_table_and_its_overlay_are_sorted_and_each_addition_has_its_evidence() {
    for (name, text) in [("jumpcloud.tsv", TABLE), ("overlay.tsv", OVERLAY)] {
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines.is_sorted_by(|a, b| a.split('\t').lt(b.split('\t'))),
            "{name} is not sorted"
        );
    }
    assert!(TABLE.lines().count() > 300, "the table was cut");
    for line in OVERLAY.lines() {
        let evidence = row(line).1.unwrap_or_default();
        assert!(EVIDENCE.contains(&evidence), "no evidence: {line}");
    }
}

#[test]
fn a_request_beyond_the_descriptions_is_found() {
    let judged = |path: &str, query: &str, header: &str| {
        let entry = Entry {
            method: "GET".to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            status: 200,
            authenticated: true,
            headers: vec![header.to_owned()],
            form: Vec::new(),
            fields: Vec::new(),
        };
        judge_requests(&Contract::new(), &[entry])
            .into_iter()
            .collect::<Vec<_>>()
            .join("; ")
    };
    let users = "/api/systemusers";
    for (path, query, header, expected) in [
        (
            users,
            "limit=100&skip=0&sort=-_id&fields=_id+email",
            "x-api-key",
            "",
        ),
        ("/api/v2/usergroups", "fields=name,email", "x-api-key", ""),
        ("/api/systemuser", "", "accept", "no such endpoint"),
        (users, "", "x-secret", "header x-secret is not known"),
        (users, "offset=1", "accept", "query parameter offset"),
        (users, "skip=0&skip=0", "accept", "skip is there twice"),
        (users, "limit=101", "accept", "limit 101 is more than 100"),
        (users, "limit=ten", "accept", "limit cannot have the value"),
        (
            users,
            "fields=_id,email",
            "accept",
            "fields has \"_id,email\"",
        ),
        (users, "sort=age", "accept", "sort has \"age\""),
        (
            "/api/v2/usergroups",
            "fields=name+email",
            "accept",
            "fields has \"name email\"",
        ),
        (
            "/api/v2/applications/1/associations",
            "targets=system",
            "accept",
            "targets cannot have the value",
        ),
        (
            "/api/v2/applications/1/associations",
            "",
            "accept",
            "targets is missing",
        ),
        (
            "/api/v2/usergroups/1/members",
            "sort=id",
            "accept",
            "query parameter sort is not known",
        ),
    ] {
        let faults = judged(path, query, header);
        if expected.is_empty() {
            assert_eq!(faults, "", "{path}?{query}");
        } else {
            assert!(faults.contains(expected), "{path}?{query}: {faults}");
        }
    }
}

#[test]
fn a_body_beyond_the_descriptions_is_found() {
    for (method, path, fields, expected) in [
        (
            "POST",
            "/api/systemusers",
            &[
                "attributes",
                "attributes[].name",
                "email",
                "password",
                "username",
            ][..],
            "",
        ),
        (
            "POST",
            "/api/systemusers",
            &["email", "user"],
            "body field user is not known",
        ),
        (
            "POST",
            "/api/systemusers",
            &["email"],
            "body field username is missing",
        ),
        (
            "POST",
            "/api/systemusers",
            &["attributes", "attributes[].key", "email", "username"],
            "body field attributes[].key is not known",
        ),
        ("PUT", "/api/systemusers/1", &["state"], ""),
        (
            "PUT",
            "/api/systemusers/1",
            &["state.name"],
            "body field state.name is not known",
        ),
        ("POST", "/api/systemusers/1/state/activate", &["email"], ""),
        ("POST", "/api/systemusers/1/unlock", &[], ""),
        (
            "POST",
            "/api/systemusers/1/unlock",
            &["now"],
            "a body is not known",
        ),
        (
            "POST",
            "/api/search/systemusers",
            &["filter", "filter.and", "filter.and[].email"],
            "",
        ),
        (
            "POST",
            "/api/v2/usergroups/1/members",
            &["attributes", "attributes.free", "id", "op", "type"],
            "",
        ),
        (
            "POST",
            "/api/v2/usergroups/1/members",
            &["id", "op"],
            "body field type is missing",
        ),
        (
            "POST",
            "/api/v2/usergroups",
            &["name", "members"],
            "body field members is not known",
        ),
        (
            "PUT",
            "/api/v2/usergroups/1",
            &["description"],
            "body field name is missing",
        ),
        ("PUT", "/api/users/1", &["roleNames"], ""),
        (
            "PUT",
            "/api/users/1",
            &["role"],
            "body field role is not known",
        ),
        (
            "DELETE",
            "/api/systemusers/1",
            &["why"],
            "a body is not known",
        ),
    ] {
        let entry = Entry {
            method: method.to_owned(),
            path: path.to_owned(),
            query: String::new(),
            status: 200,
            authenticated: true,
            headers: vec!["x-api-key".to_owned(), "content-type".to_owned()],
            form: Vec::new(),
            fields: fields.iter().map(ToString::to_string).collect(),
        };
        let faults: Vec<String> = judge_requests(&Contract::new(), &[entry])
            .into_iter()
            .collect();
        let faults = faults.join("; ");
        if expected.is_empty() {
            assert_eq!(faults, "", "{method} {path}");
        } else {
            assert!(
                faults.contains(expected),
                "{method} {path} {fields:?}: {faults}"
            );
        }
    }
}

#[test]
fn an_answer_beyond_the_descriptions_is_found() {
    let judged = |endpoint: &str, headers: &[&str], body: Value| {
        let answer = Answer {
            endpoint: endpoint.to_owned(),
            status: 200,
            headers: headers.iter().map(ToString::to_string).collect(),
            body,
            unlimited: false,
            whole: true,
        };
        judge_answers(&Contract::new(), &[answer])
            .into_iter()
            .collect::<Vec<_>>()
            .join("; ")
    };
    let user = "GET /api/systemusers/{id}";
    for (endpoint, headers, body, expected) in [
        (user, &[][..], json!({"_id": "1", "sudo": true}), ""),
        (
            user,
            &[],
            json!({"age": 7}),
            "v1.systemuserreturn has no field age",
        ),
        (user, &[], json!({"sudo": "yes"}), "sudo cannot be \"yes\""),
        (user, &[], json!({"sudo": null}), "sudo cannot be null"),
        (
            user,
            &[],
            json!({"state": "GONE"}),
            "state cannot be \"GONE\"",
        ),
        (
            user,
            &[],
            json!({"mfa": {"on": true}}),
            "v1.mfa has no field on",
        ),
        (
            user,
            &[],
            json!({"attributes": [7]}),
            "an element of a list is 7",
        ),
        (user, &[], json!([]), "the answer is not"),
        (
            "GET /api/systemusers",
            &[],
            json!({"results": []}),
            "a wrapped list without totalCount",
        ),
        (
            "GET /api/v2/usergroups",
            &[],
            json!([]),
            "a bare list without x-total-count",
        ),
        (
            "GET /api/systemusers",
            &["x-total-count"],
            json!({"results": [], "totalCount": 0}),
            "header x-total-count is not known",
        ),
        (
            "GET /api/v2/usergroups/{id}/members",
            &["x-total-count"],
            json!([{"to": {"id": "1"}}]),
            "v2.GraphObject.type is missing",
        ),
    ] {
        let faults = judged(endpoint, headers, body.clone());
        if expected.is_empty() {
            assert_eq!(faults, "", "{body}");
        } else {
            assert!(faults.contains(expected), "{body}: {faults}");
        }
    }
}

#[test]
fn a_field_that_jumpcloud_does_not_have_is_found() {
    let source = wire();
    for (from, to, expected) in [
        (
            "pub firstname: Option<String>",
            "pub first: Option<String>",
            "SystemUser.first",
        ),
        (
            "rename = \"costCenter\"",
            "rename = \"cost_center\"",
            "SystemUser.cost_center",
        ),
        (
            "pub sudo: Option<bool>",
            "pub sudo: Option<String>",
            "SystemUser.sudo",
        ),
        (
            "pub attributes: Vec<Attribute>",
            "pub attributes: Option<Attribute>",
            "SystemUser.attributes",
        ),
        (
            "pub idp_cert_expiration_at:",
            "pub idp_cert_ends_at:",
            "Sso.idpCertEndsAt",
        ),
        (
            "pub struct Named {",
            "pub struct Device {\n    os: Option<String>,\n}\n\npub struct Named {",
            "Device: the tests do not know",
        ),
    ] {
        assert!(source.contains(from), "{from}");
        let faults = judge_wire(&Contract::new(), &source.replacen(from, to, 1));
        assert!(
            faults.iter().any(|fault| fault.starts_with(expected)),
            "{expected}: {faults:#?}"
        );
    }
}
