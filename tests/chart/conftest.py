"""Shared by the tests: the folder on the path, and the values files of charts/baton-jumpcloud/ci."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from chartlib import CHART, load, render  # noqa: E402

CI = sorted((CHART / "ci").glob("*-values.yaml"))


@pytest.fixture(params=CI, ids=lambda path: path.name.removesuffix("-values.yaml"), scope="module")
def ci_values(request) -> dict:
    return load(request.param)


@pytest.fixture(scope="session")
def default() -> list[dict]:
    """The objects of the smallest set of values that works."""
    return render(load(CHART / "ci" / "default-values.yaml"))
