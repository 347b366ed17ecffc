"""What importers of finished graphs share: options that cannot apply, and the report on uncosted operators.

A graph file or a trace holds sizes, not a recipe, so a batch or a prompt length cannot be asked of it. An
operator without a cost rule (kind ``custom``) is counted by its bytes and reported by name with its share.
"""

from __future__ import annotations

from collections import Counter

from hw_configs.problems import InputError, Problem
from workloads.graph import Graph
from workloads.workload import WorkloadOptions

__all__ = ["refuse_resizing", "uncosted_operators"]


def refuse_resizing(options: WorkloadOptions, file: str) -> None:
    """Raise ``InputError`` for options that would need another graph than the file holds."""
    asked = {
        "--batch": options.batch != 1,
        "--generate": options.generate != 0,
        "--chunk": options.chunk is not None,
        "--dtype": options.dtype is not None,
        "--kv-dtype": options.kv_dtype is not None,
        "--unfused": not options.fused,
        "--images": options.images != 0,
        "--same-prompts": options.same_prompts,
        "--steps": options.steps != 1,
    }
    problems = [
        Problem("the file holds a finished graph; leave this option out", file, None, option)
        for option, given in asked.items()
        if given
    ]
    if options.dims:
        problems.append(Problem("the file has no symbolic dimensions", file, None, "--dim"))
    if problems:
        raise InputError(problems)


def uncosted_operators(graph: Graph) -> tuple[str, ...]:
    """One line per source operator type without a cost rule: its count, its share of operators and bytes."""
    count: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for op in graph.operators:
        replayed = op.place.ranks and op.measured_s is not None
        if op.kind == "custom" and not replayed:
            name = op.source or op.name
            count[name] += 1
            moved[name] += op.read_bytes + op.write_bytes
    all_bytes = sum(op.read_bytes + op.write_bytes for op in graph.operators)
    return tuple(
        f"{name}: {number} of {len(graph.operators)} operators "
        f"({number / len(graph.operators):.1%}), {moved[name] / max(all_bytes, 1):.1%} of the bytes; "
        "counted by its bytes, no FLOPs"
        for name, number in sorted(count.items())
    )
