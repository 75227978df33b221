"""What the rest of the values does: network, proxy, metrics, traces, the API server, and life as a subchart."""

import json

import helm_python
import pytest
import yaml

import policy
from chartlib import CHART, CILIUM, KUBERNETES, MONITORING, NAMESPACE, load, overlay, render, render_texts

DEFAULT = load(CHART / "ci" / "default-values.yaml")


def ci(name: str) -> dict:
    return load(CHART / "ci" / f"{name}-values.yaml")


def daemon(values: dict) -> dict:
    return policy.one(render(values), "Deployment")["spec"]["template"]["spec"]


def variables(values: dict) -> dict[str, str]:
    """The literal variables of the daemon."""
    container = daemon(values)["containers"][0]
    return {name: variable["value"] for name, variable in policy.environment(container).items() if "value" in variable}


def ports(values: dict) -> list[int]:
    """The TCP ports that a NetworkPolicy lets out, besides DNS."""
    egress = policy.one(render(values), "NetworkPolicy")["spec"]["egress"]
    assert egress[0] == {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
    return [port["port"] for port in egress[1]["ports"]]


# --- network policy


def test_policy_lets_out_names_and_https_and_nothing_in():
    values = overlay(DEFAULT, {"networkPolicy": {"enabled": True}})
    spec = policy.one(render(values), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in spec
    assert ports(values) == [443] and len(spec["egress"]) == 2


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ("kubernetes", [443, 6443]),
        ("proxy", [443, 3128]),
        ("otlp", [443, 4317]),
    ],
)
def test_policy_opens_the_ports_that_other_values_need(values, wanted):
    assert ports(ci(values)) == wanted


def test_policy_lets_in_who_may_read_metrics():
    (rule,) = policy.one(render(ci("network-policy")), "NetworkPolicy")["spec"]["ingress"]
    assert rule["ports"] == [{"port": "admin", "protocol": "TCP"}]
    off = overlay(ci("network-policy"), {"metrics": {"enabled": False}})
    assert "ingress" not in policy.one(render(off), "NetworkPolicy")["spec"]


def test_cilium_lets_out_by_name():
    objects = render(ci("cilium"))
    assert not policy.of(objects, "NetworkPolicy")
    spec = policy.one(objects, "CiliumNetworkPolicy")["spec"]
    names = [name for rule in spec["egress"] for fqdn in rule.get("toFQDNs", []) for name in fqdn.values()]
    assert names == [
        "*.conductor.one",
        "*.conductorone.com",
        "console.in.jumpcloud.com",
        "api.in.jumpcloud.com",
        "admin-oauth.id.in.jumpcloud.com",
    ]
    dns = spec["egress"][0]["toPorts"][0]
    assert dns["rules"]["dns"] and dns["ports"] == [{"port": "53", "protocol": "ANY"}], "names are learnt from DNS"
    assert {"toEntities": ["kube-apiserver"]} in spec["egress"]
    assert spec["ingress"][0]["fromEndpoints"] == [
        {"matchLabels": {"k8s:io.kubernetes.pod.namespace": "monitoring", "k8s:app.kubernetes.io/name": "prometheus"}}
    ]


def test_cilium_takes_addresses_from_config():
    values = overlay(ci("config"), {"networkPolicy": {"enabled": True, "flavor": "cilium"}})
    rules = policy.one(render(values), "CiliumNetworkPolicy")["spec"]["egress"][1:]
    found = {
        (rule["toFQDNs"][0]["matchName"], rule["toPorts"][0]["ports"][0]["port"]) for rule in rules
    }
    assert found == {
        ("conductor.example.com", "8443"),
        ("console.example.com", "443"),
        ("insights.example.com", "8443"),
    }


def test_cilium_takes_a_proxy_by_address_and_port():
    values = {"networkPolicy": {"enabled": True, "flavor": "cilium"}, "proxy": {"httpsProxy": "http://user@192.0.2.7:3128/"}}
    rules = policy.one(render(overlay(DEFAULT, values)), "CiliumNetworkPolicy")["spec"]["egress"]
    assert rules[-1] == {"toCIDR": ["192.0.2.7/32"], "toPorts": [{"ports": [{"port": "3128", "protocol": "TCP"}]}]}


def test_cilium_without_readers_refuses_everybody():
    values = overlay(DEFAULT, {"networkPolicy": {"enabled": True, "flavor": "cilium"}})
    assert policy.one(render(values), "CiliumNetworkPolicy")["spec"]["ingress"] == [{}]


# --- objects of other people's APIs


@pytest.mark.parametrize(
    ("values", "kind", "api"),
    [
        ({"networkPolicy": {"enabled": True, "flavor": "cilium"}}, "CiliumNetworkPolicy", CILIUM),
        ({"metrics": {"podMonitor": {"enabled": True}}}, "PodMonitor", MONITORING),
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, "ServiceMonitor", MONITORING),
        ({"metrics": {"prometheusRule": {"enabled": True}}}, "PrometheusRule", MONITORING),
    ],
    ids=["cilium", "podMonitor", "serviceMonitor", "prometheusRule"],
)
def test_render_mode(values, kind, api):
    (part,) = values
    values = overlay(DEFAULT, values)

    def count(mode, apis):
        return len(policy.of(render(overlay(values, {part: {"renderMode": mode}}), apis=apis), kind))

    assert count("skipIfMissing", ()) == 0 and count("skipIfMissing", (api,)) == 1
    assert count("alwaysRender", ()) == 1 and count("failIfMissing", (api,)) == 1
    with pytest.raises(helm_python.HelmRenderError, match=f"does not know {api}"):
        count("failIfMissing", ())


# --- proxy and certificate authorities


def test_proxy_in_both_cases_of_the_names():
    found = variables(ci("proxy"))
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        assert found[name] == found[name.lower()]
    without = found["NO_PROXY"].split(",")
    assert {"$(KUBERNETES_SERVICE_HOST)", ".svc", ".cluster.local", ".example.com", "127.0.0.1"} <= set(without)
    assert not {"HTTPS_PROXY", "NO_PROXY"} & variables(DEFAULT).keys()


def test_proxy_with_a_password_comes_from_its_secret():
    container = daemon(ci("proxy-with-password"))["containers"][0]
    found = policy.environment(container)
    for name in ("HTTPS_PROXY", "https_proxy"):
        assert found[name]["valueFrom"]["secretKeyRef"] == {"name": "proxy", "key": "HTTPS_PROXY"}
    assert found["http_proxy"]["valueFrom"]["secretKeyRef"] == {"name": "proxy", "key": "HTTP_PROXY", "optional": True}
    assert "value" in found["NO_PROXY"]


@pytest.mark.parametrize(("values", "kind", "key"), [("proxy", "configMap", "ca.crt"), ("proxy-with-password", "secret", "tls-ca-bundle.pem")])
def test_a_private_authority_is_mounted_and_named(values, kind, key):
    spec = daemon(ci(values))
    container = spec["containers"][0]
    path = policy.environment(container)["BATON_CA_FILE"]["value"]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "extra-ca"]
    (source,) = volume["projected"]["sources"]
    (item,) = source[kind]["items"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "extra-ca"]
    assert source[kind]["name"] == "company-ca" and item["key"] == key
    assert path == f"{mount['mountPath']}/{item['path']}"


# --- traces


def test_otlp():
    found = variables(ci("otlp"))
    assert found["BATON_OTEL_COLLECTOR_ENDPOINT"] == "collector.example.com:4317"
    assert found["BATON_OTEL_COLLECTOR_ENDPOINT_TLS_CERT_PATH"] == "/etc/baton-jumpcloud/otlp-ca/ca.crt"
    assert found["OTEL_TRACES_SAMPLER"] == "parentbased_traceidratio" and found["OTEL_TRACES_SAMPLER_ARG"] == "0.1"
    assert variables(ci("otlp-insecure"))["BATON_OTEL_COLLECTOR_ENDPOINT_TLS_INSECURE"] == "true"
    assert not [name for name in variables(DEFAULT) if "OTEL" in name]


def test_a_ratio_of_nothing_is_a_ratio():
    values = overlay(ci("otlp"), {"otlp": {"sampleRatio": 0}})
    assert variables(values)["OTEL_TRACES_SAMPLER_ARG"] == "0"


# --- the API server

RULES = {
    "events": [{"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]}],
    "leaderElection": [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["baton-jumpcloud"],
            "verbs": ["get", "update"],
        },
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    ],
    "secretWatch": [
        {
            "apiGroups": [""],
            "resources": ["secrets"],
            "resourceNames": ["baton-jumpcloud-secrets"],
            "verbs": ["get", "list", "watch"],
        }
    ],
}
SWITCHES = {
    "events": ("BATON_KUBERNETES_EVENTS", "true"),
    "leaderElection": ("BATON_KUBERNETES_LEASE", "baton-jumpcloud"),
    "secretWatch": ("BATON_KUBERNETES_SECRET", "baton-jumpcloud-secrets"),
}


@pytest.mark.parametrize("part", RULES)
def test_each_part_gets_its_own_rule_and_no_other(part):
    values = overlay(DEFAULT, {"kubernetes": {part: {"enabled": True}}})
    objects = render(values)
    assert policy.one(objects, "Role")["rules"] == RULES[part]
    binding = policy.one(objects, "RoleBinding")
    (subject,) = binding["subjects"]
    account = policy.one(objects, "ServiceAccount")["metadata"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])
    assert binding["roleRef"]["name"] == policy.one(objects, "Role")["metadata"]["name"]
    found = variables(values)
    name, value = SWITCHES[part]
    assert found[name] == value
    assert not {other for other, _ in SWITCHES.values()} - {name} & found.keys()
    assert {"BATON_POD_NAME", "BATON_POD_NAMESPACE", "BATON_POD_UID"} <= policy.environment(daemon(values)["containers"][0]).keys()
    assert daemon(values)["automountServiceAccountToken"] is True


def test_without_a_part_there_are_no_rights_and_no_token(default):
    assert not policy.of(default, "Role") and not policy.of(default, "RoleBinding")
    assert policy.one(default, "ServiceAccount")["automountServiceAccountToken"] is False


# --- metrics


def test_metrics_can_be_read_one_way_or_the_other():
    pod = policy.one(render(ci("pod-monitor")), "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert pod[0]["port"] == "admin" and pod[0]["path"] == "/metrics" and pod[0]["interval"] == "1m"
    objects = render(ci("service-monitor"))
    service = policy.one(objects, "Service")["spec"]
    assert service["clusterIP"] == "None" and service["ports"][0]["targetPort"] == "admin"
    assert policy.one(objects, "ServiceMonitor")["spec"]["endpoints"][0]["port"] == "metrics"


def test_no_service_without_a_service_monitor(default):
    assert not policy.of(default, "Service")


def test_rules_and_dashboard_are_those_of_the_files():
    objects = render(ci("pod-monitor"))
    groups = policy.one(objects, "PrometheusRule")["spec"]["groups"]
    assert groups[:-1] == load(CHART / "files" / "rules.yaml")["groups"]
    assert groups[-1]["name"] == "local"
    (dashboard,) = [document for document in policy.of(objects, "ConfigMap") if document["metadata"]["name"].endswith("-dashboard")]
    text = dashboard["data"]["baton-jumpcloud.json"]
    assert json.loads(text) == json.loads((CHART / "files" / "dashboard.json").read_text())
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_rules_have_names_and_severities_of_their_own():
    alerts = [rule for group in load(CHART / "files" / "rules.yaml")["groups"] for rule in group["rules"] if "alert" in rule]
    names = [rule["alert"] for rule in alerts]
    assert names and len(names) == len(set(names))
    assert all(rule["labels"]["severity"] in ("critical", "warning", "info") and rule["annotations"]["summary"] for rule in alerts)


# --- folders, rollout, names


def test_the_work_folder():
    def folder(values):
        (volume,) = [volume for volume in daemon(values)["volumes"] if volume["name"] == "workdir"]
        return volume

    def requests(values):
        return daemon(values)["containers"][0]["resources"]["requests"]

    assert folder(DEFAULT)["emptyDir"] == {"sizeLimit": "2Gi"}
    assert requests(DEFAULT)["ephemeral-storage"] == "2Gi"
    assert folder(ci("memory-workdir"))["emptyDir"] == {"medium": "Memory", "sizeLimit": "512Mi"}
    assert "ephemeral-storage" not in requests(ci("memory-workdir"))
    assert folder(ci("claim"))["persistentVolumeClaim"] == {"claimName": "baton-jumpcloud"}
    assert "ephemeral-storage" not in requests(ci("claim"))
    own = overlay(DEFAULT, {"resources": {"requests": {"ephemeral-storage": "3Gi"}}})
    assert requests(own)["ephemeral-storage"] == "3Gi"


def test_a_claim_is_handed_from_pod_to_pod():
    assert policy.one(render(ci("claim")), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    (check,) = policy.of(render(ci("claim")), "Pod")
    assert "persistentVolumeClaim" not in str(check["spec"]["volumes"]), "the daemon has it"


def test_a_probe_is_replaced_whole():
    values = overlay(DEFAULT, {"livenessProbe": {"exec": {"command": ["true"]}}})
    assert daemon(values)["containers"][0]["livenessProbe"] == {"exec": {"command": ["true"]}}


def test_an_eviction_policy_only_where_there_is_one():
    def spec(minor):
        return policy.one(render(ci("ha"), kubernetes=f"1.{minor}.0"), "PodDisruptionBudget")["spec"]

    assert "unhealthyPodEvictionPolicy" not in spec(26)
    assert spec(27)["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_a_constraint_gets_the_selector_unless_it_has_one():
    (filled,) = daemon(ci("ha"))["topologySpreadConstraints"]
    assert filled["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "connector"
    own = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"a": "b"}}}
    (kept,) = daemon(overlay(DEFAULT, {"topologySpreadConstraints": [own]}))["topologySpreadConstraints"]
    assert kept == own


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({}, "baton-jumpcloud:v0.1.0"),
        ({"image": {"tag": "1.2.3"}}, "baton-jumpcloud:1.2.3"),
        ({"image": {"registry": "r.example.com"}}, "r.example.com/baton-jumpcloud:v0.1.0"),
        ({"image": {"registry": "r.example.com"}, "global": {"imageRegistry": "m.example.com"}}, "m.example.com/baton-jumpcloud:v0.1.0"),
        ({"image": {"tag": "1.2.3", "digest": "sha256:" + "a" * 64}}, "baton-jumpcloud@sha256:" + "a" * 64),
    ],
    ids=str,
)
def test_image(values, image):
    objects = render(overlay(DEFAULT, values))
    version = load(CHART / "Chart.yaml")["appVersion"]
    assert {container["image"] for container in policy.ours(objects)} == {image.replace("0.1.0", version)}


@pytest.mark.parametrize(("registry", "told"), [("", True), ("registry.example.com", False)])
def test_the_notes_tell_of_an_image_without_a_registry(registry, told):
    notes = render_texts(overlay(DEFAULT, {"image": {"registry": registry}}))["baton-jumpcloud/templates/NOTES.txt"]
    assert ("has no registry" in notes) is told


def test_pull_secrets_of_both_levels_once():
    values = overlay(ci("image"), {"global": {"imagePullSecrets": [{"name": "registry"}, "parent"]}})
    assert daemon(values)["imagePullSecrets"] == [{"name": "registry"}, {"name": "parent"}, {"name": "another"}]


@pytest.mark.parametrize("name", ["a", "1", "x" * 53, "baton-jumpcloud", "my-baton-jumpcloud-eu"])
def test_names_fit_for_every_release(name):
    values = overlay(ci("kubernetes"), {"metrics": {"serviceMonitor": {"enabled": True}, "dashboard": {"enabled": True}}})
    objects = render(values, name=name)
    policy.names_and_labels_are_well_formed(objects)
    policy.selectors_match(objects)
    full = policy.one(objects, "Deployment")["metadata"]["name"]
    assert full.startswith(name[:49]) and (full == name or "baton-jumpcloud" not in name)


def test_two_releases_in_one_namespace_share_nothing():
    first, second = (
        {(document["kind"], document["metadata"]["name"]) for document in render(ci("kubernetes"), name=name)}
        for name in ("us", "eu")
    )
    assert not first & second


def test_as_a_subchart(tmp_path):
    parent = tmp_path / "parent"
    (parent / "charts").mkdir(parents=True)
    (parent / "charts" / "baton-jumpcloud").symlink_to(CHART)
    (parent / "Chart.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v2",
                "name": "parent",
                "version": "1.0.0",
                "dependencies": [{"name": "baton-jumpcloud", "version": "*", "alias": "connector"}],
            }
        )
    )
    values = {
        "global": {"imageRegistry": "mirror.example.com", "imagePullSecrets": ["mirror"], "team": {"name": "identity"}},
        "connector": DEFAULT,
    }
    objects = render(values, path=parent)
    deployment = policy.one(objects, "Deployment")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"].startswith("mirror.example.com/baton-jumpcloud:")
    assert deployment["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "mirror"}]
    assert deployment["metadata"]["namespace"] == NAMESPACE
    for rule in policy.RULES:
        rule(objects)
    policy.strictly_valid(objects, KUBERNETES[-1])


def test_the_notes_tell_how_to_go_on():
    notes = render_texts(DEFAULT, upgrade=True)["baton-jumpcloud/templates/NOTES.txt"]
    assert "is upgraded" in notes and "kubectl rollout status --namespace connectors deployment/baton-jumpcloud" in notes
    assert "helm test --namespace connectors baton-jumpcloud --logs" in notes
    off = overlay(DEFAULT, {"tests": {"online": {"enabled": False}}, "config": {"provisioning": True}})
    notes = render_texts(off)["baton-jumpcloud/templates/NOTES.txt"]
    assert "helm test" not in notes and "outlives a container, but not the pod" in notes
