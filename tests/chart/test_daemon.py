"""The real program in the chart's pod: with exactly the variables and files that the pod has, against the simulators.

Needs `make build`, and is skipped without it.
"""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

import policy
from chartlib import CHART, ROOT, load, load_all, overlay, render
from kubelet import Pod

PROGRAMS = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug"
PROGRAM = PROGRAMS / "baton-jumpcloud"
KEY = "the-api-key"

pytestmark = pytest.mark.skipif(not (PROGRAMS / "baton-sim").exists(), reason="make build")


def eventually(what, within=30):
    end = time.monotonic() + within
    while not (result := what()):
        assert time.monotonic() < end, f"not within {within} s"
        time.sleep(0.1)
    return result


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def vendors(tmp_path_factory):
    """JumpCloud and ConductorOne: the address of one, the credentials of the other."""
    folder = tmp_path_factory.mktemp("vendors")
    jumpcloud, conductorone = free_port(), free_port()
    log = (folder / "log").open("w")
    orders = [
        ["jumpcloud", f"--listen=127.0.0.1:{jumpcloud}", f"--api-key={KEY}"],
        ["conductorone", f"--listen=127.0.0.1:{conductorone}", f"--credentials-dir={folder}", "--next-poll=200ms"],
    ]
    children = [subprocess.Popen([PROGRAMS / "baton-sim", *order], stdout=log, stderr=log) for order in orders]
    try:
        eventually(lambda: all((folder / name).exists() for name in ("client-id", "client-secret", "ca.pem")))
        yield f"http://127.0.0.1:{jumpcloud}", folder
    finally:
        for child in children:
            child.kill()
            child.wait()


def secret(folder: Path, **other) -> dict:
    """The vendor's Secret, with credentials that work."""
    values = {
        "BATON_CLIENT_ID": (folder / "client-id").read_text().strip(),
        "BATON_CLIENT_SECRET": (folder / "client-secret").read_text().strip(),
        "BATON_API_KEY": KEY,
        "BATON_PROVISIONING": "true",
    }
    return values | other


class Installation:
    """One release: its objects, and pods of it."""

    def __init__(self, folder: Path, vendors, values: dict, content: dict):
        address, self.vendor = vendors
        here = {
            "config": {"baseUrl": address, "credentialsInterval": "1s"},
            "tls": {"extraCa": {"configMap": "simulated-ca"}},
            "metrics": {"port": free_port()},
        }
        default = load(CHART / "ci" / "default-values.yaml")
        self.objects = render(overlay(overlay(default, here), values))
        self.folder, self.secrets = folder, {"baton-jumpcloud-secrets": content}

    def pod(self, kind: str, name: str) -> Pod:
        made = policy.one(self.objects, kind)
        pod = made["spec"]["template"] if kind == "Deployment" else made
        folder = self.folder / name
        folder.mkdir()
        configmaps = {"simulated-ca": {"ca.crt": (self.vendor / "ca.pem").read_text()}}
        return Pod(folder, {"metadata": {"name": name}, "spec": pod["spec"]}, self.objects, self.secrets, configmaps)


@pytest.fixture
def install(tmp_path, vendors):
    """Makes an installation, and ends its processes."""
    pods = []

    def make(values, **content):
        installation = Installation(tmp_path, vendors, values, secret(vendors[1], **content))
        pod = installation.pod("Deployment", "baton-jumpcloud-0")
        pods.append(pod)
        pod.start(PROGRAM)
        return installation, pod

    yield make
    for pod in pods:
        pod.process.kill()
        pod.process.wait()


def is_up(pod: Pod):
    assert pod.process.poll() is None, pod.log()
    return pod.probe("startupProbe") and pod.probe("livenessProbe")


@pytest.mark.parametrize("mode", ["file", "env"])
def test_1_and_2_the_pod_gets_ready_with_the_vendors_secret(install, mode):
    _, pod = install({"credentials": {"mode": mode}})
    eventually(lambda: is_up(pod) and pod.probe("readinessProbe"))
    assert "baton-jumpcloud-0" in pod.log(), "the host id is the pod's name"
    assert pod.stop() == 0


def test_2_the_vendors_own_deployment_runs_the_program(tmp_path, vendors):
    """Its Secret may hold any setting; here it holds the way to the simulators besides."""
    address, folder = vendors
    _, deployment = load_all((ROOT / "tests" / "chart" / "fixtures" / "vendor.yaml").read_text())
    content = secret(folder, BATON_BASE_URL=address, BATON_CA_FILE=str(folder / "ca.pem"))
    pod = Pod(tmp_path, deployment["spec"]["template"], [], {"baton-jumpcloud-secrets": content}, {})
    pod.start(PROGRAM)
    try:
        eventually(lambda: "ConductorOne accepted the announcement" in pod.log())
        assert pod.stop() == 0, pod.log()
    finally:
        pod.process.kill()


def test_4_nothing_is_written_but_to_the_work_folder(install):
    _, pod = install({})
    eventually(lambda: is_up(pod) and pod.probe("readinessProbe"))
    pod.stop()
    workdir = pod.inside(pod.container["workingDir"])
    written = {path for path in pod.folder.rglob("*") if path.is_file() and workdir not in path.parents}
    assert {path.name for path in written} == {"log", "BATON_CLIENT_ID", "BATON_CLIENT_SECRET", "BATON_API_KEY", "ca.crt"}


def test_5_new_credentials_are_used_without_a_restart(install):
    _, pod = install({}, BATON_API_KEY="the-old-api-key")
    eventually(lambda: is_up(pod) and pod.probe("readinessProbe"))
    pod.secrets["baton-jumpcloud-secrets"]["BATON_API_KEY"] = KEY
    pod.mount()
    eventually(lambda: "rotated credentials are in use" in pod.log())
    assert is_up(pod) and pod.probe("readinessProbe")
    assert pod.stop() == 0


def test_7_a_pod_with_a_wrong_secret_never_gets_ready(install, vendors):
    _, pod = install({}, BATON_CLIENT_SECRET=wrong(vendors[1]))
    while pod.process.poll() is None:
        assert not pod.probe("readinessProbe")
        time.sleep(0.1)
    assert pod.process.returncode != 0 and "issue a new client secret" in pod.log()


def wrong(folder: Path) -> str:
    """A client secret of the right form with another key: that of another simulator."""
    other = folder / "other"
    child = subprocess.Popen(
        [PROGRAMS / "baton-sim", "conductorone", f"--listen=127.0.0.1:{free_port()}", f"--credentials-dir={other}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: (other / "ca.pem").exists())
        return (other / "client-secret").read_text().strip()
    finally:
        child.kill()
        child.wait()


def test_10_the_online_check_passes_and_names_what_fails(tmp_path, vendors):
    good = Installation(tmp_path, vendors, {}, secret(vendors[1]))
    done = good.pod("Pod", "good").run(PROGRAM)
    assert done.returncode == 0, done.stdout + done.stderr
    bad = Installation(tmp_path, vendors, {}, secret(vendors[1], BATON_API_KEY="another-key"))
    done = bad.pod("Pod", "bad").run(PROGRAM)
    assert done.returncode != 0 and "JumpCloud" in done.stdout + done.stderr, done
