"""Small devices for tests, and what an engine's result and an oracle counted in the same words."""

from __future__ import annotations

from typing import Any

from hw_configs.cpu_cache import CpuCache

__all__ = ["counted", "device", "level"]

_FIELDS = ("written_to", "written_to_missing", "evicted", "written_back", "taken_back", "invalidated", "prefetches",
           "useful", "late", "useless")  # fmt: skip


def level(sets: int = 4, ways: int = 2, latency: int = 2, **more: Any) -> dict[str, Any]:
    """A level of so many sets of 64-byte lines."""
    return {"size": f"{sets * ways * 64} B", "ways": ways, "latency": latency, **more}


def device(**fields: Any) -> CpuCache:
    """A device of one core with an L1 of 512 bytes, unless fields say otherwise."""
    plain = {
        "kind": "cpu-cache", "name": "small", "cores": 1, "clock": "1 GHz", "instructions_per_clock": 1,
        "outstanding_misses": 4, "l1d": level(), "main_memory": {"latency": "100 ns", "bandwidth": "10 GB/s"},
    }  # fmt: skip
    return CpuCache.model_validate(plain | fields)


def counted(result: Any) -> dict[Any, int]:
    """What a result counted, as the oracle names it; zeros left out."""
    found: dict[Any, int] = {}
    for name, counts in result.levels.items():
        for cause, n in counts.hits.items():
            found[name, ("hit", cause)] = n
        for cause, n in counts.misses.items():
            found[name, ("miss", cause)] = n
        for field in _FIELDS:
            found[name, field] = getattr(counts, field)
    for cause, n in result.memory_reads.items():
        found["memory", cause] = n
    found["memory", "writes"], found["memory", "through"] = result.memory_writes, result.memory_writes_through
    found["memory", "remote"], found["memory", "walks"] = result.remote_reads, result.walks
    found["memory", "clocks"] = result.access_clocks
    return {key: n for key, n in found.items() if n}
