"""How fast one core multiplies with weights of a stored type: by instruction set, never by chip.

A kernel brings weights into registers, unpacks them, and multiplies them with as many rows of activations as it holds.
Two published rates tell the cost of both steps: ``dot``, multiply-adds per clock of a core with one row (decode), and
``gemm``, the same with hundreds of rows (prefill). Unpacking is done once per block of rows.

Measured rows are llama.cpp's and ik_llama.cpp's, kernels of types as files store them (not repacked), of
Llama-3.1-8B, whose 7.50e9 weights are read for every token: tokens/s x 7.50e9 / cores / clock. Three cores: a Zen 4
(Ryzen 9 7950X; one or two threads taken at 5.5 GHz, sixteen at 5.0), a Zen 3 (Threadripper PRO 5975WX; 4.4 and 3.8)
and an M2 Max (3.5). Sources: github.com/ikawrakow/ik_llama.cpp pull requests 54, 121, 130, 132, 134, 136, 146, 152, 154
and 155. The clocks are assumptions. A figure that no row holds is an assumption, derived as the comment beside it says.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hw_configs.device import Cpu
from simulator.cost.model import by_name
from workloads.dtypes import BITS, GGUF

__all__ = ["KernelRate", "clocks_per_weight", "is_packed", "kernel_rate", "plain_rate", "row_block"]


class KernelRate(NamedTuple):
    """Multiply-adds per clock of a core: with one row of activations, with very many."""

    dot: float
    gemm: float


_ZEN3: Final = {
    "q8_0": (4.3, 13.2), "q4_0": (3.4, 13.1), "q5_0": (3.3, 10.6), "q2_k": (4.9, 13.2), "q3_k": (4.3, 12.3),
    "q4_k": (4.1, 12.0), "q5_k": (3.4, 11.6), "q6_k": (4.05, 12.0), "iq2_xs": (2.4, 9.7), "iq2_xxs": (2.4, 9.6),
    "iq3_xxs": (1.9, 8.8), "iq4_nl": (3.4, 11.5),
}  # fmt: skip
"""AVX2. Measured: dot of q3_k, q5_k, q6_k; gemm of all but q4_k and iq4_nl. Assumed: other dots 0.54 of Zen 4's, the
mean ratio of the three measured on both; iq4_nl as q4_0, by a look-up in a register."""
_ZEN4: Final = {
    "q8_0": (8.0, 16.5), "q4_0": (6.2, 15.5), "q5_0": (6.2, 14.8), "q2_k": (9.0, 19.3), "q3_k": (7.5, 18.2),
    "q4_k": (7.5, 18.0), "q5_k": (7.0, 17.7), "q6_k": (7.3, 18.3), "iq2_xs": (4.5, 12.7), "iq2_xxs": (4.5, 12.6),
    "iq3_xxs": (3.5, 10.1), "iq4_nl": (6.2, 15.0),
}  # fmt: skip
"""AVX-512 with 8-bit dot products. Assumed: dot of q8_0 (nothing to unpack), q4_0 (as q5_0), q4_k (as q3_k), gemm of
q4_k (as its neighbours), iq4_nl (as q4_0)."""
_M2: Final = {
    "q8_0": (9.0, 22.4), "q4_0": (7.5, 20.0), "q5_0": (6.8, 19.0), "q2_k": (11.0, 19.8), "q3_k": (8.0, 14.8),
    "q4_k": (8.0, 17.0), "q5_k": (7.5, 16.4), "q6_k": (8.0, 15.4), "iq2_xs": (5.5, 12.2), "iq2_xxs": (4.7, 15.1),
    "iq3_xxs": (3.7, 12.9), "iq4_nl": (7.5, 18.0),
}  # fmt: skip
"""NEON of a wide core with 8-bit dot products. Assumed: dot of q8_0, q4_0, q3_k, q4_k, q5_k (between the measured q5_0
and q6_k), gemm of q4_0 and q4_k, iq4_nl (as q4_0)."""
_OTHER_ARM: Final = 0.75
"""What narrower Arm cores (Neoverse) do of the M2's clock for clock; an assumption from their issue width (8 to 6)."""

_BY_SET: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "avx2": _ZEN3,
    # llama.cpp runs its AVX2 kernels on AVX-512 without 8-bit dot products, and gains little from AVX-VNNI in decode
    # (assumption: nothing).
    "avx-vnni": _ZEN3,
    "avx512": _ZEN3,
    "avx512-vnni": _ZEN4,
    "amx": _ZEN4,
    "apple": _M2,
    "neon": {name: (dot * _OTHER_ARM, gemm * _OTHER_ARM) for name, (dot, gemm) in _M2.items()},
    "sve": {name: (dot * _OTHER_ARM, gemm * _OTHER_ARM) for name, (dot, gemm) in _M2.items()},
}
_LIKE: Final = {
    "int8": "q8_0", "uint8": "q8_0", "q8_k": "q8_0", "int4": "q4_0", "q4_1": "q4_0", "q5_1": "q5_0", "int5": "q5_0",
    "int6": "q6_k", "int7": "q8_0", "int3": "q3_k", "int2": "q2_k", "iq4_xs": "iq4_nl", "mxfp4": "iq4_nl",
    "nvfp4": "iq4_nl", "fp4": "iq4_nl", "nf4": "iq4_nl", "iq3_s": "iq3_xxs", "iq2_s": "iq2_xs", "iq1_m": "iq2_xxs",
    "iq1_s": "iq2_xxs", "tq2_0": "q2_k", "tq1_0": "q2_k", "q1_0": "q2_k", "fp6": "q6_k", "mxfp6": "q6_k",
    "fp8": "iq3_xxs", "mxfp8": "iq3_xxs",
}  # fmt: skip
"""Types of which no rate was found: as one whose unpacking takes alike steps. 8-bit floats have no instructions and
are widened by table or by bits, about as costly as i-quants (assumption)."""
_FLOAT_LANES: Final = {"avx2": 8, "avx-vnni": 8, "avx512": 16, "avx512-vnni": 16, "amx": 16, "neon": 8, "sve": 16,
                       "apple": 16}  # fmt: skip
"""Elements that one row's dot product takes per clock in 16 bits or 32: one load and one multiply-add a clock
(assumption; such products wait for memory)."""
BLAS_SHARE: Final = 0.75
"""Share of the peak rate of large dense products: PyTorch reaches 3.5 of 4.6 TFLOP/s of fp32 on a Threadripper PRO
7975WX (github.com/chsasank/device-benchmarks, issue 14)."""
TILE_SHARE: Final = {"bf16": 0.29, "int8": 0.24}
"""Share of AMX's peak: 21.3 of 73.7 TFLOP/s in bf16 and 35 of 147 TOP/s in int8 on one Xeon socket, KTransformers'
kernels for experts (SOSP 2025; doc/en/AMX.md of kvcache-ai/ktransformers)."""
ROWS_PER_BLOCK: Final = 8
"""Rows of activations that vector kernels multiply with weights unpacked once."""
ROWS_PER_TILE_BLOCK: Final = 32
"""The same of AMX: two tiles of 16 rows."""
HALF_K: Final = 128.0
HALF_COLUMNS: Final = 16.0
HALF_ROWS: Final = 4.0
"""Depth, columns per core and rows at which half of a dense product's rate is reached: filling register tiles and their
sums (assumption, in line with fp32 products of 512 to 4096 a side on the 32 cores of the machine above)."""


def row_block(isa: str, dtype: str) -> int:
    """Rows of activations that weights are unpacked once for."""
    return ROWS_PER_TILE_BLOCK if isa == "amx" and is_packed(dtype) else ROWS_PER_BLOCK


def kernel_rate(cpu: Cpu, dtype: str) -> KernelRate:
    """Multiply-adds per clock of a core with weights of a stored type.

    >>> from hw_configs.library import load_device
    >>> kernel_rate(load_device("threadripper-5975wx"), "q6_k")
    KernelRate(dot=4.05, gemm=12.0)
    """
    clocks = 2 * cpu.cores * cpu.clock
    if not is_packed(dtype):
        lanes = _FLOAT_LANES[cpu.isa] if BITS[dtype] <= 32 else _FLOAT_LANES[cpu.isa] / 2
        return KernelRate(float(lanes), max(plain_rate(cpu, dtype) / clocks, float(lanes)))
    dot, gemm = _BY_SET[cpu.isa][_LIKE.get(dtype, dtype)]
    if cpu.isa == "amx" and "int8" in cpu.compute.matrix:
        gemm = max(gemm, TILE_SHARE["int8"] * cpu.compute.matrix["int8"] / clocks)
    return KernelRate(dot, gemm)


def plain_rate(cpu: Cpu, dtype: str) -> float:
    """Operations per second of large dense products whose weights need no unpacking.

    16-bit floats without instructions of their own are widened to fp32.
    """
    matrix, vector = by_name(cpu.compute.matrix), by_name(cpu.compute.vector)
    found = BLAS_SHARE * max(vector.get(dtype, 0.0), vector.get("fp32", 0.0) if BITS[dtype] <= 32 else 0.0)
    tiles = matrix.get(dtype, 0.0) or (matrix.get("bf16", 0.0) if dtype == "fp16" else 0.0)
    share = TILE_SHARE["bf16"] if cpu.isa == "amx" else BLAS_SHARE
    best = max(found, share * tiles)
    return best or BLAS_SHARE * max([*matrix.values(), *vector.values()])


def clocks_per_weight(rate: KernelRate, rows: float, block: int) -> float:
    """Clocks of a core for one weight and so many rows: unpacked once per block, multiplied with every row.

    >>> rate = KernelRate(dot=4.0, gemm=12.0)
    >>> clocks_per_weight(rate, 1, 8), round(800 / clocks_per_weight(rate, 800, 8), 9)
    (0.25, 12.0)
    """
    one, many = 1 / rate.dot, 1 / min(rate.gemm, 0.999 * block * rate.dot)
    unpack = (one - many) * block / (block - 1)
    if unpack <= 0:
        return rows * one
    return -(-rows // block) * unpack + rows * (one - unpack)


def is_packed(dtype: str) -> bool:
    """Whether weights of a type are unpacked or widened before they are multiplied."""
    return dtype in GGUF or dtype in _LIKE
