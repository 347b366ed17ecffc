"""A buffer of partitions (MariusGNN, arXiv:2202.02365): parts of the table are swapped whole, batches stay inside them.

Neighbours outside the buffer are not sampled: fewer rows, and an accuracy that is not modelled here. Two orders: with
``training`` the partitions of the training nodes stay in memory beside some others, chosen anew each epoch, and nothing
is swapped (their policy for node classification where the training nodes fit); with ``pairs`` every two partitions meet
(BETA, Mohoney et al., Marius, OSDI 2021), as for link prediction, and a node trains in one of the states that hold it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from simulator.gather.reads import DriveReads, chunks_of, no_reads
from simulator.gather.stores import Preparation, StoreOptions, StorePlan
from simulator.gather.table import FeatureTable
from workloads.graph_data.adjacency import Adjacency
from workloads.graph_data.batches import BatchTrace, training_batches
from workloads.graph_data.sampling import LayerSampling, NeighbourSampling
from workloads.memory_trace.generators import splitmix64

__all__ = ["BufferState", "PartitionedEpoch", "beta_order", "partitioned_epoch", "within"]

Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BufferState:
    """Partitions in memory, and those of them that were read to get there."""

    held: tuple[int, ...]
    read: tuple[int, ...]


def beta_order(partitions: int, buffer: int) -> list[BufferState]:
    """States in which every two partitions meet, one swap from each to the next where that is enough.

    ``buffer - 1`` partitions stay while all others pass through the last place; then they go for good.

    >>> [state.held for state in beta_order(4, 3)]
    [(0, 1, 2), (0, 1, 3), (2, 3)]
    """
    if not 2 <= buffer <= partitions:
        raise bad_input(f"found {buffer} of {partitions} partitions; expected 2 or more", path="--buffer")
    states: list[BufferState] = []
    left = list(range(partitions))
    while len(left) > 1:
        fixed, passing = left[: buffer - 1], left[buffer - 1 :]
        for held in [(*fixed, last) for last in passing] or [tuple(fixed)]:
            before = states[-1].held if states else ()
            states.append(BufferState(held, tuple(part for part in held if part not in before)))
        left = passing
    return states


def within(graph: Adjacency, inside: npt.NDArray[np.bool_]) -> Adjacency:
    """The graph with only the neighbours that are inside, for the nodes that are."""
    owner = np.repeat(np.arange(graph.nodes), graph.degrees())
    kept = inside[graph.neighbours] & inside[owner]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner[kept], minlength=graph.nodes))])
    return Adjacency(offsets, graph.neighbours[kept], graph.name)


@dataclass(frozen=True, eq=False)
class PartitionedEpoch:
    """The batches of an epoch as the buffer allows them, the plan of the store, and the states it went through."""

    trace: BatchTrace
    plan: StorePlan
    states: tuple[BufferState, ...]
    nodes_of: tuple[int, ...]

    @property
    def partitions_read(self) -> int:
        """Partitions read in the epoch, each time counted."""
        return sum(len(state.read) for state in self.states)


def partitioned_epoch(
    graph: Adjacency, training: Longs, batch: int, rule: NeighbourSampling | LayerSampling, table: FeatureTable,
    options: StoreOptions,
) -> PartitionedEpoch:  # fmt: skip
    """An epoch of a partition buffer: states, batches within each, and reads of whole partitions."""
    part_of, states = _assigned(graph.nodes, training, options)
    counts = np.bincount(part_of, minlength=options.partitions)
    chosen = _states_of_seeds(part_of[training], states, options.seed)
    traces: list[BatchTrace] = []
    first_batch: list[int] = []
    done = 0
    for number, state in enumerate(states):
        seeds = training[chosen == number]
        first_batch.append(done)
        if not seeds.size:
            continue
        inside = np.isin(part_of, state.held)
        traces.append(training_batches(within(graph, inside), seeds, batch, rule))
        done += traces[-1].batches
    trace = _joined(traces, graph.nodes)
    reads = _swaps(states, counts, first_batch, max(done - 1, 0), table)
    level = np.ones(trace.rows.size, np.int8)
    plan = StorePlan("partition-buffer", level, no_reads(), reads, Preparation(), table.bytes)
    return PartitionedEpoch(trace, plan, tuple(states), tuple(counts.tolist()))


def _assigned(nodes: int, training: Longs, options: StoreOptions) -> tuple[Longs, list[BufferState]]:
    """The partition of each node, and the states of the buffer."""
    parts, order = options.partitions, np.argsort(splitmix64(options.seed, 0, nodes), kind="stable")
    if options.cover == "training":
        # Training nodes first, so that they fill partitions of their own.
        trains = np.zeros(nodes, np.bool_)
        trains[training] = True
        order = order[np.argsort(~trains[order], kind="stable")]
    part_of = np.empty(nodes, np.int64)
    part_of[order] = np.arange(nodes) * parts // nodes
    if options.cover == "pairs":
        return part_of, beta_order(parts, options.buffer)
    needed = sorted(set(part_of[training].tolist()))
    if len(needed) > options.buffer:
        raise bad_input(
            f"the training nodes fill {len(needed)} partitions; the buffer holds {options.buffer}",
            path="--buffer",
        )
    others = [
        int(p) for p in np.argsort(splitmix64(options.seed + 1, 0, parts), kind="stable") if p not in needed
    ]
    held = tuple([*needed, *others][: options.buffer])
    return part_of, [BufferState(held, held)]


def _states_of_seeds(parts: Longs, states: list[BufferState], seed: int) -> Longs:
    """A state for each seed, evenly among those that hold its partition."""
    draws = splitmix64(seed + 2, 0, parts.size)
    chosen = np.zeros(parts.size, np.int64)
    for part in np.unique(parts).tolist():
        holding = np.array([number for number, state in enumerate(states) if part in state.held])
        mine = parts == part
        chosen[mine] = holding[(draws[mine] % np.uint64(holding.size)).astype(np.int64)]
    return chosen


def _joined(traces: list[BatchTrace], nodes: int) -> BatchTrace:
    rows = np.concatenate([np.empty(0, np.int64), *(trace.rows for trace in traces)])
    sizes = np.concatenate([np.empty(0, np.int64), *(np.diff(trace.offsets) for trace in traces)])
    layers = tuple(layer for trace in traces for layer in trace.layers)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return BatchTrace(offsets, rows, nodes, layers, sum(trace.seeds for trace in traces))


def _swaps(
    states: list[BufferState], counts: Longs, first_batch: list[int], last: int, table: FeatureTable
) -> DriveReads:
    """The partitions read for each state, awaited by its first batch; they lie on the drive one after another."""
    begins = np.concatenate([[0], np.cumsum(counts)]) * table.row_bytes
    reads = list(_reads_of(states, first_batch, last))
    if not reads:
        return no_reads()
    parts = np.array([part for part, _ in reads])
    sizes = counts[parts] * table.row_bytes
    some = sizes > 0
    return chunks_of(begins[parts][some], sizes[some], np.array([batch for _, batch in reads])[some])


def _reads_of(states: list[BufferState], first_batch: list[int], last: int) -> Iterator[tuple[int, int]]:
    for state, batch in zip(states, first_batch, strict=True):
        for part in state.read:
            yield part, min(batch, last)
