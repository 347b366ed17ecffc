"""``offchip trace gather``: an epoch of graph learning, its feature rows over PCIe, host memory and a drive."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["trace_gather"]

Text = str | None
Number = int | None


def trace_gather(
    graph: Annotated[
        str,
        typer.Argument(
            metavar="SPEC.yaml|GRAPH",
            help="A description, a published shape (ogbn-papers100m, with --scale), rmat:NODES:EDGES[:SEED], "
            "ba:NODES:EACH[:SEED], power-law:NODES:EDGES[:SEED], an edge list (may be .gz or .zst) or a .npz.",
        ),
    ],
    hw: Annotated[str, typer.Option("--hw", help="A system: a name from `offchip hw list`, or a YAML file.")],
    path: Annotated[
        Text, typer.Option(help="Host to GPU: cpu, zero-copy, uvm or gpu (all rows there).")
    ] = None,
    store: Annotated[
        Text,
        typer.Option(help="host, four-level, belady-window, partition-buffer or page-cache."),
    ] = None,
    scale: Annotated[
        Text, typer.Option(help="Of a published shape, such as 1/1000; counts come back at full size.")
    ] = None,
    fan_out: Annotated[
        Text, typer.Option(help="Neighbours a node, from the seeds outwards: 10,10,10; -1: all.")
    ] = None,
    replace: Annotated[bool | None, typer.Option(help="Draw neighbours with replacement.")] = None,
    expand: Annotated[
        Text, typer.Option(help="Who draws in a layer: all known nodes (DGL) or new ones (PyG).")
    ] = None,
    rule: Annotated[Text, typer.Option(help="neighbours, ladies or fastgcn.")] = None,
    batch: Annotated[Number, typer.Option(help="Training nodes of a batch.")] = None,
    batches: Annotated[
        Number, typer.Option(help="Run so many batches and extend the sums to the epoch.")
    ] = None,
    training_nodes: Annotated[
        Number, typer.Option(help="Nodes that train. Default: as published, or all.")
    ] = None,
    features: Annotated[
        Number, typer.Option(help="Elements of a row. Default: as published, or 128.")
    ] = None,
    feature_dtype: Annotated[Text, typer.Option(help="Their type. Default: as published, or fp32.")] = None,
    base: Annotated[Number, typer.Option(help="Address of the table's first byte.")] = None,
    directed: Annotated[bool | None, typer.Option(help="How an edge list is read.")] = None,
    model: Annotated[Text, typer.Option(help="sage, gcn or gat.")] = None,
    hidden: Annotated[Number, typer.Option(help="Width of the hidden layers.")] = None,
    gpus: Annotated[Number, typer.Option(help="GPUs that gather at the same time.")] = None,
    threads: Annotated[Number, typer.Option(help="Threads of the CPU's gather. Default: all cores.")] = None,
    pinned: Annotated[bool | None, typer.Option(help="The staging buffer is page-locked.")] = None,
    shift: Annotated[bool | None, typer.Option(help="Zero-copy lanes begin at a line's border.")] = None,
    request_bytes: Annotated[Number, typer.Option(help="Largest PCIe request: 32, 64 or 128.")] = None,
    gpu_cache: Annotated[Text, typer.Option(help="Rows kept in the GPU.")] = None,
    cpu_cache: Annotated[Text, typer.Option(help="Rows or pages kept in host memory.")] = None,
    disk: Annotated[
        Text, typer.Option(help="Packed copies at most. Default: all rows that no cache holds.")
    ] = None,
    uvm_memory: Annotated[Text, typer.Option(help="GPU memory for migrated pages.")] = None,
    superbatch: Annotated[Number, typer.Option(help="Batches that are known ahead.")] = None,
    partitions: Annotated[Number, typer.Option(help="Partitions of the table.")] = None,
    buffer: Annotated[Number, typer.Option(help="Partitions in memory at a time.")] = None,
    cover: Annotated[Text, typer.Option(help="training: no swaps; pairs: every two partitions meet.")] = None,
    queue: Annotated[Number, typer.Option(help="Batches waiting between stages; 0: no overlap.")] = None,
    overlap: Annotated[Text, typer.Option(help="all stages, or sampling alone ahead of the rest.")] = None,
    queue_depth: Annotated[Number, typer.Option(help="Reads of the drive in flight.")] = None,
    sampling: Annotated[Text, typer.Option(help="cpu: in the pipeline; before: ahead of the epoch.")] = None,
    seed: Annotated[Number, typer.Option(help="Of the graph and of all that is drawn.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Run an epoch of sampled mini-batches: where their feature rows come from, and what that takes."""
    from offchip.cli.output import print_json, print_tables, progress
    from offchip.tracing.gather import trace_gather as run

    result = run(
        graph, hw, progress=progress, path=path, store=store, scale=scale, fan_out=fan_out, replace=replace,
        expand=expand, rule=rule, batch=batch, batches=batches, training_nodes=training_nodes, features=features,
        feature_dtype=feature_dtype, base=base, directed=directed, model=model, hidden=hidden, gpus=gpus,
        threads=threads, pinned=pinned, shift=shift, request_bytes=request_bytes, gpu_cache=gpu_cache,
        cpu_cache=cpu_cache, disk=disk, uvm_memory=uvm_memory, superbatch=superbatch, partitions=partitions,
        buffer=buffer, cover=cover, queue=queue, overlap=overlap, queue_depth=queue_depth, sampling=sampling, seed=seed,
    )  # fmt: skip
    if json:
        print_json(result.as_json())
    else:
        print_tables(result.shown_tables())
