"""A memory beside a model: a bank whose blocks come by context, or a network that runs for every token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.typed_fields import wrong_types
from offchip.keywords import from_keywords

if TYPE_CHECKING:
    from hw_configs.system import System
    from simulator.memory_bank.result import BankResult, MemoryTimes
    from workloads.graph import Graph
    from workloads.memory_bank import DecoderMemory, HierarchicalBank, MemoryBank, MlpMemory

__all__ = ["BankTraceOptions", "trace_bank"]

_RANGES: Final = {"contexts": (2, 1_000_000), "batch": (1, 65536), "drives": (1, 64), "seed": (0, 2**31)}


@dataclass(frozen=True, slots=True)
class BankTraceOptions:
    """How a memory is used.

    Of a hierarchical bank: ``contexts`` that come, ``place`` and ``cache`` instead of its own, ``drives`` that share
    it, ``seed`` of contexts and places. Of one that runs for every token: sequences of a ``batch``.
    """

    contexts: int = 4000
    place: str | None = None
    cache: str | None = None
    drives: int = 1
    batch: int = 1
    seed: int = 1

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        for name, (least, most) in _RANGES.items() if not problems else ():
            value = getattr(self, name)
            if not least <= value <= most:
                problems.append(Problem(f"found {value}; expected {least} to {most}", path=f"--{name}"))
        if problems:
            raise InputError(problems)


class BankTraceChoices(TypedDict, total=False):
    """The fields of :class:`BankTraceOptions`, as keywords."""

    contexts: int
    place: str | None
    cache: str | None
    drives: int
    batch: int
    seed: int


def trace_bank(
    bank: str | Path, hw: str | Path, **options: Unpack[BankTraceChoices]
) -> BankResult | MemoryTimes:
    """Use a memory beside a model.

    ``bank`` is a preset or a YAML file, ``hw`` a system; options are the fields of :class:`BankTraceOptions`. Raises
    ``InputError`` for bad input, ``InfeasibleError`` where the bank does not fit.

    >>> trace_bank("hierarchical-160m", "desktop", place="memory", contexts=200).context_bytes
    36000000
    """
    from hw_configs.library import load_system
    from simulator.memory_bank.bank import BankOptions, simulate_bank
    from workloads.memory_bank import HierarchicalBank, load_bank

    chosen = from_keywords(BankTraceOptions, options)
    memory, system = load_bank(bank), load_system(hw)
    if not isinstance(memory, HierarchicalBank):
        _only(chosen, "batch", memory)
        return _beside(memory, system, chosen.batch)
    _only(chosen, "contexts place cache drives seed", memory)
    changed = _changed(memory, chosen)
    return simulate_bank(changed, system, BankOptions(chosen.contexts, chosen.drives, chosen.seed))


def _only(chosen: BankTraceOptions, names: str, memory: MemoryBank) -> None:
    """``InputError`` for options that have no effect on such a memory."""
    default = BankTraceOptions()
    problems = [
        Problem(f"without effect on a memory of kind {memory.kind!r}", path=f"--{name}")
        for name in ("contexts", "place", "cache", "drives", "batch", "seed")
        if name not in names.split() and getattr(chosen, name) != getattr(default, name)
    ]
    if problems:
        raise InputError(problems)


def _changed(memory: HierarchicalBank, chosen: BankTraceOptions) -> HierarchicalBank:
    import pydantic

    changes = {name: getattr(chosen, name) for name in ("place", "cache")}
    given = {name: value for name, value in changes.items() if value is not None}
    if not given:
        return memory
    try:
        return type(memory).model_validate(memory.model_dump() | given)
    except pydantic.ValidationError as error:
        detail = error.errors()[0]
        name = next((part for part in detail["loc"] if part in given), next(iter(given)))
        raise bad_input(f"found {given[str(name)]!r}; {detail['msg']}", path=f"--{name}") from None


def _beside(memory: MlpMemory | DecoderMemory, system: System, batch: int) -> MemoryTimes:
    from offchip.api import load_model, simulate
    from simulator.memory_bank.result import MemoryTimes
    from workloads.memory_bank import DecoderMemory
    from workloads.memory_bank.mlp import mlp_graph

    def step(name: str) -> Graph:
        options = {"prompt": memory.context, "batch": batch, "dtype": memory.element}
        return load_model(name, phase="decode", **options).phases[0].graph  # type: ignore[arg-type]

    model = step(memory.beside)
    small = step(memory.memory) if isinstance(memory, DecoderMemory) else mlp_graph(memory, batch)
    return MemoryTimes(
        memory.name, memory.kind, memory.beside, system.name, batch, _weight_bytes(model), _weight_bytes(small),
        simulate(model, system).makespan_s, simulate(small, system).makespan_s,
    )  # fmt: skip


def _weight_bytes(graph: Graph) -> int:
    return sum(tensor.size_bytes for tensor in graph.tensors.values() if tensor.is_weight)
