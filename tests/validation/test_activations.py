"""Bytes that autograd keeps: every recorded row, and a rule that is broken shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hw_configs.problems import InputError
from offchip.validation import activations
from offchip.validation.registry import Options
from workloads import saved_activations
from workloads.graph import Graph, Role
from workloads.importers import load_workload
from workloads.step_types import StepTypes
from workloads.workload import WorkloadOptions

FOLDER = Path(__file__).parents[1] / "reference" / "activations"


@pytest.mark.parametrize("folder", [FOLDER, FOLDER / "others"])
def test_every_row_is_within_one_percent(folder: Path) -> None:
    found = list(activations.run(folder, "*", Options()))
    assert len(found) >= 30
    wrong = [(row.id, row.groups, row.error, row.note) for row in found if row.verdict != "ok"]
    assert not wrong


def test_storages_are_counted_as_recorded() -> None:
    """Not only bytes agree but the number of storages, up to single numbers (scales, powers)."""
    rows = {row.id: row for row in activations.run(FOLDER, "llama-3-8b", Options())}
    # Index, angles, eight figures a norm, ...: the recording has a scale per layer on top.
    assert all(abs(row.ours["tensors"] - row.expected["tensors"]) <= 8 for row in rows.values())


def test_a_norm_that_keeps_no_copy_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard: with an RMS norm of a fused kernel the rows no longer agree."""
    whole = saved_activations._norm

    def fused(op, work, graph, form):  # type: ignore[no-untyped-def]
        kept = whole(op, work, graph, form)
        return replace(kept, made=())

    monkeypatch.setattr(saved_activations, "_norm", fused)
    found = list(activations.run(FOLDER, "llama-3-8b", Options()))
    assert any(row.verdict == "off" for row in found)


def test_backward_reads_what_is_kept_and_the_graph_stays_whole() -> None:
    """Every kept storage is made in the forward pass, before its readers; FLOPs of the products do not change."""
    options = WorkloadOptions(phase="train", prompt=64, dtype="bf16", layers=2, fused=False)
    plain = load_workload("llama-3-8b", options).phases[0].graph
    eager = load_workload("llama-3-8b", replace(options, types=StepTypes(saved="eager"))).phases[0].graph
    seen: set[str] = set()
    for op in eager.operators:
        for name in op.inputs:
            assert name in seen or name not in eager.producer, (op.name, name)
        seen.update(op.outputs)

    def products(graph: Graph) -> float:
        return sum(op.flops for op in graph.operators if op.kind == "matmul")

    assert products(eager) == products(plain)
    assert sum(t.size_bytes for t in eager.tensors.values() if t.role is Role.WEIGHT) == sum(
        t.size_bytes for t in plain.tensors.values() if t.role is Role.WEIGHT
    )


def test_bad_rows_are_told(tmp_path: Path) -> None:
    table = tmp_path / "saved.csv"
    header = "id,model,layers,dtype,attention,recomputation,batch,seq,saved_bytes"
    table.write_text(f"{header}\n0,nothing,2,float32,eager,none,1,8,1\n1,gpt2,99,float32,eager,none,1,8,1\n")
    found = list(activations.run(tmp_path, "*", Options()))
    assert [row.verdict for row in found] == ["unsupported", "unsupported"]
    assert "24 layers" in found[1].note
    table.write_text("id,model\n")
    with pytest.raises(InputError, match="column 'layers' is missing"):
        list(activations.run(tmp_path, "*", Options()))
