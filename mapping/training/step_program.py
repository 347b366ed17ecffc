"""A training step of any setup as a program that :mod:`simulator.training` runs.

Each rank of the pipeline takes the actions of its schedule in order; an action is its stage's pass piece by piece. What
crosses from stage to stage is sent as soon as it is there, on streams of its own. Around the passes stand what ZeRO
moves: gradients leave layer by layer when their backward pass is done, weights come before the pass that needs them, as
far ahead as they are prefetched. What a step needs of the one before (gathered weights of stages 1 and 2) is put at its
beginning, what it leaves for the next not at its end: the step repeats.

**Folded**, the ranks of one stage of the pipeline are one class: they do equal work, and their exchanges load the wires
of all of them. Unfolded, every rank is a class of its own, its exchanges meetings of its group. Both are written by the
same lines: an **actor** is one rank of the pipeline or one rank of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import bad_input
from mapping.training.layer_states import StateBytes, states_by_layer
from mapping.training.overlapped_passes import joined
from mapping.training.pass_block import Turn, WrittenPass, as_block, layers_of, piece_label, with_updates
from mapping.training.pricing import Prices
from mapping.training.rank_layout import pipeline_rank
from mapping.training.rank_step import RankStep, stage_of
from mapping.training.sample_loading import load_samples
from mapping.training.schedules.action import Action, PipelineSchedule
from mapping.training.schedules.write import SCHEDULES, write_schedule
from mapping.training.setup import TrainingSetup
from mapping.training.shared_states import SharedStates
from mapping.training.stage_messages import messages_of
from mapping.training.stage_passes import (
    Piece,
    passes_of,
    vocabulary_names,
    vocabulary_passes,
)
from mapping.training.step_exchanges import Actor, Exchanges
from mapping.training.tier_rates import TierRates, tier_rates
from mapping.training.tier_tasks import Taken, TierTasks
from simulator.training.program import Block, StepProgram, TaskKind

__all__ = ["schedule_of", "stages_of", "write_step"]

Ints = NDArray[np.int64]
_LANES: Final = ("compute", "tensor", "ulysses", "context", "expert")
"""Streams of a pass; each has the traffic of its degree."""


def schedule_of(setup: TrainingSetup) -> PipelineSchedule:
    """The orders of a setup's pipeline; ``InputError`` for a schedule that is unknown or cannot take the counts."""
    if setup.pipeline == 1:
        return write_schedule("1f1b", 1, setup.micro_batches)
    kind = SCHEDULES.get(setup.schedule)
    own = kind.fixed or setup.stages_per_rank == 1
    stages = None if own else setup.stages_per_rank
    return write_schedule(setup.schedule, setup.pipeline, setup.micro_batches, stages)


def stages_of(step: RankStep, schedule: PipelineSchedule) -> tuple[int, ...]:
    """How many layers each stage has."""
    number = stage_of(step.graph, schedule.stages, step.setup.stage_layers)
    layers: list[set[int]] = [set() for _ in range(schedule.stages)]
    head = max((op.place.layer for op in step.graph.operators if op.place.layer is not None), default=0)
    for op in step.graph.operators:
        if op.place.layer is not None and 0 <= op.place.layer < head:
            layers[number(op)].add(op.place.layer)
    return tuple(len(found) for found in layers)


def write_step(
    step: RankStep,
    prices: Prices,
    schedule: PipelineSchedule | None = None,
    *,
    folded: bool = True,
    speed_beside: float = 1.0,
    gradient_scale: float = 1.0,
    saves: bool = True,
) -> StepProgram:
    """The program of a step, under the setup's own schedule unless one is given.

    ``speed_beside``: how fast a device computes while a collective runs on it. ``gradient_scale``: bytes of a gradient
    on the wires over those it is made with. ``saves``: whether this is a step that takes a checkpoint, where the setup
    has any; else one of those between them.

    Raises ``InputError`` for a schedule that does not fit, and where the system has too few devices.
    """
    if step.setup.devices > len(prices.devices):
        found = (
            f"the setup needs {step.setup.devices} devices; {prices.system.name!r} has {len(prices.devices)}"
        )
        raise bad_input(found, path="--hw")
    chosen = schedule or schedule_of(step.setup)
    if step.setup.sharding_stage > step.setup.zero_stage:
        # A distributed optimizer is ZeRO's first stage, whatever else is said.
        step = replace(step, setup=replace(step.setup, zero_stage=step.setup.sharding_stage))
    return _Writer(step, prices, chosen, speed_beside, gradient_scale, folded=folded, saves=saves).run()


@dataclass
class _Writer(SharedStates):
    """Writes a program: who acts, which passes in which order, what crosses between stages."""

    folded: bool = True
    saves: bool = True
    blocks: dict[tuple[int, int, str, bool, bool], WrittenPass] = field(default_factory=dict)
    pairs: dict[tuple[int, int], tuple[Block, Ints, Ints]] = field(default_factory=dict)
    """Overlapped passes by their blocks."""
    sends: dict[tuple[int, int | str], int] = field(default_factory=dict)
    summed: dict[tuple[object, ...], int] = field(default_factory=dict)
    outputs: list[tuple[int, tuple[int, str, int, int]]] = field(default_factory=list)
    """Exchanges that wait for the last stage's forward pass."""
    began: dict[tuple[int, str, int, int], int] = field(default_factory=dict)
    ended: dict[tuple[int, str, int, int], int] = field(default_factory=dict)
    arrived: dict[tuple[int, str, int, int], int] = field(default_factory=dict)
    begun: set[tuple[int, int]] = field(default_factory=set)
    """Stages of actors that have made gradients."""
    loaded: dict[tuple[int, int], int] = field(default_factory=dict)
    """Tasks of samples that an actor's first pass of a micro-batch waits for."""

    def run(self) -> StepProgram:
        setup, schedule = self.step.setup, self.schedule
        self.places = setup.places
        self.halves = any(action.kind == "I" for order in schedule.orders for action in order)
        number = stage_of(self.step.graph, schedule.stages, setup.stage_layers)
        shared = bool(schedule.vocabulary_barriers)
        self.passes = passes_of(
            self.step, self.prices, number, schedule.stages, halves=self.halves,
            without=vocabulary_names(self.step.graph) if shared else frozenset(),
        )  # fmt: skip
        self.vocabulary: dict[str, tuple[Piece, ...]] = {}
        if shared:
            if self.places.weights != "device":
                raise bad_input(
                    f"{schedule.name} shares the output layer, whose weights stay on the devices",
                    path="states",
                )
            self.vocabulary = vocabulary_passes(self.step, self.prices, schedule.ranks)
        self.states = [{} for _ in range(schedule.stages)]
        stage_of_layer = {
            -1 if op.place.layer is None else op.place.layer: number(op) for op in self.step.graph.operators
        }
        for layer, states in states_by_layer(self.step.graph).items():
            self.states[stage_of_layer[layer]][layer] = states
        self.output, self.output_s = StateBytes(), 0.0
        if shared:
            # Each rank of the pipeline holds a share of the output layer's states.
            updated = sum(
                states.dense.optimizer + states.experts.optimizer for states in self.states[-1].values()
            )
            whole = self.states[-1].pop(max(self.states[-1])).dense
            ranks = schedule.ranks
            self.output_s = self.passes[-1].optimizer_s * whole.optimizer / max(updated, 1)
            self.output = StateBytes(
                -(-whole.weights // ranks), -(-whole.gradients // ranks), -(-whole.optimizer // ranks)
            )
        self.width = setup.shard_width() if setup.zero_stage else setup.shards
        self.expert_width = (
            setup.shard_width(experts=True) if setup.zero_stage else setup.shards // setup.expert
        )
        self.messages = messages_of(schedule, self.step.graph, setup.state_types.messages)
        self.handed = self.messages.size
        self._cast()
        for actor in self.exchanges.actors:
            self._order(actor)
        self._wait()
        for actor in self.exchanges.actors:
            self.finish(actor)
            if self.places.synchronous and self.saves:
                ready = [*self.updated.get(actor.number, ()), *self.worked[actor.number][-1:]]
                self._checkpoint(actor, Taken(), ready)
        self.exchanges.add_routes()
        return self.builder.build()

    # Who acts, and in which groups.

    def _cast(self) -> None:
        """Classes and their streams."""
        setup = self.step.setup
        pipes = [pipeline_rank(setup, rank) for rank in range(setup.devices)]
        if self.folded:
            casts = [
                (pipe, tuple(rank for rank, own in enumerate(pipes) if own == pipe))
                for pipe in range(setup.pipeline)
            ]
        else:
            casts = [(pipe, (rank,)) for rank, pipe in enumerate(pipes)]
        actors: list[Actor] = []
        for pipe, ranks in casts:
            name = f"stage rank {pipe}" if self.folded else f"rank {ranks[0]}"
            own = [stage for stage, rank in enumerate(self.schedule.rank_of_stage) if rank == pipe]
            number = self.builder.rank_class(name, len(ranks), self.held_bytes(pipe, own), self.speed_beside)
            lanes = tuple(self.builder.stream(number, lane) for lane in _LANES)
            more = [
                self.builder.stream(number, lane) for lane in ("gather", "reduce", "to host", "from host")
            ]
            actors.append(Actor(number, pipe, ranks, lanes, *more))
        self.exchanges = Exchanges(setup, self.prices, self.builder, actors)
        if self.places.off_device or self.places.saves:
            rates = tier_rates(self.prices, setup.devices)
            needs_drives = "nvme" in (self.places.optimizer, self.places.weights) or self.places.saves
            if needs_drives and rates.drive_read <= 0:
                raise bad_input(f"{self.prices.system.name!r} has no drives to hold states", path="states")
            self.tiers = TierTasks(self.builder, self.exchanges, self.places, rates)

    def _sample_rates(self) -> TierRates:
        """What the ranks that begin the step get of drives and links."""
        devices = self.step.setup.devices
        if "nvme" not in (self.places.optimizer, self.places.weights) and not self.places.saves:
            devices //= self.step.setup.pipeline
        return tier_rates(self.prices, devices)

    def _block(self, actor: Actor, stage: int, kind: str, *, fresh: bool, done: bool) -> WrittenPass:
        """A pass; ``fresh``: the stage's first that makes gradients; ``done``: its last."""
        place = (actor.number, stage, kind, fresh and self.reduces_late, done)
        if place not in self.blocks:
            self.blocks[place] = self._write_block(actor, stage, kind, place[3:])
        return self.blocks[place]

    def _write_block(self, actor: Actor, stage: int, kind: str, ends: tuple[bool, bool]) -> WrittenPass:
        pieces = self.vocabulary[kind] if kind in "ST" else self.passes[stage].pieces[kind]
        if self.places.in_backward and kind == "B":
            pieces = with_updates(pieces, self.states[stage], self.passes[stage].optimizer_s)
        layers = layers_of(pieces)
        rows = []
        own = self.with_states(pieces, layers, stage, kind, ends)
        for piece in own if kind in "ST" else self.messages.passed(own, stage, kind):
            moved, route, lane, seconds = 0.0, -1, 0, piece.seconds
            if piece.exchanged is not None:
                what = piece.exchanged
                exchange, route = self.exchanges.take(
                    self.exchanges.key(what.family, actor), what.kind, what.bytes
                )
                moved, seconds, lane = exchange.bytes, exchange.seconds, _LANES.index(what.family)
            slows = int(piece.exchanged is not None)
            label = self.builder.label(piece_label(piece))
            rows.append((lane, int(piece.kind), seconds, moved, route, piece.take, piece.give, slows, label))
        block = as_block(rows, pieces)
        return WrittenPass(block, layers, tuple(piece.exchanged for piece in pieces))

    def _order(self, actor: Actor) -> None:
        """All actions of an actor."""
        if self.places.delayed:
            self.updated[actor.number] = self.tiers.update(actor, list(self.own_states(actor)), [])
        if self.places.checkpoint:
            self.saved[actor.number] = self._checkpoint(
                actor, Taken(self.saves, 1 / self.step.setup.checkpoint_every), []
            )
        begun = self.first_micro_batches(actor.pipe)
        if begun and not self.step.setup.loading.nothing:
            loaded = load_samples(self.builder, self.exchanges, actor, self._sample_rates(), begun)
            self.loaded |= {(actor.number, micro_batch): task for micro_batch, task in loaded.items()}
        order = self.schedule.orders[actor.pipe]
        last = {
            (action.stage, action.kind in "ST"): place
            for place, action in enumerate(order)
            if action.kind in ("B", "W", "T")
        }
        ends = {action.stage: place for place, action in enumerate(order) if action.kind in "BIW"}
        self.worked[actor.number] = []
        self.reduced[actor.number] = []
        place = 0
        for group in self.schedule.groups(actor.pipe):
            turns = []
            for action in group:
                final = last.get((action.stage, action.kind in "ST")) == place
                turns.append(self._turn(actor, action, final=final, done=ends.get(action.stage) == place))
                place += 1
            # Gathered weights and swapped tensors come in the order of passes, which overlapped ones have not.
            together = self.step.setup.zero_stage < 3 and not self.step.swapped
            for some in [turns] if together else [[turn] for turn in turns]:
                self._act(actor, some)

    def _checkpoint(self, actor: Actor, taken: Taken, after: list[int]) -> list[int]:
        """What of a checkpoint falls into this step; its copy to the host."""
        return self.tiers.checkpoint(actor, list(self.own_states(actor)), max(self.width, 1), taken, after)

    def _turn(self, actor: Actor, action: Action, *, final: bool, done: bool) -> Turn:
        """An action with its pass."""
        makes = action.kind in ("B", "W")
        fresh = makes and (actor.number, action.stage) not in self.begun
        if makes:
            self.begun.add((actor.number, action.stage))
        written = self._block(actor, action.stage % self.schedule.stages, action.kind, fresh=fresh, done=done)
        return Turn(action, written, final)

    def _act(self, actor: Actor, turns: Sequence[Turn]) -> None:
        """One action, or two that overlap."""
        passes = self._put(actor, turns)
        first = min(tasks[0] for tasks in passes)
        for before in self.owed.pop(actor.number, []):
            self.builder.wait(first, before)
        for turn, tasks in zip(turns, passes, strict=True):
            action, written = turn.action, turn.written
            place = (action.stage, action.kind, action.micro_batch, actor.number)
            self.began[place], self.ended[place] = tasks[0], tasks[-1]
            if action.kind in "ST":
                self._share_output(actor, action, final=turn.final)
                continue
            if action.kind != "W":
                self.gather_weights(actor, action, written, tasks)
            self._swap(actor, action, written, tasks)
            self.worked[actor.number] += [tasks[layer.visited] for layer in written.layers]
            if action.kind in ("B", "W") and (turn.final or self.reduces_each):
                self.reduce_gradients(actor, turn, tasks)
        for _, action in sorted((tasks[-1], turn.action) for turn, tasks in zip(turns, passes, strict=True)):
            self._send(actor, action)

    def _put(self, actor: Actor, turns: Sequence[Turn]) -> list[Sequence[int]]:
        """Put the passes of turns onto the actor's streams; the number of every task of each."""
        met = [self._meetings(actor, turn) for turn in turns]
        micro_batches = [turn.action.micro_batch for turn in turns]
        if len(turns) == 1:
            block = turns[0].written.block
            first = self.builder.put(
                block, actor.lanes, micro_batches[0], None if self.folded else np.array(met[0], np.int64)
            )
            return [range(first, first + len(block))]
        blocks = [turn.written.block for turn in turns]
        name = (id(blocks[0]), id(blocks[1]))
        if name not in self.pairs:
            self.pairs[name] = joined(blocks[0], blocks[1])
        block, *places = self.pairs[name]
        meetings, numbers = np.empty(len(block), np.int64), np.empty(len(block), np.int64)
        for own, place, micro_batch in zip(met, places, micro_batches, strict=True):
            meetings[place], numbers[place] = own, micro_batch
        first = self.builder.put(block, actor.lanes, numbers, None if self.folded else meetings)
        return [(place + first).tolist() for place in places]

    def _meetings(self, actor: Actor, turn: Turn) -> list[int]:
        """The meeting of every task of a pass, -1 for those of one rank alone."""
        if self.folded:
            return [-1] * len(turn.written.block)
        return [
            -1 if what is None
            else self.exchanges.meeting(self.exchanges.key(what.family, actor), turn.action, place)
            for place, what in enumerate(turn.written.exchanged)
        ]  # fmt: skip

    def _send(self, actor: Actor, action: Action) -> None:
        """Hand what an action made to the next stage, or its gradient to the one before."""
        step = {"F": 1, "B": -1, "I": -1}.get(action.kind, 0)
        stage = action.stage % self.schedule.stages
        if not step or not 0 <= stage + step < self.schedule.stages:
            return
        other = action.stage + step
        pipe = self.schedule.rank_of_stage[other]
        place = (action.stage, action.kind, action.micro_batch, actor.number)
        target = (other, "F" if step > 0 else "B", action.micro_batch, self.exchanges.peer(actor, pipe))
        if pipe == actor.pipe:
            self.arrived[target] = self.ended[place]
            return
        lane = (actor.number, pipe)
        if lane not in self.sends:
            self.sends[lane] = self.builder.stream(actor.number, f"send to {pipe}")
        exchange, route = self.exchanges.send(actor, pipe, self.handed)
        sent = self.messages.sent_bytes
        self.arrived[target] = self.builder.add(
            self.sends[lane], TaskKind.PIPELINE, exchange.seconds, label="send", after=[self.ended[place]],
            traffic=(exchange.bytes, route), memory=(0, -sent),
        )  # fmt: skip
        if sent:
            self._receive(target[3], actor.pipe, self.ended[place], sent)

    def _receive(self, actor: int, pipe: int, made: int, size: int) -> None:
        """The buffer into which a message comes: it is there from when it is sent to the pass that reads it."""
        lane = (actor, f"from {pipe}")
        if lane not in self.sends:
            self.sends[lane] = self.builder.stream(actor, f"receive from {pipe}")
        self.builder.add(
            self.sends[lane], TaskKind.PIPELINE, 0.0, label="receive", after=[made], memory=(size, 0)
        )

    def _wait(self) -> None:
        """Let passes wait for what comes from other stages, and for the pass before them."""
        for task, source in self.outputs:
            self.builder.wait(task, self.ended[source])
        last = self.schedule.stages - 1
        for place, first in self.began.items():
            stage, kind, micro_batch, actor = place
            if kind in "ST":
                continue
            if self.vocabulary and stage == last and kind in ("B", "I"):
                self.builder.wait(first, self.summed[micro_batch, actor])
            if kind == "W":
                self.builder.wait(first, self.ended[stage, "I", micro_batch, actor])
                continue
            if stage % self.schedule.stages == 0 and kind == "F" and (actor, micro_batch) in self.loaded:
                self.builder.wait(first, self.loaded[actor, micro_batch])
            comes = self.arrived.get((stage, "F" if kind == "F" else "B", micro_batch, actor))
            if comes is not None:
                self.builder.wait(first, comes)
            if kind != "F":
                self.builder.wait(first, self.ended[stage, "F", micro_batch, actor])

    # The output layer, where every rank of the pipeline holds a share of it.

    def _share_output(self, actor: Actor, action: Action, *, final: bool) -> None:
        """What stands around S and T: the input comes before S, sums of all ranks stand behind S and T.

        With two barriers the input's gradient is summed behind T, with one already behind S (arXiv:2411.05288,
        algorithms 1 and 2).
        """
        place = (action.stage, action.kind, action.micro_batch, actor.number)
        first, end = self.began[place], self.ended[place]
        tokens = self.step.setup.sequence * self.step.setup.micro_batch
        if self.output_comes:
            self._gather_output(actor, action, first)
        if action.kind == "S":
            self._meet_all(actor, action, "pass", self.handed, ("input", -1, first))
            # Maximum and sum of the softmax, in fp32.
            barrier = self._meet_all(actor, action, "all_reduce", 8 * tokens, ("softmax", end, -1))
            self.summed["T", action.micro_batch, actor.number] = barrier
            if self.schedule.vocabulary_barriers == 1:
                grad = self._meet_all(actor, action, "pass", self.handed, ("gradient", end, -1))
                self.summed[action.micro_batch, actor.number] = grad
            return
        self.builder.wait(first, self.summed["T", action.micro_batch, actor.number])
        if self.schedule.vocabulary_barriers == 2:
            grad = self._meet_all(actor, action, "pass", self.handed, ("gradient", end, -1))
            self.summed[action.micro_batch, actor.number] = grad
        if final and self.width > 1:
            self.reduce(actor, Action(-1, "T", action.micro_batch), "", self.output, [-2], end, final)
        if final and self.output_comes and not self.step.setup.sharding.reshard:
            self.builder.add(
                actor.lanes[0], TaskKind.OPTIMIZER, 0.0, label="output layer given up", after=[end],
                memory=(0, -self.output.weights),
            )  # fmt: skip

    def _gather_output(self, actor: Actor, action: Action, first: int) -> None:
        """A rank's share of the output layer, gathered from the ranks that hold parts of it."""
        sharding, name = self.step.setup.sharding, (actor.number, -1, -2)
        if not sharding.reshard and name in self.gathered:
            return
        self.gathered.add(name)
        worked, depth = self.worked[actor.number], sharding.prefetch + 1
        after = worked[-depth:][:1] if len(worked) >= depth else []
        self.builder.wait(first, self.gather(actor, self.output, "", (action, "shared output"), after))

    def _meet_all(
        self, actor: Actor, action: Action, kind: str, size: int, ends: tuple[str, int, int]
    ) -> int:
        """One rank's part in an exchange of the whole pipeline, on a stream of its own for each purpose."""
        what, after, before = ends
        lane = (actor.number, what)
        if lane not in self.sends:
            self.sends[lane] = self.builder.stream(actor.number, what)
        key = self.exchanges.key("pipeline", actor)
        exchange, route = self.exchanges.take(key, kind, size)
        task = self.builder.add(
            self.sends[lane], TaskKind.PIPELINE, exchange.seconds, label=f"output layer's {what}",
            after=[after] if after >= 0 else [], traffic=(exchange.bytes, route),
            meeting=self.exchanges.meeting(key, what, action.micro_batch),
        )  # fmt: skip
        if before >= 0:
            self.builder.wait(before, task)
            if self.schedule.rank_of_stage[self.schedule.stages - 1] == actor.pipe:
                self.outputs.append((task, (self.schedule.stages - 1, "F", action.micro_batch, actor.number)))
        return task

    # Swapping.

    def _swap(self, actor: Actor, action: Action, written: WrittenPass, tasks: Sequence[int]) -> None:
        """Let swapped tensors leave as they are made, and come back before their layer's backward pass.

        Of two rounding buffers each layer fills the one that the layer before the last has left.
        """
        stage = action.stage % self.schedule.stages
        own = sorted(layer for layer in self.step.swapped if layer in self.states[stage])
        ashore = own[:-2]
        if not ashore or action.kind == "W":
            return
        bounds = {layer.number: layer for layer in written.layers}
        for layer in ashore if action.kind == "F" else reversed(ashore):
            following = bounds[own[own.index(layer) + 2]]
            if action.kind == "F":
                task = -1
                for place in range(bounds[layer].first, bounds[layer].last + 1):
                    size = self.passes[stage].pieces["F"][place].stores
                    if size:
                        task = self._moved(actor, size, ("store", layer), tasks[place])
                if task >= 0:
                    self.builder.wait(tasks[following.first], task)
            else:
                task = self._moved(actor, self.swapped_bytes(layer), ("fetch", layer), tasks[following.last])
                self.builder.wait(tasks[bounds[layer].first], task)

    def _moved(self, actor: Actor, size: int, what: tuple[str, int], after: int) -> int:
        """A copy to host memory or back."""
        exchange, route = self.exchanges.copy(actor, size, to_host=what[0] == "store")
        lane = actor.to_host if what[0] == "store" else actor.from_host
        return self.builder.add(
            lane, TaskKind.SWAP, exchange.seconds, label=f"{what[0]}, layer {what[1]}", after=[after],
            traffic=(exchange.bytes, route),
        )  # fmt: skip
