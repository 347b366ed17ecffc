"""What a token of a GPT costs on a PIM memory, its decoder blocks apart from embedding and output layer.

A generation of 1024 tokens is 1024 contexts; time, energy and bytes change with the context in small steps. So
a study runs evenly spaced contexts at cycle fidelity and takes their mean, under one plan whose layouts have
space for all 1024. A test holds the mean against every token of a whole generation (within 3 %: tokens in a row
fall into step with the refresh grid, samples start on it anew).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from hw_configs.library import load_system
from hw_configs.system import System
from mapping.mapper import MapperOptions, mapper_settings, plan_writer
from offchip.sweep.machine import Machines, Value
from simulator.plan import Plan
from simulator.simulate import simulate
from simulator.system.bound_plan import BoundPlan
from simulator.system.engine import PhaseRun
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["MODELS", "TOKENS", "TokenCost", "changed_machine", "contexts", "token_cost"]

MODELS: Final = {
    "gpt2": "GPT2-small",
    "gpt2-medium": "GPT2-medium",
    "gpt2-large": "GPT2-large",
    "gpt2-xl": "GPT2-xl",
    "gpt3-small": "GPT3-small",
    "gpt3-medium": "GPT3-medium",
    "gpt3-large": "GPT3-large",
    "gpt3-xl": "GPT3-xl",
}
"""Offchip's names of the eight published models."""
TOKENS: Final = 1024
SAMPLES: Final = 8
PRODUCTS: Final = ("products", "scores", "weighted sum", "key write", "value write")
"""Parts of the time in which the memory works on products and their caches."""


@dataclass
class TokenCost:
    """Mean over a generation of one token's cost; ``block`` figures leave embedding and output layer out."""

    seconds: float = 0.0
    joules: float = 0.0
    block_s: float = 0.0
    block_j: float = 0.0
    block_pin_bytes: float = 0.0
    column_accesses: float = 0.0
    row_misses: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of the decoder blocks by part: products, scores, softmax, ..."""
    energy: dict[str, float] = field(default_factory=dict)
    """Joules of the whole token by component."""

    @property
    def row_hit_rate(self) -> float:
        """Share of column accesses that found their row open."""
        return 1 - self.row_misses / self.column_accesses

    @property
    def other_share(self) -> float:
        """Share of the blocks' time in which no product and no cache is worked on."""
        return 1 - sum(self.parts.get(name, 0.0) for name in PRODUCTS) / self.block_s


def contexts(tokens: int = TOKENS, samples: int = SAMPLES) -> list[int]:
    """Evenly spaced contexts: the middle of each of so many equal runs of tokens."""
    return [round((2 * index + 1) * tokens / (2 * samples)) for index in range(samples)]


def changed_machine(changes: Mapping[str, Value], base: str = "pim-gpt") -> System:
    """The PIM-GPT machine with some figures changed, by the paths of a sweep."""
    return Machines().system(base, changes) if changes else load_system(base)


def token_cost(
    model: str,
    system: System | None = None,
    settings: Mapping[str, str] | None = None,
    tokens: int = TOKENS,
    samples: int = SAMPLES,
    mapper: str = "pim",
) -> TokenCost:
    """The mean cost of a token of a generation of ``tokens`` tokens, batch 1."""
    machine = system or load_system("pim-gpt")
    options = MapperOptions(settings=mapper_settings(mapper, settings or {}, "plan"))
    total, plan = TokenCost(), None
    for context in contexts(tokens, samples):
        workload = load_workload(
            model, WorkloadOptions(phase="decode", prompt=context, generate=tokens - context)
        )
        if plan is None:
            plan = plan_writer(mapper).plan(workload.phases[0].graph, machine, options)
        _add(total, workload.phases[0].graph, plan, machine, samples)
    return total


def _add(total: TokenCost, graph: Graph, plan: Plan, machine: System, samples: int) -> None:
    """Add one context's share to the mean."""
    from workloads.workload import Phase, Workload

    idle = sum(
        power.idle for node in machine.nodes.values() if (power := getattr(node.device, "power", None))
    )

    def watch(_graph: Graph, _bound: BoundPlan, outcome: PhaseRun) -> None:
        for record in outcome.records:
            cost = record.cost
            if cost is None:
                continue
            if record.task.operator.startswith("layers."):
                seconds = record.end - record.start
                total.block_s += seconds / samples
                joules = cost.compute_energy_j + cost.memory_energy_j + idle * seconds
                total.block_j += joules / samples
                total.block_pin_bytes += (cost.read_bytes + cost.write_bytes) / samples
                _parts(
                    total, cost.usage.varying if cost.usage is not None else {}, cost.launch_seconds, samples
                )

    workload = Workload(graph.name, (Phase("decode", "decode", graph, 1),))
    result = simulate(workload, machine, lambda _g, _s: plan, fidelity="cycle", watch=watch)
    total.seconds += result.makespan_s / samples
    total.joules += result.total_energy_j / samples
    for figures in result.counters.values():
        total.column_accesses += figures["column_accesses"] / samples
        total.row_misses += figures["row_misses"] / samples
        for name in ("activate_j", "column_j", "mac_j", "io_j", "refresh_j"):
            total.energy[name] = total.energy.get(name, 0.0) + figures[name] / samples
        rest = figures["buffer_j"] + figures["access_j"]
        total.energy["other memory_j"] = total.energy.get("other memory_j", 0.0) + rest / samples
    asic = sum(joules for name, joules in result.energy_j.items() if name == "asic compute")
    standby = sum(joules for name, joules in result.energy_j.items() if name.endswith("idle"))
    for name, joules in (("host_j", asic), ("standby_j", standby)):
        total.energy[name] = total.energy.get(name, 0.0) + joules / samples


def _parts(total: TokenCost, varying: Mapping[str, float], launch_s: float, samples: int) -> None:
    for name, seconds in varying.items():
        if name.endswith("_s"):
            part = name[:-2].replace("_", " ")
            total.parts[part] = total.parts.get(part, 0.0) + seconds / samples
    total.parts["instruction fetch"] = total.parts.get("instruction fetch", 0.0) + launch_s / samples
