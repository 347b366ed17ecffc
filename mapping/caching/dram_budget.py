"""What a DRAM budget holds of a model whose feed-forward layers are sparse, and what each token still loads.

Embeddings, attention and the predictors stay in DRAM; of the feed-forward layers the neurons that a window of
past tokens used. A longer window loads less per token and takes more DRAM. Storing a neuron's row of the up
projection beside its column of the down projection (bundling) doubles the bytes that lie together in flash.
The buffers of :mod:`mapping.caching.neuron_store` are allocated once, for the window's share
(LLM in a flash, arXiv:2312.11514, sections 3 and 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.problems import InfeasibleError, bad_input
from hw_configs.units import format_quantity
from mapping.caching.activation_statistics import ActivationStatistics
from simulator.flash.patterns import DrivePattern, drive_rate
from simulator.system.costs import CHUNK_READERS
from workloads.graph import Graph, Operator, Role
from workloads.operators import Product

__all__ = ["MAX_WINDOW", "SparseModel", "WindowChoice", "choose_window", "sparse_model", "window_choice"]

MAX_WINDOW: Final = 64


@dataclass(frozen=True, slots=True)
class SparseModel:
    """Bytes of a model by part, and its feed-forward layers.

    ``row_bytes`` is one neuron's bytes in one matrix (one row of an up projection); ``matrices`` of them
    (2, or 3 with a gate) make a bundle.
    """

    embedding_bytes: int
    attention_bytes: int
    ffn_bytes: int
    predictor_bytes: int
    layers: int
    neurons: int
    row_bytes: int
    matrices: int

    @property
    def bytes(self) -> int:
        """All weights, predictors left out: they are not the model's own."""
        return self.embedding_bytes + self.attention_bytes + self.ffn_bytes

    def resident_bytes(self, window_share: float) -> float:
        """DRAM that is filled with a share of the neurons resident."""
        return (
            self.embedding_bytes + self.attention_bytes + self.predictor_bytes + self.ffn_bytes * window_share
        )


@dataclass(frozen=True, slots=True)
class WindowChoice:
    """One choice: window in tokens, bundled or not, with what it costs in DRAM and per token."""

    window: int
    bundled: bool
    window_share: float
    loaded_share: float
    resident_bytes: float
    loaded_bytes: float
    chunk_bytes: int
    read_bandwidth: float
    moved_bytes: float
    """Bytes copied in DRAM per token: rows appended, and rows that fill the gaps of those that leave."""

    @property
    def io_s(self) -> float:
        """Seconds per token to read what is missing."""
        return self.loaded_bytes / self.read_bandwidth


def sparse_model(graph: Graph, predictor_rank: int = 0) -> SparseModel:
    """The parts of a decoder in a graph; predictors of a rank from hidden width to neurons in every layer."""
    ways = [op for op in graph.operators if is_feed_forward(op)]
    down = [op for op in ways if op.name.endswith("down")]
    if not down:
        raise bad_input(f"{graph.name} has no dense feed-forward layers whose neurons could stay in flash")
    ffn = {name for op in ways for name in op.inputs if _is_matrix(graph, name)}
    sizes = {name: t.size_bytes for name, t in graph.tensors.items() if t.role is Role.WEIGHT}
    embedding = sum(b for name, b in sizes.items() if "embedding" in name or name.startswith("lm_head"))
    ffn_bytes = sum(sizes[name] for name in ffn)
    work = down[0].work
    assert isinstance(work, Product)
    neurons, hidden = work.k, work.n
    per_layer = ffn_bytes // len(down)
    row = sizes[next(n for n in down[0].inputs if _is_matrix(graph, n))] // neurons
    return SparseModel(
        embedding,
        sum(sizes.values()) - embedding - ffn_bytes,
        ffn_bytes,
        2 * predictor_rank * (hidden + neurons) * len(down),
        len(down),
        neurons,
        row,
        round(per_layer / (row * neurons)),
    )


def is_feed_forward(operator: Operator) -> bool:
    """Whether an operator is a product of a feed-forward layer."""
    return isinstance(operator.work, Product) and ".mlp." in operator.name


def _is_matrix(graph: Graph, name: str) -> bool:
    tensor = graph.tensors[name]
    return tensor.role is Role.WEIGHT and len(tensor.shape) == 2


def window_choice(
    model: SparseModel,
    statistics: ActivationStatistics,
    drive: Flash | ComputationalStorage,
    window: int,
    *,
    bundled: bool,
    readers: int = CHUNK_READERS,
) -> WindowChoice:
    """What a window costs. Window 0 keeps no neuron: each token loads all that the predictor names."""
    held, loaded = statistics.window_share(window), statistics.loaded_share(window)
    chunk = model.row_bytes * (model.matrices if bundled else 1)
    rate = drive_rate(drive, DrivePattern("read", "random", chunk, readers)).bandwidth_bytes_per_s
    missing = model.ffn_bytes * loaded
    # As many neurons leave as come; with no window, everything that came is dropped at once.
    moved = missing * (2.0 if window else 1.0)
    return WindowChoice(
        window,
        bundled,
        held,
        loaded,
        model.resident_bytes(held if window else loaded),
        missing,
        chunk,
        rate,
        moved,
    )


def choose_window(
    model: SparseModel,
    statistics: ActivationStatistics,
    drive: Flash | ComputationalStorage,
    budget_bytes: float,
    *,
    window: int | None = None,
    bundled: bool | None = None,
    readers: int = CHUNK_READERS,
) -> tuple[WindowChoice, list[WindowChoice]]:
    """The choice of least reading time within a budget, and all that were looked at.

    Raises ``InfeasibleError`` when even the parts that must stay exceed the budget.
    """
    windows = range(MAX_WINDOW + 1) if window is None else (window,)
    ways = (False, True) if bundled is None else (bundled,)
    looked_at = [
        window_choice(model, statistics, drive, k, bundled=way, readers=readers)
        for k in windows
        for way in ways
    ]
    fitting = [choice for choice in looked_at if choice.resident_bytes <= budget_bytes]
    if not fitting:
        least = min(choice.resident_bytes for choice in looked_at)
        need, has = format_quantity(least, "size"), format_quantity(budget_bytes, "size")
        raise InfeasibleError(
            f"embeddings, attention, predictors and the least window need {need} of DRAM; the budget is {has}"
        )
    return min(fitting, key=lambda c: (c.io_s, c.resident_bytes)), looked_at
