"""Every field of every operator kind moves a price, or says why it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.system import System
from hw_configs.vector_unit import VectorUnit
from simulator.accelerator.model import SCRATCHPAD
from simulator.cost.by_device import BY_DEVICE, BY_DEVICE_EAGER
from simulator.cost.model import CostModel, OperatorCost
from simulator.cost.roofline import ROOFLINE
from simulator.pim.asic import operator_stages
from tests.typed import work_of
from workloads.graph import Operator
from workloads.operators import KINDS, Attention, FieldInfo, Work, fields_of

PLAIN: dict[str, dict[str, object]] = {
    "matmul": {"m": 64, "n": 4096, "k": 4096, "batch": 2, "weight_bytes": 0.0},
    "grouped_matmul": {"m": 64, "n": 4096, "k": 4096, "groups": 16, "expected_groups": 4.0},
    "attention": {"batch": 8, "heads": 32, "kv_heads": 8, "head_dim": 128, "q_len": 1, "kv_len": 8192},
    "conv": {
        "batch": 8, "in_channels": 64, "out_channels": 128, "height": 56, "width": 56, "kernel_h": 3, "kernel_w": 3,
        "out_height": 56, "out_width": 56,
    },
    "recurrent": {"batch": 8, "sequence": 64, "hidden": 1024, "input_size": 1024, "flops_per_token": 1.6e7},
    "scan": {"batch": 8, "sequence": 1024, "channels": 4096, "state": 16, "flops_per_element": 8.0},
    "optimizer": {"parameters": 1 << 24, "flops_per_parameter": 14.0},
}  # fmt: skip
"""Sizes at which each field has something to move; other kinds are rows."""
ROWS = {"m": 4096, "n": 4096, "flops_per_element": 4.0}
PREFILL = {"q_len": 1024, "causal": True, "batch": 1}
"""Fields that only a prefill has a use for are changed on one."""
OTHER = {
    "weight_dtype": "int4", "kv_dtype": "fp8", "way": "winograd", "parallel": "tensor", "norm": "batch", "kept": 0.125,
    "kept_groups": 0.25, "top_k": 1024, "window": 1024, "chunk": 1024, "page": 16, "v_head_dim": 64, "rate": 2.0,
    "weight_bytes": 1e6, "library": "cutlass", "sink_tokens": 64,
    "block": 128, "scale_block": 128, "left_bytes": 1000, "groups": 2, "expected_groups": 8.0, "share": 2.5,
    "extra_flops": 1e12,
}  # fmt: skip
CONVOLUTIONS: list[dict[str, object]] = [
    {"in_channels": 128, "groups": 128}, {"transposed": True}, {"way": "winograd"}, {"way": "im2win"},
]  # fmt: skip
UNIT = VectorUnit(
    adders=256, multipliers=128, exponential_terms=6, reciprocal_iterations=3, inverse_root_iterations=1
)
SYSTEMS = ("a100-80gb", "csd-node", "tpu-v4i-card")


def plain(kind: str) -> Work:
    known = fields_of(KINDS[kind])
    given = PLAIN.get(kind, ROWS if "flops_per_element" in known else {})
    return work_of(kind, **given)


def other(info: FieldInfo, now: object) -> object:
    fits = not info.choices or OTHER.get(info.name) in info.choices
    if (
        fits
        and info.name in OTHER
        and OTHER[info.name] != now
        and info.type in (type(OTHER[info.name]), float)
    ):
        return OTHER[info.name]
    if info.type is bool:
        return not now
    if info.type is str:
        return next((choice for choice in info.choices if choice != now), "something")
    return now * 2 if now else 1  # type: ignore[operator]


def prices(work: Work) -> Iterator[object]:
    """What every shipped cost model says of the work, on a device of each kind; and PIM's vector unit."""
    traffic = {"beside_read": 3 << 20, "beside_written": 1 << 20}
    cold = Operator("x", work, ("a", "b"), ("c",), **traffic)  # type: ignore[arg-type]
    small = Operator("x", work, ("a", "b"), ("c",), beside_read=2 << 20, beside_written=2 << 20)
    for name in SYSTEMS:
        system = load_system(name)
        models: tuple[CostModel, ...] = (BY_DEVICE, BY_DEVICE_EAGER, ROOFLINE, SCRATCHPAD)
        for model in models:
            for operator in (cold, small):
                yield from price(model, operator, system)
    yield operator_stages(cold, UNIT)


def price(model: CostModel, operator: Operator, system: System) -> Iterator[OperatorCost]:
    from hw_configs.problems import OffchipError

    for node in system.nodes.values():
        if node.compute is not None:
            memory = system.memories[node.memory or node.name]
            try:
                yield model.cost(operator, node, memory)
            except OffchipError:
                continue


FIELDS = [(kind, name) for kind in KINDS if not KINDS[kind].communicates for name in fields_of(KINDS[kind])]


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=[f"{kind}.{name}" for kind, name in FIELDS])
def test_a_field_moves_a_price_or_says_why_not(kind: str, name: str) -> None:
    info = fields_of(KINDS[kind])[name]
    moved = []
    bases = [plain(kind)]
    if kind == "attention":
        bases += [replace(bases[0], **PREFILL), replace(bases[0], kept=0.125), replace(bases[0], window=512)]  # type: ignore[arg-type, call-arg]
    if kind == "grouped_matmul":
        skewed = {"load": "power_law", "exponent": 1.2, "active": 2, "m": 4096}
        bases += [replace(bases[0], **skewed)]  # type: ignore[arg-type]
    if kind == "conv":
        bases += [replace(bases[0], **more) for more in CONVOLUTIONS]  # type: ignore[arg-type]
    for base in bases:
        changed = replace(base, **{name: other(info, getattr(base, name))})  # type: ignore[arg-type]
        moved.append(list(prices(base)) != list(prices(changed)))
    if info.without_effect:
        assert not any(moved), f"{kind}.{name} moves a price, but is declared without effect"
    else:
        assert any(moved), f"{kind}.{name} moves no price and does not say why"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind].communicates])
def test_fields_of_communication_reach_the_links(kind: str) -> None:
    names = set(fields_of(KINDS[kind])) - {"share", "extra_flops"}
    assert names <= {"bytes", "group", "parallel", "peer"}
    for info in fields_of(KINDS[kind]).values():
        assert info.meaning


@given(
    st.integers(1, 40), st.integers(0, 60), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30),
    st.booleans(), st.integers(0, 9),
)  # fmt: skip
def test_pairs_and_positions_equal_a_plain_count(
    new: int, past: int, window: int, chunk: int, top_k: int, causal: bool, sinks: int
) -> None:
    if chunk:
        window = top_k = 0
    sinks = sinks if window and not top_k else 0
    if not causal:
        chunk = 0
    work = Attention(
        batch=1, heads=1, kv_heads=1, head_dim=1, q_len=new, kv_len=past + new, causal=causal, window=window,
        chunk=chunk, top_k=top_k, sink_tokens=sinks,
    )  # fmt: skip
    pairs, touched = 0, set()
    for query in range(past, past + new):
        keys = range(past + new) if not causal else range(query + 1)
        if chunk:
            keys = range(query // chunk * chunk, query + 1)
        seen = len(keys)
        for limit in (window, top_k):
            seen = min(seen, limit) if limit else seen
        if sinks:
            # The last of what the mask leaves, and the first of all.
            kept = (
                {key for key in keys if key in keys[max(0, len(keys) - window) :] or key < sinks}
                if causal
                else set()
            )
            seen = len(kept) if causal else min(len(keys), window + sinks)
            touched |= kept
        pairs += seen
    assert work.pairs == pairs
    assert work.flops == 4 * pairs
    assert not touched or work.seen == len(touched)
    with_logits = replace(work, sink_logits=True)
    assert with_logits.flops == work.flops + 2 * new
    assert with_logits.pairs == work.pairs
