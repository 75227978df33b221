"""What every object of the chart must be, whatever the values. Each function takes all objects of one render."""

from __future__ import annotations

import functools
import re

from kubernetes_validate import utils

from chartlib import CUSTOM_APIS

# The package reads and parses its files at every call otherwise.
utils.schema_contents = functools.cache(utils.schema_contents)

LABEL = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
# The volumes of the restricted Pod Security Standard.
VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}
NAMESPACED = {
    "CiliumNetworkPolicy", "ConfigMap", "Deployment", "NetworkPolicy", "Pod", "PodDisruptionBudget", "PodMonitor",
    "PrometheusRule", "Role", "RoleBinding", "Secret", "Service", "ServiceAccount", "ServiceMonitor",
}
# What the custom objects may have; there is no schema of them to ask.
CUSTOM_SPECS = {
    "CiliumNetworkPolicy": {"endpointSelector", "ingress", "egress"},
    "PodMonitor": {"selector", "podMetricsEndpoints"},
    "PrometheusRule": {"groups"},
    "ServiceMonitor": {"selector", "endpoints"},
}
ENDPOINT = {"port", "path", "interval", "scrapeTimeout", "relabelings", "metricRelabelings"}
SECRET_NAME = re.compile(r"SECRET|PASSWORD|TOKEN|API_KEY|HEADERS")


def one(objects: list[dict], kind: str) -> dict:
    found = of(objects, kind)
    assert len(found) == 1, f"{len(found)} of {kind}"
    return found[0]


def of(objects: list[dict], kind: str) -> list[dict]:
    return [document for document in objects if document["kind"] == kind]


def pods(objects: list[dict]) -> list[dict]:
    """Metadata and spec of every pod that the objects make."""
    templates = [document["spec"]["template"] for document in of(objects, "Deployment")]
    return templates + of(objects, "Pod")


def containers(objects: list[dict]) -> list[dict]:
    return [
        container
        for pod in pods(objects)
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
    ]


def ours(objects: list[dict]) -> list[dict]:
    """The containers that run the program."""
    return [container for container in containers(objects) if "baton-jumpcloud" in container["image"]]


def environment(container: dict) -> dict[str, dict]:
    return {variable["name"]: variable for variable in container["env"]}


def strictly_valid(objects: list[dict], kubernetes: str) -> None:
    for document in objects:
        if document["apiVersion"] in CUSTOM_APIS:
            assert set(document["spec"]) <= CUSTOM_SPECS[document["kind"]], document["spec"].keys()
            for endpoint in document["spec"].get("endpoints", []) + document["spec"].get("podMetricsEndpoints", []):
                assert set(endpoint) <= ENDPOINT, endpoint.keys()
        else:
            utils.validate(document, kubernetes, True)


def restricted(objects: list[dict]) -> None:
    """The restricted Pod Security Standard, and what is not in it but costs nothing."""
    for pod in pods(objects):
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        # A fixed id would be refused by OpenShift, and Helm makes it hard to take away.
        assert "runAsUser" not in spec["securityContext"]
        assert spec["enableServiceLinks"] is False
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= VOLUMES, volume
    for container in containers(objects):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"]["drop"] == ["ALL"] and "add" not in context["capabilities"]
        assert not context.get("privileged", False)
        assert not {"runAsUser", "hostPort"} & context.keys()


def a_service_account_of_its_own(objects: list[dict]) -> None:
    """Not the default one, and its token only where a Role gives it something to do."""
    rights = bool(of(objects, "Role"))
    for pod in pods(objects):
        assert pod["spec"]["serviceAccountName"] not in ("", "default")
        if of(objects, "ServiceAccount"):
            assert pod["spec"]["automountServiceAccountToken"] is rights
    for account in of(objects, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is rights


def requests_are_set(objects: list[dict]) -> None:
    for container in containers(objects):
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    for container in ours(objects):
        assert "memory" in container["resources"]["limits"]
        assert "cpu" not in container["resources"]["limits"], "a CPU limit only slows it down"


def probes_differ(objects: list[dict]) -> None:
    spec = one(objects, "Deployment")["spec"]["template"]["spec"]
    container = ours([one(objects, "Deployment")])[0]
    paths = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "admin"
        paths[probe] = container[probe]["httpGet"]["path"]
    assert paths == {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    port = one_port(container)
    assert port["name"] == "admin" and str(port["containerPort"]) == environment(container)["BATON_HEALTH_CHECK_PORT"]["value"]
    assert "hostNetwork" not in spec


def one_port(container: dict) -> dict:
    assert len(container["ports"]) == 1, "one listener"
    return container["ports"][0]


def image_is_pinned(objects: list[dict]) -> None:
    for container in containers(objects):
        name = container["image"].rsplit("/", 1)[-1]
        assert re.search(r"@sha256:[0-9a-f]{64}$|:v?[0-9]+\.[0-9]+[-.0-9a-z]*$", name), container["image"]


def no_secret_in_plain_sight(objects: list[dict]) -> None:
    """No literal for a variable whose name tells of a secret; the path of a file is none."""
    for container in containers(objects):
        for variable in container.get("env", []):
            name = variable["name"]
            if SECRET_NAME.search(name) and not name.endswith("_FILE") and not name.startswith("BATON_KUBERNETES_"):
                assert "value" not in variable, name
    for document in of(objects, "ConfigMap"):
        assert not [name for name in document["data"] if SECRET_NAME.search(name) and not name.endswith("_URL")]


def selectors_match(objects: list[dict]) -> None:
    deployment = one(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    checks = [pod["metadata"]["labels"].items() for pod in of(objects, "Pod")]
    for document in objects:
        spec = document.get("spec", {})
        match document["kind"]:
            case "Deployment" | "PodDisruptionBudget" | "PodMonitor":
                selector = spec["selector"]["matchLabels"].items()
                # A pod of a test must not count as one of the daemon's.
                assert not any(selector <= check for check in checks), document["kind"]
            case "NetworkPolicy":
                selector = spec["podSelector"]["matchLabels"].items()
                assert all(selector <= check for check in checks)
            case "CiliumNetworkPolicy":
                selector = spec["endpointSelector"]["matchLabels"].items()
                assert all(selector <= check for check in checks)
            case "Service":
                selector = spec["selector"].items()
            case "ServiceMonitor":
                service = one(objects, "Service")
                assert spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
                names = {port["name"] for port in service["spec"]["ports"]}
                assert {endpoint["port"] for endpoint in spec["endpoints"]} <= names
                continue
            case _:
                continue
        assert selector and selector <= labels, document["kind"]
    for constraint in deployment["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
        assert constraint["labelSelector"]["matchLabels"].items() <= labels
    immutable = set(deployment["spec"]["selector"]["matchLabels"])
    assert immutable == {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}


def names_and_labels_are_well_formed(objects: list[dict]) -> None:
    seen = set()
    for document in objects:
        metadata = document["metadata"]
        assert document["kind"] in NAMESPACED and metadata["namespace"], document["kind"]
        assert NAME.match(metadata["name"]) and len(metadata["name"]) <= 63
        identity = (document["kind"], metadata["name"])
        assert identity not in seen
        seen.add(identity)
    for metadata in [document["metadata"] for document in objects] + [pod["metadata"] for pod in pods(objects)]:
        for name, value in metadata.get("labels", {}).items():
            assert isinstance(value, str) and len(value) <= 63 and LABEL.match(value), (name, value)
        assert all(isinstance(value, str) for value in metadata.get("annotations", {}).values())


def labelled_for_the_vendors_tools(objects: list[dict]) -> None:
    vendor = {"app": "baton-jumpcloud", "baton": "true", "baton-app": "jumpcloud"}.items()
    recommended = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "version", "managed-by", "part-of")}
    for pod in pods(objects):
        labels = pod["metadata"]["labels"]
        assert vendor <= labels.items() and recommended <= labels.keys()


def writes_in_one_place(objects: list[dict]) -> None:
    for container in ours(objects):
        variables = environment(container)
        folders = {variables[name]["value"] for name in ("BATON_WORK_DIR", "BATON_C1Z_TEMP_DIR", "TMPDIR")}
        assert folders == {container["workingDir"]}
        writable = {mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert "workdir" in writable and not {"credentials", "extra-ca", "otlp-ca"} & writable
    for pod in pods(objects):
        mounted = {mount["name"] for container in pod["spec"]["containers"] for mount in container.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}


def variables_come_once(objects: list[dict]) -> None:
    for container in ours(objects):
        names = [variable["name"] for variable in container["env"]]
        assert len(names) == len(set(names)), sorted(names)


RULES = (
    restricted,
    a_service_account_of_its_own,
    requests_are_set,
    probes_differ,
    image_is_pinned,
    no_secret_in_plain_sight,
    selectors_match,
    names_and_labels_are_well_formed,
    labelled_for_the_vendors_tools,
    writes_in_one_place,
    variables_come_once,
)
