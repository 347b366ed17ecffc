"""What a CPU is beside its peak rates: instruction set, chiplets, and sockets that work as one.

A file states one socket. A system may say that its threads are fewer than its cores, or that two sockets work on every
operator together (``sockets: 2``): then everything that a socket has is there twice, and ``placement`` says in whose
memory the bytes lie.
"""

from __future__ import annotations

from typing import Any, Literal

from hw_configs.config import Bandwidth, Config, Count

__all__ = ["Dies", "InstructionSet", "Placement", "processor_settings"]

InstructionSet = Literal["avx2", "avx-vnni", "avx512", "avx512-vnni", "amx", "neon", "sve", "apple"]
"""avx-vnni: AVX2 with 8-bit dot products; amx: tiles beside avx512-vnni; sve: Neoverse V1 and V2; apple: NEON of wide
cores beside a matrix coprocessor."""
Placement = Literal["interleaved", "local", "one-socket"]
"""Where bytes lie that several sockets read: pages by turns, each socket's share in its own memory, or all in one."""


class Dies(Config):
    """Chiplets (or clusters of cores) that each reach the memory controllers by a path of their own."""

    count: Count
    bandwidth: Bandwidth
    """Of the path of one, reading."""


def processor_settings(
    data: dict[str, Any], sockets: int, placement: Placement, threads: int | None
) -> dict[str, Any]:
    """The SI fields of a CPU whose sockets work as one, from those of one socket.

    Cores, rates, last-level cache, chiplets, power, price and area are there once per socket; ``ValueError`` where the
    file states no link between sockets, or the threads are more than two per core.
    """
    if sockets > 1 and data.get("socket_link") is None:
        raise ValueError(f"{data['name']} states no 'socket_link', by which sockets would work as one")
    if threads is not None and threads > 2 * data["cores"] * sockets:
        raise ValueError(f"{threads} threads are more than two on each of {data['cores'] * sockets} cores")
    made = {**data, "sockets": sockets, "placement": placement}
    if threads is not None:
        made["threads"] = threads
    if sockets == 1:
        return made
    made["name"] = f"{sockets} x {data['name']}"
    made["cores"] = data["cores"] * sockets
    compute = dict(data["compute"])
    for part in ("matrix", "vector"):
        compute[part] = {dtype: rate * sockets for dtype, rate in compute[part].items()}
    if compute.get("arithmetic_power") is not None:
        compute["arithmetic_power"] *= sockets
    made["compute"] = compute
    for part, figures in (
        ("last_level_cache", ("size", "bandwidth")),
        ("dies", ("count",)),
        ("power", ("idle", "tdp")),
    ):
        if data.get(part) is not None:
            made[part] = {k: v * sockets if k in figures and v else v for k, v in data[part].items()}
    for figure in ("price", "area"):
        if data.get(figure) is not None:
            made[figure] = data[figure] * sockets
    return made
