"""The chart and the program agree: names, defaults, version, image."""

import re
import tomllib

import yaml

import policy
from chartlib import CHART, DEPLOY, ROOT, load, load_all, render
from program import settings, variables

CRATE = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
# Read by libraries and by programs at large, not by the table of settings.
COMMON = {"TMPDIR", "http_proxy", "https_proxy", "no_proxy"}
OPENTELEMETRY = {"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"}
# Settings that the chart has no value for; extraEnv and extraArgs can still give them.
LEFT_OUT = {
    "BATON_JUMPCLOUD_CLIENT_SECRET": "a secret, which comes as a file, or with mode env under this name",
    "BATON_LOG_PATH": "a container logs to standard error",
    "BATON_OTEL_COLLECTOR_ENDPOINT_TLS_CERT": "otlp.ca mounts a file",
    "BATON_OTEL_LOGGING_DISABLED": "logs are not exported",
    "BATON_OTEL_TRACING_DISABLED": "without otlp.endpoint nothing is traced",
    "BATON_PARALLEL_SYNC": "the old way to say workers",
    "BATON_SIMULATE_CRASH_AT": "for tests of the program",
    "BATON_SIMULATE_HASTE": "for tests of the program",
    "BATON_SKIP_GRANTS": "goes with sync-resources only, which is for one-shot runs",
    "BATON_STORAGE_ENGINE": "has one legal value",
}


def named(objects: list[dict]) -> set[str]:
    """The variables that the objects give to the program."""
    names = set()
    for document in policy.of(objects, "ConfigMap") + policy.of(objects, "Secret"):
        names |= {key for key in document.get("data", {}) | document.get("stringData", {}) if key.startswith("BATON_")}
    for container in policy.ours(objects):
        names |= {variable["name"] for variable in container["env"]}
    return names


def test_ci_values_name_only_variables_that_the_program_uses(ci_values):
    names = named(render(ci_values)) - COMMON - OPENTELEMETRY - {"CLUSTER"}
    assert len(names) >= 8
    unknown = names - settings().keys() - variables()
    assert not unknown
    assert not {name for name in names & settings().keys() if not settings()[name].takes_effect}


def test_every_setting_of_the_daemon_has_a_value_or_a_reason():
    given = set().union(*(named(render(load(path))) for path in (CHART / "ci").glob("*-values.yaml")))
    effective = {name for name, setting in settings().items() if setting.takes_effect}
    assert effective - given == LEFT_OUT.keys()


def test_every_setting_of_config_reaches_the_program():
    values = load(CHART / "ci" / "config-values.yaml")
    data = policy.one(render(values), "ConfigMap")["data"]
    schema = load(CHART / "values.schema.json")
    assert values["config"].keys() == schema["properties"]["config"]["properties"].keys(), "the file has every setting"
    assert len(data) == len(values["config"])
    assert data["BATON_SYNC_RESOURCE_TYPES"] == "user,group"
    assert data["BATON_PROVISIONING"] == "dry-run"
    assert data["BATON_C1_API_HOST"] == "conductor.example.com:8443"
    assert all(isinstance(value, str) for value in data.values())


def test_large_numbers_stay_whole():
    values = load(CHART / "ci" / "default-values.yaml") | {"config": {"httpTimeoutSeconds": 1800, "workers": -1}}
    data = policy.one(render(values), "ConfigMap")["data"]
    assert data["BATON_HTTP_TIMEOUT_SECONDS"] == "1800" and data["BATON_WORKERS"] == "-1"


def test_the_defaults_that_values_yaml_tells_are_the_programs():
    lines = (CHART / "values.yaml").read_text().splitlines()
    told = {}
    for number, line in enumerate(lines):
        match = re.match(r"  # @default -- `([^`]*)`", line)
        if match:
            key = re.match(r"  (\w+):", lines[number + 1]).group(1)
            told["BATON_" + re.sub(r"([A-Z])", r"_\1", key).upper()] = match.group(1)
    # What the program decides by itself when nothing is given.
    assert told.pop("BATON_LOG_FORMAT") == "json"
    assert len(told) > 8
    assert {name: settings()[name].default for name in told} == told


def test_the_version_is_the_crates():
    chart = load(CHART / "Chart.yaml")
    assert chart["appVersion"] == chart["version"] == CRATE["version"]
    assert chart["name"] == CRATE["name"]
    images = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    assert [image["image"] for image in images] == [f"baton-jumpcloud:v{CRATE['version']}"]


def test_the_image_has_the_tag_that_make_gives_it(default):
    (name,) = {container["image"] for container in policy.ours(default)}
    assert name == f"baton-jumpcloud:v{CRATE['version']}"
    makefile = (ROOT / "Makefile").read_text()
    assert "-t baton-jumpcloud:v$(VERSION) ." in makefile and "name=$(IMAGE):v$(VERSION)," in makefile


def test_the_user_of_the_image_is_a_number():
    assert re.search(r"^USER \d+:\d+$", (ROOT / "Dockerfile").read_text(), re.M), "runAsNonRoot cannot check a name"


def test_the_probes_ask_paths_that_the_program_has():
    source = "".join(path.read_text() for path in [ROOT / "src" / "admin.rs", *(ROOT / "src" / "admin").glob("*.rs")])
    assert all(f'"{path}"' in source for path in ("/startupz", "/livez", "/readyz"))


def test_the_program_ends_before_the_kubelet_kills_it(default):
    grace = policy.one(default, "ConfigMap")["data"]["BATON_SHUTDOWN_GRACE"]
    limit = policy.one(default, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert re.fullmatch(r"\d+s", grace) and int(grace[:-1]) == limit - 10


def test_the_rights_are_those_that_the_program_asks_for():
    told = re.findall(r"^//! \| \[`(\w+)`\][^|]* \| `([^`]*)` \| `(\w+)` \| ([^|]*) \|", (ROOT / "src" / "kubernetes.rs").read_text(), re.M)
    assert {part for part, *_ in told} == {"secret_watch", "events", "lease"}
    asked = {(group.strip('"'), resource, *re.findall(r"\w+", verbs)) for _, group, resource, verbs in told}
    rules = policy.one(render(load(CHART / "ci" / "kubernetes-values.yaml")), "Role")["rules"]
    assert {(*rule["apiGroups"], *rule["resources"], *rule["verbs"]) for rule in rules} == asked


def test_the_secret_of_the_example_holds_what_the_chart_takes():
    example = load(DEPLOY / "secret.example.yaml")
    keys = load(CHART / "values.yaml")["credentials"]["keys"]
    assert {keys["clientId"], keys["clientSecret"], keys["apiKey"]} <= example["stringData"].keys() <= set(keys.values())
    assert all(isinstance(value, str) for value in example["stringData"].values())
    assert example["metadata"]["name"] == load(DEPLOY / "values.yaml")["credentials"]["existingSecret"]


def test_the_vendors_manifests_fit_the_program():
    secret, deployment = load_all((ROOT / "tests" / "chart" / "fixtures" / "vendor.yaml").read_text())
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    names = secret["stringData"].keys() | policy.environment(container).keys()
    assert names <= settings().keys() | variables()
    assert not {name for name in names & settings().keys() if not settings()[name].takes_effect}
