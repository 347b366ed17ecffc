"""The Python interface and the command line give the same answers, results show themselves, bad input is one line."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import offchip
from hw_configs.shown import Table, tables_as_html, tables_as_text
from offchip.run_options import Options, RunOptions, WorkloadChoices
from offchip.solving.alloc import AllocChoices, AllocOptions
from offchip.solving.offload import OffloadChoices, OffloadOptions
from offchip.solving.schedule import ScheduleChoices, ScheduleOptions
from offchip.tracing.bank import BankTraceChoices, BankTraceOptions
from offchip.tracing.cpu_cache import CpuCacheTraceChoices, CpuCacheTraceOptions
from offchip.tracing.dram import DramTraceChoices, DramTraceOptions
from offchip.tracing.flash import FlashTraceChoices, FlashTraceOptions
from offchip.tracing.gather import GatherTraceChoices, GatherTraceOptions
from offchip.tracing.memory import MemoryTraceChoices, MemoryTraceOptions
from offchip.tracing.pages import PageTraceChoices, PageTraceOptions
from offchip.tracing.pim import PimTraceChoices, PimTraceOptions
from offchip.tracing.search import SearchTraceChoices, SearchTraceOptions
from workloads.workload import WorkloadOptions

ALLOC = Path(__file__).parent / "reference" / "alloc" / "input.12.csv"
SNAPSHOT = ALLOC.parent / "dumps" / "snap_two_devices.json"
PIM = Path(__file__).parent / "reference" / "pim"

CALLS: dict[str, tuple[Callable[[], Any], tuple[object, ...]]] = {
    "simulate": (
        lambda: offchip.simulate("gpt2", "a100-80gb", prompt=32, dtype="fp16"),
        ("simulate", "gpt2", "--hw", "a100-80gb", "--prompt", 32, "--dtype", "fp16"),
    ),
    "trace_dram": (
        lambda: offchip.trace_dram("seq_read:2000", "ddr4-2400r", outstanding=16, channels=1),
        ("trace", "dram", "seq_read:2000", "--hw", "ddr4-2400r", "--outstanding", 16, "--channels", 1),
    ),
    "trace_pages": (
        lambda: offchip.trace_pages("loop:8MiB:2", memory="16 MiB", drive="nvme-pcie4-dc-tlc", replacement="lru"),
        ("trace", "pages", "loop:8MiB:2", "--memory", "16 MiB", "--drive", "nvme-pcie4-dc-tlc",
         "--replacement", "lru"),
    ),
    "trace_pages_gpu": (
        lambda: offchip.trace_pages("loop:64MiB:2", memory="32 MiB", gpu="a100-80gb", group=64, pin_after=2),
        ("trace", "pages", "loop:64MiB:2", "--memory", "32 MiB", "--gpu", "a100-80gb", "--group", 64,
         "--pin-after", 2),
    ),
    "trace_dram_behind_caches": (
        lambda: offchip.trace_dram("copy:4000", "ddr4-2400r", cache="core-i7-12700k-caches", copies=2),
        ("trace", "dram", "copy:4000", "--hw", "ddr4-2400r", "--cache", "core-i7-12700k-caches", "--copies", 2),
    ),
    "trace_flash": (
        lambda: offchip.trace_flash("randread:300", "nvme-pcie4-dc-tlc", mode="fast", outstanding=8),
        ("trace", "flash", "randread:300", "--hw", "nvme-pcie4-dc-tlc", "--mode", "fast", "--outstanding", 8),
    ),
    "trace_gather": (
        lambda: offchip.trace_gather(
            "power-law:2000:20000", "workstation", path="zero-copy", fan_out="5,5", batch=64
        ),
        ("trace", "gather", "power-law:2000:20000", "--hw", "workstation", "--path", "zero-copy", "--fan-out",
         "5,5", "--batch", 64),
    ),
    "trace_pim": (
        lambda: offchip.trace_pim("gemv:256x512", "gddr6-aim", honest=True),
        ("trace", "pim", "gemv:256x512", "--hw", "gddr6-aim", "--honest"),
    ),
    "trace_product": (
        lambda: offchip.trace_product("rmat:64:256", "piuma-like", right="rmat:64:200:2", way="outer", load=0.7),
        ("trace", "product", "rmat:64:256", "--hw", "piuma-like", "--right", "rmat:64:200:2", "--way", "outer",
         "--load", 0.7),
    ),
    "trace_search": (
        lambda: offchip.trace_search("diskann-sift1b", "nvme-pcie4-tlc", queries=9, in_flight=3, sweep=True),
        ("trace", "search", "diskann-sift1b", "--hw", "nvme-pcie4-tlc", "--queries", 9, "--in-flight", 3, "--sweep"),
    ),
    "trace_bank": (
        lambda: offchip.trace_bank("hierarchical-160m", "desktop", contexts=50, place="memory", cache="1 GiB"),
        ("trace", "bank", "hierarchical-160m", "--hw", "desktop", "--contexts", 50, "--place", "memory", "--cache",
         "1 GiB"),
    ),
    "trace_memory": (
        lambda: offchip.trace_memory(SNAPSHOT, allocator="expandable", device_index=1, capacity="1 GiB"),
        ("trace", "memory", SNAPSHOT, "--allocator", "expandable", "--device-index", 1, "--capacity", "1 GiB"),
    ),
    "solve_alloc": (
        lambda: offchip.solve_alloc(ALLOC, minimize=True, max_nodes=1000),
        ("solve", "alloc", ALLOC, "--minimize", "--max-nodes", 1000),
    ),
    "solve_schedule": (
        lambda: offchip.solve_schedule("resnet-18", dtype="int8", scratchpad="1 MiB", method="given/lru"),
        ("solve", "schedule", "resnet-18", "--dtype", "int8", "--scratchpad", "1 MiB", "--method", "given/lru"),
    ),
    "solve_offload": (
        lambda: offchip.solve_offload(
            "opt-1.3b", "csd-node", "offload-kv", phase="decode", seq=512, settings={"kv": "host"}
        ),
        ("solve", "offload", "opt-1.3b", "--hw", "csd-node", "--policy", "offload-kv", "--phase", "decode",
         "--seq", 512, "--set", "kv=host"),
    ),
}  # fmt: skip


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        assert not attrs, "a table carries neither script nor style"
        self.seen.add(tag)


def _timeless(value: Any) -> Any:
    """Without what the clock says: seconds of a solver, and when a run was made."""
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in ("seconds", "solve_s", "created")}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", CALLS)
def test_python_and_command_line_say_the_same(cli: Callable[..., Any], name: str) -> None:
    function, command = CALLS[name]
    result = function()
    outcome = cli(*command, "--json")
    assert outcome.code == 0, outcome.err
    assert _timeless(json.loads(outcome.out)) == _timeless(json.loads(json.dumps(result.as_json())))
    shown = result._repr_html_()
    tags = _Tags()
    tags.feed(shown)
    assert {"table", "td"} <= tags.seen <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    text = str(result)
    assert not any(line.endswith(" ") for line in text.splitlines())
    assert len(text.splitlines()) > 3


def test_validate_predict_and_report_are_the_commands(cli: Callable[..., Any], tmp_path: Path) -> None:
    rows = "[BI]*"
    ours = offchip.validate("alloc", ALLOC.parent, rows, time_limit=20).as_json()
    theirs = json.loads(
        cli("validate", "alloc", ALLOC.parent, "--rows", rows, "--time-limit", 20, "--json").out
    )
    assert [(r["id"], r["verdict"]) for r in ours["rows"]] == [
        (r["id"], r["verdict"]) for r in theirs["rows"]
    ]
    table = tmp_path / "ops.csv"
    table.write_text("id,op,m,n,k,dtype\na,matmul,512,512,512,fp16\nb,nothing,1,1,1,fp16\n")
    found = offchip.predict(table, "a100-80gb", out=tmp_path / "out.csv")
    assert found.as_json() == json.loads(cli("predict", table, "--hw", "a100-80gb", "--json").out)
    assert [row.id for row, _ in found.not_predicted] == ["b"]
    assert "predicted_us" in (tmp_path / "out.csv").read_text()
    cli("simulate", "gpt2", "--hw", "a100-80gb", "--prompt", 16, "--out", tmp_path / "run")
    written = offchip.report(tmp_path / "run")
    again = json.loads(cli("report", tmp_path / "run", "--json").out)
    assert written.as_json() == again
    assert written.written[0].is_file()


SPACE = """\
name: small
model: gpt2
hw: a100-80gb
options: {phase: decode, prompt: 16}
vary:
  batch: [1, 2]
objectives: {makespan_s: minimise}
"""


def test_a_sweep_is_the_command(cli: Callable[..., Any], tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)
    status = offchip.sweep(space, tmp_path / "ours")
    assert (status.done, status.expected) == (2, 2)
    outcome = cli("sweep", space, "--out", tmp_path / "theirs", "--json")
    assert json.loads(outcome.out) == json.loads(json.dumps(status.as_json()))
    assert status.points().front()
    assert "small: 2 of 2 points" in str(status)


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        ((WorkloadOptions,), WorkloadChoices),
        ((WorkloadOptions, RunOptions), Options),
        ((DramTraceOptions,), DramTraceChoices),
        ((FlashTraceOptions,), FlashTraceChoices),
        ((GatherTraceOptions,), GatherTraceChoices),
        ((PimTraceOptions,), PimTraceChoices),
        ((SearchTraceOptions,), SearchTraceChoices),
        ((BankTraceOptions,), BankTraceChoices),
        ((CpuCacheTraceOptions,), CpuCacheTraceChoices),
        ((PageTraceOptions,), PageTraceChoices),
        ((MemoryTraceOptions,), MemoryTraceChoices),
        ((AllocOptions,), AllocChoices),
        ((ScheduleOptions,), ScheduleChoices),
        ((OffloadOptions,), OffloadChoices),
    ],
)
def test_keywords_are_the_fields_with_their_types(options: tuple[type, ...], keywords: type) -> None:
    fields = {f.name: f.type for cls in options for f in dataclasses.fields(cls)}
    stated = {name: ref.__forward_arg__ for base in _bases(keywords) for name, ref in base.items()}
    assert stated == fields


def _bases(keywords: type) -> list[dict[str, Any]]:
    return [keywords.__annotations__]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: offchip.simulate("gpt2", "a100-80gb", batch="4"), r"--batch: found '4' \(str\); expected int"),
        (lambda: offchip.simulate("gpt2", "a100-80gb", tp=True), r"--tp: found True \(bool\); expected int"),
        (lambda: offchip.simulate("gpt2", "a100-80gb", promt=4), "did you mean 'prompt'"),
        (lambda: offchip.simulate("gpt2", "a100-80gb", settings=3), "--set: found 3; expected names and values"),
        (lambda: offchip.simulate("gpt2", "a100-80gb", fidelity="evnt"), "did you mean 'event'"),
        (lambda: offchip.load_model("gpt2", tp=2), "tp: unknown option"),
        (lambda: offchip.trace_dram("seq_read:9", "ddr4-2400r", gap="1"), r"--gap: found '1' \(str\)"),
        (lambda: offchip.trace_dram("seq_read:9", "ddr4-2400r", shceduler="x"), "did you mean 'scheduler'"),
        (lambda: offchip.trace_flash("randread:9", "nvme-pcie4-dc-tlc", seed=None), r"--seed: found None"),
        (lambda: offchip.trace_gather("ba:99:3", "t4-server", batch="4"), r"--batch: found '4' \(str\)"),
        (lambda: offchip.trace_gather("ba:99:3", "t4-server", fan_out="3,x"), r"--fan-out: found '3,x'"),
        (lambda: offchip.trace_gather("ba:99:3", "t4-server", path="gpx"), r"--path: found 'gpx'"),
        (lambda: offchip.trace_gather("reddits", "t4-server"), "did you mean 'reddit'"),
        (lambda: offchip.trace_pim("gemv:8x8", "gddr6-aim", channels=1.5), r"--channels: found 1.5 \(float\)"),
        (lambda: offchip.trace_product("rmat:64:99", "piuma-like", way="outre"), "did you mean 'outer'"),
        (lambda: offchip.trace_product("rmat:64:99", "piuma-like", load="1"), r"--load: found '1' \(str\)"),
        (lambda: offchip.trace_product("rmat:64:99", "t4"), "expected a device of kind 'threads'"),
        (lambda: offchip.trace_search("flat-1m", "desktop", querys=1), "did you mean 'queries'"),
        (lambda: offchip.trace_search("flat-1m", "desktop", in_flight="2"), r"--in-flight: found '2' \(str\)"),
        (lambda: offchip.trace_bank("hierarchical-160m", "desktop", contexts=True), r"--contexts: found True"),
        (lambda: offchip.trace_memory(SNAPSHOT, allocator="cachign"), "did you mean 'caching'"),
        (lambda: offchip.trace_memory(SNAPSHOT, device_index="1"), r"--device-index: found '1' \(str\)"),
        (lambda: offchip.solve_alloc(ALLOC, minimize=1), r"--minimize: found 1 \(int\); expected bool"),
        (lambda: offchip.solve_alloc(ALLOC), "exactly one of"),
        (lambda: offchip.solve_schedule("resnet-18", scratchpad=1.5), r"--scratchpad: found 1.5"),
        (lambda: offchip.solve_offload("gpt2", "csd-node", phase="decod"), "did you mean 'decode'"),
        (lambda: offchip.solve_offload("gpt2", "csd-node", batch="1"), r"--batch: found '1' \(str\)"),
    ],
)  # fmt: skip
def test_a_bad_option_is_one_clear_line(call: Callable[[], Any], told: str) -> None:
    with pytest.raises(offchip.InputError, match=told) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


def test_a_workload_that_is_built_is_not_changed() -> None:
    workload = offchip.load_model("gpt2", prompt=16, batch=2)
    with pytest.raises(offchip.InputError, match=r"--microbatches: .* a finished graph"):
        offchip.simulate(workload.phases[0].graph, "a100-80gb", microbatches=2)
    with pytest.raises(offchip.InputError, match="--prompt: the workload is built already"):
        offchip.simulate(workload, "a100-80gb", prompt=64)


def test_importing_is_quick_and_brings_nothing_heavy() -> None:
    code = (
        "import time, sys; start = time.process_time(); import offchip; spent = time.process_time() - start; "
        "dir(offchip); print(spent, *(m for m in ('numba','scipy','pandas','numpy','pydantic') if m in sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert out[1:] == []
    assert float(out[0]) < 0.3


def test_the_table_of_contents_names_everything() -> None:
    for name in offchip.__all__:
        assert getattr(offchip, name).__doc__, name
        assert (
            name == "OffchipError"
            or f":func:`{name}`" in offchip.__doc__
            or f":class:`{name}`" in offchip.__doc__
        )
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        offchip.simulat  # noqa: B018


def test_a_package_named_like_a_function_is_called_like_it() -> None:
    import inspect

    import offchip.report.page
    import offchip.sweep.space
    from offchip.report_page import report
    from offchip.space_sweep import sweep

    assert inspect.signature(offchip.sweep) == inspect.signature(sweep)
    assert inspect.signature(offchip.report) == inspect.signature(report)
    with pytest.raises(offchip.InputError, match="no such folder"):
        offchip.report("/nowhere/at/all")


def test_names_from_files_stay_text() -> None:
    table = Table("<script>x</script>", ("<b>", "n"), (("&", 1), ("<i>", 22)))
    shown = tables_as_html([table])
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert tables_as_text([table]).splitlines()[1:] == ["<b>   n", "&     1", "<i>  22"]
    many = Table("", ("n",), tuple((i,) for i in range(150)))
    assert "50 more rows" in tables_as_html([many])
