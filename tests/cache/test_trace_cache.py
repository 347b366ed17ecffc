"""``offchip trace cache``, ``offchip caches``, validation and the device kind: what a user sees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import offchip
from hw_configs.library import load_device
from hw_configs.problems import InputError
from offchip.validation.cache import POLICY_NAMES
from offchip.validation.registry import VALIDATORS, Options
from simulator.cache.replacement.policy import POLICIES

ROWS = Path(__file__).parents[1] / "reference" / "cache"


def test_reference_rows_are_met() -> None:
    results = list(VALIDATORS.get("cache")(ROWS, "*", Options()))
    assert len(results) > 100
    assert {r.verdict for r in results} == {"ok"}
    assert {r.groups["policy"] for r in results} == set(POLICY_NAMES)
    both = {(r.groups["policy"], r.groups["sizes"]) for r in results}
    assert both == {(name, sizes) for name in POLICY_NAMES for sizes in ("unit", "hashed")}


@pytest.mark.parametrize(
    ("column", "value"), [("misses", "1"), ("byte_miss_ratio", "0.5"), ("trace_sha256_16", "0")]
)
def test_a_wrong_row_is_noticed(tmp_path: Path, column: str, value: str) -> None:
    header, row = (ROWS / "replacement.csv").read_text(encoding="utf-8").splitlines()[:2]
    cells = row.split(",")
    cells[header.split(",").index(column)] = value
    (tmp_path / "replacement.csv").write_text(f"{header}\n{','.join(cells)}\n", encoding="utf-8")
    (result,) = VALIDATORS.get("cache")(tmp_path, "*", Options())
    assert result.verdict == "off"


def test_a_policy_that_is_not_here_is_unsupported(tmp_path: Path) -> None:
    text = (ROWS / "replacement.csv").read_text(encoding="utf-8")
    (tmp_path / "replacement.csv").write_text(text.replace(",FIFO,", ",Best,"), encoding="utf-8")
    results = list(VALIDATORS.get("cache")(tmp_path, "p0", Options()))
    assert [r.verdict for r in results] == ["unsupported"]


def test_several_policies_compare_in_one_table(cli: Any) -> None:
    found = cli("trace", "cache", "zipf0.9:3000:300", "--size", "40 B", "--policy", "lru,sieve,belady")
    assert found.code == 0
    assert all(name in found.out for name in ("lru", "sieve", "belady", "miss ratio"))


def test_json_has_levels_and_curves(cli: Any, tmp_path: Path) -> None:
    picture = tmp_path / "a.svg"
    found = cli("trace", "cache", "zipf0.9:2000:200:1:size=1MiB:writes=0.2", "--hw", "object-cache-1gib", "--policy",
                "lru,fifo", "--curve", "--plot", picture, "--json")  # fmt: skip
    data = json.loads(found.out)
    assert [run["label"] for run in data["runs"]] == ["lru", "fifo"]
    assert data["curves"][0]["method"] == "one pass"
    assert data["runs"][0]["levels"][0]["bytes_down"] >= 0
    assert picture.read_text(encoding="utf-8").startswith("<?xml")
    assert not list(tmp_path.glob("*.part"))


def test_pictures_are_the_same_each_time(tmp_path: Path) -> None:
    parts = []
    for name in ("a.svg", "b.svg"):
        offchip.trace_cache(
            "zipf0.9:2000:200", size="40 B", policy="lru", curve=True, plot=str(tmp_path / name)
        )
        parts.append((tmp_path / name).read_bytes())
    assert parts[0] == parts[1]


def test_a_file_runs_through_two_levels(cli: Any, tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("object,size\n" + "".join(f"{i % 7},{2**30}\n" for i in range(50)), encoding="utf-8")
    found = cli("trace", "cache", trace, "--hw", "cdn-memory-flash")
    assert found.code == 0
    assert "flash" in found.out
    assert "time per request" in found.out


def test_settings_go_to_the_policies_that_have_them() -> None:
    result = offchip.trace_cache(
        "zipf0.9:3000:300", size="40 B", policy="slru,lru", settings={"segments": "2"}
    )
    other = offchip.trace_cache("zipf0.9:3000:300", size="40 B", policy="slru,lru")
    assert result.runs[0].misses != other.runs[0].misses
    assert result.runs[1].misses == other.runs[1].misses


def test_a_notebook_shows_tables() -> None:
    result = offchip.trace_cache("loop:100:10", size="20 B", policy="lru", grain="1 B")
    assert "<table>" in result._repr_html_()
    assert result.runs[0].misses == 10


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({}, "--hw"), ({"size": "1 MiB"}, "--policy"), ({"size": "1 MiB", "policy": "lur"}, "did you mean 'lru'"),
        ({"size": "1 MiB", "policy": "lru,lru"}, "each once"), ({"size": "no", "policy": "lru"}, "--size"),
        ({"size": "0 B", "policy": "lru"}, "--size"), ({"size": "1 B", "hw": "a100-80gb"}, "one of them"),
        ({"hw": "a100-80gb"}, "expected 'cache'"), ({"size": "3 B", "policy": "slru"}, "--size"),
        ({"size": "9 B", "policy": "lru", "settings": {"k": 2}}, "no setting 'k'"),
        ({"size": "9 B", "policy": "lru", "sample": 0.0}, "--sample"),
        ({"size": "9 B", "policy": "lru", "plot": "a.bmp"}, "--plot"),
        ({"size": "9 B", "policy": "lru", "seed": -1}, "--seed"),
        ({"size": "9 B", "policy": "lru", "grain": "0 B"}, "--grain"), ({"size": 9, "policy": "lru"}, "size"),
    ],
)  # fmt: skip
def test_wrong_options_are_told(options: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError) as caught:
        offchip.trace_cache("loop:100:10", **options)
    assert part in str(caught.value)


def test_bad_input_leaves_with_two_and_one_line(cli: Any) -> None:
    for arguments in (("nothing.csv",), ("loop:1",), ("zipf",)):
        found = cli("trace", "cache", *arguments, "--size", "1 KiB", "--policy", "lru")
        assert found.code == 2
        assert "Traceback" not in found.err


def test_policies_are_listed_with_their_settings(cli: Any) -> None:
    listed = cli("caches", "list").out
    assert all(name in listed for name in POLICIES)
    shown = cli("caches", "show", "s3-fifo").out
    assert "SOSP 2023" in shown
    assert "threshold" in shown
    data = json.loads(cli("caches", "show", "mq", "--json").out)
    assert [setting["name"] for setting in data["settings"]] == ["queues", "lifetime", "ghost"]
    assert cli("caches", "show", "mqq").code == 2


def test_a_cpu_cache_goes_to_its_own_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    from offchip.tracing import cache

    called: list[Any] = []
    engine = types.ModuleType("offchip.tracing.cpu_cache")
    engine.trace_cpu_cache = lambda *a, **k: called.append((a, k)) or "ran"  # type: ignore[attr-defined, func-returns-value]
    monkeypatch.setitem(sys.modules, "offchip.tracing.cpu_cache", engine)
    monkeypatch.setattr(cache, "_device", lambda _: types.SimpleNamespace(kind="cpu-cache"))
    assert offchip.trace_cache("x", hw="some-cpu") == "ran"
    assert called[0][0] == ("x", "some-cpu")
    with pytest.raises(InputError, match="--policy"):
        offchip.trace_cache("x", hw="some-cpu", policy="lru")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("levels: {}", "at least one level"), ("levels: {a: {policy: lru}}", "size"),
        ("levels: {a: {size: 0 B}}", "size"), ("levels: {a: {size: 1 B, colour: red}}", "colour"),
    ],
)  # fmt: skip
def test_a_wrong_hardware_file_is_told(tmp_path: Path, change: str, part: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"kind: cache\nname: c\nsource: none\n{change}\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        offchip.trace_cache("loop:10:3", hw=str(file))
    assert part in str(caught.value)


def test_a_hardware_file_may_set_policies_and_grain(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "kind: cache\nname: c\nsource: none\ngrain: 1 KiB\n"
        "levels: {a: {size: 4 KiB, policy: clock, settings: {bits: 2}}}\n", encoding="utf-8",
    )  # fmt: skip
    result = offchip.trace_cache("loop:10:3:1:size=2KiB", hw=str(file))
    assert result.requests == 20
    assert load_device(file).levels["a"].settings == {"bits": 2}  # type: ignore[union-attr]


def test_an_interrupt_prints_what_was_computed(tmp_path: Path) -> None:
    import signal
    import time

    command = [sys.executable, "-c", "from offchip.cli.main import main; main()", "trace", "cache",
               "loop:1000000000:100", "--size", "50 B", "--policy", "lru", "--json"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    data = json.loads(out)
    assert data["interrupted"]
    assert data["requests"] == data["runs"][0]["requests"] > 0


def test_another_package_can_add_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    from simulator.cache.replacement.fifo import FIFO

    class Point:
        name = "mine"

        def load(self) -> Any:
            return FIFO

    monkeypatch.setattr(type(POLICIES), "_points", lambda _: [Point()])
    assert offchip.trace_cache("loop:100:10", size="5 B", policy="mine").runs[0].misses == 100


def test_the_page_names_every_policy_and_its_commands_run(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "caches.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in POLICIES)
    monkeypatch.chdir(tmp_path)
    commands = [line[2:].split()[1:] for line in page.splitlines() if line.startswith("$ offchip")]
    assert len(commands) == 6
    for command in commands:
        if not any("oracleGeneral" in word for word in command):
            found = cli(*command)
            assert found.code == 0, found.err
    assert (tmp_path / "curve.svg").is_file()
