"""Program traces: formats, packing, bad lines, cut files, any bytes at all; and the commands that take them."""

from __future__ import annotations

import gzip
import json
import lzma
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import offchip
from hw_configs.problems import InputError
from hw_configs.shown import tables_as_text
from workloads.program_trace import (
    PATTERNS,
    Accesses,
    ArrayProgram,
    Copies,
    generate_program,
    open_program,
    readers,
)


def record(ip: int, stores: tuple[int, int] = (0, 0), loads: tuple[int, ...] = (0, 0, 0, 0)) -> bytes:
    """An instruction as ChampSim writes it."""
    return struct.pack("<QBB2B4B2Q4Q", ip, 0, 0, 0, 0, 0, 0, 0, 0, *stores, *loads)


TEXT = {
    "ramulator": b"3 0x40\n0 128 192\n",
    "pin": b"0x400: R 0x40 8\n# note\n\n0x404: W 128 4\n0x408: R 0xc0\n",
    "lackey": b"==12== Lackey\nI  04000,3\n L 40,8\n S 80,4\n M c0,2\n",
    "gem5": b"r,64,8,256,100,1024\nw,128,4,256,200\nu,1,1,0,0\n",
    "champsim": record(0x400, (0x80, 0), (0x40, 0, 0, 0)) + record(0x404),
}
SAID = {
    "ramulator": [(0, 64, 8, 0, 4), (0, 128, 8, 0, 1), (1, 192, 8, 0, 0)],
    "pin": [(0, 64, 8, 0x400, 1), (1, 128, 4, 0x404, 1), (0, 192, 8, 0x408, 1)],
    "lackey": [
        (2, 0x4000, 3, 0x4000, 1),
        (0, 64, 8, 0, 0),
        (1, 128, 4, 0, 0),
        (0, 192, 2, 0, 0),
        (1, 192, 2, 0, 0),
    ],
    "gem5": [(0, 64, 8, 1024, 1), (1, 128, 4, 0, 1)],
    "champsim": [
        (2, 0x400, 4, 0x400, 1),
        (0, 64, 8, 0x400, 0),
        (1, 128, 8, 0x400, 0),
        (2, 0x404, 4, 0x404, 1),
    ],
}


def rows(path: Path, format: str | None = None, size: int = 1000) -> list[tuple[int, ...]]:
    return [
        row[:5]
        for part in open_program(path, format).chunks(size)
        for row in zip(*(x.tolist() for x in part), strict=True)
    ]


@pytest.mark.parametrize("kind", TEXT)
@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".zst"])
def test_every_format_plain_and_packed(tmp_path: Path, kind: str, ending: str) -> None:
    path = tmp_path / f"trace{ending}"
    pack: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
    if ending == ".zst":
        pack[ending] = pytest.importorskip("zstandard").ZstdCompressor().compress
    path.write_bytes(pack[ending](TEXT[kind]))
    assert rows(path) == rows(path, kind, 2) == SAID[kind]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (b"1 2\n1 x\n", 2, "load: 'x' is not a number"),
        (b"1 2\n1 2 3 4\n", 2, "expected bubbles"),
        (b"0x1: R 4 4\n0x1: Q 4 4\n", 2, "direction: 'Q' is neither R nor W"),
        (b"0x1: R 4 4\n0x1: R 4 0\n", 2, "size: found '0'; expected 1"),
        (b" L 40,8\n L 4g,8\n", 2, "address: '0x4g' is not a number"),
        (b" L 40,8\n X 40,8\n", 2, "access: 'X' is none of"),
        (b"r,1,2,3,4\nz,1,2,3,4\n", 2, "command: 'z' is none of"),
        (b"r,1,2,3,4\nr,1,2\n", 2, "expected 'r,ADDRESS"),
        (b"word\n", 1, "the format cannot be told"),
        (b"1 2\n" * 70000 + b"1\n", 70001, "expected bubbles"),
        (b"1 2\n" + b"1" * 5000, 2, "a line has more than 4096"),
        (b"1 18446744073709551616\n", 1, "is outside 0 to"),
    ],
)
def test_a_bad_line_is_named_with_line_and_field(tmp_path: Path, text: bytes, line: int, words: str) -> None:
    path = tmp_path / "t"
    path.write_bytes(text)
    with pytest.raises(InputError) as caught:
        rows(path)
    assert caught.value.problems[0].line == line
    assert words in str(caught.value)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_cut_file_is_an_error(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / ("t.gz" if pack is gzip.compress else "t.xz")
    packed = pack(b"".join(b"%d %d\n" % (n % 7, n * 64) for n in range(5000)))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        rows(path)
    cut = tmp_path / "t.champsim"
    cut.write_bytes(record(1) * 3 + record(2)[:40])
    with pytest.raises(InputError, match="ends inside record 4: 40 of 64 bytes"):
        rows(cut)
    empty = tmp_path / "empty"
    empty.write_bytes(b"# nothing\n")
    with pytest.raises(InputError, match="holds no accesses"):
        rows(empty)


def test_addresses_of_kernels_lose_their_upper_bits(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("0 0xffffffffff600040\n")
    assert rows(path)[0][1] == 0xFFFFFFFFFF600040 & (2**62 - 1)


NUMBERS = st.one_of(
    st.integers(0, 2**64 - 1).map(str), st.integers(0, 2**64 - 1).map(hex), st.integers(0, 5000).map(str),
    st.sampled_from(["0x", "007", "0XfF", "+3", "", "1e3", "99999999999999999999"]),
)  # fmt: skip


@st.composite
def almost_lines(draw: st.DrawFn) -> tuple[str, str]:
    """A format, and lines of it that are mostly right."""
    form = draw(st.sampled_from(("ramulator", "pin", "lackey", "gem5")))
    text = ""
    for _ in range(draw(st.integers(1, 12))):
        gap, n = draw(st.sampled_from((" ", "\t", "  "))), [draw(NUMBERS) for _ in range(5)]
        letter = draw(st.sampled_from("RWrwILSMuLz"))
        size = draw(st.sampled_from(("1", "8", "64", "0", "9999999")))
        if form == "ramulator":
            text += gap.join([draw(st.sampled_from(("0", "3"))), *n[: draw(st.integers(1, 2))]])
        elif form == "pin":
            text += f"{n[0]}:{gap}{letter}{gap}{n[1]}" + draw(st.sampled_from(("", gap + size)))
        elif form == "lackey":
            text += f"{gap}{letter}{gap}{n[0].removeprefix('0x')},{size}"
        else:
            text += ",".join([letter, n[0], size, n[1], n[2], *([n[3]] if draw(st.booleans()) else [])])
        text += draw(st.sampled_from(("\n", "\r\n", " \n", "\n\n# note\n")))
    return form, text


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(drawn=almost_lines(), block=st.integers(8, 90), most=st.sampled_from((1, 3, 8192)))
def test_fast_and_plain_reading_say_the_same(
    drawn: tuple[str, str], block: int, most: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    form, text = drawn
    path = tmp_path_factory.mktemp("t") / "t"
    path.write_bytes(text.encode())
    said: list[Any] = []
    for plain in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(readers, "BLOCK", block)
            patch.setattr(readers, "ROWS", most)
            if plain:
                patch.setattr(readers, "parse_program_lines", lambda text, start, shapes, rows: (start, 0))
            try:
                said.append(rows(path, form))
            except InputError as error:
                said.append(str(error))
    assert said[0] == said[1]


def test_ordinary_lines_are_taken_many_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone: list[bytes] = []
    take = readers._Lines._take
    monkeypatch.setattr(readers._Lines, "_take", lambda self, line: (alone.append(line), take(self, line))[1])
    for form, text in TEXT.items():
        if form != "champsim":
            path = tmp_path / form
            path.write_bytes(text * 50)
            alone.clear()
            assert len(rows(path)) == 50 * len(SAID[form])
            unusual = text.count(b"#") + text.count(b"==") + text.count(b"\n\n")
            assert len(alone) <= 50 * unusual + 1


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    body=st.one_of(
        st.binary(max_size=300),
        st.text(alphabet=" \n:,0123456789abcxRWILSMru#=", max_size=300).map(str.encode),
        st.lists(st.sampled_from(list(TEXT.values())), max_size=4).map(b"".join),
    ),
    form=st.sampled_from((None, *readers.FORMATS)),
    ending=st.sampled_from(("", ".gz", ".xz", ".zst")),
    block=st.sampled_from((64, 128, 1 << 18)),
)  # fmt: skip
def test_any_bytes_are_read_or_refused(
    body: bytes, form: str | None, ending: str, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("t") / f"t{ending}"
    path.write_bytes(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK", block)
        with suppress(InputError):
            for accesses in open_program(path, form).chunks(50):
                ArrayProgram(*(accesses[n] for n in (1, 0, 2, 3, 4, 5)))


@pytest.mark.parametrize("block", [64, 192])
def test_blocks_do_not_show(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"".join(b"0x%x: R 0x%x 8\n" % (n, n * 64) for n in range(200)))
    whole = rows(path)
    monkeypatch.setattr(readers, "BLOCK", block)
    assert rows(path, None, 7) == whole
    path.write_bytes(record(7, (64, 128), (1, 2, 3, 4)) * 20)
    assert len(rows(path)) == 140


@pytest.mark.parametrize(
    "text",
    [
        "matmul:8:2",
        "read:50",
        "copy:30",
        "triad:20",
        "stride:5:128:3",
        "chase:16:40:3",
        "stencil:5:2",
        "random:9:40",
    ],
)
def test_any_stretch_of_a_pattern_is_that_of_the_whole(text: str) -> None:
    program = generate_program(text)
    assert program.count is not None
    whole = [part.tolist() for part in program.accesses(0, program.count)]
    pieces: list[Accesses] = list(program.chunks(7))
    assert [np.concatenate(column).tolist() for column in zip(*pieces, strict=True)] == whole
    assert program.accesses(program.count, 0).kind.size == 0


def test_a_product_reads_and_writes_what_a_product_does() -> None:
    n, tile = 4, 2
    found = next(generate_program(f"matmul:{n}:{tile}").chunks(10**6))
    expected = []
    bases = [4096, 8192, 12288]
    for bi in range(0, n, tile):
        for bj in range(0, n, tile):
            for bk in range(0, n, tile):
                for i in range(bi, bi + tile):
                    for k in range(bk, bk + tile):
                        expected.append((0, bases[0] + (i * n + k) * 8))
                        for j in range(bj, bj + tile):
                            expected.append((0, bases[1] + (k * n + j) * 8))
                            expected += [(kind, bases[2] + (i * n + j) * 8) for kind in (0, 1)]
    assert list(zip(found.kind.tolist(), found.address.tolist(), strict=True)) == expected


@pytest.mark.parametrize(
    "text",
    ["matmul:8", "matmul:8:3", "matmul:0:1", "read:x", "chase:12:5", "stencil:2:1", "random:9:9:9:9", "raed:5",
     "read:" + "9" * 40, "stride:9:281474976710656:1"],
)  # fmt: skip
def test_a_pattern_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        generate_program(text)


def test_copies_stand_apart_unless_they_share() -> None:
    program = generate_program("read:4")
    apart, shared = (next(Copies(program, 2, s).chunks(100)) for s in (False, True))
    assert apart.core.tolist() == [0, 1] * 4
    assert apart.address.tolist() == [4096 + i * 8 + c * 2**44 for i in range(4) for c in range(2)]
    assert shared.address.tolist() == [4096 + i * 8 for i in range(4) for c in range(2)]


def test_the_python_face_runs_files_and_patterns(tmp_path: Path) -> None:
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(TEXT["lackey"]))
    result = offchip.trace_cpu_cache(path, "core-i7-12700k-caches", prefetch=False)
    assert (result.accesses, result.instructions) == (5, 1)
    assert json.loads(json.dumps(result.as_json()))["levels"]["l1d"]["misses"]["load"] == 2
    assert "<table" in result._repr_html_()
    assert "l2_tlb" in tables_as_text(result.shown_tables())
    assert set(PATTERNS) >= {"matmul", "copy", "triad", "chase", "stride", "stencil", "random"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"hw": "a100-80gb"}, "expected kind 'cpu-cache'"),
        ({"page": "large"}, "known: base, huge"),
        ({"nodes": 3}, "cannot be dealt out to 3 nodes"),
        ({"copies": 9}, "runs on 9 cores"),
        ({"copies": 0}, "expected 1 to"),
        ({"outstanding": 0}, "--outstanding: found 0"),
        ({"placement": "first"}, "known: first-touch, interleaved"),
        ({"prefetch": 1}, "--prefetch: found 1"),
        ({"trace": "no/such.file"}, "no such file"),
        ({"trace": "raed:5"}, "did you mean 'read'"),
        ({"format": "champ"}, "did you mean 'champsim'"),
        ({"seed": -1}, "--seed: found -1"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(TEXT["pin"])
    given = {"trace": str(path), "hw": "core-i7-12700k-caches"} | options
    with pytest.raises(InputError, match=told) as caught:
        offchip.trace_cpu_cache(given.pop("trace"), given.pop("hw"), **given)
    assert len(str(caught.value).splitlines()) == 1


def test_memory_behind_caches_serves_what_they_miss(cli: Callable[..., Any]) -> None:
    alone = offchip.trace_cpu_cache("copy:20000", "ryzen-7950x-caches")
    found = offchip.trace_dram("copy:20000", "ddr5-4800b", cache="ryzen-7950x-caches")
    assert found.bytes_moved == alone.memory_bytes
    assert found.writes * found.bytes_moved == alone.memory_writes * 64 * found.requests
    assert found.as_json()["caches"] == alone.as_json()
    assert found.as_json()["cpu_cycles"] >= alone.work_cycles
    outcome = cli(
        "trace", "dram", "copy:20000", "--hw", "ddr5-4800b", "--cache", "ryzen-7950x-caches", "--json"
    )
    assert json.loads(outcome.out) == json.loads(json.dumps(found.as_json()))
    text = cli("trace", "dram", "copy:20000", "--hw", "ddr5-4800b", "--cache", "ryzen-7950x-caches").out
    assert "CPU cycles" in text
    # Instructions between misses hold requests back: the same lines with more work take longer.
    work = offchip.trace_dram("triad:4000", "ddr5-4800b", cache="ryzen-7950x-caches")
    assert work.cycles_accept * work.tick_s >= 0.95 * 3 * 4000 * 2 / 4 / 5e9
    bad = cli("trace", "dram", "copy:20000", "--hw", "ddr5-4800b", "--cache", "ddr5-4800b")
    assert (bad.code, "expected kind 'cpu-cache'" in bad.err) == (2, True)


def test_the_file_of_a_device_says_what_is_wrong(tmp_path: Path, cli: Callable[..., Any]) -> None:
    path = tmp_path / "d.yaml"
    path.write_text(
        "kind: cpu-cache\nname: d\ncores: 2\nclock: 1 GHz\ninstructions_per_clock: 1\noutstanding_misses: 4\n"
        "l1d: {size: 1000 B, ways: 2, latency: 4}\n"
        "l2: {size: 12 KiB, ways: 4, latency: 3, inclusion: inclusive, policy: tree-plru}\n"
        "main_memory: {latency: 1 ns, bandwidth: 1 GB/s}\n"
    )
    outcome = cli("hw", "check", path)
    assert outcome.code == 2
    for told in ("l1d.size", "l2.index", "l2.latency", "main_memory.latency"):
        assert told in outcome.err
    assert "cpu-cache" in cli("hw", "list", "--kind", "cpu-cache").out
    assert (
        "1280 KiB" in cli("hw", "show", "core-i7-12700k-caches").out
        or "1.25 MiB" in cli("hw", "show", "core-i7-12700k-caches").out
    )
