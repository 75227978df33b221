"""Makes deploy/ from the chart: one object a file, without what only Helm needs.

    python tests/chart/manifests.py [FOLDER]

deploy/values.yaml gives the base, and values.yaml of each component what the component adds to it. A component holds what
differs: new objects whole, changed ones as patches.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from chartlib import CHART, DEPLOY, KUBERNETES, load, overlay, render

NAMESPACE = "baton"
HEADER = "# Made from charts/baton-jumpcloud by `make manifests`. Do not edit: change the chart or values.yaml.\n"
HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by")
# The lists of a Deployment that Kubernetes merges by a key.
MERGE_KEYS = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath"}
# The order of kubectl: what others stand in goes first.
ORDER = ["Namespace", "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "NetworkPolicy", "Deployment"]


class Dumper(yaml.SafeDumper):
    """Indents lists below their key, and knows no references."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data):
        return True


def dump(value) -> str:
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, width=120)


def plain(document: dict) -> dict:
    """The object without the labels and checksums that are of use to Helm alone."""
    template = document.get("spec", {}).get("template", {})
    for metadata in (document["metadata"], template.get("metadata", {})):
        for label in HELM_LABELS:
            metadata.get("labels", {}).pop(label, None)
        annotations = metadata.get("annotations", {})
        for name in [name for name in annotations if name.startswith("checksum/")]:
            del annotations[name]
        if not annotations:
            metadata.pop("annotations", None)
    return document


def objects(values: dict) -> dict[tuple[str, str], dict]:
    """The objects by kind and name. The oldest version of Kubernetes decides, so that they fit all of them."""
    rendered = render(values, kubernetes=KUBERNETES[0], apis=(), namespace=NAMESPACE)
    order = {kind: position for position, kind in enumerate(ORDER)}
    rendered.sort(key=lambda document: order.get(document["kind"], len(ORDER)))
    return {(document["kind"], document["metadata"]["name"]): plain(document) for document in rendered}


def patch(old, new, key=None):
    """What a strategic merge patch must say to turn `old` into `new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        changes = {name: None for name in old.keys() - new.keys()}
        changes |= {name: patch(old.get(name), value, name) for name, value in new.items() if old.get(name) != value}
        return changes
    if isinstance(old, list) and isinstance(new, list) and key in MERGE_KEYS:
        by = MERGE_KEYS[key]
        before = {item[by]: item for item in old}
        after = {item[by]: item for item in new}
        gone = [{by: name, "$patch": "delete"} for name in before if name not in after]
        changed = [
            {by: name} | patch(before.get(name, {}), item) for name, item in after.items() if before.get(name) != item
        ]
        return gone + changed
    return new


def file_name(kind: str, suffix: str = "") -> str:
    return f"{kind.lower()}{suffix}.yaml"


def base(values: dict) -> dict[str, str]:
    """The files of deploy/ by name."""
    made = objects(values)
    version = load(CHART / "Chart.yaml")["appVersion"]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": [file_name(kind) for kind, _ in made],
        "images": [{"name": "baton-jumpcloud", "newTag": f"v{version}"}],
    }
    files = {file_name(kind): dump(document) for (kind, _), document in made.items()}
    return files | {"kustomization.yaml": dump(kustomization)}


def component(values: dict, added: dict) -> dict[str, str]:
    """The files of one component by name, as they follow from one base."""
    before, after = objects(values), objects(overlay(values, added))
    files = {}
    for kind, name in before | after:
        old, new = before.get((kind, name)), after.get((kind, name))
        if old is None:
            files[file_name(kind)] = dump(new)
        elif old != new:
            head = {"apiVersion": old["apiVersion"], "kind": kind, "metadata": {"name": name}}
            change = {"$patch": "delete"} if new is None else patch(old, new)
            files[file_name(kind, "-patch")] = dump(head | change)
    return files


def kustomization_of(files: dict[str, str]) -> str:
    """The list of a component's files. A patch whose object is not there is passed over: which policy is, depends on the others."""
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"}
    documents = {name: yaml.safe_load(text) for name, text in files.items()}
    resources = [name for name in files if not name.endswith("-patch.yaml")]
    patches = [
        {"path": name, "target": {"kind": document["kind"], "name": document["metadata"]["name"]}}
        for name, document in documents.items()
        if name not in resources
    ]
    if resources:
        kustomization["resources"] = resources
    if patches:
        kustomization["patches"] = patches
    return dump(kustomization)


def made() -> dict[Path, str]:
    """Every made file by its path below deploy/."""
    values = load(DEPLOY / "values.yaml")
    files = {Path(name): text for name, text in base(values).items()}
    cilium = load(DEPLOY / "components" / "cilium" / "values.yaml")
    for path in sorted(DEPLOY.glob("components/*/values.yaml")):
        added, folder = load(path), path.parent.relative_to(DEPLOY)
        # With either policy in the base, so that every component goes with cilium too.
        parts = component(values, added)
        if added != cilium:
            parts |= component(overlay(values, cilium), added)
        files |= {folder / name: text for name, text in parts.items()}
        files[folder / "kustomization.yaml"] = kustomization_of(parts)
    return {path: HEADER + text for path, text in files.items()}


def stale() -> set[Path]:
    """Files below deploy/ that were made once and are made no longer."""
    found = {path.relative_to(DEPLOY) for path in DEPLOY.rglob("*.yaml") if path.read_text().startswith(HEADER)}
    return found - made().keys()


def main(folder: Path) -> None:
    for path in stale():
        (folder / path).unlink(missing_ok=True)
    for path, text in made().items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEPLOY)
