"""A whole generation on a PIM memory: remembered programs equal the plain engine, plans say what will happen."""

from __future__ import annotations

import pytest

from hw_configs.device import Pim
from hw_configs.problems import InfeasibleError, InputError
from mapping.layout.pim import MAPPER
from mapping.mapper import MapperOptions, default_mapper
from offchip.api import load_model, load_system, simulate, solve
from simulator.pim.engine import PimEngine
from simulator.pim.operators import PimCosts, _run
from simulator.pim.pricing import Pricer
from simulator.pim.recipes import MemoryStage, recipe
from simulator.plan_file import read_plan, write_plan

SYSTEM = load_system("pim-gpt")


def decode(model="gpt2", context=300, capacity=512, **more):
    return load_model(model, phase="decode", prompt=context, generate=capacity - context, **more)


@pytest.fixture(scope="module")
def planned():
    graph = decode().phases[0].graph
    return graph, MAPPER.plan(graph, SYSTEM, MapperOptions())


def stages_of(graph, plan, names):
    device = SYSTEM.nodes["pim"].device
    assert isinstance(device, Pim)
    pricer = Pricer(device)
    unit = SYSTEM.nodes["asic"].device.vector_unit
    for name in names:
        operator = graph.operator_by_name[name]
        yield operator, recipe(operator, plan.kernels[name], pricer.lowering, unit), pricer


LAYER = tuple(
    f"layers.0.{part}"
    for part in ("attention.qkv", "attention.attend", "attention.out", "mlp.up", "mlp.down")
)


def test_remembered_programs_equal_the_plain_engine(planned):
    """Each program of a layer, run command by command without a leap at the tick where it falls."""
    graph, plan = planned
    now = 0
    for _, stages, pricer in stages_of(graph, plan, LAYER):
        plain = PimEngine(pricer.device, refresh="off")
        for stage in stages:
            if not isinstance(stage, MemoryStage):
                continue
            for share in stage.shares:
                remembered = pricer.work(share)
                cycles = 0
                for chunk in pricer.chunks(share.write()):
                    result = plain.run(chunk, start_cycle=now, leap=False, settle=True)
                    cycles += result.cycles
                    now += result.cycles
                assert cycles == remembered.cycles


def test_counts_a_plan_expects_are_those_of_the_engine(planned):
    graph, plan = planned
    expected = {"rows": 0, "columns": 0}
    seen = {"rows": 0, "columns": 0}
    for _, stages, pricer in stages_of(graph, plan, (*LAYER, "lm_head")):
        for stage in stages:
            if not isinstance(stage, MemoryStage):
                continue
            for share in stage.shares:
                if share.counts is None:
                    continue
                work = pricer.work(share)
                figures = dict(zip(("column_accesses", "row_misses"), work.figures, strict=False))
                assert figures["column_accesses"] == share.counts.column_accesses
                assert figures["row_misses"] == share.counts.rows
                assert work.figures[4] == share.counts.vector_accesses * pricer.device.column_bytes
                assert work.figures[5] == share.counts.reads * pricer.device.column_bytes
                expected["rows"] += share.counts.rows * share.channels
                expected["columns"] += share.counts.column_accesses * share.channels
                seen["rows"] += figures["row_misses"] * share.channels
                seen["columns"] += figures["column_accesses"] * share.channels
    assert expected == seen
    assert 1 - seen["rows"] / seen["columns"] == pytest.approx(plan.notes.expected_row_hit_rate, abs=0.004)


def test_closed_form_is_near_the_engine(planned):
    """The dearer level's answer is the cycle engine's; the closed form states its error against it."""
    graph, plan = planned
    for _, stages, pricer in stages_of(graph, plan, (*LAYER, "lm_head")):
        for stage in stages:
            if isinstance(stage, MemoryStage):
                for share in stage.shares:
                    if share.counts is not None and share.counts.rows > 8:
                        assert pricer.pace.cycles(share.counts) == pytest.approx(
                            pricer.work(share).cycles, rel=0.05
                        )
    exact = simulate(decode(), SYSTEM, plan=plan, fidelity="cycle")
    for fidelity in ("event", "analytic"):
        rough = simulate(decode(), SYSTEM, plan=plan, fidelity=fidelity)
        assert rough.makespan_s == pytest.approx(exact.makespan_s, rel=0.03)
        assert rough.total_energy_j == pytest.approx(exact.total_energy_j, rel=0.03)


def test_every_refresh_is_served_and_none_too_late(planned):
    """The grid's refreshes are all there, each at most eight intervals late."""
    graph, plan = planned
    costs = PimCosts(SYSTEM, exact=True)
    now = 0.0
    refreshes = 0.0
    site = None
    for _ in range(40):
        for name in LAYER:
            cost = costs.cost(graph.operator_by_name[name], "pim", plan.kernels[name], now)
            refreshes += cost.usage.varying["refreshes"]
            now += cost.launch_seconds + cost.seconds
            site = costs._site("pim", "published")
            late = (now / site.pricer.device.tick_s - site.due) / site.pricer.interval
            assert late < 8
    assert site is not None
    intervals = now / site.pricer.device.tick_s / site.pricer.interval
    assert intervals - 8 <= refreshes <= intervals + 1


def test_a_refresh_holds_up_what_comes_after_it(planned):
    graph, plan = planned
    costs = PimCosts(SYSTEM, exact=True)
    name = LAYER[0]
    costs.cost(graph.operator_by_name[name], "pim", plan.kernels[name], 0.0)
    site = costs._site("pim", "published")
    steps = costs._steps(graph.operator_by_name[name], plan.kernels[name], site)
    interval, duration = site.pricer.interval, site.pricer.refresh_cycles
    alone = sum(sum(chunks) + max(exposed, 0) for exposed, _, chunks in steps.stages)
    for late, expected in ((0, duration), (10, duration - 10), (duration, 0)):
        site.due, site.memory_free, site.host_free = float(interval), 0.0, 0.0
        end, refreshes, _ = _run(site, steps, float(interval + late))
        assert refreshes == 1 or alone + expected > interval
        assert end == interval + late + expected + alone


def test_parts_of_the_time_add_up(planned):
    _, plan = planned
    result = simulate(decode(), SYSTEM, plan=plan, fidelity="cycle")
    figures = result.counters["pim"]
    parts = ("products_s", "partial_sums_s", "key_write_s", "scores_s", "softmax_s", "value_write_s", "weighted_sum_s",
             "norms_and_activations_s", "parameters_s")  # fmt: skip
    launches = sum(use.launch_s for use in result.devices.values())
    assert sum(figures[part] for part in parts) + launches == pytest.approx(result.makespan_s, rel=1e-9)
    moved = sum(figures[name] for name in ("vector_bytes", "written_bytes"))
    assert moved == result.memories["pim"].written_bytes
    assert result.provenance["by_pim_engine"] == ["pim"]


def test_overlap_is_faster_and_never_below_the_memory_alone():
    serial = simulate(decode(), SYSTEM, fidelity="cycle")
    both = simulate(decode(), SYSTEM, fidelity="cycle", mapper="pim", settings={"overlap": "yes"})
    assert both.makespan_s < serial.makespan_s
    memory = sum(
        v for k, v in serial.counters["pim"].items() if k in ("products_s", "scores_s", "weighted_sum_s")
    )
    assert both.makespan_s > memory * 0.95


def test_the_best_layout_is_no_slower_than_the_published_one():
    for model in ("gpt2", "gpt3-large"):
        best = simulate(decode(model), SYSTEM, fidelity="cycle")
        published = simulate(
            decode(model), SYSTEM, fidelity="cycle", mapper="pim", settings={"layout": "published"}
        )
        assert best.makespan_s < published.makespan_s
        frugal = simulate(
            decode(model), SYSTEM, fidelity="cycle", mapper="pim", settings={"objective": "energy"}
        )
        assert frugal.total_energy_j <= best.total_energy_j * 1.01


def test_honest_rules_cost_time():
    published = simulate(decode(), SYSTEM, fidelity="cycle")
    honest = simulate(decode(), SYSTEM, fidelity="cycle", mapper="pim", settings={"rules": "honest"})
    assert honest.makespan_s > published.makespan_s


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("model", ["gpt2", "llama-3-8b"])
def test_generations_run_in_both_forms_of_graph(model, fused):
    if model == "llama-3-8b":
        with pytest.raises(InfeasibleError, match="rows of every bank"):
            simulate(model, SYSTEM, prompt=4, generate=2, fused=fused)
        return
    result = simulate(model, SYSTEM, prompt=4, generate=3, fused=fused, fidelity="cycle")
    assert [phase.kind for phase in result.phases] == ["prefill", "decode", "decode", "decode"]
    times = [phase.seconds for phase in result.phases]
    # A prefill of four tokens is four times the work of one; the head's logits are computed once.
    assert 2.5 * times[1] < times[0] < 4.5 * times[1]


def test_prefill_sums_up_the_steps_it_stands_for():
    """Token by token, a prompt's attention is that of so many decode steps."""
    long = simulate(decode("gpt2", 8, 8), SYSTEM, fidelity="cycle")
    prompt = simulate(load_model("gpt2", phase="prefill", prompt=8), SYSTEM, fidelity="cycle")
    scores = prompt.counters["pim"]["macs"]
    assert scores > 8 * 0.6 * long.counters["pim"]["macs"] - 8 * 50257 * 768


def test_plans_go_through_files(planned, tmp_path):
    _, plan = planned
    write_plan(plan, tmp_path / "plan.json")
    again = read_plan(tmp_path / "plan.json")
    assert again.kernels == plan.kernels
    one = simulate(decode(), SYSTEM, plan=plan, fidelity="cycle")
    other = simulate(decode(), SYSTEM, plan=again, fidelity="cycle")
    assert one.makespan_s == other.makespan_s


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("tile", 17, "multiple of 16"),
        ("tile", "wide", "whole number"),
        ("packing", "loose", "aligned or flat"),
        ("output_parts", 16, "more than the 8 channels"),
        ("kind", "weihgts", "weights"),
        ("tiles", 3, "unknown key"),
        ("overlap", "no", "true or false"),
        ("rules", "none", "published or honest"),
    ],
)
def test_a_kernel_that_misfits_is_bad_input(planned, key, value, message):
    from dataclasses import replace

    _, plan = planned
    kernel = {**plan.kernels[LAYER[0]], key: value}
    wrong = replace(plan, kernels={**plan.kernels, LAYER[0]: kernel})
    with pytest.raises(InputError, match=message):
        simulate(decode(), SYSTEM, plan=wrong, fidelity="cycle")


def test_bad_settings_and_wrong_machines():
    with pytest.raises(InputError, match="one of time, energy"):
        simulate("gpt2", SYSTEM, mapper="pim", settings={"objective": "speed"})
    with pytest.raises(InputError, match="vector unit"):
        simulate("gpt2", "a100-80gb", mapper="pim")
    with pytest.raises(InputError, match="GPU and PIM"):
        simulate("gpt2", SYSTEM, mapper="pim-attention")
    with pytest.raises(InfeasibleError, match="conv runs neither"):
        simulate("resnet-18", SYSTEM)
    assert default_mapper(SYSTEM, MapperOptions()) == "pim"
    assert default_mapper(load_system("gpu-pim"), MapperOptions()) == "single-device"


def test_the_same_input_gives_the_same_bytes():
    one, other = (solve(decode(), SYSTEM, "pim").to_json() for _ in range(2))
    assert one == other


def test_sampled_contexts_stand_for_every_token():
    """The study's mean over evenly spaced contexts against a whole generation, token by token."""
    from offchip.studies.pim_generation import token_cost

    mean = token_cost("gpt2", tokens=128)
    whole = simulate("gpt2", SYSTEM, prompt=1, generate=127, fidelity="cycle")
    steps = [phase.seconds for phase in whole.phases if phase.kind == "decode"]
    # Tokens in a row fall into step with the refresh grid; each sample starts on it anew.
    assert mean.seconds == pytest.approx(sum(steps) / len(steps), rel=0.03)
    assert mean.row_hit_rate == pytest.approx(
        1 - whole.counters["pim"]["row_misses"] / whole.counters["pim"]["column_accesses"], abs=0.002
    )
    assert sum(mean.parts.values()) == pytest.approx(mean.block_s, rel=1e-9)
