"""What a cost table or a pricer remembers is what it would work out anew: no two questions share an answer.

Each case asks one shared table everything, and a fresh one each single question. A part that is left out of a key makes
the shared table answer with what it was asked before.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from mapping.layout.pim import MAPPER
from mapping.mapper import MAPPERS, MapperOptions
from offchip.api import load_model, load_system
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL
from simulator.pim.operators import PimCosts
from simulator.pim.pricing import Pricer
from simulator.pim.recipes import HostStage, recipe
from simulator.rewrite.apply import rewrite
from simulator.system.costs import CostTable
from workloads.operators import AllGather, AllReduce

MODEL = COST_MODELS.get(DEFAULT_COST_MODEL)


def differ(answers):
    return len({repr(answer) for answer in answers})


def test_operators_cost_what_they_cost_on_each_device():
    system = load_system("workstation")
    shared = CostTable(system, MODEL)
    graph = load_model("gpt2", phase="decode", prompt=64).phases[0].graph
    # Equal names: two graphs of one model have operators of the same name and of another size.
    longer = load_model("gpt2", phase="decode", prompt=900).phases[0].graph
    wanted = [op for g in (graph, longer) for op in g.operators[:12]]
    asked = list(product(wanted, ("gpu", "cpu")))
    found = [shared.operator(op, device) for op, device in asked]
    assert found == [CostTable(system, MODEL).operator(op, device) for op, device in asked]
    assert found == [shared.operator(op, device) for op, device in asked]
    attend = [cost for (op, _), cost in zip(asked, found, strict=True) if op.kind == "attention"]
    assert len(attend) >= 4
    assert differ(attend) == len(attend)


def test_paths_are_of_two_ends_a_chunk_and_its_readers():
    machine = load_system("workstation")
    shared = CostTable(machine, MODEL, drives="closed")
    ends = [(a, b) for a, b in product(machine.memories, repeat=2) if a != b]
    asked = [
        (*pair, chunk, readers) for pair in ends for chunk in (0, 4096, 131072) for readers in (0, 1, 16)
    ]

    def answer(table, question):
        path = table.path(*question)
        return path, [table.capacity[name] for name in path.resources]

    found = [answer(shared, question) for question in asked]
    assert found == [answer(CostTable(machine, MODEL, drives="closed"), question) for question in asked]
    from_drive = [a for q, a in zip(asked, found, strict=True) if q[0] == "ssd" and q[1] == "host" and q[2]]
    assert differ(from_drive) == 6, "two chunks by three numbers of readers (0 is the default of 32)"


def test_rounds_are_of_a_kind_a_size_and_its_ranks():
    system = load_system("dgx-a100")
    shared = CostTable(system, MODEL)
    graph = load_model("gpt2", phase="decode", prompt=8).phases[0].graph
    plan = MAPPERS.get("tensor-pipeline").plan(graph, system, MapperOptions(2, 1))
    collective = next(op for op in rewrite(graph, plan).operators if op.kind == "all_reduce")
    size = collective.work.bytes
    operators = [
        replace(collective, work=kind(bytes=bytes_))
        for kind, bytes_ in product((AllReduce, AllGather), (size, 4 * size))
    ]
    asked = list(product(operators, (("gpu0", "gpu1"), ("gpu2", "gpu3"), ("gpu0", "gpu1", "gpu2", "gpu3"))))
    found = [shared.rounds(*question) for question in asked]
    assert found == [CostTable(system, MODEL).rounds(*question) for question in asked]
    assert differ(found) == len(asked)


def decoding(context, batch=1, model="gpt2"):
    return (
        load_model(model, phase="decode", prompt=context, generate=600 - context, batch=batch).phases[0].graph
    )


def laid_out():
    """Operators and kernels of graphs that differ in context, batch and model, and of plans that differ in layout."""
    system = load_system("pim-gpt")
    for graph in (decoding(100), decoding(290), decoding(290, batch=2), decoding(290, model="gpt2-medium")):
        plan = MAPPER.plan(graph, system, MapperOptions())
        for name in [n for n in plan.kernels if n.startswith(("layers.0.", "layers.1."))]:
            for rules in ("published", "honest"):
                yield graph.operator_by_name[name], {**plan.kernels[name], "rules": rules}
            if "packing" in plan.kernels[name]:
                packing = "flat" if plan.kernels[name]["packing"] == "aligned" else "aligned"
                yield graph.operator_by_name[name], {**plan.kernels[name], "packing": packing}
            if "overlap" in plan.kernels[name]:
                yield (
                    graph.operator_by_name[name],
                    {**plan.kernels[name], "overlap": not plan.kernels[name]["overlap"]},
                )


def rules_of(kernel):
    return str(kernel.get("rules", "published"))


def test_laid_out_operators_cost_what_their_kernel_and_shape_say():
    system = load_system("pim-gpt")
    device = system.of_kind("accelerator")[0].name
    shared, asked = PimCosts(system, exact=False), list(laid_out())

    def steps(costs, operator, kernel):
        return costs._steps(operator, kernel, costs._site(device, rules_of(kernel)))

    found = [steps(shared, operator, kernel) for operator, kernel in asked]
    fresh_of = {}
    for (operator, kernel), known in zip(asked, found, strict=True):
        fresh = fresh_of.setdefault(rules_of(kernel), PimCosts(system, exact=False))
        site = fresh._site(device, rules_of(kernel))
        site.by_operator.clear()
        site.by_shape.clear()
        site.pricer._known.clear()
        assert steps(fresh, operator, kernel) == known, operator.name
    assert differ(found) > len(asked) / 4


def test_programs_of_equal_keys_are_equal():
    system = load_system("pim-gpt")
    device, unit = system.nodes["pim"].device, system.of_kind("accelerator")[0].device.vector_unit
    pricer, by_key = Pricer(device, exact=False), {}
    for operator, kernel in laid_out():
        for stage in recipe(operator, kernel, pricer.lowering, unit):
            for share in stage.beside if isinstance(stage, HostStage) else stage.shares:
                if share.counts is not None:
                    by_key.setdefault(share.key, set()).add(share.counts)
    assert len(by_key) > 20
    assert all(len(counts) == 1 for counts in by_key.values())
    assert len({counts for found in by_key.values() for counts in found}) > 10
