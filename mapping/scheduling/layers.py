"""A layer of the search in memory: its states as rows of arrays, found again by a hash table, and the way back.

All states of a layer have the same number of operators done. Bit sets are rows of words (:data:`WORD_BITS` each).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled
from mapping.scheduling.state_bits import inlined, same_row

__all__ = [
    "Child", "Layer", "Trail", "add_state", "new_child", "new_layer", "new_table", "rehashed", "remembered",
    "selected", "slot_of", "wider",
]  # fmt: skip

Ints = NDArray[np.int64]


class Layer(NamedTuple):
    """States, one a row: operators done, tensors in the scratchpad, tensors with a copy that was written.

    ``cost``: scaled, all paid so far; ``resident``: bytes held; ``bound``: no schedule through the state costs less.
    ``parent`` (a row of the trail), ``operator`` and ``dropped`` say how the state was reached.
    """

    done: Ints
    held: Ints
    written: Ints
    cost: Ints
    resident: Ints
    bound: Ints
    parent: Ints
    operator: Ints
    dropped: Ints


class Trail(NamedTuple):
    """The way back from every state of every layer."""

    parent: Ints
    operator: Ints
    dropped: Ints


class Child(NamedTuple):
    """A state about to be added: bit sets as in a layer, and the tensors dropped on the way to it."""

    done: Ints
    held: Ints
    written: Ints
    dropped: Ints


@compiled
def new_layer(rows: int, words: int, held_words: int) -> Any:
    """Room for so many states; of so many words of operators and tensors."""
    return Layer(
        np.zeros((rows, words), np.int64), np.zeros((rows, held_words), np.int64),
        np.zeros((rows, held_words), np.int64), np.zeros(rows, np.int64), np.zeros(rows, np.int64),
        np.zeros(rows, np.int64), np.zeros(rows, np.int64), np.zeros(rows, np.int64),
        np.zeros((rows, held_words), np.int64),
    )  # fmt: skip


@compiled
def new_child(words: int, held_words: int) -> Any:
    """Room for one state."""
    return Child(
        np.zeros(words, np.int64), np.zeros(held_words, np.int64), np.zeros(held_words, np.int64),
        np.zeros(held_words, np.int64),
    )  # fmt: skip


@compiled
def _copy(to: Any, at: int, layer: Any, count: int) -> None:
    """Copy the first ``count`` states of a layer into another, from row ``at`` on."""
    to.done[at : at + count] = layer.done[:count]
    to.held[at : at + count] = layer.held[:count]
    to.written[at : at + count] = layer.written[:count]
    to.cost[at : at + count] = layer.cost[:count]
    to.resident[at : at + count] = layer.resident[:count]
    to.bound[at : at + count] = layer.bound[:count]
    to.parent[at : at + count] = layer.parent[:count]
    to.operator[at : at + count] = layer.operator[:count]
    to.dropped[at : at + count] = layer.dropped[:count]


@compiled
def wider(layer: Any) -> Any:
    """The same states with room for twice as many."""
    rows = len(layer.cost)
    more = new_layer(2 * rows, layer.done.shape[1], layer.held.shape[1])
    _copy(more, 0, layer, rows)
    return more


@compiled
def selected(layer: Any, rows: Any) -> Any:
    """A layer of some of the states."""
    return Layer(
        layer.done[rows], layer.held[rows], layer.written[rows], layer.cost[rows], layer.resident[rows],
        layer.bound[rows], layer.parent[rows], layer.operator[rows], layer.dropped[rows],
    )  # fmt: skip


@compiled
def remembered(trail: Any, count: int, layer: Any) -> Any:
    """The trail with a layer's states behind its first ``count`` rows."""
    more = len(layer.cost)
    rows = len(trail.parent)
    if count + more > rows:
        while count + more > rows:
            rows *= 2
        longer = Trail(
            np.zeros(rows, np.int64),
            np.zeros(rows, np.int64),
            np.zeros((rows, trail.dropped.shape[1]), np.int64),
        )
        longer.parent[:count] = trail.parent[:count]
        longer.operator[:count] = trail.operator[:count]
        longer.dropped[:count] = trail.dropped[:count]
        trail = longer
    trail.parent[count : count + more] = layer.parent
    trail.operator[count : count + more] = layer.operator
    trail.dropped[count : count + more] = layer.dropped
    return trail


@inlined
def _hash(done: Any, held: Any, written: Any) -> Any:
    h = np.int64(1469598103934665603)
    for w in range(len(done)):
        h = (h ^ done[w]) * np.int64(1099511628211)
        h ^= (h >> np.int64(29)) & np.int64(0x7FFFFFFFF)
    for w in range(len(held)):
        h = (h ^ held[w]) * np.int64(1099511628211)
        h ^= (h >> np.int64(31)) & np.int64(0x1FFFFFFFF)
        h = (h ^ written[w]) * np.int64(6364136223846793005)
        h ^= (h >> np.int64(27)) & np.int64(0x1FFFFFFFFF)
    return h


@compiled
def new_table(rows: int) -> Any:
    """An empty hash table with at least four slots for each of so many states."""
    slots = 256
    while slots < 4 * rows:
        slots *= 2
    return np.full(slots, -1, np.int64)


@compiled
def rehashed(layer: Any, count: int, slots: int) -> Any:
    """A hash table of the first ``count`` states of a layer."""
    table = np.full(slots, -1, np.int64)
    for row in range(count):
        at = _hash(layer.done[row], layer.held[row], layer.written[row]) & (slots - 1)
        while table[at] >= 0:
            at = (at + 1) & (slots - 1)
        table[at] = row
    return table


@inlined
def slot_of(layer: Any, table: Any, child: Any) -> Any:
    """The slot of a state, whose entry is its row in the layer, or -1 where it is not there yet."""
    mask = len(table) - 1
    at = _hash(child.done, child.held, child.written) & mask
    row = table[at]
    while row >= 0 and not (
        same_row(layer.done, row, child.done)
        and same_row(layer.held, row, child.held)
        and same_row(layer.written, row, child.written)
    ):
        at = (at + 1) & mask
        row = table[at]
    return at


@inlined
def add_state(layer: Any, row: int, child: Any, resident: int) -> None:
    """Write a state's bit sets and bytes into a row."""
    for w in range(len(child.done)):
        layer.done[row, w] = child.done[w]
    for w in range(len(child.held)):
        layer.held[row, w] = child.held[w]
        layer.written[row, w] = child.written[w]
    layer.resident[row] = resident
