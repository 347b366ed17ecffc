"""What frameworks' own estimators of memory say of a setup, beside Offchip's account.

DeepSpeed's count states by ZeRO's arithmetic, host memory by what its processes load, and leave activations out
(``deepspeed/runtime/zero/stage_1_and_2.py`` and ``stage3.py``, ``estimate_zero*_model_states_mem_needs``).
Megatron-LM's counts 18 bytes a parameter, or 6 and a share of 12 with a distributed optimizer
(``megatron/training/theoretical_memory_usage.py``).
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

from hw_configs.problems import bad_input
from hw_configs.shown import Table
from hw_configs.units import format_quantity
from mapping.training.pricing import Prices
from mapping.training.rank_step import RankStep
from mapping.training.state_types import FRAMEWORKS, bytes_per_parameter
from mapping.training.step_memory import model_states
from workloads.graph import Role

__all__ = ["deepspeed_estimate", "estimator_table", "framework_report", "megatron_estimate"]

DEEPSPEED_STAGES: Final = (2, 3)


def framework_report(step: RankStep, prices: Prices) -> dict[str, Any]:
    """What the estimator of the setup's framework says; nothing where it has none for such a setup.

    DeepSpeed's knows ZeRO 2 and 3 without model parallelism; its largest layer is taken as the largest weight.
    Megatron-LM's figure is that of the first pipeline stage's parameters.
    """
    setup = step.setup
    framework = setup.state_types.name
    if not setup.trained.everything:
        return {}
    if (
        framework == "deepspeed"
        and setup.zero_stage in DEEPSPEED_STAGES
        and setup.tensor * setup.pipeline == 1
    ):
        own = bytes_per_parameter(FRAMEWORKS["deepspeed"], "bf16")
        parameters = round(model_states(step, 0).optimizer_state / own.optimizer)
        largest = max(prod(t.shape) for t in step.graph.tensors.values() if t.role is Role.WEIGHT)
        machine = min(_machine_devices(prices), setup.devices)
        places = setup.places
        host, device = deepspeed_estimate(
            parameters, machine, -(-setup.devices // machine), setup.zero_stage, largest_layer=largest,
            offload_optimizer=places.off_device, offload_parameters=places.weights != "device",
        )  # fmt: skip
        return {"estimator": "DeepSpeed", "device_bytes": device, "host_bytes_per_machine": host}
    if framework.startswith(("megatron", "te-")):
        own = bytes_per_parameter(FRAMEWORKS["megatron"], "bf16")
        parameters = round(model_states(step, 0).optimizer_state / own.optimizer)
        distributed = setup.sharding_stage >= 1
        found = megatron_estimate(parameters, setup.optimizer_shards, distributed=distributed)
        return {"estimator": "Megatron-LM", "device_bytes": round(found)}
    return {}


def estimator_table(report: dict[str, Any], own_bytes: int) -> tuple[Table, ...]:
    """The estimator's figures beside ``own_bytes``, the states of Offchip's account; no table for no report."""
    if not report:
        return ()
    rows = [
        ("states of a device", format_quantity(report["device_bytes"], "size")),
        ("the same here, buffers included", format_quantity(own_bytes, "size")),
    ]
    if "host_bytes_per_machine" in report:
        rows.append(("host memory of a machine", format_quantity(report["host_bytes_per_machine"], "size")))
    title = f"As {report['estimator']}'s own estimator has it, without activations"
    return (Table(title, ("what", "size"), tuple(rows)),)


def _machine_devices(prices: Prices) -> int:
    """Training devices of a machine."""
    cluster = prices.system.cluster
    if cluster is None:
        return len(prices.devices)
    first = cluster.places[prices.devices[0]][0]
    return sum(1 for name in prices.devices if cluster.places[name][0] == first)


def megatron_estimate(parameters: float, data: int, *, distributed: bool) -> float:
    """Bytes of weights and optimizer of the fullest rank's ``parameters``, as Megatron-LM's own report has them."""
    own = bytes_per_parameter(FRAMEWORKS["megatron"], "bf16")
    if not distributed:
        return parameters * own.total
    return parameters * (own.weights + own.gradients + own.optimizer / data)


HOST_BUFFER_FACTOR: Final = 1.5
"""What DeepSpeed's estimators add to host memory for buffers (``additional_buffer_factor``)."""
LOADED_BYTES: Final = 4
"""Bytes per parameter of the FP32 model that each process loads."""


def deepspeed_estimate(
    parameters: int, gpus_per_node: int, nodes: int, stage: int, *, largest_layer: int = 0,
    offload_optimizer: bool = False, offload_parameters: bool = False, loads_whole: bool = False,
) -> tuple[int, int]:  # fmt: skip
    """Bytes of host memory per node and of device memory per GPU, as DeepSpeed's estimators of ZeRO 2 and 3 have them.

    ``loads_whole``: every process loads the whole model first (stage 3 without ``zero.Init``). Activations, buckets and
    fragments are in neither. Raises ``InputError`` for another stage.
    """
    if stage not in (2, 3):
        raise bad_input(f"found {stage}; DeepSpeed estimates stages 2 and 3", path="zero")
    own, gpus = bytes_per_parameter(FRAMEWORKS["deepspeed"], "bf16"), gpus_per_node * nodes
    loaded = LOADED_BYTES * parameters * gpus_per_node
    if stage == 2:
        if offload_optimizer:
            host = max(LOADED_BYTES * gpus, own.optimizer) * parameters
            return int(host * HOST_BUFFER_FACTOR), int(own.weights * parameters)
        device = int((own.weights + own.gradients) * parameters) + int(own.optimizer * parameters / gpus)
        return int(loaded * HOST_BUFFER_FACTOR), device
    # Of the layer at work, weights and gradients are whole.
    layer = int((own.weights + own.gradients) * largest_layer)
    if not offload_optimizer:
        all_states = own.weights + own.optimizer
        first = loaded if loads_whole else LOADED_BYTES * largest_layer * gpus_per_node
        return int(first * HOST_BUFFER_FACTOR), layer + int(all_states * parameters / gpus)
    held = own.optimizer + (own.weights if offload_parameters else 0)
    host = parameters * max(LOADED_BYTES * gpus_per_node if loads_whole else 0, held / nodes)
    device = layer + (0 if offload_parameters else int(own.weights * parameters / gpus))
    return int(host * HOST_BUFFER_FACTOR), device
