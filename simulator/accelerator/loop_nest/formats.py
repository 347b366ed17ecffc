"""How many bits compressed operands take: moved in the mean, and held at most.

Formats and what their metadata cost are those of Sparseloop (Wu et al., MICRO 2022,
doi:10.1109/MICRO56248.2022.00096, section 5.3): a bit per word, the zeros before a word, or its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import ceil, lcm, log2
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.device import SpatialAccelerator
from hw_configs.problems import bad_input
from hw_configs.spatial import Operand, StoredAs
from workloads.density import Band, Density, NofM, Uniform
from workloads.einsum import Einsum

__all__ = ["most_held_bytes", "moved_share"]

Floats = NDArray[np.float64]
RUN_BITS: Final = 5
"""Of Eyeriss: Chen et al., JSSC 2017, section V-C."""
MOST_ROWS: Final = 1_000_000


def moved_share(device: SpatialAccelerator, layer: Einsum, level: int, operand: Operand) -> float:
    """Bits that a level moves for a word of an operand, metadata included, over those of a word without a format.

    For O those of outputs that leave for the last time. Raises ``InputError`` where runs cannot be counted.
    """
    form = (device.levels[level].formats or {}).get(operand)
    density = layer.densities.get(operand)
    if form is None or density is None:
        return 1.0
    width: int = getattr(device.word_bits, operand)
    if form.kind == "bitmask":
        return (1 + density.share * width) / width
    if form.kind == "run-length":
        bits = form.bits or RUN_BITS
        return _entries(density, layer, operand, bits) * (width + bits) / width
    place, begins = _place_bits(form, layer, operand)
    return float((density.share * (width + place) + begins) / width)


def _entries(density: Density, layer: Einsum, operand: Operand, bits: int) -> float:
    """Entries of a run-length code per word: nonzero words, and a zero after each run of 2**bits."""
    longest = 2**bits
    if isinstance(density, Uniform):
        return float(density.share / (1 - (1 - density.share) ** longest))
    if isinstance(density, NofM):
        if 2 * (density.of - density.n) >= longest:
            raise bad_input(
                f"runs of up to {2 * (density.of - density.n)} zeros need more than {bits} bits of a run",
                path=f"density.{operand}",
            )
        return density.share
    height, width = layer.sizes[density.rows], layer.sizes[density.columns]
    if height > MOST_ROWS:
        raise bad_input(f"runs in bands are counted up to {MOST_ROWS} rows", path=f"density.{operand}")
    row = np.arange(height, dtype=np.int64)
    low, high = np.maximum(0, row - density.below), np.minimum(width - 1, row + density.above)
    full = low <= high
    begin, end = (row * width + low)[full], (row * width + high)[full]
    runs = begin - np.concatenate(([0], end[:-1] + 1))
    return density.share + float((runs // longest).sum()) / (height * width)


def _place_bits(form: StoredAs, layer: Einsum, operand: Operand) -> tuple[int, float]:
    """Bits of a word's place, and per word those that say where rows begin."""
    axis = layer.operands[operand][-1] if layer.operands[operand] else ()
    length = 1 + sum(term.step * (layer.sizes[term.dim] - 1) for term in axis)
    place = form.bits or max(1, ceil(log2(length)))
    if form.kind == "coordinate":
        return place, 0.0
    words = layer.words(operand, layer.sizes)
    return place, ceil(log2(words * layer.densities[operand].share + 1)) / length


def most_held_bytes(
    device: SpatialAccelerator,
    layer: Einsum,
    level: int,
    operand: Operand,
    words: Floats,
    extents: Mapping[str, Floats],
) -> Floats:
    """Room for tiles of so many words that reach so far in each dim.

    With a format: of the most nonzero words, or of those not exceeded with the confidence that the format states.
    """
    width: int = getattr(device.word_bits, operand)
    form = (device.levels[level].formats or {}).get(operand)
    density = layer.densities.get(operand)
    if form is None or density is None or operand == "O":
        return words * device.word_bits.bytes_of(operand)
    nonzero = _most_nonzero(density, layer, words, extents, form.confidence)
    if form.kind == "bitmask":
        bits = words + nonzero * width
    elif form.kind == "run-length":
        run = form.bits or RUN_BITS
        bits = (nonzero + (words - nonzero) // 2**run) * (width + run)
    else:
        place, begins = _place_bits(form, layer, operand)
        bits = nonzero * (width + place) + words * begins
    return np.asarray(bits / 8, dtype=float)


def _most_nonzero(
    density: Density, layer: Einsum, words: Floats, extents: Mapping[str, Floats], confidence: float
) -> Floats:
    if isinstance(density, NofM):
        reach = extents[density.along]
        most = {int(e): _most_along(density, int(e), layer.sizes[density.along]) for e in np.unique(reach)}
        per_row = np.array([most[int(e)] for e in np.ravel(reach)], dtype=float)
        return np.asarray(words / reach * per_row.reshape(np.shape(reach)), dtype=float)
    if isinstance(density, Band):
        across = extents[density.columns]
        return words / across * np.minimum(across, density.below + 1 + density.above)
    if confidence == 1.0:
        return words
    from scipy.stats import binom

    return np.asarray(binom.ppf(confidence, words, density.share), dtype=float)


@cache
def _most_along(density: NofM, extent: int, size: int) -> int:
    most = 0
    for start in range(0, min(size, lcm(extent, density.of)), extent):
        groups = range(start // density.of, (start + extent - 1) // density.of + 1)
        held = (min(start + extent, (g + 1) * density.of) - max(start, g * density.of) for g in groups)
        most = max(most, sum(min(density.n, part) for part in held))
    return most
