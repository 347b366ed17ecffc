"""Collectives of a GPU library: the cheapest of its protocols and algorithms over given wires.

NCCL carries a message by one of three protocols (NCCL's documentation of ``NCCL_PROTO``): LL sends flags with
every word, LL128 with every 128 bytes, Simple synchronises per chunk. Each has a base latency, a latency per
step and a share of the wire's bandwidth; the library takes the cheapest, and so does this model. Algorithms:
a ring (2(n-1) steps for all-reduce, n-1 for gather and scatter), trees between nodes (2 log2 of the nodes),
and NVLink SHARP where the switch adds (capability 9.0 and later, all-reduce), which sends a buffer once. An
all-to-all and a send post their messages at once and pay one step.

In a box whose GPUs meet over PCIe, ranks beyond a pair talk across the path between two sockets, which all of them
share: an all-to-all sends a quarter of the ranks' bytes each way over it, and a ring crosses it the more often the
more pairs it has (``socket_crossings``).

An inference engine has an all-reduce of its own over NVLink: each rank reads all others' buffers at once and adds (one
shot), or adds its part and reads the others' sums (two shots), with barriers through flags in peers' memory. Its
launch lies in the engine's graph. It takes the place of the library's where it is quicker, and never over PCIe.

Between nodes each node's GPUs share its network ports, up to four of them and not evenly; a step over the network
costs its own latency. An all-to-all between nodes, as dispatch and combine of experts are, has a port per GPU and one
latency. Latencies scale with the GPU generation (fitted); the bandwidth of a wire is an input.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.compiled import compiled

__all__ = ["COLUMNS", "CONSTANTS", "KINDS", "WIRES", "collective_rows"]

Array = NDArray[np.float64]
KINDS: Final = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send")
WIRES: Final = ("peer", "host", "network")
COLUMNS: Final = (
    "kind", "ranks", "bytes", "bandwidth", "wire", "scale", "sharp", "per_node", "eager", "socket", "engine",
)  # fmt: skip
KIND, RANKS, BYTES, BW, WIRE, SCALE, SHARP, PERNODE, EAGER, SOCKET, ENGINE = range(11)
PORTS_AT_MOST: Final = 4.0
CONSTANTS: Final = (
    "base_us", "step_us", "ll_share", "ll128_base_us", "ll128_step_us", "ll128_share", "simple_base_us",
    "simple_step_us", "simple_share", "sharp_base_us", "sharp_share", "exchange_base_us", "exchange_share",
    "host_scale", "host_share", "network_base_us", "network_step_us", "network_share", "ports",
    "eager_skew_us", "send_base_us", "send_share", "send_ll_base_us", "send_ll_share", "send_network_us",
    "exchange_step_us", "pair_share", "socket_crossings", "one_base_us", "one_rank_us", "one_share", "two_base_us",
    "block_us", "box_scale", "box_share", "box_ll_share",
    "exchange_network_us",
)  # fmt: skip
BASE, STEP, LLSHARE, B128, S128, SH128, BSIMPLE, SSIMPLE, SHSIMPLE, BSHARP, SHSHARP, BEX, SHEX, HSCALE, HSHARE, BNET, SNET, SHNET, PORTS, SKEW, BSEND, SHSEND, LLSEND, SHLLSEND, NETSEND, EXSTEP, PAIR, CROSS, ONE, ONERANK, ONESHARE, TWO, BLOCK, BOXSCALE, BOXSHARE, BOXLL, EXNET = range(37)  # fmt: skip  # noqa: E501


@compiled
def collective_rows(rows: Array, constants: Array, out: Array) -> None:
    """Seconds of each row (:data:`COLUMNS`) to ``out``. ``bytes`` is the whole buffer, as NCCL's tests count.

    ``bandwidth`` is bytes per second and direction of one GPU's port, of one network port for ``network``. ``socket``:
    bytes per second and direction between the halves of a PCIe box; 0: its GPUs share nothing. ``engine``: latency of
    the GPU's generation in an engine's own all-reduce, relative to Ampere; 0: the library's runs.
    """
    x = constants
    for r in range(rows.shape[0]):
        f = rows[r]
        kind, n, size, wire = int(f[KIND]), f[RANKS], f[BYTES], int(f[WIRE])
        if n < 2:
            out[r] = 0.0
            continue
        bandwidth, scale = f[BW], f[SCALE]
        steps = n - 1
        moved = size * (n - 1) / n
        if kind == 0:
            steps, moved = 2 * (n - 1), 2 * size * (n - 1) / n
        elif kind == 4:
            moved = size
        elif kind == 5:
            steps, moved = 1.0, size
        share = 1.0
        if wire == 1:
            share = x[HSHARE]
            scale *= x[HSCALE]
            if f[SOCKET] > 0:
                # Latencies in such a box are its host's, whatever the generation of its GPUs.
                share, scale = x[BOXSHARE], x[BOXSCALE]
            if f[SOCKET] > 0 and n > 2:
                # What crosses, over what one rank sends of its own.
                crossings = (n / 4.0) ** x[CROSS] * moved
                if kind == 3:
                    crossings = n / 4.0 * size
                elif kind == 5:
                    crossings = moved
                bandwidth = min(bandwidth, f[SOCKET] * moved / max(crossings, moved * 0.25))
        if wire == 2:
            nodes = np.ceil(n / f[PERNODE])
            ports = min(f[PERNODE], PORTS_AT_MOST) ** x[PORTS] if kind != 5 else 1.0
            rate = bandwidth * x[SHNET] * ports
            hops = 1.0 if kind == 5 else 2 * np.ceil(np.log2(nodes)) if kind == 0 else nodes - 1
            base = scale * x[NETSEND] if kind == 5 else x[BNET] + x[SNET] * (hops + 0.2 * steps)
            if kind == 3:
                # Every GPU sends through a port of its own what is meant for other nodes, all at once.
                base, rate = x[EXNET], bandwidth * x[SHNET]
                moved = size * (n - (f[PERNODE] if n > f[PERNODE] else 1.0)) / n
            out[r] = base * 1e-6 + moved / rate
            continue
        rate = bandwidth * share
        # Two ranks in one direction do not fill the ports that a ring of more does.
        pair = x[PAIR] if n == 2 and wire == 0 and 1 <= kind <= 3 else 1.0
        # LL128 rests on stores that PCIe does not keep whole, and a flag beside every word takes half of LL's bytes.
        low, boxed = x[LLSHARE], wire == 1 and f[SOCKET] > 0
        if boxed:
            low = x[BOXLL]
        best = 1e30
        if kind == 5:
            quick = scale * x[LLSEND] * 1e-6 + moved / (rate * x[SHLLSEND])
            best = min(quick, scale * x[BSEND] * 1e-6 + moved / (rate * x[SHSEND]))
        elif kind == 3:
            spread = x[EXSTEP] * np.log2(n)
            quick = scale * (x[BEX] + spread) * 1e-6 + moved / (rate * low)
            simple = scale * (x[BSIMPLE] + x[SSIMPLE]) * 1e-6 + moved / (rate * x[SHEX] * pair)
            middle = scale * (x[B128] + x[S128]) * 1e-6 + moved / (rate * x[SH128])
            best = min(quick, simple if boxed else min(simple, middle))
        else:
            quick = scale * (x[BASE] + x[STEP] * steps) * 1e-6 + moved / (rate * low)
            middle = scale * (x[B128] + x[S128] * steps) * 1e-6 + moved / (rate * x[SH128])
            simple = scale * (x[BSIMPLE] + x[SSIMPLE] * steps) * 1e-6 + moved / (rate * x[SHSIMPLE] * pair)
            best = min(quick, simple if boxed else min(middle, simple))
            if kind == 0 and f[SHARP] > 0 and n >= 4:
                best = min(best, scale * x[BSHARP] * 1e-6 + size / (rate * x[SHSHARP]))
        if f[EAGER] > 0 and n > 2:
            best += x[SKEW] * 1e-6
        if kind == 0 and f[ENGINE] > 0 and wire == 0:
            # More bytes take more thread blocks, whose barriers take longer.
            blocks = x[BLOCK] * np.log2(1.0 + size * (n - 1) / 4096.0)
            base = f[ENGINE] * (x[ONE] + x[ONERANK] * (n - 2) + blocks) * 1e-6
            best = min(best, base + size * (n - 1) / (rate * x[ONESHARE]))
            best = min(best, base + f[ENGINE] * x[TWO] * 1e-6 + moved / (rate * x[ONESHARE]))
        out[r] = max(best, moved / bandwidth * (1.0 if not (kind == 0 and f[SHARP] > 0) else 0.5))
