"""A Kubernetes API server on the loopback interface, with its storage, and what a pod's service account sees of it.

There is no controller, scheduler or kubelet: objects are judged and kept, and nothing runs.
"""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "target" / "cluster" / "bin"
DEFINITIONS = ROOT / "target" / "cluster" / "definitions"
ADMIN_TOKEN = "cluster-test-admin"
START_SECONDS = 120


def free_ports(count):
    """Ports that nobody listens on. All are held until the last is known, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


@dataclass
class Client:
    """kubectl and helm as one user in one namespace."""

    config: Path
    namespace: str

    def run(self, program, *args, stdin=None):
        """The finished process, whatever its end."""
        text = stdin if stdin is None or isinstance(stdin, str) else yaml.safe_dump_all(stdin)
        return subprocess.run(
            [BIN / program, *args], input=text, capture_output=True, text=True, timeout=60,
            env={"PATH": os.environ["PATH"], "HOME": str(self.config.parent), "KUBECONFIG": str(self.config)},
        )

    def kubectl(self, *args, stdin=None):
        """What kubectl prints. A failure or a warning of the server fails the test."""
        done = self.run("kubectl", "--warnings-as-errors", *args, stdin=stdin)
        assert done.returncode == 0, f"kubectl {args}: {done.stderr}"
        return done.stdout

    def refused(self, *args, stdin=None):
        """Why kubectl fails. Success fails the test."""
        done = self.run("kubectl", *args, stdin=stdin)
        assert done.returncode != 0, f"kubectl {args} was allowed: {done.stdout}"
        return done.stderr

    def apply(self, *objects):
        """Applies objects with the server's strict validation of fields."""
        return self.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", stdin=objects)

    def get(self, *args):
        """An object, or a list of them."""
        return json.loads(self.kubectl("get", *args, "-o", "json"))


@dataclass
class Account:
    """A service account, with the files and the address of the API server that a pod of it is given."""

    namespace: str
    # Holds token, ca.crt and namespace.
    folder: Path
    host: str
    port: int

    def in_pod(self, command):
        """A command and variables that let a program find files and address where it does in a pod.

        The files are put there in a mount namespace of the program's own, so nothing outside of it changes.
        """
        mount = (
            "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io && "
            'ln -s "$0" /run/secrets/kubernetes.io/serviceaccount && exec "$@"'
        )
        address = {"KUBERNETES_SERVICE_HOST": self.host, "KUBERNETES_SERVICE_PORT": str(self.port)}
        return ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, self.folder, *command], address

    def call(self, method, path, body=None, media="application/json"):
        """Status and answer of one call, as JSON. A watch has to end by itself, after its first line at the latest."""
        request = urllib.request.Request(
            f"https://{self.host}:{self.port}{path}", method=method, data=body and json.dumps(body).encode(),
            headers={"authorization": f"Bearer {(self.folder / 'token').read_text()}", "content-type": media},
        )
        trust = ssl.create_default_context(cafile=self.folder / "ca.crt")
        try:
            with urllib.request.urlopen(request, context=trust) as answer:
                return answer.status, json.loads(answer.read() or "null")
        except urllib.error.HTTPError as answer:
            return answer.code, json.loads(answer.read())

    def rules(self):
        """What the account may do in its namespace: verb, API group, resource and name of each call."""
        status, review = self.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": self.namespace},
        })
        assert status == 201 and not review["status"]["incomplete"], review
        return {
            (verb, group, resource, name)
            for rule in review["status"]["resourceRules"]
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for name in rule.get("resourceNames", ["*"])
        }


class Cluster(Client):
    """The server, and kubectl as its administrator."""

    def __init__(self, work):
        self.work = work
        self.processes = []
        etcd, peer, self.port = free_ports(3)
        self.server = f"https://127.0.0.1:{self.port}"
        self.ca_file = work / "ca.crt"
        super().__init__(work / "default.kubeconfig", "default")
        key = work / "service-account.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens = work / "tokens.csv"
        tokens.write_text(f"{ADMIN_TOKEN},admin,admin,system:masters\n")
        self.start(
            "etcd",
            "--data-dir", work / "etcd", "--unsafe-no-fsync", "--log-level=error",
            f"--listen-client-urls=http://127.0.0.1:{etcd}", f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}", f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
        )
        self.start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={self.port}",
            "--cert-dir", work / "certificates",
            "--endpoint-reconciler-type=none",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
        )
        try:
            self.wait()
            # Not ours, so a warning about them is none of our failures.
            defined = self.run("kubectl", "apply", "--server-side", "-f", DEFINITIONS)
            assert defined.returncode == 0, defined.stderr
            self.kubectl("wait", "--for=condition=established", "customresourcedefinitions", "--all")
        except BaseException:
            self.stop()
            raise

    def start(self, program, *args):
        with open(self.work / f"{program}.log", "w") as log:
            self.processes.append(subprocess.Popen([BIN / program, *args], stdout=log, stderr=log, cwd=self.work))

    def wait(self):
        """Until the server is ready, and its certificate authority and the administrator's kubeconfig are written."""
        end = time.monotonic() + START_SECONDS
        chain = self.work / "certificates" / "apiserver.crt"
        begin = "-----BEGIN CERTIFICATE-----"
        while True:
            dead = [process.args[0].name for process in self.processes if process.poll() is not None]
            assert not dead, f"{dead} ended: {self.logs()}"
            assert time.monotonic() < end, f"not ready: {self.logs()}"
            if not self.config.exists() and chain.exists() and chain.read_text().count(begin) == 2:
                # The server's own certificate, then that of the authority which it made for itself.
                self.ca_file.write_text(begin + chain.read_text().split(begin)[2])
                self.administrator("default")
            if self.config.exists() and self.run("kubectl", "get", "--raw", "/readyz").stdout == "ok":
                return
            time.sleep(0.3)

    def administrator(self, namespace):
        """The administrator's kubeconfig for one namespace."""
        path = self.work / f"{namespace}.kubeconfig"
        path.write_text(yaml.safe_dump({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin", "namespace": namespace}}],
            "clusters": [
                {"name": "test", "cluster": {"server": self.server, "certificate-authority": str(self.ca_file)}}
            ],
            "users": [{"name": "admin", "user": {"token": ADMIN_TOKEN}}],
        }))
        return path

    def logs(self):
        return "\n".join(log.read_text()[-2000:] for log in self.work.glob("*.log"))

    @contextmanager
    def frozen(self):
        """Meanwhile the API server takes connections and answers nothing."""
        server = self.processes[-1]
        server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            server.send_signal(signal.SIGCONT)

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def make_namespace(self, name, level="restricted"):
        """A namespace that takes pods of this level only, with the account that a controller would make in it."""
        labels = {f"pod-security.kubernetes.io/{mode}": level for mode in ("enforce", "audit", "warn")}
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}},
        )
        return self.client(name)

    def client(self, namespace):
        """The administrator in one namespace."""
        return Client(self.administrator(namespace), namespace)

    def granted(self, account):
        """What an account may do in its namespace besides what every account may."""
        return account.rules() - self.account(account.namespace, "nobody", []).rules()

    def account(self, namespace, name, rules=None):
        """A service account as a pod sees it; with `rules` the account is made, and they are all that it may."""
        if rules is not None:
            role = "rbac.authorization.k8s.io"
            meta = {"name": name, "namespace": namespace}
            subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
            self.apply(
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
                {"apiVersion": f"{role}/v1", "kind": "Role", "metadata": meta, "rules": rules},
                {"apiVersion": f"{role}/v1", "kind": "RoleBinding", "metadata": meta, "subjects": [subject],
                 "roleRef": {"apiGroup": role, "kind": "Role", "name": name}},
            )
        folder = self.work / f"{namespace}-{name}"
        folder.mkdir(exist_ok=True)
        (folder / "token").write_text(self.kubectl("create", "token", name, "-n", namespace).strip())
        (folder / "namespace").write_text(namespace)
        shutil.copy(self.ca_file, folder / "ca.crt")
        return Account(namespace, folder, "127.0.0.1", self.port)
