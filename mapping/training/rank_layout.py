"""Which rank is whose neighbour: groups of ranks by degree of parallelism, in any order of nesting.

Ranks are numbered so that the first degree of a setup's ``layout`` changes fastest: with tensor parallelism first, as
Megatron-LM lays ranks out, its groups are next to each other and share a machine. Ranks that hold equal weights
(Ulysses, context and data ranks) are the **shards** of a stage; experts are divided over runs of them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mapping.training.setup import TrainingSetup

__all__ = ["DEGREES", "first_group", "groups_of", "pipeline_rank"]

DEGREES: Final = ("tensor", "ulysses", "context", "data", "pipeline")
SHARDS: Final = ("ulysses", "context", "data")

Group = tuple[int, ...]


def _strides(setup: TrainingSetup) -> dict[str, int]:
    stride, found = 1, {}
    for name in setup.layout:
        found[name] = stride
        stride *= getattr(setup, name)
    return found


def pipeline_rank(setup: TrainingSetup, rank: int) -> int:
    """Which rank of the pipeline a rank is."""
    return rank // _strides(setup)["pipeline"] % setup.pipeline


@lru_cache(maxsize=256)
def groups_of(setup: TrainingSetup, kind: str) -> tuple[Group, ...]:
    """All groups of a kind, each in the order of its ranks.

    ``tensor``, ``ulysses``, ``context``, ``data``, ``pipeline``; ``shards``: ranks that hold equal weights;
    ``expert``: ranks that divide the experts; ``expert_shards``: ranks that hold equal experts; ``within`` and
    ``across``: the two sides of hybrid sharding, and ``expert_within``, ``expert_across`` those of the experts.
    """
    names = SHARDS if kind not in DEGREES else (kind,)
    strides = _strides(setup)
    byname: dict[int, list[int]] = {}
    for rank in range(setup.devices):
        fixed = rank - sum(rank // strides[n] % getattr(setup, n) * strides[n] for n in names)
        byname.setdefault(fixed, []).append(rank)
    groups = [tuple(ranks) for ranks in byname.values()]
    if kind in DEGREES or kind == "shards":
        return tuple(groups)
    if kind.startswith("expert"):
        whole, groups = groups, []
        for ranks in whole:
            runs = [ranks[start : start + setup.expert] for start in range(0, len(ranks), setup.expert)]
            groups += runs if kind == "expert" else [tuple(row) for row in zip(*runs, strict=True)]
    if kind in ("expert", "expert_shards"):
        return tuple(groups)
    width = setup.shard_width(experts=kind.startswith("expert"))
    found: list[Group] = []
    for ranks in groups:
        runs = [ranks[start : start + width] for start in range(0, len(ranks), width)]
        found += runs if kind.endswith("within") else [tuple(row) for row in zip(*runs, strict=True)]
    return tuple(found)


def first_group(setup: TrainingSetup, kind: str) -> Group:
    """The group of rank 0, as :func:`groups_of` has it."""
    strides = _strides(setup)
    if kind in DEGREES:
        return tuple(range(0, strides[kind] * getattr(setup, kind), strides[kind]))
    ranks = [0]
    for name in SHARDS:
        ranks = [rank + turn * strides[name] for turn in range(getattr(setup, name)) for rank in ranks]
    ranks.sort()
    if kind == "expert":
        return tuple(ranks[: setup.expert])
    if kind.startswith("expert"):
        ranks = ranks[:: setup.expert]
    if kind in ("shards", "expert_shards"):
        return tuple(ranks)
    width = setup.shard_width(experts=kind.startswith("expert"))
    return tuple(ranks[:width] if kind.endswith("within") else ranks[::width])
