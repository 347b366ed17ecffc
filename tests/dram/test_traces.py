"""Trace files and synthetic traces: formats, packing, bad lines, bounded memory, the generator's rule."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from offchip.validation.dram import geometry_from_reference
from workloads.memory_trace import PATTERNS, ArrayTrace, Geometry, generate, open_trace, readers

FOLDER = Path(__file__).parent.parent / "reference" / "dram"
GEOMETRY = Geometry(64, 128, 1, 4, 4, 65536)
BODY = {
    "loadstore": "LD 0x40\nST 128\n# note\n\nLD 0xC0\n",
    "readwrite": "R 0x40\nW 128\nR 192\n",
    "dramsim3": "0x40 READ 0\n0x80 WRITE 5\n0xC0 READ 9\n",
    "csv": "address,type,cycle\n0x40,R,0\n128,W,5\n192,READ,9\n",
}


@pytest.mark.parametrize("kind", BODY)
@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_every_format_plain_and_packed(tmp_path: Path, kind: str, ending: str) -> None:
    path = tmp_path / f"trace{ending}"
    if ending == ".gz":
        path.write_bytes(gzip.compress(BODY[kind].encode()))
    elif ending == ".zst":
        zstandard = pytest.importorskip("zstandard")
        path.write_bytes(zstandard.ZstdCompressor().compress(BODY[kind].encode()))
    else:
        path.write_text(BODY[kind])
    chunks = list(open_trace(path).chunks(2))
    assert [c.address.tolist() for c in chunks] == [[64, 128], [192]]
    assert [c.write.tolist() for c in chunks] == [[0, 1], [0]]
    arrivals = np.concatenate([c.arrival for c in chunks]).tolist()
    assert arrivals == ([0, 5, 9] if kind in ("dramsim3", "csv") else [])


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("LD 0x40\nLD zebra\n", 2, "'zebra' is not a number: found 'LD zebra'"),
        ("LD 0x40\nXX 0x40\n", 2, "'XX' is neither a read nor a write"),
        ("0x40 READ 1\n0x40 READ\n", 2, "expected an address, a command and a cycle"),
        ("address,when\n1,2\n", 1, "expected a header of address"),
        ("LD -5\n", 1, "'-5' is outside 0 to 2^63"),
        ("one\n", 1, "the format cannot be told"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_text(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    path = tmp_path / "t.txt"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        list(open_trace(path).chunks(100))
    assert caught.value.problems[0].line == line
    assert words in str(caught.value)


ADDRESSES = st.one_of(
    st.integers(0, 2**63 - 1).map(str),
    st.integers(0, 2**63 - 1).map(hex),
    st.integers(0, 2**40).map(lambda n: f"0x{n:X}"),
    st.sampled_from(["0", "007", "+64", "0X40", "0xfedcba98", "99999999999999999", "123456789012345678"]),
)
DIRECTIONS = {
    0: ["LD", "rd", "Read", "P_MEM_RD", "0", "false"],
    1: ["ST", "wr", "Write", "P_MEM_WR", "1", "True"],
}


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, list[tuple[int, int, int]]]:
    """The text of a trace in some format, with what it says."""
    kind = draw(st.sampled_from(("loadstore", "dramsim3", "csv")))
    text = "address, type,cycle\n" if kind == "csv" else ""
    said = []
    for _ in range(draw(st.integers(1, 30))):
        word, write = draw(ADDRESSES), draw(st.integers(0, 1))
        name, cycle = draw(st.sampled_from(DIRECTIONS[write])), draw(st.integers(0, 10**12))
        gap = draw(st.sampled_from([" ", "  ", "\t", " \t "]))
        ending = draw(st.sampled_from(["\n", "\r\n", " \n", "\n# a note\n", "\n\n"]))
        cells = [name, word] if kind == "loadstore" else [word, name, str(cycle)]
        text += gap.join(cells) if kind != "csv" else ",".join(cells) if gap == " " else " , ".join(cells)
        text += ending
        said.append((int(word, 16) if word[:2].lower() == "0x" else int(word), write, cycle))
    return text[: len(text.rstrip())] if draw(st.booleans()) else text, said


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(drawn=lines(), size=st.integers(1, 12), block=st.integers(1, 200))
def test_fast_and_plain_reading_say_what_the_lines_say(
    drawn: tuple[str, list[tuple[int, int, int]]],
    size: int,
    block: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    text, said = drawn
    path = tmp_path_factory.mktemp("trace") / "t"
    path.write_bytes(text.encode())
    form = (
        "csv"
        if text.startswith("address")
        else "dramsim3"
        if len(text.split("\n")[0].split()) == 3
        else "loadstore"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK", block)
        chunks = list(open_trace(path, form).chunks(size))
    assert np.concatenate([c.address for c in chunks]).tolist() == [one for one, _, _ in said]
    assert np.concatenate([c.write for c in chunks]).tolist() == [write for _, write, _ in said]
    if form != "loadstore":
        assert np.concatenate([c.arrival for c in chunks]).tolist() == [cycle for _, _, cycle in said]
    assert all(c.address.size == size for c in chunks[:-1])


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ("LD 1\n" * 5000 + "LD 0x\n" + "LD 1\n" * 10, 5001, "'0x' is not a number: found 'LD 0x'"),
        ("LD 1\n" * 5000 + "LD 9223372036854775808\n", 5001, "is outside 0 to 2^63"),
        ("LD 1\n" * 5000 + "LD 1 2\n", 5001, "expected a command and an address: found 'LD 1 2'"),
        ("LD 1\n" * 3 + "LD " + "1" * 5000 + "\n", 4, "more than 4096 characters"),
        ("LD 1\n" * 3 + "x" * 10**6, 4, "more than 4096 characters"),
    ],
)
def test_a_bad_line_far_into_a_file_is_named_too(tmp_path: Path, body: str, line: int, words: str) -> None:
    path = tmp_path / "t"
    path.write_text(body)
    with pytest.raises(InputError) as caught:
        list(open_trace(path).chunks(700))
    assert caught.value.problems[0].line == line
    assert words in str(caught.value)


def test_missing_and_empty_files_and_unknown_formats(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_trace(tmp_path / "none")
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(InputError, match="holds no requests"):
        list(open_trace(tmp_path / "empty").chunks(5))
    with pytest.raises(InputError, match="did you mean 'loadstore'"):
        open_trace(tmp_path / "empty", "loadstor")
    zstandard = pytest.importorskip("zstandard")
    frames = [zstandard.ZstdCompressor().compress(b"LD 0x%x\n" % n) for n in (64, 128)]
    (tmp_path / "two.zst").write_bytes(b"".join(frames))
    assert [len(found.address) for found in open_trace(tmp_path / "two.zst").chunks(5)] == [2]
    (tmp_path / "cut.zst").write_bytes(b"".join(frames)[:-3])
    with pytest.raises(InputError, match="ended before"):
        list(open_trace(tmp_path / "cut.zst").chunks(5))
    (tmp_path / "twice.csv").write_text("address,address\n1,2\n")
    with pytest.raises(InputError, match="expected a header"):
        list(open_trace(tmp_path / "twice.csv").chunks(5))
    (tmp_path / "bad.gz").write_bytes(b"not gzip at all")
    with pytest.raises(InputError, match="cannot be read"):
        list(open_trace(tmp_path / "bad.gz").chunks(5))


def test_reading_needs_memory_for_one_chunk_only(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("".join(f"LD {64 * i}\n" for i in range(200_000)))
    tracemalloc.start()
    total = sum(chunk.address.size for chunk in open_trace(path).chunks(4096))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == 200_000
    assert peak < 2 * 2**20


def test_generator_makes_the_reference_traces() -> None:
    configs = json.loads((FOLDER / "configs.json").read_text())
    with (FOLDER / "expected.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        geometry = geometry_from_reference(configs[row["config"]])
        trace = generate(row["trace"], int(row["n_requests"]), int(row["seed"]), geometry)
        digest = hashlib.sha256()
        for part in trace.chunks(7777):
            word = (part.address.astype(np.uint64) << np.uint64(1)) | part.write.astype(np.uint64)
            digest.update(word.astype("<u8").tobytes())
        assert digest.hexdigest() == row["trace_sha256"], row["id"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_any_stretch_is_the_same_as_in_the_whole(pattern: str) -> None:
    trace = generate(pattern, 5000, 9, GEOMETRY)
    (whole,) = trace.chunks(5000)
    part = trace.requests(1234, 777)
    assert np.array_equal(whole.address[1234:2011], part.address)
    assert np.array_equal(whole.write[1234:2011], part.write)
    assert int(whole.address.max()) < GEOMETRY.transactions * 64


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_stated_period_holds(pattern: str) -> None:
    trace = generate(pattern, 10, 9, GEOMETRY)
    if trace.period is None:
        return
    p, shift = trace.period.requests, trace.period.shift_bytes
    first, later = trace.requests(0, 4000), trace.requests(p, 4000)
    assert np.array_equal((first.address + shift) % (GEOMETRY.transactions * 64), later.address)
    assert np.array_equal(first.write, later.write)


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="did you mean 'seq_read'"):
        generate("seq_rea", 5, 1, GEOMETRY)
    with pytest.raises(InputError, match="expected 1 or more"):
        generate("seq_read", 0, 1, GEOMETRY)
    with pytest.raises(InputError, match="power of two"):
        Geometry(60, 100, 1, 4, 4, 10)
    with pytest.raises(InputError, match="different lengths"):
        ArrayTrace(np.zeros(3, np.int64), np.zeros(2, np.uint8))
