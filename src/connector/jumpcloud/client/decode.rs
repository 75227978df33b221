//! Reading of what JumpCloud answers: JSON into types, and the words of an error out of any body.
//!
//! Nothing in here repeats a value of the answer in an error: a field's path and its shape are enough to find it.

use std::{fmt, marker::PhantomData};

use secrecy::SecretString;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, SeqAccess, Visitor},
};
use serde_json::{Value, error::Category};
use zeroize::Zeroizing;

/// The most characters of JumpCloud's words that an error repeats.
pub(super) const MAX_MESSAGE_CHARS: usize = 300;
const MAX_FIELD_CHARS: usize = 200;
/// The shortest text that is treated as a credential when texts are cleaned; shorter ones would blot out plain words.
const MIN_SECRET_BYTES: usize = 4;

/// What is wrong with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The path of the field, `.` for the whole.
    pub(crate) field: String,
    /// What is wrong, without the value.
    pub(crate) what: String,
    /// Whether the text is not JSON at all (cut off, HTML, empty) or no row of it can be told, which a second attempt may
    /// mend.
    pub(super) garbled: bool,
}

impl Problem {
    pub(super) fn new(field: &str, problem: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            what: problem.into(),
            garbled: false,
        }
    }

    /// A body that a second attempt may mend.
    pub(super) fn garbled(field: &str, problem: impl Into<String>) -> Self {
        Self {
            garbled: true,
            ..Self::new(field, problem)
        }
    }
}

/// The most rows of one page. A hundred are asked for; an empty row of three bytes takes a kilobyte of memory.
const MAX_PAGE_ROWS: usize = 10_000;

/// The rows of one page, at most [`MAX_PAGE_ROWS`].
#[derive(Debug)]
pub(crate) struct Rows<T>(pub(crate) Vec<T>);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Rows<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Few<T>(PhantomData<T>);

        impl<'de, T: DeserializeOwned> Visitor<'de> for Few<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = seq.next_element()? {
                    if rows.len() == MAX_PAGE_ROWS {
                        return Err(de::Error::invalid_length(
                            MAX_PAGE_ROWS + 1,
                            &"at most 10000 rows",
                        ));
                    }
                    rows.push(row);
                }
                Ok(rows)
            }
        }

        deserializer.deserialize_seq(Few(PhantomData)).map(Self)
    }
}

/// A list body with its total beside it.
#[derive(Debug, Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
pub(crate) struct Wrapped<T> {
    /// Must be there, so that a foreign document is never taken for an empty list; `null` is an empty list.
    #[serde(deserialize_with = "null_as_empty")]
    pub(crate) results: Vec<T>,
    #[serde(default, rename = "totalCount")]
    total_count: Value,
}

impl<T> Wrapped<T> {
    /// The total, where it is a count or the text of one.
    pub(crate) fn total(&self) -> Option<u64> {
        match &self.total_count {
            Value::String(text) => text.trim().parse().ok(),
            value => value.as_u64(),
        }
    }
}

fn null_as_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let rows: Option<Rows<T>> = Option::deserialize(deserializer)?;
    Ok(rows.map(|Rows(rows)| rows).unwrap_or_default())
}

/// Decodes the answer to a write; JumpCloud answers many of them with nothing at all, which counts as `null`.
pub(crate) fn json_or_nothing<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return decoded(b"null");
    }
    json(body)
}

/// Decodes a whole body. Texts that are no Unicode cost no answer: their odd parts become U+FFFD, as other readers of JSON
/// have it, since such names do occur in directories and their owners cannot help it.
pub(crate) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Problem::garbled(".", "the body is empty"));
    }
    match decoded(body) {
        Err(problem) if problem.garbled => match mended(body) {
            Some(better) => decoded(&better).map_err(|_of_the_mended| problem),
            None => Err(problem),
        },
        other => other,
    }
}

fn decoded<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let decoded = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let field = clean(&error.path().to_string(), &[], MAX_FIELD_CHARS);
        Problem {
            field: if error.inner().is_data() {
                field
            } else {
                ".".to_owned()
            },
            what: problem(error.inner(), body),
            garbled: !error.inner().is_data(),
        }
    })?;
    if deserializer.end().is_err() {
        return Err(Problem {
            garbled: true,
            ..Problem::new(".", "text follows after the end of the JSON")
        });
    }
    Ok(decoded)
}

/// The body with U+FFFD in place of bytes that are no UTF-8 and of escaped halves of surrogate pairs; `None` when it has
/// neither.
fn mended(body: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(body);
    let mut better = String::with_capacity(text.len());
    let mut changed = matches!(text, std::borrow::Cow::Owned(_));
    let mut rest = text.as_ref();
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        better.push_str(before);
        let (length, is_half) = match unit(escape) {
            Some(0xd800..=0xdbff) => match escape.get(6..).and_then(unit) {
                Some(0xdc00..=0xdfff) => (12, false),
                _ => (6, true),
            },
            Some(0xdc00..=0xdfff) => (6, true),
            Some(_) => (6, false),
            // The character after the back-slash belongs to it, also where that is another back-slash.
            None => (escape.chars().take(2).map(char::len_utf8).sum(), false),
        };
        let (escape, after) = escape.split_at_checked(length)?;
        better.push_str(if is_half { "\\ufffd" } else { escape });
        changed |= is_half;
        rest = after;
    }
    better.push_str(rest);
    changed.then(|| better.into_bytes())
}

/// The code unit of the escape `\uXXXX` that a text begins with.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex
        .then(|| u16::from_str_radix(digits, 16).ok())
        .flatten()
}

fn problem(error: &serde_json::Error, body: &[u8]) -> String {
    match error.classify() {
        Category::Eof => format!("the JSON ends too early, after {} bytes", body.len()),
        Category::Syntax if looks_like_html(body) => {
            "HTML where JSON was expected; check the base URL and proxies on the way".to_owned()
        }
        Category::Syntax => format!(
            "not JSON at line {} column {}",
            error.line(),
            error.column()
        ),
        Category::Data => shape(&error.to_string()),
        Category::Io => "the body could not be read".to_owned(),
    }
}

/// Keeps of serde's words what names shapes and our own fields, and drops what comes from the answer.
fn shape(message: &str) -> String {
    let message = message
        .rsplit_once(" at line ")
        .map_or(message, |(head, _)| head);
    if message.starts_with("missing field `") || message.starts_with("duplicate field `") {
        return clean(message, &[], MAX_FIELD_CHARS);
    }
    let Some((found, expected)) = message.rsplit_once(", expected ") else {
        return "does not have the expected form".to_owned();
    };
    // `invalid type: string "…"`, `unknown variant `…``: the value begins at the first quote.
    let kind = found
        .split(['"', '`'])
        .next()
        .unwrap_or_default()
        .trim_end();
    clean(
        &format!("{kind}, expected {expected}"),
        &[],
        MAX_FIELD_CHARS,
    )
}

fn looks_like_html(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'<')
}

/// The values in the body of a request that JumpCloud's words may repeat but an error may not: those of fields whose name
/// speaks of a password or a secret, at any depth, as they are and as JSON writes them.
pub(crate) fn passwords(request: &[u8]) -> Vec<SecretString> {
    let mut found = Vec::new();
    if let Ok(value) = serde_json::from_slice::<Value>(request) {
        collect_passwords(value, false, &mut found);
    }
    found
}

fn collect_passwords(value: Value, secret: bool, found: &mut Vec<SecretString>) {
    match value {
        Value::String(text) if secret => {
            let text = Zeroizing::new(text);
            let escaped = Zeroizing::new(serde_json::to_string(text.as_str()).unwrap_or_default());
            let inner = escaped
                .strip_prefix('"')
                .and_then(|text| text.strip_suffix('"'));
            found.extend(inner.map(SecretString::from));
            if inner != Some(text.as_str()) {
                found.push(text.as_str().into());
            }
        }
        Value::Array(items) => {
            for item in items {
                collect_passwords(item, secret, found);
            }
        }
        Value::Object(fields) => {
            for (name, item) in fields {
                let name = name.to_ascii_lowercase();
                let secret = secret || name.contains("password") || name.contains("secret");
                collect_passwords(item, secret, found);
            }
        }
        _ => {}
    }
}

/// JumpCloud's own words in the body of an error; empty when there are none.
///
/// Reads the bodies of v1, v2 and OAuth, and copes with HTML, plain text and nothing. `secrets` never come through.
pub(crate) fn message(body: &[u8], secrets: &[&str]) -> String {
    if looks_like_html(body) {
        let text = String::from_utf8_lossy(body);
        let title = text
            .split_once("<title>")
            .and_then(|(_, rest)| rest.split_once("</title>"))
            .map_or("", |(title, _)| title.trim());
        let words = if title.is_empty() {
            "an HTML page".to_owned()
        } else {
            format!("an HTML page titled {title}")
        };
        return clean(&words, secrets, MAX_MESSAGE_CHARS);
    }
    let words = match serde_json::from_slice::<Value>(body) {
        Ok(value) => words(&value),
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    clean(&words, secrets, MAX_MESSAGE_CHARS)
}

fn words(value: &Value) -> String {
    if let Value::String(text) = value {
        return text.clone();
    }
    let text = |name: &str| {
        value
            .get(name)
            .and_then(Value::as_str)
            .map(str::trim)
            .filter(|text| !text.is_empty())
    };
    let mut parts: Vec<String> = Vec::new();
    for name in ["message", "error", "error_description"] {
        if let Some(text) = text(name)
            && !parts.iter().any(|part| part == text)
        {
            parts.push(text.to_owned());
        }
    }
    let violations = value
        .get("details")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|detail| detail.get("fieldViolations")?.as_array())
        .flatten();
    for violation in violations {
        let part = |name: &str| violation.get(name).and_then(Value::as_str);
        if let (Some(field), Some(description)) = (part("field"), part("description")) {
            parts.push(format!("{field}: {description}"));
        }
    }
    parts.join("; ")
}

/// One line without control characters and secrets, at most `max` characters.
pub(super) fn clean(text: &str, secrets: &[&str], max: usize) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        if secret.len() >= MIN_SECRET_BYTES && text.contains(secret) {
            text = text.replace(secret, "[redacted]");
        }
    }
    let text = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    if text.chars().count() <= max {
        return text;
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Row {
        #[serde(rename = "_id")]
        _id: String,
        #[serde(default)]
        _size: u32,
        #[serde(default)]
        _kind: Option<Kind>,
    }

    #[derive(Debug, Deserialize)]
    enum Kind {
        #[serde(rename = "A")]
        A,
    }

    #[test]
    fn errors_name_the_field_and_the_shape_but_never_the_value() {
        let cases = [
            (
                r#"{"results":[{"_id":"a"},{"_id":"b","_size":"private@example.com"}]}"#,
                "results[1]._size",
                "invalid type: string, expected u32",
            ),
            (
                r#"{"results":[{"_id":["private"]}]}"#,
                "results[0]._id",
                "invalid type: sequence, expected a string",
            ),
            (
                r#"{"results":[{"_id":"a","_kind":"private, expected x"}]}"#,
                "results[0]._kind",
                "unknown variant, expected `A`",
            ),
            (
                r#"{"results":[{"_size":1}]}"#,
                "results[0]",
                "missing field `_id`",
            ),
            (r#"{"totalCount":3}"#, ".", "missing field `results`"),
            (
                r#"{"results":[{"_id":"a","_size":-7}]}"#,
                "results[0]._size",
                "invalid value: integer, expected u32",
            ),
            (
                r#"["private"]"#,
                "[0]",
                "invalid type: string, expected a sequence",
            ),
        ];
        for (body, field, problem) in cases {
            let error = json::<Wrapped<Row>>(body.as_bytes()).unwrap_err();
            assert_eq!(
                (error.field.as_str(), error.what.as_str()),
                (field, problem)
            );
            assert!(!error.garbled, "{body}");
            assert!(!error.what.contains("private"), "{error:?}");
        }
    }

    #[test]
    fn a_page_has_at_most_ten_thousand_rows() {
        let of = |rows: usize| format!("[{}{{}}]", "{},".repeat(rows - 1));
        for (rows, fits) in [(MAX_PAGE_ROWS, true), (MAX_PAGE_ROWS + 1, false)] {
            let list = json::<Option<Rows<Value>>>(of(rows).as_bytes());
            let wrapped =
                json::<Wrapped<Value>>(format!(r#"{{"results":{}}}"#, of(rows)).as_bytes());
            if fits {
                assert_eq!(list.unwrap().unwrap().0.len(), rows);
                assert_eq!(wrapped.unwrap().results.len(), rows);
            } else {
                for problem in [list.err().unwrap(), wrapped.err().unwrap()] {
                    assert_eq!(
                        problem.what,
                        "invalid length 10001, expected at most 10000 rows"
                    );
                }
            }
        }
    }

    #[test]
    fn texts_that_are_no_unicode_are_read_with_replacement_characters() {
        let cases: [(&[u8], &str); 8] = [
            (br#""a\ud83dz""#, "a\u{fffd}z"),
            (br#""a\ud83d""#, "a\u{fffd}"),
            (
                br#""\ude00\ud83d\ud83d\ude00""#,
                "\u{fffd}\u{fffd}\u{1f600}",
            ),
            (br#""\ud83d\n\\ud83d""#, "\u{fffd}\n\\ud83d"),
            (br#""\ud83d\u0041""#, "\u{fffd}A"),
            (b"\"\xff\xc3\"", "\u{fffd}\u{fffd}"),
            (b"\"\\ud83d \xe2\x82\"", "\u{fffd} \u{fffd}"),
            (br#""\ud83d\ude00""#, "\u{1f600}"),
        ];
        for (body, text) in cases {
            let read = json::<String>(body).unwrap();
            assert_eq!(read, text, "{}", String::from_utf8_lossy(body));
        }
        for body in [
            &br#""\ud83d\q""#[..],
            br#""\ud83"#,
            br#""\ud83d\"#,
            b"\"\xff",
        ] {
            assert!(json::<String>(body).unwrap_err().garbled);
        }
    }

    #[test]
    fn text_that_is_not_json_is_garbled() {
        let cases = [
            (r#"{"results":[{"_id":"a"},{"_i"#, "ends too early"),
            ("", "the body is empty"),
            ("  \n", "the body is empty"),
            ("<html><body>private</body></html>", "HTML"),
            (r#"{"results":[]} private"#, "text follows"),
            ("private", "not JSON at line 1"),
        ];
        for (body, words) in cases {
            let error = json::<Wrapped<Row>>(body.as_bytes()).unwrap_err();
            assert!(error.garbled, "{body}");
            assert!(error.what.contains(words), "{error:?}");
            assert!(!error.what.contains("private"), "{error:?}");
        }
    }

    #[test]
    fn totals_are_read_as_number_or_text_and_anything_else_is_unknown() {
        let cases = [
            (r#"{"results":[],"totalCount":7}"#, Some(7)),
            (r#"{"results":[],"totalCount":"7"}"#, Some(7)),
            (r#"{"results":null,"totalCount":0}"#, Some(0)),
            (r#"{"results":[]}"#, None),
            (r#"{"results":[],"totalCount":null}"#, None),
            (r#"{"results":[],"totalCount":-1}"#, None),
            (r#"{"results":[],"totalCount":1.5}"#, None),
            (r#"{"results":[],"totalCount":{"n":1}}"#, None),
        ];
        for (body, total) in cases {
            assert_eq!(
                json::<Wrapped<Row>>(body.as_bytes()).unwrap().total(),
                total
            );
        }
    }

    #[test]
    fn the_words_of_an_error_are_found_in_every_kind_of_body() {
        let long = "x".repeat(1000);
        let cases: [(&str, &str); 11] = [
            (r#"{"message":"Forbidden"}"#, "Forbidden"),
            (
                r#"{"message":"user already exists","error":"duplicate"}"#,
                "user already exists; duplicate",
            ),
            (
                r#"{"code":400,"message":"invalid filter","status":"Bad Request","details":[{"@type":"x","fieldViolations":[{"field":"filter","description":"unknown field"}]}]}"#,
                "invalid filter; filter: unknown field",
            ),
            (
                r#"{"error":"invalid_client","error_description":"client authentication failed"}"#,
                "invalid_client; client authentication failed",
            ),
            (
                "<!doctype html><html><head><title>502 Bad Gateway</title></head></html>",
                "an HTML page titled 502 Bad Gateway",
            ),
            ("<html></html>", "an HTML page"),
            ("", ""),
            ("{}", ""),
            ("[1,2]", ""),
            ("upstream \u{1b}[31mfailed\r\n", "upstream [31mfailed"),
            (
                r#"{"message":"key SECRETSEED-1 is not known"}"#,
                "key [redacted] is not known",
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(message(body.as_bytes(), &["SECRETSEED-1"]), expected);
        }
        assert_eq!(message(long.as_bytes(), &[]).chars().count(), 300);
        assert_eq!(message(&[0xff, 0xfe], &[]), "\u{fffd}\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_body_gives_one_short_clean_line_without_the_secret(
            head in "\\PC{0,400}", tail in "\\PC{0,400}"
        ) {
            let body = format!("{head}SECRETSEED{tail}");
            let words = message(body.as_bytes(), &["SECRETSEED"]);
            prop_assert!(words.chars().count() <= MAX_MESSAGE_CHARS);
            prop_assert!(!words.contains("SECRETSEED"));
            prop_assert!(!words.chars().any(char::is_control));
        }

        #[test]
        fn no_body_makes_the_reader_panic(
            body in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                r#""(\\(u[dD][89a-fA-F][0-9a-f]{1,2}|n|\\|u0041)|[a-zé]){0,12}"?"#.prop_map(String::into_bytes),
            ],
        ) {
            let read = json::<String>(&body);
            if let Ok(strict) = serde_json::from_slice::<String>(&body) {
                prop_assert_eq!(read.ok(), Some(strict));
            }
        }
    }
}
