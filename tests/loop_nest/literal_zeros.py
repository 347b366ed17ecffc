"""A loop nest run step by step over arrays with zeros: what is read, taken and added, by the words of the rules.

Slow, and shares no code with the model: every tile that an instance holds remembers which words of the other input it
met while it was there, every product of every step is looked at. Exact factors, layers without windows.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import numpy as np

OTHER = {"I": "W", "W": "I"}


def indices(layer: Any, operand: str, base: dict[str, int], inside: dict[str, int]) -> list[tuple[int, ...]]:
    """Words of a tile."""
    axes = []
    for axis in layer.operands[operand]:
        (term,) = axis
        axes.append([term.step * (base[term.dim] + offset) for offset in range(inside[term.dim])])
    return list(itertools.product(*axes))


class ZeroRun:
    """Words by (level, operand, count) for given arrays; ``nonzero`` holds a boolean array per input."""

    def __init__(self, device: Any, layer: Any, nest: Any, *, timed: bool) -> None:
        self.device, self.layer, self.timed = device, layer, timed
        self.loops = nest.loops()
        self.step = []
        for index, loop in enumerate(self.loops):
            inside = [other.count for other in self.loops[index + 1 :] if other.dim == loop.dim]
            self.step.append(int(np.prod(inside, dtype=np.int64)) if inside else 1)
        self.tiles: list[tuple[tuple[int, str, str], int, str, list[Any]]] = []
        """Place, words, the other input, and its words that were met."""
        self.sums: list[tuple[Any, list[Any]]] = []
        """Where a sum is added, and the products (words of I and W) in it."""
        for operand in ("I", "W"):
            holders = [n for n, level in enumerate(device.levels) if operand in level.holds]
            for parent, child in itertools.pairwise((*holders, len(device.levels))):
                self._tiles(operand, parent, child)
        self._sums()

    def _cuts(self, level: int, operand: str) -> bool:
        saving = (self.device.levels[level].zero_reads or {}).get(operand)
        return saving == "skipping" or (saving == "gating" and not self.timed)

    def _digits(self, chosen: list[int]) -> Any:
        return itertools.product(*(range(self.loops[i].count) for i in chosen))

    def _base(self, digits: dict[int, int]) -> dict[str, int]:
        base = dict.fromkeys(self.layer.sizes, 0)
        for index, digit in digits.items():
            base[self.loops[index].dim] += digit * self.step[index]
        return base

    def _together(self, operand: str, index: int, parent: int) -> bool:
        loop = self.loops[index]
        if loop.level < parent or any(t.dim == loop.dim for a in self.layer.operands[operand] for t in a):
            return False
        axis = next(a for a in self.device.levels[loop.level].fanout if a.axis == loop.axis)
        return operand in (axis.reduce if operand == "O" else axis.multicast)

    def _tiles(self, operand: str, parent: int, child: int) -> None:
        """Every tile taken by an instance, and every one read for a group, with what it met."""
        inside = dict.fromkeys(self.layer.sizes, 1)
        for loop in self.loops:
            if loop.level >= child:
                inside[loop.dim] *= loop.count
        outside = [i for i, loop in enumerate(self.loops) if loop.level < child]
        time = [i for i in outside if not self.loops[i].axis]
        space = [i for i in outside if self.loops[i].axis]
        shared = [i for i in space if self._together(operand, i, parent)]
        indexed = {t.dim for axis in self.layer.operands[operand] for t in axis}
        units = child == len(self.device.levels)
        held: dict[Any, Any] = {}
        taken: dict[Any, list[Any]] = {}
        read: dict[Any, list[Any]] = {}
        words = 0
        for number, moment in enumerate(self._digits(time)):
            for instance in self._digits(space):
                digits = dict(zip(time, moment, strict=True)) | dict(zip(space, instance, strict=True))
                base = self._base(digits)
                label = tuple(digits[i] for i in outside if self.loops[i].dim in indexed)
                if units or held.get(instance, (None,))[0] != label:
                    held[instance] = (label, number)
                since = held[instance][1]
                group = tuple(d for i, d in zip(space, instance, strict=True) if i not in shared)
                met = indices(self.layer, OTHER[operand], base, inside)
                taken.setdefault((instance, since), []).extend(met)
                read.setdefault((group, label, since), []).extend(met)
                words = len(indices(self.layer, operand, base, inside))
        cut = self._cuts(parent, operand)
        for place, events in (((parent, operand, "reads"), read), ((child, operand, "writes"), taken)):
            if place[0] < len(self.device.levels):
                for met in events.values():
                    self.tiles.append((place, words, OTHER[operand] if cut else "", met))

    def _sums(self) -> None:
        """Products by step and group of the innermost holder of O."""
        holder = max(n for n, level in enumerate(self.device.levels) if "O" in level.holds)
        time = [i for i, loop in enumerate(self.loops) if not loop.axis]
        space = [i for i, loop in enumerate(self.loops) if loop.axis]
        shared = [i for i in space if self._together("O", i, holder)]
        instances = [i for i in space if self.loops[i].level < holder]
        one = dict.fromkeys(self.layer.sizes, 1)
        for moment in self._digits(time):
            groups: dict[Any, list[Any]] = defaultdict(list)
            for unit in self._digits(space):
                digits = dict(zip(time, moment, strict=True)) | dict(zip(space, unit, strict=True))
                base = self._base(digits)
                where = {o: indices(self.layer, o, base, one)[0] for o in ("I", "W", "O")}
                # Sums over lanes that no tree joins are kept apart, as are those of instances.
                apart = tuple(digits[i] for i in space if i not in shared)
                own = tuple(digits[i] for i in instances)
                groups[apart, own, where["O"]].append((where["I"], where["W"]))
            for (apart, _own, word), products in groups.items():
                self.sums.append(((apart, word), products))

    def counts(self, nonzero: dict[str, Any]) -> dict[tuple[int, str, str], float]:
        """Words read and written of I and W by level; for O: sums added, and words of which one begins."""
        found: dict[tuple[int, str, str], float] = defaultdict(float)
        for place, words, other, met in self.tiles:
            if not other or any(nonzero[other][word] for word in met):
                found[place] += words
        spares = {
            o for o, s in (self.device.zero_products or {}).items() if s == "skipping" or not self.timed
        }
        begun = set()
        for where, products in self.sums:
            done = [
                pair for pair in products
                if all(nonzero[o][word] for o, word in zip(("I", "W"), pair, strict=True) if o in spares)
            ]  # fmt: skip
            found[-1, "O", "products"] += len(done)
            if done:
                found[-1, "O", "added"] += 1
                begun.add(where)
        found[-1, "O", "begun"] = len(begun)
        return found
