"""Bytes of one device in a training step: model states as ZeRO leaves them, buffers, and what the step asks for.

The peak of the step's request sequence comes under the chosen allocator: addresses planned in advance, or PyTorch's
caching allocator in what model states and buffers leave. Ranks of a pipeline hold as many micro-batches as their
schedule has in flight, and the buffers of their messages; the first rank's and the last one's bytes are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Final

import numpy as np

from hw_configs.units import format_quantity
from mapping.training.allocator_trace import replay
from mapping.training.in_flight import RankBytes, fullest
from mapping.training.layer_states import LayerStates, states_by_layer
from mapping.training.pricing import Prices
from mapping.training.rank_step import RankStep, requests_of, stage_of
from mapping.training.requests import RequestSequence, rounded
from mapping.training.setup import ZERO_STAGES, MemoryBudget, TrainingSetup
from mapping.training.sharded_states import ModelStates
from mapping.training.stage_messages import handed_bytes, output_bytes
from mapping.training.stage_passes import vocabulary_names
from mapping.training.state_room import room_shortage
from mapping.training.two_level_addresses import plan_memory
from workloads.dtypes import dtype_bits
from workloads.graph import Role

__all__ = ["StepMemory", "model_states", "step_memory"]


@dataclass(frozen=True, slots=True)
class StepMemory:
    """The fullest device's bytes. ``driver_calls`` are those of reorganisations per step; ``obstacle`` says what
    does not fit, "" when all does.
    """

    budget: MemoryBudget
    driver_calls: int = 0
    obstacle: str = ""
    notes: tuple[str, ...] = ()


def step_memory(step: RankStep, prices: Prices, *, exact: bool) -> StepMemory:
    """What the fullest stage takes; without ``exact`` the most that is live at once stands for the allocator."""
    pipeline = step.setup.pipeline
    stages = [0] if pipeline == 1 else [0, pipeline - 1]
    found = [_stage_memory(step, stage, prices, exact) for stage in stages]
    fullest = max(found, key=lambda item: item.budget.device_bytes)
    obstacle = next((item.obstacle for item in found if item.obstacle), "")
    return replace(fullest, obstacle=obstacle or _shortage(step, fullest.budget, prices))


def _shortage(step: RankStep, budget: MemoryBudget, prices: Prices) -> str:
    """What is short, and by how much; "" when device and host memory hold the step."""
    usable = prices.memory.usable_bytes
    if budget.device_bytes > usable:
        short, whole = format_quantity(budget.device_bytes - usable, "size"), format_quantity(usable, "size")
        return f"device memory is short by {short} of {whole}"
    if budget.host_bytes:
        share = prices.host(step.setup.devices).share_bytes
        if budget.host_bytes > share:
            short, whole = format_quantity(budget.host_bytes - share, "size"), format_quantity(share, "size")
            return f"host memory is short by {short} per device of {whole}"
    return room_shortage(step.setup, model_states(step, 0), budget.host_bytes, prices)


def _stage_memory(step: RankStep, stage: int, prices: Prices, exact: bool) -> StepMemory:
    setup = step.setup
    held, buffers, paged = _held(step, model_states(step, stage), stage)
    late = _late_gradients(step, stage) if setup.reduces_late else 0
    sequence = requests_of(step, stage)
    live = sequence.live_bytes()
    peak = int(live.max(initial=0))
    skeletal = _skeletal_at(sequence, int(live.argmax())) if len(live) else 0
    found = fullest(setup, stage, _rank_bytes(step, stage, sequence, late))
    held = replace(held, gradients=held.gradients - late + found.gradients)
    more = found.others
    flight = min(setup.pipeline - stage, setup.micro_batches)
    host, swap_buffers = _swap_bytes(step, flight)
    buffers += found.messages + _message_buffers(step, stage)
    budget = MemoryBudget(
        held.weights, held.gradients, held.optimizer_state, skeletal + more, peak - skeletal,
        buffers + swap_buffers, 0, host, paged,
    )  # fmt: skip
    if not exact:
        return StepMemory(budget)
    if setup.allocator == "planned":
        plan = plan_memory(sequence)
        peak_text, live_text = (
            format_quantity(plan.peak_bytes, "size"),
            format_quantity(plan.bound_bytes, "size"),
        )
        note = f"Addresses of activations by {plan.method}: {peak_text}, where {live_text} are live at once."
        return StepMemory(replace(budget, fragmentation=plan.peak_bytes - plan.bound_bytes), notes=(note,))
    room = prices.memory.usable_bytes - held.total - buffers - swap_buffers - more
    return _cached(step, sequence, budget, max(room, 0), peak)


def _rank_bytes(step: RankStep, rank: int, sequence: RequestSequence, late: int) -> RankBytes:
    """What the rank's passes keep, and what comes and goes with them."""
    setup = step.setup
    sizes, names = rounded(sequence.size), np.array(sequence.names, object)
    last = rank == setup.pipeline - 1
    own = vocabulary_names(step.graph) if last else frozenset()
    made = {name for op in step.graph.operators if op.name in own for name in op.outputs}
    head = np.array([name in made for name in names], np.bool_) & sequence.skeletal
    layers = int(sizes[sequence.skeletal].sum() - sizes[head].sum())
    if setup.state_types.messages == "message":
        return RankBytes(layers, int(sizes[head].sum()), late)
    return RankBytes(
        layers,
        int(sizes[head].sum()),
        late,
        handed_bytes(step.graph),
        output_bytes(step.graph) if last else 0,
    )


def _message_buffers(step: RankStep, rank: int) -> int:
    """Bytes of buffers that messages come into and leave from: one of each, or those of all micro-batches."""
    setup, size = step.setup, handed_bytes(step.graph)
    if setup.pipeline == 1:
        return 0
    if setup.state_types.messages == "message":
        return size
    stages = setup.stages_per_rank
    return setup.micro_batches * size * (2 * stages - (rank == 0) - (rank == setup.pipeline - 1))


def _held(step: RankStep, states: ModelStates, number: int) -> tuple[ModelStates, int, int]:
    """What a rank holds on the device, the bytes of its buffers, and optimizer state that is paged to the host."""
    setup, types = step.setup, step.setup.state_types
    held, buffers = _shared(step, states, number)
    if types.bucket_elements and setup.shards > 1:
        wide = dtype_bits(types.step.gradients or setup.dtype) / 8
        buffers += 2 * min(int(types.bucket_elements * wide), states.gradients)
    if setup.trained.paged:
        return replace(held, optimizer_state=0), buffers, held.optimizer_state
    return _off_device(setup, states, held, buffers)


def _off_device(
    setup: TrainingSetup, states: ModelStates, held: ModelStates, buffers: int
) -> tuple[ModelStates, int, int]:
    """The same without what lives on host or drives, of which the host's bytes come last."""
    places, host = setup.places, 0
    if places.in_backward:
        return replace(held, gradients=0), buffers + states.layer_gradients, 0
    if not places.off_device:
        return held, buffers, 0
    host = held.gradients + (held.optimizer_state if places.optimizer == "host" else 0)
    whole = setup.zero_stage < 2
    if not whole:
        buffers += states.layer_gradients if setup.shards == 1 else 0
    if places.weights != "device":
        host += held.weights if places.weights == "host" else 0
        buffers += 2 * states.layer_weights if setup.shards == 1 else 0
        held = replace(held, weights=0)
    return replace(held, optimizer_state=0, gradients=held.gradients if whole else 0), buffers, host


def _shared(step: RankStep, states: ModelStates, rank: int) -> tuple[ModelStates, int]:
    """A rank's states as those with equal weights share them, experts over those that hold equal ones; and buffers.

    Buffers: the layers that stage 3 gathers ahead (all, where they are kept after the forward pass), the gradients of
    one layer where each micro-batch's are reduced, and, where weights are gathered from wider ones, one layer's
    gradients in their type.
    """
    setup = step.setup
    gathers = setup.state_types.copies == "gathered"
    # Wide parameters are a shard, however few ranks there are, and layers are gathered from it.
    zero = setup.sharding_stage or (ZERO_STAGES[-1] if gathers else 0)
    layers, dense, experts = _layers_of(step, rank)
    each = setup.sharding.reduces_each(zero)
    weights = gradients = optimizer = fresh = narrow = 0
    gathered: list[int] = []
    for layer in layers:
        whole, layer_gradients, layer_narrow = 0, 0, 0
        for part, ranks in ((layer.dense, dense), (layer.experts, experts)):
            stage = zero if ranks > 1 or gathers else 0
            lasting = part.weights * (1 + setup.trained.copies) - (
                part.trained if gathers and stage >= 3 else 0
            )
            weights += -(-lasting // ranks) if stage >= 3 else lasting
            gradients += -(-part.gradients // ranks) if stage >= 2 and each else part.gradients
            optimizer += -(-part.optimizer // ranks) if stage >= 1 else part.optimizer
            whole += part.weights if stage >= 3 else 0
            layer_gradients += part.gradients if stage >= 2 and each else 0
            layer_narrow += part.trained if stage >= 2 and gathers else 0
        gathered.append(whole)
        fresh, narrow = max(fresh, layer_gradients), max(narrow, layer_narrow)
    ahead = len(gathered) if not setup.sharding.reshard else setup.sharding.prefetch + 1
    windows = [sum(gathered[first : first + ahead]) for first in range(max(len(gathered) - ahead, 0) + 1)]
    buffers = max(windows, default=0) + fresh + narrow
    return replace(states, weights=weights, gradients=gradients, optimizer_state=optimizer), buffers


def _layers_of(step: RankStep, rank: int) -> tuple[list[LayerStates], int, int]:
    """States of a rank's layers in order, and over how many ranks those of experts (last) and all others are shared."""
    setup = step.setup
    number = stage_of(step.graph, setup.pipeline, setup.rank_layers)
    first = {(-1 if op.place.layer is None else op.place.layer): op for op in step.graph.operators}
    states = sorted(states_by_layer(step.graph).items())
    layers = [found for layer, found in states if number(first[layer]) == rank]
    if setup.zero_stage:
        return layers, setup.shard_width(), setup.shard_width(experts=True)
    return layers, setup.shards, setup.shards // setup.expert


def _late_gradients(step: RankStep, rank: int) -> int:
    """Bytes of a rank's gradients that come with a backward pass and go with their one reduction."""
    layers, dense, experts = _layers_of(step, rank)
    return sum(
        part.gradients
        for layer in layers
        for part, ranks in ((layer.dense, dense), (layer.experts, experts))
        if ranks > 1
    )


def _cached(
    step: RankStep, sequence: RequestSequence, budget: MemoryBudget, room: int, peak: int
) -> StepMemory:
    """The stage on the caching allocator; the second of two steps shows its steady state."""
    setup = step.setup
    trace = replay(sequence, room, expandable=setup.allocator == "expandable", steps=2)
    per_step = sum(1 for index in trace.reorganised if index >= sequence.instructions)
    reserved, allocated = (
        format_quantity(value, "size") for value in (trace.peak_reserved, trace.peak_allocated)
    )
    note = (
        f"The caching allocator reserves {reserved} for activations, of which {allocated} are allocated at most, with "
        f"{per_step} reorganisations per step."
    )
    calls = (trace.driver_mallocs + trace.driver_frees) // 2 if per_step else 0
    obstacle = ""
    if trace.failed >= 0:
        size, whole = format_quantity(trace.failed_bytes, "size"), format_quantity(room, "size")
        obstacle = f"device memory is out: a request of {size} fails with {whole} to cache in"
    budget = replace(budget, fragmentation=max(trace.peak_reserved - peak, 0))
    return StepMemory(budget, calls * setup.micro_batches, obstacle, (note,))


def model_states(step: RankStep, stage: int) -> ModelStates:
    """Bytes of a stage's weights, of their gradients and of the optimizer's state; and of its largest layer.

    A weight belongs to the stage that reads it first. Frozen weights count like all others, and once more for every
    frozen copy of the model in the job.
    """
    graph = step.graph
    number = stage_of(graph, step.setup.pipeline, step.setup.rank_layers)
    totals = dict.fromkeys(Role, 0)
    weights: dict[object, int] = {}
    gradients: dict[object, int] = {}
    seen: set[str] = set()
    updated = {name for op in graph.operators if op.kind == "optimizer" for name in op.updates}
    parameters = 0
    for op in graph.operators:
        held = _HELD if op.kind == "optimizer" else _READ
        for name in (*op.inputs, *op.updates):
            tensor = graph.tensors[name]
            if name in seen or tensor.role not in held:
                continue
            seen.add(name)
            if number(op) != stage:
                continue
            totals[tensor.role] += tensor.size_bytes
            layer = op.place.layer
            if tensor.role is Role.WEIGHT:
                parameters += prod(tensor.shape) if name in updated else 0
                weights[layer] = weights.get(layer, 0) + tensor.size_bytes
            if tensor.role is Role.GRADIENT:
                gradients[layer] = gradients.get(layer, 0) + tensor.size_bytes
    copies = step.setup.trained.copies
    return ModelStates(
        totals[Role.WEIGHT] * (1 + copies), totals[Role.GRADIENT], totals[Role.OPTIMIZER_STATE],
        max(weights.values(), default=0), max(gradients.values(), default=0), parameters,
    )  # fmt: skip


_READ: Final = frozenset({Role.WEIGHT})
_HELD: Final = frozenset({Role.WEIGHT, Role.GRADIENT, Role.OPTIMIZER_STATE})


def _swap_bytes(step: RankStep, flight: int) -> tuple[int, int]:
    """Bytes in host memory, and of the two rounding buffers."""
    if not step.swapped:
        return 0, 0
    setup = step.setup
    sizes = [sum(step.graph.tensors[n].size_bytes for n in names) for names in step.swapped.values()]
    largest = max(sizes)
    ashore = sorted(sizes)[: max(len(sizes) // setup.pipeline - 2, 0)] if setup.pipeline > 1 else sizes[:-2]
    return sum(ashore) * flight, 2 * largest


def _skeletal_at(sequence: RequestSequence, instruction: int) -> int:
    """Skeletal bytes that are live after an instruction."""
    live = (sequence.malloc <= instruction) & (sequence.free > instruction) & sequence.skeletal
    return int(np.where(live, rounded(sequence.size), 0).sum())
