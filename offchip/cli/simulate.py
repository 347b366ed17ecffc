"""``offchip simulate``: a model on a machine, and a summary a person likes to read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hw_configs.problems import bad_input

if TYPE_CHECKING:
    from offchip.report.record import Record
    from simulator.result import MemoryUse, Result

__all__ = ["simulate"]


def simulate(
    model: Annotated[str, typer.Argument(help="built-in name, config.json, .onnx, graph JSON, Chakra trace")],
    hw: Annotated[str, typer.Option("--hw", help="system or device: a name or a YAML file")],
    phase: Annotated[
        str | None, typer.Option(help="prefill, decode or train; default: the natural one")
    ] = None,
    batch: Annotated[int, typer.Option(help="sequences or images at once")] = 1,
    prompt: Annotated[int, typer.Option(help="tokens of the prompt; the context of a decode step")] = 512,
    generate: Annotated[
        int, typer.Option(help="decode steps after the prefill, which yields a token itself")
    ] = 0,
    chunk: Annotated[int | None, typer.Option(help="prefill in chunks of so many tokens")] = None,
    dtype: Annotated[str | None, typer.Option(help="element type of weights and activations")] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="element type of the KV cache")] = None,
    unfused: Annotated[
        bool, typer.Option("--unfused", help="every projection an operator of its own")
    ] = False,
    dim: Annotated[list[str] | None, typer.Option(help="NAME=SIZE of a symbolic ONNX dimension")] = None,
    mapper: Annotated[str | None, typer.Option(help="who writes the plan; see 'offchip mappers'")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for the mapper")] = None,
    tp: Annotated[int, typer.Option(help="devices that share each operator")] = 1,
    pp: Annotated[int, typer.Option(help="pipeline stages")] = 1,
    microbatches: Annotated[int, typer.Option(help="parts the batch is divided into")] = 1,
    plan: Annotated[Path | None, typer.Option(help="a plan file to execute")] = None,
    fidelity: Annotated[str, typer.Option(help="analytic, event, or cycle (DRAM by its engine)")] = "event",
    cost_model: Annotated[
        str, typer.Option(help="what predicts operator times: gpu, roofline, roofline-peak")
    ] = "gpu",
    collective: Annotated[str, typer.Option(help="auto, ring or tree")] = "auto",
    out: Annotated[Path | None, typer.Option(help="folder for JSON, tables and a Perfetto trace")] = None,
    figure: Annotated[Path | None, typer.Option(help="draw roofline, time and memory: .svg or .png")] = None,
    save_plan: Annotated[Path | None, typer.Option(help="write the first phase's plan to a file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Simulate a model on a hardware config: time, energy, bytes over every wire, memory."""
    from offchip.cli.output import print_json, progress

    dims = {key: _count(value, f"--dim {key}") for key, value in _pairs(dim, "--dim").items()}
    settings = _pairs(setting, "--set")
    from offchip import api

    record = _record(hw) if out is not None else None
    with progress("simulating", generate + 1) as bar:
        result = api.simulate(
            model, hw, plan=plan, save_plan=save_plan, advance=bar.advance, watch=record.watch if record else None,
            phase=phase, batch=batch, prompt=prompt, generate=generate, chunk=chunk, dtype=dtype,
            kv_dtype=kv_dtype, fused=not unfused, dims=dims, mapper=mapper, settings=settings, tp=tp, pp=pp,
            microbatches=microbatches, fidelity=fidelity, cost_model=cost_model, collective=collective,
        )  # fmt: skip
    written = []
    if out is not None:
        from offchip.export import write_result

        written = write_result(result, out, record)
    if figure is not None:
        from offchip.figures import draw_overview

        written.append(draw_overview(result, api.load_system(hw), figure))
    if as_json:
        print_json(result.to_json())
    else:
        _print_summary(result)
        for path in written:
            typer.echo(f"wrote {path}")


def _record(hw: str) -> Record:
    from offchip import api
    from offchip.report.record import Record

    return Record(api.load_system(hw))


def _pairs(entries: list[str] | None, flag: str) -> dict[str, str]:
    pairs = {}
    for entry in entries or ():
        key, equals, value = entry.partition("=")
        if not (key and equals and value):
            raise bad_input(f"found {entry!r}; expected NAME=VALUE", path=flag)
        if key in pairs:
            raise bad_input(f"{key!r} is given twice", path=flag)
        pairs[key] = value
    return pairs


def _count(text: str, flag: str) -> int:
    from hw_configs.whole_number import is_whole

    if not is_whole(text) or int(text) < 1:
        raise bad_input(f"found {text!r}; expected a whole number of 1 or more", path=flag)
    return int(text)


def _print_summary(result: Result) -> None:
    from offchip.cli.counters import counter_rows
    from offchip.cli.output import print_table

    typer.echo(f"{result.model} on {result.system}, plan by {result.mapper or 'the file given'}")
    print_table("", ("", ""), _headline(result))
    print_table(
        "\nTop operators",
        ("operator", "kind", "calls", "time", "share", "bound by"),
        _operator_rows(result),
    )
    print_table(
        "\nMemory at its fullest",
        ("memory", "used", "usable", "nominal", "share", "holds most"),
        [_memory_row(use) for use in result.memories.values()],
    )
    if result.wires:
        print_table("\nLinks", ("link", "forward", "backward", "busy"), _wire_rows(result))
    for memory, figures in result.counters.items():
        print_table(f"\nCounted in {memory}", ("", ""), counter_rows(figures))
    print_table("\nEnergy", ("component", "energy", "share"), _energy_rows(result))
    for warning in result.warnings:
        typer.echo(f"note: {warning}")


def _time(seconds: float) -> str:
    from hw_configs.units import format_quantity

    return format_quantity(seconds, "time")


def _size(value: float) -> str:
    from hw_configs.units import format_quantity

    return format_quantity(value, "size")


def _energy(joules: float) -> str:
    from hw_configs.units import format_quantity

    return format_quantity(joules, "energy")


def _headline(result: Result) -> list[tuple[str, str]]:
    summary = result.summary()
    rows = [("total time", _time(summary["makespan_s"]))]
    if "time_to_first_token_s" in summary:
        rows.append(("time to first token", _time(summary["time_to_first_token_s"])))
    if "time_per_token_s" in summary:
        rate = f"{summary['decode_tokens_per_s']:.4g} tokens/s"
        rows.append(("time per token", f"{_time(summary['time_per_token_s'])} ({rate})"))
    rows.append(("bottleneck", summary["bottleneck"]))
    rows.append(("work", f"{summary['flops']:.4g} FLOP"))
    for use in result.devices.values():
        share = f"{use.utilisation:.1%} busy, {use.compute_utilisation:.1%} of peak FLOPs"
        rows.append((use.device, share))
    energy = _energy(summary["energy_j"])
    if "energy_per_token_j" in summary:
        energy += f" ({_energy(summary['energy_per_token_j'])}/token)"
    rows.append(("energy", energy))
    levels = result.provenance
    level = f"{levels['cost_model']} costs, {levels['fidelity']} fidelity; device time, no host software"
    rows.append(("simulated with", level))
    return rows


def _operator_rows(result: Result) -> list[tuple[str, ...]]:
    entries = result.top_operators(10)
    line = result.timeline
    whole = sum(end - start for start, end in zip(line.start, line.end, strict=True)) or 1.0
    return [
        (e["operator"], e["kind"], str(e["calls"]), _time(e["seconds"]), f"{e['seconds'] / whole:.1%}",
         e["bound_by"])
        for e in entries
    ]  # fmt: skip


def _memory_row(use: MemoryUse) -> tuple[str, ...]:
    roles: dict[str, int] = {}
    for _, role, size in use.live_at_peak:
        roles[role] = roles.get(role, 0) + size
    most = sorted(roles.items(), key=lambda item: -item[1])[:3]
    holds = ", ".join(f"{role} {_size(size)}" for role, size in most)
    share = f"{use.peak_bytes / use.usable_bytes:.1%}"
    return (
        use.memory,
        _size(use.peak_bytes),
        _size(use.usable_bytes),
        _size(use.capacity_bytes),
        share,
        holds,
    )


def _wire_rows(result: Result) -> list[tuple[str, ...]]:
    return [
        (use.wire, _size(use.bytes_forward), _size(use.bytes_backward), f"{use.utilisation:.1%}")
        for use in result.wires.values()
    ]


def _energy_rows(result: Result) -> list[tuple[str, str, str]]:
    total = result.total_energy_j or 1.0
    ranked = sorted(result.energy_j.items(), key=lambda item: -item[1])
    rows = [(name, _energy(joules), f"{joules / total:.1%}") for name, joules in ranked if joules > 0]
    if len(rows) > 12:
        rest = sum(joules for _, joules in ranked[12:])
        rows = [*rows[:12], (f"{len(rows) - 12} more", _energy(rest), f"{rest / total:.1%}")]
    return rows
