"""Runs the tests on changed sources: in a copy of the tree, in a fork for each mutant, only those that reach it.

The first run is of the unchanged tree, with coverage: it must pass, and it says which test reaches which line
and how long each takes. A mutant then meets the tests that reach its line, fastest first, until one fails.
The working tree is never changed.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import FrameType
from typing import NoReturn

from .places import Mutant
from .plugin import TIMES

__all__ = ["Reach", "Verdict", "measure", "scratch_copy", "try_mutant"]

_LEFT_BEHIND = shutil.ignore_patterns(".*", "out", "dist", "build", "*.egg-info")
_ARGUMENTS = ("-q", "-x", "-p", "no:cacheprovider", "-p", "tests.mutants.plugin", "--tb=no", "-m", "not slow",
              "-W", "ignore::pytest.PytestAssertRewriteWarning")  # fmt: skip


@dataclass(frozen=True)
class Reach:
    """Which tests reach a line, by file and line; and what each takes in seconds. ``failed`` are never tried."""

    tests: Mapping[str, Mapping[int, frozenset[str]]]
    imported: Mapping[str, frozenset[int]]
    seconds: Mapping[str, float]
    failed: Sequence[str]

    def of(self, mutant: Mutant, elsewhere: Sequence[str], most_seconds: float) -> list[str]:
        """The tests to try on a mutant: those that reach its statement, then those that reach its file.

        Each group goes fastest first. All tests stand in the first group where the statement runs at import or,
        unseen, in another process, those that reach the file before the rest. The first test is always tried, and
        then as many as take no more than ``most_seconds`` together, of the second group a quarter of that: a value
        that is remembered from one test to the next reaches only the first, and threads and processes hide others.
        """
        lines = range(mutant.statement[0], mutant.statement[1] + 1)
        reached = self.tests.get(mutant.file, {})
        near = _union(reached.get(line, frozenset()) for line in lines)
        around = _union(reached.values())
        everywhere = mutant.file in elsewhere or not self.imported.get(mutant.file, frozenset()).isdisjoint(
            lines
        )
        if near or not everywhere:
            first, second = self._ordered(near), self._ordered(around - near)
        else:
            first, second = [*self._ordered(around), *self._ordered(frozenset(self.seconds) - around)], []
        tried = self._within(first, most_seconds)
        left = most_seconds / 4 - sum(self.seconds.get(test, 0.0) for test in tried)
        return [*tried, *self._within(second, left, at_least=not tried)]

    def _ordered(self, tests: frozenset[str]) -> list[str]:
        return sorted(tests.difference(self.failed), key=lambda test: (self.seconds.get(test, 0.0), test))

    def _within(self, order: Sequence[str], most_seconds: float, *, at_least: bool = True) -> list[str]:
        """As many as take no more than that together; the first in any case where one has to be tried."""
        ends = accumulate(self.seconds.get(test, 0.0) for test in order)
        return [
            test
            for at, (test, end) in enumerate(zip(order, ends, strict=True))
            if end <= most_seconds or (at_least and not at)
        ]


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*sets)


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: ``killed``, ``survived`` or ``timeout``, and how many tests could have met it."""

    mutant: Mutant
    fate: str
    tests: int


@contextmanager
def scratch_copy(tree: Path, place: Path) -> Iterator[Path]:
    """A copy of the tree with the dates of its files, as the current folder and first on the path."""
    copy = place / "tree"
    shutil.copytree(tree, copy, ignore=_LEFT_BEHIND)
    before = Path.cwd()
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = str(copy)
    try:
        yield copy
    finally:
        os.chdir(before)
        sys.path.remove(str(copy))


def _in_fork(work: Callable[[], int], cpu_s: float, wall_s: float) -> int | None:
    """The exit status of a piece of work in a process group of its own; nothing if it ran past its time."""
    child = os.fork()
    if child == 0:
        _work_and_leave(work, cpu_s)
    try:
        status = _end_of(child, time.monotonic() + wall_s)
    finally:
        # Whatever it started ends with it, and it ends with this process.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
        return None
    if os.WIFSIGNALED(status):
        return None if os.WTERMSIG(status) == signal.SIGXCPU else 1
    return os.WEXITSTATUS(status)


def _end_of(child: int, latest: float) -> int | None:
    """The wait status of a child; nothing if it still runs at that time of the monotonic clock."""
    pause = 0.01
    while time.monotonic() < latest:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
    return None


def _work_and_leave(work: Callable[[], int], cpu_s: float) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s) + 1, int(cpu_s) + 3))
        code = work()
    finally:
        os._exit(code)


def _pytest(arguments: Sequence[str], output: Path) -> int:
    import pytest

    sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    return int(pytest.main([*_ARGUMENTS, *arguments]))


def measure(copy: Path, package: str, tests: Sequence[str], skip: Sequence[str]) -> Reach:
    """Run the tests, without those to skip, on the unchanged copy.

    A test that fails there says nothing of a mutant and is named in the answer. Raises ``RuntimeError`` where
    the tests cannot be run at all.
    """
    import coverage

    output, times, data = copy / "first.txt", copy / "times.json", copy / "first.coverage"
    os.environ[TIMES] = str(times)
    os.environ["COVERAGE_FILE"] = str(data)
    covered = [f"--cov={package}", "--cov-context=test", "--cov-report=", "--tb=short", "--maxfail=0"]
    covered += [f"--deselect={test}" for test in skip]
    try:
        code = _in_fork(lambda: _pytest([*covered, *tests], output), 3600.0, 7200.0)
    finally:
        del os.environ[TIMES], os.environ["COVERAGE_FILE"]
    if code not in (0, 1) or not times.exists():
        tail = "\n".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise RuntimeError(f"the tests cannot be run:\n{tail}")
    found = coverage.CoverageData(str(data))
    found.read()
    run = json.loads(times.read_text(encoding="utf-8"))
    reached: dict[str, dict[int, frozenset[str]]] = {}
    imported: dict[str, frozenset[int]] = {}
    for file in found.measured_files():
        lines = found.contexts_by_lineno(file)
        name = Path(file).relative_to(copy).as_posix()
        reached[name] = {
            line: _union(_met_in(context, run["shared"]) for context in contexts if context)
            for line, contexts in lines.items()
        }
        imported[name] = frozenset(line for line, contexts in lines.items() if "" in contexts)
    return Reach(reached, imported, run["seconds"], run["failed"])


def _met_in(context: str, shared: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The tests of a context of coverage: its own, and in a set-up those that share a fixture with it."""
    test, _, part = context.rpartition("|")
    return frozenset((test, *shared.get(test, ()))) if part == "setup" else frozenset((test,))


def try_mutant(
    copy: Path, mutant: Mutant, tests: Sequence[str], seconds: float, slack_s: float = 20.0
) -> Verdict:
    """Write the mutant into the copy, run the tests, put the file back with its date.

    A run has the processor for four times the ``seconds`` of its tests and ``slack_s`` more, and ten times as
    long by the clock.
    """
    if not tests:
        return Verdict(mutant, "survived", 0)
    path = copy / mutant.file
    original, date = path.read_bytes(), path.stat()
    path.write_text(mutant.text, encoding="utf-8")
    sys.dont_write_bytecode = True
    try:
        limit = slack_s + 4 * seconds
        code = _in_fork(lambda: _pytest(tests, copy / "last.txt"), limit, 10 * limit)
    finally:
        path.write_bytes(original)
        os.utime(path, ns=(date.st_atime_ns, date.st_mtime_ns))
        sys.dont_write_bytecode = False
    fate = "timeout" if code is None else "survived" if code == 0 else "killed"
    return Verdict(mutant, fate, len(tests))


def leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End on SIGTERM as on an interrupt, so that the copy is removed."""
    raise KeyboardInterrupt
