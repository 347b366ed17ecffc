"""Block traces from files and descriptions: the same requests whatever the format, and every mistake named."""

import gzip

import numpy as np
import pytest

from hw_configs.problems import InputError
from workloads.block_trace import (
    ArrayBlocks,
    BlockWorkload,
    load_workload,
    open_block_trace,
    synthetic_blocks,
)

BODY = {
    "mqsim": "1000 0 8 16 1\n3000 0 800 8 0\n",
    "msr": "128166372003061629,host,0,Read,4096,8192,100\n128166372003061649,host,0,Write,409600,4096,80\n",
    "spc": "0,8,8192,r,0.000001\n0,800,4096,W,0.000003\n",
    "csv": "op,offset,size,time_ns\nread,4096,8192,500\nwrite,409600,4096,2500\n",
}


@pytest.mark.parametrize("kind", BODY)
@pytest.mark.parametrize("named", [True, False])
def test_every_format_tells_the_same(tmp_path, kind, named):
    path = tmp_path / "trace.gz"
    path.write_bytes(gzip.compress(("# made by hand\n" + BODY[kind]).encode()))
    (found,) = open_block_trace(path, kind if named else None).chunks(10)
    assert found.operation.tolist() == [0, 1]
    assert found.address.tolist() == [4096, 409600]
    assert found.size.tolist() == [8192, 4096]
    assert found.arrival.tolist() == [0, 2000]


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["cut", "not packed", "changed"])
def test_a_damaged_packed_file_is_refused(tmp_path, ending, damage):
    zstandard = pytest.importorskip("zstandard")
    text = b"op,offset,size\n" + b"".join(b"read,%d,4096\n" % (n * n % 977 * 4096) for n in range(20_000))
    whole = (
        gzip.compress(text)
        if ending == "gz"
        else zstandard.ZstdCompressor(write_checksum=True).compress(text)
    )
    middle = len(whole) // 2
    changed = (
        whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 40]) + whole[middle + 40 :]
    )
    path = tmp_path / f"trace.csv.{ending}"
    path.write_bytes({"cut": whole[:middle], "not packed": text, "changed": changed}[damage])
    with pytest.raises(InputError, match=r"trace\.csv") as error:
        list(open_block_trace(path).chunks(1000))
    assert len(error.value.problems) >= 1
    path.write_bytes(whole)
    assert sum(len(found.address) for found in open_block_trace(path).chunks(1000)) == 20_000


def test_a_trace_without_times_has_none(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("op,offset,size\nr,0,512\ntrim,512,512\n")
    first, second = open_block_trace(path).chunks(1)
    assert first.arrival.size == 0
    assert second.operation.tolist() == [3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 0 8 16\n", "the format cannot be told"),
        ("1 0 8 16 2\n", "neither 0 (write) nor 1 (read)"),
        ("1 0 8 0 1\n", "outside 1 to"),
        ("5 0 8 16 1\n4 0 8 16 1\n", "time goes backwards"),
        ("1 0 x 16 1\n", "'x' is not a whole number"),
        ("op,offset,size\nread,1\n", "expected 3 fields"),
        ("op,offset,length\n", "expected a header"),
        ("0,8,8192,q,0.1\n", "cannot be told"),
        ("0,8,8192,r,nan\n", "outside 0 to 1e9 seconds"),
        ("", "holds no requests"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, words):
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        list(open_block_trace(path).chunks(10))
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_arrays_are_checked():
    for operation, address, size, arrival in (
        ([0, 2], [0, 0], [1, 1], None),
        ([0], [-1], [1], None),
        ([0], [0], [0], None),
        ([0, 0], [0, 0], [1, 1], [5, 4]),
        ([0], [0, 1], [1, 1], None),
    ):
        with pytest.raises(InputError):
            ArrayBlocks(operation, address, size, arrival)


def made(**keys):
    return BlockWorkload.model_validate({"rw": "randrw", "number_ios": 20_000} | keys)


def test_any_stretch_is_the_same():
    trace = synthetic_blocks(made(rate_iops=10_000.0, zipf="0.9"), 1 << 30)
    whole = trace.requests(0, 20_000)
    cut = trace.requests(7_000, 5_000)
    for column, part in zip(whole, cut, strict=True):
        assert np.array_equal(column[7_000:12_000], part)
    assert (np.diff(whole.arrival) >= 0).all()
    assert whole.arrival[-1] == pytest.approx(2e9, rel=0.01)


def test_shares_regions_and_popularity():
    job = made(rwmixread=70.0, offset="1 MiB", size="64 MiB", bs="8 KiB")
    found = synthetic_blocks(job, 1 << 30).requests(0, 20_000)
    assert np.mean(found.operation == 0) == pytest.approx(0.7, abs=0.01)
    assert found.address.min() >= 1 << 20
    assert (found.address + found.size).max() <= 65 << 20
    assert not (found.address % 8192).any()
    counts = {}
    for zipf in (0.0, 1.0):
        address = synthetic_blocks(made(zipf=zipf), 1 << 30).requests(0, 20_000).address
        counts[zipf] = np.unique(address, return_counts=True)[1].max()
    assert counts[1.0] > 100 * counts[0.0]


def test_a_stream_runs_through_its_region_and_wraps():
    job = made(rw="read", bs="4 KiB", size="40 KiB", number_ios=25)
    blocks = synthetic_blocks(job, 1 << 20).requests(0, 25).address // 4096
    assert (np.diff(blocks) % 10 == 1).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rw: randreed\n", "did you mean 'randread'"),
        ("bs: 4 KiB\n", "missing key 'rw'"),
        ("rw: read\nbs: 4\n", "bs"),
        ("rw: read\niodepht: 4\n", "did you mean 'iodepth'"),
        ("rw: read\nbs: 100 B\n", "expected 512 B to 1 GiB"),
        ("rw: read\nsize: 1 KiB\n", "holds no request"),
    ],
)
def test_a_wrong_description_is_named(tmp_path, text, words):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_workload(path)
    assert words in str(error.value)


def test_a_region_beyond_the_drive_is_refused():
    with pytest.raises(InputError, match="leave the drive's"):
        synthetic_blocks(made(size="2 GiB"), 1 << 30)
