//! Every way in which an answer can be spoilt on purpose, and when.
//!
//! A rule is written `[<method> ]<path template or *>@<when>:<fault>`, such as `/api/systemusers@3:503`,
//! `POST /api/systemusers@1:applied-no-response`, `/api/v2/usergroups/{id}/members@p0.02:reset-mid-body` or
//! `*@2-4:redirect=http://127.0.0.1:9`. Without a method it holds for all methods of its template.

use std::{fmt, str::FromStr, time::Duration};

use http::Method;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::routes::{ROUTES, Route};
use crate::sim::inject::{Counter, RetryAfter, Rule, When, WhenError, mix};

/// One way to spoil an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// `503`: this status, as the edge (502, 503, 504: an HTML page) or the service (JSON) answers it. 429 carries
    /// `Retry-After` when the behaviour has one.
    Status(u16),
    /// `429=retry-after:none`: this status with this `Retry-After`; see [`RetryAfter`] for what can be written.
    StatusAfter(u16, RetryAfter),
    /// `html-200`: success with an HTML page.
    Html200,
    /// `truncated-json`: a complete answer whose JSON ends in the middle.
    TruncatedJson,
    /// `malformed-json`: a complete answer with a byte in its middle that no JSON has.
    MalformedJson,
    /// `empty-body`: success without a body.
    EmptyBody,
    /// `wrong-types`: every text inside the rows becomes a number.
    WrongTypes,
    /// `null-fields`: every field of a row except its id is null.
    NullFields,
    /// `wrong-total`: the total is a word.
    WrongTotal,
    /// `no-total`: the total is missing.
    NoTotal,
    /// `reset-mid-body`: the connection closes in the middle of the body.
    ResetMidBody,
    /// `no-response`: the connection closes before an answer.
    NoResponse,
    /// `applied-no-response`: the request is served, a write takes place, and then the connection closes before an
    /// answer.
    AppliedNoResponse,
    /// `applied-504`: the request is served, a write takes place, and this status is answered.
    AppliedStatus(u16),
    /// `applied-503=retry-after:1`: the same, with this `Retry-After`.
    AppliedStatusAfter(u16, RetryAfter),
    /// `hang`: no answer, ever.
    Hang,
    /// `slow-drip=5s`: the body comes in small pieces over this time.
    SlowDrip(Duration),
    /// `duplicate-page`: the page before the one that was asked for.
    DuplicatePage,
    /// `endless-paging`: always the first page, and a total that is never reached.
    EndlessPaging,
    /// `oversized-body=100000000`: a body of this many bytes.
    OversizedBody(u64),
    /// `cross-origin-link=http://host`: a `Link` to the next page on another host.
    CrossOriginLink(String),
    /// `redirect=http://host`: 302 to the same path on another host.
    Redirect(String),
}

/// The text is no fault or no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultError {
    /// The form of a rule was not met.
    #[error("{0:?} is no fault rule; write [<method> ]<path template or *>@<when>:<fault>")]
    Form(String),
    /// The path template is not one of the endpoints.
    #[error(
        "{0:?} is no endpoint of the simulator; use a path template such as /api/systemusers/{{id}}, or *"
    )]
    Template(String),
    /// The moment cannot be read.
    #[error(transparent)]
    When(#[from] WhenError),
    /// The fault's name is unknown.
    #[error(
        "{0:?} is no fault; use a status from 400 to 599, 429=retry-after:TEXT, html-200, truncated-json, malformed-json, empty-body, wrong-types, null-fields, \
         wrong-total, no-total, reset-mid-body, no-response, applied-no-response, applied-504, \
         applied-503=retry-after:TEXT, hang, slow-drip=5s, duplicate-page, endless-paging, \
         oversized-body=BYTES, cross-origin-link=URL or redirect=URL"
    )]
    Name(String),
    /// The fault's value cannot be read.
    #[error("{fault}= cannot take {value:?}: {problem}")]
    Value {
        /// The fault.
        fault: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

const PLAIN: [(&str, Fault); 13] = [
    ("html-200", Fault::Html200),
    ("truncated-json", Fault::TruncatedJson),
    ("malformed-json", Fault::MalformedJson),
    ("empty-body", Fault::EmptyBody),
    ("wrong-types", Fault::WrongTypes),
    ("null-fields", Fault::NullFields),
    ("wrong-total", Fault::WrongTotal),
    ("no-total", Fault::NoTotal),
    ("reset-mid-body", Fault::ResetMidBody),
    ("no-response", Fault::NoResponse),
    ("applied-no-response", Fault::AppliedNoResponse),
    ("hang", Fault::Hang),
    ("duplicate-page", Fault::DuplicatePage),
];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::StatusAfter(status, after) => write!(f, "{status}=retry-after:{after}"),
            Self::AppliedStatus(status) => write!(f, "applied-{status}"),
            Self::AppliedStatusAfter(status, after) => {
                write!(f, "applied-{status}=retry-after:{after}")
            }
            Self::SlowDrip(over) => write!(f, "slow-drip={}ms", over.as_millis()),
            Self::EndlessPaging => f.write_str("endless-paging"),
            Self::OversizedBody(bytes) => write!(f, "oversized-body={bytes}"),
            Self::CrossOriginLink(url) => write!(f, "cross-origin-link={url}"),
            Self::Redirect(url) => write!(f, "redirect={url}"),
            plain => {
                let name = PLAIN.iter().find(|(_, fault)| fault == plain);
                f.write_str(name.map_or("", |(name, _)| name))
            }
        }
    }
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let status = |text: &str| {
            text.parse::<u16>()
                .ok()
                .filter(|status| (400..600).contains(status))
        };
        if let Some(status) = status(text) {
            return Ok(Self::Status(status));
        }
        if let Some(status) = text.strip_prefix("applied-").and_then(status) {
            return Ok(Self::AppliedStatus(status));
        }
        if let Some((_, fault)) = PLAIN.into_iter().find(|(name, _)| *name == text) {
            return Ok(fault);
        }
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let (applied, of_name) = match name.strip_prefix("applied-") {
            Some(rest) => (true, rest),
            None => (false, name),
        };
        if let Some(status) = status(of_name) {
            let after = value
                .strip_prefix("retry-after:")
                .ok_or_else(|| FaultError::Name(text.to_owned()))?
                .into();
            return Ok(if applied {
                Self::AppliedStatusAfter(status, after)
            } else {
                Self::StatusAfter(status, after)
            });
        }
        let refused = |fault, problem| FaultError::Value {
            fault,
            value: value.to_owned(),
            problem,
        };
        match name {
            "endless-paging" if value.is_empty() => Ok(Self::EndlessPaging),
            "slow-drip" => humantime::parse_duration(value)
                .map(Self::SlowDrip)
                .map_err(|_problem| refused("slow-drip", "a duration such as 5s is needed")),
            "oversized-body" => value
                .parse()
                .map(Self::OversizedBody)
                .map_err(|_problem| refused("oversized-body", "a number of bytes is needed")),
            "cross-origin-link" => origin(value)
                .map(Self::CrossOriginLink)
                .ok_or_else(|| refused("cross-origin-link", "a URL such as http://host is needed")),
            "redirect" => origin(value)
                .map(Self::Redirect)
                .ok_or_else(|| refused("redirect", "a URL such as http://host is needed")),
            _ => Err(FaultError::Name(text.to_owned())),
        }
    }
}

/// The origin of a URL, without a slash at the end.
fn origin(text: &str) -> Option<String> {
    let url = url::Url::parse(text).ok()?;
    let origin = url.origin();
    origin.is_tuple().then(|| origin.ascii_serialization())
}

/// One line of the fault plan.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultRule {
    /// Only requests with this method; all without.
    pub method: Option<Method>,
    /// A path template, or `*` for all.
    pub template: String,
    /// Which of the matching requests.
    pub when: When,
    /// How they are spoilt.
    pub fault: Fault,
}

impl fmt::Display for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(method) = &self.method {
            write!(f, "{method} ")?;
        }
        write!(f, "{}@{}:{}", self.template, self.when, self.fault)
    }
}

impl FromStr for FaultRule {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let form = || FaultError::Form(text.to_owned());
        let (template, rest) = text.split_once('@').ok_or_else(form)?;
        let (when, fault) = rest.split_once(':').ok_or_else(form)?;
        let (method, template) = match template.split_once(' ') {
            Some((method, template)) => {
                let method = Method::from_bytes(method.as_bytes()).map_err(|_problem| form())?;
                (Some(method), template)
            }
            None => (None, template),
        };
        let served = |route: &Route| {
            (template == "*" || route.template == template)
                && method.as_ref().is_none_or(|method| route.method == *method)
        };
        if !ROUTES.iter().any(served) {
            return Err(FaultError::Template(template.to_owned()));
        }
        Ok(Self {
            method,
            template: template.to_owned(),
            when: when.parse()?,
            fault: fault.parse()?,
        })
    }
}

impl Serialize for FaultRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FaultRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Rule for FaultRule {
    type Request<'a> = (&'a Method, &'a str);
    type Fault = Fault;

    fn matches(&self, (method, template): &(&Method, &str)) -> bool {
        (self.template == "*" || self.template == *template)
            && self.method.as_ref().is_none_or(|of| of == *method)
    }

    fn when(&self) -> When {
        self.when
    }

    fn fault(&self) -> &Fault {
        &self.fault
    }
}

/// The fault plan with its counters.
#[derive(Debug, Default)]
pub(super) struct FaultPlan {
    rules: Vec<(FaultRule, Counter)>,
    seed: u64,
}

impl FaultPlan {
    pub(super) fn new(rules: &[FaultRule], seed: u64) -> Self {
        Self {
            rules: rules
                .iter()
                .map(|rule| (rule.clone(), Counter::default()))
                .collect(),
            seed,
        }
    }

    /// The fault of the next request to this endpoint: that of the first rule that hits. Every matching rule counts it.
    pub(super) fn next(&self, method: &Method, template: &str) -> Option<Fault> {
        let mut chosen = None;
        for (position, (rule, counter)) in (0_u64..).zip(&self.rules) {
            let strikes = rule.matches(&(method, template))
                && counter.strikes(rule.when, mix(self.seed ^ position));
            if strikes && chosen.is_none() {
                chosen = Some(rule.fault.clone());
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_survive_their_text_form() {
        for text in [
            "/api/systemusers@3:503",
            "*@2-4:redirect=http://127.0.0.1:9",
            "/api/v2/usergroups/{id}/members@p0.02:reset-mid-body",
            "*@every7:slow-drip=1500ms",
            "/oauth2/token@2+:401",
            "*@always:endless-paging",
            "*@1:oversized-body=99",
            "*@for1500ms:429=retry-after:none",
            "/api/systemusers@1:503=retry-after:date-120",
            "*@2:429=retry-after:soon, please",
            "*@1:cross-origin-link=https://other.example.com",
            "POST /api/systemusers@1:applied-no-response",
            "PUT *@2+:applied-504",
            "POST /api/v2/bulk/userstates@1:applied-503=retry-after:1",
        ] {
            let rule: FaultRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
        }
        for (name, fault) in PLAIN {
            assert_eq!(name.parse(), Ok(fault.clone()));
            assert_eq!(fault.to_string(), name);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_of_rules_panic(text in r"(\*|/api/[a-z]{0,9})?@?[a-z0-9+*.-]{0,12}:?[a-z0-9=-]{0,20}") {
            if let Ok(rule) = text.parse::<FaultRule>() {
                proptest::prop_assert_eq!(rule.to_string().parse::<FaultRule>(), Ok(rule));
            }
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_with_what_would_be_one() {
        for (text, words) in [
            ("503", "<when>"),
            ("*@3", "<when>"),
            ("/api/other@1:503", "path template"),
            ("PATCH /api/systemusers@1:503", "path template"),
            ("P( /api/systemusers@1:503", "is no fault rule"),
            ("*@1:applied-200", "is no fault"),
            ("*@0:503", "says not when"),
            ("*@5-2:503", "says not when"),
            ("*@p1.5:503", "says not when"),
            ("*@1:200", "is no fault"),
            ("*@1:explode", "is no fault"),
            ("*@1:429=soon", "is no fault"),
            ("*@1:applied-503=soon", "is no fault"),
            ("*@1:applied-200=retry-after:1", "is no fault"),
            ("*@forever:503", "says not when"),
            ("*@1:slow-drip=soon", "duration"),
            ("*@1:redirect=elsewhere", "URL"),
            ("*@1:oversized-body=-1", "bytes"),
        ] {
            let error = text.parse::<FaultRule>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_first_rule_that_hits_wins_and_all_count() {
        let rules = [
            "*@2:500",
            "/api/systemusers@2:503",
            "/api/systemusers@3:504",
        ]
        .map(|text| text.parse().unwrap());
        let plan = FaultPlan::new(&rules, 0);
        let faults: Vec<_> = (0..4)
            .map(|_| plan.next(&Method::GET, "/api/systemusers"))
            .collect();
        assert_eq!(
            faults,
            [
                None,
                Some(Fault::Status(500)),
                Some(Fault::Status(504)),
                None
            ]
        );
    }

    #[test]
    fn a_rule_with_a_method_counts_only_its_requests() {
        let plan = FaultPlan::new(&["POST /api/systemusers@2:503".parse().unwrap()], 0);
        let next = |method| plan.next(&method, "/api/systemusers").is_some();
        assert!(!next(Method::POST) && !next(Method::GET) && !next(Method::GET));
        assert!(next(Method::POST));
    }
}
