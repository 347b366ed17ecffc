"""Chains of a model's layers run depth first on a spatial accelerator: groups, tiles, savings, what is proven."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import yaml

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.shown import Shown, Table
from hw_configs.spatial import why_no_home
from hw_configs.typed_fields import wrong_types
from hw_configs.units import format_quantity
from offchip.keywords import from_keywords
from offchip.progress import Reporter, silent
from workloads.workload import WorkloadOptions

if TYPE_CHECKING:
    from hw_configs.device import SpatialAccelerator
    from mapping.loop_nest.fusion import FusedChain, Group
    from simulator.accelerator.loop_nest.fused import Chain, FusedCost, FusedProgram

__all__ = ["FusionOptions", "FusionSolution", "MappedChain", "insist_on_fusion", "solve_fusion"]


@dataclass(frozen=True, slots=True)
class FusionOptions:
    """What is asked of a fusion.

    ``objective``: energy, latency or edp. ``depth``: the most layers of a group. ``time_limit``: seconds for the groups
    of a chain. ``out``: a file for the answer. ``evaluate``: such a file, priced in place of a search. From ``phase``
    on: which layers a model has.
    """

    objective: str = "energy"
    depth: int = 4
    time_limit: float = 60.0
    out: str | Path | None = None
    evaluate: str | Path | None = None
    phase: str | None = None
    batch: int = 1
    prompt: int = 512
    dtype: str | None = None

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if not problems and not self.time_limit > 0:
            problems.append(
                Problem(f"found {self.time_limit:g}; expected seconds above zero", path="--time-limit")
            )
        if not problems and not 1 <= self.depth <= 12:
            problems.append(Problem(f"found {self.depth}; expected 1 to 12 layers", path="--fuse-depth"))
        if problems:
            raise InputError(problems)


class FusionChoices(TypedDict, total=False):
    """The fields of :class:`FusionOptions`, as keywords."""

    objective: str
    depth: int
    time_limit: float
    out: str | Path | None
    evaluate: str | Path | None
    phase: str | None
    batch: int
    prompt: int
    dtype: str | None


@dataclass(frozen=True, slots=True)
class MappedChain:
    """A chain with its groups, and how often the model has it."""

    count: int
    answer: FusedChain


@dataclass(frozen=True)
class FusionSolution(Shown):
    """Every chain's groups on an accelerator; ``unmapped`` counts operators that multiply no matrices, by kind."""

    device: SpatialAccelerator
    objective: str
    chains: tuple[MappedChain, ...]
    unmapped: tuple[tuple[str, int], ...] = ()

    def total(self, *, alone: bool = False) -> FusedCost:
        """All chains one after another; ``alone``: every layer by itself."""
        from simulator.accelerator.loop_nest.fused import FusedCost

        total = FusedCost(0.0, 0.0, 0.0)
        for item in self.chains:
            cost = item.answer.alone if alone else item.answer.cost
            if cost is not None:
                total = total.plus(cost.times(item.count))
        return total

    @property
    def given(self) -> bool:
        """Whether the groups came from a file."""
        return any(item.answer.status == "given" for item in self.chains)

    @property
    def least_bytes(self) -> float:
        """What crosses to and from the outermost level however chains are run: their ends, and all weights once."""
        from simulator.accelerator.loop_nest.fused import least_outside_bytes

        return sum(item.count * least_outside_bytes(item.answer.chain, self.device) for item in self.chains)

    def as_json(self) -> dict[str, Any]:
        """Totals fused and layer by layer, and each chain with its groups."""
        totals = {"fused": self._plain(self.total())}
        if not self.given:
            totals["alone"] = self._plain(self.total(alone=True))
        return {
            "accelerator": self.device.name,
            "objective": self.objective,
            **totals,
            "least_outside_bytes": self.least_bytes,
            "chains": [
                {
                    "layers": [link.layer.name for link in item.answer.chain.layers],
                    "count": item.count,
                    "status": item.answer.status,
                    "gap": item.answer.gap,
                    "seconds": item.answer.seconds,
                    "fused": self._plain(item.answer.cost),
                    **({"alone": self._plain(item.answer.alone)} if item.answer.alone is not None else {}),
                    "groups": [group.to_json(item.answer.chain, self.device) for group in item.answer.groups],
                }
                for item in self.chains
            ],
            "not_mapped": dict(self.unmapped),
        }

    def _plain(self, cost: FusedCost) -> dict[str, float]:
        return {
            "energy_j": cost.energy_j,
            "latency_s": cost.latency_cycles / self.device.clock,
            "outside_bytes": cost.outside_bytes,
        }

    def shown_tables(self) -> tuple[Table, ...]:
        """A line for each group of several layers, and the totals beside those of layers by themselves."""
        rows: list[tuple[object, ...]] = []
        for item in self.chains:
            for group in item.answer.groups:
                if group.program is not None:
                    rows.append(self._row(item, group))
        outside = self.device.levels[0].name
        columns = ("group", "times", "tile", "halo", "weights", "held", "energy", outside, "status")
        fused, alone = self.total(), self.total(alone=True)
        clock = self.device.clock
        both = (
            ("energy", "energy", alone.energy_j, fused.energy_j),
            ("time", "time", alone.latency_cycles / clock, fused.latency_cycles / clock),
            (f"bytes over {outside}", "size", alone.outside_bytes, fused.outside_bytes),
        )
        totals = [
            (name, format_quantity(before, unit), format_quantity(after, unit), _change(after, before))
            for name, unit, before, after in both
        ]
        title = "as given" if self.given else f"least {self.objective} of each chain"
        tables = [Table(f"Groups on {self.device.name}, {title}", columns, tuple(rows))] if rows else []
        if self.given:
            own = tuple((name, after) for name, _, after, _ in totals)
            tables.append(Table("All layers", ("", "as given"), own))
            return tuple(tables)
        tables.append(Table("All layers", ("", "by themselves", "fused", "change"), tuple(totals)))
        proven = sum(item.count for item in self.chains if item.answer.status == "optimal")
        told: list[tuple[str, str]] = [
            (
                f"at least over {outside}",
                format_quantity(self.least_bytes, "size") + " (ends of chains, weights once)",
            )
        ]
        told.append(("proven", f"{proven} of {sum(i.count for i in self.chains)} chains"))
        gaps = [item.answer.gap for item in self.chains if item.answer.status != "optimal"]
        if gaps:
            told.append(("largest gap", f"{100 * max(gaps):.2f} %"))
        if not rows:
            told.append(("groups", "none: every layer is best by itself"))
        if self.unmapped:
            told.append(("not mapped", ", ".join(f"{count} {kind}" for kind, count in self.unmapped)))
        return (*tables, Table("", ("", ""), tuple(told)))

    def _row(self, item: MappedChain, group: Group) -> tuple[object, ...]:
        assert group.program is not None
        chain, tiling = item.answer.chain, group.program.tiling
        sides = group.program.chain.layers[-1].sides
        cut = [
            (side.dim, tile, kept)
            for side, tile, kept in zip(sides, tiling.tile, tiling.keeps, strict=True)
            if tile < side.size
        ]
        windows = {
            side.dim for link in group.program.chain.layers for side in link.sides if side.reach > side.step
        }
        halo = {("kept" if kept else "again") for dim, _, kept in cut if dim in windows}
        names = [link.layer.name for link in chain.layers[group.first : group.beyond]]
        words = ", ".join(_weights(group.program, number) for number in range(len(names)))
        return (
            f"{names[0]} .. {names[-1]}", item.count, " ".join(f"{dim} {tile}" for dim, tile, _ in cut) or "whole",
            " and ".join(sorted(halo)) or "-", words,
            format_quantity(max(sum(held.values()) for held in group.program.held), "size"),
            format_quantity(group.cost.energy_j, "energy"), format_quantity(group.cost.outside_bytes, "size"),
            item.answer.status,
        )  # fmt: skip


def _weights(program: FusedProgram, number: int) -> str:
    """How the weights of a layer come."""
    tiling, layer = program.tiling, program.chain.layers[number].layer
    if tiling.resident[number]:
        return "resident"
    often = "once" if program.weights[number] == layer.words("W", layer.sizes) else "again"
    return often if tiling.slices[number] == 1 else f"{often} in {tiling.slices[number]} slices"


def insist_on_fusion(fuse: str, **others: object) -> None:
    """``InputError`` for an unknown way to fuse, and for options that say how a single layer is mapped beside one."""
    if fuse not in ("none", "chains"):
        raise bad_input(
            f"found {fuse!r}; expected none or chains",
            path="--fuse",
            suggestion=nearest(fuse, ("none", "chains")),
        )
    given = [f"--{name.replace('_', '-')}" for name, value in others.items() if value]
    if fuse == "chains" and given:
        raise bad_input("is of a single layer; leave it out beside --fuse chains", path=given[0])


def _change(after: float, before: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %" if before else "-"


def solve_fusion(
    model: str | Path, hw: str | Path, *, progress: Reporter = silent, **options: Unpack[FusionChoices]
) -> FusionSolution:
    """The best groups of layers to run depth first, with their tiles and mappings, for every chain of a model.

    Equal chains are solved once, several at a time. Options are the fields of :class:`FusionOptions`. Raises
    ``InputError`` for bad input, ``InfeasibleError`` where a layer has no mapping.

    >>> found = solve_fusion("alexnet", "gemmini")
    >>> found.total().energy_j <= found.total(alone=True).energy_j
    True
    """
    from mapping.deadline import Budget
    from mapping.loop_nest.fusion import Pieces, best_fusion
    from offchip.solving.mapping_input import read_accelerator

    chosen = from_keywords(FusionOptions, options)
    device = read_accelerator(hw, {})
    if why := why_no_home(device.name, device.levels):
        raise bad_input(why, path="--fuse")
    chains, unmapped = _chains(str(model), chosen)
    if chosen.evaluate is not None:
        from offchip.solving.fusion_file import read_groups

        given = read_groups(chosen.evaluate, chains, device, chosen.objective)
        counted = (MappedChain(count, found) for (_, count), found in zip(chains, given, strict=True))
        return _written(FusionSolution(device, chosen.objective, tuple(counted), unmapped), chosen)
    store, solved = Pieces(device), []

    def best(chain: Chain) -> FusedChain:
        return best_fusion(
            device,
            chain,
            chosen.objective,
            longest=chosen.depth,
            time_limit_s=chosen.time_limit,
            pieces=store,
        )

    with (
        progress("chains", len(chains)) as tally,
        Budget().running(),
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        running = [pool.submit(copy_context().run, best, chain) for chain, _ in chains]
        try:
            for (_, count), future in zip(chains, running, strict=True):
                solved.append(MappedChain(count, future.result()))
                tally.advance()
        finally:
            for future in running:
                future.cancel()
    return _written(FusionSolution(device, chosen.objective, tuple(solved), unmapped), chosen)


def _chains(model: str, chosen: FusionOptions) -> tuple[list[tuple[Chain, int]], tuple[tuple[str, int], ...]]:
    """The chains, each with how often it comes, and what has no layer by kind."""
    from simulator.accelerator.loop_nest.chains import chains_of
    from simulator.accelerator.loop_nest.layers import layers_of
    from workloads.importers import load_workload

    options = WorkloadOptions(
        phase=chosen.phase, batch=chosen.batch, prompt=chosen.prompt, dtype=chosen.dtype
    )
    found: dict[tuple[Any, ...], tuple[Chain, int]] = {}
    unmapped: dict[str, int] = {}
    for phase in load_workload(model, options).phases:
        for operator in phase.graph.operators:
            if not layers_of(operator):
                unmapped[operator.kind] = unmapped.get(operator.kind, 0) + 1
        for chain in chains_of(phase.graph):
            key = tuple(_shape(chain))
            known, count = found.get(key, (chain, 0))
            found[key] = (known, count + 1)
    if not found:
        raise bad_input(f"{model} has no operator that multiplies matrices", path="MODEL")
    return list(found.values()), tuple(unmapped.items())


def _shape(chain: Chain) -> Iterator[tuple[Any, ...]]:
    for link in chain.layers:
        yield (tuple(link.layer.sizes.items()), tuple(sorted(link.layer.operands.items())), link.sides)


def _written(solution: FusionSolution, chosen: FusionOptions) -> FusionSolution:
    if chosen.out is None:
        return solution
    from hw_configs.output_file import replacing

    with replacing(Path(chosen.out)) as part:
        written = solution.as_json()
        text = json.dumps(written, indent=1) + "\n"
        if Path(chosen.out).suffix in (".yaml", ".yml"):
            text = yaml.safe_dump(written, sort_keys=False, default_flow_style=None)
        part.write_text(text, encoding="utf-8")
    return solution
