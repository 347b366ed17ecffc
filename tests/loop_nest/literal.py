"""A loop nest run step by step over real numbers: slow, and shares no code with the closed form.

Every temporal step is taken, every instance of every level holds a tile with its label, every multiply-accumulate is
done. Counts follow the words of the rules, not their consequences.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import numpy as np

OPERANDS = ("I", "W", "O")


class Run:
    """Words by (level, operand) -> dict of four counts; ``product`` and ``expected`` are the results."""

    def __init__(self, device: Any, layer: Any, nest: Any) -> None:
        self.device, self.layer = device, layer
        self.loops = [
            (dim, count, number, axis)
            for number, level in enumerate(nest.levels)
            for dim, count, axis in [
                *((d, c, "") for d, c in level.temporal),
                *((s.dim, s.count, s.axis) for s in level.spatial),
            ]
        ]
        self.step = []
        for index, (dim, *_rest) in enumerate(self.loops):
            inside = [count for other, count, *_ in self.loops[index + 1 :] if other == dim]
            self.step.append(int(np.prod(inside, dtype=np.int64)) if inside else 1)
        self.counts: dict[tuple[int, str], dict[str, int]] = {}
        for operand in OPERANDS:
            self._operand(operand)

    def _operand(self, operand: str) -> None:
        holders = [n for n, level in enumerate(self.device.levels) if operand in level.holds]
        for level in holders:
            self.counts[level, operand] = defaultdict(int)
        for parent, child in itertools.pairwise(holders):
            self._pair(operand, parent, child)
        self._units(operand, holders[-1])

    def _digits(self, chosen: list[int]) -> Any:
        return itertools.product(*(range(self.loops[i][1]) for i in chosen))

    def _base(self, digits: dict[int, int]) -> dict[str, int]:
        base = dict.fromkeys(self.layer.sizes, 0)
        for index, digit in digits.items():
            base[self.loops[index][0]] += digit * self.step[index]
        return base

    def _box(self, operand: str, level: int, base: dict[str, int]) -> int:
        """Words of the bounding box of what the loops inside touch."""
        inside: dict[str, int] = dict.fromkeys(self.layer.sizes, 1)
        for dim, count, number, _axis in self.loops:
            if number >= level:
                inside[dim] *= count
        words = 1
        for axis in self.layer.operands[operand]:
            low = sum(t.step * base[t.dim] for t in axis)
            high = sum(t.step * (min(base[t.dim] + inside[t.dim], self.layer.sizes[t.dim]) - 1) for t in axis)
            words *= high - low + 1
        return words

    def _together(self, operand: str, index: int) -> bool:
        """Whether children along a spatial loop take part in one read or one sum."""
        dim, _count, number, axis = self.loops[index]
        if any(t.dim == dim for a in self.layer.operands[operand] for t in a):
            return False
        found = next(a for a in self.device.levels[number].fanout if a.axis == axis)
        return operand in (found.reduce if operand == "O" else found.multicast)

    def _pair(self, operand: str, parent: int, child: int) -> None:
        indexed = {t.dim for axis in self.layer.operands[operand] for t in axis}
        outside = [i for i, loop in enumerate(self.loops) if loop[2] < child]
        time = [i for i in outside if not self.loops[i][3]]
        space = [i for i in outside if self.loops[i][3]]
        shared = [i for i in space if self.loops[i][2] >= parent and self._together(operand, i)]
        held: dict[Any, Any] = {}
        words_of: dict[Any, int] = {}
        visited: dict[Any, set[Any]] = defaultdict(set)
        up, down = self.counts[parent, operand], self.counts[child, operand]

        def leave(instances: list[Any]) -> None:
            groups = set()
            for instance in instances:
                label = held[instance]
                down["reads_up"] += words_of[label]
                groups.add((self._group(instance, space, shared), label))
            up["updates"] += sum(words_of[label] for _group, label in groups)

        for moment in self._digits(time):
            changed: list[Any] = []
            new: dict[Any, Any] = {}
            for instance in self._digits(space):
                digits = dict(zip(time, moment, strict=True)) | dict(zip(space, instance, strict=True))
                base = self._base(digits)
                if any(base[d] >= self.layer.sizes[d] for d in base):
                    continue
                label = tuple((i, digits[i]) for i in outside if self.loops[i][0] in indexed)
                if held.get(instance) != label:
                    words_of[label] = self._box(operand, child, base)
                    new[instance] = label
                    if instance in held:
                        changed.append(instance)
            if operand == "O":
                leave(changed)
            groups = set()
            for instance, label in new.items():
                group = (self._group(instance, space, shared), label)
                if operand != "O" or label in visited[instance]:
                    down["fills"] += words_of[label]
                    groups.add(group)
                visited[instance].add(label)
                held[instance] = label
            up["reads_down"] += sum(words_of[label] for _group, label in groups)
        if operand == "O":
            leave(list(held))

    @staticmethod
    def _group(instance: Any, space: list[int], shared: list[int]) -> Any:
        return tuple(digit for i, digit in zip(space, instance, strict=True) if i not in shared)

    def _units(self, operand: str, holder: int) -> None:
        """Accesses of the units, and the arithmetic itself (once, for the outputs)."""
        time = [i for i, loop in enumerate(self.loops) if not loop[3]]
        space = [i for i, loop in enumerate(self.loops) if loop[3]]
        shared = [i for i in space if self.loops[i][2] >= holder and self._together(operand, i)]
        rng = np.random.default_rng(0)
        shapes = {
            o: [1 + sum(t.step * (self.layer.sizes[t.dim] - 1) for t in a) for a in self.layer.operands[o]]
            for o in OPERANDS
        }
        data = {o: rng.integers(-4, 5, shapes[o]) for o in ("I", "W")}
        result = np.zeros(shapes["O"], np.int64)
        count = self.counts[holder, operand]
        begun: set[Any] = set()
        self.steps = 0
        for moment in self._digits(time):
            groups = set()
            worked = False
            for unit in self._digits(space):
                digits = dict(zip(time, moment, strict=True)) | dict(zip(space, unit, strict=True))
                base = self._base(digits)
                if any(base[d] >= self.layer.sizes[d] for d in base):
                    continue
                worked = True
                where = {
                    o: tuple(sum(t.step * base[t.dim] for t in a) for a in self.layer.operands[o])
                    for o in OPERANDS
                }
                groups.add((self._group(unit, space, shared), where[operand]))
                if operand == "O":
                    result[where["O"]] += data["I"][where["I"]] * data["W"][where["W"]]
            self.steps += worked
            for group, word in groups:
                if operand != "O":
                    count["reads_down"] += 1
                    continue
                count["updates"] += 1
                instance = tuple(d for i, d in zip([i for i in space if i not in shared], group, strict=True))
                if (instance, word) in begun:
                    count["reads_down"] += 1
                begun.add((instance, word))
        if operand == "O":
            self.product, self.expected = result, self._straight(data, shapes["O"])

    def _straight(self, data: dict[str, Any], shape: list[int]) -> Any:
        result = np.zeros(shape, np.int64)
        for index in itertools.product(*(range(size) for size in self.layer.sizes.values())):
            at = dict(zip(self.layer.sizes, index, strict=True))
            where = {
                o: tuple(sum(t.step * at[t.dim] for t in a) for a in self.layer.operands[o]) for o in OPERANDS
            }
            result[where["O"]] += data["I"][where["I"]] * data["W"][where["W"]]
        return result
