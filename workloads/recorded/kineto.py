"""Profiles of PyTorch (Kineto JSON): every kernel, copy and collective on its stream, every host thread beside them.

A file is one rank. Kernels wait for their launch, for the one before them on their stream, and for what their
stream was told to wait for; the host's threads take the time that they took
(:mod:`workloads.recorded.kineto_host`). Several ranks are a folder or a pattern of files, each with its rank in
``distributedInfo``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from hw_configs.problems import InputError, Problem, bad_input
from workloads.graph import Attribute
from workloads.imported import refuse_resizing, uncosted_operators
from workloads.operators import Copy, Custom, Host, Work
from workloads.recorded.graph import recorded_graph, replicated
from workloads.recorded.kineto_file import KinetoEvent, KinetoTrace, begins_profile, read_profile
from workloads.recorded.kineto_host import Launch, Mark, Marks, marks_of
from workloads.recorded.kineto_work import Told, collective_of, told_work
from workloads.recorded.lone_rank import alone
from workloads.recorded.nodes import RankTrace, RecordedNode
from workloads.workload import Phase, Workload, WorkloadOptions

__all__ = ["IMPORTER"]

_ENDINGS: Final = (".json", ".json.gz")


class _Nodes:
    """Makes the nodes of one rank: marks, latencies and kernels, in the order of the record."""

    def __init__(self, trace: KinetoTrace, count: int) -> None:
        self.trace, self.count = trace, count
        self.record: Marks = marks_of(trace)
        self.work = _works(trace)

    def all(self) -> tuple[RecordedNode, ...]:
        devices = sorted({str(e.args["device"]) for e in self.trace.device if "device" in e.args})
        if len(devices) > 1:
            raise bad_input(
                f"holds work of the devices {', '.join(devices)}; expected one device a file",
                file=self.trace.file,
            )
        marks, launches = self.record.marks, self.record.launches
        timed = [(launch.event.start_us, 1, n) for n, launch in enumerate(launches)]
        timed += [(mark.end_us, 0, n) for n, mark in enumerate(marks)]
        nodes: list[RecordedNode] = []
        for _, kernel, n in sorted(timed):
            nodes += self._kernel(n, launches[n]) if kernel else [self._mark(n, marks[n])]
        return tuple(nodes)

    def _mark(self, number: int, mark: Mark) -> RecordedNode:
        waits = [_mark_id(mark.after)] if mark.after >= 0 else []
        waits += [_kernel_id(launch) for launch in mark.awaits]
        return RecordedNode(
            _mark_id(number), mark.name, "host", f"thread {mark.thread}", tuple(waits), Host(), "host",
            measured_s=mark.took_us * 1e-6,
        )  # fmt: skip

    def _kernel(self, number: int, launch: Launch) -> Iterator[RecordedNode]:
        event, stream = launch.event, f"stream {launch.stream}"
        waits = [_mark_id(launch.mark)] if launch.mark >= 0 else []
        waits += [_kernel_id(other) for other in launch.after]
        if launch.latency_us > 0:
            yield RecordedNode(
                _latency_id(number), f"latency of {event.name}", "host", stream, tuple(waits), Host(), "latency",
                measured_s=launch.latency_us * 1e-6,
            )  # fmt: skip
        met = collective_of(event)
        if met is not None:
            group = met.group if len(met.group) == met.size else ()
            if len(group) == self.count:
                group = ()
            yield RecordedNode(
                _kernel_id(number), event.name, "collective", stream, tuple(waits), met.work, "nccl",
                moved_bytes=met.work.bytes, written_bytes=met.work.bytes, measured_s=event.took_us * 1e-6, group=group,
                group_name=met.group_name,
            )  # fmt: skip
            return
        told = self.work.get(event.number("correlation") or -1)
        work: Work = Custom() if told is None else told.work
        yield RecordedNode(
            _kernel_id(number), event.name, "device", stream, tuple(waits), work, event.category,
            "fp32" if told is None else told.dtype, 0 if told is None else told.read_bytes,
            0 if told is None else told.written_bytes, measured_s=event.took_us * 1e-6,
        )  # fmt: skip


def _mark_id(number: int) -> int:
    return 3 * number


def _kernel_id(number: int) -> int:
    return 3 * number + 1


def _latency_id(number: int) -> int:
    return 3 * number + 2


def _works(trace: KinetoTrace) -> dict[int, Told]:
    """The work of kernels by correlation: that of the operator which launched them, for the longest of its kernels."""
    operators = {e.number("External id"): e for e in trace.host if e.category == "cpu_op"}
    longest: dict[int, KinetoEvent] = {}
    found: dict[int, Told] = {}
    for event in trace.device:
        correlation, by = event.number("correlation"), event.number("External id")
        if correlation is None:
            continue
        size = event.number("bytes")
        if event.category != "kernel":
            between = "DtoD" in event.name or event.category == "gpu_memset"
            if between and size is not None and 0 < size < 2**50:
                read = 0 if event.category == "gpu_memset" else size
                found[correlation] = Told(Copy(m=1, n=size), "uint8", read, size)
        elif by is not None and (by not in longest or longest[by].took_us < event.took_us):
            longest[by] = event
    for by, event in longest.items():
        operator = operators.get(by)
        told = None if operator is None else told_work(operator)
        correlation = event.number("correlation")
        if told is not None and correlation is not None:
            found[correlation] = told
    return found


class _KinetoImporter:
    """Reads profiles; see :class:`workloads.importers.Importer`."""

    FORMAT = "a PyTorch profile (Kineto JSON, plain or gzipped)"

    def recognises(self, path: Path, head: bytes) -> bool:
        """By the keys of a profile near its start."""
        return path.name != "config.json" and begins_profile(head)

    def gathers(self, path: Path) -> bool:
        """A folder with profiles alone, or a pattern of them."""
        files = _files_of(path)
        if not files or (path.is_dir() and (path / "config.json").exists()):
            return False
        with files[0].open("rb") as file:
            return begins_profile(file.read(65536))

    def load(self, path: Path, options: WorkloadOptions) -> Workload:
        """The profiles of all ranks as a workload of one phase."""
        refuse_resizing(options, str(path))
        if options.phase is not None:
            raise bad_input("a trace holds what ran; leave this option out", file=str(path), path="--phase")
        files = [path] if path.is_file() else _files_of(path)
        traces = _in_rank_order([read_profile(file) for file in files], str(path))
        count = len(traces) if len(traces) > 1 else max(options.ranks, 1)
        if len(traces) > 1 and options.ranks not in (0, len(traces)):
            raise bad_input(
                f"found {options.ranks}; there are the profiles of {len(traces)} ranks", path="--tp"
            )
        made = [_Nodes(trace, count) for trace in traces]
        ranks = [RankTrace(rank, nodes.trace.file, nodes.all()) for rank, nodes in enumerate(made)]
        notes = [line for nodes in made for line in _told(nodes)]
        if len(traces) == 1 and count > 1:
            notes.append(f"{path}: one rank's profile stands for all {count}")
            ranks = replicated(ranks[0], count)
        elif len(traces) == 1:
            lone, more = alone(ranks[0], options.durations)
            ranks, notes = [lone], [*notes, *more]
        replay = recorded_graph(path.name.partition(".")[0] or "profile", ranks, options.durations)
        metadata: dict[str, Attribute] = {
            "format": "kineto",
            "ranks": count,
            "durations": options.durations,
            "recorded_s": max(nodes.record.end_us - nodes.record.start_us for nodes in made) * 1e-6,
        }
        graph = replay.graph
        return Workload(
            graph.name, [Phase("forward", "forward", graph)], metadata, uncosted_operators(graph),
            notes=(*notes, *replay.notes),
        )  # fmt: skip


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.name.endswith(_ENDINGS) and file.is_file())
    if "*" in path.name and path.name.endswith(_ENDINGS) and path.parent.is_dir():
        return sorted(file for file in path.parent.glob(path.name) if file.is_file())
    return []


def _in_rank_order(traces: Sequence[KinetoTrace], where: str) -> list[KinetoTrace]:
    if len(traces) == 1:
        return list(traces)
    problems = [Problem("names no rank (distributedInfo.rank)", t.file) for t in traces if t.rank is None]
    if not problems:
        by_rank: dict[int, KinetoTrace] = {}
        for trace in traces:
            assert trace.rank is not None
            if trace.rank in by_rank:
                problems.append(
                    Problem(f"is rank {trace.rank}, as {by_rank[trace.rank].file} is", trace.file)
                )
            by_rank[trace.rank] = trace
        missing = [rank for rank in range(len(traces)) if rank not in by_rank]
        if missing and not problems:
            problems.append(
                Problem(f"there is no profile of rank {missing[0]} beside {len(traces)} others", where)
            )
        if not problems:
            return [by_rank[rank] for rank in range(len(traces))]
    raise InputError(problems)


def _told(nodes: _Nodes) -> Iterator[str]:
    recorded = nodes.record.end_us - nodes.record.start_us
    yield f"{nodes.trace.file}: {recorded * 1e-6:.6g} s were recorded, {len(nodes.trace.device)} device events"
    for category, count in sorted(nodes.trace.unknown.items()):
        yield f"{nodes.trace.file}: {count} events of the category {category!r} are not known and left out"


IMPORTER: Final = _KinetoImporter()
