"""``offchip serve``: requests through a serving engine on a machine, and what their senders see of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hw_configs.problems import bad_input

if TYPE_CHECKING:
    from offchip.serving.options import ServeOptions
    from workloads.requests.sources import RequestSource

__all__ = ["serve"]


def serve(
    model: Annotated[str, typer.Argument(help="built-in language model or config.json")],
    hw: Annotated[str | None, typer.Option("--hw", help="system or device: a name or a YAML file")] = None,
    requests: Annotated[
        Path | None, typer.Option(help="a description (YAML) or a trace; not needed for --describe")
    ] = None,
    engine: Annotated[str, typer.Option(help="vllm, sglang or trtllm")] = "vllm",
    version: Annotated[str, typer.Option(help="of the engine, for its constants; default: the newest")] = "",
    setting: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for the engine")] = None,
    tp: Annotated[int, typer.Option(help="devices that share each product")] = 1,
    pp: Annotated[int, typer.Option(help="pipeline stages")] = 1,
    ep: Annotated[int, typer.Option(help="groups of experts")] = 1,
    dp: Annotated[int, typer.Option(help="groups of data-parallel attention")] = 1,
    replicas: Annotated[int, typer.Option(help="workers that serve alike")] = 1,
    routing: Annotated[
        str,
        typer.Option(help="round-robin, least-loaded, power-of-two, prefix-aware or session-affinity"),
    ] = "round-robin",
    prefill_workers: Annotated[int, typer.Option(help="workers for prompts alone")] = 0,
    decode_workers: Annotated[int, typer.Option(help="workers for answers alone")] = 0,
    fail: Annotated[list[str] | None, typer.Option(help="WORKER@TIME[:RETURN], such as 0@30s:60s")] = None,
    pools: Annotated[
        Path | None, typer.Option(help="workers of unlike hardware, in place of --hw: a YAML file")
    ] = None,
    attention_hw: Annotated[str, typer.Option(help="attention apart from the rest: its devices")] = "",
    attention_workers: Annotated[int, typer.Option(help="so many of them for each worker")] = 0,
    attention_wire: Annotated[str, typer.Option(help="a link's name, or such as '50 GB/s'")] = "",
    attention_batches: Annotated[int, typer.Option(help="that take turns")] = 2,
    host_cache: Annotated[str, typer.Option(help="host memory of a worker for caches, such as 64GiB")] = "",
    drive_cache: Annotated[
        str, typer.Option(metavar="DRIVE:SIZE", help="and drives behind it: a device, or the system's group")
    ] = "",
    mapper: Annotated[
        str, typer.Option(help="price steps by its plans on the whole machine; see 'offchip mappers'")
    ] = "",
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="refuse requests that can never be answered, in place of rejecting them"
        ),
    ] = False,
    slo: Annotated[str, typer.Option(help="limits: ttft=200ms,tpot=30ms,e2e=10s,attainment=90%")] = "",
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="the largest rate within the limits")
    ] = False,
    tolerance: Annotated[float, typer.Option(help="of --find-rate, as a share of the rate")] = 0.02,
    gpus: Annotated[int | None, typer.Option(help="with --best-layout: how many to divide")] = None,
    best_layout: Annotated[bool, typer.Option("--best-layout", help="try every layout of --gpus")] = False,
    dtype: Annotated[str | None, typer.Option(help="element type of weights and activations")] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="element type of the KV cache")] = None,
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="low-rank adapter: what those of the requests are")
    ] = None,
    describe: Annotated[
        bool, typer.Option("--describe", help="settings with their sources; serve nothing")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="in place of the description's own")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="write JSON, tables, a Perfetto trace and a page")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Serve requests with a model on a machine, step by step as an engine does it.

    Exit codes: 0 done; 2 bad input; 3 the weights leave no room; 4 no rate keeps the limits; 130 stopped (what was
    answered until then is printed and written).
    """
    from offchip.serving.options import ServeOptions

    asked = ServeOptions(
        engine=engine, version=version, settings=_settings(setting), tp=tp, pp=pp, ep=ep, dp=dp, replicas=replicas,
        routing=routing, prefill_workers=prefill_workers, decode_workers=decode_workers, fail=tuple(fail or ()),
        slo=slo, dtype=dtype, kv_dtype=kv_dtype, seed=seed, strict=strict, host_cache=host_cache,
        drive_cache=drive_cache, attention_hw=attention_hw, attention_workers=attention_workers,
        attention_wire=attention_wire, attention_batches=attention_batches, pools=pools, mapper=mapper,
    )  # fmt: skip
    if describe:
        if adapter is not None:
            raise bad_input("--adapter belongs to requests; --describe serves none", path="--adapter")
        _describe(model, hw, asked, requests, as_json)
        return
    if requests is None:
        raise bad_input("expected a description or a trace", path="--requests")
    from offchip.serving.serve import source_of

    source = source_of(requests, seed)
    if adapter is not None:
        from workloads.requests.one_adapter import read_one_adapter

        source = source.with_adapter(read_one_adapter(adapter))
    if (gpus is not None) != best_layout:
        raise bad_input("--gpus N and --best-layout go together", path="--gpus, --best-layout")
    if best_layout and find_rate:
        raise bad_input("--best-layout and --find-rate exclude each other", path="--find-rate")
    if gpus is not None:
        _layouts(model, hw, source, asked, gpus, out, as_json)
    elif find_rate:
        _rate(model, hw, source, asked, tolerance, out, as_json)
    else:
        _serve(model, hw, source, asked, out, as_json)


def _serve(
    model: str, hw: str | None, source: RequestSource, asked: ServeOptions, out: Path | None, as_json: bool
) -> None:
    from offchip.cli.output import print_json, print_tables, progress
    from offchip.serving.build import deploy
    from offchip.serving.serve import run

    deployment = deploy(model, hw, asked, source.requests)
    with progress("requests answered", source.requests.count) as bar:
        result = run(deployment, source, advance=bar.advance)
    if as_json:
        print_json(result.as_json())
    else:
        print_tables(result.shown_tables())
    _write(result, out, as_json)
    if result.stopped:
        typer.echo("offchip: stopped; these are the requests answered until then", err=True)
        raise typer.Exit(130)


def _rate(
    model: str,
    hw: str | None,
    source: RequestSource,
    asked: ServeOptions,
    tolerance: float,
    out: Path | None,
    as_json: bool,
) -> None:
    from offchip.cli.output import print_json, print_tables, progress
    from offchip.serving.build import deploy
    from offchip.serving.serve import find_serving_rate

    deployment = deploy(model, hw, asked, source.requests)
    found, result = find_serving_rate(deployment, source, tolerance, progress)
    if as_json:
        print_json({**found.as_json(), "at_rate": result.as_json()})
    else:
        print_tables((*found.shown_tables(), *result.shown_tables()))
    _write(result, out, as_json, [probe.as_json() for probe in found.probes])


def _layouts(
    model: str,
    hw: str | None,
    source: RequestSource,
    asked: ServeOptions,
    gpus: int,
    out: Path | None,
    as_json: bool,
) -> None:
    from offchip.cli.output import print_json, print_tables, progress
    from offchip.serving.layouts import best_layout

    tried = best_layout(model, hw, source, asked, gpus, progress)
    if as_json:
        print_json(tried.as_json())
    else:
        print_tables(tried.shown_tables())
    if tried.best.result is not None:
        _write(tried.best.result, out, as_json)


def _describe(model: str, hw: str | None, asked: ServeOptions, requests: Path | None, as_json: bool) -> None:
    from offchip.cli.output import print_json, print_tables
    from offchip.serving.build import deploy
    from offchip.serving.describe import describe
    from offchip.serving.serve import source_of
    from workloads.requests import make_requests

    served = source_of(requests, asked.seed).requests if requests is not None else make_requests([1], [1])
    deployment = deploy(model, hw, asked, served)
    found = [describe(deployment, number) for number in range(len(deployment.parts))]
    if as_json:
        print_json(found[0].as_json() if len(found) == 1 else [one.as_json() for one in found])
    else:
        print_tables([table for one in found for table in one.shown_tables()])


def _write(result: Any, out: Path | None, as_json: bool, probes: Any = ()) -> None:
    if out is None:
        return
    from offchip.serving.export import write_serving

    for path in write_serving(result, out, probes):
        if not as_json:
            typer.echo(f"wrote {path}")


def _settings(entries: list[str] | None) -> dict[str, object]:
    found: dict[str, object] = {}
    for entry in entries or ():
        key, equals, value = entry.partition("=")
        if not (key and equals and value):
            raise bad_input(f"found {entry!r}; expected KEY=VALUE", path="--set")
        if key in found:
            raise bad_input(f"{key!r} is given twice", path="--set")
        found[key] = value
    return found
