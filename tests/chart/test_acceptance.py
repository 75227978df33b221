"""The acceptance list of packaging, by its numbers, as far as a render can show it. The README tells what cannot be."""

import pytest

import policy
from chartlib import CHART, DEPLOY, KUBERNETES, ROOT, load, load_all, overlay, render

DEFAULT = load(CHART / "ci" / "default-values.yaml")


def ci(name: str) -> dict:
    return load(CHART / "ci" / f"{name}-values.yaml")


def pod(objects: list[dict]) -> dict:
    return policy.one(objects, "Deployment")["spec"]["template"]["spec"]


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_1_an_existing_secret_is_all_that_is_needed(kubernetes):
    objects = render({"credentials": {"existingSecret": "mine"}}, kubernetes=kubernetes, apis=())
    policy.strictly_valid(objects, kubernetes)
    policy.restricted(objects)
    assert {document["kind"] for document in objects} == {"ConfigMap", "Deployment", "Pod", "ServiceAccount"}
    assert policy.one(objects, "Deployment")["spec"]["replicas"] == 1


def test_2_the_vendors_secret_is_enough():
    secret = load_all((ROOT / "tests" / "chart" / "fixtures" / "vendor.yaml").read_text())[0]
    objects = render({"credentials": {"existingSecret": secret["metadata"]["name"]}})
    (container,) = policy.ours([policy.one(objects, "Deployment")])
    (volume,) = [volume for volume in pod(objects)["volumes"] if volume["name"] == "credentials"]
    needed = {item["key"] for item in volume["projected"]["sources"][0]["secret"]["items"]}
    optional = {
        reference["key"]
        for variable in container["env"]
        if (reference := variable.get("valueFrom", {}).get("secretKeyRef")) and reference["optional"]
    }
    assert needed <= secret["stringData"].keys() <= needed | optional


def test_3_the_manifests_give_the_same_pod():
    values = load(DEPLOY / "values.yaml")
    objects = render({"credentials": values["credentials"]})
    assert load(DEPLOY / "deployment.yaml")["spec"]["template"]["spec"] == pod(objects)


@pytest.mark.parametrize("name", ["default", "claim", "created-secret", "env-mode", "memory-workdir", "csi-volume"])
def test_4_read_only_root_no_capability_and_any_user(name):
    objects = render(ci(name))
    policy.restricted(objects)
    policy.writes_in_one_place(objects)
    # Readable by whatever user the cluster gives: no file mode that only an owner could pass.
    assert "defaultMode" not in str(objects)


def test_5_a_rotated_secret_reaches_the_running_pod():
    (volume,) = [volume for volume in pod(render(DEFAULT))["volumes"] if volume["name"] == "credentials"]
    (container,) = [container for container in pod(render(DEFAULT))["containers"]]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "credentials"]
    assert volume["projected"] and "subPath" not in mount, "the kubelet updates whole volumes only"
    folder = mount["mountPath"]
    files = {name for name in policy.environment(container) if name.endswith("_FILE")}
    assert files == {"BATON_CLIENT_ID_FILE", "BATON_CLIENT_SECRET_FILE", "BATON_API_KEY_FILE"}
    assert all(policy.environment(container)[name]["value"].startswith(folder) for name in files)


def test_6_an_outage_of_the_vendor_restarts_nothing(ci_values):
    (container,) = policy.ours([policy.one(render(ci_values), "Deployment")])
    paths = [container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "startupProbe")]
    # /health asks the vendor, and /readyz its answer on the credentials.
    assert paths == ["/livez", "/startupz"]


def test_7_a_wrong_secret_halts_the_rollout():
    deployment = policy.one(render(DEFAULT), "Deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert deployment["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/readyz"


@pytest.mark.parametrize("replicas", [1, 3])
def test_8_a_drain_is_not_blocked_and_gives_time(replicas):
    values = overlay(DEFAULT, {"replicaCount": replicas, "podDisruptionBudget": {"enabled": True}})
    objects = render(values)
    assert policy.one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    grace = int(policy.one(objects, "ConfigMap")["data"]["BATON_SHUTDOWN_GRACE"].removesuffix("s"))
    assert 60 < grace < pod(objects)["terminationGracePeriodSeconds"]


def test_9_an_authenticating_proxy_and_a_private_authority_from_values():
    for container in policy.ours(render(ci("proxy-with-password"))):
        found = policy.environment(container)
        assert found["HTTPS_PROXY"]["valueFrom"]["secretKeyRef"]["name"] == "proxy"
        assert "BATON_CA_FILE" in found and "NO_PROXY" in found


def test_10_helm_test_runs_what_the_daemon_runs(ci_values):
    objects = render(ci_values)
    checks = policy.of(objects, "Pod")
    if not ci_values.get("tests", {}).get("online", {}).get("enabled", True):
        assert not checks
        return
    (check,) = checks
    assert check["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert check["spec"]["serviceAccountName"] == pod(objects)["serviceAccountName"]
    (container,) = check["spec"]["containers"]
    daemon = policy.ours([policy.one(objects, "Deployment")])[-1]
    assert container["args"] == ["probe", "--online"]
    for same in ("image", "envFrom", "volumeMounts", "securityContext", "resources", "workingDir"):
        assert container[same] == daemon[same]
    own = policy.environment(daemon)
    assert {name: own[name] for name in policy.environment(container)} == policy.environment(container)
    mounts = {volume["name"]: volume for volume in pod(objects)["volumes"] if volume["name"] != "workdir"}
    assert mounts == {volume["name"]: volume for volume in check["spec"]["volumes"] if volume["name"] != "workdir"}


def test_11_as_a_subchart_with_globals(tmp_path):
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "baton-jumpcloud").symlink_to(CHART)
    (tmp_path / "Chart.yaml").write_text("{apiVersion: v2, name: parent, version: 1.0.0}")
    values = {"global": {"imageRegistry": "mirror.example.com", "of": {"another": "part"}}, "baton-jumpcloud": DEFAULT}
    objects = render(values, path=tmp_path)
    for rule in policy.RULES:
        rule(objects)
    assert all(container["image"].startswith("mirror.example.com/") for container in policy.ours(objects))
