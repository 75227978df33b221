//! Sources, precedence and limits of the settings.

use secrecy::ExposeSecret;

use super::*;

fn flags(pairs: &[(&str, &str)]) -> Flags {
    let mut flags = Flags::default();
    for (name, value) in pairs {
        flags.push(settings::find(name).unwrap(), vec![(*value).to_owned()]);
    }
    flags
}

fn one_shot() -> Flags {
    flags(&[("api-key", "SECRETSEED-key")])
}

fn service() -> ManualSource {
    ManualSource::new()
        .with_variable("BATON_CLIENT_ID", "worker@tenant.conductor.one/spc")
        .with_variable(
            "BATON_CLIENT_SECRET",
            "secret-token:conductorone.com:v1:SECRETSEED",
        )
        .with_variable("BATON_API_KEY", "SECRETSEED-key")
}

fn resolved(flags: &Flags, source: &ManualSource) -> Config {
    resolve(flags, source).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(flags: &Flags, source: &ManualSource) -> Error {
    resolve(flags, source).expect_err("accepted")
}

#[test]
fn an_api_key_alone_is_a_one_shot_run_with_the_official_defaults() {
    let config = resolved(&one_shot(), &ManualSource::new());
    assert!(config.service.is_none());
    assert_eq!(config.file, PathBuf::from("sync.c1z"));
    assert_eq!(config.work_dir, PathBuf::from("/tmp"));
    assert_eq!(config.jumpcloud.http_timeout, Duration::from_mins(5));
    assert_eq!(config.shutdown_grace, Duration::from_secs(25));
    assert_eq!(config.health, None);
    assert_eq!(config.log.level, Level::Info);
    assert_eq!(config.log.format, LogFormat::Json);
    let expected = SyncOptions {
        shrink_limit: 50,
        resume_max_age: Duration::from_hours(6),
        ..SyncOptions::default()
    };
    assert_eq!(config.sync, expected);
    assert_eq!(config.provisioning, Provisioning::default());
    assert!(config.notices.is_empty(), "{:?}", config.notices);
    assert_eq!(
        config.jumpcloud.console_url.as_str(),
        "https://console.jumpcloud.com/"
    );
    assert_eq!(
        config.jumpcloud.insights_url.as_str(),
        "https://api.jumpcloud.com/"
    );
}

#[test]
fn the_vendors_secret_and_nothing_else_starts_the_daemon() {
    let config = resolved(&Flags::default(), &service());
    let service = config.service.unwrap();
    assert_eq!(
        service.client_id.value().expose_secret(),
        "worker@tenant.conductor.one/spc"
    );
    assert_eq!(service.host_id, "test-host");
    assert_eq!(service.task_concurrency, 3);
    assert_eq!(service.api_host, None);
    assert!(!service.get_tasks);
    assert!(matches!(config.jumpcloud.auth, JumpCloudAuth::ApiKey(_)));
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file_and_the_default() {
    let file = ManualSource::new().with_file(".baton.yaml", "api-key: SECRETSEED\nregion: in\n");
    let of = |config: Config| config.jumpcloud.console_url.host_str().unwrap().to_owned();
    assert_eq!(
        of(resolved(&Flags::default(), &file)),
        "console.in.jumpcloud.com"
    );
    let both = file.with_variable("BATON_REGION", "eu");
    assert_eq!(
        of(resolved(&Flags::default(), &both)),
        "console.eu.jumpcloud.com"
    );
    assert_eq!(
        of(resolved(&flags(&[("region", "us")]), &both)),
        "console.jumpcloud.com"
    );
}

#[test]
fn an_empty_variable_counts_as_unset_and_lets_the_file_speak() {
    let source = ManualSource::new()
        .with_file(".baton.yaml", "api-key: SECRETSEED\nregion: eu\n")
        .with_variable("BATON_REGION", "")
        .with_variable("BATON_CLIENT_ID", "")
        .with_variable("BATON_CLIENT_SECRET", "");
    let config = resolved(&Flags::default(), &source);
    assert!(config.service.is_none());
    assert_eq!(
        config.jumpcloud.console_url.host_str(),
        Some("console.eu.jumpcloud.com")
    );
}

#[test]
fn an_empty_flag_takes_a_variable_away() {
    let config = resolved(
        &flags(&[("client-id", ""), ("client-secret", "")]),
        &service(),
    );
    assert!(config.service.is_none());
}

#[test]
fn the_host_id_counts_when_merely_present_and_falls_back_when_empty() {
    let host_id =
        |source: &ManualSource| resolved(&Flags::default(), source).service.unwrap().host_id;
    assert_eq!(
        host_id(&service().with_variable("BATON_HOST_ID", "pod-0")),
        "pod-0"
    );
    assert_eq!(
        host_id(&service().with_variable("BATON_HOST_ID", "")),
        "baton-sdk"
    );
    assert_eq!(host_id(&service()), "test-host");
}

#[test]
fn the_api_host_overrides_and_an_empty_one_is_an_error_instead_of_an_address_without_host() {
    for host in [
        "localhost:8443",
        "api.example.com",
        "[::1]:9000",
        "10.0.0.1",
    ] {
        let config = resolved(
            &Flags::default(),
            &service().with_variable("BATON_C1_API_HOST", host),
        );
        assert_eq!(config.service.unwrap().api_host.as_deref(), Some(host));
    }
    for host in ["", "https://x", "x/y", "u@x", "x:99999", "x?y"] {
        let error = refused(
            &Flags::default(),
            &service().with_variable("BATON_C1_API_HOST", host),
        );
        assert!(error.to_string().contains("BATON_C1_API_HOST"), "{error}");
    }
}

#[test]
fn batches_are_switched_on_by_the_words_for_true_only() {
    for (text, expected, notices) in [
        ("1", true, 0),
        ("t", true, 0),
        ("TRUE", true, 0),
        ("0", false, 0),
        ("False", false, 0),
        ("yes", false, 1),
    ] {
        let config = resolved(
            &Flags::default(),
            &service().with_variable("BATON_GET_TASKS", text),
        );
        assert_eq!(config.service.unwrap().get_tasks, expected, "{text}");
        assert_eq!(config.notices.len(), notices, "{text}");
    }
}

#[test]
fn a_service_account_takes_the_place_of_an_api_key() {
    let config = resolved(
        &flags(&[
            ("jumpcloud-client-id", "account"),
            ("jumpcloud-client-secret", "SECRETSEED-jc"),
            ("region", "eu"),
        ]),
        &ManualSource::new(),
    );
    let JumpCloudAuth::ServiceAccount {
        client_id,
        client_secret,
        token_url,
    } = config.jumpcloud.auth
    else {
        panic!("no service account");
    };
    assert_eq!(client_id, "account");
    assert_eq!(client_secret.value().expose_secret(), "SECRETSEED-jc");
    assert_eq!(
        token_url.as_str(),
        "https://admin-oauth.id.eu.jumpcloud.com/oauth2/token"
    );
}

#[test]
fn credentials_come_from_one_mounted_directory() {
    let source = ManualSource::new()
        .with_directory("/creds", false)
        .with_file("/creds/BATON_CLIENT_ID", "worker@h/x\n")
        .with_file(
            "/creds/BATON_CLIENT_SECRET",
            "secret-token:c:v1:SECRETSEED\n",
        )
        .with_file("/creds/BATON_API_KEY", "SECRETSEED-key\n");
    let config = resolved(
        &flags(&[
            ("client-id-file", "/creds"),
            ("client-secret-file", "/creds"),
            ("api-key-file", "/creds"),
        ]),
        &source,
    );
    let service = config.service.unwrap();
    assert_eq!(service.client_id.value().expose_secret(), "worker@h/x");
    assert!(service.client_secret.can_change());
}

#[test]
fn another_console_serves_insights_too_unless_said_otherwise() {
    let config = resolved(
        &flags(&[
            ("api-key", "SECRETSEED"),
            ("base-url", "http://127.0.0.1:8080/prefix"),
        ]),
        &ManualSource::new(),
    );
    assert_eq!(
        config.jumpcloud.console_url.as_str(),
        "http://127.0.0.1:8080/prefix"
    );
    assert_eq!(config.jumpcloud.insights_url, config.jumpcloud.console_url);
}

#[test]
fn workers_keep_their_official_numbers() {
    for (pairs, expected) in [
        (vec![], 0),
        (vec![("workers", "-1")], 0),
        (vec![("workers", "0")], 1),
        (vec![("workers", "1")], 1),
        (vec![("workers", "64")], 64),
        (vec![("parallel-sync", "true")], 0),
        (vec![("parallel-sync", "true"), ("workers", "5")], 5),
    ] {
        let mut pairs = pairs;
        pairs.push(("api-key", "SECRETSEED"));
        let config = resolved(&flags(&pairs), &ManualSource::new());
        assert_eq!(config.sync.workers, expected, "{pairs:?}");
    }
}

#[test]
fn a_targeted_sync_may_leave_out_grants() {
    let config = resolved(
        &flags(&[
            ("api-key", "SECRETSEED"),
            ("sync-resources", "bid:r:group/1,bid:r:user/2"),
            ("skip-grants", "true"),
        ]),
        &ManualSource::new(),
    );
    assert!(config.sync.skip_grants);
    assert_eq!(config.sync.targeted.len(), 2);
}

#[test]
fn one_shot_options_are_ignored_in_service_mode_with_a_notice_each() {
    let config = resolved(
        &flags(&[
            ("file", "x.c1z"),
            ("sync-resources", "bid:r:user/2"),
            ("skip-entitlements-and-grants", "true"),
            ("grant-entitlement", "x"),
        ]),
        &service(),
    );
    assert!(config.sync.targeted.is_empty());
    assert!(!config.sync.skip_entitlements_and_grants);
    assert_eq!(config.notices.len(), 4, "{:?}", config.notices);
}

#[test]
fn skipping_grants_refuses_to_start_the_daemon() {
    let error = refused(
        &flags(&[("skip-grants", "true"), ("sync-resources", "bid:r:user/1")]),
        &service(),
    );
    assert!(
        error
            .to_string()
            .contains("skip-grants can only be set within a targeted sync"),
        "{error}"
    );
    assert_eq!(error.exit_code(), 64);
}

#[test]
fn every_ignored_setting_is_answered_with_a_notice() {
    for setting in settings::SETTINGS {
        if !matches!(setting.treatment, settings::Treatment::Ignored(_)) {
            continue;
        }
        let value = match setting.kind {
            settings::Kind::Switch => "true",
            settings::Kind::Integer => "5",
            _ => "x",
        };
        let source = ManualSource::new()
            .with_variable("BATON_API_KEY", "SECRETSEED")
            .with_variable(&setting.variable(), value);
        let config = resolved(&Flags::default(), &source);
        assert_eq!(config.notices.len(), 1, "{}", setting.name);
        assert!(config.notices[0].contains(setting.name));
    }
}

#[test]
fn every_operation_of_a_later_version_ends_a_one_shot_run_with_code_12() {
    for setting in settings::SETTINGS {
        let settings::Treatment::Unsupported(operation) = setting.treatment else {
            continue;
        };
        let value = match setting.kind {
            settings::Kind::Switch => "true",
            _ => "x",
        };
        let source = ManualSource::new().with_variable("BATON_API_KEY", "SECRETSEED");
        for (given, source) in [
            (
                {
                    let mut given = Flags::default();
                    given.push(setting, vec![value.to_owned()]);
                    given
                },
                source.clone(),
            ),
            (
                Flags::default(),
                source.with_variable(&setting.variable(), value),
            ),
        ] {
            let error = refused(&given, &source);
            assert_eq!(error.exit_code(), 12, "{}", setting.name);
            let text = error.to_string();
            assert!(text.contains(&format!("--{}", setting.name)), "{text}");
            assert!(text.contains(operation), "{text}");
            assert!(
                text.contains("not supported by this connector version"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_variable_that_has_no_effect_is_answered_with_a_notice() {
    let source = ManualSource::new()
        .with_variable("BATON_API_KEY", "SECRETSEED")
        .with_variable("BATON_DISABLE_HTTP_CACHE", "1")
        .with_variable("BATON_LOG_LEVL", "debug");
    let config = resolved(&Flags::default(), &source);
    assert_eq!(config.notices.len(), 2, "{:?}", config.notices);
    assert!(config.notices[1].contains("did you mean BATON_LOG_LEVEL?"));
}

#[test]
fn all_problems_are_reported_at_once_on_one_line() {
    let error = refused(
        &flags(&[
            ("task-concurrency", "0"),
            ("http-timeout-seconds", "0"),
            ("log-level", "inof"),
        ]),
        &ManualSource::new(),
    );
    let text = error.to_string();
    assert_eq!(error.problems().len(), 4, "{text}");
    for part in [
        "--task-concurrency (BATON_TASK_CONCURRENCY): is 0, outside 1 to 100",
        "--http-timeout-seconds (BATON_HTTP_TIMEOUT_SECONDS): is 0, outside 1 to 1800",
        "did you mean info?",
        "--api-key (BATON_API_KEY): is missing",
    ] {
        assert!(text.contains(part), "{part} not in {text}");
    }
    assert!(!text.contains('\n'));
}

#[test]
fn the_shrink_guard_takes_a_share_and_a_time() {
    let good = flags(&[
        ("api-key", "SECRETSEED-key"),
        ("shrink-limit", "100"),
        ("shrink-accept-until", "2026-12-01T08:00:00+01:00"),
    ]);
    let sync = resolved(&good, &ManualSource::new()).sync;
    assert_eq!(sync.shrink_limit, 100);
    assert_eq!(
        sync.shrink_accept_until,
        Some("2026-12-01T07:00:00Z".parse().unwrap())
    );
    for (name, value, problem) in [
        ("shrink-limit", "0", "is 0, outside 1 to 100"),
        ("shrink-limit", "101", "is 101, outside 1 to 100"),
        ("shrink-limit", "off", "a whole number from 1 to 100"),
        ("shrink-accept-until", "tomorrow", "a time with its offset"),
    ] {
        let text = refused(&flags(&[(name, value)]), &ManualSource::new()).to_string();
        assert!(text.contains(problem), "{text}");
    }
}

#[test]
fn bad_configuration_ends_with_64_as_a_daemon_and_with_3_otherwise() {
    let bad = [("workers", "65")];
    assert_eq!(refused(&flags(&bad), &service()).exit_code(), 64);
    assert_eq!(refused(&flags(&bad), &ManualSource::new()).exit_code(), 3);
}

#[test]
fn the_work_dir_follows_its_order_and_must_be_writable() {
    let source = ManualSource::new()
        .with_variable("BATON_API_KEY", "SECRETSEED")
        .with_variable("BATON_TMPDIR", "/b")
        .with_directory("/a", true)
        .with_directory("/b", true)
        .with_directory("/ro", false);
    let dir = |pairs: &[(&str, &str)]| resolved(&flags(pairs), &source).work_dir;
    assert_eq!(dir(&[]), PathBuf::from("/b"));
    assert_eq!(dir(&[("c1z-temp-dir", "/a")]), PathBuf::from("/a"));
    assert_eq!(dir(&[("work-dir", "/a")]), PathBuf::from("/a"));
    assert_eq!(
        dir(&[("work-dir", "/a"), ("c1z-temp-dir", "/a")]),
        PathBuf::from("/a")
    );
    for pairs in [
        vec![("work-dir", "/ro")],
        vec![("work-dir", "/none")],
        vec![("work-dir", "/a"), ("c1z-temp-dir", "/b")],
    ] {
        let error = refused(&flags(&pairs), &source);
        assert!(error.to_string().contains("--work-dir"), "{error}");
    }
}

#[test]
fn a_ca_file_must_hold_certificates() {
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let source = ManualSource::new()
        .with_variable("BATON_API_KEY", "SECRETSEED")
        .with_variable("BATON_CA_FILE", "/ca.pem");
    let config = resolved(&Flags::default(), &source.clone().with_file("/ca.pem", pem));
    assert_eq!(config.extra_ca_pem.as_deref(), Some(pem.as_bytes()));
    for content in [
        "",
        "SECRETSEED",
        "-----BEGIN CERTIFICATE-----\nAAAA\n",
        "-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n",
    ] {
        let error = refused(
            &Flags::default(),
            &source.clone().with_file("/ca.pem", content),
        );
        assert!(error.to_string().contains("--ca-file"), "{error}");
        assert!(!error.to_string().contains("SECRETSEED"), "{error}");
    }
}

#[test]
fn health_is_served_only_when_asked_for() {
    let source = service().with_variable("BATON_HEALTH_CHECK_PORT", "0");
    assert_eq!(resolved(&Flags::default(), &source).health, None);
    let config = resolved(&flags(&[("health-check", "true")]), &source);
    assert_eq!(
        config.health,
        Some(HealthAddress {
            host: "127.0.0.1".to_owned(),
            port: 0
        })
    );
}

#[test]
fn the_log_format_follows_the_terminal_unless_given() {
    let terminal = ManualSource::new().on_a_terminal();
    assert_eq!(
        resolved(&one_shot(), &terminal).log.format,
        LogFormat::Console
    );
    let given = flags(&[("api-key", "SECRETSEED"), ("log-format", "json")]);
    assert_eq!(resolved(&given, &terminal).log.format, LogFormat::Json);
}

#[test]
fn the_levels_of_the_official_connectors_are_understood() {
    for (text, level) in [
        ("debug", Level::Debug),
        ("info", Level::Info),
        ("warn", Level::Warn),
        ("error", Level::Error),
        ("dpanic", Level::Error),
        ("panic", Level::Error),
        ("fatal", Level::Error),
    ] {
        let given = flags(&[("api-key", "SECRETSEED"), ("log-level", text)]);
        assert_eq!(resolved(&given, &ManualSource::new()).log.level, level);
        assert_eq!(Level::from_name(level.name()), Some(level));
    }
}

#[test]
fn a_file_may_hold_every_kind_of_value() {
    let source = ManualSource::new()
        .with_variable("BATON_CONFIG_PATH", "/etc/baton.yml")
        .with_file(
            "/etc/baton.yml",
            "# comment\napi-key: 'SECRETSEED'\nprovisioning: true\nskip-full-sync: \"true\"\n\
             task-concurrency: 7\nworkers: -1\nsync-resource-types: [user, group]\nlog-path: a,b\n\
             shutdown-grace: 10s\norg-id:\n",
        );
    let config = resolved(&Flags::default(), &source);
    assert_eq!(config.provisioning.mode, ProvisioningMode::On);
    assert!(config.sync.skip_full_sync);
    assert_eq!(config.sync.resource_types, ["user", "group"]);
    assert_eq!(config.log.paths, [PathBuf::from("a"), PathBuf::from("b")]);
    assert_eq!(config.shutdown_grace, Duration::from_secs(10));
    assert_eq!(config.jumpcloud.org_id, None);
}

#[test]
fn a_description_shows_origins_and_no_secret() {
    let source = service()
        .with_file("/key", "SECRETSEED-jc")
        .with_variable("BATON_API_KEY", "")
        .with_variable("BATON_API_KEY_FILE", "/key")
        .with_variable("BATON_OTEL_COLLECTOR_ENDPOINT_TLS_CERT", "SECRETSEED-cert");
    let config = resolved(&flags(&[("log-level", "debug")]), &source);
    let text = config.describe();
    for line in [
        "mode: service",
        "api-key: [redacted, 13 characters] from /key (BATON_API_KEY_FILE)",
        "client-id: worker@tenant.conductor.one/spc (BATON_CLIENT_ID)",
        "log-level: debug (--log-level)",
        "region: us (default)",
        "host-id: test-host",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} not in\n{text}"
        );
    }
    assert!(!text.contains("SECRETSEED"), "{text}");
    assert!(!format!("{config:?}").contains("SECRETSEED"));
    assert_eq!(config.secrets().len(), 2);
}

#[test]
fn nothing_is_done_in_kubernetes_unless_asked_for() {
    let config = resolved(&Flags::default(), &service());
    assert_eq!(
        config.kubernetes,
        Kubernetes {
            pod: Pod {
                name: "test-host".to_owned(),
                ..Pod::default()
            },
            ..Kubernetes::default()
        }
    );
}

#[cfg(feature = "kubernetes")]
#[test]
fn the_settings_for_kubernetes_are_read() {
    let source = service()
        .with_variable("BATON_KUBERNETES_SECRET", "baton.creds")
        .with_variable(
            "BATON_KUBERNETES_SECRET_KEYS",
            "api-key=jc-key,client-id=ID",
        )
        .with_variable("BATON_KUBERNETES_EVENTS", "true")
        .with_variable("BATON_KUBERNETES_LEASE", "baton")
        .with_variable("BATON_POD_NAME", "baton-0")
        .with_variable("BATON_POD_NAMESPACE", "baton-1")
        .with_variable("BATON_POD_UID", "8a4c-6f1a");
    let config = resolved(&Flags::default(), &source);
    let secret = config.kubernetes.secret.unwrap();
    assert_eq!(secret.name, "baton.creds");
    let keys: Vec<_> = secret.keys.iter().collect();
    assert_eq!(
        keys,
        [
            ("api-key", "jc-key"),
            ("client-id", "ID"),
            ("client-secret", "BATON_CLIENT_SECRET"),
            ("jumpcloud-client-secret", "BATON_JUMPCLOUD_CLIENT_SECRET"),
        ]
    );
    assert!(config.kubernetes.events);
    assert_eq!(config.kubernetes.lease.as_deref(), Some("baton"));
    assert_eq!(
        config.kubernetes.pod,
        Pod {
            name: "baton-0".to_owned(),
            namespace: Some("baton-1".to_owned()),
            uid: Some("8a4c-6f1a".to_owned()),
        }
    );
    assert!(config.notices.is_empty(), "{:?}", config.notices);
}

#[cfg(feature = "kubernetes")]
#[test]
fn names_that_the_kubernetes_api_would_refuse_are_refused_at_start() {
    let long = "a".repeat(254);
    let label = "a".repeat(64);
    for (name, value, expected) in [
        ("kubernetes-secret", "SECRETSEED", "a text of 10 characters"),
        ("kubernetes-secret", "-a", "lower-case letters"),
        ("kubernetes-lease", "a..b", "lower-case letters"),
        ("kubernetes-lease", &long, "at most 253"),
        ("pod-name", "a_b", "lower-case letters"),
        ("pod-namespace", "a.b", "at most 63"),
        ("pod-namespace", &label, "at most 63"),
        ("pod-uid", "a/b", "letters, digits and hyphens"),
        ("kubernetes-events", "maybe", "true or false"),
        (
            "kubernetes-secret-keys",
            "api-key=a",
            "without kubernetes-secret",
        ),
    ] {
        let error = refused(&flags(&[(name, value)]), &service());
        assert_eq!(error.problems().len(), 1, "{error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(expected), "{text}");
        assert!(!text.contains("SECRETSEED"), "{text}");
    }
    for (keys, expected) in [
        ("api-key", "item number 1 is no pair"),
        (
            "client-id=a,org-id=b",
            "item number 2 is for none of client-id, ",
        ),
        ("api-key=", "names no key"),
        ("api-key=a b", "names no key"),
        ("api-key=a,api-key=b", "an earlier one"),
    ] {
        let given = flags(&[("kubernetes-secret", "a"), ("kubernetes-secret-keys", keys)]);
        let text = refused(&given, &service()).to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[cfg(feature = "kubernetes")]
#[test]
fn events_need_to_know_the_pod() {
    let events = [("kubernetes-events", "true")];
    let config = resolved(&flags(&events), &service());
    assert_eq!(config.notices.len(), 1, "{:?}", config.notices);
    assert!(config.notices[0].starts_with("pod-uid is missing"));
    let odd = service().with_host_name("My_Laptop");
    let text = refused(&flags(&events), &odd).to_string();
    assert!(text.contains("pod-name"), "{text}");
    // Nothing else needs it.
    resolved(&flags(&[("kubernetes-lease", "baton")]), &odd);
}

#[cfg(not(feature = "kubernetes"))]
#[test]
fn a_build_without_kubernetes_refuses_its_settings_and_says_why() {
    for name in [
        "kubernetes-secret",
        "kubernetes-secret-keys",
        "kubernetes-events",
        "kubernetes-lease",
        "pod-name",
        "pod-namespace",
        "pod-uid",
    ] {
        let error = refused(&flags(&[(name, "true")]), &service());
        let text = error.to_string();
        assert!(text.contains(name), "{text}");
        assert!(
            text.contains("this build has no part for Kubernetes"),
            "{text}"
        );
    }
}
