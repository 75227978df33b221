"""What each feature of the chart may do with the Kubernetes API: what the feature calls, and nothing else."""

import pytest

from chart import NAME as LEASE
from chart import FEATURES, SECRET, account_name, install

MERGE = "application/merge-patch+json"


def installed(cluster, namespace, *features):
    """The account that the chart's pods have with these features."""
    return cluster.account(namespace.namespace, account_name(install(namespace, *features)))


@pytest.mark.parametrize("features", [[], *([name] for name in FEATURES), list(FEATURES)], ids="-".join)
def test_the_role_is_what_the_features_need(cluster, namespace, features):
    account = installed(cluster, namespace, *features)
    assert cluster.granted(account) == set().union(*(FEATURES[name] for name in features))


def assert_statuses(account, table):
    """Makes the calls in turn; a row is the status, the method, the path, and the body with its media type."""
    for status, method, path, *body in table:
        got, answer = account.call(method, path, *body)
        assert got == status, (method, path, answer)


def test_one_secret_can_be_watched_and_no_other(cluster, namespace):
    account = installed(cluster, namespace, "secretWatch")
    for name in SECRET, "other":
        namespace.kubectl("create", "secret", "generic", name, "--from-literal=key=value")
    core = f"/api/v1/namespaces/{account.namespace}"
    one = f"{core}/secrets?fieldSelector=metadata.name%3D{SECRET}"
    status, listed = account.call("GET", one)
    assert status == 200 and [secret["metadata"]["name"] for secret in listed["items"]] == [SECRET]
    status, first = account.call("GET", f"{one}&watch=true&timeoutSeconds=1")
    assert status == 200 and first["type"] == "ADDED"
    assert_statuses(account, [
        (200, "GET", f"{core}/secrets/{SECRET}"),
        (403, "GET", f"{core}/secrets/other"),
        (403, "GET", f"{core}/secrets"),
        (403, "GET", f"{core}/secrets?watch=true&timeoutSeconds=1"),
        (403, "GET", f"{core}/secrets?fieldSelector=metadata.name%3Dother"),
        (403, "GET", f"/api/v1/namespaces/default/secrets/{SECRET}"),
        (403, "GET", "/api/v1/secrets"),
        (403, "DELETE", f"{core}/secrets/{SECRET}"),
        (403, "PATCH", f"{core}/secrets/{SECRET}", {"data": {}}, MERGE),
        (403, "GET", f"{core}/configmaps"),
    ])


def test_events_can_be_written_and_not_read(cluster, namespace):
    account = installed(cluster, namespace, "events")
    events = f"/apis/events.k8s.io/v1/namespaces/{account.namespace}/events"
    event = {
        "metadata": {"name": "one"},
        "eventTime": "2026-11-01T00:00:00.000000Z",
        "type": "Normal",
        "reason": "Synced",
        "action": "Sync",
        "note": "a sync is done",
        "reportingController": "baton-jumpcloud",
        "reportingInstance": "pod",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "name": "pod", "namespace": account.namespace},
    }
    again = {"series": {"count": 2, "lastObservedTime": "2026-11-01T00:00:01.000000Z"}}
    assert_statuses(account, [
        (201, "POST", events, event),
        (200, "PATCH", f"{events}/one", again, MERGE),
        (403, "GET", events),
        (403, "GET", f"{events}/one"),
        (403, "DELETE", f"{events}/one"),
        (403, "POST", "/apis/events.k8s.io/v1/namespaces/default/events", event),
    ])
    (kept,) = namespace.get("events.events.k8s.io")["items"]
    assert kept["note"] == event["note"] and kept["series"]["count"] == 2


def test_one_lease_can_be_held_and_no_other_be_seen(cluster, namespace):
    account = installed(cluster, namespace, "leaderElection")
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{account.namespace}/leases"
    lease = {"metadata": {"name": LEASE}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}}
    assert_statuses(account, [
        (404, "GET", f"{leases}/{LEASE}"),
        (201, "POST", leases, lease),
        (409, "POST", leases, lease),
    ])
    status, kept = account.call("GET", f"{leases}/{LEASE}")
    assert status == 200
    kept["spec"]["holderIdentity"] = "b"
    assert_statuses(account, [
        (200, "PUT", f"{leases}/{LEASE}", kept),
        (409, "PUT", f"{leases}/{LEASE}", kept),  # the version that was read is not the newest any more
        (403, "PATCH", f"{leases}/{LEASE}", {"spec": {"holderIdentity": "c"}}, MERGE),
        (403, "DELETE", f"{leases}/{LEASE}"),
        (403, "GET", leases),
        (403, "GET", f"{leases}/other"),
        (403, "PUT", f"{leases}/other", {**lease, "metadata": {"name": "other"}}),
    ])
    assert namespace.get("lease", LEASE)["spec"]["holderIdentity"] == "b"
