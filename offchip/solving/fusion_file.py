"""Groups of layers from a file, as ``solve mapping --fuse chains --out`` writes it: read, held to the rules, priced.

What a file decides is read: the layers of each group, its tile, which halos are kept, how weights come, and the mapping
of every piece. Its figures are not: words, bytes, energy and time are worked out again, and pieces have to be those
that the tile leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import InputError, bad_input
from hw_configs.yaml_file import read_yaml
from mapping.loop_nest.fusion import FusedChain, Group
from mapping.loop_nest.search import BestMapping
from offchip.solving.mapping_input import YAML, plain_file
from simulator.accelerator.loop_nest.evaluate import evaluate
from simulator.accelerator.loop_nest.fused import (
    Chain,
    FusedCost,
    FusedTiling,
    fused_cost,
    fused_program,
    inner_device,
    slice_dim,
)
from simulator.accelerator.loop_nest.nest import read_nest
from workloads.einsum import Einsum

__all__ = ["read_groups"]

_TOP: Final = frozenset(
    {"accelerator", "objective", "fused", "alone", "least_outside_bytes", "chains", "not_mapped"}
)
_CHAIN: Final = frozenset({"layers", "count", "status", "gap", "seconds", "fused", "alone", "groups"})
_FIGURES: Final = frozenset({"layers", "energy_j", "latency_cycles", "outside_bytes"})
_TOGETHER: Final = _FIGURES | {
    "tile", "halo_kept", "weights", "weight_slices", "held_bytes", "macs", "pieces",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a file something stands."""

    file: str
    path: str

    def at(self, path: str) -> _Place:
        """A place inside this one."""
        return _Place(self.file, f"{self.path}{'' if path.startswith('[') or not self.path else '.'}{path}")

    def wrong(self, message: str) -> InputError:
        """What is wrong here, in one line."""
        return bad_input(message, file=self.file, path=self.path or None)

    def keys(self, found: Any, known: frozenset[str]) -> Mapping[str, Any]:
        """A mapping without other keys than these."""
        if not isinstance(found, Mapping):
            raise self.wrong(f"found {found!r:.40}; expected {', '.join(sorted(known))}")
        strange = [str(key) for key in found if key not in known]
        if strange:
            raise self.at(strange[0]).wrong(f"unknown; expected {', '.join(sorted(known))}")
        return found

    def items(self, found: Any, count: int | None, what: str) -> list[Any]:
        """A list, of so many entries."""
        if not isinstance(found, list) or (count is not None and len(found) != count):
            number = f"{len(found)} entries" if isinstance(found, list) else f"{found!r:.40}"
            raise self.wrong(f"found {number}; expected {'' if count is None else f'{count} '}{what}")
        return found

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Problems of what stands here, with the path to it before their own."""
        try:
            yield
        except InputError as error:
            raise InputError(
                [
                    replace(p, file=self.file, path=f"{self.path}.{p.path}" if p.path else self.path)
                    for p in error.problems
                ]
            ) from None


def read_groups(
    file: str | Path, chains: Sequence[tuple[Chain, int]], device: SpatialAccelerator, metric: str
) -> list[FusedChain]:
    """The groups that a file gives for the chains of a model, each priced.

    Raises ``InputError`` for what no such file holds, for other chains or another accelerator, and for tiles, pieces or
    mappings that break a rule.
    """
    place = _Place(str(file), "")
    data = read_yaml(str(file)).data if Path(file).suffix in YAML else plain_file(Path(file))
    place.keys(data, _TOP)
    if data.get("accelerator") != device.name:
        raise place.at("accelerator").wrong(
            f"found {data.get('accelerator')!r:.40}; expected {device.name!r}"
        )
    entries = place.at("chains").items(data.get("chains"), len(chains), "chains, as the model has")
    return [
        _chain(entry, chain, count, device, metric, place.at(f"chains[{number}]"))
        for number, (entry, (chain, count)) in enumerate(zip(entries, chains, strict=True))
    ]


def _chain(
    entry: Any, chain: Chain, count: int, device: SpatialAccelerator, metric: str, place: _Place
) -> FusedChain:
    place.keys(entry, _CHAIN)
    names = [item.layer.name for item in chain.layers]
    if entry.get("layers") != names:
        raise place.at("layers").wrong(f"found {entry.get('layers')!r:.60}; expected {', '.join(names)}")
    if entry.get("count") != count:
        raise place.at("count").wrong(f"found {entry.get('count')!r:.20}; expected {count}")
    first, groups, total = 0, [], FusedCost(0.0, 0.0, 0.0)
    for number, own in enumerate(place.at("groups").items(entry.get("groups"), None, "groups")):
        here = place.at(f"groups[{number}]")
        if not isinstance(own, Mapping):
            raise here.wrong(f"found {own!r:.40}; expected a group")
        layers = here.at("layers").items(own.get("layers"), None, "names of layers")
        beyond = first + len(layers)
        if not layers or layers != names[first:beyond]:
            raise here.at("layers").wrong(
                f"found {layers!r:.60}; expected layers from {names[first : first + 1]} on"
            )
        read = _single if len(layers) == 1 else _together
        group = read(own, chain, (first, beyond), device, here)
        groups.append(group)
        total, first = total.plus(group.cost), beyond
    if first < len(names):
        raise place.at("groups").wrong(f"{names[first]!r} is in no group")
    value = {
        "energy": total.energy_j, "latency": total.latency_cycles, "edp": total.energy_j * total.latency_cycles,
    }[metric]  # fmt: skip
    return FusedChain(chain, metric, tuple(groups), total, None, value, 0.0, "given", 0.0)


def _single(
    own: Mapping[str, Any], chain: Chain, span: tuple[int, int], device: SpatialAccelerator, place: _Place
) -> Group:
    place.keys(own, _FIGURES | {"mapping"})
    best = _mapped(own.get("mapping"), chain.layers[span[0]].layer, device, place.at("mapping"))
    outside = best.evaluation.levels[0]
    crossed = outside.busiest_read_bytes + outside.busiest_write_bytes
    cost = FusedCost(best.evaluation.energy_j, best.evaluation.latency_cycles, crossed)
    return Group(*span, None, ((best,),), cost)


def _together(
    own: Mapping[str, Any], chain: Chain, span: tuple[int, int], device: SpatialAccelerator, place: _Place
) -> Group:
    place.keys(own, _TOGETHER)
    part = chain.part(*span)
    program = fused_program(part, _tiling(own, part, place), device)
    inner, mappings = inner_device(device), []
    listed = place.at("pieces").items(own.get("pieces"), len(part.layers), "lists of pieces, one per layer")
    for number, (entries, pieces) in enumerate(zip(listed, program.pieces, strict=True)):
        here = place.at(f"pieces[{number}]")
        here.items(entries, len(pieces), "pieces, as the tile leaves")
        mappings.append(
            tuple(
                _piece(entry, piece, inner, here.at(f"[{place_in}]"))
                for place_in, (entry, piece) in enumerate(zip(entries, pieces, strict=True))
            )
        )
    with place.inside():
        cost = fused_cost(program, device, [[best.evaluation for best in found] for found in mappings])
    return Group(*span, program, tuple(mappings), cost)


def _tiling(own: Mapping[str, Any], part: Chain, place: _Place) -> FusedTiling:
    sides = part.layers[-1].sides
    dims = frozenset(side.dim for side in sides)
    tile = place.at("tile").keys(own.get("tile"), dims)
    keeps = place.at("halo_kept").keys(own.get("halo_kept"), dims)
    for side in sides:
        found = tile.get(side.dim)
        if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= side.size:
            raise place.at(f"tile.{side.dim}").wrong(f"found {found!r:.20}; expected 1 to {side.size}")
        if not isinstance(keeps.get(side.dim), bool):
            raise place.at(f"halo_kept.{side.dim}").wrong("expected true or false")
    layers = [item.layer for item in part.layers]
    words = place.at("weights").items(own.get("weights"), len(layers), "of resident, again")
    if any(word not in ("resident", "again") for word in words):
        raise place.at("weights").wrong(f"found {words!r:.60}; expected resident or again for each layer")
    slices = place.at("weight_slices").items(own.get("weight_slices"), len(layers), "numbers")
    for number, (count, layer) in enumerate(zip(slices, layers, strict=True)):
        most = layer.sizes[slice_dim(layer)] if slice_dim(layer) else 1
        if isinstance(count, bool) or not isinstance(count, int) or count < 1 or most % count:
            raise place.at(f"weight_slices[{number}]").wrong(
                f"found {count!r:.20}; expected a divisor of {most}"
            )
    return FusedTiling(
        tuple(tile[side.dim] for side in sides), tuple(keeps[side.dim] for side in sides),
        tuple(word == "resident" for word in words), tuple(slices),
    )  # fmt: skip


def _piece(entry: Any, piece: tuple[Einsum, int], inner: SpatialAccelerator, place: _Place) -> BestMapping:
    layer, count = piece
    place.keys(entry, frozenset({"dims", "count", "mapping"}))
    said, made = (
        {"dims": entry.get("dims"), "count": entry.get("count")},
        {"dims": dict(layer.sizes), "count": count},
    )
    for key, expected in made.items():
        if said[key] != expected:
            raise place.at(key).wrong(f"found {said[key]!r:.60}; the tile leaves {expected!r:.60}")
    return _mapped(entry.get("mapping"), layer, inner, place.at("mapping"))


def _mapped(found: Any, layer: Einsum, device: SpatialAccelerator, place: _Place) -> BestMapping:
    with place.inside():
        nest = read_nest(found, device, layer, place.file)
        return BestMapping(nest, evaluate(nest, device, layer))
