"""Readers of GPU traces, described kernels, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import offchip
from hw_configs.problems import InputError
from workloads.gpu_trace import ATOMIC, KERNELS, LOAD, STORE, GpuTrace, generate_kernel, open_gpu_trace
from workloads.gpu_trace.kernels import Launch, block_order
from workloads.gpu_trace.readers import coalesced

TEXT = "# address bytes what sm time\n0x100 32 R 0\n512,64,w,3,20\n0x1000 4 A 1 20\n"
LANES = " ".join(f"0x{4096 + 4 * lane:016x}" for lane in range(32))
NVBIT = f"""------------- NVBit (NVidia Binary Instrumentation Tool v1.5) ---
MEMTRACE: CTX 0x1 - LAUNCH - Kernel pc 0x7f - Kernel name k - grid launch id 0 - grid size 4,2,1 - block size 32,1,1
CTX 0x0000 - grid_launch_id 0 - CTA 1,1,0 - warp 0 - LDG.E - {LANES}
CTX 0x0000 - grid_launch_id 0 - CTA 2,0,0 - warp 0 - STG.E.64 - 0x2000 0x0000 0x2008
CTX 0x0000 - grid_launch_id 0 - CTA 2,0,0 - warp 0 - LDS - 0x10 0x20
CTX 0x0000 - grid_launch_id 0 - CTA 0,0,0 - warp 0 - RED.E.ADD - 0x3000
"""


def read(trace: GpuTrace, size: int = 1 << 16) -> list[tuple[int, ...]]:
    return [
        tuple(int(column[n]) for column in chunk)
        for chunk in trace.chunks(size)
        for n in range(chunk.kind.size)
    ]


def test_text(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text(TEXT)
    assert read(open_gpu_trace(file, 4)) == [
        (LOAD, 256, 32, 0, 0), (STORE, 512, 64, 3, 20), (ATOMIC, 4096, 4, 1, 20),
    ]  # fmt: skip
    assert read(open_gpu_trace(file, 4), 1) == read(open_gpu_trace(file, 4))


def test_nvbit(tmp_path: Path) -> None:
    """Blocks are numbered over the grid; shared memory is no access; lanes that are off say 0."""
    file = tmp_path / "t.log"
    file.write_text(NVBIT)
    assert read(open_gpu_trace(file, 4)) == [
        (LOAD, 4096, 128, (1 + 4 * 1) % 4, 0), (STORE, 0x2000, 16, 2, 0), (ATOMIC, 0x3000, 4, 0, 0),
    ]  # fmt: skip


def test_coalescing() -> None:
    assert coalesced([4 * lane for lane in range(32)], 4, LOAD) == [(0, 128)]
    assert coalesced([128 * lane for lane in range(3)], 4, LOAD) == [(0, 4), (128, 4), (256, 4)]
    assert coalesced([0, 28], 4, LOAD) == [(0, 32)]
    assert coalesced([0, 28], 4, STORE) == [(0, 4), (28, 4)]
    assert coalesced([0, 0, 2], 4, STORE) == [(0, 6)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0x100 32 R\n", "t.txt:1: the format cannot be told"),
        ("0x100 32 R 0\n5 5 X 0\n", "t.txt:2: direction: 'X' is none of R, W, A"),
        ("0x100 32 R 0\nabc 5 R 0\n", "t.txt:2: address: 'abc' is not a whole number"),
        ("0x100 0 R 0\n", "bytes: '0' is outside 1 to"),
        ("0x100 32 R 9\n", "sm: '9' is outside 0 to 3"),
        ("0 32 R 0 9\n0 32 R 0 8\n", "t.txt:2: time_ns: 8 is before the 9 of a line above"),
        ("", "the trace holds no accesses"),
        ("CTX 0x0 - grid_launch_id 0 - CTA 1,1,0 - warp 0 - XYZ.E - 0x10\n", "opcode: 'XYZ'"),
        ("CTX 0x0 - CTA 1,1 - warp 0 - LDG - 0x10\n", "expected 'CTX ... - CTA X,Y,Z"),
        ("CTX 0x0 - CTA 1,1,0 - warp 0 - LDG - \n", "found 0 addresses"),
    ],
)
def test_bad_lines(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "t.txt"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read(open_gpu_trace(file, 4))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("matmull:1:2:3", "perhaps|did you mean 'matmul'"),
        ("matmul:1:2", "expected matmul:M:N:K"),
        ("matmul:1:2:x", "k: found 'x'"),
        ("matmul:1:2:0", "k: found '0'"),
        ("matmul:1:2:3:tiel_m=4", "did you mean 'tile_m'"),
        ("matmul:1:2:3:order=rows", "did you mean 'row'"),
        ("attention:1:9:2:1:1:64", "9 heads cannot share 2 KV heads"),
        ("attention:1:4:2:9:5:64", "9 queries see only 5 keys"),
        ("strided:10:2", "a stride of 2 bytes is shorter than an element of 4"),
        ("strided:999999999999:999", "size: found|at most 16 TiB"),
        ("matmul:8:8:8:bytes=32", "a lane moves at most 16"),
    ],
)
def test_kernels_that_make_no_sense(text: str, message: str) -> None:
    import re

    with pytest.raises(InputError) as caught:
        generate_kernel(text, Launch(4))
    assert re.search(message, str(caught.value)), str(caught.value)


SMALL = {
    "matmul": "matmul:70:50:40:tile_m=32:tile_n=16:tile_k=16", "attention": "attention:2:4:2:100:130:64:tile_q=64",
    "paged-attention": "paged-attention:3:8:2:37:64", "gather": "gather:50:96:33",
    "transpose": "transpose:70:40", "strided": "strided:1000:12", "stream": "stream:5000:copy=1",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_chunks_do_not_change_a_kernel(name: str) -> None:
    trace = generate_kernel(SMALL[name], Launch(5, 2))
    whole = read(trace)
    assert read(trace, 7) == whole
    assert all(0 <= sm < 5 and 1 <= size <= 512 for _, _, size, sm, _ in whole)


def bytes_of(accesses: list[tuple[int, ...]], kind: int) -> dict[int, int]:
    """How often each byte is asked for."""
    found: dict[int, int] = {}
    for what, address, size, *_ in accesses:
        if what == kind:
            for byte in range(address, address + size):
                found[byte] = found.get(byte, 0) + 1
    return found


def test_a_product_touches_what_it_must() -> None:
    """Each byte of A once per column of tiles, of B once per row of tiles; each of C is written once."""
    accesses = read(generate_kernel(SMALL["matmul"], Launch(5)))
    loads, stores = bytes_of(accesses, LOAD), bytes_of(accesses, STORE)
    base = min(loads)
    a = [loads[base + n] for n in range(70 * 40 * 2)]
    b = [loads[base + (1 << 21) + n] for n in range(40 * 50 * 2)]
    assert set(a) == {4}
    assert set(b) == {3}
    assert len(loads) == len(a) + len(b)
    assert sorted(stores) == [base + (2 << 21) + n for n in range(70 * 50 * 2)]
    assert set(stores.values()) == {1}


def test_attention_touches_what_its_mask_leaves() -> None:
    """Keys of a causal tile end at its last query's; each output is written once."""
    accesses = read(generate_kernel("attention:1:1:1:128:128:64:tile_q=64:tile_k=64", Launch(2)))
    loads = bytes_of(accesses, LOAD)
    keys = min(loads) + (1 << 21)
    assert {loads[keys + token * 128] for token in range(64)} == {2}
    assert {loads[keys + token * 128] for token in range(64, 128)} == {1}
    assert set(bytes_of(accesses, STORE).values()) == {1}
    assert len(bytes_of(accesses, STORE)) == 128 * 128


def test_paged_attention_reads_every_token_once() -> None:
    accesses = read(generate_kernel(SMALL["paged-attention"], Launch(4)))
    loads = bytes_of(accesses, LOAD)
    assert sum(loads.values()) == 3 * (2 * 37 * 2 * 64 * 2 + 8 * 64 * 2) + 3 * 2 * 3 * 4
    other = read(generate_kernel(SMALL["paged-attention"] + ":seed=9", Launch(4)))
    assert other != accesses
    assert read(generate_kernel(SMALL["paged-attention"], Launch(4))) == accesses


def test_a_transpose_writes_every_element_once() -> None:
    for more in ("", ":tile=0"):
        accesses = read(generate_kernel(SMALL["transpose"] + more, Launch(4)))
        assert set(bytes_of(accesses, STORE).values()) == {1}
        assert len(bytes_of(accesses, STORE)) == len(bytes_of(accesses, LOAD)) == 70 * 40 * 4


@pytest.mark.parametrize("order", ["row", "column", "swizzle"])
def test_orders_visit_every_tile_once(order: str) -> None:
    rows, columns = block_order(order, 11, 7, np.arange(77))
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [
        (i, j) for i in range(11) for j in range(7)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shared": "1MiB"}, "--shared: 1048576 bytes of shared memory leave no L1"),
        ({"shared": "x"}, "--shared"),
        ({"page": "3KiB"}, "--page: found 3072 bytes; expected a power of two"),
        ({"persist": "5"}, "--persist: found '5'; expected ADDRESS:SIZE"),
        ({"home": "zero-copi"}, "did you mean 'zero-copy'"),
        ({"outstanding": 0}, "--outstanding: found 0"),
        ({"blocks": 0}, "--blocks"),
        ({"channels": 4}, "--channels"),
        ({"memory": "1GiB"}, "--memory: is of --home unified"),
        ({"dram": "h100-sxm"}, "--dram: h100-sxm is a device of kind 'gpu'"),
        ({"home": "zero-copy", "link": "nvlink4-x18"}, "--link"),
        ({"plot": "x.gif"}, "--plot"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        offchip.trace_gpu("stream:1000", "t4", **options)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_command(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Figures, JSON of the same run, a picture."""
    import json

    text = cli("trace", "gpu", "stream:1000000", "--hw", "t4", "--plot", str(tmp_path / "p.svg"))
    assert text.code == 0, text.err
    assert "L2, near partition" in text.out
    assert (tmp_path / "p.svg").stat().st_size > 2000
    found = json.loads(cli("trace", "gpu", "stream:1000000", "--hw", "t4", "--json").out)
    assert found["memory_read_bytes"] == 1000000 // 32 * 32
    assert cli("trace", "gpu", "stream:x", "--hw", "t4").code == 2


def test_dram_behind_the_caches() -> None:
    """The DRAM engine serves every sector that misses, and takes longer where its rows are hit at random."""
    order = offchip.trace_gpu("stream:4000000", "t4", l1=False, dram="gddr6-14000")
    wild = offchip.trace_gpu("gather:4000000:32:100000", "t4", l1=False, dram="gddr6-14000")
    for found in (order, wild):
        assert found.dram is not None
        assert found.dram.requests == found.read_sectors + found.written_sectors
        assert found.time_s >= found.dram.time_s
    assert order.dram is not None
    assert wild.dram is not None
    assert wild.dram.time_s / wild.dram.requests > 1.5 * order.dram.time_s / order.dram.requests


def test_unified_memory_moves_pages() -> None:
    found = offchip.trace_gpu("stream:8388608:rounds=2", "t4", home="unified", memory="64MiB")
    assert found.unified is not None
    assert found.unified.moved_bytes == 8 << 20
    assert found.time_s > found.unified.move_s
    small = offchip.trace_gpu("stream:8388608:rounds=2", "t4", home="unified", memory="4MiB")
    assert small.unified is not None
    assert small.unified.moved_bytes == 2 * (8 << 20)
