"""The tools that chart authors use, on the same chart. They are built with Go; without it, their tests are skipped."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

import policy
import tools
from chartlib import CHART, CUSTOM_APIS, DEPLOY, KUBERNETES, ROOT, load, render


def run(name: str, *arguments) -> str:
    program = tools.find(name)
    if program is None:
        pytest.skip("Go is not here")
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def yaml_files() -> list[Path]:
    plain = [path for path in CHART.rglob("*.yaml") if path.parent.name not in ("templates", "tests")]
    plain += [path for path in (CHART / "tests").glob("*.yaml")]
    return sorted([*plain, *DEPLOY.rglob("*.yaml"), *ROOT.glob("*.yaml")])


@pytest.mark.parametrize("path", yaml_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_yamllint(path):
    config = YamlLintConfig(file=str(ROOT / "charts" / "lintconf.yaml"))
    assert not [f"{problem.line}: {problem.message}" for problem in linter.run(path.read_text(), config, str(path))]


def test_helm_docs_makes_the_readme():
    if tools.find("helm-docs") is None:
        pytest.skip("Go is not here")
    assert tools.helm_docs(CHART) == (CHART / "README.md").read_text(), "make manifests"


def test_helm_unittest():
    output = run("helm-unittest", "--strict", CHART)
    suites = len(list((CHART / "tests").glob("*_test.yaml")))
    passed = re.search(r"Test Suites: (\d+) passed, (\d+) total", output)
    assert passed and set(passed.groups()) == {str(suites)}, output


def bundled(kind: str, api: str, kubernetes: str) -> str:
    """The validator's schema of a kind in one piece, since its parts refer to each other by addresses in the network."""
    folder = f"kubernetes-json-schema/v{kubernetes}-local-strict"
    group, _, version = api.rpartition("/")
    name = "-".join(filter(None, [kind.lower(), group.split(".")[0], version]))
    schema = policy.utils.schema_contents(f"{folder}/{name}.json", kubernetes)
    parts = policy.utils.schema_contents(f"{folder}/_definitions.json", kubernetes)["$defs"]
    whole = {key: value for key, value in schema.items() if key != "$id"} | {"$defs": parts}
    return json.dumps(whole).replace("/api/_definitions.json#", "#")


@pytest.mark.parametrize("kubernetes", [KUBERNETES[0], KUBERNETES[-1]])
def test_kubeconform(kubernetes, tmp_path):
    schemas, manifests = tmp_path / "schemas", tmp_path / "manifests"
    schemas.mkdir()
    manifests.mkdir()
    kinds = set()
    for path in (CHART / "ci").glob("*-values.yaml"):
        objects = render(load(path), kubernetes=kubernetes)
        kinds |= {(document["kind"], document["apiVersion"]) for document in objects}
        (manifests / path.name).write_text(yaml.safe_dump_all(objects))
    for kind, api in kinds:
        if api not in CUSTOM_APIS:
            (schemas / f"{kind.lower()}.json").write_text(bundled(kind, api, kubernetes))
    custom = ",".join(kind for kind, api in kinds if api in CUSTOM_APIS)
    check = ("kubeconform", "-strict", "-summary", "-kubernetes-version", kubernetes, "-skip", custom)
    check += ("-schema-location", f"{schemas}/{{{{.ResourceKind}}}}.json")
    assert "Invalid: 0, Errors: 0" in run(*check, manifests)
    (manifests / "broken.yaml").write_text("{apiVersion: v1, kind: ServiceAccount, metadata: {name: x}, automont: true}")
    with pytest.raises(AssertionError, match="automont"):
        run(*check, manifests)


def test_ct_knows_the_chart():
    config = load(ROOT / "ct.yaml")
    assert [ROOT / folder / "baton-jumpcloud" for folder in config["chart-dirs"]] == [CHART]
    assert (ROOT / config["lint-conf"]).exists()


def test_kube_linter_is_told_why_it_skips_a_check():
    text = (ROOT / ".kube-linter.yaml").read_text()
    excluded = load(ROOT / ".kube-linter.yaml")["checks"]["exclude"]
    assert all(re.search(rf"# .*\n +- {check}$", text, re.M) for check in excluded)


def test_the_requirements_are_pinned_by_hash():
    lines = (ROOT / "tests" / "chart" / "requirements.txt").read_text().splitlines()
    packages = [number for number, line in enumerate(lines) if line and line[0].isalpha()]
    assert len(packages) > 8 and all("--hash=sha256:" in lines[number + 1] for number in packages)
