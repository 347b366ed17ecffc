"""Cuts operators into strips so that they fit a scratchpad, or move fewer bytes over its edge.

A state is a number of strips per operator and graph input. While some operator needs more than there is, the moves
are: more strips of its output (rows, or channels), of one of its inputs, of both. The move that fits it with the
fewest weight bytes read again wins, else the one that pays least per byte of need it takes away; at the end strips
that turn out not to be needed are joined again. Once everything fits, a second search cuts chains of operators
around the tensors that cost most, so that a schedule can run them depth first, strip by strip, and keeps what
lowers spills, retrieves and weights read again together.

Cutting is beyond COSMA, whose operators are atomic. Halos are paid in bytes that stay or come again, never in
arithmetic done twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from hw_configs.problems import InfeasibleError
from hw_configs.settings import Settings, count, name_of, seconds, word
from hw_configs.system import System
from mapping.mapper import MapperOptions
from mapping.scheduling.baselines import BASELINES
from mapping.scheduling.fused_cuts import fused_cuts
from mapping.scheduling.lowering import LoweredNotes, scratchpad_of, to_plan
from mapping.scheduling.problem import ScheduleProblem, Weights, problem_from_graph
from mapping.scheduling.result import ScheduleResult
from mapping.scheduling.solving import solve
from simulator.plan import Plan, Tiling
from simulator.rewrite.tile import most_parts, tile_graph
from simulator.rewrite.views import without_views
from workloads.graph import PERSISTENT_ROLES, Graph

__all__ = ["MAPPER", "TiledProblem", "TiledSchedule", "fit_tiles", "improve_tiles"]

Cuts = dict[str, tuple[str, int]]
"""Operator or graph input to the axis and number of its strips."""

_MOST_STEPS: Final = 400
_STRIP_BYTES: Final = 256
"""What one more strip has to save to be worth it: set-up of transfers, and a longer search for a schedule."""
_FACTORS: Final = (2, 4, 16)
"""Strips of a move over those there are. Twice as many can leave a need as it was, where a halo spans both."""
_TRIED_TENSORS: Final = 4
_QUICK: Final = ("depth-first/belady", "given/belady")
"""Schedulers that judge a cut while many are tried."""


@dataclass(frozen=True)
class TiledProblem:
    """A cut graph and its scheduling problem; ``again_bytes`` are weights streamed more than once."""

    tiles: Mapping[str, Tiling]
    graph: Graph
    problem: ScheduleProblem
    again_bytes: int

    @property
    def need_bytes(self) -> int:
        """The largest need of one operator or strip."""
        return self.problem.least_budget


def _cut(graph: Graph, cuts: Cuts, weights: Weights, once: int) -> TiledProblem:
    """The cut graph; ``once`` are the bytes that flow past the scratchpad when nothing is cut."""
    tiles = {name: Tiling(axis, parts, (name,)) for name, (axis, parts) in cuts.items()}  # type: ignore[arg-type]
    tiled = tile_graph(graph, tiles) if tiles else graph
    problem = problem_from_graph(tiled, weights)
    return TiledProblem(tiles, tiled, problem, _streamed(tiled, problem) - once)


def _streamed(graph: Graph, problem: ScheduleProblem) -> int:
    """Bytes that flow past the scratchpad, over all operators."""
    placed = problem.tensor_index
    return sum(
        graph.tensors[name].size_bytes
        for op in graph.operators
        for name in dict.fromkeys(op.inputs)
        if name not in placed and graph.tensors[name].role in PERSISTENT_ROLES
    )


def fit_tiles(
    graph: Graph, capacity: int, weights: Weights = "stream", begin: Cuts | None = None
) -> TiledProblem:
    """The graph cut until every operator fits; raises ``InfeasibleError`` naming the one that cannot be made to.

    ``begin``: cuts that are made already, and stay.

    ``graph`` has no views (:func:`simulator.rewrite.views.without_views`). Deterministic.
    """
    cuts: Cuts = dict(begin or {})
    once = _streamed(graph, problem_from_graph(graph, weights))
    state = _cut(graph, cuts, weights, once)
    for _ in range(_MOST_STEPS):
        if state.need_bytes <= capacity:
            return state if begin else _coarsened(graph, cuts, state, capacity, weights, once)
        worst = _worst(state)
        before = _need_of(state, worst)
        best: tuple[tuple[bool, float], Cuts, TiledProblem] | None = None
        for move in _moves(graph, cuts, worst):
            found = _cut(graph, move, weights, once)
            need = _need_of(found, worst)
            if need >= before:
                continue
            paid = found.again_bytes - state.again_bytes + _STRIP_BYTES * (_strips(move) - _strips(cuts))
            key = (need > capacity, paid if need <= capacity else paid / (before - need))
            if best is None or key < best[0]:
                best = (key, move, found)
        if best is None:
            raise _cannot(graph, state, worst, capacity)
        _, cuts, state = best
    raise _cannot(graph, state, _worst(state), capacity)


def _strips(cuts: Cuts) -> int:
    return sum(parts - 1 for _, parts in cuts.values())


def _coarsened(
    graph: Graph, cuts: Cuts, state: TiledProblem, capacity: int, weights: Weights, once: int
) -> TiledProblem:
    """The cuts with no more strips than it takes to fit, each looked at once, the finest first."""
    for name in sorted(cuts, key=lambda known: (-cuts[known][1], known)):
        while name in cuts:
            axis, parts = cuts[name]
            fewer = {**cuts, name: (axis, parts // 2)}
            if parts // 2 < 2:
                del fewer[name]
            found = _cut(graph, fewer, weights, once)
            if found.need_bytes > capacity:
                break
            cuts, state = fewer, found
    return state


def _source(graph: Graph, name: str) -> str:
    """The operator or graph input that a strip was cut from."""
    base, _, last = name.rpartition(".")
    cut = last.rstrip("0123456789") in ("row", "channel") and last[-1:].isdigit()
    return base if cut and name not in graph.operator_by_name and name not in graph.tensors else name


def _worst(state: TiledProblem) -> str:
    """The source of the operator that needs most."""
    needs = state.problem.need_bytes
    name = state.problem.operators[max(range(len(needs)), key=needs.__getitem__)].name
    base, _, last = name.rpartition(".")
    return base if base in state.tiles and last[-1:].isdigit() else name


def _need_of(state: TiledProblem, source: str) -> int:
    own = {source} if source not in state.tiles else set()
    needs = [
        need
        for op, need in zip(state.problem.operators, state.problem.need_bytes, strict=True)
        if op.name in own or (source in state.tiles and op.name.rpartition(".")[0] == source)
    ]
    return max(needs, default=0)


def _moves(graph: Graph, cuts: Cuts, name: str) -> Iterator[Cuts]:
    """Cuts that could lower what an operator needs."""
    operator = graph.operator_by_name[name]
    feeders = [
        graph.producer.get(tensor, tensor)
        for tensor in dict.fromkeys(operator.inputs)
        if graph.tensors[tensor].role not in PERSISTENT_ROLES
    ]
    groups: list[list[str]] = [[name], *([feeder] for feeder in feeders), feeders, [name, *feeders]]
    for factor in _FACTORS:
        for group in groups:
            yield from _finer(graph, cuts, group, "row", factor)
        for single in (name, *feeders):
            yield from _finer(graph, cuts, [single], "channel", factor)


def _finer(graph: Graph, cuts: Cuts, names: Iterable[str], axis: str, factor: int = 2) -> Iterator[Cuts]:
    """The cuts with so many times the strips of each name that has more to give, if any has."""
    changed = dict(cuts)
    for name in dict.fromkeys(names):
        known, parts = cuts.get(name, (axis, 1))
        if known == "channel" and axis == "row":
            # Rows may take the place of channels, never the other way: a cut does not come back.
            known, parts = axis, 1
        if known == axis:
            parts = min(factor * parts, most_parts(graph, name, axis))
            if parts > 1:
                changed[name] = (axis, parts)
    if changed != cuts:
        yield changed


def _cannot(graph: Graph, state: TiledProblem, name: str, capacity: int) -> InfeasibleError:
    operator = graph.operator_by_name[name]
    need = _need_of(state, name)
    return InfeasibleError(
        f"operator {name!r} ({operator.kind}) needs {need} bytes of scratchpad even in strips, {capacity} are "
        "there; levers: a larger scratchpad, a smaller batch or element type, weights streamed (weights=stream)"
    )


def improve_tiles(
    graph: Graph, state: TiledProblem, capacity: int, weights: Weights = "stream", rounds: int = 6
) -> TiledProblem:
    """Further cuts that lower the bytes over the scratchpad's edge, as a quick scheduler sees them."""
    cost, schedule = _judge(state, capacity)
    once = _streamed(graph, problem_from_graph(graph, weights))
    for _ in range(rounds):
        if cost <= state.again_bytes or schedule is None:
            break
        cuts: Cuts = {name: (t.axis, t.parts) for name, t in state.tiles.items()}
        best: tuple[int, TiledProblem, ScheduleResult | None] | None = None
        for move in _chain_moves(graph, cuts, schedule):
            found = _cut(graph, move, weights, once)
            if found.need_bytes > capacity:
                continue
            total, plan = _judge(found, capacity)
            if total < cost and (best is None or total < best[0]):
                best = (total, found, plan)
        if best is None:
            break
        cost, state, schedule = best
    return state


def _judge(state: TiledProblem, capacity: int) -> tuple[int, ScheduleResult | None]:
    """Spills, retrieves and weights read again of the best quick schedule."""
    results = [BASELINES[name](state.problem, capacity) for name in _QUICK]
    found = [result for result in results if result.cost_bytes is not None]
    if not found:
        return 1 << 62, None
    best = min(found, key=lambda result: result.cost_bytes or 0)
    return (best.cost_bytes or 0) + state.again_bytes, best


def _chain_moves(graph: Graph, cuts: Cuts, schedule: ScheduleResult) -> Iterator[Cuts]:
    """Chains of two to four operators around the tensors that move most, all with twice their strips."""
    moved: dict[str, int] = {}
    for move in schedule.transfers:
        if move.kind in ("spill", "retrieve"):
            source = _source(graph, move.tensor)
            moved[source] = moved.get(source, 0) + move.size_bytes
    for tensor in sorted(moved, key=lambda name: (-moved[name], name))[:_TRIED_TENSORS]:
        chain = [graph.producer.get(tensor, tensor)]
        readers = list(graph.consumers.get(tensor, ()))
        yield from _finer(graph, cuts, chain, "row")
        for _ in range(3):
            if not readers:
                break
            chain = [*chain, *readers]
            yield from _finer(graph, cuts, chain, "row")
            readers = [
                name for reader in readers for out in graph.operator_by_name[reader].outputs
                for name in graph.consumers[out]
            ]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledSettings(Settings):
    """Settings of ``scratchpad-tiled``."""

    weights: Weights = word(
        "stream", "past the scratchpad, or resident in it while their operator runs", ("stream", "resident")
    )
    cuts: str = word(
        "search",
        "by search, or (spatial devices) those of chains fused for the least energy",
        ("search", "fusion"),
    )
    time_limit: float = seconds(30.0, "time for the schedule of the cut graph")
    rounds: int = count(6, "searches for cuts that lower traffic once all fits", most=86400)
    device: str | None = name_of("the accelerator to use", absent="the first with a scratchpad")


@dataclass(frozen=True)
class TiledNotes(LoweredNotes):
    """The schedule of the cut graph, weights that strips read again, and the strips."""

    status: str = ""
    bound_bytes: int = 0
    weights_again_bytes: int = 0
    strips: Mapping[str, str] = field(default_factory=dict)


class TiledSchedule:
    """The mapper ``scratchpad-tiled``: cuts, then schedules."""

    DESCRIPTION = "operators cut into strips that fit a scratchpad, then ordered and placed"
    SETTINGS = TiledSettings

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """The plan; ``InfeasibleError`` when an operator cannot be made to fit."""
        chosen = options.of(TiledSettings)
        weights = chosen.weights
        node, _ = scratchpad_of(system, chosen.device)
        capacity = system.memories[node.memory or node.name].usable_bytes
        views = dict(problem_from_graph(graph, weights).views)
        base = without_views(graph, views) if views else graph
        begin = fused_cuts(base, node, chosen.time_limit) if chosen.cuts == "fusion" else None
        state = fit_tiles(base, capacity, weights, begin)
        state = improve_tiles(base, state, capacity, weights, chosen.rounds)
        result = solve(state.problem, capacity, time_limit_s=chosen.time_limit)
        if result.schedule is None:
            raise InfeasibleError(result.explanation or f"no schedule found within {chosen.time_limit:g} s")
        notes = TiledNotes(
            result.cost_bytes, weights, status=result.status, bound_bytes=result.bound_bytes,
            weights_again_bytes=state.again_bytes,
            strips={name: f"{tiling.parts} {tiling.axis}s" for name, tiling in state.tiles.items()},
        )  # fmt: skip
        made = to_plan(
            state.graph, state.problem, result.schedule, system, "scratchpad-tiled", node.name, notes
        )
        return replace(made, tiles=dict(state.tiles), views=views)


MAPPER: Final = TiledSchedule()
