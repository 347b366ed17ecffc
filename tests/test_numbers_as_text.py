"""Numbers in texts and files that Python reads otherwise than a person does, or that no 64-bit array holds.

Each is one clear line and exit code 2: superscripts (``str.isdigit`` takes them for digits), digits of other scripts
and ``1_000`` (``int`` takes them), and whole numbers of any length.
"""

from __future__ import annotations

import json

import pytest

from hw_configs.units import UnitError, parse_quantity
from hw_configs.whole_number import decimal, integer, is_whole

LONG = "9" * 5000
"""More digits than Python turns into a number."""
STRANGE = ["\u00b2", "\u0663", "1_0", "", " ", "+", "0x", "1e3", LONG, "1\u00a00", "\uff11"]


def one_line(outcome, *words):
    assert outcome.code == 2, outcome.err[-300:]
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1, outcome.err[-300:]
    assert len(lines[0]) < 1500
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("text", STRANGE)
def test_a_whole_number_is_digits_of_ascii(text):
    assert not is_whole(text)
    assert integer(text, -(10**9), 10**9) is None
    if text != "1e3":
        assert decimal(text) is None


def test_bounds_and_signs():
    assert [integer(text, -5, 5) for text in ("5", "6", "-5", "-6", "+3", " 3 ", "0x3")] == [
        5, None, -5, None, 3, 3, None,
    ]  # fmt: skip
    assert integer("0xFF", 0, 255, hexadecimal=True) == 255
    assert integer("-0xFF", -300, 255, hexadecimal=True) is None


@pytest.mark.parametrize("text", ["\u0663 GiB", "\u00b2 GiB", "1\u0660 GiB"])
def test_a_quantity_is_digits_of_ascii(text):
    with pytest.raises(UnitError, match=r"does not start with a number|unknown unit"):
        parse_quantity(text, "size")


@pytest.mark.parametrize(
    "window", ["\u00b2:500", "0:\u0665", "1_0:500", f"0:{LONG}", "-1:5", "5:5", "5", ":"]
)
def test_the_window_of_a_timeline(cli, tmp_path, window):
    figure = tmp_path / "a.svg"
    outcome = cli(
        "trace", "dram", "seq_read:100", "--hw", "ddr4-2400r", "--timeline", figure, "--window", window
    )
    one_line(outcome, "--window", "FIRST:LAST")
    assert not figure.exists()


@pytest.mark.parametrize(
    "device", [("dram", "ddr4-2400r", "seq_read"), ("flash", "nvme-pcie4-tlc", "randread")]
)
@pytest.mark.parametrize("rest", ["\u00b2", "\u0663", LONG[:200], "100:\u00b2", f"100:{LONG[:200]}", "1.5"])
def test_the_length_of_a_pattern(cli, device, rest):
    kind, hw, pattern = device
    one_line(cli("trace", kind, f"{pattern}:{rest}", "--hw", hw), "PATTERN:REQUESTS")


@pytest.mark.parametrize("sequence", ["\u00b2", "\u0663K", LONG, "0", "1.5K"])
def test_a_count_of_tokens(cli, sequence):
    arguments = ("solve", "offload", "gpt2", "--hw", "a100-80gb", "--policy", "memo", "--seq", sequence)
    one_line(cli(*arguments), "--seq")


@pytest.mark.parametrize("shard", ["\u00b2/8", "1/\u0663", f"1/{LONG}"])
def test_a_shard(cli, tmp_path, shard):
    space = tmp_path / "space.yaml"
    space.write_text("model: gpt2\nhw: a100-80gb\nvary: {batch: [1, 2]}\n")
    one_line(cli("sweep", space, "--out", tmp_path / "out", "--shard", shard), "--shard")


CSV = "id,lower,upper,size,alignment,gaps\n"
ALLOCATIONS = {
    "gap of 5000 digits": (CSV + f"a,0,9,10,1,{LONG}-3\n", ":2: gaps: found"),
    "gap in other digits": (CSV + "a,0,9,10,1,\u0661-3\n", ":2: gaps: found '\u0661-3'; expected lo-hi"),
    "gap beyond 2^60": (CSV + f"a,0,9,10,1,1-{2**61}\n", "expected integers of at most 2**60"),
    "window beyond 2^60": (CSV + f"a,0,9,10,1,1-3@0:{2**64}\n", "expected integers of at most 2**60"),
    "size in other digits": (CSV + "a,0,9,\u0663,1,\n", ":2: size: found '\u0663'"),
    "size with underscores": (CSV + "a,0,9,1_0,1,\n", ":2: size: found '1_0'"),
    "size of 5000 digits": (CSV + f"a,0,9,{LONG},1,\n", ":2: size: found"),
    "alignments that sum beyond 64 bits": (
        CSV + "".join(f"b{i},0,2,5,{2**59},\n" for i in range(40)),
        "alignment: the alignments sum to more than",
    ),
    "malloc beyond 64 bits": ("malloc 1 100\nmalloc 2 99999999999999999999\nfree 1\nfree 2\n", ":2: found 9"),
    "malloc of 5000 digits": (f"malloc 1 {LONG}\n", ":1: found 9"),
    "malloc beyond 2^60 by its unit": (f"malloc 1 {2**40} GiB\n", f":1: found {2**40} GiB"),
    "arena beyond 64 bits": (
        json.dumps({"tensors": [{"size": 2**63, "first_time_used": 0, "last_time_used": 1}]}),
        "size: buffer '0': found 9223372036854775808",
    ),
    "arena of 5000 digits": (
        '{"tensors": [{"size": 1,\n"first_time_used": 0, "last_time_used": ' + LONG + "}]}",
        ":2: not valid JSON: found an integer of 5000 digits",
    ),
    "arena's times beyond 2^60": (
        json.dumps({"tensors": [{"size": 1, "first_time_used": 0, "last_time_used": 2**62}]}),
        "upper: buffer '0': found",
    ),
    "snapshot beyond 64 bits": (
        json.dumps({"device_traces": [[{"action": "alloc", "addr": 1, "size": 2**63}]]}),
        "size: buffer '0x1': found",
    ),
    "XLA beyond 64 bits": (
        f"value: <1 a @0> (size={2**70},offset=0): f32[2]\nBufferLiveRange:\n    a{{}}:0-3\n", ":1: found"
    ),
    "XLA of 5000 digits": (
        f"value: <1 a @0> (size=8,offset=0): f32[2]\nBufferLiveRange:\n    a{{}}:0-{LONG}\n", ":3: found"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_numbers_of_an_allocation_problem(cli, tmp_path, name):
    text, expected = ALLOCATIONS[name]
    path = tmp_path / "problem.txt"
    path.write_text(text, encoding="utf-8")
    one_line(
        cli("solve", "alloc", path, "--capacity", "1GiB"), str(path) if expected[0] == ":" else "", expected
    )


def test_the_largest_alignment_that_fits_is_kept(cli, tmp_path):
    path = tmp_path / "problem.csv"
    path.write_text(f"id,lower,upper,size,alignment\na,0,2,5,{2**60}\nb,0,2,5,{2**60}\n")
    outcome = cli("solve", "alloc", path, "--minimize", "--json")
    assert outcome.code == 0, outcome.err
    assert sorted(json.loads(outcome.out)["offsets"].values()) == [0, 2**60]


@pytest.mark.parametrize(
    "bank", ["a=\u0663", f"a={LONG}", "a=1KiB@1_0", "a=1KiB@nan", "a=1KiB@\u0663", f"a={2**61}"]
)
def test_a_bank(cli, tmp_path, bank):
    path = tmp_path / "problem.csv"
    path.write_text("id,lower,upper,size\na,0,2,5\n")
    one_line(cli("solve", "alloc", path, "--bank", bank), "--bank", "NAME=BYTES")


MSR = "{first},hm,1,Read,0,4096,413\n{last},hm,1,Write,4096,4096,571\n"


@pytest.mark.parametrize("wrap", [(), ("--wrap",)])
def test_times_of_a_storage_trace_beyond_64_bits(cli, tmp_path, wrap):
    path = tmp_path / "trace.csv"
    path.write_text(MSR.format(first=128166372003061629, last=256332744033707520))
    one_line(
        cli("trace", "flash", path, "--hw", "nvme-pcie4-tlc", *wrap),
        f"{path}:2: ",
        "ns after the first request",
    )
    path.write_text(MSR.format(first=128166372003061629, last=128166372003061629 + 10**7))
    assert cli("trace", "flash", path, "--hw", "nvme-pcie4-tlc", *wrap).code == 0


@pytest.mark.parametrize("cell", ["\u0663", "4_096", LONG[:4000], "\u00b2"])
@pytest.mark.parametrize("column", ["offset", "size", "time_ns"])
def test_cells_of_a_storage_trace(cli, tmp_path, column, cell):
    cells = {"op": "read", "offset": "0", "size": "4096", "time_ns": "0"} | {column: cell}
    path = tmp_path / "trace.csv"
    path.write_text("op,offset,size,time_ns\n" + ",".join(cells.values()) + "\n", encoding="utf-8")
    one_line(cli("trace", "flash", path, "--hw", "nvme-pcie4-tlc"), f"{path}:2: ")


@pytest.mark.parametrize("cell", ["\u0663", "1_0", "0x1_0", LONG[:4000], "\u00b2", str(2**63)])
def test_addresses_of_a_memory_trace(cli, tmp_path, cell):
    path = tmp_path / "trace.trace"
    path.write_text(f"LD 0x40\nLD {cell}\n", encoding="utf-8")
    one_line(cli("trace", "dram", path, "--hw", "ddr4-2400r"), f"{path}:2: ")


def test_integers_of_a_graph(cli, tmp_path):
    path = tmp_path / "graph.json"
    graph = {
        "format": "offchip-graph-1", "name": "x",
        "tensors": [{"name": "x", "shape": [1], "dtype": "fp16"}, {"name": "y", "shape": [1], "dtype": "fp16"}],
        "operators": [{"name": "o", "kind": "copy", "inputs": ["x"], "outputs": ["y"], "flops": 1}],
        "outputs": ["y"],
    }  # fmt: skip
    text = json.dumps(graph, indent=1)
    path.write_text(text)
    assert cli("simulate", path, "--hw", "t4").code == 0
    for digits in (400, 5000):
        path.write_text(text.replace('"flops": 1', f'"flops": {"9" * digits}'))
        line = text[: text.index('"flops"')].count("\n") + 1
        one_line(
            cli("simulate", path, "--hw", "t4"),
            f"{path}:{line}: not valid JSON: found an integer of {digits} digits",
        )
        path.write_text(text.replace("[\n    1\n   ]", f"[{'9' * digits}]", 1))
        one_line(cli("simulate", path, "--hw", "t4"), f"found an integer of {digits} digits")
    path.write_text(text.replace('"name": "x"', f'"name": "{"9" * 400}"', 1))
    assert cli("simulate", path, "--hw", "t4").code == 0, "digits in a name are no number"


@pytest.mark.parametrize("cell", ["\u0663", "1_024", LONG, "nan", "1.5", "0"])
def test_counts_of_an_operator_table(cli, tmp_path, cell):
    path = tmp_path / "ops.csv"
    path.write_text(f"op,dtype,m,n,k\ngemm,fp16,{cell},64,64\n", encoding="utf-8")
    one_line(cli("predict", path, "--hw", "t4"), f"{path}:2: ")


def test_a_count_of_devices_may_be_written_as_any_number(cli, tmp_path):
    path = tmp_path / "ops.csv"
    path.write_text("op,dtype,m,n_devices\nall_reduce,fp16,1048576,2.0\n")
    assert cli("predict", path, "--hw", "a100-80gb").code == 0


@pytest.mark.parametrize(
    "mapping", [f"ro ba bg ra co:{LONG} ch", "ro ba bg ra co:\u0663 ch", "ro ba bg ra co:\u00b2 ch"]
)
def test_the_widths_of_an_address_mapping(cli, mapping):
    outcome = cli("trace", "dram", "seq_read:100", "--hw", "ddr4-2400r", "--mapping", mapping)
    one_line(outcome, "mapping")
