"""Neurons in DRAM that come and go without a reallocation or a copy of the rest.

One matrix of fixed capacity holds a row per resident neuron: its row of the up projection, its column of the
down projection and its bias, side by side. Rows stand without order. A neuron that leaves is overwritten by
the last row, a new one is appended, so that a change of c neurons moves at most c rows whatever the matrix
holds, and products run over the first ``used`` rows (LLM in a flash, arXiv:2312.11514, section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input

__all__ = ["NeuronStore"]


class NeuronStore:
    """Resident neurons of one layer. ``matrix[:used]`` are their rows, ``neurons[:used]`` whose they are."""

    def __init__(self, capacity: int, width: int, dtype: npt.DTypeLike = np.float16) -> None:
        if capacity < 1 or width < 1:
            raise bad_input(f"found {capacity} rows of {width}; expected at least 1 of each")
        self.matrix = np.zeros((capacity, width), dtype)
        self.neurons = np.full(capacity, -1, np.int64)
        self.used = 0
        self.moved_bytes = 0
        """Bytes copied so far: rows that filled gaps, and rows that were appended."""
        self._place: dict[int, int] = {}

    @property
    def row_bytes(self) -> int:
        """Bytes of one neuron's row."""
        return int(self.matrix.shape[1] * self.matrix.itemsize)

    def __contains__(self, neuron: object) -> bool:
        return neuron in self._place

    def missing(self, neurons: Iterable[int]) -> list[int]:
        """Those of the neurons that are not resident, in the order given."""
        return [neuron for neuron in neurons if neuron not in self._place]

    def row(self, neuron: int) -> npt.NDArray[np.generic]:
        """The row of a resident neuron; ``KeyError`` for any other."""
        found: npt.NDArray[np.generic] = self.matrix[self._place[neuron]]
        return found

    def remove(self, neurons: Iterable[int]) -> None:
        """Drop neurons: each gap takes the last row. ``KeyError`` for a neuron that is not resident."""
        for neuron in neurons:
            gap = self._place.pop(neuron)
            self.used -= 1
            if gap != self.used:
                self.matrix[gap] = self.matrix[self.used]
                self.neurons[gap] = self.neurons[self.used]
                self._place[int(self.neurons[gap])] = gap
                self.moved_bytes += self.row_bytes
            self.neurons[self.used] = -1

    def append(self, neurons: list[int], rows: npt.NDArray[np.generic]) -> None:
        """Add neurons with their rows; ``InputError`` when the capacity does not hold them or one is there."""
        if self.used + len(neurons) > len(self.neurons):
            raise bad_input(
                f"{self.used} + {len(neurons)} neurons exceed the capacity of {len(self.neurons)}"
            )
        if len(set(neurons)) < len(neurons) or any(neuron in self._place for neuron in neurons):
            raise bad_input("a neuron to append is resident already")
        if rows.shape != (len(neurons), self.matrix.shape[1]):
            raise bad_input(
                f"found rows of shape {rows.shape}; expected ({len(neurons)}, {self.matrix.shape[1]})"
            )
        end = self.used + len(neurons)
        self.matrix[self.used : end] = rows
        self.neurons[self.used : end] = neurons
        for place, neuron in enumerate(neurons, self.used):
            self._place[neuron] = place
        self.used = end
        self.moved_bytes += len(neurons) * self.row_bytes
