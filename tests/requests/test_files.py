"""Request files: a format is told from content, rows are what the file says, and what is wrong has a place."""

from __future__ import annotations

import contextlib
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.requests.description import draw_requests, read_description
from workloads.requests.files import FORMATS, read_requests
from workloads.requests.sources import load_requests
from workloads.requests.table import Requests

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,0
2023-11-16 18:15:49.0000000,91,16
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
118,GPT-4,417,0,417,API log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 1100, "output_length": 52, "hash_ids": [0, 1, 2]}
{"timestamp": 3000, "input_length": 1024, "output_length": 26, "hash_ids": [0, 1]}
{"timestamp": 4500, "input_length": 600, "output_length": 3, "hash_ids": [0, 7]}
"""
SHAREGPT = json.dumps(
    [
        {"id": "a", "conversations": [{"from": "human", "value": "x" * 41}, {"from": "gpt", "value": "y" * 8}]},
        {"id": "b", "conversations": [{"from": "system", "value": "s"}, {"from": "user", "tokens": 7},
                                      {"from": "assistant", "value": "12345"}]},
        {"id": "c", "conversations": [{"from": "human", "value": "alone"}]},
    ],
    indent=1,
)  # fmt: skip
VLLM = json.dumps(
    {"backend": "vllm", "input_lens": [10, 20], "output_lens": [5, 6], "start_times": [100.5, 101.0]}
)
TABLE = """arrival_s,prompt_tokens,output_tokens,priority,adapter,deadline_s,after,think_s
0,10,5,0,,,-1,0
1.5,20,6,2,law,9.5,0,3.25
"""
GOOD = {
    "azure": (AZURE, [374, 91, 396], [44, 16, 109], [0, 2.31941, 4.314579]),
    "burstgpt": (BURST, [472, 1087], [18, 230], [0, 40]),
    "mooncake": (MOONCAKE, [1100, 1024, 600], [52, 26, 3], [0, 3, 4.5]),
    "sharegpt": (SHAREGPT, [11, 7], [2, 2], [0, 0]),
    "vllm": (VLLM, [10, 20], [5, 6], [0, 0.5]),
    "table": (TABLE, [10, 20], [5, 6], [0, 1.5]),
}


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", GOOD)
def test_a_file_is_told_by_its_content_and_read(tmp_path: Path, name: str, packed: str) -> None:
    text, prompt, output, arrival = GOOD[name]
    path = tmp_path / f"requests.any{packed}"
    if packed == ".zst":
        path.write_bytes(pytest.importorskip("zstandard").compress(text.encode()))
    else:
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    read = read_requests(path)
    assert read.format == name
    assert read.requests.prompt_tokens.tolist() == prompt
    assert read.requests.output_tokens.tolist() == output
    assert read.requests.arrival_s == pytest.approx(arrival, abs=1e-6)
    assert sum(read.skipped.values()) == {"azure": 1, "burstgpt": 1, "sharegpt": 1}.get(name, 0)
    assert read_requests(path, name, limit=1).requests.count == 1


def test_every_format_has_a_good_file_here() -> None:
    assert set(GOOD) == set(FORMATS)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file.txt"
    path.write_text(text)
    return path


def test_equal_blocks_are_equal_tokens(tmp_path: Path) -> None:
    requests = read_requests(write(tmp_path, MOONCAKE)).requests
    assert requests.segment_begin.tolist() == [0, 3, 5, 7]
    assert requests.segment_stream.tolist() == [0, 1, 2, 0, 1, 0, 7]
    assert requests.segment_tokens.tolist() == [512, 512, 76, 512, 512, 512, 88]


def test_a_table_brings_its_further_columns(tmp_path: Path) -> None:
    requests = read_requests(write(tmp_path, TABLE)).requests
    assert requests.adapters == ("law",)
    assert requests.adapter.tolist() == [-1, 0]
    assert requests.priority.tolist() == [0, 2]
    assert requests.deadline_s.tolist() == [np.inf, 9.5]
    assert requests.after.tolist() == [-1, 0]
    assert requests.think_s.tolist() == [0, 3.25]


WRONG = {
    AZURE.replace("396,", "-3,"): ":3: ContextTokens: found '-3'; expected a whole number from 0 to",
    AZURE.replace("2023-11-16 18:15:49.0000000", "yesterday"): ":5: TIMESTAMP: found 'yesterday'; expected a time",
    AZURE.replace(",44", ""): ":2: found '2 cells'; expected 3, as in the first line",
    BURST.replace("1087", "many"): ":3: Request tokens: found 'many'; expected a whole number",
    BURST.replace("\n45,", "\nnan,"): ":3: Timestamp: found 'nan'; expected a time of at least 0",
    MOONCAKE.replace("[0, 1]", "[0]"): ":2: hash_ids: found '1 blocks'; expected 2 blocks of 512 tokens for 1024",
    MOONCAKE.replace("1100", "true"): ":1: input_length: found True; expected a whole number",
    MOONCAKE.replace('"output_length": 26', '"output_length": '): ":2: found ",
    SHAREGPT.replace('"value": "12345"', '"value": 5'): ": conversations.2.value: found 5; expected a text",
    SHAREGPT[:-3]: "not valid JSON",
    VLLM.replace("[10, 20]", "[10]"): "have different lengths",
    '{"backend": "vllm"}': "save the result with --save-detailed",
    TABLE.replace("priority", "prio"): "unknown column 'prio'",
    TABLE.replace(",0,3.25", ",1,3.25"): ":3: after: found '1'; expected a whole number from -1 to 0",
    "": "the file is empty",
    "a,b\n1,2\n": "expected the first line of a known format",
    "[]": "found no request",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_has_file_line_and_field(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as found:
        read_requests(path)
    assert WRONG[text] in str(found.value)
    assert all(line.startswith(str(path)) for line in str(found.value).splitlines())


def test_many_wrong_lines_are_told_together_up_to_a_bound(tmp_path: Path) -> None:
    text = AZURE + "x,y,z\n" * 100
    with pytest.raises(InputError) as found:
        read_requests(write(tmp_path, text))
    assert len(found.value.problems) == 20


@given(
    st.sampled_from(sorted(GOOD)), st.integers(0, 10**6), st.binary(max_size=6), st.integers(0, 5),
    st.sampled_from([None, *FORMATS]),
)  # fmt: skip
@example("sharegpt", 3, b"[" * 6, 0, "sharegpt")
@example("azure", 5, b'"', 0, None)
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_or_refused(
    tmp_path: Path, name: str, place: int, put: bytes, cut: int, format: str | None
) -> None:
    data = GOOD[name][0].encode()
    place %= len(data)
    path = tmp_path / "damaged"
    path.write_bytes(data[:place] + put + data[place + cut :])
    with contextlib.suppress(InputError):
        assert isinstance(read_requests(path, format).requests, Requests)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"input_length": ' + "9" * 5000 + "}", '[{"a": ' * 50_000, "\x00" * 50]
)
def test_deep_and_endless_files_are_refused(tmp_path: Path, text: str) -> None:
    for name in [None, *FORMATS]:
        with pytest.raises(InputError):
            read_requests(write(tmp_path, text), name)


def test_a_description_takes_a_trace_beside_it(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(AZURE)
    spec = tmp_path / "spec.yaml"
    spec.write_text("trace: {path: trace.csv, speed: 2}\npriority: {values: [3]}\n")
    requests = load_requests(spec).requests
    assert requests.arrival_s == pytest.approx([0, 1.159705, 2.1572895])
    assert requests.priority.tolist() == [3, 3, 3]
    spec.write_text("trace: {path: trace.csv}\narrivals: {kind: constant, rate: 10 /s}\n")
    assert load_requests(spec).requests.arrival_s == pytest.approx([0, 0.1, 0.2])
    text = "requests: 5\nprompt: {kind: file, path: trace.csv}\noutput: 1\narrivals: {kind: file, path: trace.csv}"
    spec.write_text(text)
    drawn = draw_requests(read_description(spec))
    assert drawn.prompt_tokens.tolist() == [374, 91, 396, 374, 91]
    assert (np.diff(drawn.arrival_s) > 0).all()


def test_a_trace_can_be_sent_faster(tmp_path: Path) -> None:
    source = load_requests(write(tmp_path, AZURE))
    assert source.rate == pytest.approx(2 / 4.314579)
    assert source.notes == ("file.txt: left out 1: no output tokens (a failure in the trace)",)
    faster = source.at_rate(10)
    assert faster.arrival_s[-1] == pytest.approx(0.2)
    assert np.array_equal(faster.prompt_tokens, source.requests.prompt_tokens)
