//! Client ids, client secrets and API hosts that cannot be used.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use baton_jumpcloud::{
    app,
    cli::{self, Command},
    clock::SystemClock,
    config::EXIT_BAD_CONFIGURATION,
    control_plane::credentials::{ClientId, ClientSecret, Host},
    telemetry,
};
use proptest::prelude::*;
use secrecy::SecretString;
use serde_json::json;

use super::{MARKER, plain};

/// Names and values of the table; `says` must be in the error.
struct Case {
    name: &'static str,
    text: String,
    says: &'static [&'static str],
}

fn case(name: &'static str, text: impl Into<String>, says: &'static [&'static str]) -> Case {
    Case {
        name,
        text: text.into(),
        says,
    }
}

fn client_ids() -> Vec<Case> {
    const ID: &str = "client id: ";
    vec![
        case("nothing", "", &[ID, "is empty"]),
        case("white space", " ", &[ID, "position 1"]),
        case(
            "a line break at the end",
            "SECRETSEED@host/x\n",
            &[ID, "position 18"],
        ),
        case("a space inside", "SECRETSEED @host/x", &[ID, "position 11"]),
        case("a NUL", "SECRETSEED\0@host/x", &[ID, "position 11"]),
        case(
            "a space of another script",
            "a\u{2003}b@host/x",
            &[ID, "position 2"],
        ),
        case("no at sign", "SECRETSEED", &[ID, "no \"@\""]),
        case("no name", "@host/x", &[ID, "no name"]),
        case("no slash", "worker@SECRETSEED", &[ID, "no \"/\""]),
        case(
            "no host",
            "worker@/x",
            &[ID, "between \"@\" and \"/\"", "is empty"],
        ),
        case(
            "an URL",
            "worker@https://SECRETSEED/x",
            &[ID, "not a host name"],
        ),
        case(
            "two at signs",
            "worker@SECRETSEED@host/x",
            &[ID, "not a host name"],
        ),
        case(
            "a query",
            "worker@host?SECRETSEED/x",
            &[ID, "not a host name"],
        ),
        case(
            "a fragment",
            "worker@host#SECRETSEED/x",
            &[ID, "not a host name"],
        ),
        case(
            "a back-slash",
            "worker@host\\SECRETSEED/x",
            &[ID, "not a host name"],
        ),
        case(
            "a colon without port",
            "worker@host:/x",
            &[ID, "not a host name"],
        ),
        case(
            "a port that is no number",
            "worker@host:SECRETSEED/x",
            &[ID, "not a host name"],
        ),
        case("port zero", "worker@host:0/x", &[ID, "not a host name"]),
        case(
            "a port that is too large",
            "worker@host:65536/x",
            &[ID, "not a host name"],
        ),
        case(
            "a negative port",
            "worker@host:-1/x",
            &[ID, "not a host name"],
        ),
        case(
            "a port without host",
            "worker@:443/x",
            &[ID, "not a host name"],
        ),
        case(
            "half an IPv6 address",
            "worker@[::1/x",
            &[ID, "not a host name"],
        ),
        case(
            "an IPv6 address without brackets",
            "worker@fe80::1/x",
            &[ID, "not a host name"],
        ),
        case(
            "letters beyond ASCII",
            "worker@höst/x",
            &[ID, "not a host name"],
        ),
        case(
            "a secret in its place",
            "secret-token:c:v1:SECRETSEED",
            &[ID, "no \"@\""],
        ),
        case(
            "one megabyte",
            "SECRETSEED".repeat(100_000),
            &[ID, "1000000 bytes"],
        ),
    ]
}

fn jwk(members: &serde_json::Value) -> String {
    format!(
        "secret-token:conductorone.com:v1:{}",
        URL_SAFE_NO_PAD.encode(members.to_string())
    )
}

fn client_secrets() -> Vec<Case> {
    const SECRET: &str = "client secret: ";
    let zeros = URL_SAFE_NO_PAD.encode([0_u8; 32]);
    let ones = URL_SAFE_NO_PAD.encode([1_u8; 32]);
    let short = URL_SAFE_NO_PAD.encode("SECRETSEED");
    let key =
        |kty: serde_json::Value,
         crv: serde_json::Value,
         x: serde_json::Value,
         d: serde_json::Value| { jwk(&json!({"kty": kty, "crv": crv, "x": x, "d": d})) };
    let okp = || json!("OKP");
    let curve = || json!("Ed25519");
    vec![
        case("nothing", "", &[SECRET, "is empty"]),
        case(
            "a line break at the end",
            "secret-token:c:v1:SECRETSEED\n",
            &[SECRET, "position 29"],
        ),
        case(
            "a tab at the beginning",
            "\tSECRETSEED",
            &[SECRET, "position 1"],
        ),
        case("one part", "SECRETSEED", &[SECRET, "1 of the 4 parts"]),
        case(
            "two parts",
            "secret-token:SECRETSEED",
            &[SECRET, "2 of the 4 parts"],
        ),
        case(
            "three parts",
            "secret-token:c:SECRETSEED",
            &[SECRET, "3 of the 4 parts"],
        ),
        case(
            "another version",
            "secret-token:c:v2:SECRETSEED",
            &[SECRET, "version"],
        ),
        case(
            "a version in capitals",
            "secret-token:c:V1:SECRETSEED",
            &[SECRET, "version"],
        ),
        case(
            "no version",
            "secret-token:c::SECRETSEED",
            &[SECRET, "version"],
        ),
        case(
            "no key",
            "secret-token:SECRETSEED:v1:",
            &[SECRET, "fourth part (key) is empty"],
        ),
        case(
            "a key that is not base64",
            "secret-token:c:v1:SECRETSEED!!",
            &[SECRET, "not base64url"],
        ),
        case(
            "a key with padding",
            "secret-token:c:v1:SECRETSEEDA=",
            &[SECRET, "not base64url"],
        ),
        case(
            "base64 of the other alphabet",
            "secret-token:c:v1:SECRET+SEED/",
            &[SECRET, "not base64url"],
        ),
        case(
            "five parts",
            "secret-token:c:v1:SECRET:SEED",
            &[SECRET, "not base64url"],
        ),
        case(
            "a key that is no JSON",
            format!("a:b:v1:{short}"),
            &[SECRET, "not JSON", "10 bytes"],
        ),
        case(
            "a list",
            jwk(&json!(["SECRETSEED"])),
            &[SECRET, "not a JSON object"],
        ),
        case(
            "a text",
            jwk(&json!("SECRETSEED")),
            &[SECRET, "not a JSON object"],
        ),
        case(
            "an empty object",
            jwk(&json!({})),
            &[SECRET, "no member \"kty\""],
        ),
        case(
            "kty that is null",
            key(json!(null), curve(), json!(zeros), json!(zeros)),
            &[SECRET, "\"kty\""],
        ),
        case(
            "kty that is a number",
            key(json!(1), curve(), json!(zeros), json!(zeros)),
            &[SECRET, "\"kty\"", "not a string"],
        ),
        case(
            "a key of RSA",
            key(json!("RSA"), curve(), json!(zeros), json!(zeros)),
            &[SECRET, "\"kty\"", "Ed25519"],
        ),
        case(
            "another curve",
            key(okp(), json!("SECRETSEED"), json!(zeros), json!(zeros)),
            &[SECRET, "\"crv\""],
        ),
        case(
            "no curve",
            jwk(&json!({"kty": "OKP", "x": zeros, "d": zeros})),
            &[SECRET, "no member \"crv\""],
        ),
        case(
            "no public half",
            jwk(&json!({"kty": "OKP", "crv": "Ed25519", "d": zeros})),
            &[SECRET, "no member \"x\""],
        ),
        case(
            "no private half",
            jwk(&json!({"kty": "OKP", "crv": "Ed25519", "x": zeros})),
            &[SECRET, "no member \"d\""],
        ),
        case(
            "a private half that is a list",
            key(okp(), curve(), json!(zeros), json!(["SECRETSEED"])),
            &[SECRET, "\"d\"", "not a string"],
        ),
        case(
            "a private half that is not base64",
            key(okp(), curve(), json!(zeros), json!("SECRETSEED!")),
            &[SECRET, "\"d\"", "not base64url"],
        ),
        case(
            "a short private half",
            key(okp(), curve(), json!(zeros), json!(short)),
            &[SECRET, "\"d\"", "10 bytes instead of 32"],
        ),
        case(
            "an empty public half",
            key(okp(), curve(), json!(""), json!(zeros)),
            &[SECRET, "\"x\"", "0 bytes instead of 32"],
        ),
        case(
            "halves of two keys",
            key(okp(), curve(), json!(zeros), json!(ones)),
            &[SECRET, "not of one key"],
        ),
        case(
            "a key id that is a number",
            jwk(&json!({"kty": "OKP", "crv": "Ed25519", "x": zeros, "d": zeros, "kid": 7})),
            &[SECRET, "\"kid\"", "not a string"],
        ),
        case(
            "one megabyte",
            "SECRETSEED".repeat(100_000),
            &[SECRET, "1000000 bytes"],
        ),
        case(
            "deeply nested JSON",
            format!("a:b:v1:{}", URL_SAFE_NO_PAD.encode("[".repeat(10_000))),
            &[SECRET, "not JSON"],
        ),
    ]
}

fn api_hosts() -> Vec<Case> {
    const HOST: &str = "API host (BATON_C1_API_HOST): ";
    vec![
        case("nothing", "", &[HOST, "is empty"]),
        case("an URL", "https://SECRETSEED", &[HOST, "is an URL"]),
        case("a path", "host/SECRETSEED", &[HOST, "not a host name"]),
        case("a user", "SECRETSEED@host", &[HOST, "not a host name"]),
        case("a space", "host SECRETSEED", &[HOST, "not a host name"]),
        case(
            "a line break",
            "host\nSECRETSEED",
            &[HOST, "not a host name"],
        ),
        case(
            "a port that is too large",
            "host:99999",
            &[HOST, "not a host name"],
        ),
    ]
}

/// What is wrong with how `error` speaks of a case.
fn judge(kind: &str, case: &Case, error: Option<String>, wrong: &mut Vec<String>) {
    let Some(error) = error else {
        wrong.push(format!("{kind}: {}: accepted", case.name));
        return;
    };
    if error.contains(MARKER) {
        wrong.push(format!("{kind}: {}: shows a secret: {error}", case.name));
    }
    if error.len() > 1000 || error.contains('\n') {
        wrong.push(format!("{kind}: {}: is no line: {error}", case.name));
    }
    for part in case.says {
        if !error.contains(part) {
            wrong.push(format!(
                "{kind}: {}: does not say {part:?}: {error}",
                case.name
            ));
        }
    }
}

#[test]
fn malformed_credentials_give_errors_that_name_the_part_and_keep_secrets() {
    let mut wrong = Vec::new();
    let shown = |error: &dyn std::fmt::Debug, text: String| format!("{text} {error:?}");
    for case in client_ids() {
        let error = ClientId::parse(&case.text).err();
        judge(
            "client id",
            &case,
            error.map(|error| shown(&error, error.to_string())),
            &mut wrong,
        );
    }
    for case in client_secrets() {
        let error = ClientSecret::parse(&SecretString::from(case.text.as_str())).err();
        judge(
            "client secret",
            &case,
            error.map(|error| shown(&error, error.to_string())),
            &mut wrong,
        );
    }
    for case in api_hosts() {
        let error = Host::parse_override(&case.text).err();
        judge(
            "API host",
            &case,
            error.map(|error| shown(&error, error.to_string())),
            &mut wrong,
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Starts the daemon as the program does, with everything good but what is given here.
async fn end_of(id: &str, secret: &str) -> (String, u8) {
    let source = plain()
        .with_variable("BATON_CLIENT_ID", id)
        .with_variable("BATON_CLIENT_SECRET", secret);
    let config = match cli::parse([cli::NAME], &source) {
        Ok(Command::Run(config)) => config,
        Ok(other) => panic!("{other:?}"),
        Err(error) => return (error.to_string(), error.exit_code()),
    };
    let (_subscriber, log, _captured) = telemetry::capture(&config.log, &[], Arc::new(SystemClock));
    let failure = app::serve(&config, Arc::new(source), &log)
        .await
        .unwrap_err();
    (failure.message, failure.exit_code)
}

/// A variable of the environment cannot hold every text, and settings without value are as good as absent.
fn can_be_set(case: &&Case) -> bool {
    !case.text.contains('\0') && !case.text.trim().is_empty() && !case.text.ends_with('\n')
}

#[tokio::test]
async fn a_daemon_with_malformed_credentials_ends_with_64_and_says_why() {
    let good = baton_jumpcloud::control_plane::credentials::generate("worker", "host").unwrap();
    let secret = {
        use secrecy::ExposeSecret as _;
        good.client_secret.expose_secret().to_owned()
    };
    let mut wrong = Vec::new();
    let mut judge_end = |kind: &str, case: &Case, end: (String, u8)| {
        let (message, code) = end;
        if code != EXIT_BAD_CONFIGURATION {
            wrong.push(format!(
                "{kind}: {}: ends with {code}: {message}",
                case.name
            ));
        }
        if message.contains(MARKER) || message.contains(&secret) || message.contains('\n') {
            wrong.push(format!("{kind}: {}: shows too much: {message}", case.name));
        }
        if !message.contains(kind) && !message.contains(&kind.replace(' ', "-")) {
            wrong.push(format!(
                "{kind}: {}: does not name it: {message}",
                case.name
            ));
        }
    };
    for case in client_ids().iter().filter(can_be_set) {
        judge_end("client id", case, end_of(&case.text, &secret).await);
    }
    for case in client_secrets().iter().filter(can_be_set) {
        judge_end(
            "client secret",
            case,
            end_of(&good.client_id, &case.text).await,
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_text_makes_the_reader_of_credentials_panic_or_talk(
        text in prop_oneof![
            ".{0,80}",
            "[a-zA-Z]{0,6}@[a-zA-Z0-9.:\\[\\]%-]{0,20}/.{0,6}",
            "([a-z.-]{0,12}:){2}v1:[a-zA-Z0-9_=-]{0,60}",
            "(\\{\"(kty|crv|x|d|kid)\":(\"(OKP|Ed25519|[A-Za-z0-9_-]{0,50})\"|null|1|\\[\\]),?){0,5}\\}?"
                .prop_map(|json| format!("a:b:v1:{}", URL_SAFE_NO_PAD.encode(json))),
        ],
    ) {
        let marked = format!("{text}{MARKER}");
        for text in [&text, &marked] {
            if let Err(error) = ClientId::parse(text) {
                let shown = format!("{error} {error:?}");
                prop_assert!(!shown.contains(MARKER), "{}", shown);
            }
            let secret = SecretString::from(text.as_str());
            match ClientSecret::parse(&secret) {
                Ok(secret) => {
                    let shown = format!("{secret:?}");
                    prop_assert!(!shown.contains(MARKER));
                }
                Err(error) => {
                    let shown = format!("{error} {error:?}");
                    prop_assert!(!shown.contains(MARKER), "{}", shown);
                }
            }
            let _read = Host::parse_override(text);
        }
    }

    #[test]
    fn every_client_id_that_is_read_gives_a_host_to_talk_to(
        text in "[a-z]{1,4}@[a-zA-Z0-9.:\\[\\]-]{1,12}/[a-z]{0,3}",
    ) {
        if let Ok(id) = ClientId::parse(&text) {
            let url = format!("https://{}/auth/v1/token", id.host().with_port());
            prop_assert!(url.parse::<http::Uri>().is_ok(), "{}", url);
            prop_assert_eq!(id.as_str(), text.as_str());
        }
    }
}
