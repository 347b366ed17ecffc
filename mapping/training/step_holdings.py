"""What a rank holds of states from step to step, and what of them a pass takes and gives up.

Several ranks may share a layer's states (ZeRO), states may live elsewhere than on the device, and weights that products
read may come from wider parameters: who has what follows from the setup, the same for all that write a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from mapping.training.layer_states import LayerStates, StateBytes
from mapping.training.pass_block import PassLayer
from mapping.training.pricing import Prices
from mapping.training.rank_step import RankStep
from mapping.training.schedules.action import PipelineSchedule
from mapping.training.stage_messages import Messages
from mapping.training.stage_passes import Piece, StagePasses
from mapping.training.state_places import StatePlaces
from mapping.training.step_exchanges import Actor

__all__ = ["StepHoldings"]


@dataclass
class StepHoldings:
    """A step under a schedule, with its passes and states by stage.

    ``states``: by stage and layer. ``output``: a rank's share of an output layer that all ranks of the pipeline share,
    ``output_s`` the seconds of its update. ``width``, ``expert_width``: ranks over which states are divided.
    """

    step: RankStep
    prices: Prices
    schedule: PipelineSchedule
    places: StatePlaces = field(init=False)
    passes: list[StagePasses] = field(init=False)
    states: list[dict[int, LayerStates]] = field(init=False)
    output: StateBytes = field(init=False)
    output_s: float = field(init=False)
    width: int = field(init=False)
    expert_width: int = field(init=False)
    messages: Messages = field(init=False)

    def first_micro_batches(self, pipe: int) -> list[int]:
        """Micro-batches whose first stage a rank of the pipeline runs, in its order."""
        stages = self.schedule.stages
        order = self.schedule.orders[pipe]
        return [one.micro_batch for one in order if one.kind == "F" and one.stage % stages == 0]

    def shared(self, states: LayerStates) -> Iterator[tuple[StateBytes, int, str]]:
        """States of a layer that several ranks share: how many, and the family's prefix."""
        if self.width > 1:
            yield states.dense, self.width, ""
        if self.expert_width > 1:
            yield states.experts, self.expert_width, "expert_"

    def holders(self, prefix: str) -> int:
        """Ranks that have equal weights, or equal experts."""
        return self.step.setup.shards // (self.step.setup.expert if prefix else 1)

    def all_states(self, states: LayerStates) -> Iterator[tuple[StateBytes, int, str]]:
        """All states of a layer, as :meth:`shared` has them."""
        yield states.dense, self.width, ""
        if states.experts.weights:
            yield states.experts, self.expert_width, "expert_"

    def passing(self, states: LayerStates) -> Iterator[tuple[StateBytes, int, str]]:
        """States of a layer that do not stay whole on the rank: shared ones, and those with a place elsewhere."""
        if not (self.places.off_device or self.places.in_backward):
            yield from self.shared(states)
        else:
            yield from self.all_states(states)

    def _held_of(self, own: StateBytes, zero: int, ranks: int) -> int:
        """Bytes of a layer's states on the device."""
        places = self.places
        if self.copies_wider and zero == 3:
            own = replace(own, weights=own.weights - own.trained)
        if places.in_backward:
            own = replace(own, gradients=0)
        if places.off_device:
            gone = zero >= 2 and self.reduces_each
            own = StateBytes(
                0 if places.weights != "device" else own.weights, 0 if gone else own.gradients, 0
            )
        return own.held(zero, ranks)

    def held_bytes(self, pipe: int, stages: Sequence[int]) -> int:
        """Bytes that a rank holds from step to step."""
        setup = self.step.setup
        total = 0
        for stage in stages:
            for states in self.states[stage % self.schedule.stages].values():
                for own, ranks in ((states.dense, self.width), (states.experts, self.expert_width)):
                    zero = setup.zero_stage if ranks > 1 or self.places.off_device else 0
                    if zero >= 2 and self.reduces_late:
                        own = replace(own, gradients=0)
                    total += self._held_of(own, zero, ranks)
                    if zero >= 2 and not self.reduces_each and not self.reduces_late:
                        total += own.gradients - -(-own.gradients // ranks)
            total += self.messages.held(stage)
        total += setup.loading.held_bytes(setup, len(self.first_micro_batches(pipe)))
        total += self.output.held(min(setup.zero_stage, 1) if self.width > 1 else 0, self.width)
        if self.output_comes:
            total -= self.output.weights - -(-self.output.weights // self.width)
        return total + 2 * self.swap_buffer_bytes

    @property
    def output_comes(self) -> bool:
        """Whether a rank's share of a shared output layer is gathered before each of its passes."""
        return self.step.setup.zero_stage == 3 and self.width > 1 and self.output.weights > 0

    @property
    def reduces_each(self) -> bool:
        """Whether gradients are reduced after every micro-batch."""
        return self.step.setup.sharding.reduces_each(self.step.setup.zero_stage)

    @property
    def reduces_late(self) -> bool:
        """Whether whole gradients live from a stage's first backward pass to its last, and are reduced then."""
        return self.step.setup.reduces_late

    @property
    def copies_wider(self) -> bool:
        """Whether weights that products read come from wider parameters, which then are the optimizer's master."""
        return self.step.setup.state_types.copies == "gathered"

    @property
    def swap_buffer_bytes(self) -> int:
        """Bytes of one rounding buffer of swapped activations."""
        sizes = [self.swapped_bytes(layer) for layer in self.step.swapped]
        return max(sizes, default=0)

    def swapped_bytes(self, layer: int) -> int:
        """Bytes of a layer's swapped tensors."""
        return sum(self.step.graph.tensors[name].size_bytes for name in self.step.swapped[layer])

    def with_states(
        self,
        pieces: Sequence[Piece],
        layers: Sequence[PassLayer],
        stage: int,
        kind: str,
        ends: tuple[bool, bool],
    ) -> list[Piece]:
        """The pieces with the bytes of gathered weights that they give up, and of gradients that they make."""
        setup, found = self.step.setup, list(pieces)
        if kind in "ST" and self.output_comes and setup.sharding.reshard:
            found[-1] = replace(found[-1], give=found[-1].give - self.output.weights)
        fresh, done = ends
        for layer in layers if kind not in "ST" else ():
            first, visited = layer.first, layer.visited
            for own, ranks, _ in self.passing(self.states[stage].get(layer.number, LayerStates())):
                if self.places.in_backward:
                    if kind == "B":
                        last = layer.last
                        found[first] = replace(found[first], take=found[first].take + own.gradients)
                        found[last] = replace(found[last], give=found[last].give - own.gradients)
                    continue
                comes = ranks > 1 or self.places.weights != "device"
                if comes and setup.zero_stage == 3 and kind != "W" and setup.sharding.reshard:
                    found[visited] = replace(found[visited], give=found[visited].give - own.weights)
                if setup.zero_stage < 2 or kind not in "BW":
                    continue
                if self.reduces_each or fresh:
                    found[first] = replace(found[first], take=found[first].take + own.gradients)
                if self.copies_wider:
                    # A layer's gradients are made in the type of its gathered weights, then added up in their own.
                    last = layer.last
                    found[first] = replace(found[first], take=found[first].take + own.trained)
                    found[last] = replace(found[last], give=found[last].give - own.trained)
        if done and setup.zero_stage == 3 and not setup.sharding.reshard:
            found[-1] = replace(found[-1], give=found[-1].give - self._kept_weights(stage))
        return found

    def _kept_weights(self, stage: int) -> int:
        """Bytes of a stage's gathered weights, which stay until its last pass."""
        several = self.passing if self.places.weights != "device" else self.shared
        read = {piece.layer for kind in "FBI" for piece in self.passes[stage].pieces.get(kind, ())}
        return sum(
            own.weights
            for layer, states in self.states[stage].items()
            if layer in read
            for own, _, _ in several(states)
        )

    def own_states(self, actor: Actor) -> Iterator[tuple[StateBytes, int]]:
        """States of an actor's stages, and over how many ranks each is divided."""
        zero = self.step.setup.zero_stage
        for stage, pipe in enumerate(self.schedule.rank_of_stage):
            if pipe != actor.pipe:
                continue
            for states in self.states[stage % self.schedule.stages].values():
                yield states.dense, self.width if zero else 1
                yield states.experts, self.expert_width if zero else 1
