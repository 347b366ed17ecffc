"""Energy and area of a multiply-accumulate, of SRAM and of registers, by technology, from published tables.

Energies: Horowitz, Computing's energy problem, ISSCC 2014, doi:10.1109/ISSCC.2014.6757323, figure 1.1.9 (45 nm);
Jouppi et al., Ten lessons, ISCA 2021, doi:10.1109/ISCA52012.2021.00010, table 2 (7 nm). Areas of arithmetic: synthesis
for 45 nm in Dally, High-performance hardware for machine learning, NIPS tutorial 2015, also in Sze et al., Proc. IEEE
105(12), 2017, doi:10.1109/JPROC.2017.2761740. Bit cells: 45 nm, Mistry et al., IEDM 2007; 65, 28, 16 and 7 nm,
TSMC's 0.525, 0.127, 0.07 and 0.027 square micrometres (its papers of IEDM 2003, 2009, 2013 and 2016). A flip-flop of
45 nm: DFF_X1 of the NanGate open cell library.

The cells of 28 and 7 nm and the flip-flop agree with second sources; the other areas are as these papers are quoted.

Assumptions: half of an SRAM macro is cells; logic shrinks as the bit cell does; sizes between two technologies lie on
a line of logarithms; 16-bit integers lie between those of 8 and 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import numpy as np
from pydantic import BeforeValidator, Field

__all__ = [
    "ARITHMETIC_TYPES",
    "Nanometres",
    "add_energy",
    "mac_area",
    "mac_energy",
    "register_area",
    "sram_area",
]


def plain_nanometres(found: Any) -> Any:
    """The number of `16nm`."""
    return found.removesuffix("nm").strip() if isinstance(found, str) else found


Nanometres = Annotated[float, BeforeValidator(plain_nanometres), Field(ge=7, le=65)]

_MULTIPLY_PJ: Final[Mapping[str, tuple[float, float]]] = {
    "int8": (0.2, 0.07), "int32": (3.1, 1.48), "fp16": (1.1, 0.34), "fp32": (3.7, 1.31),
}  # fmt: skip
_ADD_PJ: Final[Mapping[str, tuple[float, float]]] = {
    "int8": (0.03, 0.007), "int32": (0.1, 0.03), "fp16": (0.4, 0.16), "fp32": (0.9, 0.38),
}  # fmt: skip
"""At 45 and 7 nm."""
_UM2: Final[Mapping[str, float]] = {
    "int8": 282 + 36, "int32": 3495 + 137, "fp16": 1640 + 1360, "fp32": 7700 + 4184,
}  # fmt: skip
"""At 45 nm."""
_CELL_UM2: Final[Mapping[float, float]] = {7.0: 0.027, 16.0: 0.07, 28.0: 0.127, 45.0: 0.346, 65.0: 0.525}
_CELLS_OF_MACRO: Final = 0.5
_FLIP_FLOP_UM2: Final = 4.522
ARITHMETIC_TYPES: Final = ("int8", "int16", "int32", "fp16", "fp32")


def mac_energy(kind: str, nanometres: float) -> float:
    """Joules of a multiplication and an addition.

    >>> round(mac_energy("int8", 45) * 1e12, 3)
    0.23
    """
    if kind == "int16":
        return float(np.sqrt(mac_energy("int8", nanometres) * mac_energy("int32", nanometres)))
    (old, new), (add_old, add_new) = _MULTIPLY_PJ[kind], _ADD_PJ[kind]
    return _between(nanometres, {7.0: new + add_new, 45.0: old + add_old}) * 1e-12


def add_energy(kind: str, nanometres: float) -> float:
    """Joules of an addition alone.

    >>> round(add_energy("fp32", 45) * 1e12, 3)
    0.9
    """
    if kind == "int16":
        return float(np.sqrt(add_energy("int8", nanometres) * add_energy("int32", nanometres)))
    old, new = _ADD_PJ[kind]
    return _between(nanometres, {7.0: new, 45.0: old}) * 1e-12


def mac_area(kind: str, nanometres: float) -> float:
    """Square metres of a multiplier and an adder.

    >>> round(mac_area("fp16", 45) * 1e12)
    3000
    """
    if kind == "int16":
        return float(np.sqrt(mac_area("int8", nanometres) * mac_area("int32", nanometres)))
    return _UM2[kind] * 1e-12 * _shrunk(nanometres)


def sram_area(size_bytes: float, nanometres: float) -> float:
    """Square metres of so many bytes."""
    return size_bytes * 8 * _between(nanometres, _CELL_UM2) * 1e-12 / _CELLS_OF_MACRO


def register_area(size_bytes: float, nanometres: float) -> float:
    """Square metres of so many bytes of flip-flops."""
    return size_bytes * 8 * _FLIP_FLOP_UM2 * 1e-12 * _shrunk(nanometres)


def _shrunk(nanometres: float) -> float:
    return _between(nanometres, _CELL_UM2) / _CELL_UM2[45.0]


def _between(nanometres: float, table: Mapping[float, float]) -> float:
    ends = sorted(table)
    return float(np.exp(np.interp(np.log(nanometres), np.log(ends), np.log([table[end] for end in ends]))))
