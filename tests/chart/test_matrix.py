"""Every file of ci/ on every version of Kubernetes: it renders, is valid, and keeps the rules. And the default as a whole."""

import json
import re

import pytest
import yaml

import policy
from chartlib import CHART, CUSTOM_APIS, KUBERNETES, ROOT, load, render, render_texts


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_ci_values_give_valid_objects(ci_values, kubernetes):
    objects = render(ci_values, kubernetes=kubernetes)
    policy.strictly_valid(objects, kubernetes)


@pytest.mark.parametrize("rule", policy.RULES, ids=lambda rule: rule.__name__)
def test_ci_values_keep_the_rules(ci_values, rule):
    rule(render(ci_values))


def test_ci_values_install_where_no_custom_api_is(ci_values):
    objects = render(ci_values, apis=())
    assert not [document for document in objects if document["apiVersion"] in CUSTOM_APIS]
    policy.one(objects, "Deployment")


def test_ci_values_render_the_same_twice(ci_values):
    assert render_texts(ci_values) == render_texts(ci_values)


def test_ci_values_leave_no_blank_lines_or_trailing_blanks(ci_values):
    for name, text in render_texts(ci_values).items():
        if name.endswith(".yaml"):
            lines = text.strip("\n").splitlines()
            assert not [line for line in lines if line != line.rstrip()], name


def test_each_ci_file_is_about_something_of_its_own():
    renders = {}
    for path in sorted((CHART / "ci").glob("*-values.yaml")):
        text = json.dumps(render(load(path)), sort_keys=True)
        assert text not in renders, f"{path.name} renders what {renders[text]} does"
        renders[text] = path.name
    assert len(renders) > 20


def test_the_default_is_the_golden_file(default):
    golden = ROOT / "tests" / "chart" / "golden" / "default.yaml"
    text = yaml.safe_dump_all(default, sort_keys=True, width=120)
    assert text == golden.read_text(), "wanted? then: python tests/chart/test_matrix.py"


def test_a_version_below_the_oldest_supported_is_not_promised():
    oldest = re.search(r">=(\d+\.\d+\.\d+)", load(CHART / "Chart.yaml")["kubeVersion"]).group(1)
    assert oldest == KUBERNETES[0]


@pytest.mark.parametrize(
    "broken",
    [
        ("Deployment", lambda spec: spec["template"]["spec"]["containers"][0].update(readinesProbe={})),
        ("Deployment", lambda spec: spec.update(replicas="three")),
    ],
    ids=["unknown field", "wrong type"],
)
def test_the_validator_sees_what_is_wrong(broken):
    kind, spoil = broken
    objects = render(load(CHART / "ci" / "default-values.yaml"))
    spoil(policy.one(objects, kind)["spec"])
    with pytest.raises(Exception, match="readinesProbe|three"):
        policy.strictly_valid(objects, KUBERNETES[-1])


@pytest.mark.parametrize("rule", policy.RULES, ids=lambda rule: rule.__name__)
def test_each_rule_can_fail(rule):
    objects = render(load(CHART / "ci" / "default-values.yaml"))
    deployment = policy.one(objects, "Deployment")
    pod = deployment["spec"]["template"]
    container = pod["spec"]["containers"][0]
    spoilt = {
        "restricted": lambda: container["securityContext"].update(readOnlyRootFilesystem=False),
        "a_service_account_of_its_own": lambda: pod["spec"].update(automountServiceAccountToken=True),
        "requests_are_set": lambda: container["resources"]["requests"].pop("memory"),
        "probes_differ": lambda: container["livenessProbe"]["httpGet"].update(path="/readyz"),
        "image_is_pinned": lambda: container.update(image="baton-jumpcloud:latest"),
        "no_secret_in_plain_sight": lambda: container["env"].append({"name": "BATON_API_KEY", "value": "x"}),
        "selectors_match": lambda: deployment["spec"]["selector"]["matchLabels"].update(other="x"),
        "names_and_labels_are_well_formed": lambda: pod["metadata"]["labels"].update(baton=True),
        "labelled_for_the_vendors_tools": lambda: pod["metadata"]["labels"].pop("baton-app"),
        "writes_in_one_place": lambda: container.update(workingDir="/"),
        "variables_come_once": lambda: container["env"].append(container["env"][0]),
    }
    spoilt[rule.__name__]()
    with pytest.raises(AssertionError):
        rule(objects)


if __name__ == "__main__":
    golden = ROOT / "tests" / "chart" / "golden" / "default.yaml"
    values = load(CHART / "ci" / "default-values.yaml")
    golden.write_text(yaml.safe_dump_all(render(values), sort_keys=True, width=120))
