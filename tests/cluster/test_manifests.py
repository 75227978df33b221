"""What we and the vendor publish, as a real server judges it: every field, and every pod in a restricted namespace."""

import copy
import os

import pytest
import yaml

from chart import CHART, EVENTS, NAME, account_name, helm, pod_of
from cluster import ROOT

DEPLOY = ROOT / "deploy"
COMPONENTS = sorted(path.name for path in (DEPLOY / "components").iterdir())
VALUES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").iterdir())

# The Secret and the Deployment of the vendor's documentation, with its two unquoted booleans quoted and with our image.
VENDOR = yaml.safe_load_all("""
apiVersion: v1
kind: Secret
metadata:
  name: baton-jumpcloud-secrets
type: Opaque
stringData:
  BATON_CLIENT_ID: "<client id>"
  BATON_CLIENT_SECRET: "<client secret>"
  BATON_API_KEY: "<api key>"
  BATON_PROVISIONING: "true"
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: baton-jumpcloud
  labels:
    app: baton-jumpcloud
spec:
  selector:
    matchLabels:
      app: baton-jumpcloud
  template:
    metadata:
      labels:
        app: baton-jumpcloud
        baton: "true"
        baton-app: jumpcloud
    spec:
      containers:
        - name: baton-jumpcloud
          image: baton-jumpcloud:0.1.0
          imagePullPolicy: IfNotPresent
          envFrom:
            - secretRef:
                name: baton-jumpcloud-secrets
          env:
            - name: BATON_HOST_ID
              value: baton-jumpcloud
""")
SECRET, DEPLOYMENT = VENDOR


@pytest.mark.parametrize("components", [[], *([name] for name in COMPONENTS), COMPONENTS], ids="-".join)
def test_a_kustomization(cluster, tmp_path, components):
    """The base, each component on top of it, and all at once. The base is applied as the documentation says it."""
    folder = DEPLOY
    if components:
        folder = tmp_path
        above = os.path.relpath(DEPLOY, folder)
        parts = {"resources": [above], "components": [f"{above}/components/{name}" for name in components]}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(parts))
    name = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["namespace"]
    cluster.kubectl("apply", "-k", folder)
    cluster.kubectl("apply", "-k", folder, "--server-side", "--validate=strict", "--force-conflicts")
    namespace = cluster.client(name)
    (deployment,) = namespace.get("deployments")["items"]
    namespace.apply(pod_of(deployment, "-".join(["pod", *components])))
    if "kubernetes-events" in components:
        assert cluster.granted(cluster.account(name, account_name(deployment))) == EVENTS


def test_the_secret_of_the_kustomization(namespace):
    namespace.kubectl("apply", "--server-side", "--validate=strict", "-f", DEPLOY / "secret.example.yaml")


@pytest.fixture(scope="module")
def surroundings(cluster):
    """What the examples of values take for granted."""
    cluster.make_namespace("connectors")
    cluster.apply(
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "connectors"}, "value": 1},
        {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "gvisor"}, "handler": "runsc"},
    )


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("values", VALUES)
def test_the_chart(cluster, namespace, values):
    """Each example of values installs, its pods are admitted, and it can be upgraded and taken away again."""
    file = CHART / "ci" / f"{values}-values.yaml"
    place = cluster.client(yaml.safe_load(file.read_text()).get("namespaceOverride", namespace.namespace))
    helm(namespace, "install", NAME, CHART, "--values", file)
    (deployment,) = place.get("deployments")["items"]
    if not place.get("serviceaccounts", "--field-selector", f"metadata.name={account_name(deployment)}")["items"]:
        place.kubectl("create", "serviceaccount", account_name(deployment))
    hooks = yaml.safe_load_all(helm(namespace, "get", "hooks", NAME))
    place.apply(pod_of(deployment), *(hook for hook in hooks if hook))
    helm(namespace, "upgrade", NAME, CHART, "--values", file)
    helm(namespace, "uninstall", NAME)
    kinds = "deployments,configmaps,secrets,roles,rolebindings,networkpolicies,poddisruptionbudgets,podmonitors"
    assert not place.get(kinds)["items"]


def test_the_vendors_secret_and_deployment(cluster):
    """They apply with nothing changed but the image. Their pod has no security context: restricted is too much to ask."""
    namespace = cluster.make_namespace("vendor", "baseline")
    namespace.apply(SECRET, DEPLOYMENT)
    namespace.apply(pod_of(DEPLOYMENT))


def test_the_vendors_booleans_are_refused(namespace):
    """The control for the strict validation: the documentation has these values unquoted."""
    secret, deployment = copy.deepcopy([SECRET, DEPLOYMENT])
    secret["stringData"]["BATON_PROVISIONING"] = True
    deployment["spec"]["template"]["metadata"]["labels"]["baton"] = True
    for broken in secret, deployment:
        assert "expected string" in namespace.refused("apply", "--server-side", "-f", "-", stdin=[broken])


def test_an_unknown_field_is_refused(namespace):
    deployment = copy.deepcopy(DEPLOYMENT)
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {"tcpSocket": {"port": 8081}}
    answer = namespace.refused("apply", "--server-side", "--validate=strict", "-f", "-", stdin=[deployment])
    assert "readinesProbe" in answer


def test_a_pod_that_is_not_restricted_is_refused(namespace):
    """The control for the admission of pods."""
    assert "violates PodSecurity" in namespace.refused("apply", "-f", "-", stdin=[pod_of(DEPLOYMENT)])
    privileged = pod_of(DEPLOYMENT)
    privileged["spec"] = copy.deepcopy(privileged["spec"])
    privileged["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    assert "privileged" in namespace.refused("apply", "-f", "-", stdin=[privileged])
