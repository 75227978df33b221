"""The values: each key is documented, described by the schema, and changes something."""

import json
import re

import helm_python
import jsonschema
import pytest
import yaml

import policy
from chartlib import CHART, CUSTOM_APIS, chart, load, overlay, render, render_texts

VALUES = load(CHART / "values.yaml")
SCHEMA = load(CHART / "values.schema.json")
DEFAULT = load(CHART / "ci" / "default-values.yaml")
CILIUM = {"networkPolicy": {"enabled": True, "flavor": "cilium"}}
ACCOUNT = {"credentials": {"jumpcloudAuth": "serviceAccount"}}

# What else must be set for a key to matter, by the start of its name; the longest fits.
CONTEXT = {
    "credentials.keys.jumpcloud": ACCOUNT,
    "credentials.volume": {"credentials": {"existingSecret": ""}},
    "credentials.create": {
        "credentials": {"existingSecret": "", "values": {"clientId": "a", "clientSecret": "b", "apiKey": "c"}}
    },
    "credentials.values": {
        "credentials": {
            "existingSecret": "",
            "create": True,
            "values": {"clientId": "a", "clientSecret": "b", "apiKey": "c"},
        }
    },
    "config.baseUrl": CILIUM,
    "serviceAccount.create": {"serviceAccount": {"name": "other"}},
    "rbac.create": {"kubernetes": {"events": {"enabled": True}}, "serviceAccount": {"create": False, "name": "other"}},
    "podDisruptionBudget": {"podDisruptionBudget": {"enabled": True}, "replicaCount": 5},
    "networkPolicy": {"networkPolicy": {"enabled": True}},
    "networkPolicy.enabled": {},
    "networkPolicy.apiServerPort": {"networkPolicy": {"enabled": True}, "kubernetes": {"events": {"enabled": True}}},
    "metrics.enabled": {"metrics": {"podMonitor": {"enabled": True}}},
    "metrics.podMonitor": {"metrics": {"podMonitor": {"enabled": True}}},
    "metrics.serviceMonitor": {"metrics": {"serviceMonitor": {"enabled": True}}},
    "metrics.prometheusRule": {"metrics": {"prometheusRule": {"enabled": True}}},
    "metrics.dashboard": {"metrics": {"dashboard": {"enabled": True}}},
    "networkPolicy.renderMode": overlay(CILIUM, {"networkPolicy": {"renderMode": "alwaysRender"}}),
    "metrics.renderMode": {"metrics": {"podMonitor": {"enabled": True}, "renderMode": "alwaysRender"}},
    "metrics.podMonitor.enabled": {},
    "metrics.serviceMonitor.enabled": {},
    "metrics.prometheusRule.enabled": {},
    "metrics.dashboard.enabled": {},
    "podDisruptionBudget.enabled": {},
    "proxy.noProxy": {"proxy": {"httpsProxy": "http://proxy.example.com:3128"}},
    "tls.extraCa.key": {"tls": {"extraCa": {"configMap": "ca"}}},
    "otlp": {"otlp": {"endpoint": "collector.example.com:4317"}},
    "otlp.endpoint": {},
    "otlp.ca.key": {"otlp": {"endpoint": "collector.example.com:4317", "ca": {"configMap": "ca"}}},
    "otlp.headersSecret.key": {"otlp": {"endpoint": "collector.example.com:4317", "headersSecret": {"name": "h"}}},
}
# Values for the keys whose shape does not say what a good one is.
SAMPLE = {
    "image.digest": "sha256:" + "0" * 64,
    "imagePullSecrets": ["other"],
    "global.imagePullSecrets": ["other"],
    "credentials.volume": {"emptyDir": {}},
    "config.orgId": "0" * 24,
    "config.shutdownGrace": "30s",
    "config.credentialsInterval": "30s",
    "config.logLevelDebugExpiresAt": "2030-01-01T00:00:00Z",
    "config.shrinkAcceptUntil": "2030-01-01T00:00:00Z",
    "config.auditLog": "/var/lib/baton-jumpcloud/audit",
    "config.syncResourceTypes": ["user"],
    "config.optionalResourceTypes": ["group"],
    "config.syncResumeMaxAge": "2h",
    "workdir.sizeLimit": "1Gi",
    "serviceAccount.automount": True,
    "strategy": {"type": "Recreate"},
    "podDisruptionBudget.maxUnavailable": 2,
    "podDisruptionBudget.minAvailable": 1,
    "networkPolicy.flavor": "cilium",
    "networkPolicy.renderMode": "skipIfMissing",
    "metrics.renderMode": "skipIfMissing",
    "networkPolicy.ingress": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
    "extraObjects": ["{apiVersion: v1, kind: ConfigMap, metadata: {name: more, namespace: x}}"],
    "extraArgs": ["--provisioning"],
    "otlp.sampleRatio": 0.5,
    "metrics.podMonitor.interval": "1m",
    "metrics.podMonitor.scrapeTimeout": "1m",
    "metrics.serviceMonitor.interval": "1m",
    "metrics.serviceMonitor.scrapeTimeout": "1m",
}


def follow(schema: dict) -> dict:
    return SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema


def leaves(schema: dict, prefix: str = "") -> dict[str, dict]:
    """The keys that the schema knows, down to those whose insides belong to Kubernetes."""
    found = {}
    for name, below in schema["properties"].items():
        below = follow(below)
        path = f"{prefix}{name}"
        found |= leaves(below, f"{path}.") if "properties" in below and path != "strategy" else {path: below}
    return found


def lookup(values: dict, path: str):
    for name in path.split("."):
        values = values[name]
    return values


def nested(path: str, value) -> dict:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def sample(path: str, schema: dict):
    """Another value than the default, of the right shape."""
    if path in SAMPLE:
        return SAMPLE[path]
    default = lookup(VALUES, path)
    if "enum" in schema:
        return next(value for value in schema["enum"] if value not in (default, None))
    kinds = schema.get("type", "string")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    if "boolean" in kinds:
        return not default
    if kinds & {"integer", "number"}:
        return schema["minimum"] + 1 if default is None else default + 1
    if "array" in kinds:
        return [{"name": "other"}]
    if "object" in kinds:
        return {"other": "value"}
    return "https://other.example.com" if re.search("url|proxy$", path, re.I) else "other"


LEAVES = leaves(SCHEMA)


@pytest.mark.parametrize("path", LEAVES)
def test_key_changes_something(path):
    context = max((start for start in CONTEXT if path.startswith(start)), key=len, default=None)
    base = overlay(DEFAULT, CONTEXT.get(context, {}))
    after = overlay(base, nested(path, sample(path, LEAVES[path])))
    # A source of credentials takes the place of another one.
    before = DEFAULT if path in ("credentials.create", "credentials.volume") else base
    apis = () if path.endswith("renderMode") else CUSTOM_APIS
    assert render_texts(before, apis=apis) != render_texts(after, apis=apis)


def documented() -> dict[str, str]:
    """The keys of values.yaml that have a text, by helm-docs' rule: `# --` above the key."""
    found, above, text = {}, [], None
    for line in (CHART / "values.yaml").read_text().splitlines():
        key = re.match(r"( *)([A-Za-z]\w*):", line)
        if re.match(r" *# -- ", line):
            text = line
        elif key:
            depth = len(key.group(1)) // 2
            above = above[:depth] + [key.group(2)]
            if text:
                found[".".join(above)] = text
                text = None
    return found


def test_schema_and_values_have_the_same_keys_and_each_has_a_text():
    assert documented().keys() == LEAVES.keys()
    for path in LEAVES:
        lookup(VALUES, path)


def test_the_readme_has_every_key():
    table = (CHART / "README.md").read_text().split("## Values", 1)[1]
    rows = re.findall(r"^\| ([A-Za-z][\w.]*) \| ", table, re.M)[1:]
    assert rows == list(documented())


def test_the_schema_is_one_and_takes_the_defaults():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(VALUES)


def closed(schema, path="values"):
    """Every object of our own refuses keys that it does not know."""
    if isinstance(schema, list):
        return all(closed(below, path) for below in schema)
    if not isinstance(schema, dict):
        return True
    if "properties" in schema and path != "global":
        names = [schema["properties"].get("name")]
        assert schema.get("additionalProperties") is False or names == [{"type": "string"}], path
    return all(closed(below, name) for name, below in schema.items())


def test_unknown_keys_are_refused_everywhere_but_in_global():
    assert closed({name: below for name, below in SCHEMA.items() if name != "properties"} | SCHEMA["properties"])
    for values in ({"replicas": 2}, {"image": {"name": "x"}}, {"config": {"provision": True}}):
        with pytest.raises(helm_python.HelmError, match="additional properties"):
            render_texts(overlay(DEFAULT, values))
    render_texts(overlay(DEFAULT, {"global": {"anything": {"goes": 1}}}))


@pytest.mark.parametrize(
    "values",
    [
        {"replicaCount": "three"},
        {"config": {"taskConcurrency": 101}},
        {"config": {"region": "mars"}},
        {"config": {"shutdownGrace": "soon"}},
        {"config": {"syncResourceTypes": ["users"]}},
        {"config": {"orgId": "acme"}},
        {"image": {"digest": "sha256:1"}},
        {"image": {"registry": "https://registry.example.com"}},
        {"commonLabels": {"baton": True}},
        {"credentials": {"mode": "files"}},
        {"workdir": {"sizeLimit": "two"}},
        {"otlp": {"sampleRatio": 2}},
        {"terminationGracePeriodSeconds": 5},
        {"proxy": {"httpsProxy": "proxy.example.com"}},
        {"podDisruptionBudget": {"maxUnavailable": "half"}},
        {"networkPolicy": {"ingress": [{}]}},
    ],
    ids=json.dumps,
)
def test_a_wrong_value_is_refused_by_name(values):
    (name,) = values
    with pytest.raises(helm_python.HelmError, match=f"/{name}"):
        render_texts(overlay(DEFAULT, values))


def test_null_takes_a_setting_back():
    values = overlay(DEFAULT, {"config": {"logLevel": None, "provisioning": None}})
    assert "BATON_LOG_LEVEL" not in render_texts(values)["baton-jumpcloud/templates/configmap.yaml"]


def test_texts_of_extras_are_templates():
    objects = render(load(CHART / "ci" / "extras-values.yaml"), name="release", namespace="space")
    names = {document["metadata"]["name"] for document in policy.of(objects, "ConfigMap")}
    assert {"release-more", "release-baton-jumpcloud-text"} <= names
    (container,) = policy.ours(policy.of(objects, "Deployment"))
    assert policy.environment(container)["CLUSTER"]["value"] == "space"
    assert {"configMapRef": {"name": "release-more"}} in container["envFrom"]


def test_extra_variables_come_last_and_so_win():
    objects = render(overlay(DEFAULT, {"extraEnv": [{"name": "BATON_LOG_LEVEL", "value": "warn"}]}))
    (container,) = policy.ours(policy.of(objects, "Deployment"))
    assert container["env"][-1] == {"name": "BATON_LOG_LEVEL", "value": "warn"}


def test_the_package_holds_what_an_installation_needs(tmp_path):
    archive = helm_python.package(CHART, destination=tmp_path)
    with helm_python.Chart.load(archive) as packed:
        files = {file["name"] for file in packed.files}
        templates = {template["name"] for template in packed.templates}
    assert {"README.md", "CHANGELOG.md", "UPGRADING.md", "files/dashboard.json", "files/rules.yaml"} <= files
    assert "templates/tests/online-check.yaml" in templates
    assert not [name for name in files if name.startswith(("ci/", "tests/")) or name.endswith(".gotmpl")]


def test_helm_lint_finds_nothing():
    report = helm_python.lint(CHART, DEFAULT, strict=True, kube_version="v1.30.0")
    found = [message for message in report["messages"] if message["severity"] > 1]
    assert not found and not report["errors"]


def test_the_artifact_hub_annotations_are_yaml():
    annotations = chart().metadata["annotations"]
    for name in ("changes", "images", "links"):
        assert isinstance(yaml.safe_load(annotations[f"artifacthub.io/{name}"]), list)
    assert annotations["artifacthub.io/license"] == "Apache-2.0"
