"""``offchip solve offload``: what lives where and what moves when, for a model on a machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hw_configs.problems import bad_input, nearest

if TYPE_CHECKING:
    from hw_configs.system import System
    from mapping.offload.policy import OffloadAnswer, OffloadRequest

__all__ = ["offload"]

DEFAULTS = {"train": "choose-training"}
PHASES = ("train", "prefill", "decode")
MOST_TOKENS = 2**40


def offload(
    model: Annotated[
        str | None, typer.Argument(help="built-in name or config.json; left out with --policy list")
    ] = None,
    hw: Annotated[str | None, typer.Option("--hw", help="system: a name or a YAML file")] = None,
    policy: Annotated[
        str | None, typer.Option(help="who decides; 'list' shows all; training: choose-training")
    ] = None,
    phase: Annotated[str, typer.Option(help="train, prefill or decode")] = "train",
    seq: Annotated[str, typer.Option(metavar="N", help="tokens per sequence: 4096, 64K, 1M")] = "2048",
    batch: Annotated[int, typer.Option(help="sequences: per step over all devices, or at once")] = 1,
    generate: Annotated[int, typer.Option(help="tokens to generate (decode)")] = 0,
    dtype: Annotated[str | None, typer.Option(help="element type of weights and activations")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for the policy")] = None,
    cost_model: Annotated[str, typer.Option(help="what predicts operator times")] = "gpu",
    seed: Annotated[int, typer.Option(help="seed of every random choice")] = 0,
    simulate: Annotated[bool, typer.Option("--simulate", help="run the plan, event by event")] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="write graph, plan and report")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Decide what lives in which memory and what moves when, and say why.

    Exit codes: 0 done; 2 bad input; 3 nothing fits; 4 no answer within the limit.
    """
    if policy == "list":
        _list(as_json)
        return
    if model is None or hw is None:
        raise bad_input("expected a MODEL and --hw SYSTEM (or --policy list)")
    from hw_configs.library import load_system
    from mapping.mapper import mapper_settings, offload_solver
    from mapping.offload.policy import OffloadRequest, check_request

    name = policy or DEFAULTS.get(phase)
    if name is None and phase not in PHASES:
        near = nearest(phase, PHASES)
        raise bad_input(f"found {phase!r}; expected {', '.join(PHASES)}", path="--phase", suggestion=near)
    if name is None:
        raise bad_input(f"phase {phase!r} has no default policy; see --policy list", path="--policy")
    chosen = offload_solver(name)
    settings = mapper_settings(name, _settings(setting), "offload")
    system = load_system(hw)
    request = OffloadRequest(
        model, system, phase, tokens(seq), batch, generate, dtype, cost_model, seed, settings
    )  # fmt: skip
    check_request(name, chosen, request)
    answer = chosen.solve(request)
    ran = _run(answer, request, system) if simulate else None
    report = dict(answer.report) | {"why": list(answer.why)}
    if ran is not None:
        report["simulated"] = ran
    written = _write(answer, report, out) if out is not None else []
    if as_json:
        from offchip.cli.output import print_json

        print_json(report)
        return
    _print(model, system.name, answer, ran)
    for path in written:
        typer.echo(f"wrote {path}")


def tokens(text: str) -> int:
    """A count of tokens: a whole number, or one with the suffix K (1024) or M (1024 x 1024)."""
    from hw_configs.whole_number import integer

    plain = text.strip().upper().replace("_", "")
    factor = {"K": 2**10, "M": 2**20}.get(plain[-1:], 1)
    digits = plain[:-1] if factor > 1 else plain
    count = integer(digits, 1, MOST_TOKENS // factor)
    if count is None:
        raise bad_input(f"found {text!r}; expected a number of tokens such as 4096, 64K or 1M", path="--seq")
    return count * factor


def _settings(entries: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in entries or ():
        key, equals, value = entry.partition("=")
        if not (key and equals and value):
            raise bad_input(f"found {entry!r}; expected KEY=VALUE", path="--set")
        if key in found:
            raise bad_input(f"{key!r} is given twice", path="--set")
        found[key] = value
    return found


def _list(as_json: bool) -> None:
    from mapping.mapper import MAPPERS, answers_offload
    from offchip.cli.mappers import mapper_entry
    from offchip.cli.output import print_json, print_table

    found = {name: MAPPERS.get(name) for name in MAPPERS}
    able = {name: mapper_entry(mapper) for name, mapper in found.items() if answers_offload(mapper)}
    if as_json:
        print_json({"policies": able})
        return
    rows = [
        (name, entry["does"], ", ".join(entry["phases"]), ", ".join(s["name"] for s in entry["settings"]))
        for name, entry in able.items()
    ]
    print_table("", ("policy", "what it decides", "phases", "settings (--set)"), rows)


def _run(answer: OffloadAnswer, request: OffloadRequest, system: System) -> dict[str, Any]:
    """Execute the plan; the figures to hold against the estimate."""
    if answer.graph is None or answer.plan is None:
        reason = next((text for text in reversed(answer.why) if "simulator" in text), "it has no plan")
        raise bad_input(f"policy {answer.policy!r} only estimates this: {reason}", path="--simulate")
    from simulator.simulate import simulate
    from workloads.workload import Phase, Workload

    graph, plan = answer.graph, answer.plan
    count = request.sequence * request.batch
    workload = Workload(request.model, (Phase(request.phase, request.phase, graph, count),))
    result = simulate(workload, system, lambda _graph, _system: plan, cost_model=request.cost_model)
    fullest = max(result.memories.values(), key=lambda use: use.peak_bytes / max(use.usable_bytes, 1))
    return {
        "step_s": result.makespan_s,
        "fullest_memory": fullest.memory,
        "fullest_memory_peak_bytes": fullest.peak_bytes,
        "energy_j": result.total_energy_j,
    }


def _write(answer: OffloadAnswer, report: dict[str, Any], out: Path) -> list[Path]:
    import json

    from hw_configs.output_file import replacing
    from simulator.plan_file import write_plan
    from workloads.graph_json import write_graph

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise bad_input(f"cannot write: {error.strerror}", file=str(out), path="--out") from None
    written = [out / "report.json"]
    with replacing(written[0]) as part:
        part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if answer.graph is not None and answer.plan is not None:
        written += [out / "graph.json", out / "plan.json"]
        write_graph(answer.graph, written[1])
        write_plan(answer.plan, written[2])
    return written


def _print(model: str, system: str, answer: OffloadAnswer, ran: dict[str, Any] | None) -> None:
    from hw_configs.units import format_quantity
    from offchip.cli.output import print_table

    typer.echo(f"{model} on {system}, policy {answer.policy}")
    for text in answer.why:
        typer.echo(f"  {text}")
    for table in answer.tables:
        print_table(f"\n{table.title}", table.columns, table.rows)
    if ran is not None:
        peak = format_quantity(ran["fullest_memory_peak_bytes"], "size")
        rows = [
            ("step", f"{ran['step_s']:.4g} s"),
            (f"peak of {ran['fullest_memory']}", peak),
            ("energy", f"{ran['energy_j']:.4g} J"),
        ]
        print_table("\nSimulated, event by event (the plan written)", ("", ""), rows)
