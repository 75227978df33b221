"""The chart, rendered by Helm's own library, without a cluster and without the helm program."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import helm_python
import yaml
from helm_python import _native

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "baton-jumpcloud"
DEPLOY = ROOT / "deploy"
RELEASE = "baton-jumpcloud"
NAMESPACE = "connectors"
# The versions that `kubeVersion` of the chart allows and that the validator has schemas for.
KUBERNETES = [f"1.{minor}.0" for minor in range(25, 38)]
CILIUM = "cilium.io/v2"
MONITORING = "monitoring.coreos.com/v1"
CUSTOM_APIS = (CILIUM, MONITORING)


TEXTS = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")


class Loader(yaml.SafeLoader):
    """YAML as Helm and Kubernetes read it: a key that comes twice is an error, and times and `=` are texts."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in TEXTS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {sorted(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


def load_all(text: str) -> list[dict]:
    return [document for document in yaml.load_all(text, Loader) if document is not None]


def load(path: Path):
    return yaml.load(path.read_text(), Loader)


@functools.cache
def chart(path: Path = CHART) -> helm_python.Chart:
    return helm_python.Chart.load(path)


def render_texts(
    values: dict,
    *,
    path: Path = CHART,
    kubernetes: str = KUBERNETES[-1],
    apis: tuple[str, ...] = CUSTOM_APIS,
    name: str = RELEASE,
    namespace: str = NAMESPACE,
    upgrade: bool = False,
) -> dict[str, str]:
    """The templates by path. Helm's library checks the schema first.

    The Python layer of the library has no parameter for the version and the APIs of the cluster, though its native call does.
    """
    options = {
        "name": name,
        "namespace": namespace,
        "kube_version": f"v{kubernetes}",
        "api_versions": list(apis),
        "is_install": not upgrade,
        "is_upgrade": upgrade,
    }
    rendered = _native.call_string("helm_render", chart(path)._raw(), json.dumps(values), json.dumps(options))
    return json.loads(rendered)


def render(values: dict, **options) -> list[dict]:
    """The objects, in the order of their templates' names."""
    texts = render_texts(values, **options)
    return [
        document
        for name in sorted(texts)
        if name.endswith(".yaml")
        for document in load_all(texts[name])
    ]


def overlay(base: dict, over: dict) -> dict:
    """`over` laid on `base`, as Helm does with several values files."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = overlay(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
