"""One point to its row: statuses and reasons, what is estimated and what simulated, and the figures by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hw_configs.problems import InfeasibleError, InputError, NoAnswerError, Problem
from offchip.sweep import evaluate as evaluate_module
from offchip.sweep import limit as limit_module
from offchip.sweep.cache import DiskCache
from offchip.sweep.evaluate import Evaluator, _options
from offchip.sweep.expression import ExpressionError
from offchip.sweep.figures import _plain, figures_of
from offchip.sweep.keys import beside, file_digest, point_key
from offchip.sweep.limit import PointStopped
from offchip.sweep.machine import Machines
from offchip.sweep.space import Space
from tests.sweep.spaces import space_of

TEXT = """
model: resnet-50
hw: a100-80gb
time_limit: 5 s
vary: {batch: [1, 2], gpu.power.idle: [50 W]}
constraints: [batch < 9]
fidelity: [analytic, event]
objectives: {makespan_s: minimise}
"""
VALUES: dict[str, Any] = {"batch": 1, "gpu.power.idle": 50.0}


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return space_of(tmp_path, TEXT)


def raising(error: BaseException) -> Any:
    def run(*_: Any) -> Any:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (InfeasibleError("too  large\n by 3 B"), "infeasible", "too large by 3 B"),
        (InputError([Problem("no such thing", "file", 3)]), "invalid", "file:3: no such thing"),
        (ExpressionError("no value"), "invalid", "no value"),
        (NoAnswerError("none in time"), "failed", "none in time"),
        (ZeroDivisionError("oh"), "failed", "ZeroDivisionError: oh"),
        (ValueError("x" * 600), "failed", ("ValueError: " + "x" * 600)[:500]),
    ],
)
def test_whatever_a_point_does_is_a_row(
    space: Space, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str, reason: str
) -> None:
    evaluator = Evaluator(space, code="code")
    monkeypatch.setattr(evaluator, "_run", raising(error))
    row = evaluator.row(4, VALUES, 1)
    key = point_key(space, Machines(space.beside), VALUES, 1, "code")
    assert (row.number, row.stage, row.attempts, row.key) == (4, 1, 1, key)
    assert (row.status, row.reason, row.figures, row.parameters) == (status, reason, {}, VALUES)


def test_a_point_that_is_excluded_is_not_run(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(space, code="code")
    monkeypatch.setattr(evaluator, "_run", raising(AssertionError()))
    row = evaluator.row(0, {**VALUES, "batch": 9})
    assert (row.status, row.reason) == ("excluded", "breaks batch < 9")


@pytest.mark.parametrize(("taken", "status"), [(5.0, "ok"), (5.5, "timeout")])
def test_a_point_that_was_too_slow_is_a_timeout(
    space: Space, monkeypatch: pytest.MonkeyPatch, taken: float, status: str
) -> None:
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(limit_module, "time", clock)

    def outcome(*_: Any) -> Any:
        clock.now += taken
        return "ok", "", {"y": 1.0}

    evaluator = Evaluator(space, code="code")
    monkeypatch.setattr(evaluator, "_outcome", outcome)
    row = evaluator.row(0, VALUES)
    assert (row.status, row.seconds) == (status, taken)
    assert (row.reason, row.figures) == (
        ("", {"y": 1.0}) if status == "ok" else ("ran longer than the limit of 5 s and was stopped", {})
    )
    monkeypatch.setattr(evaluator, "_outcome", raising(PointStopped()))
    assert evaluator.row(0, VALUES).status == "timeout"


def test_settings_are_options_and_the_rest() -> None:
    settings = {
        "model": "m",
        "hw": "h",
        "batch": 3,
        "settings.device": "gpu1",
        "dims.n": 4,
        "gpu.count": 2,
        "tp": 2,
    }
    assert _options(settings) == {"batch": 3, "tp": 2, "settings": {"device": "gpu1"}, "dims": {"n": 4}}


@pytest.mark.parametrize(
    ("hw", "options", "estimated"),
    [
        ("a100-80gb", {}, True), ("a100-80gb", {"tp": 2}, False), ("a100-80gb", {"pp": 2}, False),
        ("a100-80gb", {"microbatches": 2}, False), ("a100-80gb", {"tp": 1, "pp": 1, "microbatches": 1}, True),
        ("a100-80gb", {"mapper": "single-device"}, True), ("a100-80gb", {"mapper": "offload"}, False),
        ("a100-80gb", {"collective": "ring"}, True), ("a100-80gb", {"collective": "none"}, False),
        ("a100-80gb", {"cost_model": "by-device"}, True), ("a100-80gb", {"cost_model": "mine"}, False),
        ("a100-80gb", {"settings": {"device": "a100-80gb"}}, True), ("a100-80gb", {"settings": {"x": 1}}, False),
        ("dgx-a100", {"mapper": "single-device", "settings": {"device": "gpu3"}}, True),
        ("dgx-a100", {"mapper": "single-device"}, True),
    ],
)  # fmt: skip
def test_what_is_estimated(space: Space, hw: str, options: dict[str, Any], estimated: bool) -> None:
    evaluator = Evaluator(space, code="code")
    found = evaluator._estimate(
        "resnet-50", {"settings": {}, "dims": {}, **options}, evaluator.machines.base(hw)
    )
    assert (found is not None) == estimated
    if found is not None:
        device = options.get("settings", {}).get("device", "gpu0" if hw == "dgx-a100" else hw)
        assert list(found.devices) == [device]
        assert found.provenance["collective"] == options.get("collective", "auto")


def test_workloads_used_last_are_remembered(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workloads import importers

    loaded: list[int] = []
    load = importers.load_workload
    monkeypatch.setattr(importers, "load_workload", lambda m, o: loaded.append(o.batch) or load(m, o))
    monkeypatch.setattr(evaluate_module, "CONDENSED_REMEMBERED", 2)
    monkeypatch.setattr(evaluate_module, "WORKLOADS_REMEMBERED", 1)
    evaluator = Evaluator(space, DiskCache(tmp_path / "cache"), "code")

    def condensed(batch: int) -> Any:
        return evaluator._condensed("resnet-50", {"batch": batch, "dims": {}})

    one, two = condensed(1), condensed(2)
    assert (loaded, condensed(1) is one, len(evaluator._workloads)) == ([1, 2], True, 1)
    three = condensed(3)
    assert condensed(1) is one
    assert len(evaluator._condensed_by_key) == 2
    again = condensed(2)
    assert (again is two, again.order.tolist() == two.order.tolist(), loaded) == (False, True, [1, 2, 3]), (
        "read from disk"
    )
    assert len(evaluator._condensed_by_key) == 2
    assert condensed(3) is not three
    workload = evaluator._workload("resnet-50", {"batch": 3, "dims": {}})
    assert evaluator._workload("resnet-50", {"batch": 3, "dims": {}}) is workload
    assert loaded == [1, 2, 3]


def test_names_and_files(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("one")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("one")
    assert beside("m.json", tmp_path) == str(tmp_path / "m.json")
    assert (beside("n.json", tmp_path), beside("m.json", None)) == ("n.json", "m.json")
    digest = file_digest(str(tmp_path / "m.json"))
    assert len(digest) == 64
    assert file_digest(str(tmp_path / "folder")) == digest
    assert file_digest("resnet-50") == "resnet-50"
    (tmp_path / "m.json").write_text("other")
    assert file_digest(str(tmp_path / "m.json")) != digest


def use(peak: int, usable: int, read: float = 0.0, written: float = 0.0) -> Any:
    return SimpleNamespace(peak_bytes=peak, usable_bytes=usable, read_bytes=read, written_bytes=written)


def result(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "makespan_s": 2.0,
        "summary": lambda: {"tokens_per_s": 4.0, "energy_j": 16.0, "tokens": 8},
        "memories": {"m-0": use(30, 100, 5.0, 1.0), "m1": use(20, 40, 7.0, 2.0)},
        "devices": {"d0": SimpleNamespace(utilisation=0.5, compute_utilisation=0.25),
                    "d1": SimpleNamespace(utilisation=0.75, compute_utilisation=0.125)},
        "wires": {"w:a-b": SimpleNamespace(bytes_forward=3.0, bytes_backward=4.0),
                  "v": SimpleNamespace(bytes_forward=1.0, bytes_backward=0.0)},
        "energy_j": {"d0 compute": 12.0, "d0 idle": 4.0},
        "time_by_bound": lambda: {"memory": 1.5},
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


def device(**stated: Any) -> Any:
    return SimpleNamespace(device=SimpleNamespace(**stated))


def test_figures_by_hand() -> None:
    nodes = {"d0": device(price=100.0, price_rate=0.5, area=2.0), "d1": device(price=50.0, price_rate=0.25),
             "switch": device(price=7.0), "host": device()}  # fmt: skip
    system: Any = SimpleNamespace(nodes=nodes, price_rate=None)
    assert figures_of(result(), system) == {
        "tokens_per_s": 4.0, "energy_j": 16.0, "tokens": 8, "tokens_per_j": 0.5, "peak_memory_bytes": 30,
        "peak_memory_share": 0.5, "read_bytes": 12.0, "written_bytes": 3.0, "link_bytes": 8.0, "utilisation": 0.75,
        "compute_utilisation": 0.25, "power_w": 8.0, "price_usd": 157.0, "price_rate_usd_per_s": 0.75,
        "tokens_per_usd": 4 / 0.75, "memory.m_0.peak_bytes": 30, "memory.m1.peak_bytes": 20, "time.memory_s": 1.5,
        "energy.d0_compute_j": 12.0, "energy.d0_idle_j": 4.0, "link.w_a_b.bytes": 7.0, "link.v.bytes": 1.0,
    }  # fmt: skip


def test_figures_that_are_not_there() -> None:
    system: Any = SimpleNamespace(nodes={"d0": device(), "d1": device(price_rate=9.0)}, price_rate=3.0)
    bare = result(
        makespan_s=0.0, summary=lambda: {"energy_j": 16.0}, memories={}, devices={}, wires={}, energy_j={},
        time_by_bound=dict,
    )  # fmt: skip
    assert figures_of(bare, system) == {
        "energy_j": 16.0, "peak_memory_bytes": 0, "peak_memory_share": 0.0, "read_bytes": 0, "written_bytes": 0,
        "link_bytes": 0, "utilisation": 0.0, "compute_utilisation": 0.0, "price_rate_usd_per_s": 3.0,
    }  # fmt: skip
    free: Any = SimpleNamespace(nodes=system.nodes, price_rate=0.0)
    still = figures_of(result(summary=lambda: {"tokens_per_s": 4.0, "energy_j": 0.0, "tokens": 8}), free)
    assert {"tokens_per_j", "tokens_per_usd"} & {*still} == set()
    assert (still["price_rate_usd_per_s"], still["power_w"]) == (0.0, 0.0)


def test_names_that_can_stand_in_an_expression() -> None:
    assert [_plain(name) for name in ("gpu0", "a100-80gb", "pcie:gpu0-cpu (x)", "_a")] == [
        "gpu0", "a100_80gb", "pcie_gpu0_cpu_x", "a",
    ]  # fmt: skip
