"""The block schedule: its equations against the released model's figures, its search against brute force."""

from __future__ import annotations

import csv
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.problems import InfeasibleError, InputError
from mapping.offload.block_policy import RELEASED_T4, BlockPolicy, BlockShape, Capacities, shape_of
from mapping.offload.block_schedule import FORMS, block_cost
from mapping.offload.machine_rates import capacities_of, rates_of
from mapping.offload.placement_lp import best_policy, best_shares

TABLE = Path(__file__).parent.parent / "reference" / "flexgen" / "flexgen_cost_model.csv"
GIB = 2**30
SMALL = BlockShape(4, 1024, 4096, 16, 1024, 2, 128, 8)
ROOM = Capacities(0.25 * GIB, 0.5 * GIB, 4 * GIB)


def rows() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "row", rows(), ids=lambda r: f"{r['model']}-{r['prompt_len']}-{r['num_gpu_batches']}"
)
def test_the_released_models_figures(row: dict[str, str]) -> None:
    shape = shape_of(row["model"], int(row["prompt_len"]), int(row["gen_len"]))
    shares = [int(row[key]) / 100 for key in ("w_gpu", "w_cpu", "c_gpu", "c_cpu", "h_gpu", "h_cpu")]
    policy = BlockPolicy(int(row["gpu_batch_size"]), int(row["num_gpu_batches"]), *shares)
    cost = block_cost(shape, RELEASED_T4, policy)
    assert cost.prefill_layer_s == pytest.approx(float(row["predicted_T_prefill_layer_s"]), abs=5.1e-4)
    assert cost.decode_layer_s == pytest.approx(float(row["predicted_T_decode_layer_s"]), abs=5.1e-4)
    assert cost.tokens_per_s == pytest.approx(float(row["predicted_tokens_per_s"]), abs=5.1e-3)


def test_a_layer_by_hand() -> None:
    """One layer of width 2 on rates of 1, everything on the disk: each stream is its bytes."""
    shape = BlockShape(1, 2, 4, 1, 2, 2, 3, 2)
    names = [name for name in RELEASED_T4.__dataclass_fields__ if name != "cpu_fit"]
    ones = replace(RELEASED_T4, **dict.fromkeys(names, 1.0), cpu_fit=(0.0, 0.0, 0.0))  # type: ignore[arg-type]
    cost = block_cost(shape, ones, BlockPolicy(1, 1, 0, 0, 0, 0, 0, 1), "published")
    parameters = 4 * 2 * 2 + 2 * 2 * 4
    assert shape.layer_parameters == parameters
    assert cost.prefill.disk_to_host == 2 * parameters
    assert cost.prefill.host_to_gpu == 2 * parameters + 2 * 3 * 2
    assert cost.prefill.gpu_to_host == 2 * 2 * 2 * 4 + 2 * 3 * 2
    assert cost.prefill.compute == 2 * 3 * parameters + 4 * 9 * 2
    assert cost.decode.disk_to_host == 2 * parameters + (3 + 1) * 8
    assert cost.decode.compute == 2 * parameters + 4 * 4 * 2
    assert cost.total_s == max(cost.prefill.compute, cost.prefill.host_to_gpu) + cost.decode.compute


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 8),
    st.lists(st.integers(0, 10), min_size=8, max_size=8),
    st.sampled_from(FORMS),
)
def test_no_shares_beat_the_program(gpu_batch: int, batches: int, weights: list[int], form: str) -> None:
    found = best_shares(SMALL, RELEASED_T4, ROOM, gpu_batch, batches, form)  # type: ignore[arg-type]

    def parts(values: list[int]) -> list[float]:
        total = sum(values) or 1
        return [v / total if sum(values) else 1 / len(values) for v in values]

    w, c, h = parts(weights[:3]), parts(weights[3:6]), parts(weights[6:])
    policy = BlockPolicy(gpu_batch, batches, w[0], w[1], c[0], c[1], h[0], h[1])
    cost = block_cost(SMALL, RELEASED_T4, policy, form)  # type: ignore[arg-type]
    if found is None:
        assert not cost.fits(ROOM)
        return
    assert found.cost.fits(Capacities(*(x * (1 + 1e-6) for x in (ROOM.gpu, ROOM.host, ROOM.disk))))
    if cost.fits(ROOM):
        assert found.cost.total_s <= cost.total_s * (1 + 1e-6)


def test_the_search_finds_the_best_of_all_block_sizes() -> None:
    tight = Capacities(0.12 * GIB, 0.2 * GIB, 0.6 * GIB)
    found = best_policy(SMALL, RELEASED_T4, tight, fill=1.0)
    best = 0.0
    for gpu_batch, batches in itertools.product((1, 2, 3, 4, 8, 16, 32), range(1, 200)):
        one = best_shares(SMALL, RELEASED_T4, tight, gpu_batch, batches)
        if one is None:
            break
        best = max(best, one.cost.tokens_per_s)
    assert found.cost.tokens_per_s == pytest.approx(best, rel=1e-3)


def test_the_released_searches() -> None:
    limits = Capacities(16 * GIB, 200 * GIB, 1500 * GIB)
    for model, block, rate in (("opt-30b", (32, 5), 7.09), ("opt-175b", (1, 432), 0.17)):
        found = best_policy(shape_of(model, 512, 32), RELEASED_T4, limits)
        assert (found.policy.gpu_batch, found.policy.batches) == block
        assert found.cost.tokens_per_s == pytest.approx(rate, abs=5.1e-3)


@given(st.sampled_from(["opt-30b", "llama-2-13b"]), st.integers(1, 64), st.integers(1, 16))
@settings(max_examples=20, deadline=None)
def test_less_overlap_is_never_faster(model: str, gpu_batch: int, batches: int) -> None:
    policy = BlockPolicy(gpu_batch, batches, 0.2, 0.5, 0.1, 0.4, 0.5, 0.5)
    shape = shape_of(model, 512, 32)
    published, released, serial = (block_cost(shape, RELEASED_T4, policy, form).total_s for form in FORMS)  # type: ignore[arg-type]
    assert published <= released <= serial


def test_grouped_queries_and_gates_are_counted() -> None:
    shape = shape_of("llama-3-8b", 512, 32)
    assert (shape.kv_width, shape.ffn_products, shape.layers) == (1024, 3, 32)
    assert shape.layer_parameters == 2 * 4096 * (4096 + 1024) + 3 * 4096 * 14336


def test_rates_of_a_machine_hold_what_its_parts_do() -> None:
    system = load_system("t4-server")
    rates = rates_of(system, "opt-1.3b", 256, 8)
    link = next(w.link for w in system.wires.values() if ("gpu", "cpu") in w.ends)
    assert rates.host_to_gpu == pytest.approx(link.bandwidth)
    assert rates.disk_to_host <= 2e9
    assert rates.attention_host < rates.attention_decode < rates.matmul_prefill
    assert capacities_of(system).host == system.memories["host"].usable_bytes


def test_what_cannot_be() -> None:
    with pytest.raises(InfeasibleError, match="weights alone"):
        best_policy(SMALL, RELEASED_T4, Capacities(1e6, 1e6, 1e6))
    with pytest.raises(InputError, match="shares of at most 1"):
        BlockPolicy(1, 1, 0.7, 0.7, 0, 0, 0, 1)
    with pytest.raises(InputError, match="dense decoders"):
        shape_of("mixtral-8x7b", 512, 32)
    with pytest.raises(InputError, match="no host memory"):
        rates_of(load_system("a6000"), "opt-1.3b", 256)
