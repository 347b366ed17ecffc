"""Small problems written by hand: name -> (bytes, inputs), one output per operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mapping.scheduling import ScheduleOperator, ScheduleProblem, ScheduleTensor


def chain_of(
    operators: Mapping[str, tuple[int, Sequence[str]]],
    sources: Mapping[str, int] | None = None,
    workspaces: Mapping[str, int] | None = None,
    outputs: Sequence[str] = (),
) -> ScheduleProblem:
    """A problem whose tensors have the names of the operators that make them; ``sources`` start off-chip."""
    names = [*(sources or {}), *operators]
    index = {name: t for t, name in enumerate(names)}
    listed = list(operators)
    made = []
    for name, (_, inputs) in operators.items():
        made.append(
            ScheduleOperator(
                name,
                tuple(dict.fromkeys(index[i] for i in inputs)),
                (index[name],),
                (workspaces or {}).get(name, 0),
            )
        )
    tensors = []
    for name in names:
        consumers = tuple(o for o, (_, inputs) in enumerate(operators.values()) if name in inputs)
        source = name in (sources or {})
        output = name in outputs or (not source and not consumers)
        size = (sources or {})[name] if source else operators[name][0]
        producer = -1 if source else listed.index(name)
        tensors.append(ScheduleTensor(name, size, producer, consumers, source or output, output))
    return ScheduleProblem("by hand", tuple(made), tuple(tensors))
