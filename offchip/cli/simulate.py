"""``offchip simulate``: a model on a machine, and a summary a person likes to read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hw_configs.problems import bad_input

if TYPE_CHECKING:
    from offchip.report.record import Record

__all__ = ["simulate"]


def simulate(
    model: Annotated[
        str,
        typer.Argument(
            help="built-in name, config.json, .onnx, .pt2, graph JSON, Chakra trace, PyTorch profile"
        ),
    ],
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
    durations: Annotated[
        str, typer.Option(help="of a recorded trace: measured, or model where the simulator can say")
    ] = "measured",
    adapter: Annotated[
        list[str] | None, typer.Option(help="folder of a low-rank adapter; once for each of several")
    ] = None,
    merge_adapters: Annotated[
        bool, typer.Option("--merge-adapters", help="adapters are added into the weights")
    ] = False,
    dim: Annotated[
        list[str] | None, typer.Option(help="NAME=SIZE: symbolic ONNX dimensions; height, width, frames")
    ] = None,
    same_prompts: Annotated[
        bool,
        typer.Option("--same-prompts", help="all sequences repeat one prompt: they choose the same experts"),
    ] = False,
    train: Annotated[
        str, typer.Option(help="weights to train (--phase train): all, lora, qlora, a pattern, a .yaml file")
    ] = "all",
    framework: Annotated[
        str | None,
        typer.Option(
            help="whose training step (--phase train): torchtitan, megatron, deepspeed, ...; "
            "--set then as in 'solve offload'"
        ),
    ] = None,
    layers: Annotated[int | None, typer.Option(help="the first so many layers of a language model")] = None,
    images: Annotated[int, typer.Option(help="images of each sequence; the vision tower runs first")] = 0,
    steps: Annotated[int, typer.Option(help="denoising steps of a diffusion model")] = 1,
    mapper: Annotated[str | None, typer.Option(help="who writes the plan; see 'offchip mappers'")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for the mapper")] = None,
    tp: Annotated[int, typer.Option(help="devices that share each operator")] = 1,
    pp: Annotated[int, typer.Option(help="pipeline stages")] = 1,
    microbatches: Annotated[int, typer.Option(help="parts the batch is divided into")] = 1,
    plan: Annotated[Path | None, typer.Option(help="a plan file to execute")] = None,
    fidelity: Annotated[str, typer.Option(help="analytic, event, or cycle (DRAM by its engine)")] = "event",
    cost_model: Annotated[
        str, typer.Option(help="what predicts operator times: by-device, roofline, roofline-peak")
    ] = "by-device",
    collective: Annotated[
        str, typer.Option(help="auto (the GPU library, else wires), wires, ring or tree")
    ] = "auto",
    engine: Annotated[
        str,
        typer.Option(help="host time of: none, vllm, sglang, trtllm, gpt-fast, huggingface, llama.cpp"),
    ] = "none",
    engine_version: Annotated[str, typer.Option(help="of the engine; default: the newest")] = "",
    out: Annotated[Path | None, typer.Option(help="folder for JSON, tables and a Perfetto trace")] = None,
    figure: Annotated[Path | None, typer.Option(help="draw roofline, time and memory: .svg or .png")] = None,
    save_plan: Annotated[Path | None, typer.Option(help="write the first phase's plan to a file")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Simulate a model on a hardware config: time, energy, bytes over every wire, memory."""
    from offchip.cli.output import print_json, print_tables, progress

    dims = {key: _count(value, f"--dim {key}") for key, value in _pairs(dim, "--dim").items()}
    settings = _pairs(setting, "--set")
    if plan is not None and _runs_training_plan(plan, model, hw, cost_model, out, as_json=as_json):
        return
    from offchip import api
    from workloads.trained_file import trained_parts

    if train != "all" and phase != "train":
        raise bad_input(f"found {train!r}; only a training step trains: add --phase train", path="--train")
    if framework is not None:
        _only_for(framework, phase, {
            "--generate": generate, "--chunk": chunk, "--kv-dtype": kv_dtype, "--unfused": unfused,
            "--adapter": adapter, "--merge-adapters": merge_adapters,
            "--dim": dim, "--same-prompts": same_prompts, "--images": images,
            "--steps": steps != 1, "--mapper": mapper, "--plan": plan, "--layers": layers,
            "--fidelity": fidelity != "event", "--collective": collective != "auto", "--engine": engine != "none",
            "--engine-version": engine_version, "--figure": figure, "--save-plan": save_plan,
        })  # fmt: skip
        from offchip.solving.training_step import simulate_framework_step

        step = simulate_framework_step(
            model, hw, framework, prompt=prompt, batch=batch, tp=tp, pp=pp, microbatches=microbatches, dtype=dtype,
            train=train, settings=settings, cost_model=cost_model, out=out,
        )  # fmt: skip
        if as_json:
            print_json(step.as_json())
            return
        print_tables(step.shown_tables())
        for path in step.written:
            typer.echo(f"wrote {path}")
        return
    record = _record(hw) if out is not None else None
    with progress("simulating", generate + 1) as bar:
        result = api.simulate(
            model, hw, plan=plan, save_plan=save_plan, advance=bar.advance, watch=record.watch if record else None,
            phase=phase, batch=batch, prompt=prompt, generate=generate, chunk=chunk, dtype=dtype,
            kv_dtype=kv_dtype, fused=not unfused, dims=dims, adapters=tuple(adapter or ()), images=images,
            merge_adapters=merge_adapters, same_prompts=same_prompts, steps=steps, mapper=mapper, settings=settings,
            trained=trained_parts(train), layers=layers,
            tp=tp, pp=pp, microbatches=microbatches, fidelity=fidelity, cost_model=cost_model, collective=collective,
            engine=engine, engine_version=engine_version, durations=durations,
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
        print_tables(result.shown_tables())
        for warning in result.warnings:
            typer.echo(f"note: {warning}")
        for path in written:
            typer.echo(f"wrote {path}")


def _only_for(framework: str, phase: str | None, others: Mapping[str, object]) -> None:
    """Raise ``InputError`` where a framework's step is asked of another phase, or with options that it has not."""
    if phase != "train":
        raise bad_input(
            f"found {framework!r:.40}; only a training step runs as a framework does: add --phase train",
            path="--framework",
        )
    for option, value in others.items():
        if value:
            raise bad_input(
                "a step as a framework runs it has no such option; leave one of both out", path=option
            )


def _runs_training_plan(
    plan: Path, model: str, hw: str, cost_model: str, out: Path | None, *, as_json: bool
) -> bool:
    """Run a training plan, where the file holds one; whether it did."""
    from mapping.training.training_plan import is_training_plan

    if not is_training_plan(plan):
        return False
    from offchip.cli.output import print_json, print_tables
    from offchip.solving.training_step import simulate_training_plan, write_step

    found = simulate_training_plan(model, hw, plan, cost_model)
    written = write_step(found.step, out) if out is not None else []
    if as_json:
        print_json(found.as_json())
    else:
        print_tables(found.shown_tables())
        for path in written:
            typer.echo(f"wrote {path}")
    return True


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
