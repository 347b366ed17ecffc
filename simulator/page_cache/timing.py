"""When the reader of a file goes on: touches take time, reads are waited for, what was read ahead may be late."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hw_configs.compiled import compiled
from simulator.page_cache.state import READ, WAIT, WRITE_WAITED

__all__ = ["play_times"]

Ints = npt.NDArray[np.int64]


@compiled
def play_times(kind: npt.NDArray[np.uint8], page: Ints, touch: Ints, took: Ints, touch_ns: int, out: Ints):
    """Go through the events of a run with the latency of each request (ns).

    ``out``: time of the last event, waits for reads, for pages read ahead that were late, for writes (ns), late waits.
    """
    now = last = 0
    request = 0
    ready = np.zeros(took.size, np.int64)
    for n in range(kind.size):
        now += (touch[n] - last) * touch_ns
        last = touch[n]
        what = kind[n]
        if what == WAIT:
            wait = ready[page[n]] - now
            if wait > 0:
                out[2] += wait
                out[4] += 1
                now += wait
            continue
        if what in (READ, WRITE_WAITED):
            now += took[request]
            out[1 if what == READ else 3] += took[request]
        ready[request] = now if what in (READ, WRITE_WAITED) else now + took[request]
        request += 1
    out[0] = now
