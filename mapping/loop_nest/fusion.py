"""Which layers of a chain run depth first together, in which tiles, how each is mapped: the best, with a bound.

The cost of a group of layers (:mod:`simulator.accelerator.loop_nest.fused`) is what it moves between chip and outside,
which follows from its tiling, and the sum of its pieces, of which each has a best loop nest of its own. So tilings are
looked at in the order of a floor: moved words, and for pieces not solved yet the least that their arithmetic and their
innermost accesses can cost. A tiling is refined piece by piece until it is beaten or solved; the first that is solved
with no floor below it is the best. A chain is cut into groups by dynamic programming; for energy times delay it keeps
every cut that no other beats in both (a Pareto front), and its bound is that of the fronts of floors.

Tiles of the last output divide its sides. A single layer is mapped as ever.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from typing import Any, Final, Literal, NamedTuple

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import NoAnswerError, bad_input
from hw_configs.spatial import HOME, OPERANDS, why_no_home
from mapping.deadline import Budget
from mapping.loop_nest.search import METRICS, BestMapping, MappingAnswer, best_mapping
from mapping.loop_nest.space import divisors
from simulator.accelerator.loop_nest.evaluate import units_of
from simulator.accelerator.loop_nest.fused import (
    Chain,
    FusedCost,
    FusedProgram,
    FusedTiling,
    fused_cost,
    fused_program,
    inner_device,
    moved_cost,
    slice_dim,
)
from workloads.einsum import Einsum

__all__ = ["FusedChain", "Group", "Pieces", "best_fusion"]

MOST_TILINGS: Final = 2_000_000
"""Tilings of a group that are looked at; those beyond it are bounded by their arithmetic."""
_SOLVED_BY: Final = {"energy": ("energy",), "latency": ("latency",), "edp": METRICS}
"""Metrics by which a piece is mapped: for energy times delay any of the three may be part of the best."""


class _Point(NamedTuple):
    """Joules and cycles."""

    energy: float
    cycles: float

    def value(self, metric: str) -> float:
        return {"energy": self.energy, "latency": self.cycles, "edp": self.energy * self.cycles}[metric]


@dataclass(frozen=True)
class Group:
    """Layers from ``first`` up to ``beyond`` that run together; a single one has no program.

    ``mappings``: by layer and piece (of a single layer: its own).
    """

    first: int
    beyond: int
    program: FusedProgram | None
    mappings: tuple[tuple[BestMapping, ...], ...]
    cost: FusedCost

    def to_json(self, chain: Chain, device: SpatialAccelerator) -> dict[str, Any]:
        """Plain data, names with their units."""
        own: dict[str, Any] = {
            "layers": [item.layer.name for item in chain.layers[self.first : self.beyond]],
            "energy_j": self.cost.energy_j,
            "latency_cycles": self.cost.latency_cycles,
            "outside_bytes": self.cost.outside_bytes,
        }
        if self.program is None:
            return own | {"mapping": self.mappings[0][0].nest.to_json(device)}
        tiling, inner = self.program.tiling, inner_device(device)
        dims = [side.dim for side in self.program.chain.layers[-1].sides]
        held = [sum(found.values()) for found in self.program.held]
        return own | {
            "tile": dict(zip(dims, tiling.tile, strict=True)),
            "halo_kept": dict(zip(dims, tiling.keeps, strict=True)),
            "weights": ["resident" if kept else "again" for kept in tiling.resident],
            "weight_slices": list(tiling.slices),
            "held_bytes": max(held),
            "macs": self.program.macs,
            "pieces": [
                [
                    {"dims": dict(piece.sizes), "count": count, "mapping": best.nest.to_json(inner)}
                    for (piece, count), best in zip(pieces, own_best, strict=True)
                ]
                for pieces, own_best in zip(self.program.pieces, self.mappings, strict=True)
            ],
        }


@dataclass(frozen=True)
class FusedChain:
    """A chain cut into groups. ``bound``: no cut is better. ``alone``: its cost when every layer runs by itself, which
    is not known of groups that were ``given``.
    """

    chain: Chain
    metric: str
    groups: tuple[Group, ...]
    cost: FusedCost
    alone: FusedCost | None
    value: float
    bound: float
    status: Literal["optimal", "feasible", "given"]
    seconds: float

    @property
    def gap(self) -> float:
        """How far the value may be above the least, relative to it."""
        return (self.value - self.bound) / self.value if self.value else 0.0


@dataclass
class Pieces:
    """Best mappings of layers and pieces, each found once."""

    device: SpatialAccelerator
    whole: dict[tuple[Any, ...], MappingAnswer] = field(default_factory=dict)
    inside: dict[tuple[Any, ...], MappingAnswer] = field(default_factory=dict)

    def layer(self, layer: Einsum, metric: str) -> MappingAnswer:
        """A layer by itself, from and to the outermost level."""
        return self._found(self.whole, self.device, layer, metric)

    def piece(self, piece: Einsum, metric: str) -> MappingAnswer:
        """A piece from and to the level in which the group lives."""
        return self._found(self.inside, inner_device(self.device), piece, metric)

    def known(self, piece: Einsum, metric: str) -> MappingAnswer | None:
        """A piece's answer, if it has been found."""
        return self.inside.get(_key(piece, metric))

    @staticmethod
    def _found(
        known: dict[tuple[Any, ...], MappingAnswer], device: SpatialAccelerator, layer: Einsum, metric: str
    ) -> MappingAnswer:
        key = _key(layer, metric)
        if key not in known:
            known[key] = best_mapping(device, layer, metric)
        return known[key]


def _key(layer: Einsum, metric: str) -> tuple[Any, ...]:
    return (metric, tuple(layer.sizes.items()), *(layer.operands[operand] for operand in OPERANDS))


def best_fusion(
    device: SpatialAccelerator,
    chain: Chain,
    metric: str = "energy",
    *,
    longest: int = 4,
    time_limit_s: float | None = None,
    pieces: Pieces | None = None,
    by_rows: bool = False,
) -> FusedChain:
    """The best cut of a chain into groups of up to ``longest`` layers, with their tilings and mappings.

    ``by_rows``: tiles are strips of rows whose halos are kept. The limit is on the search for groups; layers by
    themselves are mapped before it begins. Raises ``InputError`` for an unknown metric or a device on whose chip no
    tile can stay, ``InfeasibleError`` where a layer has no mapping.
    """
    if metric not in METRICS:
        raise bad_input(f"found {metric!r}; expected {', '.join(METRICS)}", path="--objective")
    if why := why_no_home(device.name, device.levels):
        raise bad_input(why, path="--fuse")
    store = pieces or Pieces(device)
    count = len(chain.layers)
    groups = {(first, first + 1): _single(chain, first, metric, store) for first in range(count)}
    budget = Budget(time_limit_s)
    with budget.running():
        for size in range(2, min(longest, count) + 1):
            for first in range(count - size + 1):
                groups[first, first + size] = _Search(
                    chain, (first, first + size), metric, store, by_rows
                ).run(budget)
    best, bound = _cut(groups, count, metric)
    chosen = tuple(best.groups)
    cost = _total(chosen)
    value = _Point(cost.energy_j, cost.latency_cycles).value(metric)
    bound = min(bound, value)
    alone = _total([groups[n, n + 1].alone(metric) for n in range(count)])
    status: Literal["optimal", "feasible"] = "optimal" if value <= bound * (1 + 1e-9) else "feasible"
    return FusedChain(chain, metric, chosen, cost, alone, value, bound, status, budget.elapsed)


@dataclass
class _Front:
    """Groups of the same layers of which no one beats another, and floors below all there could be."""

    groups: list[Group] = field(default_factory=list)
    floors: list[_Point] = field(default_factory=list)

    def alone(self, metric: str) -> Group:
        return min(self.groups, key=lambda g: _Point(g.cost.energy_j, g.cost.latency_cycles).value(metric))


def _total(groups: Sequence[Group]) -> FusedCost:
    total = FusedCost(0.0, 0.0, 0.0)
    for group in groups:
        total = total.plus(group.cost)
    return total


def _single(chain: Chain, number: int, metric: str, store: Pieces) -> _Front:
    layer, front = chain.layers[number].layer, _Front()
    floor = {"energy": 0.0, "latency": 0.0}
    for by in _SOLVED_BY[metric]:
        answer = store.layer(layer, by)
        found = answer.best[0].evaluation
        outside = found.levels[0]
        # The outermost level is one, so that its busiest instance is all there is.
        crossed = outside.busiest_read_bytes + outside.busiest_write_bytes
        cost = FusedCost(found.energy_j, found.latency_cycles, crossed)
        front.groups.append(Group(number, number + 1, None, ((answer.best[0],),), cost))
        floor[by] = answer.bound
    front.floors.append(_Point(floor["energy"], floor["latency"]))
    return front


@dataclass
class _Path:
    """A cut of the first layers of a chain."""

    point: _Point
    groups: tuple[Group, ...]


def _cut(groups: dict[tuple[int, int], _Front], count: int, metric: str) -> tuple[_Path, float]:
    """The best cut, and the least that any can cost."""
    paths: list[list[_Path]] = [[_Path(_Point(0.0, 0.0), ())]]
    floors: list[list[_Point]] = [[_Point(0.0, 0.0)]]
    for beyond in range(1, count + 1):
        some, least = [], []
        for (first, end), front in groups.items():
            if end != beyond:
                continue
            for path in paths[first]:
                for group in front.groups:
                    point = _Point(
                        path.point.energy + group.cost.energy_j, path.point.cycles + group.cost.latency_cycles
                    )
                    some.append(_Path(point, (*path.groups, group)))
            for at in floors[first]:
                least += [_Point(at.energy + own.energy, at.cycles + own.cycles) for own in front.floors]
        paths.append(_unbeaten(some, lambda path: path.point, metric))
        floors.append(_unbeaten(least, lambda point: point, metric))
    bound = min(point.value(metric) for point in floors[count])
    return min(paths[count], key=lambda path: path.point.value(metric)), bound


def _unbeaten(found: list[Any], point: Any, metric: str) -> list[Any]:
    """Those that no other beats: by the metric the best one, for energy times delay the Pareto front."""
    found = sorted(found, key=lambda item: point(item))
    if metric != "edp":
        return sorted(found, key=lambda item: point(item).value(metric))[:1]
    kept: list[Any] = []
    for item in found:
        if not kept or point(item).cycles < point(kept[-1]).cycles:
            kept.append(item)
    return kept


@dataclass(slots=True)
class _Option:
    """A tiling that fits, with what it moves; its pieces are made when it is looked at."""

    tiling: FusedTiling
    moved: _Point
    base: FusedProgram
    """The group's program with the same tile and halos, all weights coming whole for each tile."""
    pieces: list[tuple[Einsum, int]] = field(default_factory=list)


class _Search:
    """The best tilings of one group of layers."""

    def __init__(
        self, chain: Chain, span: tuple[int, int], metric: str, store: Pieces, by_rows: bool = False
    ) -> None:
        self.by_rows = by_rows
        self.chain, self.span, self.metric, self.store = chain.part(*span), span, metric, store
        self.device = store.device
        self.units = units_of(self.device)
        self.least_j = _least_per_mac(inner_device(self.device))
        layers = [item.layer for item in self.chain.layers]
        self.dims = [slice_dim(layer) for layer in layers]
        self.counts = [
            divisors(x.sizes[dim]) if dim else [1] for x, dim in zip(layers, self.dims, strict=True)
        ]
        self.weights = [layer.words("W", layer.sizes) for layer in layers]
        self.front = _Front()

    def run(self, budget: Budget) -> _Front:
        """Looks at tilings from the least floor on until none can be better."""
        queue: list[tuple[float, int, _Option]] = []
        for number, option in enumerate(self._options()):
            if budget.spent or number == MOST_TILINGS:
                # What is left of them does its arithmetic at least once.
                macs = sum(item.layer.macs for item in self.chain.layers)
                self.front.floors.append(_Point(macs * self.least_j, macs / self.units))
                break
            queue.append((self._first_floor(option).value(self.metric), number, option))
        heapq.heapify(queue)
        while queue and not budget.spent:
            _, number, option = heapq.heappop(queue)
            option.pieces = option.pieces or self._pieces(option)
            floor = self._floor(option)
            if self._beaten(floor):
                continue
            if queue and floor.value(self.metric) > queue[0][0]:
                heapq.heappush(queue, (floor.value(self.metric), number, option))
                continue
            unsolved = self._unsolved(option)
            if unsolved is not None:
                try:
                    self.store.piece(*unsolved)
                except NoAnswerError:
                    heapq.heappush(queue, (floor.value(self.metric), number, option))
                    break
                heapq.heappush(queue, (self._floor(option).value(self.metric), number, option))
                continue
            self._keep(option)
            self.front.floors.append(floor)
        # Those left when the time was over.
        for _, _, option in queue:
            floor = self._floor(option) if option.pieces else self._first_floor(option)
            if not self._beaten(floor):
                self.front.floors.append(floor)
        self.front.floors += [_Point(g.cost.energy_j, g.cost.latency_cycles) for g in self.front.groups]
        self.front.floors = _unbeaten(self.front.floors, lambda point: point, self.metric)
        return self.front

    def _options(self) -> Iterator[_Option]:
        last = self.chain.layers[-1]
        sizes = [
            [side.size] if self.by_rows and side.dim not in ("P", "M") else divisors(side.size)
            for side in last.sides
        ]
        for tile in product(*sizes):
            halos = [
                any(item.sides[axis].reach > item.sides[axis].step for item in self.chain.layers)
                and tile[axis] < last.sides[axis].size
                for axis in range(len(tile))
            ]
            for keeps in product(
                *((False, True) if halo and not self.by_rows else (True,) for halo in halos)
            ):
                yield from self._with_weights(tile, keeps)

    def _with_weights(self, tile: tuple[int, ...], keeps: tuple[bool, ...]) -> Iterator[_Option]:
        """The tilings of a tile: which weights stay, and in how many slices the others come.

        Weights that are wanted once need not stay. One more layer's staying beats its coming again where the others
        come as before.
        """
        count = len(self.chain.layers)
        base = FusedTiling(tile, keeps, (False,) * count, (1,) * count)
        program = fused_program(self.chain, base, self.device)
        home = self.device.levels[HOME]
        if any(home.overflow({**held, "W": 0.0}) for held in program.held):
            return
        may_stay = [
            (False, True) if again > whole else (False,)
            for again, whole in zip(program.weights, self.weights, strict=True)
        ]
        found: dict[tuple[bool, ...], list[list[int]]] = {}
        for resident in product(*may_stay):
            slices = self._slices(program, resident)
            if all(slices):
                found[resident] = slices
        for resident, slices in found.items():
            if not any(
                self._alike(slices, found.get((*resident[:n], True, *resident[n + 1 :])), n)
                for n in range(count)
                if may_stay[n] == (False, True) and not resident[n]
            ):
                for chosen in product(*slices):
                    yield self._option(program, FusedTiling(tile, keeps, resident, chosen))

    @staticmethod
    def _alike(slices: list[list[int]], others: list[list[int]] | None, number: int) -> bool:
        """Whether all layers but one come in the same slices."""
        return others is not None and all(
            own == other for n, (own, other) in enumerate(zip(slices, others, strict=True)) if n != number
        )

    def _slices(self, program: FusedProgram, resident: tuple[bool, ...]) -> list[list[int]]:
        """By layer the numbers of slices that fit, but for those that fewer slices divide; none where nothing fits."""
        home = self.device.levels[HOME]
        always = sum(held["W"] for held, stays in zip(program.held, resident, strict=True) if stays)
        found = []
        for held, stays, counts in zip(program.held, resident, self.counts, strict=True):
            fitting: list[int] = []
            for slices in (1,) if stays else counts:
                # More slices of what fits in fewer cost no less.
                if any(slices % fewer == 0 for fewer in fitting):
                    continue
                if not home.overflow({**held, "W": always + (0.0 if stays else held["W"] / slices)}):
                    fitting.append(slices)
            found.append(fitting)
        return found

    def _option(self, base: FusedProgram, tiling: FusedTiling) -> _Option:
        weights = tuple(
            whole if stays else again
            for whole, stays, again in zip(self.weights, tiling.resident, base.weights, strict=True)
        )
        _, moved, _ = moved_cost(replace(base, weights=weights), self.device)
        return _Option(tiling, _Point(moved.energy_j, moved.latency_cycles), base)

    def _pieces(self, option: _Option) -> list[tuple[Einsum, int]]:
        """The pieces of a tiling, weights in slices."""
        found = []
        for dim, own, slices in zip(self.dims, option.base.pieces, option.tiling.slices, strict=True):
            for piece, times in own:
                sizes = {**piece.sizes, dim: piece.sizes[dim] // slices} if slices > 1 else piece.sizes
                found.append((replace(piece, sizes=sizes), times * slices))
        return found

    def _first_floor(self, option: _Option) -> _Point:
        """The floor of a tiling whose pieces were not looked at."""
        macs = option.base.macs
        return _Point(option.moved.energy + macs * self.least_j, max(option.moved.cycles, macs / self.units))

    def _floor(self, option: _Option) -> _Point:
        """No better than this is the tiling, by the pieces that are solved and the arithmetic of the others."""
        energy, cycles = option.moved.energy, 0.0
        for piece, times in option.pieces:
            own_energy, own_cycles = piece.macs * self.least_j, piece.macs / self.units
            for by in _SOLVED_BY[self.metric]:
                known = self.store.known(piece, by)
                if known is not None and by == "energy":
                    own_energy = known.bound
                if known is not None and by == "latency":
                    own_cycles = known.bound
            energy += times * own_energy
            cycles += times * own_cycles
        return _Point(energy, max(cycles, option.moved.cycles))

    def _beaten(self, floor: _Point) -> bool:
        """Whether a group that was found is at least as good as anything with this floor."""
        for group in self.front.groups:
            own = _Point(group.cost.energy_j, group.cost.latency_cycles)
            if self.metric != "edp" and own.value(self.metric) <= floor.value(self.metric) * (1 + 1e-12):
                return True
            if self.metric == "edp" and own.energy <= floor.energy and own.cycles <= floor.cycles:
                return True
        return False

    def _unsolved(self, option: _Option) -> tuple[Einsum, str] | None:
        """The piece that matters most of those without an answer."""
        found = [
            (times * piece.macs, piece, by)
            for piece, times in option.pieces
            for by in _SOLVED_BY[self.metric]
            if self.store.known(piece, by) is None
        ]
        if not found:
            return None
        _, piece, by = max(found, key=lambda item: item[0])
        return piece, by

    def _keep(self, option: _Option) -> None:
        """The groups of a solved tiling, one per way to map its pieces; those that are beaten go."""
        program = fused_program(self.chain, option.tiling, self.device)
        for by in _SOLVED_BY[self.metric]:
            best = tuple(
                tuple(self.store.piece(piece, by).best[0] for piece, _ in own) for own in program.pieces
            )
            cost = fused_cost(program, self.device, [[one.evaluation for one in own] for own in best])
            self.front.groups.append(Group(*self.span, program, best, cost))
        self.front.groups = _unbeaten(
            self.front.groups, lambda g: _Point(g.cost.energy_j, g.cost.latency_cycles), self.metric
        )


def _least_per_mac(device: SpatialAccelerator) -> float:
    """Joules that a multiply-accumulate takes at least: itself, and its share of the innermost accesses."""
    joules = device.mac_energy
    for operand in OPERANDS:
        inner = max(n for n, memory in enumerate(device.levels) if operand in memory.holds)
        shared = prod(
            axis.size
            for memory in device.levels[inner:]
            for axis in memory.fanout
            if operand in (*axis.multicast, *axis.reduce)
        )
        memory = device.levels[inner]
        each = memory.write_energy if operand == "O" else memory.read_energy
        joules += each * device.word_bits.bytes_of(operand) / shared
    return joules
