"""Cache traces: recipes as the reference has them, formats, and lines without sense."""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from tests.cache.slow import Dice
from workloads.cache_trace import FORMATS, ArrayCacheTrace, CacheRequests, open_cache_trace, open_pattern
from workloads.cache_trace.pieces import Pieces
from workloads.cache_trace.rows import object_number


def everything(trace: Any, size: int = 1 << 20) -> CacheRequests:
    return CacheRequests(*(np.concatenate(part) for part in zip(*trace.chunks(size), strict=True)))


def plain(kind: str, requests: int, objects: int, seed: int) -> list[int]:
    """The recipes of the reference, request by request."""
    dice, found, position = Dice(seed), [], objects // 2
    walked = 0
    for i in range(requests):
        if kind == "loop":
            found.append(i % objects + 1)
        elif kind == "scan-mix":
            hot = objects // 5
            if i % 500 < 400:
                found.append(dice.below(hot) + 1)
            else:
                found.append(hot + 1 + walked % (objects - hot))
                walked += 1
        elif kind == "walk":
            jump = dice.below(50) == 0
            position = dice.below(objects) if jump else (position + dice.below(17) - 8) % objects
            found.append(position + 1)
        else:
            phase = min(i // (requests // 8), 7)
            near = min(dice.below(objects // 4), dice.below(objects // 4))
            found.append((phase * (objects // 10) + near) % objects + 1)
    return found


@pytest.mark.parametrize("kind", ["loop", "scan-mix", "walk", "phases"])
@pytest.mark.parametrize("chunk", [100, 5000])
def test_recipes_are_those_of_the_reference(kind: str, chunk: int) -> None:
    found = everything(open_pattern(f"{kind}:4000:300:9"), chunk)
    assert found.object.tolist() == plain(kind, 4000, 300, 9)


def test_zipf_is_a_bisection_in_sums() -> None:
    weights = [1 / i**0.8 for i in range(1, 201)]
    total, sums, at = sum(weights), [], 0.0
    for weight in weights:
        at += weight / total
        sums.append(at)
    dice, wanted = Dice(3), []
    for _ in range(500):
        u = dice.below(1 << 64) / 2**64
        wanted.append(min(sum(s < u for s in sums), 199) + 1)
    assert everything(open_pattern("zipf0.8:500:200:3")).object.tolist() == wanted


def test_the_reference_traces_have_their_sums() -> None:
    for recipe, digest in (("zipf0.8:20000:1000:7", "acb05eb36118f7cf"),):
        text = ",".join(map(str, everything(open_pattern(recipe), 777).object.tolist()))
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_experts_are_distinct_in_a_visit_and_those_of_the_layer() -> None:
    found = everything(open_pattern("experts:6000:16:1:top=4:layers=3:skew=1.0:size=7"), 999).object
    assert np.array_equal(
        found, everything(open_pattern("experts:6000:16:1:top=4:layers=3:skew=1.0:size=7")).object
    )
    visits = found.reshape(-1, 4)
    assert all(len(set(row)) == 4 for row in visits.tolist())
    layers = (visits - 1) // 16
    assert np.array_equal(layers[:, 0], np.arange(len(visits)) % 3)
    counts = Counter(((found - 1) % 16).tolist())
    assert counts[0] > 2 * counts[15]


def test_adapters_arrive_at_the_stated_rate_with_sizes_of_ranks() -> None:
    found = everything(open_pattern("adapters:20000:100:5:rate=50:size=1MiB"), 3000)
    assert found.arrival[-1] / 1e9 == pytest.approx(400, rel=0.03)
    assert (np.diff(found.arrival) >= 0).all()
    assert set((found.size // (1 << 20)).tolist()) <= {1, 2, 4, 8}
    assert len(set(zip(found.object.tolist(), found.size.tolist(), strict=True))) == len(
        set(found.object.tolist())
    )


def test_writes_come_with_their_share() -> None:
    assert everything(open_pattern("loop:20000:10:1:writes=0.3")).written.mean() == pytest.approx(
        0.3, abs=0.02
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("zpf:1:1", "unknown pattern"), ("loop:5", "expected PATTERN:REQUESTS:OBJECTS"), ("loop:x:5", "1 to"),
        ("loop:0:5", "1 to"), ("loop:5:0", "1 to"), ("loop:5:5:-1", "seed"), ("loop:5:5:1:size=0", "size"),
        ("loop:5:5:1:colour=red", "no setting 'colour'"), ("loop:5:5:1:writes=2", "writes"), ("zipf99:5:5", "exponent"),
        ("loop:5:5:1:size=1:size=2", "twice"), ("loop:5:5:1:2:3", "expected"), ("zipf:5:5:1:sizes=odd", "sizes"),
        (f"loop:{10**40}:5", "1 to"), ("loop:\u0663:5", "1 to"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_told(text: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        open_pattern(text)
    assert part in str(caught.value)


TWITTER = "0,k1,3,100,7,get,0\n1,k2,3,50,7,set,60\n2,k1,3,100,7,delete,0\n3,k2,3,50,7,gets,0\n"
KV = "key,op,size,op_count,key_size\na,GET,10,3,2\nb,SET,5,1,1\n"
CDN = "timestamp,cacheKey,OpType,objectSize\n1,5,1,100\n2,6,1,0\n3,5,1,100\n"
MSR = "128166372003061629,src1,0,Read,4095,8192,10\n128166372013061629,src1,0,Write,0,1,10\n"
CSV = "object,size,time,op,predicted\n5,10,0.5,read,7\nx,20,1.5,write,9\n"
ORACLE_CSV = "# time, object, size, next_access_vtime\n1, 5, 100, 3\n2, 6, 7, -1\n"


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("text", "objects", "sizes", "written"),
    [
        (TWITTER, ["k1", "k2", "k2"], [103, 53, 53], [0, 1, 0]),
        (KV, ["a", "a", "a", "b"], [12] * 3 + [6], [0, 0, 0, 1]),
        (CDN, ["5", "5"], [100, 100], [0, 0]), (MSR, ["0", "1", "2", "0"], [4096] * 4, [0, 0, 0, 1]),
        (CSV, ["5", "x"], [10, 20], [0, 1]), (ORACLE_CSV, ["5", "6"], [100, 7], [0, 0]),
    ],
    ids=["twitter", "kv", "cdn", "msr", "csv", "oracle-csv"],
)  # fmt: skip
def test_formats_are_told_and_read(
    tmp_path: Path, text: str, objects: list[str], sizes: list[int], written: list[int], packed: str
) -> None:
    data = text.encode()
    if packed == ".gz":
        data = gzip.compress(data)
    elif packed:
        data = pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    file = tmp_path / f"trace{packed}"
    file.write_bytes(data)
    for chunk in (1, 1000):
        found = everything(open_cache_trace(file), chunk)
        assert found.object.tolist() == [object_number(name) for name in objects]
        assert found.size.tolist() == sizes
        assert found.written.tolist() == [bool(w) for w in written]


def oracle_file(file: Path, rows: list[tuple[int, int, int, int]]) -> Path:
    kind = np.dtype([("t", "<u4"), ("o", "<u8"), ("s", "<u4"), ("n", "<i8")])
    file.write_bytes(np.array(rows, kind).tobytes())
    return file


def test_the_binary_format_is_read(tmp_path: Path) -> None:
    file = oracle_file(tmp_path / "a.bin", [(0, 2**64 - 1, 10, 3), (1, 7, 0, 1), (2, 7, 5, -1)])
    trace = open_cache_trace(file)
    assert trace.format == "oracle"
    found = everything(trace, 1)
    assert found.object.tolist() == [-1, 7]
    assert found.size.tolist() == [10, 5]
    assert found.predicted.tolist() == [3, 1 << 52]
    assert found.arrival.tolist() == [0, 2 * 10**9]


def test_a_cut_binary_file_is_an_error(tmp_path: Path) -> None:
    file = oracle_file(tmp_path / "a.oracleGeneral", [(0, 1, 10, 3)] * 3)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(InputError, match="ends within a request: found 19 bytes of request 3"):
        everything(open_cache_trace(file))


def test_a_cut_packed_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "t.gz"
    file.write_bytes(gzip.compress((CSV.splitlines()[0] + "\n" + "1,1,1,r,1\n" * 5000).encode())[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        everything(open_cache_trace(file))


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("object,size\n1,2\n1,x\n", 3, "size: found 'x'; expected a whole number"),
        ("object,size\n1,0\n", 2, "size: found 0; expected 1 to"), ("object,size\n,4\n", 2, "object: found nothing"),
        (f"object,size\n1,{1 << 51}\n", 2, "expected 1 to"), ("object,size\n1\n", 2, "found 1 fields; expected 2"),
        ("object,op\n1,jump\n", 2, "operation: found 'jump'"), ("object,time\n1,-3\n", 2, "time: found '-3'"),
        ("object,size,size\n1,1,1\n", 1, "found a header"), ("object,colour\n1,1\n", 1, "found a header"),
        ("hello\n", 1, "the format cannot be told"), ("", None, "no requests"), ("object\n", None, "no requests"),
        ("0,k,1,1,c,get,0\n0,k,1\n", 2, "found 3 fields; expected 7"),
        ("key,op,size,op_count,key_size\na,GET,1,9999999999,1\n", 2, "op_count"),
    ],
)  # fmt: skip
def test_bad_lines_are_told(tmp_path: Path, text: str, line: int | None, part: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        everything(open_cache_trace(file))
    message = str(caught.value)
    assert part in message
    assert line is None or f"t.csv:{line}" in message


def test_an_unknown_format_or_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_cache_trace(tmp_path / "none")
    with pytest.raises(InputError, match="did you mean 'twitter'"):
        open_cache_trace(tmp_path, "twiter")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_bytes_bring_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Whatever stands in a file: requests, or an InputError."""
    file = tmp_path_factory.mktemp("fuzz") / data.draw(
        st.sampled_from(["t", "t.gz", "t.zst", "t.oracleGeneral"])
    )
    base = data.draw(st.sampled_from([TWITTER, KV, CDN, MSR, CSV, ORACLE_CSV])).encode()
    kind = data.draw(st.sampled_from(["noise", "changed", "cut"]))
    content = data.draw(st.binary(max_size=200))
    if kind != "noise":
        at = data.draw(st.integers(0, len(base)))
        content = base[:at] + (content + base[at:] if kind == "changed" else b"")
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" and data.draw(st.booleans()) else content)
    try:
        found = everything(open_cache_trace(file, data.draw(st.sampled_from([None, *FORMATS]))))
    except InputError:
        return
    assert found.size.min() >= 1


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    grain=st.integers(1, 12),
    chunk=st.integers(1, 50),
)
def test_pieces_have_the_bytes_of_their_objects(sizes: list[int], grain: int, chunk: int) -> None:
    found = everything(Pieces(ArrayCacheTrace(np.arange(len(sizes)), sizes), grain), chunk)
    wanted = [
        part for size in sizes for part in [grain] * (size // grain) + [size % grain] * (size % grain > 0)
    ]
    assert found.size.tolist() == wanted
    assert len(set(found.object.tolist())) == len(wanted)


def test_too_many_pieces_are_refused() -> None:
    with pytest.raises(InputError, match="larger grain"):
        everything(Pieces(ArrayCacheTrace([1], [1 << 40]), 1))


def test_the_size_of_all_objects_may_be_one_number() -> None:
    assert np.asarray(ArrayCacheTrace([1, 2, 3], 7).size).tolist() == [7, 7, 7]
