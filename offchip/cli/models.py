"""``offchip models``: what can be simulated by name, and what a model is made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from workloads.graph import Graph
    from workloads.workload import Phase, Workload

__all__ = ["list_models", "show_model"]

AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]


def list_models(as_json: AsJson = False) -> None:
    """List the built-in models, each with its family, kind and parameters."""
    from offchip.cli.output import print_json, print_table
    from workloads import models

    found = [models.describe(name) for name in models.names()]
    if as_json:
        print_json({"models": [asdict(model) for model in found]})
        return
    print_table(
        "",
        ("model", "family", "modality", "parameters", "source"),
        [(m.name, m.family, m.modality, f"{m.parameters:,}", m.source) for m in found],
    )


def show_model(
    model: Annotated[str, typer.Argument(help="a built-in name or a model file")],
    batch: Annotated[int, typer.Option(help="samples or sequences at once")] = 1,
    prompt: Annotated[int, typer.Option(help="tokens of context")] = 512,
    generate: Annotated[int, typer.Option(help="tokens to generate")] = 0,
    phase: Annotated[str | None, typer.Option(help="prefill, decode or train")] = None,
    dtype: Annotated[str | None, typer.Option(help="element type of weights and activations")] = None,
    dim: Annotated[list[str] | None, typer.Option(help="a dimension of the model, as name=value")] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="folder of a low-rank adapter; once for each of several")
    ] = None,
    images: Annotated[int, typer.Option(help="images of each sequence; the vision tower is counted too")] = 0,
    steps: Annotated[int, typer.Option(help="denoising steps of a diffusion model")] = 1,
    unfused: Annotated[bool, typer.Option("--unfused", help="every step an operator of its own")] = False,
    budgets: Annotated[
        bool, typer.Option("--budgets", help="scratchpad sizes: largest operator (M_R), least peak (M_P)")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a model's parameters, bytes by role, FLOPs, KV cache per token and operators by kind."""
    from offchip.cli.output import print_json
    from workloads.importers import load_workload
    from workloads.workload import WorkloadOptions

    options = WorkloadOptions(
        phase=phase, batch=batch, prompt=prompt, generate=generate, dtype=dtype, fused=not unfused,
        dims=named_sizes(dim or []), adapters=tuple(adapter or ()), images=images, steps=steps,
    )  # fmt: skip
    stored, alone = _stored(model)
    if stored is not None and alone:
        shown = {"name": model, "stored": stored}
        if as_json:
            print_json(shown)
        else:
            _print_stored(model, stored)
        return
    workload = load_workload(model, options)
    facts = _facts(model, workload)
    if stored is not None:
        facts["stored"] = stored
    if budgets:
        facts["budgets"] = _budgets(workload)
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _stored(name: str) -> tuple[dict[str, Any] | None, bool]:
    """What the header of a checkpoint file lists, and whether no architecture comes with it; None for other files."""
    from pathlib import Path

    from workloads.gguf_header import read_gguf
    from workloads.safetensors_header import INDEX_ENDING, read_safetensors
    from workloads.safetensors_model import config_beside

    path = Path(name)
    if not path.is_file():
        return None, False
    alone = False
    if path.suffix.lower() == ".gguf":
        stored = read_gguf(path).stored
    elif path.suffix.lower() == ".safetensors" or path.name.endswith(INDEX_ENDING):
        stored = read_safetensors(path)
        alone = config_beside(path) is None
    else:
        return None, False
    return {
        "format": stored.format,
        "tensors": len(stored.tensors),
        "elements": sum(tensor.elements for tensor in stored.tensors),
        "size_bytes": stored.size_bytes,
        "by_type": [asdict(share) for share in stored.by_type()],
        "notes": list(stored.notes),
    }, alone


def _print_stored(title: str, stored: dict[str, Any]) -> None:
    """Tensors and bytes of a checkpoint file by element type."""
    from hw_configs.units import format_quantity
    from offchip.cli.output import print_table

    rows = [
        (
            share["dtype"], f"{share['tensors']:,}", f"{share['elements']:,}",
            format_quantity(share["size_bytes"], "size"),
        )
        for share in stored["by_type"]
    ]  # fmt: skip
    total = format_quantity(stored["size_bytes"], "size")
    rows.append(("all", f"{stored['tensors']:,}", f"{stored['elements']:,}", total))
    print_table(f"{title}: {stored['format']}", ("stored as", "tensors", "elements", "bytes"), rows)
    for note in stored["notes"]:
        print(note)


def _budgets(workload: Workload) -> list[dict[str, Any]]:
    """M_R, M_H and M_P of the first phase, for activations and for activations with weights."""
    from mapping.scheduling.budgets import budgets
    from offchip.cli.output import progress

    found = []
    with progress("searching for the least peak", 2) as bar:
        for weights in ("stream", "resident"):
            sizes = budgets(workload.phases[0].graph, weights)
            found.append({**asdict(sizes), "proven": sizes.proven})
            bar.advance(1)
    return found


def named_sizes(pairs: list[str]) -> dict[str, int]:
    """Sizes of named dimensions from ``name=value`` texts; ``InputError`` names every text that is not so."""
    from hw_configs.problems import InputError, Problem
    from hw_configs.whole_number import is_whole

    sizes: dict[str, int] = {}
    problems = []
    for pair in pairs:
        name, equals, value = pair.rpartition("=")
        if equals and name and is_whole(value):
            sizes[name] = int(value)
        else:
            problems.append(Problem(f"found {pair!r}; expected name=value, as in batch=1", path="--dim"))
    if problems:
        raise InputError(problems)
    return sizes


def _facts(name: str, workload: Workload) -> dict[str, Any]:
    from workloads import models

    facts: dict[str, Any] = {"name": name}
    if name in models.names():
        info = models.describe(name)
        facts |= {"family": info.family, "modality": info.modality, "source": info.source}
    first = workload.phases[0]
    added = int(workload.metadata.get("adapter_parameters", 0))
    apart = workload.metadata.get("adapters_are") == "apart"
    facts["parameters"] = first.graph.parameters() - (added if apart else 0)
    if "adapters" in workload.metadata:
        facts["adapters"] = [*str(workload.metadata["adapters"]).split("; ")]
        facts["adapters_are"] = workload.metadata["adapters_are"]
        facts["adapter_parameters"] = added
    if workload.memory is not None:
        memory = workload.memory()
        facts["active_parameters_per_token"] = memory.active_parameters
        facts["kv_bytes_per_token"] = _whole(memory.kv_bytes_per_token)
        facts["state_bytes_per_sequence"] = memory.state_bytes
        facts["window_bytes_per_sequence"] = memory.window_bytes
        facts["window_context"] = memory.context
    for key in ("dtype", "weight_dtype", "kv_dtype"):
        if key in workload.metadata:
            facts[key] = workload.metadata[key]
    facts["left_out"] = [text for text in str(workload.metadata.get("left_out", "")).split("; ") if text]
    shown = [first] if len(workload.phases) == 1 else [first, workload.phases[1]]
    facts["phases"] = [_phase_facts(phase) for phase in shown]
    facts["phase_count"] = len(workload.phases)
    facts["unsupported"] = list(workload.unsupported)
    facts["notes"] = list(workload.notes)
    return facts


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _memory_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Active weights, caches and what is left out, for a language model."""
    from hw_configs.units import format_quantity

    rows = []
    if "kv_bytes_per_token" in facts:
        rows.append(("active per token", f"{facts['active_parameters_per_token']:,}"))
        rows.append(("KV cache per token", format_quantity(facts["kv_bytes_per_token"], "size")))
        if facts["state_bytes_per_sequence"]:
            rows.append(("state per sequence", format_quantity(facts["state_bytes_per_sequence"], "size")))
        if facts["window_bytes_per_sequence"]:
            size = format_quantity(facts["window_bytes_per_sequence"], "size")
            rows.append(("window layers per sequence", f"{size} at {facts['window_context']:,} tokens"))
    if "adapters" in facts:
        rows += [(f"adapter, {facts['adapters_are']}", text) for text in facts["adapters"]]
    if "weight_dtype" in facts:
        rows.append(("element types", _types(facts)))
    if facts["left_out"]:
        rows.append(("left out", ", ".join(facts["left_out"])))
    return rows


def _types(facts: dict[str, Any]) -> str:
    return f"{facts['weight_dtype']} weights, {facts['dtype']} activations, {facts['kv_dtype']} cache"


def _phase_facts(phase: Phase) -> dict[str, Any]:
    graph = phase.graph
    return {
        "name": phase.name,
        "kind": phase.kind,
        "operators": len(graph.operators),
        "flops": graph.flops,
        "bytes_read": sum(op.read_bytes for op in graph.operators),
        "bytes_written": sum(op.write_bytes for op in graph.operators),
        "bytes_by_role": {str(role): size for role, size in graph.bytes_by_role().items() if size},
        "by_kind": _by_kind(graph),
    }


def _by_kind(graph: Graph) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for op in graph.operators:
        row = rows.setdefault(op.kind, {"kind": op.kind, "operators": 0, "flops": 0.0, "bytes": 0})
        row["operators"] += 1
        row["flops"] += op.flops
        row["bytes"] += op.read_bytes + op.write_bytes
    return sorted(rows.values(), key=lambda row: (-row["flops"], -row["bytes"], row["kind"]))


def _print(facts: dict[str, Any]) -> None:
    from hw_configs.units import format_quantity
    from offchip.cli.output import print_table

    rows = [("parameters", f"{facts['parameters']:,}")]
    rows += [(key, facts[key]) for key in ("family", "modality", "source") if key in facts]
    rows += _memory_rows(facts)
    print_table(facts["name"], ("", ""), rows)
    if "stored" in facts:
        _print_stored("\nin the file", {**facts["stored"], "notes": []})
    for phase in facts["phases"]:
        sizes = [
            (f"{role.replace('_', ' ')} tensors", format_quantity(size, "size"))
            for role, size in phase["bytes_by_role"].items()
        ]
        total = phase["bytes_read"] + phase["bytes_written"]
        moved = [
            ("FLOPs", f"{phase['flops']:.4g}"),
            ("bytes read and written", format_quantity(total, "size")),
        ]
        print_table(f"\n{phase['name']}: {phase['operators']} operators", ("", ""), [*moved, *sizes])
        print_table(
            "",
            ("kind", "operators", "FLOPs", "bytes"),
            [
                (row["kind"], row["operators"], f"{row['flops']:.4g}", format_quantity(row["bytes"], "size"))
                for row in phase["by_kind"]
            ],
        )
    if "budgets" in facts:
        _print_budgets(facts["budgets"])
    for line in (*facts["notes"], *facts["unsupported"]):
        print(line)


def _print_budgets(rows: list[dict[str, Any]]) -> None:
    from offchip.cli.output import print_table

    names = {"stream": "activations", "resident": "activations and weights"}
    print_table(
        "\nScratchpad budgets in bytes (batch and element type as above)",
        ("what lies in it", "M_R", "M_H", "M_P", "largest operator"),
        [
            (
                names[row["weights"]],
                f"{row['required_bytes']:,}",
                f"{row['half_bytes']:,}",
                f"{row['peak_bytes']:,}"
                + ("" if row["proven"] else f" (at least {row['peak_bound_bytes']:,})"),
                row["bounding_operator"],
            )
            for row in rows
        ],
    )
