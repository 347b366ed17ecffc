"""Where weights, KV cache and hidden states live, and how large a block is: a linear program per block size.

For a GPU batch and a number of batches the shares on GPU, host and disk are eight variables of a linear
program that minimises seconds per sequence under the three capacities; batch and block are enumerated
(FlexGen, arXiv:2303.06865, section 4.3). The batch count climbs while throughput rises; feasibility is
monotone in it, so that the largest block is found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from hw_configs.problems import InfeasibleError, NoAnswerError
from mapping.offload.block_policy import BlockPolicy, BlockRates, BlockShape, Capacities
from mapping.offload.block_schedule import (
    BlockCost,
    Form,
    Shares,
    block_cost,
    decode_terms,
    peaks,
    prefill_terms,
    stages,
)
from mapping.solver import SolverOptions, solve_model

__all__ = ["PlacementResult", "best_policy", "best_shares"]

FILL: Final = 0.8
"""Share of each capacity that the released search fills, for what its peak estimate leaves out."""
MAX_BATCHES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class PlacementResult:
    """A policy with its cost and the number of linear programs that were solved to find it."""

    policy: BlockPolicy
    cost: BlockCost
    programs: int
    seconds: float
    engine: str


def best_shares(
    shape: BlockShape,
    rates: BlockRates,
    capacities: Capacities,
    gpu_batch: int,
    batches: int,
    form: Form = "released",
    *,
    host_attention: bool = True,
) -> PlacementResult | None:
    """The fastest shares for a block, or None when no shares fit (proved by the solver)."""
    import pulp

    model = pulp.LpProblem("placement", pulp.LpMinimize)
    names = ("weight_gpu", "weight_host", "weight_disk", "cache_gpu", "cache_host", "cache_disk",
             "hidden_gpu", "hidden_host")  # fmt: skip
    shares = Shares(*(model.add_variable(name, 0, 1) for name in names))
    block = gpu_batch * batches
    first, later = model.add_variable("prefill", 0), model.add_variable("decode", 0)
    model += (first + later * (shape.generate - 1)) * (shape.layers / block)
    model += shares.weight_gpu + shares.weight_host + shares.weight_disk == 1
    model += shares.cache_gpu + shares.cache_host + shares.cache_disk == 1
    model += shares.hidden_gpu + shares.hidden_host == 1
    for seconds in stages(prefill_terms(shape, rates, shares, block), form, "prefill"):
        model += first >= seconds
    for seconds in stages(
        decode_terms(shape, rates, shares, block, gpu_batch, host_attention), form, "decode"
    ):
        model += later >= seconds
    limits = {"gpu": capacities.gpu, "host": capacities.host, "disk": capacities.disk}
    for memory, found in peaks(shape, shares, block, gpu_batch).items():
        for peak in found:
            # In GiB, so that bytes and seconds do not stand in one matrix eleven orders apart.
            model += peak * (1 / 2**30) <= limits[memory] / 2**30
    report = solve_model(model, SolverOptions(time_limit_s=30.0))
    if report.status == "infeasible":
        return None
    if not report.has_solution:
        raise NoAnswerError(
            f"the placement of {batches} batches of {gpu_batch} was not solved: {report.status}"
        )
    policy = _policy(gpu_batch, batches, shares)
    cost = block_cost(shape, rates, policy, form, host_attention=host_attention)
    return PlacementResult(policy, cost, 1, report.seconds, f"{report.backend} {report.version}")


def _policy(gpu_batch: int, batches: int, shares: Shares) -> BlockPolicy:
    def pair(one: Any, other: Any) -> tuple[float, float]:
        a, b = (min(1.0, max(0.0, float(v.value() or 0.0))) for v in (one, other))
        over = max(1.0, a + b)
        return a / over, b / over

    weight = pair(shares.weight_gpu, shares.weight_host)
    cache = pair(shares.cache_gpu, shares.cache_host)
    hidden = pair(shares.hidden_gpu, shares.hidden_host)
    return BlockPolicy(gpu_batch, batches, *weight, *cache, *hidden)


def best_policy(
    shape: BlockShape,
    rates: BlockRates | Callable[[int], BlockRates],
    capacities: Capacities,
    form: Form = "released",
    *,
    fill: float = FILL,
    host_attention: bool = True,
    gpu_batch: int | None = None,
    batches: int | None = None,
) -> PlacementResult:
    """The policy of most tokens per second over all block sizes; ``InfeasibleError`` when none fits.

    ``rates`` may depend on the GPU batch. ``gpu_batch`` and ``batches`` fix what is given. Batches of 1 to 4
    and then powers of two are tried, as the released search does.
    """
    room = Capacities(capacities.gpu * fill, capacities.host * fill, capacities.disk * fill)
    search = _Search(shape, rates if callable(rates) else lambda _: rates, room, form, host_attention)
    best: PlacementResult | None = None
    size = gpu_batch or 1
    while True:
        found = search.solve(size, batches) if batches else search.climb(size)
        if found is None and gpu_batch is None and search.solve(size, batches or 1) is None:
            break
        if found is not None and (best is None or found.cost.tokens_per_s > best.cost.tokens_per_s):
            best = found
        if gpu_batch is not None:
            break
        size = size + 1 if size < 4 else size * 2
    if best is None:
        raise InfeasibleError(
            "no placement on GPU, host and disk fits one batch: the weights alone are "
            f"{shape.layer_bytes * shape.layers:.3g} B, of which {room.gpu:.3g}, {room.host:.3g} and "
            f"{room.disk:.3g} B may lie on GPU, host and disk"
        )
    return replace(best, programs=search.programs, seconds=search.seconds)


class _Search:
    """Linear programs solved so far, and how many batches of a size are worth taking."""

    def __init__(
        self,
        shape: BlockShape,
        rates: Callable[[int], BlockRates],
        room: Capacities,
        form: Form,
        host_attention: bool,
    ) -> None:
        self.shape, self.rates, self.room, self.form = shape, rates, room, form
        self.host_attention = host_attention
        self.programs = 0
        self.seconds = 0.0
        self.known: dict[tuple[int, int], PlacementResult | None] = {}

    def solve(self, gpu_batch: int, batches: int) -> PlacementResult | None:
        key = (gpu_batch, batches)
        if key not in self.known:
            found = best_shares(
                self.shape, self.rates(gpu_batch), self.room, gpu_batch, batches, self.form,
                host_attention=self.host_attention,
            )  # fmt: skip
            self.programs += 1
            self.seconds += found.seconds if found is not None else 0.0
            self.known[key] = found
        return self.known[key]

    def climb(self, gpu_batch: int) -> PlacementResult | None:
        """The best number of batches up to the largest that fits.

        Throughput rises with the block as long as weights are what a step waits for, and falls once the
        cache must move to a slower memory. It is unimodal in practice, not by proof, so the neighbourhood of
        the best of a coarse ladder is searched rather than every number.
        """
        most = self._most(gpu_batch)
        if most == 0:
            return None
        ladder = sorted({max(1, round(most * 1.3**-i)) for i in range(60)} | {1, most})
        rate = {n: self._rate(gpu_batch, n) for n in ladder}
        best = max(ladder, key=lambda n: (rate[n], -n))
        place = ladder.index(best)
        low, high = ladder[max(place - 1, 0)], ladder[min(place + 1, len(ladder) - 1)]
        while high - low > 2:
            third = (high - low) // 3
            one, other = low + third, high - third
            if self._rate(gpu_batch, one) < self._rate(gpu_batch, other):
                low = one + 1
            else:
                high = other
        candidates = {low, min(low + 1, high), high, best}
        return self.solve(gpu_batch, max(candidates, key=lambda n: (self._rate(gpu_batch, n), -n)))

    def _rate(self, gpu_batch: int, batches: int) -> float:
        found = self.solve(gpu_batch, batches)
        return found.cost.tokens_per_s if found is not None else 0.0

    def _most(self, gpu_batch: int) -> int:
        if self.solve(gpu_batch, 1) is None:
            return 0
        low, high = 1, 2
        while high <= MAX_BATCHES and self.solve(gpu_batch, high) is not None:
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            if self.solve(gpu_batch, middle) is None:
                high = middle
            else:
                low = middle
        return low
