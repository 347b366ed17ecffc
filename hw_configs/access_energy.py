"""Energy of a memory access by technology, kind and size, from published tables.

SRAM of 45 nm: Horowitz, Computing's energy problem, ISSCC 2014, doi:10.1109/ISSCC.2014.6757323, figure 1.1.9; of 7 nm
and DRAM: Jouppi et al., Ten lessons from three generations shaped Google's TPUv4i, ISCA 2021,
doi:10.1109/ISCA52012.2021.00010, table 2. Both give picojoules for 64 bits.

Between two sizes and between two technologies the energy is interpolated on logarithms (an assumption). Arrays
below 8 KiB cost what 8 KiB cost, those above 1 MiB are banks of 1 MiB without the wires between them.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from hw_configs.arithmetic import plain_nanometres
from hw_configs.config import Config

__all__ = ["AccessEnergy", "energy_per_byte"]

Kind = Literal["sram", "ddr3", "ddr4", "hbm2", "gddr6"]

_WORD_BYTES: Final = 8
_SIZES: Final = (8 * 1024, 32 * 1024, 1024 * 1024)
_SRAM_PJ: Final = {7.0: (7.5, 8.5, 14.0), 45.0: (10.0, 20.0, 100.0)}
"""By nanometres, for :data:`_SIZES`."""
_DRAM_PJ: Final = {"ddr3": 1300.0, "ddr4": 1300.0, "hbm2": 350.0, "gddr6": 415.0}
"""HBM2 and GDDR6: the middle of 250 to 450 and of 350 to 480."""


class AccessEnergy(Config):
    """Which published figure an access to a memory costs."""

    kind: Kind
    """``sram``, by its size and technology, or a DRAM with its interface."""
    technology: Annotated[float, BeforeValidator(plain_nanometres), Field(ge=7, le=45)] | None = None
    """Of SRAM: nanometres from 7 to 45, as `16nm`."""


def energy_per_byte(what: AccessEnergy, size_bytes: float) -> float:
    """Joules per byte. Raises ``ValueError`` for SRAM without a technology.

    >>> round(energy_per_byte(AccessEnergy(kind="sram", technology=7), 32 * 1024) * 1e12, 4)
    1.0625
    """
    if what.kind != "sram":
        return _DRAM_PJ[what.kind] * 1e-12 / _WORD_BYTES
    if what.technology is None:
        raise ValueError("SRAM needs its technology, in nanometres")
    ends = sorted(_SRAM_PJ)
    by_end = [np.interp(np.log(size_bytes), np.log(_SIZES), np.log(_SRAM_PJ[end])) for end in ends]
    return float(np.exp(np.interp(np.log(what.technology), np.log(ends), by_end))) * 1e-12 / _WORD_BYTES
