"""The real daemon with the API server: what the chart gives its pod makes each feature work, and nothing more is needed."""

import json
import os
import signal
import subprocess
import time
import urllib.request

import pytest

from chart import NAME, SECRET, account_name, install, pod_of
from cluster import ROOT, free_ports

PROGRAMS = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug"
# The simulator does not know the first one.
OLD_KEY, NEW_KEY, NEXT_KEY = "the-old-api-key", "the-new-api-key", "the-next-api-key"
PATIENCE = 60
DONE = "a task is done"
STANDS_BY = "another replica has the Lease"
LOST = "the Lease is lost"
REJECTED = "rotated credentials are rejected"
# How long a Lease is left alone that nobody renews.
LEASE_SECONDS = 15


def eventually(what, within=PATIENCE):
    """The first result of `what` that counts as true."""
    end = time.monotonic() + within
    while not (result := what()):
        assert time.monotonic() < end, f"not within {within} s"
        time.sleep(0.2)
    return result


class Scene:
    """Both simulators, and the pods of one installation, each a daemon."""

    def __init__(self, work, cluster, namespace, *features):
        self.work, self.namespace = work, namespace
        self.children = []
        jumpcloud, conductorone, admin = free_ports(3)
        self.jumpcloud, self.admin = f"http://127.0.0.1:{jumpcloud}", f"http://127.0.0.1:{admin}/_sim"
        self.deployment = install(namespace, *features)
        self.account = cluster.account(namespace.namespace, account_name(self.deployment))
        sim = PROGRAMS / "baton-sim"
        keys = [f"--api-key={key}" for key in (NEW_KEY, NEXT_KEY)]
        self.start("jumpcloud", sim, "jumpcloud", f"--listen=127.0.0.1:{jumpcloud}", *keys)
        self.start(
            "conductorone", sim, "conductorone", f"--listen=127.0.0.1:{conductorone}",
            f"--admin=127.0.0.1:{admin}", f"--credentials-dir={work}", "--next-poll=200ms",
        )

    def is_up(self):
        try:
            return self.state()
        except OSError:
            return None

    def start(self, name, *command, **env):
        with open(self.work / f"{name}.log", "w") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.work, env=env)
        self.children.append(child)
        return child

    def stop(self):
        for child in self.children:
            child.kill()
            child.wait()

    def pod(self, name, api_key=NEW_KEY):
        """Makes a pod, and starts its daemon with what the chart tells it of Kubernetes."""
        self.namespace.apply(pod_of(self.deployment, name))
        uid = self.namespace.get("pod", name)["metadata"]["uid"]
        container = self.deployment["spec"]["template"]["spec"]["containers"][0]
        env = {e["name"]: e["value"] for e in container["env"] if e["name"].startswith("BATON_KUBERNETES_")}
        home = self.work / name
        home.mkdir()
        (home / "api-key").write_text(api_key)
        command, address = self.account.in_pod([
            PROGRAMS / NAME, "--client-id-file", self.work / "client-id",
            "--client-secret-file", self.work / "client-secret", "--ca-file", self.work / "ca.pem",
            "--api-key-file", home / "api-key", "--base-url", self.jumpcloud, "--work-dir", home, "--log-format=json",
        ])
        return self.start(
            name, *command, **address, **env, PATH=os.environ["PATH"],
            BATON_POD_NAME=name, BATON_POD_NAMESPACE=self.namespace.namespace, BATON_POD_UID=uid,
        )

    def log(self, name):
        return (self.work / f"{name}.log").read_text()

    def state(self):
        with urllib.request.urlopen(f"{self.admin}/state") as answer:
            return json.load(answer)

    def post(self, path, body=None):
        """Tells the simulator of ConductorOne something."""
        request = urllib.request.Request(f"{self.admin}/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read() or "null")

    def ask(self):
        """Asks for a full sync."""
        return self.post("tasks", {"kind": "sync_full"})["id"]

    def finishes(self, task):
        return [finish["success"] for finish in self.state()["finishes"] if finish["task"] == task]

    def sync(self, within=PATIENCE):
        """Asks for a full sync, and tells whether it succeeded."""
        task = self.ask()
        (success,) = eventually(lambda: self.finishes(task), within)
        return success


@pytest.fixture
def scene(tmp_path, cluster, namespace, request):
    made = Scene(tmp_path, cluster, namespace, *request.param)
    try:
        eventually(made.is_up)
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("scene", [["secretWatch"]], indirect=True)
def test_a_rotated_secret_is_taken_over_without_a_restart(scene):
    scene.namespace.kubectl("create", "secret", "generic", SECRET, f"--from-literal=BATON_API_KEY={OLD_KEY}")
    daemon = scene.pod("pod", api_key=OLD_KEY)
    assert not scene.sync()
    new = json.dumps({"stringData": {"BATON_API_KEY": NEW_KEY}})
    scene.namespace.kubectl("patch", "secret", SECRET, "-p", new)
    eventually(scene.sync)
    assert daemon.poll() is None
    assert OLD_KEY not in scene.log("pod") and NEW_KEY not in scene.log("pod")


@pytest.mark.parametrize("scene", [["secretWatch"]], indirect=True)
def test_fifty_rotations_under_load_lose_nothing(scene, capsys):
    """Both credentials each time; the older client secrets die as soon as the new one is in use."""
    rotations, slowest, tasks = 50, 0, []
    first = (scene.work / "client-secret").read_text().strip()
    scene.namespace.kubectl(
        "create", "secret", "generic", SECRET,
        f"--from-literal=BATON_API_KEY={NEW_KEY}", f"--from-literal=BATON_CLIENT_SECRET={first}",
    )
    daemon = scene.pod("pod")
    assert scene.sync()
    eventually(lambda: "the watched Secret brings credentials" in scene.log("pod"))
    for number in range(1, rotations + 1):
        tasks += [scene.ask(), scene.ask()]
        secret = scene.post("client-secrets")["client_secret"]
        key = NEXT_KEY if number % 2 else NEW_KEY
        data = {"stringData": {"BATON_API_KEY": key, "BATON_CLIENT_SECRET": secret}}
        scene.namespace.kubectl("patch", "secret", SECRET, "-p", json.dumps(data))
        began = time.monotonic()
        eventually(lambda: scene.log("pod").count("rotated credentials are in use") >= 2 * number, 30)
        slowest = max(slowest, time.monotonic() - began)
        scene.post("steps", "retire-secrets")
    for task in tasks:
        assert eventually(lambda: scene.finishes(task)) == [True]
    state = scene.state()
    assert daemon.poll() is None and state["hellos"] == 1 and not state["breaches"]
    with capsys.disabled():
        print(f"\n{rotations} rotations of both credentials, {len(tasks)} syncs, slowest in use after {slowest:.1f} s")


@pytest.mark.parametrize("scene", [["events"]], indirect=True)
def test_events_are_those_of_the_pod(scene):
    scene.pod("pod")
    assert scene.sync()
    uid = scene.namespace.get("pod", "pod")["metadata"]["uid"]
    (event,) = eventually(lambda: scene.namespace.get("events", "--field-selector", f"involvedObject.uid={uid}")["items"])
    assert (event["reason"], event["type"]) == ("SyncFinished", "Normal")
    assert "resources" in event["message"]
    assert event["message"] in scene.namespace.kubectl("describe", "pod", "pod")


@pytest.mark.parametrize("scene", [["leaderElection"]], indirect=True)
def test_one_of_two_works_and_the_other_takes_over(scene):
    daemons = {name: scene.pod(name) for name in ("one", "two")}

    def holder():
        leases = scene.namespace.get("leases")["items"]
        return leases and leases[0]["spec"].get("holderIdentity", "").split("_")[0]

    first = eventually(holder)
    (second,) = daemons.keys() - {first}
    eventually(lambda: STANDS_BY in scene.log(second))
    assert all(scene.sync() for _ in range(3))
    assert scene.log(first).count(DONE) == 3 and DONE not in scene.log(second)

    # A death: the other waits until the Lease has run out.
    daemons[first].kill()
    died = time.monotonic()
    assert scene.sync()
    assert time.monotonic() - died > LEASE_SECONDS / 2 and holder() == second

    # An orderly end: the Lease is given up at once.
    scene.pod("three")
    eventually(lambda: STANDS_BY in scene.log("three"))
    daemons[second].send_signal(signal.SIGTERM)
    assert scene.sync(within=LEASE_SECONDS / 2)
    assert holder() == "three" and daemons[second].wait(PATIENCE) == 0


@pytest.mark.parametrize("scene", [["events", "secretWatch"]], indirect=True)
def test_the_work_goes_on_while_the_api_server_does_not_answer(scene, cluster):
    scene.namespace.kubectl("create", "secret", "generic", SECRET, f"--from-literal=BATON_API_KEY={NEW_KEY}")
    daemon = scene.pod("pod", api_key=OLD_KEY)
    eventually(scene.sync)
    with cluster.frozen():
        assert scene.sync() and scene.sync()
    # The watch goes on: a key that JumpCloud refuses is seen, and not taken over.
    scene.namespace.kubectl("patch", "secret", SECRET, "-p", json.dumps({"stringData": {"BATON_API_KEY": OLD_KEY}}))
    eventually(lambda: REJECTED in scene.log("pod"))
    assert scene.sync() and daemon.poll() is None


@pytest.mark.parametrize("scene", [["leaderElection"]], indirect=True)
def test_a_holder_that_cannot_renew_asks_for_no_more_work(scene, cluster):
    daemon = scene.pod("pod")
    assert scene.sync()
    with cluster.frozen():
        eventually(lambda: LOST in scene.log("pod"), within=LEASE_SECONDS)
        task = scene.ask()
        # The simulator is asked five times a second.
        time.sleep(2)
        assert not scene.finishes(task)
    assert eventually(lambda: scene.finishes(task)) == [True]
    assert daemon.poll() is None
