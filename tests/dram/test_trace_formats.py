"""Traces of other simulators, requests of any size, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import offchip
from hw_configs.problems import InputError
from workloads.memory_trace import ArrayTrace, Requests, SplitTrace, open_trace

SAID = {
    "ramulator1": ("0x12345680 R\n0x4cbd56c0 W\n0x40 R\n", [0x12345680, 0x4CBD56C0, 64], [0, 1, 0], []),
    "ramulator1-cpu": (
        "3 20734016\n1 20846400\n0 20734400 20841280\n",
        [20734016, 20846400, 20734400, 20841280],
        [0, 0, 0, 1],
        [3, 5, 6, 6],
    ),
    "dramsys": (
        "0:\tWrite\t0x818\n1:\twrite\t0x810 0xffee\n8:\tRead\t0xe68\n",
        [0x818, 0x810, 0xE68],
        [1, 1, 0],
        [0, 1, 8],
    ),
    "gem5": ("r,4096,64,256,2000\n7,w,64,32,0,4000\nr,128,4,6000\n", [4096, 64, 128], [0, 1, 0], [2, 4, 6]),
    "csv": ("address,write,size\n0,0,64\n64,1,128\n0x80,W,4\n", [0, 64, 128], [0, 1, 1], []),
}
SIZES = {"gem5": [64, 32, 4], "csv": [64, 128, 4]}


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("named", [False, True])
def test_a_format_says_what_its_simulator_means(tmp_path: Path, kind: str, size: int, named: bool) -> None:
    text, address, write, arrival = SAID[kind]
    (tmp_path / "t").write_text("# a note\n\n" + text)
    chunks = list(open_trace(tmp_path / "t", kind if named else None, 1e-9).chunks(size))
    assert np.concatenate([c.address for c in chunks]).tolist() == address
    assert np.concatenate([c.write for c in chunks]).tolist() == write
    assert np.concatenate([c.arrival for c in chunks]).tolist() == arrival
    assert np.concatenate([c.size for c in chunks]).tolist() == SIZES.get(kind, [])
    assert all(c.address.size == size for c in chunks[:-1])


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("LD 1_000\n", 1, "'1_000' is not a number"),
        ("LD \u0661\u0662\n", 1, "is not a number"),
        ("LD 64\nLD \u00b2\n", 2, "is not a number"),
        ("0x40 READ 9223372036854775000\n", 1, "cycle 9223372036854775000 is beyond"),
        ("0x40 READ 0x7fffffffffffffff\n", 1, "is beyond"),
        ("address,cycle\n1,100000000000000001\n", 2, "is beyond"),
        ("5: read 0x40 0x1\n", 1, "'0x1' is no data of a write"),
        ("99999999999999999999: read 0x40\n", 1, "is outside 0 to 2^63"),
        ("0 64\n0\n", 2, "expected instructions before"),
        ("100000000000000000 64\n1 64\n", 2, "the instructions up to here are beyond"),
        ("u,64,64,0,5\n", 1, "neither ReadReq nor WriteReq"),
        ("address,size\n64,0\n", 2, "a size of 0 bytes is outside"),
        ("address,size\n64,1048577\n", 2, "outside 1 to 1,048,576"),
        ("address,type,write\n1,R,0\n", 1, "expected a header"),
    ],
)
def test_what_no_trace_says_is_named(tmp_path: Path, text: str, line: int, words: str) -> None:
    (tmp_path / "t").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        list(open_trace(tmp_path / "t").chunks(100))
    assert caught.value.problems[0].line == line
    assert words in str(caught.value)


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"])
def test_a_byte_order_mark_is_refused_in_one_line(cli, tmp_path: Path, mark: bytes) -> None:
    (tmp_path / "t").write_bytes(mark + b"LD 0x1000\n")
    outcome = cli("trace", "dram", tmp_path / "t", "--hw", "ddr4-2400r")
    assert outcome.code == 2
    assert "byte order mark" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


# ---- requests and bursts


def bursts_plainly(requests: list[tuple[int, int]], transaction: int, line: int) -> list[int]:
    """Addresses of the bursts: every transaction that holds a byte of the request, from its first on."""
    found = []
    for address, size in requests:
        first = address // max(line, transaction) * max(line, transaction) if size == 0 else address
        last = first + (max(line, transaction) if size == 0 else size) - 1
        found += sorted({byte // transaction * transaction for byte in range(first, last + 1)})
    return found


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    requests=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 300)), min_size=1, max_size=20),
    sized=st.booleans(),
    transaction=st.sampled_from((32, 64)),
    line=st.sampled_from((16, 32, 64, 128)),
    chunk=st.integers(1, 9),
)
def test_bursts_are_those_that_hold_the_bytes(
    requests: list[tuple[int, int]], sized: bool, transaction: int, line: int, chunk: int
) -> None:
    address = np.array([a for a, _ in requests], np.int64)
    write = (np.arange(address.size) % 2).astype(np.uint8)
    sizes = np.array([n for _, n in requests], np.int64)

    class Sized(ArrayTrace):
        def chunks(self, size: int):  # type: ignore[no-untyped-def]
            for start in range(0, address.size, size):
                part = slice(start, start + size)
                none = np.zeros(0, np.int64)
                yield Requests(address[part], write[part], none, sizes[part] if sized else none)

    split = SplitTrace(Sized(address, write), transaction, line)
    found = list(split.chunks(chunk))
    wanted = bursts_plainly([(a, n if sized else 0) for a, n in requests], transaction, line)
    got = np.concatenate([c.address for c in found]) // transaction * transaction
    assert got.tolist() == wanted
    assert split.taken == len(requests)


@pytest.mark.parametrize(("device", "bursts"), [("hbm3-6400", 2), ("lpddr5-6400", 2), ("ddr4-2400r", 1)])
def test_a_line_of_a_cache_moves_64_bytes_on_every_device(tmp_path: Path, device: str, bursts: int) -> None:
    (tmp_path / "t").write_text("".join(f"LD {64 * i:#x}\n" for i in range(500)))
    result = offchip.trace_dram(tmp_path / "t", device)
    assert result.bytes_moved == 500 * 64
    assert result.requests == 500 * bursts
    assert result.as_json()["trace_requests"] == 500
    half = offchip.trace_dram(tmp_path / "t", device, request_bytes=32)
    assert half.requests == 500
    with pytest.raises(InputError, match="power of two"):
        offchip.trace_dram(tmp_path / "t", device, request_bytes=48)


def test_sizes_of_a_trace_are_moved(cli, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("address,write,size\n0,0,256\n30,1,4\n")
    outcome = cli("trace", "dram", tmp_path / "t.csv", "--hw", "hbm2-2000", "--json")
    found = json.loads(outcome.out)
    assert found["requests"] == 8 + 2
    assert found["writes"] == 2
