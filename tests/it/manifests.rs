//! The manifests and the image fit the program.

use std::{collections::BTreeSet, fs, path::Path};

use baton_jumpcloud::config::settings::{SETTINGS, VARIABLES};
use serde_json::Value;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn manifest(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap()
}

fn known_variables() -> BTreeSet<String> {
    SETTINGS
        .iter()
        .map(|setting| setting.variable())
        .chain(
            VARIABLES
                .iter()
                .flat_map(|variable| variable.name.split(", ").map(str::to_owned)),
        )
        .collect()
}

fn container() -> Value {
    manifest("deploy/deployment.yaml")["spec"]["template"]["spec"]["containers"][0].clone()
}

#[test]
fn the_manifests_name_only_variables_that_the_program_knows() {
    let known = known_variables();
    let secret = manifest("deploy/secret.example.yaml");
    let mut named: Vec<String> = secret["stringData"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    for variable in container()["env"].as_array().unwrap() {
        named.push(variable["name"].as_str().unwrap().to_owned());
    }
    assert!(named.len() >= 6, "{named:?}");
    let unknown: Vec<_> = named.iter().filter(|name| !known.contains(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_value_of_the_secret_and_of_the_environment_is_text() {
    let secret = manifest("deploy/secret.example.yaml");
    assert!(
        secret["stringData"]
            .as_object()
            .unwrap()
            .values()
            .all(Value::is_string)
    );
    let container = container();
    let values = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|variable| variable.get("value"));
    assert!(values.clone().count() > 0 && values.clone().all(Value::is_string));
}

#[test]
fn the_probes_ask_paths_that_the_admin_server_has() {
    let container = container();
    let paths: Vec<_> = ["startupProbe", "livenessProbe", "readinessProbe"]
        .iter()
        .map(|probe| {
            container[probe]["httpGet"]["path"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(paths, ["/startupz", "/livez", "/readyz"]);
    assert_eq!(container["ports"][0]["containerPort"], 8081);
}

#[test]
fn the_deployment_takes_the_secret_of_the_example_and_waits_longer_than_the_program() {
    let secret = manifest("deploy/secret.example.yaml");
    assert_eq!(
        container()["envFrom"][0]["secretRef"]["name"],
        secret["metadata"]["name"]
    );
    let grace = SETTINGS
        .iter()
        .find(|setting| setting.name == "shutdown-grace")
        .unwrap();
    let grace = humantime::parse_duration(grace.default.unwrap()).unwrap();
    let deployment = manifest("deploy/deployment.yaml");
    let allowed = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        .as_u64()
        .unwrap();
    assert!(allowed > grace.as_secs());
}

#[test]
fn the_deployment_runs_the_version_of_this_crate_without_privileges() {
    let container = container();
    assert_eq!(
        container["image"],
        format!("baton-jumpcloud:{}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(
        container["securityContext"]["allowPrivilegeEscalation"],
        false
    );
    assert!(read("Dockerfile").contains("USER 65532:65532"));
}
