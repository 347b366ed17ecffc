"""Which experts of each layer stay on a device whose memory does not hold them all, and what of the others moves.

Every layer keeps as many of its experts, those that are wanted most (or, under ``lru``, those that were wanted last);
the others lie elsewhere, and a step brings those of them that it wants. How often an expert is wanted is an input
(:mod:`workloads.expert_frequency`). The bytes that a step brings are the chance that an expert is wanted and not there,
times its bytes, over all experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from hw_configs.problems import bad_input
from simulator.plan import ExpertGroups
from simulator.rewrite.divide import part_name
from simulator.rewrite.expert_groups import ExpertBlock, expert_blocks, group_experts
from workloads.expert_frequency import ExpertFrequency, expected_touched, hit_rate, top_share
from workloads.graph import Graph

__all__ = ["ExpertCache", "WantedExperts", "most_kept"]

Policy = Literal["static", "lru"]


@dataclass(frozen=True)
class ExpertCache:
    """Experts that stay: the plan's groups, the graph cut so, and the weights that lie elsewhere."""

    slots: Mapping[str, int]
    """Experts of each block that stay."""
    groups: Mapping[str, ExpertGroups]
    graph: Graph
    outside: frozenset[str]
    hit_rate: float
    """Share of the experts that a step wants which are there, over all layers."""


@dataclass(frozen=True)
class WantedExperts:
    """The blocks of a graph, and how often each of their experts is wanted."""

    graph: Graph
    blocks: Mapping[str, ExpertBlock]
    shares: Mapping[str, tuple[float, ...]]
    """Shares of a block's routed rows by expert, the most wanted first."""

    @staticmethod
    def of(graph: Graph, frequency: ExpertFrequency) -> WantedExperts:
        """The blocks of a graph under a frequency; ``InputError`` where it has none, or the two do not fit."""
        blocks = expert_blocks(graph)
        if not blocks:
            raise bad_input(f"{graph.name} has no experts to keep", path="--set expert-slots")
        layers = {name: graph.operator_by_name[name].place.layer for name in blocks}
        shares = {
            name: frequency.shares(block.experts, block.active, layers[name])
            for name, block in blocks.items()
        }
        return WantedExperts(graph, blocks, shares)

    @property
    def experts(self) -> int:
        """Experts of all blocks together."""
        return sum(block.experts for block in self.blocks.values())

    def alike(self, slots: int) -> dict[str, int]:
        """So many experts of every block; ``InputError`` where a block has fewer."""
        fewest = min(block.experts for block in self.blocks.values())
        if slots > fewest:
            raise bad_input(f"found {slots}; a layer has {fewest} experts", path="--set expert-slots")
        return dict.fromkeys(self.blocks, slots)

    def most_wanted(self, total: int) -> dict[str, int]:
        """So many experts over all blocks, those that are wanted most; blocks in turn where they are wanted alike."""
        chances = [
            (-self.blocks[name].active * share, rank, place, name)
            for place, (name, shares) in enumerate(self.shares.items())
            for rank, share in enumerate(shares)
        ]
        found = dict.fromkeys(self.blocks, 0)
        for _, _, _, name in sorted(chances)[:total]:
            found[name] += 1
        return found

    def kept(self, slots: Mapping[str, int], policy: Policy) -> ExpertCache:
        """The cache that keeps ``slots`` experts of each block."""
        groups = {
            name: _groups(block, self.shares[name], slots[name], policy)
            for name, block in self.blocks.items()
        }
        outside = frozenset(
            part_name(weight, int(slots[name] > 0))
            for name, block in self.blocks.items()
            if slots[name] < block.experts
            for weight in block.weights
        )
        wanted = sum(sum(own.touched) for own in groups.values())
        found = sum(own.touched[0] for name, own in groups.items() if slots[name])
        cut = group_experts(self.graph, groups)
        return ExpertCache(slots, groups, cut, outside, found / wanted if wanted else 0.0)


def most_kept(wanted: WantedExperts, policy: Policy, fits: Callable[[ExpertCache], bool]) -> ExpertCache:
    """The cache of the most experts that fits, over all layers; that of none where not even that fits."""
    low, high = 0, wanted.experts
    while low < high:
        middle = (low + high + 1) // 2
        fit = fits(wanted.kept(wanted.most_wanted(middle), policy))
        low, high = (middle, high) if fit else (low, middle - 1)
    return wanted.kept(wanted.most_wanted(low), policy)


def _groups(block: ExpertBlock, shares: tuple[float, ...], slots: int, policy: Policy) -> ExpertGroups:
    """A layer's experts in two groups: those that are there, and those that come."""
    wanted = expected_touched(shares, block.active, block.draws)
    if slots in (0, block.experts):
        return ExpertGroups((block.experts,), (1.0,), (wanted,))
    hit = hit_rate(shares, block.active, slots, policy, block.draws)
    here = top_share(shares, slots) if policy == "static" else hit
    # A token goes to different experts, so that a group has at most one row of it per expert.
    here = min(max(here, 1.0 - (block.experts - slots) / block.active), slots / block.active, 1.0)
    return ExpertGroups(
        (slots, block.experts - slots), (here, 1.0 - here), (hit * wanted, (1.0 - hit) * wanted)
    )
