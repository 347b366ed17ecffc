"""A quantity with its unit, as an option of a command gives it."""

from __future__ import annotations

from hw_configs.problems import bad_input

__all__ = ["option_quantity"]


def option_quantity(text: str, dimension: str, option: str) -> float:
    """The quantity in SI units; ``InputError`` with the option for one that no machine has."""
    from hw_configs.units import UnitError, parse_quantity

    try:
        value = parse_quantity(text, dimension)
    except UnitError as error:
        raise bad_input(str(error), path=option) from None
    most = 2.0**50 if dimension == "size" else 1e6
    if not 0 <= value <= most:
        raise bad_input(
            f"found {text!r}; expected no less than zero and no more than any machine has", path=option
        )
    return value
