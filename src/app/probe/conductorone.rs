//! The checks of the way to ConductorOne, each building on the one before: name, connection, token, Hello.
//!
//! The Hello is the one of the daemon: it renews what ConductorOne knows of this connector and hands out no task.

use std::{sync::Arc, time::Duration};

use tokio::net::lookup_host;

use super::{Class, Finding, Run, count_of, machine::Parts, proxy_rules};
use crate::{
    app::jumpcloud,
    clock::SystemClock,
    config::{Config, Service, Source},
    connector::jumpcloud::client::Client,
    control_plane::{
        self, ControlPlane as _, GrpcControlPlane, Timeouts,
        auth::{HttpTokenEndpoint, TokenEndpoint as _, TokenError},
        channel::{ConnectError, Connector, Hop},
        credentials::{Credentials, Host},
    },
    error::{self, Classify as _, Code, chain},
    handlers::hello::{Announcement, SystemInfo},
    telemetry::metrics::Metrics,
};

/// The names of these checks, in order.
pub(super) const NAMES: &[&str] = &[
    "conductorone-name",
    "conductorone-connection",
    "conductorone-token",
    "conductorone-hello",
];
/// Why there is nothing to check in one-shot mode.
pub(super) const ONE_SHOT: &str =
    "no client id is given: a one-shot run never talks to ConductorOne";
const REISSUE: &str = "issue a new client secret for this connector in ConductorOne, or correct client id and client secret";
const SET_CLOCK: &str = "set the clock of this machine (NTP)";

/// Limits on time that end a step before the limit of its check does, so that it can say what took too long.
pub(super) fn timeouts() -> Timeouts {
    let short = Duration::from_secs(10);
    Timeouts {
        dial: short,
        handshake: short,
        token: short,
        hello: short,
        ..Timeouts::default()
    }
}

pub(super) async fn check(run: &mut Run, config: &Config, source: &dyn Source, parts: &Parts) {
    let Some(service) = &config.service else {
        return skip(run, NAMES, ONE_SHOT);
    };
    let (Some((credentials, host)), Some(connector)) = (&parts.credentials, &parts.connector)
    else {
        return skip(
            run,
            NAMES,
            "conductorone-credentials or certificates failed",
        );
    };
    let [name, connection, token, hello] = NAMES else {
        return;
    };
    let Some(hop) = run.step(name, resolve(connector, host)).await else {
        return skip(run, &[connection, token, hello], "conductorone-name failed");
    };
    let connected = run.step(connection, connect(connector, host, &hop)).await;
    if connected.is_none() {
        return skip(run, &[token, hello], "conductorone-connection failed");
    }
    let given = run
        .step(token, ask_for_token(connector, credentials, host))
        .await;
    if given.is_none() {
        return skip(run, &[hello], "conductorone-token failed");
    }
    let Some(client) = &parts.client else {
        return skip(run, &[hello], "jumpcloud-credentials failed");
    };
    let greeting = say_hello(config, service, source, credentials, client);
    // Much of the state of a connection lives in this future.
    run.step(hello, Box::pin(greeting)).await;
}

fn skip(run: &mut Run, names: &[&'static str], why: &str) {
    for name in names {
        run.skip(name, why);
    }
}

async fn resolve(connector: &Connector, host: &Host) -> Result<(Finding, Hop), Finding> {
    let hop = connector
        .first_hop(host)
        .map_err(|error| Finding::failed(Class::Configuration, chain(&error)))?;
    let what = if hop.is_proxy { "the proxy " } else { "" };
    let found = lookup_host((hop.host.as_str(), hop.port))
        .await
        .map(Iterator::count);
    match found {
        Ok(count) => {
            let seen = format!("{what}{} has {}", hop.host, addresses(count));
            let finding = Finding::ok(seen).number("addresses", count_of(count));
            Ok((finding, hop))
        }
        Err(error) => {
            let advice = if hop.is_proxy {
                "check HTTPS_PROXY and the name servers of this machine"
            } else {
                "check the host in the client id (or BATON_C1_API_HOST), the name servers of this machine and, in \
                 Kubernetes, that a network policy lets DNS out; where a proxy is the only way out, set HTTPS_PROXY"
            };
            let seen = format!("{what}{} cannot be resolved ({error})", hop.host);
            Err(Finding::failed(Class::Unreachable, seen).advise(advice))
        }
    }
}

fn addresses(count: usize) -> String {
    match count {
        1 => "1 address".to_owned(),
        _ => format!("{count} addresses"),
    }
}

async fn connect(connector: &Connector, host: &Host, hop: &Hop) -> Result<(Finding, ()), Finding> {
    let way = if hop.is_proxy {
        format!("through the proxy {}:{}", hop.host, hop.port)
    } else {
        "without a proxy".to_owned()
    };
    match connector.try_out(host).await {
        Ok(()) => Ok((
            Finding::ok(format!("TCP, TLS and HTTP/2 with {host}, {way}")),
            (),
        )),
        Err(error) => {
            let class = match error {
                ConnectError::Name { .. } => Class::Configuration,
                _ => Class::Unreachable,
            };
            let advice = error.advice();
            Err(Finding::failed(class, chain(&error)).advise(advice))
        }
    }
}

async fn ask_for_token(
    connector: &Connector,
    credentials: &Credentials,
    host: &Host,
) -> Result<(Finding, ()), Finding> {
    let endpoint = HttpTokenEndpoint::try_new(
        credentials.clone(),
        host,
        connector.clone(),
        env!("CARGO_PKG_VERSION"),
        timeouts().token,
        Arc::new(SystemClock),
        Metrics::default(),
    )
    .map_err(|error| Finding::failed(Class::Configuration, chain(&error)))?;
    match endpoint.ask().await {
        Ok(grant) => {
            let finding = match grant.life {
                Some(life) => Finding::ok(format!(
                    "the client secret is accepted; a token lives {} s",
                    life.as_secs()
                ))
                .number("token_life_s", life.as_secs()),
                None => Finding::ok("the client secret is accepted"),
            };
            Ok((finding, ()))
        }
        Err(error) => Err(no_token(&error)),
    }
}

fn no_token(error: &TokenError) -> Finding {
    match error {
        TokenError::Rejected { answer, skew } if skew.is_too_large() => Finding::failed(
            Class::Machine,
            format!("ConductorOne rejected the credentials ({answer}){skew}"),
        )
        .advise(SET_CLOCK)
        .advise(format!("if it is rejected with the right time too: {REISSUE}")),
        TokenError::Rejected { answer, .. } => Finding::failed(
            Class::Credentials,
            format!("ConductorOne rejected the credentials ({answer})"),
        )
        .advise(REISSUE),
        TokenError::Refused { answer } => Finding::failed(
            Class::Configuration,
            format!("the token endpoint refused the request ({answer})"),
        )
        .advise("check the host in the client id, or BATON_C1_API_HOST"),
        TokenError::Assertion(_) => Finding::failed(Class::Other, chain(error)).advise(REISSUE),
        other => Finding::failed(Class::Unreachable, chain(other)).advise(
            "try again in a while; if it stays, see the status page of ConductorOne and what is between here and there",
        ),
    }
}

async fn say_hello(
    config: &Config,
    service: &Service,
    source: &dyn Source,
    credentials: &Credentials,
    client: &Client,
) -> Result<(Finding, ()), Finding> {
    let settings = control_plane::Settings {
        credentials: credentials.clone(),
        api_host: service.api_host.clone(),
        host_id: service.host_id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extra_ca_pem: config.extra_ca_pem.clone(),
        proxy: proxy_rules(source),
        timeouts: timeouts(),
        clock: Arc::new(SystemClock),
        metrics: Metrics::default(),
    };
    let connector = Arc::new(jumpcloud(config, client.clone()));
    let announcement = Announcement::new(connector, SystemInfo::detect());
    let hello = announcement.request("");
    let said = async { GrpcControlPlane::try_new(settings)?.hello(hello).await };
    match said.await {
        Ok(()) => {
            let origin = match source.variable("BATON_HOST_ID") {
                Some(_) => "",
                None => ", the name of this machine (BATON_HOST_ID is not set)",
            };
            let seen = format!(
                "accepted, as host {}{origin}; no task was asked for",
                error::quoted(&service.host_id)
            );
            Ok((Finding::ok(seen), ()))
        }
        Err(error) => Err(no_hello(&error)),
    }
}

fn no_hello(error: &control_plane::Error) -> Finding {
    let (class, advice) = match (error.code(), error.class()) {
        (Code::PermissionDenied, _) => (
            Class::Permission,
            "see in ConductorOne whether this connector is switched off or belongs to somebody else",
        ),
        (_, error::Class::Auth) => (Class::Credentials, REISSUE),
        (_, error::Class::Retryable | error::Class::Throttled(_)) => (
            Class::Unreachable,
            "try again in a while; a proxy in between must pass gRPC over HTTP/2",
        ),
        _ => (
            Class::Other,
            "check that the client id is the one of this connector; if it is, report this with the version of the program",
        ),
    };
    Finding::failed(class, chain(error)).advise(advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::probe::report::Outcome;

    #[test]
    fn a_hello_that_fails_says_who_has_to_act() {
        let answered = |code| control_plane::Error::Status {
            operation: "Hello",
            code,
            message: "words".to_owned(),
            retry_after: None,
        };
        for (code, class) in [
            (Code::Unauthenticated, Class::Credentials),
            (Code::PermissionDenied, Class::Permission),
            (Code::Unavailable, Class::Unreachable),
            (Code::ResourceExhausted, Class::Unreachable),
            (Code::InvalidArgument, Class::Other),
        ] {
            let finding = no_hello(&answered(code));
            assert_eq!(finding.outcome, Outcome::Failed(class), "{code}");
            assert!(finding.seen.contains("words") && finding.advice.len() == 1);
        }
    }
}
