"""A fused group run tile by tile over real numbers: slow, and shares no code with the closed form.

The schedule is worked out with sets of indices, then played: a word that is read has to be there, because it was made
or brought in and not dropped since. What is dropped is what no later tile reads before it is made again.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

Place = tuple[int, ...]


class Run:
    """Words that cross to and from the outside, the most bytes held while each layer works, and the results."""

    def __init__(self, chain: Any, tiling: Any, device: Any) -> None:
        self.layers, self.tiling, self.width = chain.layers, tiling, device.word_bits
        self.inputs = self.outputs = 0
        self.weights = [0] * len(self.layers)
        self.held = [dict.fromkeys("IWO", 0.0) for _ in self.layers]
        self.macs = 0
        rng = np.random.default_rng(0)
        self.data = {}
        self.filters = [rng.integers(-3, 4, self._shape(item.layer, "W")) for item in self.layers]
        self.first = rng.integers(-3, 4, self._shape(self.layers[0].layer, "I"))
        self._play()

    @staticmethod
    def _shape(layer: Any, operand: str) -> list[int]:
        return [1 + sum(t.step * (layer.sizes[t.dim] - 1) for t in axis) for axis in layer.operands[operand]]

    # The schedule: by axis and tile of the last output, which indices are made and read of each buffer.

    def _along(self, axis: int) -> list[tuple[list[set[int]], list[set[int]]]]:
        sides = [item.sides[axis] for item in self.layers]
        seen: list[set[int]] = [set() for _ in range(len(sides) + 1)]
        steps = []
        for start in range(0, sides[-1].size, self.tiling.tile[axis]):
            made: list[set[int]] = [set() for _ in range(len(sides) + 1)]
            read: list[set[int]] = [set() for _ in sides]
            made[-1] = set(range(start, min(start + self.tiling.tile[axis], sides[-1].size)))
            for number in reversed(range(len(sides))):
                side = sides[number]
                outputs = self._unpooled(number + 1, axis, made[number + 1])
                touched = {x * side.step + tap - side.before for x in outputs for tap in range(side.reach)}
                if number:
                    touched = {x for x in touched if 0 <= x < sides[number - 1].size // side.pool}
                read[number] = set(range(min(touched), max(touched) + 1)) if touched else set()
                made[number] = read[number] - seen[number] if self.tiling.keeps[axis] else read[number]
                if self.tiling.keeps[axis] and made[number]:
                    # Indices between two stretches are made with them.
                    made[number] = set(range(min(made[number]), max(made[number]) + 1))
                seen[number] |= made[number]
            steps.append((made, read))
        return steps

    def _play(self) -> None:
        every = [self._along(axis) for axis in range(len(self.tiling.tile))]
        moments = list(itertools.product(*every))
        count = len(self.layers)
        made = [[self._places(m, 0, b) for m in moments] for b in range(count + 1)]
        read = [[self._places(m, 1, b) for m in moments] for b in range(count)]
        buffers: list[dict[Place, Any]] = [{} for _ in range(count)]
        loaded: list[Any] = [set() for _ in range(count)]
        result: dict[Place, Any] = {}
        later = [self._later(made[b], read[b]) for b in range(count)]
        for now in range(len(moments)):
            for place in made[0][now]:
                buffers[0][place] = self._input(place)
                self.inputs += buffers[0][place].size
            for number in range(count):
                if not made[number + 1][now]:
                    continue
                along = [
                    self._unpooled(number + 1, axis, {place[axis] for place in made[number + 1][now]})
                    for axis in range(len(self.tiling.tile))
                ]
                new = set(itertools.product(*along))
                out = self._compute(number, new, buffers[number], loaded)
                self._note(number, buffers, out, loaded)
                # What this layer read is dropped unless a later tile reads it.
                buffers[number] = {p: v for p, v in buffers[number].items() if p in later[number][now]}
                (buffers[number + 1] if number + 1 < count else result).update(self._pooled(number + 1, out))
                if number + 1 == count:
                    self.outputs += sum(v.size for v in out.values())
            for b in range(count):
                buffers[b] = {p: v for p, v in buffers[b].items() if p in later[b][now]}
        self.result = result

    def _unpooled(self, buffer: int, axis: int, indices: set[int]) -> set[int]:
        """What a layer makes so that a buffer gets these indices."""
        pool = self.layers[buffer].sides[axis].pool if buffer < len(self.layers) else 1
        return {index * pool + tap for index in indices for tap in range(pool)}

    def _pooled(self, buffer: int, out: dict[Place, Any]) -> dict[Place, Any]:
        """The largest of each window."""
        if buffer == len(self.layers):
            return out
        found: dict[Place, Any] = {}
        for place, values in out.items():
            at = tuple(x // side.pool for x, side in zip(place, self.layers[buffer].sides, strict=True))
            found[at] = np.maximum(found[at], values) if at in found else values
        return found

    def _places(self, moment: Any, what: int, buffer: int) -> set[Place]:
        return set(itertools.product(*(sorted(along[what][buffer]) for along in moment)))

    @staticmethod
    def _later(made: list[set[Place]], read: list[set[Place]]) -> list[set[Place]]:
        """By moment, places that are read after it before they are made again."""
        wanted: set[Place] = set()
        found: list[set[Place]] = []
        for new, used in zip(reversed(made), reversed(read), strict=True):
            found.append(set(wanted))
            wanted = (wanted | used) - new
        return found[::-1]

    # One layer on one tile.

    def _input(self, place: Place) -> Any:
        layer, sides = self.layers[0].layer, self.layers[0].sides
        where = self._index(
            layer, "I", {s.dim: x + s.before for s, x in zip(sides, place, strict=True)}, sides
        )
        return self.first[where].reshape(-1)

    @staticmethod
    def _index(layer: Any, operand: str, at: dict[str, int], sides: Any) -> tuple[Any, ...]:
        tiled = {s.dim for s in sides}
        return tuple(
            at[next(t.dim for t in axis if t.dim in tiled)]
            if any(t.dim in tiled for t in axis)
            else slice(None)
            for axis in layer.operands[operand]
        )

    def _compute(
        self, number: int, new: set[Place], have: dict[Place, Any], loaded: list[Any]
    ) -> dict[Place, Any]:
        item = self.layers[number]
        layer, tiled = item.layer, [side.dim for side in item.sides]
        free = [dim for dim in layer.sizes if dim not in tiled]
        o_axes = [axis[0].dim for axis in layer.operands["O"] if axis[0].dim not in tiled]
        shape = [layer.sizes[dim] for dim in o_axes]
        i_shape = [n for n, axis in zip(self._shape(layer, "I"), layer.operands["I"], strict=True)
                   if not any(t.dim in tiled for t in axis)]  # fmt: skip
        used = set()
        out = {}
        for place in new:
            values = np.zeros(shape, np.int64)
            at = dict(zip(tiled, place, strict=True))
            for index in itertools.product(*(range(layer.sizes[dim]) for dim in free)):
                at |= dict(zip(free, index, strict=True))
                source = []
                for side in item.sides:
                    axis = next(a for a in layer.operands["I"] if any(t.dim == side.dim for t in a))
                    source.append(sum(t.step * at[t.dim] for t in axis) - side.before)
                channel = tuple(
                    sum(t.step * at[t.dim] for t in axis)
                    for axis in layer.operands["I"] if not any(t.dim in tiled for t in axis)
                )  # fmt: skip
                weight = tuple(sum(t.step * at[t.dim] for t in axis) for axis in layer.operands["W"])
                used.add(weight)
                inside = number == 0 or all(
                    0 <= x < side.size // own.pool
                    for x, side, own in zip(source, self.layers[number - 1].sides, item.sides, strict=True)
                )
                self.macs += 1
                if inside:
                    taken = have[tuple(source)]
                    flat = int(np.ravel_multi_index(channel, i_shape)) if channel else 0
                    values[tuple(at[dim] for dim in o_axes)] += taken[flat] * self.filters[number][weight]
            out[place] = values.reshape(-1)
        if self.tiling.resident[number]:
            # Those of another outer tile make room.
            indexed = {t.dim for axis in layer.operands["W"] for t in axis}
            if any(dim in indexed for dim in tiled):
                loaded[number] &= used
            self.weights[number] += len(used - loaded[number])
            loaded[number] |= used
        else:
            self.weights[number] += len(used)
            loaded[number] = used
        return out

    def _note(
        self, number: int, buffers: list[dict[Place, Any]], out: dict[Place, Any], loaded: list[Any]
    ) -> None:
        held = self.held[number]
        words = sum(value.size for buffer in buffers for value in buffer.values())
        held["I"] = max(held["I"], words * self.width.bytes_of("I"))
        held["O"] = max(held["O"], sum(v.size for v in out.values()) * self.width.bytes_of("O"))
        own = 0
        for other in range(len(self.layers)):
            if self.tiling.resident[other]:
                own += len(loaded[other])
            elif other == number:
                own += len(loaded[other]) // self.tiling.slices[number]
        held["W"] = max(held["W"], own * self.width.bytes_of("W"))

    def expected(self) -> dict[Place, Any]:
        """The last output, layer by layer over whole arrays."""
        have: dict[Place, Any] = {}
        first = self.layers[0]
        reach = [range(-s.before, (s.size - 1) * s.step - s.before + s.reach) for s in first.sides]
        have = {place: self._input(place) for place in itertools.product(*reach)}
        for number, item in enumerate(self.layers):
            places = set(itertools.product(*(range(s.size) for s in item.sides)))
            kept = (list(self.weights), self.macs)
            have = self._pooled(number + 1, self._compute(number, places, have, [set() for _ in self.layers]))
            self.weights, self.macs = kept
        return have
