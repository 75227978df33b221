"""Values that cannot work are refused before anything is installed, and the message says what to set."""

import json
import re

import helm_python
import pytest

from chartlib import CHART, load, overlay, render, render_texts

DEFAULT = load(CHART / "ci" / "default-values.yaml")
NONE = {"credentials": {"existingSecret": ""}}
VOLUME = {"credentials": {"existingSecret": "", "volume": {"emptyDir": {}}}}
EVENTS = {"kubernetes": {"events": {"enabled": True}}}
TRIAL = {"clientId": "a", "clientSecret": "b"}

# The check, the values laid on the default, and a part of the message.
REFUSED = [
    ("credentialsSource", NONE, "set credentials.existingSecret to the name of a Secret"),
    ("credentialsSource", {"credentials": {"create": True, "values": TRIAL | {"apiKey": "c"}}},
     "More than one source of credentials (credentials.create, credentials.existingSecret)"),
    ("credentialsMode", overlay(VOLUME, {"credentials": {"mode": "env"}}), "set credentials.mode to file"),
    ("credentialsValues", overlay(NONE, {"credentials": {"create": True, "values": TRIAL}}),
     "credentials.create needs credentials.values.apiKey"),
    ("jumpcloudClientId", overlay(VOLUME, {"credentials": {"jumpcloudAuth": "serviceAccount"}}),
     "set config.jumpcloudClientId"),
    ("secretNeeded", overlay(VOLUME, {"kubernetes": {"secretWatch": {"enabled": True}}}), "secretWatch needs a Secret"),
    ("secretNeeded", overlay(VOLUME, {"reloader": {"enabled": True}}), "reloader needs a Secret"),
    ("budget", {"podDisruptionBudget": {"enabled": True, "maxUnavailable": 0}}, "maxUnavailable 0 blocks every drain"),
    ("budget", {"podDisruptionBudget": {"enabled": True, "maxUnavailable": "0%"}}, "maxUnavailable 0% blocks"),
    ("budget", {"podDisruptionBudget": {"enabled": True, "minAvailable": 1}}, "minAvailable 1 of 1 blocks every drain"),
    ("budget", {"podDisruptionBudget": {"enabled": True, "minAvailable": 3}, "replicaCount": 3}, "3 of 3 blocks"),
    ("budget", {"podDisruptionBudget": {"enabled": True, "minAvailable": "70%"}, "replicaCount": 3}, "70% of 3 blocks"),
    ("hostId", {"replicaCount": 2, "config": {"hostId": "a"}}, "config.hostId would name 2 replicas alike"),
    ("claim", {"replicaCount": 2, "workdir": {"existingClaim": "c"}}, "set replicaCount to 1"),
    ("claim", {"strategy": {"type": "RollingUpdate"}, "workdir": {"existingClaim": "c"}}, "set its type to Recreate"),
    ("shutdownGrace", {"terminationGracePeriodSeconds": 60, "config": {"shutdownGrace": "1m"}},
     "terminationGracePeriodSeconds 60 is not longer than config.shutdownGrace 1m"),
    ("shutdownGrace", {"terminationGracePeriodSeconds": 4000, "config": {"shutdownGrace": "1h1s"}}, "not from 1s to 1h"),
    ("shutdownGrace", {"config": {"shutdownGrace": "0s"}}, "not from 1s to 1h"),
    ("credentialsInterval", {"config": {"credentialsInterval": "5m1s"}}, "not from 1s to 5m"),
    ("memory", {"resources": {"limits": {"memory": "127Mi"}}}, "set 128Mi or more"),
    ("memory", {"resources": {"limits": {"memory": "134M"}}}, "set 128Mi or more"),
    ("authorities", {"tls": {"extraCa": {"configMap": "a", "secret": "b"}}}, "tls.extraCa names both"),
    ("authorities", {"otlp": {"ca": {"configMap": "a", "secret": "b"}}}, "otlp.ca names both"),
    ("proxy", {"proxy": {"existingSecret": "a", "httpsProxy": "http://b"}}, "keep one of them"),
    ("monitors", {"metrics": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}}, "enable one of them"),
    ("serviceAccount", {"serviceAccount": {"create": False}}, "name the one to use in serviceAccount.name"),
    ("token", overlay(EVENTS, {"serviceAccount": {"automount": False}}), "leave serviceAccount.automount out"),
    ("rbac", {"kubernetes": {"leaderElection": {"enabled": True}}, "rbac": {"create": False}}, "set rbac.create to true"),
]
# Close to the edge, and right.
ACCEPTED = [
    {"podDisruptionBudget": {"enabled": True}},
    {"podDisruptionBudget": {"enabled": True, "maxUnavailable": "10%"}},
    {"podDisruptionBudget": {"enabled": True, "minAvailable": 2}, "replicaCount": 3},
    {"podDisruptionBudget": {"enabled": True, "minAvailable": "50%"}, "replicaCount": 3},
    {"podDisruptionBudget": {"enabled": True, "minAvailable": 1}, "replicaCount": 0},
    {"podDisruptionBudget": {"enabled": False, "maxUnavailable": 0}},
    {"replicaCount": 1, "config": {"hostId": "a"}},
    {"strategy": {"type": "Recreate"}, "workdir": {"existingClaim": "c"}},
    {"terminationGracePeriodSeconds": 61, "config": {"shutdownGrace": "1m"}},
    {"terminationGracePeriodSeconds": 3601, "config": {"shutdownGrace": "59m60s"}},
    {"terminationGracePeriodSeconds": 4000},
    {"config": {"credentialsInterval": "5m"}},
    {"resources": {"limits": {"memory": "128Mi"}}},
    {"resources": {"limits": {"memory": "0.5Gi"}}},
    {"resources": {"limits": {"memory": "134217728"}}},
    {"resources": {"limits": {"memory": None}}},
    {"kubernetes": {"leaderElection": {"enabled": True}}, "rbac": {"create": False}, "serviceAccount": {"create": False, "name": "b"}},
]


def message(values: dict) -> str:
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render_texts(overlay(DEFAULT, values))
    return str(refused.value)


@pytest.mark.parametrize(("check", "values", "part"), REFUSED, ids=[f"{check}-{json.dumps(values)}" for check, values, _ in REFUSED])
def test_refused(check, values, part):
    text = message(values)
    assert part in text
    assert len(re.findall("^- ", text, re.M)) == 1, "one mistake, one message"


@pytest.mark.parametrize("values", ACCEPTED, ids=json.dumps)
def test_accepted(values):
    assert render(overlay(DEFAULT, values))


def test_every_check_is_shown_to_refuse():
    helpers = (CHART / "templates" / "_validations.tpl").read_text()
    defined = set(re.findall(r'define "baton-jumpcloud\.validate\.(\w+)"', helpers))
    called = set(re.findall(r'range list ("\w+"(?: "\w+")*)', helpers)[0].replace('"', "").split())
    assert defined == called == {check for check, _, _ in REFUSED}


def test_all_mistakes_are_told_at_once():
    text = message({"credentials": {"existingSecret": ""}, "replicaCount": 2, "config": {"hostId": "a"}})
    assert len(re.findall("^- ", text, re.M)) == 2


def test_the_message_about_cilium_names_the_way_out():
    values = overlay(DEFAULT, {"networkPolicy": {"enabled": True, "flavor": "cilium"}})
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render_texts(values, apis=())
    assert "--api-versions cilium.io/v2" in str(refused.value) and "networkPolicy.renderMode" in str(refused.value)
