import pytest

from workloads.recorded.chakra_file import trace_bytes


@pytest.fixture
def saved(tmp_path):
    """Writes the nodes (or bytes) of a trace to a file and gives its path."""

    def save(nodes, name="rank.0.et"):
        path = tmp_path / name
        path.write_bytes(nodes if isinstance(nodes, bytes) else trace_bytes(nodes))
        return path

    return save
