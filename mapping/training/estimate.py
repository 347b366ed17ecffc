"""Bytes and seconds of one training step for one setup: what every mapper of this folder compares.

Time is :mod:`mapping.training.step_time`'s, memory :mod:`mapping.training.step_memory`'s.

Left out: dropout, random-number state, the framework's own Python and the driver's context beyond what the device
file reserves; stragglers and noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from hw_configs.problems import bad_input
from mapping.training.pricing import Prices
from mapping.training.rank_graph import rank_graph
from mapping.training.rank_step import RankStep, layer_bytes, plain_step, requests_of, swapping_step
from mapping.training.recompute.chain import ChainStage
from mapping.training.recompute.skeleton import skeleton_of
from mapping.training.requests import RequestSequence
from mapping.training.setup import TrainingEstimate, TrainingSetup
from mapping.training.state_traffic import with_states_away
from mapping.training.step_memory import model_states, step_memory
from mapping.training.step_time import chain_of, layer_forward, step_time
from mapping.training.tier_rates import tier_rates
from mapping.training.token_swap import LayerBytes, TokenShare, token_share
from workloads.graph import Graph

__all__ = ["Estimator", "RankStep", "estimate"]

STALL_PER_CALL_S: Final = 1e-3
"""Seconds that the device waits per segment given back and asked for again: assumption."""

ALPHA_STEPS: Final = 6
"""Halvings of the search for the share of tokens that device memory holds."""

MOST_GRAPHS: Final = 8
"""Rank graphs that an estimator remembers."""


@dataclass
class Estimator:
    """Estimates setups on one system; rank graphs and prices are remembered."""

    prices: Prices
    _graphs: dict[tuple[object, ...], Graph] = field(default_factory=dict, repr=False)

    def estimate(self, setup: TrainingSetup, *, exact: bool = True) -> TrainingEstimate:
        """What a setup takes. ``exact`` plans addresses, or runs the caching allocator; without it the most
        that is live at once stands for either.

        A setup with ``swap_tokens`` takes that share of tokens, or less where link, host or device memory bound
        it (:meth:`rank_step`). Raises ``InputError`` for a setup that the model or the system cannot run.
        """
        return self.of_step(self.rank_step(setup), exact=exact)

    def rank_step(self, setup: TrainingSetup, *, bounded: bool = True) -> RankStep:
        """The rank's graph under the setup's recomputation; with swapping, for the share that its bounds allow.

        ``bounded`` False takes the setup's share of tokens as it is, whatever waits and overflows then come.
        """
        if setup.devices > len(self.prices.devices):
            raise bad_input(
                f"the setup needs {setup.devices} devices; {self.prices.system.name!r} has {len(self.prices.devices)}",
                path="--devices",
            )
        graph = self._graph(setup)
        if setup.swap_tokens is None:
            return plain_step(graph, setup)
        layer, share = self.token_bounds(setup)
        if not bounded:
            return swapping_step(graph, setup, setup.swap_tokens, layer, share)
        alpha = min(setup.swap_tokens, share.alpha)
        step = swapping_step(graph, setup, alpha, layer, share)
        if alpha == 0.0 or self._room(step) >= 0:
            return step
        best, low, high = swapping_step(graph, setup, 0.0, layer, share), 0.0, alpha
        if self._room(best) < 0:
            return best
        for _ in range(ALPHA_STEPS):
            middle = (low + high) / 2
            step = swapping_step(graph, setup, middle, layer, share)
            if self._room(step) >= 0:
                best, low = step, middle
            else:
                high = middle
        found = replace(share, alpha=low, bound_by="device")
        return replace(best, share=found)

    def of_step(self, step: RankStep, *, exact: bool = True) -> TrainingEstimate:
        """What a rank's step takes in bytes and seconds."""
        setup = step.setup
        memory = step_memory(step, self.prices, exact=exact)
        time = step_time(step, self.prices)
        places = setup.places
        if places.off_device:
            rates = tier_rates(self.prices, setup.devices)
            time, _ = with_states_away(time, setup, model_states(step, 0), places, rates)
        if memory.driver_calls:
            time = time.plus(reorganisation_s=memory.driver_calls * STALL_PER_CALL_S)
        flops = self.model_flops(setup)
        peak = setup.devices * self.prices.peak(setup.dtype)
        mfu = flops / (time.step_s * peak) if time.step_s else 0.0
        return TrainingEstimate(setup, memory.budget, time, flops, mfu, memory.obstacle, memory.notes)

    def token_bounds(self, setup: TrainingSetup) -> tuple[LayerBytes, TokenShare]:
        """A layer's skeletal bytes and the share of tokens that link and host memory allow to swap."""
        graph = self._graph(setup)
        layer = layer_bytes(graph)
        count = max(len(skeleton_of(graph).layers) // setup.pipeline, 1)
        host = self.prices.host(setup.devices)
        flight = min(setup.pipeline, setup.micro_batches)
        share = token_share(
            layer, count, layer_forward(graph, setup, self.prices), host.out_rate, host.share_bytes / flight
        )
        return layer, share

    def layers(self, setup: TrainingSetup) -> int:
        """Layers of the model that have skeletal activations."""
        return len(skeleton_of(self._graph(setup)).layers)

    def chain(self, setup: TrainingSetup) -> list[ChainStage]:
        """The model's layers as a chain, for optimal rematerialisation."""
        return chain_of(self._graph(setup), setup, self.prices)

    def requests(self, step: RankStep, stage: int = 0) -> RequestSequence:
        """The malloc and free requests of one micro-batch on one pipeline stage."""
        return requests_of(step, stage)

    def _room(self, step: RankStep) -> int:
        """Bytes of device memory left, by what is live at once."""
        budget = step_memory(step, self.prices, exact=False).budget
        return self.prices.memory.usable_bytes - budget.device_bytes

    def model_flops(self, setup: TrainingSetup) -> float:
        """FLOPs of a step's forward and backward passes over all devices, recomputation left out."""
        # What a framework does twice, or one rank more than another, is no FLOP of the model.
        graph = self._graph(replace(setup, framework="plain", types=None))
        own = sum(op.flops for op in graph.operators if op.place.training_pass in ("forward", "backward"))
        ranks = setup.tensor * setup.ulysses * setup.context
        return own * ranks * setup.data * setup.micro_batches

    def _graph(self, setup: TrainingSetup) -> Graph:
        key = (
            setup.model, setup.sequence, setup.micro_batch, setup.dtype, setup.tensor,
            setup.sequence_parallel, setup.ulysses, setup.context, setup.expert, setup.state_types, setup.trained,
            setup.framework, setup.zigzag,
        )  # fmt: skip
        if key not in self._graphs:
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.clear()
            self._graphs[key] = rank_graph(setup)
        return self._graphs[key]


def estimate(setup: TrainingSetup, prices: Prices, *, exact: bool = True) -> TrainingEstimate:
    """What one setup takes; use an :class:`Estimator` for many."""
    return Estimator(prices).estimate(setup, exact=exact)
