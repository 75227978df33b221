"""What the kubelet does with a pod of the chart, for one container on this machine: volumes, variables, probes."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

import policy


class Pod:
    """The volumes of one pod below a folder, and its container as a process.

    `objects` are all objects of a render, `secrets` and `configmaps` those that are in the cluster besides, by name.
    """

    def __init__(self, folder: Path, pod: dict, objects: list[dict], secrets: dict, configmaps: dict):
        self.folder = folder
        self.metadata, self.spec = pod["metadata"], pod["spec"]
        (self.container,) = policy.ours([{"kind": "Pod", "spec": self.spec}])
        self.mounts = self.container.get("volumeMounts", [])
        self.secrets = dict(secrets)
        self.secrets |= {document["metadata"]["name"]: document["stringData"] for document in policy.of(objects, "Secret")}
        self.configmaps = dict(configmaps)
        self.configmaps |= {document["metadata"]["name"]: document["data"] for document in policy.of(objects, "ConfigMap")}
        self.process = None
        self.mount()

    def inside(self, path: str) -> Path:
        """Where on this machine a path of the container is."""
        return self.folder / path.lstrip("/")

    def mount(self) -> None:
        """Makes the volumes, or brings those with files up to date, each file at once."""
        volumes = {volume["name"]: volume for volume in self.spec.get("volumes", [])}
        for mount in self.mounts:
            target = self.inside(mount["mountPath"])
            target.mkdir(parents=True, exist_ok=True)
            for source in volumes[mount["name"]].get("projected", {}).get("sources", []):
                ((kind, reference),) = source.items()
                content = {"secret": self.secrets, "configMap": self.configmaps}[kind][reference["name"]]
                for item in reference["items"]:
                    fresh = target / f"..{item['path']}"
                    fresh.write_text(content[item["key"]])
                    fresh.rename(target / item["path"])

    def variables(self) -> dict[str, str]:
        """The container's environment, with paths as they are on this machine."""
        found = {}
        for source in self.container["envFrom"]:
            ((kind, reference),) = source.items()
            found |= {"secretRef": self.secrets, "configMapRef": self.configmaps}[kind][reference["name"]]
        for variable in self.container["env"]:
            if "value" in variable:
                found[variable["name"]] = variable["value"]
            elif reference := variable["valueFrom"].get("secretKeyRef"):
                content = self.secrets[reference["name"]]
                if reference["key"] in content or not reference.get("optional"):
                    found[variable["name"]] = content[reference["key"]]
            else:
                assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
                found[variable["name"]] = self.metadata["name"]
        roots = [mount["mountPath"] for mount in self.mounts]
        for name, value in found.items():
            if any(value == root or value.startswith(f"{root}/") for root in roots):
                found[name] = str(self.inside(value))
        return found

    def command(self, program: Path) -> dict:
        return {
            "args": [program, *self.container.get("args", [])],
            "env": self.variables(),
            "cwd": self.inside(self.container.get("workingDir", "/")),
        }

    def run(self, program: Path) -> subprocess.CompletedProcess:
        """Runs the container to its end."""
        return subprocess.run(**self.command(program), capture_output=True, text=True, timeout=60)

    def start(self, program: Path) -> None:
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(**self.command(program), stdout=log, stderr=log)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def probe(self, kind: str) -> bool:
        """Asks once, as the kubelet would; it needs an answer from the port of the name that the probe gives."""
        request = self.container[kind]["httpGet"]
        (port,) = [port["containerPort"] for port in self.container["ports"] if port["name"] == request["port"]]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{request['path']}", timeout=5) as answer:
                return answer.status < 400
        except OSError:
            # No listener, or a status that says no.
            return False

    def stop(self) -> int:
        """SIGTERM, and the exit code within the time that the pod has."""
        self.process.terminate()
        return self.process.wait(self.spec.get("terminationGracePeriodSeconds", 30))
