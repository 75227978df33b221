"""One server for all tests, and a namespace for each."""

import re

import pytest

from cluster import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    server = Cluster(tmp_path_factory.mktemp("cluster"))
    yield server
    server.stop()


@pytest.fixture
def namespace(cluster, request):
    """A client in a new namespace that takes restricted pods only."""
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:50].strip("-")
    return cluster.make_namespace(name)
