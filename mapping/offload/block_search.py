"""The policy ``block-schedule``: a generation in blocks of batches, shares and sizes by linear programming.

Answers with the policy of most tokens per second, its streams and its peaks, and the plan of a decode step; see
:mod:`mapping.offload.block_schedule` for the equations, :mod:`mapping.offload.placement_lp` for the search and
:mod:`mapping.offload.block_plan` for the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from hw_configs.problems import bad_input, nearest
from hw_configs.units import format_quantity
from hw_configs.whole_number import whole_number
from mapping.offload.block_plan import write_block_plan
from mapping.offload.block_policy import RELEASED_T4, BlockRates, shape_of
from mapping.offload.block_schedule import FORMS, Form, Terms
from mapping.offload.machine_rates import capacities_of, rates_of
from mapping.offload.placement_lp import FILL, best_policy
from mapping.offload.policy import OffloadAnswer, OffloadRequest, Table
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["POLICY", "BlockSchedule"]

MOST_PIECES: Final = 64
"""Batches of a block for which a plan is written; each is a task of its own in every layer."""
GENERATE: Final = 32
"""Tokens generated where none are asked for, as in the publication."""


class BlockSchedule:
    """The policy; see the module's first lines."""

    DESCRIPTION = "weights, KV cache and hidden states over GPU, host and disk by a linear program (FlexGen)"
    PHASES: tuple[str, ...] = ("decode", "prefill")
    SETTINGS: Mapping[str, str] = MappingProxyType(
        {
            "gpu-batch": "sequences the GPU takes at once (searched)",
            "batches": "GPU batches of a block (searched)",
            "form": "published, released or serial: how the streams overlap (published)",
            "rates": "machine (from the system's parts) or released-t4 (the released model's fit) (machine)",
            "fill": "share of each capacity to fill (0.8)",
            "host-attention": "yes or no: attend on the host over a cache that lies there or on disk (yes)",
            "weight-bits": "16, 8 or 4 (16)",
        }
    )

    def solve(self, request: OffloadRequest) -> OffloadAnswer:
        """The best policy; ``InfeasibleError`` when no block fits."""
        settings = request.settings
        form: Form = _word(settings, "form", FORMS, "published")  # type: ignore[assignment]
        host = _word(settings, "host-attention", ("yes", "no"), "yes") == "yes"
        bits = int(_word(settings, "weight-bits", ("16", "8", "4"), "16"))
        shape = shape_of(request.model, request.sequence, request.generate or GENERATE, bits)
        gpu_batch, batches = (_whole(settings, key) for key in ("gpu-batch", "batches"))
        fitted = _word(settings, "rates", ("machine", "released-t4"), "machine") == "released-t4"

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
            form,
            fill=_fill(settings),
            host_attention=host,
            gpu_batch=gpu_batch,
            batches=batches,
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


POLICY: Final = BlockSchedule()


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


def _word(settings: Mapping[str, str], key: str, known: tuple[str, ...], default: str) -> str:
    value = settings.get(key, default)
    if value not in known:
        raise bad_input(
            f"found {value!r}; known: {', '.join(known)}", path=key, suggestion=nearest(value, known)
        )
    return value


def _whole(settings: Mapping[str, str], key: str) -> int | None:
    text = settings.get(key)
    return None if text is None else whole_number(text, key, 1, 1 << 20)


def _fill(settings: Mapping[str, str]) -> float:
    text = settings.get("fill", str(FILL))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1.5:
        raise bad_input(f"found {text!r}; expected a share above 0, at most 1.5", path="fill")
    return value
