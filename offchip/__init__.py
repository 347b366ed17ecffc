"""Offchip: where a model's bytes go on a memory-centric machine, what that costs, and which plan is best.

>>> import offchip
>>> result = offchip.simulate("llama-3-8b", "a100-80gb", prompt=512)
>>> result.summary()["bottleneck"]  # doctest: +ELLIPSIS
'...'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offchip.api import check, load_model, load_system, simulate, solve

__all__ = ["check", "load_model", "load_system", "simulate", "solve"]


def __getattr__(name: str) -> Any:
    """Import the interface when it is first used, so that ``import offchip`` stays instant."""
    if name in __all__:
        from offchip import api

        return getattr(api, name)
    raise AttributeError(f"module 'offchip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
