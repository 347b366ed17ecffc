"""How often experts' weights are fetched, by the order in which tokens are computed.

A machine that holds the weights of few experts at a time computes token after token, each at its own experts, or expert
after expert, each with the queue of its tokens (Sarkar et al., Edge-MoE, arXiv:2305.18691). Executed use by use.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hw_configs.problems import bad_input

__all__ = ["Order", "even_choices", "weight_fetches"]

Order = Literal["token", "expert"]


def even_choices(tokens: int, experts: int, active: int, seed: int = 0) -> NDArray[np.int64]:
    """Different experts of every token, all alike, as a router puts them: one row a token."""
    if not 1 <= active <= experts:
        raise bad_input(f"found {active}; expected 1 to {experts}", path="active")
    draws = np.random.default_rng(seed).random((tokens, experts))
    return np.argsort(draws, axis=1)[:, :active]


def weight_fetches(choices: NDArray[Any], held: int, order: Order) -> int:
    """Experts' weights fetched where ``held`` experts fit and the one longest unused leaves first.

    >>> twice = np.array([[0], [1], [0], [1]])
    >>> weight_fetches(twice, 1, "token"), weight_fetches(twice, 1, "expert"), weight_fetches(twice, 2, "token")
    (4, 2, 2)
    """
    if held < 1:
        raise bad_input(f"found {held}; expected 1 or more", path="held")
    uses = [int(expert) for row in choices for expert in row]
    if order == "expert":
        queues: dict[int, list[int]] = {}
        for place, expert in enumerate(uses):
            queues.setdefault(expert, []).append(place)
        uses = [expert for expert in sorted(queues) for _ in queues[expert]]
    inside: OrderedDict[int, None] = OrderedDict()
    fetched = 0
    for expert in uses:
        if expert in inside:
            inside.move_to_end(expert)
            continue
        fetched += 1
        inside[expert] = None
        if len(inside) > held:
            inside.popitem(last=False)
    return fetched
