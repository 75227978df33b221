"""deploy/ is what the chart renders, valid, and works with any choice of components."""

import itertools
import shutil
import subprocess

import pytest

import manifests
import policy
import tools
from chartlib import DEPLOY, KUBERNETES, ROOT, load, load_all, overlay, render

COMPONENTS = sorted(path.parent.name for path in DEPLOY.glob("components/*/values.yaml"))
# The others change the policy that this one brings, so it comes first.
FIRST = "cilium"


def test_every_made_file_is_current():
    for path, text in manifests.made().items():
        assert (DEPLOY / path).read_text() == text, f"{path}: make manifests"
    assert not manifests.stale()


def test_every_file_is_made_or_known():
    by_hand = {"README.md", "secret.example.yaml", "values.yaml"}
    found = {path.relative_to(DEPLOY) for path in DEPLOY.rglob("*") if path.is_file() and path.name != "secret.yaml"}
    assert {path for path in found - manifests.made().keys() if path.name not in by_hand} == set()


def test_there_is_one_object_a_file():
    for path in DEPLOY.rglob("*.yaml"):
        assert len(load_all(path.read_text())) == 1, path


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_the_objects_are_valid(kubernetes):
    objects = [load(DEPLOY / name) for name in load(DEPLOY / "kustomization.yaml")["resources"]]
    policy.strictly_valid(objects + [load(DEPLOY / "secret.example.yaml")], kubernetes)


def test_nothing_of_helm_is_left():
    for path in DEPLOY.rglob("*.yaml"):
        text = path.read_text()
        assert not [word for word in ("helm.sh/", "Helm", "checksum/") if word in text], path


def test_the_namespace_is_restricted():
    labels = load(DEPLOY / "namespace.yaml")["metadata"]["labels"]
    for mode in ("enforce", "audit", "warn"):
        assert labels[f"pod-security.kubernetes.io/{mode}"] == "restricted"


def test_the_secret_is_no_part_of_it():
    names = load(DEPLOY / "kustomization.yaml")["resources"]
    assert not [name for name in names if "secret" in name]
    assert "deploy/secret.yaml" in (ROOT / ".gitignore").read_text()


def kustomize() -> list:
    """kubectl, as the README says, or kustomize itself."""
    if kubectl := shutil.which("kubectl"):
        return [kubectl, "kustomize"]
    if program := tools.find("kustomize"):
        return [program, "build"]
    pytest.skip("neither kubectl nor Go is here")


def build(folder) -> dict:
    text = subprocess.run([*kustomize(), folder], check=True, capture_output=True, text=True).stdout
    return {(document["kind"], document["metadata"]["name"]): document for document in load_all(text)}


def by_name(value):
    """The value with the lists that Kubernetes merges by name in one order."""
    if isinstance(value, dict):
        return {key: by_name(below) for key, below in value.items()}
    if isinstance(value, list):
        keyed = all(isinstance(item, dict) and "name" in item for item in value)
        return [by_name(item) for item in (sorted(value, key=lambda item: item["name"]) if keyed else value)]
    return value


def test_kustomize_builds_the_base():
    assert by_name(build(DEPLOY)) == by_name(manifests.objects(load(DEPLOY / "values.yaml")))


@pytest.mark.parametrize(
    "chosen",
    [names for size in range(1, len(COMPONENTS) + 1) for names in itertools.combinations(COMPONENTS, size)],
    ids="+".join,
)
def test_components_give_what_the_chart_gives_for_their_values(chosen, tmp_path):
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    mine = tmp_path / "mine"
    mine.mkdir()
    order = sorted(chosen, key=lambda name: name != FIRST)
    kustomization = {"resources": ["../deploy"], "components": [f"../deploy/components/{name}" for name in order]}
    (mine / "kustomization.yaml").write_text(manifests.dump(kustomization))
    values = load(DEPLOY / "values.yaml")
    for name in chosen:
        values = overlay(values, load(DEPLOY / "components" / name / "values.yaml"))
    assert by_name(build(mine)) == by_name(manifests.objects(values))


def test_the_pod_is_the_charts():
    """What differs from an installation by Helm with the same Secret is told here, and is nothing of the pod."""
    values = load(DEPLOY / "values.yaml")
    helm = render({"credentials": values["credentials"], "fullnameOverride": values["fullnameOverride"]})
    template = policy.one(helm, "Deployment")["spec"]["template"]
    assert load(DEPLOY / "deployment.yaml")["spec"]["template"]["spec"] == template["spec"]
