"""A Dask cluster as the executor of a sweep: portions of points go out, rows come back.

``local`` starts a cluster on this machine; any other address is a scheduler that runs already (one that
dask-jobqueue started under SLURM, for instance). On every Dask worker the points run in a child process
(``pool.py``), so time limits and deaths are handled there as on one machine. When a Dask worker is lost, its
portions are run again elsewhere; the table is the same.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hw_configs.problems import OffchipError, bad_input
from offchip.sweep.keys import code_digest
from offchip.sweep.points import Point
from offchip.sweep.space import Space
from offchip.sweep.space_file import space_from_text
from offchip.sweep.store import Row
from offchip.sweep.worker import row_from, row_line

if TYPE_CHECKING:
    from offchip.sweep.pool import Pool

__all__ = ["DaskCluster", "run_portion"]

PORTIONS_PER_WORKER: Final = 3
FIRST_PORTION: Final = 4
MAX_PORTION: Final = 256
PORTION_S: Final = 1.0
CONNECT_S: Final = 30

_pools = threading.local()


def run_portion(start: dict[str, Any], stage: int, points: list[Point]) -> list[list[Any]]:
    """Evaluate points in the child process of this thread; called on Dask workers."""
    if start["code"] != code_digest():
        raise OffchipError(
            "a worker of the cluster runs another version of Offchip, of a library or of a plug-in; "
            "install the same everywhere"
        )
    known: tuple[dict[str, Any], Pool] | None = getattr(_pools, "pool", None)
    if known is None or known[0] != start:
        from offchip.sweep.pool import Pool

        if known is not None:
            known[1].close()
        space = space_from_text(start["text"], start["file"])
        cache = Path(start["cache"]) if start["cache"] else None
        known = _pools.pool = (start, Pool(space, 1, cache, start["code"]))
    return [row_line(row) for rows in known[1].run(stage, points) for row in rows]


class DaskCluster:
    """Runs points on a cluster; see the module's first lines. ``jobs`` is the size of a ``local`` one."""

    def __init__(self, space: Space, address: str, jobs: int, cache: Path | None) -> None:
        try:
            import dask
            import distributed
        except ImportError:
            raise bad_input("a cluster needs Dask: pip install 'offchip[sweep]'", path="--cluster") from None
        self.space = space
        self.start = {
            "text": space.text, "file": str(Path(space.file).resolve()), "code": code_digest(),
            "cache": str(cache.resolve()) if cache is not None else None,
        }  # fmt: skip
        self.local: Any = None
        # Untyped library: what comes from it is Any here.
        client: Any = distributed.Client
        # Losing workers is a cluster's way of life; a portion is given up only after many losses.
        dask.config.set({"distributed.scheduler.allowed-failures": 20})
        try:
            if address == "local":
                local: Any = distributed.LocalCluster
                self.local = local(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
                self.client: Any = client(self.local)
            else:
                self.client = client(address, timeout=CONNECT_S)
        except (OSError, ValueError, TimeoutError) as error:
            raise bad_input(f"no scheduler answers at {address!r}: {error}", path="--cluster") from None

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        self.client.close()
        if self.local is not None:
            self.local.close()

    def run(self, stage: int, points: Iterable[Point]) -> Iterator[list[Row]]:
        """Rows of the points, as portions are done."""
        import distributed

        source, size = iter(points), FIRST_PORTION
        as_completed: Any = distributed.as_completed
        results = as_completed([], raise_errors=False)
        flying = 0

        def send() -> int:
            portion = list(itertools.islice(source, size))
            if not portion:
                return 0
            results.add(self.client.submit(run_portion, self.start, stage, portion, pure=False))
            return 1

        workers = max(len(self.client.scheduler_info()["workers"]), 1)
        for _ in range(PORTIONS_PER_WORKER * workers):
            flying += send()
        while flying:
            future = next(results)
            flying -= 1
            if future.status != "finished":
                raise OffchipError(f"the cluster gave up: {future.exception()}; '--resume' goes on from here")
            rows = [row_from(line) for line in future.result()]
            seconds = sum(row.seconds for row in rows) / max(len(rows), 1)
            size = max(1, min(int(PORTION_S / max(seconds, 1e-6)), MAX_PORTION, 2 * size))
            workers = max(len(self.client.scheduler_info()["workers"]), 1)
            while flying < PORTIONS_PER_WORKER * workers and send():
                flying += 1
            yield rows
