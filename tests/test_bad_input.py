"""Inputs that other tools crash on or silently accept, each with the message wanted (hardware side)."""

import re
import textwrap

import pytest

from hw_configs.library import check_file, load_device, load_system
from hw_configs.problems import InputError
from hw_configs.yaml_file import MAX_FILE_BYTES

GPU = textwrap.dedent(
    """\
    kind: gpu
    name: card
    architecture: ampere-sm80
    multiprocessors: 108
    clock: 1410 MHz
    compute:
      matrix: {fp16: 312 TFLOP/s}
      vector: {fp32: 19.5 TFLOP/s}
    l2: {size: 40 MiB}
    l1_per_multiprocessor: {size: 192 KiB}
    memory:
      technology: HBM2e
      capacity: 80 GiB
      bandwidth: 2039 GB/s
      latency: 500 ns
    power: {idle: 50 W, tdp: 400 W}
    """
)


def problems_of(path):
    with pytest.raises(InputError) as error:
        check_file(path)
    assert error.value.exit_code == 2
    return [str(problem).replace(str(path), "FILE") for problem in error.value.problems]


def test_the_good_file_is_good(tmp_path):
    (tmp_path / "card.yaml").write_text(GPU)
    assert check_file(tmp_path / "card.yaml") == "device"


UNIT = "expected a bandwidth with its unit, such as '2039 GB/s'"
CASES = {
    "negative bandwidth": (
        "bandwidth: 2039 GB/s",
        "bandwidth: -3 GB/s",
        "FILE:14: memory.bandwidth: found '-3 GB/s'; a bandwidth must be greater than zero",
    ),
    "zero bandwidth": (
        "bandwidth: 2039 GB/s",
        "bandwidth: 0 GB/s",
        "FILE:14: memory.bandwidth: found '0 GB/s'; a bandwidth must be greater than zero",
    ),
    "negative size": (
        "capacity: 80 GiB",
        "capacity: -80 GiB",
        "FILE:13: memory.capacity: found '-80 GiB'; a size must be greater than zero",
    ),
    "negative latency": (
        "latency: 500 ns",
        "latency: -1 ns",
        "FILE:15: memory.latency: found '-1 ns'; a time must be at least zero",
    ),
    "missing field": (
        "  bandwidth: 2039 GB/s\n",
        "",
        f"FILE:11: memory.bandwidth: missing key 'bandwidth'; {UNIT}",
    ),
    "misspelt field": (
        "  latency: 500 ns",
        "  latencyy: 500 ns",
        "FILE:15: memory.latencyy: unknown key 'latencyy'; known: bandwidth, bus_width, capacity, "
        "energy_per_byte, latency, pin_rate, ports, reserved, technology (did you mean 'latency'?)",
    ),
    "unknown element type": (
        "fp16: 312 TFLOP/s",
        "fp7: 312 TFLOP/s",
        "FILE:7: compute.matrix.fp7: found 'fp7'; known: fp64, fp32, tf32, fp16, bf16, fp8, fp4, "
        "mxfp4, int64, int32, int16, int8, int4, bool (did you mean 'fp8'?)",
    ),
    "unknown kind": (
        "kind: gpu",
        "kind: gpuu",
        "FILE:1: kind: found 'gpuu'; known: system, cluster, gpu, cpu, cpu-cache, dram, pim, flash, csd, accelerator, "
        "nic, switch, cache, spatial, threads, window-pipeline, pcie, nvlink, rdma, onchip, gpu_architecture "
        "(did you mean 'gpu'?)",
    ),
    "no kind": (
        "kind: gpu\n",
        "",
        "FILE:1: missing key 'kind'; known: system, cluster, gpu, cpu, cpu-cache, dram, pim, flash, csd, accelerator, "
        "nic, switch, cache, spatial, threads, window-pipeline, pcie, nvlink, rdma, onchip, gpu_architecture",
    ),
    "duplicate key": (
        "  latency: 500 ns",
        "  latency: 500 ns\n  latency: 600 ns",
        "FILE:16: memory.latency: duplicate key 'latency'; the first stands on line 15",
    ),
    "bandwidth where a size belongs": (
        "capacity: 80 GiB",
        "capacity: 80 GB/s",
        "FILE:13: memory.capacity: found '80 GB/s', which is a bandwidth; "
        "expected a size with its unit, such as '80 GiB'",
    ),
    "number without unit": (
        "bandwidth: 2039 GB/s",
        "bandwidth: 2039",
        f"FILE:14: memory.bandwidth: found 2039, a number without a unit; {UNIT}",
    ),
    "fraction without unit": (
        "bandwidth: 2039 GB/s",
        "bandwidth: 2039.5",
        f"FILE:14: memory.bandwidth: found '2039.5', a number without a unit; {UNIT}",
    ),
    "infinity": (
        "bandwidth: 2039 GB/s",
        "bandwidth: .inf",
        f"FILE:14: memory.bandwidth: found 'inf', which does not start with a number; {UNIT}",
    ),
    "negative count": (
        "multiprocessors: 108",
        "multiprocessors: -8",
        "FILE:4: multiprocessors: found -8; input should be greater than 0",
    ),
    "truth value as count": (
        "multiprocessors: 108",
        "multiprocessors: yes",
        "FILE:4: multiprocessors: found true; expected a whole number",
    ),
    "half a multiprocessor": (
        "multiprocessors: 108",
        "multiprocessors: 1.5",
        "FILE:4: multiprocessors: found '1.5'; expected a whole number",
    ),
    "text where keys belong": (
        "l2: {size: 40 MiB}",
        "l2: 40 MiB",
        "FILE:9: l2: found '40 MiB'; expected keys with values",
    ),
    "comma in a flow text": (
        "latency: 500 ns",
        "latency: {value: 500 ns, source: table 1, page 2}",
        "FILE:15: memory.latency: a figure has no key 'page 2'; a text with a comma must stand in quotes",
    ),
    "two origins": (
        "latency: 500 ns",
        "latency: {value: 500 ns, source: a, assumption: b}",
        "FILE:15: memory.latency: has both 'source' and 'assumption'; one of them holds",
    ),
    "empty source": (
        "latency: 500 ns",
        "latency: {value: 500 ns, source: }",
        "FILE:15: memory.latency: an empty 'source' says nothing",
    ),
    "object tag": (
        "name: card",
        "name: !!python/object/apply:os.getcwd []",
        "FILE:2: name: found the tag '!!python/object/apply:os.getcwd'; a config holds plain data",
    ),
    "binary tag": (
        "name: card",
        "name: !!binary aGVsbG8=",
        "FILE:2: name: found the tag '!!binary'; a config holds plain data",
    ),
    "broken YAML": (
        "l2: {size: 40 MiB}",
        "l2: {size: 40 MiB",
        "FILE:10: not valid YAML: expected ',' or '}', but got ':'",
    ),
    "two documents": (
        "l2: {size: 40 MiB}",
        "---\nl2: {size: 40 MiB}",
        "FILE:9: not valid YAML: but found another document",
    ),
    "NUL": ("name: card", "name: ca\0rd", "FILE: not a text file (character 0x00 at position 18)"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_file_gives_one_clear_line(case, tmp_path):
    good, bad, message = CASES[case]
    assert good in GPU
    path = tmp_path / "card.yaml"
    path.write_text(GPU.replace(good, bad, 1))
    assert problems_of(path) == [message]


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "card.yaml"
    text = GPU.replace("1410 MHz", "fast").replace("312 TFLOP/s", "312").replace("80 GiB", "80 GB/s")
    path.write_text(text.replace("l2:", "L2:"))
    lines = [int(re.search(r"FILE:(\d+)", line)[1]) for line in problems_of(path)]
    assert lines == sorted(lines)
    assert set(lines) == {1, 5, 7, 9, 13}


FILES = {
    "empty": (b"", "FILE:1: the file is empty"),
    "only a comment": (b"# nothing\n", "FILE:1: the file is empty"),
    "a list": (b"- a\n- b\n", "FILE:1: found no keys; expected a device, a link or a system"),
    "a word": (b"hello\n", "FILE:1: found no keys; expected a device, a link or a system"),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes(64), "FILE: not a text file (byte 0 is not UTF-8)"),
    "huge": (
        b"#" * (MAX_FILE_BYTES + 1),
        f"FILE: found {MAX_FILE_BYTES + 1} bytes; a config may have at most {MAX_FILE_BYTES} bytes",
    ),
    "deep": (b"[" * 5000 + b"]" * 5000, "FILE: too large or too deeply nested for a config"),
    "deep, shorter": (b"[" * 80 + b"]" * 80, "FILE:1: too large or too deeply nested for a config"),
    "alias in itself": (b"a: &a [*a]\n", "FILE:1: too large or too deeply nested for a config"),
    "a key that is a list": (b"? [a, b]\n: c\n", "FILE:1: a key must be a plain word"),
    "an unknown alias": (b"a: *b\n", "FILE:1: not valid YAML: found undefined alias 'b'"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_config_is_refused(case, tmp_path):
    content, message = FILES[case]
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    assert problems_of(path) == [message]


def test_an_alias_bomb_is_refused_quickly(tmp_path):
    rows = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(rows))
    (message,) = problems_of(path)
    assert "too large or too deeply nested for a config" in message


def test_a_missing_file_and_a_folder(tmp_path):
    assert problems_of(tmp_path / "no.yaml") == ["FILE: no such file"]
    assert problems_of(tmp_path) == ["FILE: not a file"]


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(InputError, match=r"unknown hardware 'a100-80g'.*did you mean 'a100-80gb'\?"):
        load_system("a100-80g")


def test_the_wrong_kind_of_file_is_named():
    with pytest.raises(InputError, match=r"pcie4-x16\.yaml:1: found a link; expected a system or a device"):
        load_system("pcie4-x16")
    with pytest.raises(InputError, match=r"found a system; expected a device"):
        load_device("dgx-a100")


SYSTEM = textwrap.dedent(
    """\
    name: box
    devices:
      gpu: {use: rtx-4090, count: 2}
      cpu: {use: ryzen-7950x, memory: host}
      host: {use: host-ddr5-4800-2ch-64gb}
    links:
      - {use: ddr5-4800-2ch-path, between: [cpu, host]}
      - {use: pcie4-x16, between: [gpu, cpu]}
    """
)
SYSTEM_CASES = {
    "unknown device": (
        "use: rtx-4090",
        "use: rtx-4091",
        ["FILE:3: devices.gpu.use: unknown hardware 'rtx-4091': neither a shipped config (see "
         "'offchip hw list') nor a file (did you mean 'rtx-4090'?)"],
    ),
    "link as device": ("use: rtx-4090", "use: pcie4-x16", ["LIBRARY:1: found a link; expected a device"]),
    "device as link": ("use: pcie4-x16", "use: rtx-4090", ["LIBRARY:1: found a device; expected a link"]),
    "unknown group in a link": (
        "between: [gpu, cpu]",
        "between: [gpus, cpu]",
        ["FILE:8: links.1: unknown device group 'gpus' (did you mean 'gpu'?)"],
    ),
    "unknown group as memory": (
        "memory: host",
        "memory: hots",
        ["FILE:4: devices.cpu.memory: unknown device group 'hots' (did you mean 'host'?)"],
    ),
    "memory without memory": (
        "memory: host",
        "memory: cpu",
        ["FILE:4: devices.cpu.memory: group 'cpu' has no memory; groups that have: gpu, host"],
    ),
    "no memory": (
        ", memory: host",
        "",
        ["FILE:4: devices.cpu: cpu 'ryzen-7950x' has no memory; name a group to work in under 'memory'"],
    ),
    "disconnected": (
        "  - {use: pcie4-x16, between: [gpu, cpu]}\n",
        "",
        ["FILE:3: devices.gpu: no link path leads from 'gpu0' to 'gpu1'",
         "FILE:4: devices.cpu: no link path leads from 'gpu0' to 'cpu'",
         "FILE:5: devices.host: no link path leads from 'gpu0' to 'host'"],
    ),
    "joined twice": (
        "between: [gpu, cpu]}\n",
        "between: [gpu, cpu]}\n  - {use: pcie4-x8, between: [gpu, cpu]}\n",
        ["FILE:9: links.2: joins gpu0 and cpu a second time; raise its lanes or links instead"],
    ),
    "link to itself": (
        "between: [gpu, cpu]",
        "between: [cpu, cpu]",
        ["FILE:8: links.1: connects a device with itself"],
    ),
    "three ends": (
        "between: [gpu, cpu]",
        "between: [gpu, cpu, host]",
        ["FILE:8: links.1.between: found ['gpu', 'cpu', 'host']; list should have at most 2 items after "
         "validation, not 3"],
    ),
    "neither use nor device": (
        "{use: rtx-4090, count: 2}",
        "{count: 2}",
        ["FILE:3: devices.gpu: needs either 'use' (a device's name) or 'device' (in place)"],
    ),
    "count zero": (
        "count: 2",
        "count: 0",
        ["FILE:3: devices.gpu.count: found 0; input should be greater than or equal to 1"],
    ),
    "islands that do not divide": (
        "between: [gpu, cpu]",
        "between: [gpu, cpu], islands: 2",
        ["FILE:8: links.1: groups of 2 and 1 do not cut into 2 islands"],
    ),
    "names that clash": (
        "  cpu:",
        "  gpu0: {use: t4}\n  cpu:",
        ["FILE:4: devices.gpu0: its member 'gpu0' bears the name of a member of group 'gpu'"],
    ),
    "threads of a GPU": (
        "use: rtx-4090, count: 2",
        "use: rtx-4090, count: 2, threads: 8",
        ["FILE:3: devices.gpu.threads: gpu 'rtx-4090' has no 'threads'; a CPU has"],
    ),
    "more threads than a CPU has": (
        "memory: host",
        "memory: host, threads: 33",
        ["FILE:4: devices.cpu.threads: 33 threads are more than two on each of 16 cores"],
    ),
    "sockets without a link": (
        "memory: host",
        "memory: host, sockets: 2",
        ["FILE:4: devices.cpu.sockets: ryzen-7950x states no 'socket_link', by which sockets would work as one"],
    ),
    "schema and reference at once": (
        "use: rtx-4090, count: 2",
        "use: rtx-4091, cuont: 2",
        ["FILE:3: devices.gpu.cuont: unknown key 'cuont'; known: count, device, memory, placement, "
         "sockets, threads, use (did you mean 'count'?)",
         "FILE:3: devices.gpu.use: unknown hardware 'rtx-4091': neither a shipped config (see "
         "'offchip hw list') nor a file (did you mean 'rtx-4090'?)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SYSTEM_CASES)
def test_a_bad_system_gives_clear_lines(case, tmp_path):
    good, bad, messages = SYSTEM_CASES[case]
    assert good in SYSTEM
    path = tmp_path / "box.yaml"
    path.write_text(SYSTEM)
    assert check_file(path) == "system"
    path.write_text(SYSTEM.replace(good, bad, 1))
    found = [re.sub(r"/\S*/hw_configs/\S*\.yaml", "LIBRARY", line) for line in problems_of(path)]
    assert found == messages


def test_a_system_without_a_computing_device_says_so(tmp_path):
    path = tmp_path / "box.yaml"
    path.write_text("name: shelf\ndevices:\n  ssd: {use: nvme-pcie4-tlc}\n")
    assert problems_of(path) == ["FILE:2: devices: no device of this system computes"]


def test_a_fault_in_a_file_beside_it_names_that_file_and_line(tmp_path):
    (tmp_path / "card.yaml").write_text(GPU.replace("bandwidth: 2039 GB/s", "bandwidth: -3 GB/s"))
    (tmp_path / "box.yaml").write_text("name: box\ndevices:\n  gpu: {use: card}\n")
    (message,) = problems_of(tmp_path / "box.yaml")
    assert message == (
        f"{tmp_path}/card.yaml:14: memory.bandwidth: found '-3 GB/s'; a bandwidth must be greater than zero"
    )


def test_a_fault_in_a_device_in_place_has_the_line_of_the_system_file(tmp_path):
    inner = textwrap.indent(GPU.replace("2039 GB/s", "-3 GB/s"), "      ")
    (tmp_path / "box.yaml").write_text(f"name: box\ndevices:\n  gpu:\n    device:\n{inner}")
    assert problems_of(tmp_path / "box.yaml") == [
        "FILE:18: devices.gpu.device.memory.bandwidth: found '-3 GB/s'; a bandwidth must be greater than zero"
    ]
