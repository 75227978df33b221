//! The simulated ConductorOne, judged with a plain tonic client: what it lets pass, and what it catches.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::{
    digest,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use baton_jumpcloud::{
    clock::{ManualClock, SystemClock},
    connector::jumpcloud::{self as connector, client},
    proto::{
        self, Any, RpcStatus,
        baton::{
            self, BatonServiceFinishTaskRequest, BatonServiceGetTaskRequest,
            BatonServiceGetTasksRequest, BatonServiceHeartbeatRequest, BatonServiceHelloRequest,
            BatonServiceUploadAssetRequest, StartDebuggingRequest,
            baton_service_client::BatonServiceClient,
            baton_service_finish_task_request::{Error as FinishError, FinalState, Success},
            baton_service_hello_request::{BuildInfo, OsInfo},
            baton_service_upload_asset_request::{Msg, UploadData, UploadEof, UploadMetadata},
            task::TaskType,
        },
        connector as v2,
    },
    sim::{
        conductorone::{
            self, Args, Break, ConductorOneSim, Config, Control, Rpc, Script, Stage, full_sync,
            hello,
        },
        jumpcloud::{self, JumpCloudSim},
    },
    syncer,
};
use clap::Parser as _;
use futures_util::StreamExt as _;
use prost::Message as _;
use serde_json::{Value, json};
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

mod provisioning;

const PATIENCE: Duration = Duration::from_secs(20);

// A client as plain as can be.

struct Key {
    pair: Ed25519KeyPair,
    jwk: Value,
}

fn key_of(secret: &str) -> Key {
    let parts: Vec<&str> = secret.split(':').collect();
    assert_eq!(parts[..3], ["secret-token", "conductorone.com", "v1"]);
    let jwk: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[3]).unwrap()).unwrap();
    let member = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    let pair = Ed25519KeyPair::from_seed_and_public_key(&member("d"), &member("x")).unwrap();
    Key { pair, jwk }
}

fn sign(pair: &Ed25519KeyPair, header: &Value, claims: &Value) -> String {
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(text.as_bytes()).as_ref());
    format!("{text}.{signature}")
}

struct TokenForm {
    header: Value,
    claims: Value,
    form: Vec<(String, String)>,
    pair: Option<Ed25519KeyPair>,
}

fn token_form(sim: &ConductorOneSim) -> TokenForm {
    let now = jiff::Timestamp::now().as_second();
    let id = sim.client_id();
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).unwrap();
    TokenForm {
        header: json!({
            "alg": "EdDSA",
            "nonce": format!("{:032x}", u128::from_be_bytes(nonce)),
        }),
        claims: json!({
            "iss": id, "sub": id, "aud": "127.0.0.1",
            "iat": now, "nbf": now - 120, "exp": now + 120,
        }),
        form: [
            ("client_id", id),
            ("grant_type", "client_credentials"),
            (
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
        pair: None,
    }
}

fn http(sim: &ConductorOneSim) -> reqwest::Client {
    reqwest::Client::builder()
        .add_root_certificate(reqwest::Certificate::from_pem(sim.ca_pem().as_bytes()).unwrap())
        .user_agent("plain-client")
        .timeout(PATIENCE)
        .no_proxy()
        .build()
        .unwrap()
}

async fn post_form(sim: &ConductorOneSim, form: TokenForm) -> (u16, Value) {
    let key = key_of(sim.client_secret());
    let pair = form.pair.as_ref().unwrap_or(&key.pair);
    let mut fields = form.form;
    if !fields.iter().any(|(name, _)| name == "client_assertion") {
        fields.push((
            "client_assertion".to_owned(),
            sign(pair, &form.header, &form.claims),
        ));
    }
    let answer = http(sim)
        .post(format!("https://{}/auth/v1/token", sim.address()))
        .form(&fields)
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or(Value::Null))
}

async fn token(sim: &ConductorOneSim) -> String {
    let (status, body) = post_form(sim, token_form(sim)).await;
    assert_eq!(status, 200, "{body}");
    body["access_token"].as_str().unwrap().to_owned()
}

async fn channel(sim: &ConductorOneSim) -> Channel {
    Endpoint::from_shared(format!("https://{}", sim.address()))
        .unwrap()
        .tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(sim.ca_pem())))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

struct Client {
    grpc: BatonServiceClient<Channel>,
    token: String,
}

impl Client {
    /// A client that has a token and has said hello.
    async fn greeted(sim: &ConductorOneSim) -> Self {
        let mut client = Self {
            grpc: BatonServiceClient::new(channel(sim).await),
            token: token(sim).await,
        };
        client.hello(good_hello()).await.unwrap();
        client
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let value = MetadataValue::try_from(format!("Bearer {}", self.token)).unwrap();
        request.metadata_mut().insert("authorization", value);
        request
    }

    async fn hello(&mut self, message: BatonServiceHelloRequest) -> Result<(), Status> {
        let request = self.request(message);
        self.grpc.hello(request).await.map(drop)
    }

    async fn next(&mut self) -> Result<Option<baton::Task>, Status> {
        let request = self.request(BatonServiceGetTaskRequest { host_id: host() });
        let answer = self.grpc.get_task(request).await?;
        Ok(answer
            .into_inner()
            .task
            .filter(|task| !matches!(task.task_type, Some(TaskType::None(_)))))
    }

    async fn heartbeat(&mut self, id: &str) -> Result<bool, Status> {
        let request = self.request(BatonServiceHeartbeatRequest {
            host_id: host(),
            task_id: id.to_owned(),
            ..Default::default()
        });
        Ok(self.grpc.heartbeat(request).await?.into_inner().cancelled)
    }

    async fn finish(&mut self, message: BatonServiceFinishTaskRequest) -> Result<(), Status> {
        let request = self.request(message);
        self.grpc.finish_task(request).await.map(drop)
    }

    async fn upload(&mut self, messages: Vec<Msg>) -> Result<(), Status> {
        let messages = messages
            .into_iter()
            .map(|msg| BatonServiceUploadAssetRequest { msg: Some(msg) });
        let request = self.request(futures_util::stream::iter(messages.collect::<Vec<_>>()));
        self.grpc.upload_asset(request).await.map(drop)
    }

    async fn give_an_upload_up(&mut self, messages: &[Msg]) {
        let messages: Vec<_> = messages
            .iter()
            .map(|msg| BatonServiceUploadAssetRequest {
                msg: Some(msg.clone()),
            })
            .collect();
        let endless = futures_util::stream::iter(messages).chain(futures_util::stream::pending());
        let request = self.request(endless);
        let call = self.grpc.upload_asset(request);
        let call = tokio::time::timeout(Duration::from_millis(200), call);
        assert!(call.await.is_err(), "it waits for more");
    }
}

fn host() -> String {
    "test-host".to_owned()
}

fn good_hello() -> BatonServiceHelloRequest {
    let text = || "x".to_owned();
    BatonServiceHelloRequest {
        host_id: host(),
        task_id: String::new(),
        build_info: Some(BuildInfo {
            lang_version: text(),
            package: text(),
            package_version: text(),
        }),
        os_info: Some(OsInfo {
            hostname: text(),
            os: text(),
            platform: text(),
            platform_version: text(),
            platform_family: text(),
            kernel_version: text(),
            kernel_arch: text(),
            virtualization_system: text(),
        }),
        connector_metadata: Some(v2::ConnectorMetadata {
            display_name: "Test".to_owned(),
            capabilities: Some(v2::ConnectorCapabilities {
                resource_type_capabilities: vec![v2::ResourceTypeCapability {
                    resource_type: Some(v2::ResourceType {
                        id: "user".to_owned(),
                        traits: vec![1],
                        annotations: vec![proto::pack(&v2::SkipEntitlementsAndGrants {})],
                        ..Default::default()
                    }),
                    capabilities: vec![2],
                    ..Default::default()
                }],
                connector_capabilities: vec![2],
                ..Default::default()
            }),
            ..Default::default()
        }),
        annotations: Vec::new(),
    }
}

fn success(id: &str, response: Option<Any>) -> BatonServiceFinishTaskRequest {
    BatonServiceFinishTaskRequest {
        host_id: host(),
        task_id: id.to_owned(),
        status: None,
        final_state: Some(FinalState::Success(Success {
            annotations: Vec::new(),
            response,
        })),
    }
}

fn failure(id: &str) -> BatonServiceFinishTaskRequest {
    BatonServiceFinishTaskRequest {
        host_id: host(),
        task_id: id.to_owned(),
        status: Some(RpcStatus {
            code: 2,
            message: "it failed".to_owned(),
            details: Vec::new(),
        }),
        final_state: Some(FinalState::Error(FinishError::default())),
    }
}

fn metadata(id: &str) -> Msg {
    Msg::Metadata(UploadMetadata {
        host_id: host(),
        task_id: id.to_owned(),
        annotations: Vec::new(),
    })
}

fn data(bytes: &[u8]) -> Msg {
    Msg::Data(UploadData {
        data: bytes.to_vec(),
    })
}

fn eof(bytes: &[u8]) -> Msg {
    Msg::Eof(UploadEof {
        sha256_checksum: digest::digest(&digest::SHA256, bytes).as_ref().to_vec(),
        annotations: Vec::new(),
    })
}

fn whole(id: &str, file: &[u8]) -> Vec<Msg> {
    let mut messages = vec![metadata(id)];
    messages.extend(file.chunks(1000).map(data));
    messages.push(eof(file));
    messages
}

/// A quick simulator: no waiting between polls.
async fn quick() -> ConductorOneSim {
    ConductorOneSim::start(Config {
        next_poll: None,
        ..Config::default()
    })
    .await
    .unwrap()
}

/// A simulator, a client, and a full sync that it has taken and heartbeated.
async fn syncing() -> (ConductorOneSim, Client, String) {
    let sim = quick().await;
    let id = sim.enqueue(full_sync(baton::task::SyncFullTask::default()));
    let mut client = Client::greeted(&sim).await;
    assert_eq!(client.next().await.unwrap().unwrap().id, id);
    assert!(!client.heartbeat(&id).await.unwrap());
    (sim, client, id)
}

// A file, written here with plain SQLite and zstd.

const TABLES: &str = "
CREATE TABLE v1_resource_types (id integer primary key, external_id text not null, data blob not null,
    sync_id text not null, discovered_at datetime not null);
CREATE UNIQUE INDEX idx_resource_types_external_sync_v1 ON v1_resource_types (external_id, sync_id);
CREATE TABLE v1_resources (id integer primary key, resource_type_id text not null, external_id text not null,
    parent_resource_type_id text, parent_resource_id text, data blob not null, sync_id text not null,
    discovered_at datetime not null);
CREATE INDEX idx_resources_resource_type_id_v1 ON v1_resources (resource_type_id);
CREATE INDEX idx_resources_external_sync_v1 ON v1_resources (parent_resource_type_id, parent_resource_id);
CREATE UNIQUE INDEX idx_resources_parent_resource_id_v1 ON v1_resources (external_id, sync_id);
CREATE TABLE v1_entitlements (id integer primary key, resource_type_id text not null, resource_id text not null,
    external_id text not null, data blob not null, sync_id text not null, discovered_at datetime not null);
CREATE INDEX idx_entitlements_resource_id_v1 ON v1_entitlements (resource_type_id, resource_id);
CREATE UNIQUE INDEX idx_entitlements_external_sync_v1 ON v1_entitlements (external_id, sync_id);
CREATE TABLE v1_sync_runs (id integer primary key, sync_id text not null, started_at datetime not null,
    ended_at datetime, sync_token text not null, sync_type text not null default 'full',
    parent_sync_id text not null default '', linked_sync_id text not null default '',
    supports_diff integer not null default 0, grants_backfilled integer not null default 0, stats text,
    ingest_invariant_generation text not null default '', ingest_invariant_coverage text not null default '',
    ingest_invariant_mode text not null default '');
CREATE UNIQUE INDEX idx_sync_runs_sync_id_v1 ON v1_sync_runs (sync_id);
CREATE TABLE v1_grants (id integer primary key, resource_type_id text not null, resource_id text not null,
    entitlement_id text not null, principal_resource_type_id text not null, principal_resource_id text not null,
    external_id text not null, expansion blob, needs_expansion integer not null default 0, data blob not null,
    sync_id text not null, discovered_at datetime not null);
CREATE INDEX idx_grants_resource_type_id_resource_id_v1 ON v1_grants (resource_type_id, resource_id);
CREATE INDEX idx_grants_principal_id_v1 ON v1_grants (principal_resource_type_id, principal_resource_id);
CREATE INDEX idx_grants_entitlement_id_principal_id_v1
    ON v1_grants (entitlement_id, principal_resource_type_id, principal_resource_id);
CREATE UNIQUE INDEX idx_grants_external_sync_v1 ON v1_grants (external_id, sync_id);
CREATE INDEX idx_grants_entitlement_sync_grant_v1 ON v1_grants (entitlement_id, sync_id, id);
CREATE INDEX idx_grants_sync_expansion_v1 ON v1_grants (sync_id) WHERE expansion IS NOT NULL;
CREATE INDEX idx_grants_sync_needs_expansion_v1 ON v1_grants (sync_id) WHERE needs_expansion = 1;
CREATE TABLE v1_assets (id integer primary key, external_id text not null, content_type text not null,
    data blob not null, sync_id text not null, discovered_at datetime not null);
CREATE UNIQUE INDEX idx_assets_external_sync_v1 ON v1_assets (external_id, sync_id);
CREATE TABLE v1_connector_sessions (id integer primary key, sync_id text not null, key text not null,
    value blob not null);
CREATE UNIQUE INDEX idx_session_store_sync_key_v1 ON v1_connector_sessions (sync_id, key);
";
const SYNC: &str = "2abcdefghijklmnopqrstuvwxyz";

fn resource(kind: &str, id: &str) -> v2::Resource {
    v2::Resource {
        id: Some(v2::ResourceId {
            resource_type: kind.to_owned(),
            resource: id.to_owned(),
            ..Default::default()
        }),
        annotations: vec![if kind == "user" {
            proto::pack(&v2::UserTrait::default())
        } else {
            proto::pack(&v2::GroupTrait::default())
        }],
        ..Default::default()
    }
}

/// One user, one group, its entitlement and one grant; `change` may spoil the database.
fn c1z(folder: &Path, change: &str) -> Vec<u8> {
    let path = folder.join("plain.db");
    if path.exists() {
        std::fs::remove_file(&path).unwrap();
    }
    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute_batch(TABLES).unwrap();
    database
        .execute(
            "INSERT INTO v1_sync_runs (sync_id, started_at, ended_at, sync_token, supports_diff, grants_backfilled)
             VALUES (?1, '2026-01-01 10:00:00', '2026-01-01 10:00:01.25', '{}', 1, 1)",
            [SYNC],
        )
        .unwrap();
    for (kind, role) in [("user", 1), ("group", 2)] {
        let message = v2::ResourceType {
            id: kind.to_owned(),
            traits: vec![role],
            ..Default::default()
        };
        database
            .execute(
                "INSERT INTO v1_resource_types (external_id, data, sync_id, discovered_at)
                 VALUES (?1, ?2, ?3, '2026-01-01 10:00:00')",
                rusqlite::params![kind, message.encode_to_vec(), SYNC],
            )
            .unwrap();
        database
            .execute(
                "INSERT INTO v1_resources (resource_type_id, external_id, data, sync_id, discovered_at)
                 VALUES (?1, ?2, ?3, ?4, '2026-01-01 10:00:00')",
                rusqlite::params![
                    kind,
                    format!("{kind}:1"),
                    resource(kind, "1").encode_to_vec(),
                    SYNC
                ],
            )
            .unwrap();
    }
    let entitlement = v2::Entitlement {
        resource: Some(resource("group", "1")),
        id: "group:1:member".to_owned(),
        ..Default::default()
    };
    database
        .execute(
            "INSERT INTO v1_entitlements (resource_type_id, resource_id, external_id, data, sync_id, discovered_at)
             VALUES ('group', '1', 'group:1:member', ?1, ?2, '2026-01-01 10:00:00')",
            rusqlite::params![entitlement.encode_to_vec(), SYNC],
        )
        .unwrap();
    let grant = v2::Grant {
        entitlement: Some(entitlement),
        principal: Some(resource("user", "1")),
        id: "group:1:member:user:1".to_owned(),
        ..Default::default()
    };
    database
        .execute(
            "INSERT INTO v1_grants (resource_type_id, resource_id, entitlement_id, principal_resource_type_id,
                principal_resource_id, external_id, data, sync_id, discovered_at)
             VALUES ('group', '1', 'group:1:member', 'user', '1', 'group:1:member:user:1', ?1, ?2,
                '2026-01-01 10:00:00')",
            rusqlite::params![grant.encode_to_vec(), SYNC],
        )
        .unwrap();
    database.execute_batch(change).unwrap();
    drop(database);
    pack(&std::fs::read(path).unwrap())
}

fn pack(database: &[u8]) -> Vec<u8> {
    let mut file = b"C1ZF\0".to_vec();
    let mut encoder = zstd::stream::write::Encoder::new(&mut file, 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder
        .set_pledged_src_size(Some(database.len() as u64))
        .unwrap();
    encoder.write_all(database).unwrap();
    encoder.finish().unwrap();
    file
}

// Credentials.

#[tokio::test]
async fn a_right_assertion_gets_a_token_that_every_call_needs() {
    let sim = quick().await;
    let (status, body) = post_form(&sim, token_form(&sim)).await;
    assert_eq!(status, 200);
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 3600);
    let mut client = Client::greeted(&sim).await;
    assert!(client.next().await.unwrap().is_none());
    assert_eq!(sim.token_requests()[0].user_agent, "plain-client");
    assert!(sim.hellos()[0].user_agent.contains("tonic"));
    sim.assert_clean();
}

#[tokio::test]
async fn the_client_id_names_the_port_and_the_secret_is_an_ed25519_key() {
    let sim = quick().await;
    assert_eq!(
        sim.client_id(),
        format!("sim-connector@127.0.0.1:{}/clients", sim.address().port())
    );
    let key = key_of(sim.client_secret());
    assert_eq!(key.jwk["kty"], "OKP");
    assert_eq!(key.jwk["crv"], "Ed25519");
    assert_eq!(key.jwk.get("kid"), None);
    assert_eq!(key.pair.public_key().as_ref().len(), 32);
}

type Spoil = fn(&mut TokenForm);

#[tokio::test]
async fn every_wrong_part_of_a_token_request_is_caught_by_name() {
    fn remove(form: &mut TokenForm, name: &str) {
        form.form.retain(|(field, _)| field != name);
    }
    fn add(form: &mut TokenForm, name: &str, value: &str) {
        form.form.push((name.to_owned(), value.to_owned()));
    }
    let table: Vec<(&str, Spoil)> = vec![
        ("grant_type", |form| remove(form, "grant_type")),
        ("grant_type", |form| {
            remove(form, "grant_type");
            add(form, "grant_type", "password");
        }),
        ("grant_type", |form| {
            add(form, "grant_type", "client_credentials");
        }),
        ("scope", |form| add(form, "scope", "all")),
        ("client_secret", |form| {
            add(form, "client_secret", "SECRETSEED");
        }),
        ("client_assertion_type", |form| {
            remove(form, "client_assertion_type");
            add(form, "client_assertion_type", "jwt");
        }),
        ("client_assertion", |form| {
            add(form, "client_assertion", "a.b");
        }),
        ("client_assertion header", |form| {
            add(form, "client_assertion", "%%.e30.e30");
        }),
        ("header alg", |form| form.header["alg"] = json!("HS256")),
        ("header nonce", |form| form.header["nonce"] = json!("ABC")),
        ("header typ", |form| form.header["typ"] = json!("JWT")),
        ("header kid", |form| form.header["kid"] = json!("k")),
        ("claim iss", |form| form.claims["iss"] = json!("someone")),
        ("claim sub", |form| form.claims["sub"] = Value::Null),
        ("claim aud", |form| {
            form.claims["aud"] = json!(["127.0.0.1"]);
        }),
        ("claim aud", |form| {
            form.claims["aud"] = json!("127.0.0.1:443");
        }),
        ("claim jti", |form| form.claims["jti"] = json!("1")),
        ("claim iat", |form| form.claims["iat"] = json!(1.5)),
        ("claim nbf", |form| {
            form.claims["nbf"] = form.claims["iat"].clone();
        }),
        ("claim exp", |form| {
            form.claims["exp"] = json!(9_999_999_999_i64);
        }),
    ];
    let sim = quick().await;
    for (field, spoil) in table {
        let mut form = token_form(&sim);
        spoil(&mut form);
        let (status, body) = post_form(&sim, form).await;
        assert_eq!(
            (status, &body["error"]),
            (401, &json!("invalid_client")),
            "{field}"
        );
        let breaches = sim.breaches();
        let last = breaches.last().unwrap();
        assert_eq!(
            (last.rpc, last.field.as_str()),
            (Rpc::Token, field),
            "{last}"
        );
    }
}

#[tokio::test]
async fn a_nonce_counts_once() {
    let sim = quick().await;
    let mut first = token_form(&sim);
    first.header["nonce"] = json!("0123456789abcdef0123456789abcdef");
    let mut second = token_form(&sim);
    second.header = first.header.clone();
    assert_eq!(post_form(&sim, first).await.0, 200);
    assert_eq!(post_form(&sim, second).await.0, 401);
    assert_eq!(
        sim.breaches()[0].to_string(),
        "Token: header nonce was used before"
    );
}

#[tokio::test]
async fn wrong_credentials_are_refused_but_are_no_breach() {
    let sim = quick().await;
    let mut stranger = token_form(&sim);
    stranger.form.retain(|(name, _)| name != "client_id");
    stranger
        .form
        .push(("client_id".to_owned(), "x@y/z".to_owned()));
    let mut forged = token_form(&sim);
    forged.pair = Some(Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap());
    let mut old = token_form(&sim);
    for claim in ["iat", "nbf", "exp"] {
        old.claims[claim] = json!(old.claims[claim].as_i64().unwrap() - 3600);
    }
    let mut early = token_form(&sim);
    for claim in ["iat", "nbf", "exp"] {
        early.claims[claim] = json!(early.claims[claim].as_i64().unwrap() + 3600);
    }
    for form in [stranger, forged, old, early] {
        let (status, body) = post_form(&sim, form).await;
        assert_eq!((status, &body["error"]), (401, &json!("invalid_client")));
    }
    assert_eq!(sim.token_requests().len(), 4);
    assert!(
        sim.token_requests()
            .iter()
            .all(|request| request.refused.is_some())
    );
    sim.assert_clean();
}

#[tokio::test]
async fn a_secret_can_be_rejected_and_the_endpoint_taken_down() {
    let sim = quick().await;
    sim.reject_secret(true);
    let (status, body) = post_form(&sim, token_form(&sim)).await;
    assert_eq!((status, &body["error"]), (401, &json!("invalid_client")));
    sim.reject_secret(false);
    sim.token_endpoint_down_for(Duration::from_hours(1));
    assert_eq!(post_form(&sim, token_form(&sim)).await.0, 503);
    sim.token_endpoint_down_for(Duration::ZERO);
    assert_eq!(post_form(&sim, token_form(&sim)).await.0, 200);
    sim.assert_clean();
}

#[tokio::test]
async fn tokens_expire_and_can_be_revoked() {
    let clock = ManualClock::new(jiff::Timestamp::now());
    let sim = ConductorOneSim::start(Config {
        token_life: Duration::from_mins(1),
        next_poll: None,
        clock: Arc::new(clock.clone()),
        ..Config::default()
    })
    .await
    .unwrap();
    let mut client = Client::greeted(&sim).await;
    clock.advance(Duration::from_secs(61));
    assert_eq!(
        client.next().await.unwrap_err().code(),
        Code::Unauthenticated
    );
    client.token = token(&sim).await;
    client.next().await.unwrap();
    sim.revoke_tokens();
    assert_eq!(
        client.next().await.unwrap_err().code(),
        Code::Unauthenticated
    );
    sim.assert_clean();
}

#[tokio::test]
async fn a_call_without_bearer_token_is_a_breach() {
    let sim = quick().await;
    let mut client = BatonServiceClient::new(channel(&sim).await);
    let status = client.hello(good_hello()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let mut request = Request::new(good_hello());
    request
        .metadata_mut()
        .insert("authorization", "Basic U0VDUkVUU0VFRA==".parse().unwrap());
    assert_eq!(
        client.hello(request).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let fields: Vec<String> = sim
        .breaches()
        .into_iter()
        .map(|breach| breach.field)
        .collect();
    assert_eq!(fields, ["authorization", "authorization"]);
}

// Field rules.

type SpoilHello = fn(&mut BatonServiceHelloRequest);

fn capability(message: &mut BatonServiceHelloRequest) -> &mut v2::ResourceTypeCapability {
    let metadata = message.connector_metadata.as_mut().unwrap();
    &mut metadata
        .capabilities
        .as_mut()
        .unwrap()
        .resource_type_capabilities[0]
}

fn described(message: &mut BatonServiceHelloRequest) -> &mut v2::ConnectorMetadata {
    message.connector_metadata.as_mut().unwrap()
}

#[tokio::test]
async fn every_broken_field_of_hello_is_caught_by_path() {
    const TYPE: &str =
        "connector_metadata.capabilities.resource_type_capabilities[0].resource_type";
    let table: Vec<(String, SpoilHello)> = vec![
        ("host_id".into(), |hello| hello.host_id.clear()),
        ("host_id".into(), |hello| hello.host_id = "ü".repeat(257)),
        ("task_id".into(), |hello| hello.task_id = "short".into()),
        ("build_info".into(), |hello| hello.build_info = None),
        ("build_info.package".into(), |hello| {
            hello.build_info.as_mut().unwrap().package = "x".repeat(257);
        }),
        ("os_info.kernel_arch".into(), |hello| {
            hello.os_info.as_mut().unwrap().kernel_arch.clear();
        }),
        ("connector_metadata".into(), |hello| {
            hello.connector_metadata = None;
        }),
        ("connector_metadata.display_name".into(), |hello| {
            described(hello).display_name.clear();
        }),
        ("connector_metadata.help_url".into(), |hello| {
            described(hello).help_url = "http://example.com".into();
        }),
        ("connector_metadata.icon.id".into(), |hello| {
            described(hello).icon = Some(v2::AssetRef::default());
        }),
        ("connector_metadata.description".into(), |hello| {
            described(hello).description = "x".repeat(4097);
        }),
        (
            "connector_metadata.annotations[0].type_url".into(),
            |hello| {
                described(hello).annotations = vec![Any::default()];
            },
        ),
        ("connector_metadata.annotations[0].value".into(), |hello| {
            let mut any = proto::pack(&v2::ExternalTicketSettings::default());
            any.value = vec![0xff];
            described(hello).annotations = vec![any];
        }),
        ("connector_metadata.capabilities".into(), |hello| {
            described(hello).capabilities = None;
        }),
        (
            "connector_metadata.capabilities.connector_capabilities[0]".into(),
            |hello| {
                let capabilities = described(hello).capabilities.as_mut().unwrap();
                capabilities.connector_capabilities = vec![99];
            },
        ),
        (TYPE.into(), |hello| capability(hello).resource_type = None),
        (format!("{TYPE}.id"), |hello| {
            capability(hello).resource_type.as_mut().unwrap().id.clear();
        }),
        (format!("{TYPE}.traits"), |hello| {
            capability(hello).resource_type.as_mut().unwrap().traits = vec![1, 1];
        }),
        (format!("{TYPE}.traits[0]"), |hello| {
            capability(hello).resource_type.as_mut().unwrap().traits = vec![77];
        }),
        (format!("{TYPE}.annotations[0].type_url"), |hello| {
            capability(hello)
                .resource_type
                .as_mut()
                .unwrap()
                .annotations = vec![Any {
                type_url: "type.googleapis.com/c1.connector.v2.ETag".into(),
                value: Vec::new(),
            }];
        }),
        ("annotations".into(), |hello| {
            hello.annotations = vec![proto::pack(&v2::RequestId::default()); 17];
        }),
        ("annotations[0].type_url".into(), |hello| {
            hello.annotations = vec![Any {
                type_url: "type.googleapis.com/c1.connector.v2.Imagined".into(),
                value: Vec::new(),
            }];
        }),
        ("annotations[0].type_url".into(), |hello| {
            hello.annotations = vec![Any {
                type_url: "https://example.com/c1.connector.v2.RawId".into(),
                value: Vec::new(),
            }];
        }),
    ];
    let sim = quick().await;
    let mut client = Client::greeted(&sim).await;
    for (field, spoil) in table {
        let mut message = good_hello();
        spoil(&mut message);
        let status = client.hello(message).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}");
        let last = sim.breaches().pop().unwrap();
        assert_eq!((last.rpc, &last.field), (Rpc::Hello, &field), "{last}");
    }
}

#[tokio::test]
async fn the_rules_of_polling_are_applied() {
    let sim = ConductorOneSim::start(Config {
        next_poll: Some(Duration::from_secs(30)),
        ..Config::default()
    })
    .await
    .unwrap();
    let mut client = Client {
        grpc: BatonServiceClient::new(channel(&sim).await),
        token: token(&sim).await,
    };
    let caught = |sim: &ConductorOneSim| sim.breaches().pop().unwrap().to_string();
    client.next().await.unwrap_err();
    assert!(caught(&sim).contains("came before any Hello"));
    client.hello(good_hello()).await.unwrap();
    client.next().await.unwrap();
    client.next().await.unwrap_err();
    assert!(caught(&sim).contains("next_poll"));
    for (page_size, known) in [(0, ""), (101, ""), (1, "no-task-id")] {
        let request = client.request(BatonServiceGetTasksRequest {
            host_id: host(),
            page_size,
            known_task_ids: vec![known.to_owned(); usize::from(!known.is_empty())],
            annotations: Vec::new(),
        });
        let status = client.grpc.get_tasks(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let fields: Vec<String> = sim
        .breaches()
        .iter()
        .rev()
        .map(|breach| breach.field.clone())
        .take(3)
        .collect();
    assert_eq!(fields, ["known_task_ids[0]", "page_size", "page_size"]);
    let request = client.request(StartDebuggingRequest {});
    client.grpc.start_debugging(request).await.unwrap_err();
    assert_eq!(sim.breaches().pop().unwrap().rpc, Rpc::StartDebugging);
}

#[tokio::test]
async fn a_heartbeat_names_a_running_task() {
    let (sim, mut client, id) = syncing().await;
    let unknown = "0".repeat(27);
    let queued = sim.enqueue(hello());
    for (id, problem) in [
        ("short", "must be 27 letters and digits"),
        (unknown.as_str(), "does not exist"),
        (queued.as_str(), "was not handed out"),
    ] {
        client.heartbeat(id).await.unwrap_err();
        assert!(
            sim.breaches().pop().unwrap().problem.contains(problem),
            "{problem}"
        );
    }
    let request = client.request(BatonServiceHeartbeatRequest {
        host_id: host(),
        task_id: id.clone(),
        annotations: Vec::new(),
        task_ids: vec![id; 101],
    });
    client.grpc.heartbeat(request).await.unwrap_err();
    assert_eq!(sim.breaches().pop().unwrap().field, "task_ids");
}

type SpoilFinish = fn(&mut BatonServiceFinishTaskRequest);

#[tokio::test]
async fn every_broken_rule_of_finish_is_caught() {
    let table: Vec<(&str, SpoilFinish)> = vec![
        ("host_id", |finish| finish.host_id.clear()),
        ("task_id", |finish| finish.task_id = "0".repeat(26)),
        ("task_id", |finish| finish.task_id = "0".repeat(27)),
        ("final_state", |finish| finish.final_state = None),
        ("status", |finish| finish.status = None),
        ("status", |finish| {
            finish.final_state = Some(FinalState::Success(Success::default()));
        }),
        ("status.code", |finish| {
            finish.status.as_mut().unwrap().code = 0;
        }),
        ("status.code", |finish| {
            finish.status.as_mut().unwrap().code = 17;
        }),
        ("status.message", |finish| {
            finish.status.as_mut().unwrap().message.clear();
        }),
        ("status.details[0].type_url", |finish| {
            finish.status.as_mut().unwrap().details = vec![Any::default()];
        }),
        ("error.annotations", |finish| {
            finish.final_state = Some(FinalState::Error(FinishError {
                annotations: vec![proto::pack(&v2::RequestId::default()); 17],
                ..Default::default()
            }));
        }),
        ("error.response", |finish| {
            finish.final_state = Some(FinalState::Error(FinishError {
                response: Some(proto::pack(&v2::InvokeActionResponse::default())),
                ..Default::default()
            }));
        }),
        ("success.response", |finish| {
            *finish = success(
                &finish.task_id,
                Some(proto::pack(&v2::GrantManagerServiceGrantResponse::default())),
            );
        }),
        ("success", |finish| *finish = success(&finish.task_id, None)),
    ];
    let (sim, mut client, id) = syncing().await;
    for (field, spoil) in table {
        let mut message = failure(&id);
        spoil(&mut message);
        let status = client.finish(message).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}");
        assert_eq!(sim.breaches().pop().unwrap().field, field);
    }
    client.finish(failure(&id)).await.unwrap();
    client.finish(failure(&id)).await.unwrap_err();
    assert!(
        sim.breaches()
            .pop()
            .unwrap()
            .problem
            .contains("is finished")
    );
}

#[tokio::test]
async fn a_response_must_be_of_the_type_of_the_task() {
    let grant = TaskType::Grant(baton::task::GrantTask::default());
    let revoke = TaskType::Revoke(baton::task::RevokeTask::default());
    let schemas = TaskType::ActionListSchemas(baton::task::ActionListSchemasTask::default());
    let right = [
        (
            grant.clone(),
            proto::pack(&v2::GrantManagerServiceGrantResponse::default()),
        ),
        (
            revoke.clone(),
            proto::pack(&v2::GrantManagerServiceRevokeResponse::default()),
        ),
        (
            schemas,
            proto::pack(&v2::ListActionSchemasResponse::default()),
        ),
    ];
    let sim = quick().await;
    let mut client = Client::greeted(&sim).await;
    let mut take = async |task_type: TaskType| {
        let id = sim.enqueue(baton::Task {
            task_type: Some(task_type),
            ..Default::default()
        });
        client.next().await.unwrap().unwrap();
        (
            id,
            Client {
                grpc: client.grpc.clone(),
                token: client.token.clone(),
            },
        )
    };
    for (task_type, response) in right {
        let (id, mut client) = take(task_type).await;
        client.finish(success(&id, Some(response))).await.unwrap();
    }
    sim.assert_clean();
    let mut unknown = proto::pack(&v2::GrantManagerServiceGrantResponse::default());
    unknown.type_url = unknown
        .type_url
        .replace("type.googleapis.com", "example.com");
    let broken_inside = proto::pack(&v2::GrantManagerServiceGrantResponse {
        grants: vec![v2::Grant::default()],
        ..Default::default()
    });
    for (task_type, response, field) in [
        (grant.clone(), None, "success.response"),
        (grant.clone(), Some(unknown), "success.response.type_url"),
        (
            grant,
            Some(broken_inside),
            "success.response.grants[0].entitlement",
        ),
        (
            revoke,
            Some(proto::pack(&v2::GrantManagerServiceGrantResponse::default())),
            "success.response.type_url",
        ),
        (
            TaskType::EventFeed(baton::task::EventFeedTask::default()),
            None,
            "success",
        ),
    ] {
        let (id, mut client) = take(task_type).await;
        let before = sim.breaches().len();
        client.finish(success(&id, response)).await.unwrap_err();
        let fields: Vec<String> = sim.breaches()[before..]
            .iter()
            .map(|breach| breach.field.clone())
            .collect();
        assert!(
            fields.iter().any(|broken| broken == field),
            "{field}: {fields:?}"
        );
    }
}

#[tokio::test]
#[should_panic(expected = "nobody looked at broken rules of the protocol: Hello: host_id is empty")]
async fn a_breach_that_nobody_looks_at_fails_the_test() {
    let sim = quick().await;
    let mut client = Client::greeted(&sim).await;
    let mut message = good_hello();
    message.host_id.clear();
    client.hello(message).await.unwrap_err();
}

// Uploads.

#[tokio::test]
async fn a_whole_upload_is_verified_opened_and_counted() {
    let (sim, mut client, id) = syncing().await;
    let folder = tempfile::tempdir().unwrap();
    let file = c1z(folder.path(), "");
    client.upload(whole(&id, &file)).await.unwrap();
    client.finish(success(&id, None)).await.unwrap();
    let upload = sim.wait_for_upload(&id, PATIENCE).await.unwrap();
    assert_eq!(upload.bytes, file.len() as u64);
    assert_eq!(upload.chunks, file.len().div_ceil(1000) as u64);
    assert_eq!(std::fs::read(&upload.path).unwrap(), file);
    let summary = upload.summary.unwrap();
    assert_eq!(summary.sync_id, SYNC);
    assert_eq!(summary.sync_type, "full");
    assert_eq!(summary.rows["v1_resources"], 2);
    assert_eq!(summary.grants, BTreeMap::from([("group".to_owned(), 1)]));
    assert!(
        summary
            .indexes
            .contains("idx_grants_sync_needs_expansion_v1")
    );
    let finish = sim.wait_for_finish(&id, PATIENCE).await.unwrap();
    assert!(finish.is_success());
    assert!(sim.heartbeats()[0].moment < upload.moment && upload.moment < finish.moment);
    assert_eq!(sim.task(&id).unwrap().stage, Stage::Finished);
    sim.assert_clean();
}

#[tokio::test]
async fn an_upload_in_the_wrong_shape_is_caught() {
    let (sim, mut client, id) = syncing().await;
    let other = sim.enqueue(hello());
    client.next().await.unwrap().unwrap();
    let text = b"not empty";
    let long = vec![0; 1024 * 1024 + 1];
    let table = [
        ("msg", vec![]),
        ("msg", vec![data(text), eof(text)]),
        ("msg", vec![metadata(&id), metadata(&id)]),
        ("msg", vec![metadata(&id), data(text)]),
        ("msg", vec![metadata(&id), eof(b"")]),
        (
            "msg",
            vec![metadata(&id), data(text), eof(text), data(text)],
        ),
        ("metadata.task_id", vec![metadata("short")]),
        ("metadata.task_id", vec![metadata(&"0".repeat(27))]),
        (
            "metadata.task_id",
            vec![metadata(&other), data(text), eof(text)],
        ),
        ("data.data", vec![metadata(&id), data(b"")]),
        ("data.data", vec![metadata(&id), data(&long), eof(&long)]),
        (
            "eof.sha256_checksum",
            vec![metadata(&id), data(text), eof(b"other")],
        ),
        (
            "eof.sha256_checksum",
            vec![
                metadata(&id),
                data(text),
                Msg::Eof(UploadEof {
                    sha256_checksum: vec![0; 31],
                    annotations: Vec::new(),
                }),
            ],
        ),
        ("content", vec![metadata(&id), data(text), eof(text)]),
    ];
    for (field, messages) in table {
        let count = messages.len();
        let status = client.upload(messages).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field} of {count}");
        let last = sim.breaches().pop().unwrap();
        assert_eq!(
            (last.rpc, last.field.as_str()),
            (Rpc::UploadAsset, field),
            "{last}"
        );
    }
    assert!(sim.uploads().is_empty());
}

#[tokio::test]
async fn an_upload_that_is_given_up_is_no_breach() {
    let (sim, mut client, id) = syncing().await;
    let messages = [metadata(&id), data(b"a part")];
    for said in 0..=messages.len() {
        client.give_an_upload_up(&messages[..said]).await;
    }
    let folder = tempfile::tempdir().unwrap();
    client
        .upload(whole(&id, &c1z(folder.path(), "")))
        .await
        .unwrap();
    assert_eq!(sim.uploads().len(), 1);
    sim.assert_clean();
}

#[tokio::test]
async fn an_upload_that_is_given_up_may_cross_the_end_of_its_task_and_no_other_may() {
    let (sim, mut client, id) = syncing().await;
    client.finish(failure(&id)).await.unwrap();
    client
        .give_an_upload_up(&[metadata(&id), data(b"a part")])
        .await;
    sim.assert_clean();
    let folder = tempfile::tempdir().unwrap();
    let whole = whole(&id, &c1z(folder.path(), ""));
    client.upload(whole).await.unwrap_err();
    let last = sim.breaches().pop().unwrap();
    assert_eq!(last.field, "metadata.task_id");
    assert!(last.problem.contains("is finished"), "{last}");
    assert!(sim.uploads().is_empty());
}

#[tokio::test]
async fn a_full_sync_that_sent_no_heartbeat_may_not_upload() {
    let sim = quick().await;
    let id = sim.enqueue(full_sync(baton::task::SyncFullTask::default()));
    let mut client = Client::greeted(&sim).await;
    client.next().await.unwrap().unwrap();
    client.upload(whole(&id, b"x")).await.unwrap_err();
    assert!(sim.breaches()[0].problem.contains("no heartbeat"));
}

#[tokio::test]
async fn what_is_wrong_inside_a_file_is_named() {
    let (sim, mut client, id) = syncing().await;
    let folder = tempfile::tempdir().unwrap();
    let good = c1z(folder.path(), "");
    let mut tail = good.clone();
    tail.push(0);
    let mut cut = good.clone();
    cut.truncate(good.len() - 10);
    let mut files: Vec<(&str, Vec<u8>)> = vec![
        ("magic bytes", good[5..].to_vec()),
        ("something behind the zstd frame", tail),
        ("not a whole zstd frame", cut),
        ("not a SQLite database", pack(&[7; 8192])),
    ];
    let mut plain = b"C1ZF\0".to_vec();
    plain.extend(zstd::bulk::compress(&[0; 4096], 3).unwrap());
    files.push(("must carry a checksum", plain));
    let mut streamed = b"C1ZF\0".to_vec();
    let mut encoder = zstd::stream::write::Encoder::new(&mut streamed, 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(&[0; 4096]).unwrap();
    encoder.finish().unwrap();
    files.push(("must declare the size", streamed));
    for (problem, change) in [
        ("the table v1_assets is missing", "DROP TABLE v1_assets"),
        ("v1_assets has the columns", "ALTER TABLE v1_assets ADD COLUMN extra text"),
        (
            "must be unique",
            "DROP INDEX idx_assets_external_sync_v1;
             CREATE INDEX idx_assets_external_sync_v1 ON v1_assets (external_id, sync_id)",
        ),
        (
            "idx_resources_external_sync_v1 has the columns",
            "DROP INDEX idx_resources_external_sync_v1;
             CREATE INDEX idx_resources_external_sync_v1 ON v1_resources (external_id)",
        ),
        (
            "must have the condition",
            "DROP INDEX idx_grants_sync_expansion_v1;
             CREATE INDEX idx_grants_sync_expansion_v1 ON v1_grants (sync_id)",
        ),
        ("the pragma user_version is 3", "PRAGMA user_version = 3"),
        ("discovered_at", "UPDATE v1_grants SET discovered_at = '2026-01-01T10:00:00Z'"),
        ("started_at is not", "UPDATE v1_sync_runs SET started_at = 'yesterday'"),
        ("ended before it began", "UPDATE v1_sync_runs SET started_at = '2026-01-02 10:00:00'"),
        ("sync token", "UPDATE v1_sync_runs SET sync_token = ''"),
        ("no parent", "UPDATE v1_sync_runs SET parent_sync_id = 'x'"),
        ("supports_diff", "UPDATE v1_sync_runs SET supports_diff = 0"),
        ("count 0 resource_types", "UPDATE v1_sync_runs SET stats = '{}'"),
        (
            "count 7 grants",
            "UPDATE v1_sync_runs SET stats = '{\"resource_types\":2,\"resources\":2,\"entitlements\":1,
             \"resources_by_resource_type\":{\"user\":1,\"group\":1},
             \"entitlements_by_resource_type\":{\"group\":1},\"grants\":7}'",
        ),
        (
            "the task asked for full",
            "UPDATE v1_sync_runs SET sync_type = 'resources_only', supports_diff = 0",
        ),
        (
            "the index idx_grants_sync_expansion_v1 is missing",
            "DROP INDEX idx_grants_sync_expansion_v1",
        ),
        ("holds 0 syncs", "DELETE FROM v1_sync_runs"),
        ("is not finished", "UPDATE v1_sync_runs SET ended_at = NULL"),
        ("grants_backfilled", "UPDATE v1_sync_runs SET grants_backfilled = 0"),
        ("the columns are not the id", "UPDATE v1_resources SET external_id = 'user:9' WHERE external_id = 'user:1'"),
        ("its principal is not in the file", "DELETE FROM v1_resources WHERE external_id = 'user:1'"),
        ("its entitlement is not in the file", "DELETE FROM v1_entitlements"),
        ("its resource type is not in the file", "DELETE FROM v1_resource_types"),
        ("needs_expansion is set", "UPDATE v1_grants SET needs_expansion = 1"),
        ("expansion does not decode", "UPDATE v1_grants SET expansion = x'ff', needs_expansion = 1"),
        ("v1_grants row 1 does not decode", "UPDATE v1_grants SET data = x'ff'"),
        (
            "are not unique",
            "INSERT INTO v1_grants SELECT 2, resource_type_id, resource_id, entitlement_id,
                principal_resource_type_id, principal_resource_id, 'twin', expansion, needs_expansion, data,
                sync_id, discovered_at FROM v1_grants",
        ),
        ("belong to a sync", "UPDATE v1_grants SET sync_id = 'other'"),
    ] {
        files.push((problem, c1z(folder.path(), change)));
    }
    for (problem, file) in files {
        client.upload(whole(&id, &file)).await.unwrap_err();
        let last = sim.breaches().pop().unwrap();
        assert_eq!(last.field, "content");
        assert!(last.problem.contains(problem), "{problem}: {last}");
    }
    client.upload(whole(&id, &good)).await.unwrap();
}

#[tokio::test]
async fn a_file_must_be_what_its_task_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = c1z(folder.path(), "");
    let user = baton::task::SyncFullTask {
        sync_resource_type_ids: vec!["user".to_owned()],
        ..Default::default()
    };
    let targeted = baton::task::SyncFullTask {
        targeted_sync_resources: vec![resource("user", "1")],
        ..Default::default()
    };
    let no_grants = baton::task::SyncFullTask {
        skip_grants: true,
        ..Default::default()
    };
    for (options, problem) in [
        (user, "resources of type group"),
        (targeted, "asked for partial"),
        (no_grants, "holds grants"),
    ] {
        let sim = quick().await;
        let id = sim.enqueue(full_sync(options));
        let mut client = Client::greeted(&sim).await;
        client.next().await.unwrap().unwrap();
        client.heartbeat(&id).await.unwrap();
        client.upload(whole(&id, &file)).await.unwrap_err();
        let last = sim.breaches().pop().unwrap();
        assert!(last.problem.contains(problem), "{last}");
    }
}

#[tokio::test]
async fn a_debug_log_may_follow_the_file_of_a_task_with_debug() {
    let sim = quick().await;
    let mut task = full_sync(baton::task::SyncFullTask::default());
    task.debug = true;
    let id = sim.enqueue(task);
    let mut client = Client::greeted(&sim).await;
    client.next().await.unwrap().unwrap();
    client.heartbeat(&id).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    client
        .upload(whole(&id, &c1z(folder.path(), "")))
        .await
        .unwrap();
    client
        .upload(whole(&id, b"{\"level\":\"debug\"}"))
        .await
        .unwrap();
    assert!(sim.uploads()[1].summary.is_none());
    sim.assert_clean();
}

#[tokio::test]
async fn what_connector_and_engine_write_passes_the_inspection() {
    let directory = JumpCloudSim::start(jumpcloud::Config::of(jumpcloud::Shape {
        users: 40,
        groups: 6,
        members_per_group: 10,
        apps: 4,
        ..jumpcloud::Shape::default()
    }))
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let url: url::Url = directory.base_url.parse().unwrap();
    let client = client::Client::try_new(client::Settings {
        console_url: url.clone(),
        insights_url: url,
        auth: client::Auth::ApiKey(jumpcloud::FULL_KEY.to_owned().into()),
        org_id: None,
        timeout: PATIENCE,
        extra_ca_pem: None,
        max_concurrency: 4,
        rotation_wait: Duration::ZERO,
    })
    .unwrap();
    let settings = connector::Settings {
        merge_administrators: false,
        work_dir: folder.path().to_owned(),
        optional: Vec::new(),
        allowed: connector::Allowed::default(),
    };
    let connector = connector::JumpCloud::new(client, settings);
    let path = folder.path().join("sync.c1z");
    let environment = syncer::Environment {
        work_dir: folder.path(),
        clock: &SystemClock,
        progress: &syncer::NoProgress,
        cancel: &tokio_util::sync::CancellationToken::new(),
        keep: false,
    };
    let request = syncer::SyncRequest::default();
    syncer::sync_to_file(&connector, &request, environment, &path)
        .await
        .unwrap();

    let (sim, mut client, id) = syncing().await;
    client
        .upload(whole(&id, &std::fs::read(&path).unwrap()))
        .await
        .unwrap();
    let summary = sim.uploads().remove(0).summary.unwrap();
    let truth = directory.truth();
    let row = |count: usize| Some(count as u64);
    let found = |kind: &str| summary.resources.get(kind).copied();
    assert_eq!(found("user"), row(truth.users.len() + truth.admins.len()));
    assert_eq!(found("group"), row(truth.groups.len()));
    assert_eq!(found("app"), row(truth.apps.len() + 1));
    let members: usize = truth.groups.values().map(|group| group.members.len()).sum();
    assert_eq!(summary.grants.get("group").copied(), row(members));
    sim.assert_clean();
}

// Tasks.

#[tokio::test]
async fn a_hello_task_is_answered_by_hello() {
    let sim = quick().await;
    let id = sim.enqueue(hello());
    let mut client = Client::greeted(&sim).await;
    client.next().await.unwrap().unwrap();
    let mut message = good_hello();
    message.task_id.clone_from(&id);
    client.hello(message).await.unwrap();
    assert_eq!(sim.task(&id).unwrap().stage, Stage::Finished);
    assert_eq!(
        sim.wait_for_hellos(2, PATIENCE)
            .await
            .unwrap()
            .request
            .task_id,
        id
    );
    sim.assert_clean();
}

#[tokio::test]
async fn a_hello_must_not_name_another_kind_of_task() {
    let (sim, mut client, id) = syncing().await;
    let mut message = good_hello();
    message.task_id = id;
    client.hello(message).await.unwrap_err();
    assert!(sim.breaches()[0].problem.contains("not a hello"));
}

#[tokio::test]
async fn a_task_whose_lease_ends_is_handed_out_again_and_may_be_finished_twice() {
    let sim = ConductorOneSim::start(Config {
        next_poll: None,
        lease: Duration::ZERO,
        ..Config::default()
    })
    .await
    .unwrap();
    let id = sim.enqueue(full_sync(baton::task::SyncFullTask::default()));
    let mut client = Client::greeted(&sim).await;
    assert_eq!(client.next().await.unwrap().unwrap().id, id);
    assert_eq!(client.next().await.unwrap().unwrap().id, id);
    assert_eq!(
        sim.wait_for_delivery(&id, 2, PATIENCE)
            .await
            .unwrap()
            .deliveries,
        2
    );
    client.finish(failure(&id)).await.unwrap();
    // Whoever works on the second delivery goes on.
    let folder = tempfile::tempdir().unwrap();
    let file = whole(&id, &c1z(folder.path(), ""));
    client.heartbeat(&id).await.unwrap();
    client.upload(file.clone()).await.unwrap();
    client.finish(success(&id, None)).await.unwrap();
    sim.assert_clean();
    client.upload(file).await.unwrap_err();
    assert!(sim.breaches().pop().unwrap().problem.contains("finished"));
    client.finish(failure(&id)).await.unwrap_err();
    assert_eq!(sim.breaches().len(), 2);
}

#[tokio::test]
async fn an_end_whose_answer_an_outage_cut_off_may_be_reported_again() {
    let (sim, mut client, id) = syncing().await;
    client.finish(failure(&id)).await.unwrap();
    sim.outage_for(Duration::from_millis(50));
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.grpc = BatonServiceClient::new(channel(&sim).await);
    client.finish(failure(&id)).await.unwrap();
    let repeated: Vec<bool> = sim.finishes().iter().map(|end| end.repeated).collect();
    assert_eq!(repeated, [false, true]);
    sim.assert_clean();
    client.finish(failure(&id)).await.unwrap_err();
    assert_eq!(sim.breaches().len(), 1);
}

#[tokio::test]
async fn get_tasks_leaves_out_what_the_client_knows() {
    let sim = ConductorOneSim::start(Config {
        next_poll: None,
        lease: Duration::ZERO,
        ..Config::default()
    })
    .await
    .unwrap();
    let ids: Vec<String> = (0..3).map(|_| sim.enqueue(hello())).collect();
    let mut client = Client::greeted(&sim).await;
    let mut ask = async |page_size, known: &[String]| {
        let request = client.request(BatonServiceGetTasksRequest {
            host_id: host(),
            page_size,
            known_task_ids: known.to_vec(),
            annotations: Vec::new(),
        });
        let answer = client.grpc.get_tasks(request).await.unwrap().into_inner();
        answer
            .tasks
            .into_iter()
            .map(|task| task.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(ask(2, &[]).await, ids[..2]);
    assert_eq!(ask(100, &ids[..2]).await, ids[2..]);
    assert_eq!(ask(100, &ids).await, Vec::<String>::new());
    assert_eq!(ask(100, &ids[1..]).await, ids[..1]);
    assert!(sim.polls().iter().all(|poll| poll.batch));
    sim.assert_clean();
}

#[tokio::test]
async fn a_cancelled_task_is_told_by_its_heartbeat() {
    let (sim, mut client, id) = syncing().await;
    assert!(sim.cancel(&id));
    assert!(!sim.cancel("nothing"));
    assert!(client.heartbeat(&id).await.unwrap());
    let heartbeat = sim.wait_for_heartbeats(&id, 2, PATIENCE).await.unwrap();
    assert!(heartbeat.cancelled);
    client.finish(failure(&id)).await.unwrap();
    assert!(
        client.heartbeat(&id).await.unwrap(),
        "one that was under way is no breach"
    );
    sim.assert_clean();
}

// Faults.

#[tokio::test]
async fn a_call_can_be_failed_and_delayed() {
    let sim = quick().await;
    let mut client = Client::greeted(&sim).await;
    sim.fail_next(Rpc::GetTask, Code::Unauthenticated);
    sim.fail_next(Rpc::GetTask, Code::Internal);
    assert_eq!(
        client.next().await.unwrap_err().code(),
        Code::Unauthenticated
    );
    assert_eq!(client.next().await.unwrap_err().code(), Code::Internal);
    client.next().await.unwrap();
    sim.wait_for_calls(Rpc::GetTask, 3, PATIENCE).await.unwrap();
    sim.delay(Rpc::GetTask, Duration::from_hours(1));
    let mut request = client.request(BatonServiceGetTaskRequest { host_id: host() });
    request.set_timeout(Duration::from_millis(100));
    client.grpc.get_task(request).await.unwrap_err();
    sim.delay(Rpc::GetTask, Duration::ZERO);
    client.next().await.unwrap();
    sim.assert_clean();
}

#[tokio::test]
async fn an_outage_refuses_connections_and_ends_on_the_same_port() {
    let sim = quick().await;
    let mut client = Client::greeted(&sim).await;
    sim.begin_outage();
    while client.next().await.is_ok() {}
    while tokio::net::TcpStream::connect(sim.address()).await.is_ok() {}
    assert!(client.next().await.is_err());
    sim.end_outage();
    let mut again = loop {
        if tokio::net::TcpStream::connect(sim.address()).await.is_ok() {
            break Client::greeted(&sim).await;
        }
    };
    again.next().await.unwrap();
    client.next().await.unwrap();
    sim.outage_for(Duration::from_millis(50));
    while client.next().await.is_ok() {}
    while client.next().await.is_err() {}
    sim.assert_clean();
}

#[tokio::test]
async fn goaway_lets_the_client_connect_again() {
    let sim = quick().await;
    let mut client = Client::greeted(&sim).await;
    sim.goaway();
    while client.next().await.is_err() {}
    sim.assert_clean();
}

#[tokio::test]
async fn an_upload_can_be_broken_in_three_ways_and_refused_once() {
    let (sim, mut client, id) = syncing().await;
    let folder = tempfile::tempdir().unwrap();
    let file = c1z(folder.path(), "");
    for how in [Break::Stream, Break::Connection, Break::GoAway] {
        sim.break_next_upload(1000, how);
        client.upload(whole(&id, &file)).await.unwrap_err();
    }
    sim.refuse_next_checksum();
    let refused = loop {
        match client.upload(whole(&id, &file)).await {
            Err(status) if status.code() == Code::DataLoss => break status,
            Err(_connection_is_gone) => {}
            Ok(()) => panic!("the checksum was not refused"),
        }
    };
    assert!(refused.message().contains("checksum"));
    client.upload(whole(&id, &file)).await.unwrap();
    let kept: Vec<PathBuf> = sim
        .uploads()
        .into_iter()
        .map(|upload| upload.path)
        .collect();
    assert_eq!(kept.len(), 1);
    let beside: Vec<_> = std::fs::read_dir(kept[0].parent().unwrap())
        .unwrap()
        .collect();
    assert_eq!(beside.len(), 1, "nothing is left of what was broken off");
    sim.assert_clean();
}

#[tokio::test]
async fn a_lost_finish_answer_allows_one_repeat() {
    let (sim, mut client, id) = syncing().await;
    sim.lose_next_finish_answer();
    assert_eq!(
        client.finish(failure(&id)).await.unwrap_err().code(),
        Code::Unavailable
    );
    client.finish(failure(&id)).await.unwrap();
    sim.assert_clean();
    let repeated: Vec<bool> = sim
        .finishes()
        .iter()
        .map(|finish| finish.repeated)
        .collect();
    assert_eq!(repeated, [false, true]);
    client.finish(failure(&id)).await.unwrap_err();
    assert_eq!(sim.breaches().len(), 1);
}

#[tokio::test]
async fn waiting_in_vain_says_for_what() {
    let sim = quick().await;
    let error = sim.wait_for_hello(Duration::ZERO).await.unwrap_err();
    assert!(error.to_string().contains("for a Hello in vain"));
}

// Scripts and the admin port.

#[tokio::test]
async fn a_script_runs_its_steps_against_the_simulator() {
    let script = Script::parse(
        "
        - wait-for-hello: 10s
        - task: { name: first, kind: sync_full, options: { skip_grants: true, targeted_sync_resources: [user/1] } }
        - wait-for-delivery: { task: first, within: 10s }
        - cancel: first
        - wait-for-finish: { task: first, within: 10s, expect: retryable }
        - reject-secret: true
        - revoke-tokens
        - assert-clean
        ",
    )
    .unwrap();
    let sim = quick().await;
    let control: Control = sim.control();
    let work = async {
        let mut client = Client::greeted(&sim).await;
        let task = loop {
            if let Some(task) = client.next().await.unwrap() {
                break task;
            }
        };
        let Some(TaskType::SyncFull(options)) = &task.task_type else {
            panic!("another type of task was queued");
        };
        assert!(options.skip_grants);
        assert_eq!(options.targeted_sync_resources.len(), 1);
        client.finish(failure(&task.id)).await.unwrap();
        client
    };
    let (mut client, script) = tokio::join!(work, script.run(&control));
    script.unwrap();
    assert_eq!(
        client.next().await.unwrap_err().code(),
        Code::Unauthenticated
    );
    assert_eq!(post_form(&sim, token_form(&sim)).await.0, 401);
    sim.assert_clean();
}

#[tokio::test]
async fn a_script_that_cannot_be_read_or_fails_says_where() {
    assert!(Script::parse("- pause: soon").is_err());
    assert!(Script::parse("- explode").is_err());
    let sim = quick().await;
    let script = Script::parse("[{\"pause\": \"0s\"}, {\"cancel\": \"nothing\"}]").unwrap();
    let error = script.run(&sim.control()).await.unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "step 2 of the script failed: there is no task \"nothing\" to cancel"
    );
}

#[tokio::test]
async fn the_admin_port_takes_tasks_and_steps_and_tells_the_state() {
    let mut sim = quick().await;
    let admin = sim
        .start_admin("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let http = http(&sim);
    let post = async |path: &str, body: &str| {
        let answer = http
            .post(format!("http://{admin}/_sim/{path}"))
            .body(body.to_owned())
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap_or(Value::Null))
    };
    let (status, body) = post("tasks", r#"{"kind": "sync_full"}"#).await;
    assert_eq!(status, 201);
    assert_eq!(post("steps", r#"{"reject-secret": true}"#).await.0, 204);
    let (status, error) = post("tasks", r#"{"kind": "dance"}"#).await;
    assert_eq!(status, 400);
    assert!(error["error"].as_str().unwrap().contains("dance"));
    let state: Value = http
        .get(format!("http://{admin}/_sim/state"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(state["tasks"][0]["id"], body["id"]);
    assert_eq!(state["tasks"][0]["stage"], "queued");
    assert_eq!(post_form(&sim, token_form(&sim)).await.0, 401);
}

#[tokio::test]
async fn the_program_writes_credentials_runs_its_script_and_fails_with_it() {
    use std::os::unix::fs::PermissionsExt as _;

    #[derive(Debug, clap::Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }
    let folder = tempfile::tempdir().unwrap();
    let credentials = folder.path().join("credentials");
    let script = folder.path().join("script.yaml");
    let run = async |steps: &str| {
        std::fs::write(&script, steps).unwrap();
        let args = Program::try_parse_from([
            "test".as_ref(),
            "--listen=127.0.0.1:0".as_ref(),
            "--credentials-dir".as_ref(),
            credentials.as_os_str(),
            "--script".as_ref(),
            script.as_os_str(),
        ])
        .unwrap()
        .args;
        conductorone::run(args).await
    };
    run("- task: { kind: hello }\n- assert-clean")
        .await
        .unwrap();
    let read = |name: &str| std::fs::read_to_string(credentials.join(name)).unwrap();
    assert!(read("client-id").starts_with("sim-connector@127.0.0.1:"));
    assert!(read("ca.pem").starts_with("-----BEGIN CERTIFICATE-----"));
    let first = read("client-secret");
    drop(key_of(&first));
    let mode = std::fs::metadata(credentials.join("client-secret"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = run("- wait-for-hello: 0s").await.unwrap_err();
    assert!(format!("{error:#}").contains("step 1"), "{error:#}");
    assert_ne!(
        read("client-secret"),
        first,
        "every run has a secret of its own"
    );
}

#[tokio::test]
async fn a_path_that_is_not_served_is_a_breach() {
    let sim = quick().await;
    let answer = http(&sim)
        .get(format!("https://{}/auth/v2/token", sim.address()))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["grpc-status"], "12");
    assert_eq!(
        sim.breaches()[0].to_string(),
        "Other: GET /auth/v2/token is not served"
    );
}

#[tokio::test]
async fn only_loopback_addresses_are_listened_on() {
    let config = Config {
        listen: "0.0.0.0:0".parse().unwrap(),
        ..Config::default()
    };
    let error = ConductorOneSim::start(config).await.unwrap_err();
    assert!(error.to_string().contains("loopback"));
}

// The demonstration, with the real binaries.

async fn demo(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_baton-sim"))
        .arg("demo")
        .args(["--connector", env!("CARGO_BIN_EXE_baton-jumpcloud")])
        .args(["--users", "60", "--groups", "5", "--apps", "3"])
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_mins(1), output)
        .await
        .unwrap()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test]
async fn the_demonstration_passes_and_tells_every_step() {
    let (code, told, failed) = demo(&[]).await;
    assert_eq!(code, Some(0), "{told}\n{failed}");
    let mut rest = told.as_str();
    for step in [
        "client secret and API key read from files",
        "JumpCloud connector, baton-jumpcloud",
        "resource types: app, group, role, user",
        "queued",
        "taken by the daemon",
        "heartbeat",
        "SHA-256 right",
        "success, sync",
        "RESOURCE TYPE",
        "JumpCloud calls (the official connector needs",
        "bytes uploaded",
        "ACCOUNT",
        "administrator",
        "ENTITLEMENT",
        "What ConductorOne asks for next",
        "done: a member in JumpCloud",
        "done: no member any more",
        "account nova.hire with a password of 24 characters",
        "done: user ",
        "opened with the Ed25519 key of ConductorOne: ••••••••",
        "the one that JumpCloud holds",
        "another password for nova.hire",
        "and another one than before",
        "refused: ",
        "SIGTERM     sent",
        "exit code 0",
        "demo passed in",
    ] {
        let at = rest
            .find(step)
            .unwrap_or_else(|| panic!("{step:?} is missing or out of order:\n{told}"));
        rest = &rest[at..];
    }
}

#[tokio::test]
async fn the_demonstration_with_a_refused_secret_fails_with_one_line_of_advice() {
    let (code, told, failed) = demo(&["--reject-secret"]).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.contains("refused: the client secret is revoked"),
        "{told}"
    );
    let lines: Vec<&str> = failed.lines().collect();
    assert_eq!(lines.len(), 1, "{failed}");
    assert!(lines[0].contains("demo failed: "), "{failed}");
    assert!(
        lines[0].contains("client secret") && lines[0].contains("new"),
        "{failed}"
    );
}

#[tokio::test]
async fn the_demonstration_without_a_connector_says_how_to_build_it() {
    let (code, told, failed) = demo(&["--connector", "/nowhere/baton-jumpcloud"]).await;
    assert_ne!(code, Some(0), "{told}");
    assert!(
        failed.contains("demo failed: /nowhere/baton-jumpcloud does not exist; build it"),
        "{failed}"
    );
}
