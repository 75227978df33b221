"""An installation of the chart."""

from cluster import ROOT

CHART = ROOT / "charts" / "baton-jumpcloud"
NAME = "baton-jumpcloud"
SECRET = "credentials"

# What each feature of `kubernetes.*` may do: verb, API group, resource, name.
EVENTS = {(verb, "events.k8s.io", "events", "*") for verb in ("create", "patch")}
ELECTION = {(verb, "coordination.k8s.io", "leases", NAME) for verb in ("get", "update")} | {
    ("create", "coordination.k8s.io", "leases", "*")
}
WATCH = {(verb, "", "secrets", SECRET) for verb in ("get", "list", "watch")}
FEATURES = {"events": EVENTS, "leaderElection": ELECTION, "secretWatch": WATCH}


def helm(client, *args):
    """What helm prints. A failure or a warning of the server fails the test."""
    done = client.run("helm", *args)
    assert done.returncode == 0 and "WARN" not in done.stderr, f"helm {args}: {done.stderr}"
    return done.stdout


def install(namespace, *features):
    """Installs the chart with the Secret `SECRET` and these features, and gives its Deployment."""
    switches = [f"--set=kubernetes.{feature}.enabled=true" for feature in features]
    helm(namespace, "install", NAME, CHART, f"--set=credentials.existingSecret={SECRET}", *switches)
    (deployment,) = namespace.get("deployments")["items"]
    return deployment


def account_name(deployment):
    return deployment["spec"]["template"]["spec"]["serviceAccountName"]


def pod_of(deployment, name=None):
    """The pod that a controller would make of the Deployment."""
    template = deployment["spec"]["template"]
    meta = {**template["metadata"], "name": name or deployment["metadata"]["name"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}
