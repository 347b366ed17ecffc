"""What a run leaves for its report: placements, critical path, flows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from machines import GivenSeconds
from random_plans import Case, cases

from offchip import api
from offchip.export import write_result
from offchip.report.record import Record, critical_path
from offchip.report.run import read_folder, run_page
from simulator.plan import Home
from simulator.system.bound_plan import bind
from simulator.system.costs import CostTable
from simulator.system.engine import run_events

EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@EXAMPLES
@given(cases())
def test_the_critical_path_accounts_for_every_moment(case: Case) -> None:
    program = bind(case.plan, case.graph, case.system)
    run = run_events(case.graph, program, case.system, CostTable(case.system, GivenSeconds()))
    path, waited = critical_path(program, run)
    assert set(waited) <= set(path)
    assert len(set(path)) == len(path)
    now = run.start
    for index in path:
        assert run.records[index].start == pytest.approx(now, abs=1e-9 * max(run.end, 1.0))
        now = run.records[index].end
    assert now == run.end or not path


@EXAMPLES
@given(cases())
def test_placements_add_up_to_the_ledger_at_every_moment(case: Case) -> None:
    program = bind(case.plan, case.graph, case.system)
    run = run_events(case.graph, program, case.system, CostTable(case.system, GivenSeconds()))
    record = Record(case.system)
    record.watch(case.graph, program, run)
    for memory, entries in run.ledger.entries.items():
        stays = [p for p in record.placements if p.memory == memory]
        moments = sorted({time for time, _, _ in entries})
        for moment in moments[:-1]:
            held = sum(change for time, _, change in entries if time <= moment)
            assert sum(p.size for p in stays if p.start <= moment < p.end) == held


@pytest.mark.parametrize("name", ["long_run", "parallel_run", "streamed_run"])
def test_real_runs(name: str, request: pytest.FixtureRequest) -> None:
    result, detail = read_folder(request.getfixturevalue(name))
    columns, record = detail["columns"], detail["record"]
    spent = sum(columns["end"][i] - columns["start"][i] for i in record["critical"])
    assert spent == pytest.approx(result["summary"]["makespan_s"], rel=1e-9)
    page = run_page(result, detail)
    for kind, read, written in (("bytes", "read_bytes", "written_bytes"),):
        links = page["flows"][kind]["links"]
        nodes = page["flows"][kind]["nodes"]
        for key, column in ((read, 0), (written, 1)):
            total = sum(use[key] for use in result["memories"].values())
            shown = sum(link["amount"] for link in links if nodes[link["source"]]["column"] == column)
            assert shown == pytest.approx(total, rel=1e-9)
    for column in (0, 1):
        flow = page["flows"]["energy"]
        shown = sum(e["amount"] for e in flow["links"] if flow["nodes"][e["source"]]["column"] == column)
        assert shown == pytest.approx(result["energy_j"]["total"], rel=1e-9)
    assert sum(row["seconds"] for row in page["operators"]) == pytest.approx(
        sum(end - start for start, end in zip(columns["start"], columns["end"], strict=True))
    )
    for point in page["roofline"]["points"]:
        sheet = next(d for d in page["roofline"]["devices"] if d["name"] == point["device"])
        roof = min(max(sheet["rates"].values()), point["intensity"] * sheet["bandwidth"])
        assert point["rate"] <= roof * 1.01, point


def test_the_same_run_gives_the_same_bytes(parallel_run: Path, tmp_path: Path) -> None:
    record = Record(api.load_system("dgx-a100"))
    result = api.simulate("llama-3-8b", "dgx-a100", prompt=256, generate=1, tp=4, watch=record.watch)
    write_result(result, tmp_path, record)
    for name in ("result.json", "detail.json.gz"):
        assert (tmp_path / name).read_bytes() == (parallel_run / name).read_bytes()


def test_planned_addresses_are_the_map(tmp_path: Path) -> None:
    system = api.load_system("a100-80gb")
    workload = api.load_model("bert-base-uncased", batch=1, prompt=64)
    graph = workload.phases[0].graph
    plan = api.solve(workload, system)
    top = 0

    def place(name: str) -> int:
        nonlocal top
        address, top = top, top + graph.tensors[name].size_bytes
        return address

    homes = {name: (Home(homes[0].memory, place(name)),) for name, homes in plan.homes.items()}
    tasks = tuple(
        replace(task, addresses={name: place(name) for name in graph.operator_by_name[task.operator].outputs})
        for task in plan.tasks
    )
    planned = replace(plan, homes=homes, tasks=tasks)
    record = Record(system)
    result = api.simulate(workload, system, plan=planned, watch=record.watch)
    write_result(result, tmp_path, record)
    packing = run_page(*read_folder(tmp_path))["packing"][0]
    assert packing["planned"]
    assert packing["unplanned"] == 0
    shown = {packing["tensors"][t]: o for t, o in zip(packing["tensor"], packing["offset"], strict=True)}
    expected = {name: at[0].address for name, at in homes.items()}
    for task in tasks:
        expected.update(task.addresses)
    assert shown == expected


def test_a_record_of_another_run_is_refused() -> None:
    record = Record(api.load_system("a100-80gb"))
    result = api.simulate("bert-base-uncased", "a100-80gb")
    with pytest.raises(Exception, match="record saw 0 tasks"):
        record.to_json(result)


def test_a_result_without_a_record_has_a_page_that_says_so(tmp_path: Path) -> None:
    write_result(api.simulate("bert-base-uncased", "a100-80gb"), tmp_path)
    page = run_page(*read_folder(tmp_path))
    assert not page["recorded"]
    assert page["timeline"]["critical"] == []
    assert page["packing"] == []
    assert page["timeline"]["events"] > 50
