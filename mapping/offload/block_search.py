"""The mapper ``block-schedule``: a generation in blocks of batches, shares and sizes by linear programming.

Answers with the policy of most tokens per second, its streams and its peaks, and the plan of a decode step; see
:mod:`mapping.offload.block_schedule` for the equations, :mod:`mapping.offload.placement_lp` for the search and
:mod:`mapping.offload.block_plan` for the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from hw_configs.system import System
from hw_configs.units import format_quantity
from mapping.mapper import MapperOptions
from mapping.offload.block_plan import GENERATE, BlockSettings, plan_block, write_block_plan
from mapping.offload.block_policy import RELEASED_T4, BlockRates, shape_of
from mapping.offload.block_schedule import Terms
from mapping.offload.machine_rates import capacities_of, rates_of
from mapping.offload.placement_lp import best_policy
from mapping.offload.policy import OffloadAnswer, OffloadRequest, Table
from simulator.plan import Plan
from workloads.graph import Graph
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["MAPPER", "BlockSchedule"]

MOST_PIECES: Final = 64
"""Batches of a block for which a plan is written; each is a task of its own in every layer."""


class BlockSchedule:
    """The policy; see the module's first lines."""

    DESCRIPTION = "weights, KV cache and hidden states over GPU, host and disk by a linear program (FlexGen)"
    PHASES: tuple[str, ...] = ("decode", "prefill")
    SETTINGS = BlockSettings

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """The plan of a decode step at the graph's batch; ``InfeasibleError`` when no shares fit."""
        return plan_block(graph, system, options.of(BlockSettings))

    def solve(self, request: OffloadRequest) -> OffloadAnswer:
        """The best policy; ``InfeasibleError`` when no block fits."""
        chosen = request.of(BlockSettings)
        host, bits = chosen.host_attention, int(chosen.weight_bits)
        shape = shape_of(request.model, request.sequence, request.generate or GENERATE, bits)
        fitted = chosen.rates == "released-t4"

        @cache
        def rates(batch: int) -> BlockRates:
            if fitted:
                return RELEASED_T4
            return rates_of(request.system, request.model, request.sequence, batch, request.cost_model)

        capacities = capacities_of(request.system)
        found = best_policy(
            shape,
            rates,
            capacities,
            chosen.form,
            fill=chosen.fill,
            host_attention=host,
            gpu_batch=chosen.gpu_batch,
            batches=chosen.batches,
        )
        cost, policy = found.cost, found.policy
        report: dict[str, Any] = {
            "policy": policy.to_json(),
            "tokens_per_s": cost.tokens_per_s,
            "total_s": cost.total_s,
            "prefill_layer_s": cost.prefill_layer_s,
            "decode_layer_s": cost.decode_layer_s,
            "prefill_streams_s": _streams(cost.prefill),
            "decode_streams_s": _streams(cost.decode),
            "peak_bytes": cost.peak_bytes,
            "linear_programs": found.programs,
            "solve_s": found.seconds,
            "engine": found.engine,
        }
        slowest = max(_streams(cost.decode).items(), key=lambda item: item[1])[0]
        why = [
            f"blocks of {policy.batches} batches of {policy.gpu_batch}: {cost.tokens_per_s:.4g} tokens/s",
            f"the longest stream of a decode step is {slowest.replace('_', ' ')}",
        ]
        graph = plan = None
        if policy.batches <= MOST_PIECES and host and bits == 16:
            options = WorkloadOptions(
                phase="decode",
                batch=policy.block,
                prompt=request.sequence + shape.generate // 2,
                dtype=request.dtype,
            )
            graph = load_workload(request.model, options).phases[0].graph
            plan = write_block_plan(graph, request.system, found)
            why.append("the plan is of one decode step of the block, at the mean context")
        else:
            why.append(
                f"an estimate per layer, without a plan: those are written for at most {MOST_PIECES} batches of 16-bit "
                "weights with attention on the host"
            )
        return OffloadAnswer(
            "block-schedule", report, tuple(why), _tables(report, policy.to_json()), graph, plan
        )


MAPPER: Final = BlockSchedule()


def _tables(report: Mapping[str, Any], policy: Mapping[str, Any]) -> tuple[Table, ...]:
    shares = tuple(
        (what, *(f"{100 * share:.1f} %" for share in (*policy[key], 0.0)[:3]))
        for what, key in (("weights", "weight"), ("KV cache", "cache"), ("hidden states", "hidden"))
    )
    streams = tuple(
        (
            name.replace("_", " "),
            *(format_quantity(report[f"{phase}_streams_s"][name], "time") for phase in ("prefill", "decode")),
        )
        for name in report["decode_streams_s"]
    )
    peaks = tuple((name, format_quantity(size, "size")) for name, size in report["peak_bytes"].items())
    return (
        Table("Shares", ("what", "GPU", "host", "disk"), shares),
        Table("One layer of a block", ("stream", "prefill", "decode"), streams),
        Table("Peak", ("memory", "bytes"), peaks),
    )


def _streams(terms: Terms) -> dict[str, float]:
    names = ("host_to_gpu", "gpu_to_host", "disk_to_host", "host_to_disk", "compute")
    return {name: float(getattr(terms, name)) for name in names}
