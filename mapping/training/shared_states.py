"""What ranks that share states exchange in a step: weights gathered before a pass, gradients reduced behind it.

Weights of stage 3 come layer by layer, as far ahead as they are prefetched; those of stages 1 and 2 once, from the
update of the step before. Gradients leave in buckets when the last of a bucket's layers is done, over the ranks that
share a copy, over the copies, and over replicas of a stage; then the optimizer runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mapping.training.layer_states import LayerStates, StateBytes
from mapping.training.pass_block import Turn, WrittenPass
from mapping.training.schedules.action import Action
from mapping.training.step_exchanges import Actor, Exchanges, Key
from mapping.training.step_holdings import StepHoldings
from mapping.training.tier_tasks import TierTasks
from simulator.training.program import ProgramBuilder, TaskKind
from simulator.training.wires import Exchange

__all__ = ["SharedStates"]


@dataclass
class SharedStates(StepHoldings):
    """Writes the exchanges of shared states and the update; ``gradient_scale``: bytes of a gradient on the wires."""

    speed_beside: float = 1.0
    gradient_scale: float = 1.0
    builder: ProgramBuilder = field(default_factory=ProgramBuilder)
    exchanges: Exchanges = field(init=False)
    tiers: TierTasks = field(init=False)
    worked: dict[int, list[int]] = field(default_factory=dict)
    """Last tasks of the layers that an actor has worked on, in order."""
    gathered: set[tuple[int, int, int]] = field(default_factory=set)
    reduced: dict[int, list[int]] = field(default_factory=dict)
    reducing: dict[tuple[int, str], int] = field(default_factory=dict)
    """The last reduction of an actor's family."""
    replica_lanes: dict[tuple[int, int], int] = field(default_factory=dict)
    """Streams of an actor on which replicas of a stage add up."""
    owed: dict[int, list[int]] = field(default_factory=dict)
    """Reductions that an actor's next pass waits for."""
    parts: dict[int, int] = field(default_factory=dict)
    """Bytes of reduced gradients that an actor holds from their reduction to the update."""
    updated: dict[int, list[int]] = field(default_factory=dict)
    """Last tasks of an actor's update."""
    saved: dict[int, list[int]] = field(default_factory=dict)
    """Copies of a checkpoint that have to leave before the update."""

    def gather_weights(
        self, actor: Actor, action: Action, written: WrittenPass, tasks: Sequence[int]
    ) -> None:
        """Gather weights before the pass that reads them: all of stage 3, once a step those of stages 1 and 2."""
        setup = self.step.setup
        if setup.zero_stage == 0 or (setup.zero_stage < 3 and not setup.sharding.overlap):
            return
        again = setup.zero_stage == 3 and setup.sharding.reshard
        stage = action.stage % self.schedule.stages
        for place, layer in enumerate(written.layers):
            name = (actor.number, action.stage, layer.number)
            if not again and name in self.gathered:
                continue
            self.gathered.add(name)
            after: list[int] = []
            if setup.zero_stage == 3:
                ahead = [
                    *self.worked[actor.number],
                    *(tasks[earlier.visited] for earlier in written.layers[:place]),
                ]
                depth = setup.sharding.prefetch + 1
                after = ahead[-depth : -depth + 1 or None] if len(ahead) >= depth else []
            away = self.places.weights != "device"
            several = self.passing if away else self.shared
            for own, ranks, prefix in several(self.states[stage].get(layer.number, LayerStates())):
                if away and own.weights:
                    part = -(-own.weights // ranks)
                    fetched = self.tiers.fetched(actor, part, layer.number, after)
                    if ranks == 1:
                        self.builder.wait(tasks[layer.first], fetched)
                        continue
                    after = [fetched]
                task = self.gather(actor, own, prefix, (action, layer.number), after)
                if task >= 0:
                    self.builder.wait(tasks[layer.first], task)

    def gather(
        self, actor: Actor, own: StateBytes, prefix: str, instance: tuple[object, ...], after: list[int]
    ) -> int:
        """An all-gather of a layer's weights; -1 where there are none."""
        if not own.weights:
            return -1
        key = self.exchanges.key(f"{prefix}within", actor)
        exchange, route, seconds = self._in_buckets(key, "all_gather", own.weights)
        take = own.weights if self.step.setup.zero_stage == 3 else 0
        width = self.expert_width if prefix else self.width
        part = -(-own.weights // width) if self.places.weights != "device" else 0
        return self.builder.add(
            actor.gather, TaskKind.DATA, seconds, label=f"gather, layer {instance[-1]}", after=after,
            traffic=(exchange.bytes, route), memory=(take, -part),
            meeting=self.exchanges.meeting(key, "gather", prefix, *instance),
        )  # fmt: skip

    def _in_buckets(self, key: Key, kind: str, size: int) -> tuple[Exchange, int, float]:
        """A collective bucket by bucket, as one task: stage 3 takes a layer at once."""
        count = max(size // self.step.setup.sharding.bucket_bytes, 1) if self.step.setup.zero_stage < 3 else 1
        whole, route = self.exchanges.take(key, kind, size)
        part, _ = self.exchanges.take(key, kind, -(-size // count)) if count > 1 else (whole, route)
        return whole, route, part.seconds * count

    def reduce_gradients(self, actor: Actor, turn: Turn, tasks: Sequence[int]) -> None:
        """Reduce gradients of layers, several small ones together, when the last of them is done.

        Where whole gradients live no longer than that, computation goes on when the reduction before has ended: that of
        one bucket and the making of the next are all that is there at once.
        """
        setup, action, written = self.step.setup, turn.action, turn.written
        stage = action.stage % self.schedule.stages
        waiting = {"": StateBytes(), "expert_": StateBytes()}
        names: dict[str, list[int]] = {prefix: [] for prefix in waiting}
        in_turn = sorted(written.layers, key=lambda layer: layer.last)
        every = self.places.off_device or (turn.final and bool(self._replicas(action.stage)))
        for layer in in_turn:
            for own, _, prefix in self.all_states(self.states[stage].get(layer.number, LayerStates())):
                if not every and self.holders(prefix) == 1:
                    continue
                waiting[prefix] = waiting[prefix].plus(own)
                names[prefix].append(layer.number)
            for prefix, own in waiting.items():
                ends = layer is in_turn[-1]
                if not own.gradients or not (ends or own.gradients >= setup.sharding.bucket_bytes):
                    continue
                place = layer.last if setup.sharding.overlap else len(written.block) - 1
                before = self.reducing.get((actor.number, prefix))
                made = self.reduce(actor, action, prefix, own, names[prefix], tasks[place], turn.final)
                waiting[prefix], names[prefix] = StateBytes(), []
                self.reducing[actor.number, prefix] = made
                if (
                    before is not None
                    and setup.zero_stage >= 2
                    and self.reduces_each
                    and setup.sharding.overlap
                ):
                    if place + 1 < len(written.block):
                        self.builder.wait(tasks[place + 1], before)
                    else:
                        self.owed.setdefault(actor.number, []).append(before)

    def reduce(
        self, actor: Actor, action: Action, prefix: str, own: StateBytes, layers: list[int], after: int,
        final: bool,
    ) -> int:  # fmt: skip
        """One reduction: over the ranks that share a copy, over the copies, and at last over replicas of the stage.

        The last task among the ranks of a stage; replicas, whose ranks come to it at other times, have a stream of
        their own.
        """
        setup = self.step.setup
        width, holders = self.expert_width if prefix else self.width, self.holders(prefix)
        whole = round(own.gradients * self.gradient_scale)
        steps: list[tuple[str, str, int]] = []
        part = whole if setup.zero_stage == 0 else -(-whole // width)
        if setup.zero_stage == 0 and holders > 1:
            steps.append((f"{prefix}shards", "all_reduce", whole))
        elif setup.zero_stage:
            steps += [(f"{prefix}within", "reduce_scatter", whole)] if width > 1 else []
            steps += [(f"{prefix}across", "all_reduce", part)] if holders > width else []
        gone = setup.zero_stage >= 2 and action.stage >= 0 and (width > 1 or self.places.off_device)
        freed = own.gradients if gone and (self.reduces_each or self.reduces_late) else 0
        stays = part if gone and self.reduces_late and not self.places.in_backward else 0
        stage = action.stage % self.schedule.stages if action.stage >= 0 else action.stage
        micro_batch = action.micro_batch if self.reduces_each and action.stage >= 0 else -1
        for place, (family, kind, size) in enumerate(steps):
            key = self.exchanges.key(family, actor)
            exchange, route, seconds = self._in_buckets(key, kind, size)
            end = place == len(steps) - 1
            after = self.builder.add(
                actor.reduce, TaskKind.DATA, seconds, label=f"reduce, layer {layers[-1]}", after=[after],
                traffic=(exchange.bytes, route), memory=(stays if end else 0, -freed if end else 0),
                meeting=self.exchanges.meeting(key, "reduce", kind, stage, tuple(layers), micro_batch),
            )  # fmt: skip
        self.parts[actor.number] = self.parts.get(actor.number, 0) + stays
        done = after
        mates = self._replicas(action.stage) if action.stage >= 0 and final else ()
        if mates:
            key = self.exchanges.key(f"replica {mates[0]} {mates[1]}", actor)
            exchange, route, seconds = self._in_buckets(key, "all_reduce", part)
            lane = (actor.number, stage)
            if lane not in self.replica_lanes:
                self.replica_lanes[lane] = self.builder.stream(
                    actor.number, f"reduce over replicas of {stage}"
                )
            after = self.builder.add(
                self.replica_lanes[lane], TaskKind.DATA, seconds, label=f"reduce, layer {layers[-1]}", after=[after],
                traffic=(exchange.bytes, route),
                meeting=self.exchanges.meeting(key, "replica", stage, prefix, tuple(layers)),
            )  # fmt: skip
        if self.places.off_device:
            # A rank's own part leaves for the host, where it is added up.
            kept = part if freed and steps else 0
            exchange, route = self.exchanges.copy(actor, part, to_host=True)
            after = self.builder.add(
                actor.to_host, TaskKind.SWAP, exchange.seconds, label=f"gradients, layer {layers[-1]}", after=[after],
                traffic=(exchange.bytes, route), memory=(kept, -kept if steps else -freed),
            )  # fmt: skip
        self.reduced[actor.number].append(after)
        return done

    def _replicas(self, stage: int) -> tuple[int, ...]:
        """The ranks of the pipeline that hold a stage, where there are two."""
        count = self.schedule.stages
        pipes = sorted(
            {self.schedule.rank_of_stage[stage % count + r * count] for r in range(self.schedule.replicas)}
        )
        return tuple(pipes) if len(pipes) > 1 else ()

    def finish(self, actor: Actor) -> None:
        """The optimizer, when all gradients are there; and what an unoverlapped gathering adds."""
        setup, seconds = self.step.setup, 0.0
        own = [stage for stage, pipe in enumerate(self.schedule.rank_of_stage) if pipe == actor.pipe]
        for stage in {stage % self.schedule.stages for stage in own}:
            whole = shared = 0.0
            for states in self.states[stage].values():
                for part, ranks in ((states.dense, self.width), (states.experts, self.expert_width)):
                    whole += part.optimizer
                    shared += part.optimizer / (ranks if setup.zero_stage else 1)
            seconds += self.passes[stage].optimizer_s * (shared / whole if whole else 1.0)
            if stage == self.schedule.stages - 1:
                seconds -= self.output_s * (shared / whole if whole else 1.0)
        seconds += self.output_s / self.schedule.ranks / (self.width if setup.zero_stage else 1)
        left = sum(map(self.messages.left, own))
        if left:
            self.builder.add(
                actor.lanes[0], TaskKind.OPTIMIZER, 0.0, label="messages given up",
                after=self.worked[actor.number][-1:], memory=(0, -left),
            )  # fmt: skip
        if self.places.off_device:
            if not self.places.delayed:
                ready = [*self.reduced[actor.number], *self.worked[actor.number][-1:]]
                self.updated[actor.number] = self.tiers.update(actor, list(self.own_states(actor)), ready)
            return
        if self.places.in_backward:
            return
        after = [
            *self.reduced[actor.number],
            *self.worked[actor.number][-1:],
            *self.saved.get(actor.number, ()),
        ]
        task = self.builder.add(
            actor.lanes[0],
            TaskKind.OPTIMIZER,
            seconds,
            label="optimizer",
            after=after,
            memory=(0, -self.parts.get(actor.number, 0)),
        )
        self.updated[actor.number] = [task]
        if setup.zero_stage in (1, 2) and not setup.sharding.overlap:
            for stage in own:
                for layer, states in self.states[stage % self.schedule.stages].items():
                    for part, _, prefix in self.shared(states):
                        self.gather(actor, part, prefix, ("after", stage, layer), [task])
