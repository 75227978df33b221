"""The tools that chart authors use, built from hash-pinned Go modules into target/chart-tools.

    python tests/chart/tools.py         builds them where Go is, and says so where it is not
    python tests/chart/tools.py docs    writes the chart's README.md

The tests that need one are skipped without Go; pytest's own tests check the same things otherwise.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from chartlib import CHART, ROOT

TOOLS = {
    "helm-docs": "github.com/norwoodj/helm-docs/cmd/helm-docs",
    "helm-unittest": "github.com/helm-unittest/helm-unittest/cmd/helm-unittest",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform",
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5",
}
TARGET = ROOT / "target" / "chart-tools"
MODULE = Path(__file__).parent / "tools"


def build() -> None:
    """Builds what is wanted; Go's cache makes this short the second time. kubectl has a kustomize inside."""
    wanted = [package for name, package in TOOLS.items() if name != "kustomize" or not shutil.which("kubectl")]
    go = shutil.which("go")
    if go is None:
        print("no Go: helm-docs, helm-unittest, kubeconform and kustomize are left out")
        return
    TARGET.mkdir(parents=True, exist_ok=True)
    subprocess.run([go, "build", "-C", MODULE, "-buildvcs=false", "-o", f"{TARGET}/", *wanted], check=True)


def find(name: str) -> Path | None:
    path = TARGET / name
    return path if path.exists() else None


def helm_docs(folder: Path) -> str:
    """The README of the chart in `folder`, as helm-docs makes it."""
    command = [find("helm-docs"), "--dry-run", "--chart-search-root", folder, "--sort-values-order=file", "--log-level=warning"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    build()
    if sys.argv[1:] == ["docs"] and find("helm-docs"):
        (CHART / "README.md").write_text(helm_docs(CHART))
