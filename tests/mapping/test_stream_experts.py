"""stream-weights on models with experts: what moves is what drawn tokens want and do not find."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import offchip
from hw_configs.problems import InputError
from mapping.liveness import footprint
from mapping.mapper import MapperOptions, mapper_settings, plan_writer
from mapping.notes import typed_notes
from mapping.offload.stream_weights import StreamWeightsNotes
from simulator.check import check
from simulator.plan import Compute, Plan, Transfer
from simulator.plan_file import plan_from_json
from simulator.rewrite.apply import rewrite
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.workload import Phase, Workload, WorkloadOptions

LAYERS = 6


@cache
def graph_of(model: str, batch: int = 1) -> Graph:
    options = WorkloadOptions(phase="decode", batch=batch, prompt=64, layers=LAYERS)
    return load_workload(model, options).phases[0].graph


def experts_bytes(graph: Graph) -> int:
    return sum(t.size_bytes for t in graph.tensors.values() if ".experts." in t.name and t.is_weight)


def planned(graph: Graph, room: int | None = None, **settings: object) -> tuple[Plan, StreamWeightsNotes]:
    """The plan on a workstation with so many bytes of GPU memory in use."""
    text = {name.replace("_", "-"): str(value) for name, value in settings.items()}
    if room is not None:
        text["limit"] = f"{room} B"
    options = MapperOptions(settings=mapper_settings("stream-weights", text, "plan"))
    system = offchip.load_system("workstation")
    plan = plan_writer("stream-weights").plan(graph, system, options)
    assert check(plan, rewrite(graph, plan), system) == []
    notes = typed_notes(plan, StreamWeightsNotes)
    assert typed_notes(plan_from_json(plan.to_json(), "plan.json"), StreamWeightsNotes) == notes
    return plan, notes


def run(graph: Graph, plan: Plan, fidelity: str = "event") -> tuple[float, float, int]:
    """Seconds, bytes over the link, most bytes of GPU memory."""
    workload = Workload(graph.name, (Phase("decode", "decode", graph, 1),))
    result = offchip.simulate(workload, offchip.load_system("workstation"), plan=plan, fidelity=fidelity)
    return result.makespan_s, result.wires["pcie:gpu-cpu"].bytes_backward, result.memories["gpu"].peak_bytes


@pytest.mark.parametrize("access", ["copy", "unified", "zero-copy"])
@pytest.mark.parametrize(
    "model", ["mixtral-8x7b", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite", "llama-4-scout"]
)
def test_only_experts_that_a_token_reaches_move(model: str, access: str) -> None:
    graph = graph_of(model)
    room = footprint(graph).bytes - experts_bytes(graph) * 6 // 10
    plan, notes = planned(graph, room, access=access)
    streamed = {name for name, homes in plan.homes.items() if homes[0].memory != "gpu"}
    assert all(".experts." in name or name == "embedding.weight" for name in streamed)
    # Counted by hand: of each streamed tensor of a layer, a token wants k of its experts.
    wanted = 0.0
    for name in streamed:
        tensor = graph.tensors[name]
        (user,) = graph.consumers[name]
        work = graph.operator_by_name[user].work
        share = work.active / work.groups if ".experts." in name else 1 / tensor.shape[0]  # type: ignore[attr-defined]
        wanted += tensor.size_bytes * share
    assert notes.streamed_bytes == pytest.approx(wanted, rel=1e-6)
    for fidelity in ("event", "analytic"):
        _, moved, most = run(graph, plan, fidelity)
        assert moved == notes.streamed_bytes
        assert most <= room


def test_experts_come_once_the_router_has_chosen() -> None:
    graph = graph_of("mixtral-8x7b")
    plan, _ = planned(graph, footprint(graph).bytes - experts_bytes(graph) // 2)
    fetched = [task for task in plan.tasks if isinstance(task, Transfer) and ".experts." in task.tensor]
    assert fetched
    for task in fetched:
        layer = task.tensor.split(".mlp.")[0]
        assert f"{layer}.mlp.experts.sort" in task.after
        assert 0 < task.touched_bytes < graph.tensors[task.tensor].size_bytes


def draw(weights: np.ndarray, active: int, rng: np.random.Generator) -> list[int]:
    """A token's experts: the first of exponential moments, which is a draw by weight without return."""
    return [int(e) for e in np.argsort(rng.exponential(size=len(weights)) / weights)[:active]]


@pytest.mark.parametrize("policy", ["static", "lru"])
@pytest.mark.parametrize(
    ("model", "slots", "exponent"), [("qwen3-30b-a3b", 40, 1.0), ("deepseek-v2-lite", 24, 0.5)]
)
def test_what_moves_is_what_drawn_tokens_do_not_find(
    model: str, slots: int, exponent: float, policy: str
) -> None:
    """Tokens drawn and caches played, layer by layer."""
    graph = graph_of(model)
    plan, notes = planned(
        graph, expert_slots=slots, expert_frequency=f"zipf:{exponent}", expert_policy=policy
    )
    products = [op for op in graph.operators if op.kind == "grouped_matmul"]
    layers = len(products) // 2
    work = products[0].work
    experts, active = work.groups, work.active  # type: ignore[attr-defined]
    per_expert = experts_bytes(graph) / layers / experts
    weights = np.arange(1.0, experts + 1) ** -exponent
    rng, tokens = np.random.default_rng(11), 1500
    missed = 0
    for _ in range(layers):
        inside = OrderedDict.fromkeys(range(slots))
        for token in range(tokens):
            wanted = draw(weights, active, rng)
            missed += sum(e not in inside for e in wanted) if token * 5 >= tokens else 0
            if policy == "lru":
                for expert in wanted:
                    inside[expert] = None
                    inside.move_to_end(expert)
                while len(inside) > slots:
                    inside.popitem(last=False)
    counted = missed / (tokens * 4 / 5) * per_expert
    assert notes.streamed_bytes == pytest.approx(counted, rel=0.04)
    assert notes.experts_kept == slots * layers
    assert notes.hit_rate == pytest.approx(1 - counted / (active * per_expert * layers), abs=0.02)
    assert run(graph, plan)[1] == notes.streamed_bytes


def test_as_many_experts_stay_as_fit() -> None:
    graph = graph_of("mixtral-8x7b")
    room = footprint(graph).bytes - experts_bytes(graph) * 6 // 10
    moved = []
    for frequency in ("uniform", "zipf:1", "zipf:2"):
        plan, notes = planned(graph, room, expert_frequency=frequency)
        assert notes.experts_kept is not None
        assert 0 < notes.experts_kept < 8 * LAYERS
        assert run(graph, plan)[2] <= room
        one = experts_bytes(graph) / (8 * LAYERS)
        # One more would not have fitted beside what moves.
        assert run(graph, plan, "analytic")[2] + 3 * one > room
        moved.append(notes.streamed_bytes)
    assert moved[0] > moved[1] > moved[2]
    plain = planned(graph, room)[1].streamed_bytes
    assert moved[0] == pytest.approx(plain, rel=0.2)


def test_guesses_come_a_layer_ahead_and_wrong_ones_for_nothing() -> None:
    graph = graph_of("mixtral-8x7b")
    plain, without = planned(graph, expert_slots=4, ahead=4)
    seconds = run(graph, plain)[0]
    for right in (0.5, 0.8, 1.0):
        plan, notes = planned(graph, expert_slots=4, ahead=4, prefetch=right)
        # The first layer has none before it from which to guess.
        share = 1 + (1 - right) * (LAYERS - 1) / LAYERS
        assert notes.streamed_bytes == pytest.approx(without.streamed_bytes * share, rel=1e-6)
        names = [task.name for task in plan.tasks]
        guesses = [t for t in plan.tasks if isinstance(t, Transfer) and t.name.startswith("guess ")]
        assert len(guesses) == 2 * (LAYERS - 1)
        for task in guesses:
            layer = int(task.tensor.split(".")[1])
            assert f"layers.{layer - 1}.mlp.experts.sort" in task.after
            assert f"layers.{layer}.mlp.experts.sort" not in task.after
            assert names.index(task.name) < names.index(f"layers.{layer}.mlp.experts.sort")
        took, moved, _ = run(graph, plan)
        assert moved == notes.streamed_bytes
        if right == 1.0:
            assert took < seconds


def test_a_file_says_which_layers_repeat_themselves(tmp_path: Path) -> None:
    file = tmp_path / "experts.csv"
    rows = [f"{layer},{e},{100 if e < 2 and layer < 3 else 1}" for layer in range(LAYERS) for e in range(8)]
    file.write_text("\n".join(["layer,expert,count", *rows]) + "\n")
    graph = graph_of("mixtral-8x7b")
    plan, notes = planned(graph, expert_slots=2, expert_frequency=file)
    shares = [plan.experts[f"layers.{layer}.mlp.experts.gate_up"].shares[0] for layer in range(LAYERS)]
    assert shares == pytest.approx([200 / 206] * 3 + [0.25] * 3)
    assert notes.hit_rate == pytest.approx(sum(shares) / LAYERS)


@pytest.mark.parametrize(
    ("model", "settings", "found"),
    [
        ("mixtral-8x7b", {"expert_slots": 9}, "expert-slots: found 9; a layer has 8 experts"),
        ("gpt2", {"expert_slots": 1}, "has no experts to keep"),
        ("mixtral-8x7b", {"expert_frequency": "zipf:x"}, "expert-frequency: found 'zipf:x'"),
        ("mixtral-8x7b", {"prefetch": 1.5}, "prefetch: found"),
        ("mixtral-8x7b", {"prefetch": 0.5, "access": "zero-copy"}, "zero-copy brings nothing ahead"),
        ("mixtral-8x7b", {"expert_policy": "fifo"}, "expert-policy: found 'fifo'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_told(model: str, settings: dict[str, object], found: str) -> None:
    with pytest.raises(InputError, match=found):
        planned(graph_of(model), None, **settings)


def test_all_experts_stay_where_they_fit() -> None:
    graph = graph_of("mixtral-8x7b")
    every: list[dict[str, object]] = [{}, {"expert_slots": 8}, {"expert_frequency": "uniform"}]
    for settings in every:
        plan, notes = planned(graph, None, **settings)
        assert notes.streamed_bytes == 0
        assert all(isinstance(task, Compute) for task in plan.tasks)


@pytest.mark.parametrize("policy", ["static", "lru"])
@pytest.mark.parametrize("batch", [3, 40, 5000])
def test_steps_that_want_more_experts_than_stay(policy: str, batch: int) -> None:
    """A cache holds no more than its slots, and what is not found is wanted of the others alone."""
    graph = graph_of("qwen3-30b-a3b", batch)
    plan, notes = planned(graph, expert_slots=20, expert_frequency="zipf:1", expert_policy=policy)
    for groups in plan.experts.values():
        assert groups.touched[0] <= 20 * (1 + 1e-9)
        assert groups.touched[1] <= 108 * (1 + 1e-9)
    whole = experts_bytes(graph)
    assert notes.streamed_bytes <= whole * 108 / 128 * (1 + 1e-6)
    if batch == 5000:
        assert notes.streamed_bytes == pytest.approx(whole * 108 / 128, rel=1e-3)
