"""Settings of PyTorch's caching allocator, as ``PYTORCH_CUDA_ALLOC_CONF`` states them.

``max_split_size_mb``: larger blocks are neither split nor given to smaller requests, and go back to the driver one by
one when memory is short. ``max_non_split_rounding_mb``: how much larger than a request such a block may be.
``roundup_power2_divisions``: requests are rounded up to so many steps between powers of two, one number for all sizes
or one for each from 1 MiB on (``[256:1,512:2,>:4]``, in MiB). ``garbage_collection_threshold``: share of the memory
allowed above which unused segments go back before the driver is asked. ``expandable_segments``: one growing range of
addresses for each pool. Names and ranges are those of ``c10/core/AllocatorConfig.cpp``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from hw_configs.problems import InputError, bad_input, nearest

__all__ = ["DEFAULT_CONF", "AllocatorConf", "read_allocator_conf"]

MIB: Final = 2**20
INTERVALS: Final = 16
"""Powers of two from 1 MiB on for which roundings may differ."""
GRANULE: Final = 512
LARGE_MIB: Final = 20
_KEYS: Final = (
    "max_split_size_mb", "max_non_split_rounding_mb", "roundup_power2_divisions", "garbage_collection_threshold",
    "expandable_segments",
)  # fmt: skip
_PATH: Final = "--allocator-conf"


@dataclass(frozen=True, slots=True)
class AllocatorConf:
    """The allocator's settings; None and 0 are its defaults, in bytes and shares."""

    max_split_size: int | None = None
    max_rounding: int = LARGE_MIB * MIB
    divisions: tuple[int, ...] = (0,) * INTERVALS
    gc_threshold: float = 0.0
    expandable: bool = False

    def rounded(self, size: int) -> int:
        """Bytes of a request's block: whole granules, or the next step between two powers of two."""
        if size < GRANULE:
            return GRANULE
        steps = self.divisions[min(max(size.bit_length() - 1 - 20, 0), INTERVALS - 1)]
        if steps > 1 and size > GRANULE * steps:
            floor = 1 << (size.bit_length() - 1)
            if floor == size:
                return size
            step = floor >> (steps.bit_length() - 1)
            return -(-size // step) * step if step else floor << 1
        return -(-size // GRANULE) * GRANULE

    def is_oversize(self, size: int) -> bool:
        """Whether a block or request is above what is split."""
        return self.max_split_size is not None and size >= self.max_split_size


DEFAULT_CONF: Final = AllocatorConf()


def read_allocator_conf(text: str) -> AllocatorConf:
    """The settings that a text such as ``max_split_size_mb:128,expandable_segments:True`` states.

    Raises ``InputError`` for a key that is unknown and a value out of the framework's range.
    """
    conf, rest = DEFAULT_CONF, text.replace(" ", "")
    while rest:
        found = re.match(r"([^:,\[\]]+):(\[[^\]]*\]|[^,\[\]]*)(?:,|$)", rest)
        if found is None:
            raise bad_input(f"found {rest!r}; expected KEY:VALUE, separated by commas", path=_PATH)
        conf = _with(conf, found[1], found[2])
        rest = rest[found.end() :]
    return conf


def _with(conf: AllocatorConf, key: str, value: str) -> AllocatorConf:
    if key not in _KEYS:
        message = f"unknown key {key!r}; known: {', '.join(_KEYS)}"
        raise bad_input(message, path=_PATH, suggestion=nearest(key, list(_KEYS)))
    if key == "expandable_segments":
        if value not in ("True", "False"):
            raise _wrong(key, value, "True or False")
        return replace(conf, expandable=value == "True")
    if key == "garbage_collection_threshold":
        share = _number(key, value, "a share between 0 and 1")
        if not 0 < share < 1:
            raise _wrong(key, value, "a share between 0 and 1")
        return replace(conf, gc_threshold=share)
    if key == "roundup_power2_divisions":
        return replace(conf, divisions=_divisions(value))
    size = _whole(key, value)
    if key == "max_split_size_mb":
        if size <= LARGE_MIB:
            raise _wrong(key, value, f"more than {LARGE_MIB}")
        return replace(conf, max_split_size=size * MIB)
    if size < LARGE_MIB:
        raise _wrong(key, value, f"{LARGE_MIB} or more")
    return replace(conf, max_rounding=size * MIB)


def _divisions(value: str) -> tuple[int, ...]:
    """Steps for each power of two: one number, or a list of ``MiB:steps`` whose last may be ``>:steps``."""
    key = "roundup_power2_divisions"
    if not value.startswith("["):
        return (_steps(key, value),) * INTERVALS
    found, last, first = [0] * INTERVALS, 0, True
    for entry in value[1:-1].split(","):
        bound, colon, text = entry.partition(":")
        if not colon:
            raise _wrong(key, entry, "SIZE_MB:STEPS")
        steps = _steps(key, text)
        if bound == ">":
            found[last + 1 :] = [steps] * (INTERVALS - last - 1)
            continue
        size = _whole(key, bound)
        if size < 1 or size & (size - 1):
            raise _wrong(key, bound, "a power of two")
        index = min(size.bit_length() - 1, INTERVALS - 1)
        if first:
            found[:index] = [steps] * index
            first = False
        found[index] = steps
        last = index
    return tuple(found)


def _steps(key: str, text: str) -> int:
    steps = _whole(key, text)
    if steps & (steps - 1):
        raise _wrong(key, text, "a power of two, or 0")
    return steps


def _whole(key: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,15}", text):
        raise _wrong(key, text, "a whole number")
    return int(text)


def _number(key: str, text: str, expected: str) -> float:
    if not re.fullmatch(r"\d*\.?\d+|\d+\.", text) or len(text) > 20:
        raise _wrong(key, text, expected)
    return float(text)


def _wrong(key: str, found: str, expected: str) -> InputError:
    return bad_input(f"{key}: found {found!r}; expected {expected}", path=_PATH)
