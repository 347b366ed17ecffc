"""The JSON files of the PyTorch profiler (Kineto), plain or gzipped, read event by event.

A file is an object with ``traceEvents`` (or that list alone) in Chrome's trace-event form: complete events
(``ph`` is X) with ``ts`` and ``dur`` in microseconds. Events are decoded one at a time from a window of the
text, so that a file of hundreds of megabytes takes memory for what is kept of it alone.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from hw_configs.problems import InputError, bad_input

__all__ = ["DEVICE_EVENTS", "HOST_EVENTS", "KinetoEvent", "KinetoTrace", "begins_profile", "read_profile"]

MAX_EVENTS: Final = 20_000_000
MAX_TEXT_BYTES: Final = 8 * 2**30
"""Of the unpacked text: a gzipped file may unpack to anything."""
MAX_VALUE_CHARACTERS: Final = 64 * 2**20
"""Of one event, or of one value beside the events."""
_WINDOW: Final = 1 << 20
HEAD_BYTES: Final = 64 * 1024

DEVICE_EVENTS: Final = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
HOST_EVENTS: Final = frozenset({"cuda_runtime", "cuda_driver", "cpu_op"})
_SYNC: Final = "cuda_sync"
_WITHOUT_EFFECT: Final = frozenset({
    "user_annotation", "gpu_user_annotation", "python_function", "overhead", "Trace", "fwdbwd", "ac2g",
    "async_cpu_to_gpu", "cpu_instant_event", "external_correlation", "collective_comm",
    "cuda_profiler_range", "Operator",
})  # fmt: skip
"""Categories that describe what others hold: scopes, arrows, instants."""
_BEGIN: Final = re.compile(r'"(?:traceEvents|schemaVersion|deviceProperties|distributedInfo)"')


@dataclass(frozen=True, slots=True)
class KinetoEvent:
    """A complete event: its category, the thread or stream it stands on, when it began and how long it took."""

    name: str
    category: str
    lane: tuple[str, str]
    start_us: float
    took_us: float
    args: Mapping[str, Any]

    @property
    def end_us(self) -> float:
        """When it ended."""
        return self.start_us + self.took_us

    def number(self, key: str) -> int | None:
        """An argument that is a whole number."""
        value = self.args.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(slots=True)
class KinetoTrace:
    """What one file holds of one rank. ``unknown`` counts categories that Offchip does not know."""

    file: str
    rank: int | None = None
    ranks: int = 0
    host: list[KinetoEvent] = field(default_factory=list)
    device: list[KinetoEvent] = field(default_factory=list)
    sync: list[KinetoEvent] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)


def begins_profile(head: bytes) -> bool:
    """Whether a file's first bytes are those of a profile, gzipped or not."""
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
        except zlib.error:
            return False
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    if text.startswith("["):
        return re.match(r'\[\s*\{[^{}]*"ph"\s*:', text) is not None
    return text.startswith("{") and _BEGIN.search(text) is not None and '"traceEvents"' in text


def read_profile(path: Path) -> KinetoTrace:
    """The events of a file; ``InputError`` for one that is damaged, too large or without events."""
    trace = KinetoTrace(str(path))
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream: BinaryIO = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
            for key, value in _Window(io.TextIOWrapper(stream, "utf-8-sig", "replace"), str(path)).members():
                if key == "traceEvents":
                    _take(trace, value)
                elif key == "distributedInfo":
                    _take_rank(trace, value)
    except (OSError, EOFError, zlib.error) as error:
        raise bad_input(f"cannot be read: {error}", file=str(path)) from None
    except RecursionError:
        raise bad_input("is nested too deep", file=str(path)) from None
    if not trace.host and not trace.device:
        raise bad_input("the profile holds no event of a host or a device", file=str(path))
    return trace


def _take(trace: KinetoTrace, event: Any) -> None:
    if not isinstance(event, dict) or event.get("ph") != "X":
        return
    category = str(event.get("cat", ""))
    if category in _WITHOUT_EFFECT:
        return
    lists = (
        {_SYNC: trace.sync}
        | dict.fromkeys(HOST_EVENTS, trace.host)
        | dict.fromkeys(DEVICE_EVENTS, trace.device)
    )
    kept = lists.get(category)
    if kept is None:
        trace.unknown[category] = trace.unknown.get(category, 0) + 1
        return
    began, took = event.get("ts"), event.get("dur", 0)
    name = str(event.get("name", ""))
    for key, value in (("ts", began), ("dur", took)):
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e18:
            message = f"{key}: found {value!r:.40}; expected microseconds, 0 or more"
            raise bad_input(message, file=trace.file, path=name[:60] or category)
    args = event.get("args")
    kept.append(
        KinetoEvent(
            name, category, (str(event.get("pid", "")), str(event.get("tid", ""))), float(began or 0), float(took),
            args if isinstance(args, dict) else {},
        )
    )  # fmt: skip
    if len(trace.host) + len(trace.device) > MAX_EVENTS:
        raise bad_input(f"more than {MAX_EVENTS} events", file=trace.file)


def _take_rank(trace: KinetoTrace, info: Any) -> None:
    if not isinstance(info, dict):
        return
    for key in ("rank", "world_size"):
        value = info.get(key)
        if value is not None and (
            not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**20
        ):
            message = f"found {value!r:.40}; expected a number of ranks"
            raise bad_input(message, file=trace.file, path=f"distributedInfo.{key}")
    trace.rank = info.get("rank")
    trace.ranks = info.get("world_size") or 0


class _Window:
    """A moving window over the text of a JSON file; gives members of its object, those of ``traceEvents`` singly."""

    def __init__(self, stream: io.TextIOBase, file: str) -> None:
        self.stream, self.file = stream, file
        self.text, self.at, self.passed = "", 0, 0
        self.over = False
        self.decode = json.JSONDecoder().raw_decode

    def members(self) -> Iterator[tuple[str, Any]]:
        """Keys and values of the object; the key ``traceEvents`` once for each of its events."""
        first = self._peek()
        if first == "[":
            yield from (("traceEvents", event) for event in self._items())
        elif first == "{":
            yield from self._object()
        else:
            raise self._broken("expected an object or a list of events")
        if self._peek():
            raise self._broken("expected the end of the file")

    def _object(self) -> Iterator[tuple[str, Any]]:
        self.at += 1
        while self._peek() != "}":
            key = self._value()
            if not isinstance(key, str) or self._peek() != ":":
                raise self._broken("expected a key and a colon")
            self.at += 1
            if key == "traceEvents" and self._peek() == "[":
                yield from ((key, event) for event in self._items())
            else:
                yield key, self._value()
            self._comma("}")
        self.at += 1

    def _items(self) -> Iterator[Any]:
        self.at += 1
        while self._peek() != "]":
            yield self._value()
            self._comma("]")
        self.at += 1

    def _comma(self, close: str) -> None:
        if self._peek() == ",":
            self.at += 1
        elif self._peek() != close:
            raise self._broken(f"expected a comma or {close!r}")

    def _peek(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in " \t\r\n":
                    return self.text[self.at]
                self.at += 1
            if not self._more():
                return ""

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except ValueError as error:
                if len(self.text) - self.at > MAX_VALUE_CHARACTERS:
                    raise self._broken("a value is too long") from None
                if not self._more():
                    raise self._broken(str(error).partition(":")[0].lower()) from None
                continue
            # A number at the window's end may go on in the next one.
            if end < len(self.text) or not self._more():
                self.at = end
                return value

    def _more(self) -> bool:
        if self.over:
            return False
        piece = self.stream.read(_WINDOW)
        self.over = not piece
        self.passed += len(self.text[: self.at])
        self.text = self.text[self.at :] + piece
        self.at = 0
        if self.passed + len(self.text) > MAX_TEXT_BYTES:
            raise bad_input(f"unpacks to more than {MAX_TEXT_BYTES} characters", file=self.file)
        return bool(piece)

    def _broken(self, why: str) -> InputError:
        return bad_input(f"is no whole JSON at character {self.passed + self.at}: {why}", file=self.file)
