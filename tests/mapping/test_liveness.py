"""The footprint of a graph is what a run of it holds."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.liveness import footprint
from tests.typed import operator_of
from workloads.graph import PERSISTENT_ROLES, Graph, Role, Tensor


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    sizes = st.integers(0, 50)
    tensors = {
        name: Tensor(name, (draw(sizes),), "int8", role)
        for name, role in (
            ("w", Role.WEIGHT),
            ("k", Role.KV_CACHE),
            ("x", Role.ACTIVATION),
            ("y", Role.ACTIVATION),
        )
    }
    operators = []
    for number in range(draw(st.integers(0, 7))):
        inputs = draw(st.lists(st.sampled_from(sorted(tensors)), max_size=3))
        outputs = []
        for part in range(draw(st.integers(0, 2))):
            name = f"t{number}.{part}"
            tensors[name] = Tensor(name, (draw(sizes),), "int8")
            outputs.append(name)
        operators.append(
            operator_of("elementwise", name=f"o{number}", inputs=tuple(inputs), outputs=tuple(outputs))
        )
    outputs = [n for n in tensors if n.startswith("t") and draw(st.booleans())]
    return Graph("g", tensors, tuple(operators), tuple(outputs))


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_the_peak_is_the_fullest_moment(graph: Graph) -> None:
    """Worked out moment by moment: a tensor lives from its maker to its last reader."""
    count = len(graph.operators)
    order = {op.name: index for index, op in enumerate(graph.operators)}
    spans = {}
    for name, tensor in graph.tensors.items():
        if tensor.role in PERSISTENT_ROLES:
            continue
        born = order[graph.producer[name]] if name in graph.producer else -1
        users = [order[reader] for reader in graph.consumers[name]]
        last = count if name in graph.outputs else max(users, default=born if born >= 0 else count)
        spans[name] = (born, last)
    live = [
        {name for name, (born, last) in spans.items() if born <= moment <= last}
        for moment in range(-1, count + 1)
    ]
    totals = [sum(graph.tensors[name].size_bytes for name in names) for names in live]
    found = footprint(graph)
    assert found.transient_peak_bytes == max(totals)
    assert set(found.live_at_peak) == live[totals.index(max(totals))]
    assert found.persistent_bytes == graph.tensors["w"].size_bytes + graph.tensors["k"].size_bytes
    assert found.bytes == found.persistent_bytes + found.transient_peak_bytes
