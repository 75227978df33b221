//! The text forms of client ids and secrets.

#![expect(clippy::string_slice, reason = "the texts that are cut are ASCII")]

use proptest::prelude::*;
use secrecy::ExposeSecret as _;

use super::*;

fn secret_of(jwk: &str) -> String {
    format!("secret-token:conductorone.com:v1:{}", BASE64URL.encode(jwk))
}

fn parse_secret(text: &str) -> Result<ClientSecret, Error> {
    ClientSecret::parse(&SecretString::from(text))
}

const D: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

fn jwk(kty: &str, crv: &str, x: &str, d: &str) -> String {
    format!(r#"{{"kty":{kty},"crv":{crv},"x":{x},"d":{d}}}"#)
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

#[test]
fn a_client_id_is_split_at_the_first_at_and_the_first_slash_after_it() {
    for (text, name, host, with_port, audience) in [
        ("n@h.test/", "n", "h.test", "h.test:443", "h.test"),
        ("n@h.test/a/b", "n", "h.test", "h.test:443", "h.test"),
        (
            "n@h.test:8443/a@b",
            "n",
            "h.test:8443",
            "h.test:8443",
            "h.test",
        ),
        ("a/b@h/c", "a/b", "h", "h:443", "h"),
        (
            "n@127.0.0.1:1/x",
            "n",
            "127.0.0.1:1",
            "127.0.0.1:1",
            "127.0.0.1",
        ),
        ("n@[::1]:9/x", "n", "[::1]:9", "[::1]:9", "::1"),
        ("n@[::1]/x", "n", "[::1]", "[::1]:443", "[::1]"),
        ("größe@h/x", "größe", "h", "h:443", "h"),
    ] {
        let id = ClientId::parse(text).unwrap();
        assert_eq!(id.as_str(), text);
        assert_eq!(id.name(), name, "{text}");
        assert_eq!(id.host().as_str(), host, "{text}");
        assert_eq!(id.host().with_port(), with_port, "{text}");
        assert_eq!(id.host().audience(), audience, "{text}");
    }
}

#[test]
fn a_malformed_client_id_says_which_part_is_wrong() {
    let long = format!("n@h/{}", "a".repeat(MAX_LEN));
    for (text, expected) in [
        ("", "is empty"),
        (long.as_str(), "bytes long"),
        ("n", "no \"@\""),
        ("h.test/x", "no \"@\""),
        ("@h.test/x", "no name"),
        ("n@h.test", "no \"/\""),
        ("n@", "no \"/\""),
        ("n@/x", "\"/\" is empty"),
        ("n@a b/x", "position 4"),
        ("n@h.test/x\n", "position 11"),
        (" n@h.test/x", "position 1"),
        ("n@h\u{7f}/x", "position 4"),
        ("n@h:99999/x", "not a host"),
        ("n@h:/x", "not a host"),
        ("n@h:0/x", "not a host"),
        ("n@h:p/x", "not a host"),
        ("n@:443/x", "not a host"),
        ("n@m@h/x", "not a host"),
        ("n@h?q/x", "not a host"),
        ("n@[::1/x", "not a host"),
        ("n@[::1]9/x", "not a host"),
        ("n@[]:443/x", "not a host"),
        ("n@[h]/x", "not a host"),
        ("n@h\\g/x", "not a host"),
        ("n@https://h/x", "not a host"),
        ("n@h^/x", "not a host"),
    ] {
        let error = ClientId::parse(text).unwrap_err().to_string();
        assert!(error.starts_with("client id: "), "{error}");
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

#[test]
fn an_override_of_the_host_that_cannot_be_used_names_the_variable() {
    assert_eq!(
        Host::parse_override("h.test:1").unwrap().with_port(),
        "h.test:1"
    );
    for (text, expected) in [
        ("", "is empty"),
        ("https://h.test", "is an URL"),
        ("h.test/path", "not a host"),
        ("h.test:", "not a host"),
        ("a b", "not a host"),
    ] {
        let error = Host::parse_override(text).unwrap_err().to_string();
        assert!(error.contains("BATON_C1_API_HOST"), "{error}");
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

#[test]
fn a_client_secret_holds_the_key_whatever_its_first_two_parts_say() {
    let good = jwk(&quoted("OKP"), &quoted("Ed25519"), &quoted(X), &quoted(D));
    let payload = BASE64URL.encode(&good);
    for text in [
        secret_of(&good),
        format!("a:b:v1:{payload}"),
        format!("::v1:{payload}"),
        secret_of(&good.replace('{', r#"{"use":"sig","alg":"EdDSA","n":1,"#)),
        secret_of(&good.replace('{', r#"{"kid":null,"#)),
    ] {
        let secret = parse_secret(&text).unwrap();
        assert_eq!(BASE64URL.encode(secret.key().public_key()), X);
    }
}

#[test]
fn a_malformed_client_secret_says_which_part_is_wrong_and_shows_none_of_it() {
    let (okp, ed) = (quoted("OKP"), quoted("Ed25519"));
    let (x, d) = (quoted(X), quoted(D));
    let good = jwk(&okp, &ed, &x, &d);
    let payload = BASE64URL.encode(&good);
    let marked = "SECRETSEED";
    let of = |jwk: String| secret_of(&jwk);
    let table = [
        (String::new(), "is empty"),
        (format!("a:b:v1:{}", "A".repeat(MAX_LEN)), "bytes long"),
        (marked.to_owned(), "1 of the 4 parts"),
        (format!("a:{marked}"), "2 of the 4 parts"),
        (format!("a:b:{payload}"), "3 of the 4 parts"),
        (format!("a:b:v2:{payload}"), "third part"),
        (format!("a:b::{payload}"), "third part"),
        (format!("a:b:V1:{payload}"), "third part"),
        ("a:b:v1:".to_owned(), "fourth part (key) is empty"),
        (format!("a:b:v1:{payload}:c"), "not base64url"),
        (format!("a:b:v1:{marked}!"), "not base64url"),
        (
            format!("a:b:v1:{}=", &payload[..payload.len() - 1]),
            "not base64url",
        ),
        (format!("a:b:v1:{marked}+/"), "not base64url"),
        (format!("a:b:v1:{payload}\n"), "white space"),
        (format!(" a:b:v1:{payload}"), "position 1"),
        (of(marked.to_owned()), "not JSON (10 bytes"),
        (of(good[..good.len() - 1].to_owned()), "not JSON"),
        (of("[]".to_owned()), "not a JSON object"),
        (of("\"SECRETSEED\"".to_owned()), "not a JSON object"),
        (of("{}".to_owned()), "no member \"kty\""),
        (of(jwk("7", &ed, &x, &d)), "\"kty\" is not a string"),
        (
            of(jwk(&quoted("RSA"), &ed, &x, &d)),
            "\"kty\" is not \"OKP\"",
        ),
        (of(jwk(&quoted("EC"), &quoted("P-256"), &x, &d)), "\"kty\""),
        (
            of(jwk(&okp, &quoted("X25519"), &x, &d)),
            "\"crv\" is not \"Ed25519\"",
        ),
        (
            of(format!(r#"{{"kty":{okp},"x":{x},"d":{d}}}"#)),
            "no member \"crv\"",
        ),
        (
            of(format!(r#"{{"kty":{okp},"crv":{ed},"d":{d}}}"#)),
            "no member \"x\"",
        ),
        (
            of(format!(r#"{{"kty":{okp},"crv":{ed},"x":{x}}}"#)),
            "no member \"d\"",
        ),
        (of(jwk(&okp, &ed, &x, "null")), "no member \"d\""),
        (of(jwk(&okp, &ed, &x, "[1]")), "\"d\" is not a string"),
        (
            of(jwk(&okp, &ed, &x, &quoted("SECRETSEED*"))),
            "\"d\" is not base64url",
        ),
        (
            of(jwk(&okp, &ed, &x, &quoted(&format!("{D}=")))),
            "\"d\" is not base64url",
        ),
        (
            of(jwk(&okp, &ed, &x, &quoted(&D[..42]))),
            "\"d\" holds 31 bytes",
        ),
        (
            of(jwk(&okp, &ed, &x, &quoted(&format!("{D}AAAA")))),
            "\"d\" ",
        ),
        (of(jwk(&okp, &ed, &quoted(""), &d)), "\"x\" holds 0 bytes"),
        (of(jwk(&okp, &ed, &d, &d)), "not of one key"),
        (
            of(good.replace('{', r#"{"kid":7,"#)),
            "\"kid\" is not a string",
        ),
    ];
    assert!(table.len() >= 25);
    for (text, expected) in table {
        let error = parse_secret(&text).unwrap_err();
        let shown = error.to_string();
        assert!(shown.starts_with("client secret: "), "{shown}");
        assert!(shown.contains(expected), "{expected}: {shown}");
        for shown in [shown, format!("{error:?}")] {
            assert!(!shown.contains(marked), "{shown}");
            assert!(!shown.contains(&D[..8]), "{shown}");
            assert!(!shown.contains(&payload[..12]), "{shown}");
        }
    }
}

#[test]
fn generated_credentials_read_back_and_debug_output_hides_the_secret() {
    let made = generate("sim", "h.test:1").unwrap();
    let read = Credentials::parse(&made.client_id, &made.client_secret).unwrap();
    assert_eq!(read.client_secret.key().public_key(), &made.public_key);
    assert_eq!(read.client_id.name(), "sim");
    let text = made.client_secret.expose_secret();
    let tail = &text[text.len() - 20..];
    for shown in [format!("{read:?}"), format!("{made:?}")] {
        assert!(!shown.contains(tail), "{shown}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_parsing_panic(text in ".{0,80}") {
        drop(ClientId::parse(&text));
        drop(Host::parse_override(&text));
        drop(parse_secret(&text));
    }

    #[test]
    fn no_id_that_looks_right_makes_parsing_panic(name in "[a-z@/]{0,5}", host in "[a-z0-9.:\\[\\]@-]{0,12}", rest in ".{0,5}") {
        if let Ok(id) = ClientId::parse(&format!("{name}@{host}/{rest}")) {
            let uri: http::Uri = format!("https://{}/", id.host().with_port()).parse().unwrap();
            prop_assert!(uri.port_u16().is_some());
        }
    }

    #[test]
    fn no_key_that_looks_right_makes_parsing_panic(json in r#"\{("(kty|crv|x|d|kid)":("[A-Za-z0-9_=-]{0,50}"|[0-9]|null|\[\]),?){0,5}\}"#) {
        drop(parse_secret(&secret_of(&json)));
    }
}
