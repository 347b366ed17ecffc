"""Tables from which a step is priced without a graph: built once for a model, a layout and a machine.

The operators of a step fall into groups by what their sizes follow from: all tokens of the step (``token``), requests
that decode (``decode``), tokens of prefill chunks (``chunk``), cached and new positions of those chunks (``position``,
latent attention's expanded keys), and tokens that are sampled (``sample``). Which is which is found by probing: the
builders write a decode step and a prefill of equally many tokens, and of each operator it is seen what moved. For each
group the time, the exchanges' time, the energy and the number of kernels of all its operators, layers counted, stand at
points of a grid (every number to 16, then four to an octave) and are interpolated linearly between them. Attention is
not tabulated: its kernel model is asked in every step (:mod:`simulator.serving.step_kernel`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input
from hw_configs.system import MemorySpace, Node
from simulator.cost.model import peak_rate
from simulator.gpu import attention
from simulator.gpu.attention_lines import attention_line
from simulator.gpu.constants import shipped_constants
from simulator.gpu.model import GPU
from simulator.gpu.request import Request, family_of
from simulator.serving.device_share import Shared, device_operators
from simulator.serving.exchange_time import Exchanges
from simulator.serving.layer_classes import LayerClasses
from simulator.serving.settings import Layout
from workloads.operators import Attention
from workloads.transformer.formats import Precision
from workloads.transformer.shape import LatentAttention
from workloads.transformer.step import Step

__all__ = ["COLUMNS", "GROUPS", "OWN", "PriceTables", "build_tables", "grid"]

Array = npt.NDArray[np.float64]
GROUPS: Final = ("token", "decode", "chunk", "position", "sample")
TOKEN, DECODE, CHUNK, POSITION, SAMPLE = range(5)
COLUMNS: Final = ("seconds", "exchange_s", "joules", "kernels")
PROBE: Final = 8
OWN: Final = 8
"""Figures that a step's kernel adds to a class of attention layers."""
WINDOWED: Final = attention.COLUMNS.index("windowed")
PROBE_CONTEXT: Final = 96
Phase = Literal["decode", "prefill"]


class PriceTables(NamedTuple):
    """What the kernel of a step reads. ``tables``: group, grid point, column.

    ``decode_rows`` and ``prefill_rows``: inputs of the attention kernel, one a class of attention layers; ``*_own``:
    limit of keys that a query sees (0: none), length of chunks (0: none), layers, launch seconds, FLOP/s of the data
    sheet, bytes/s of the data sheet, joules per FLOP, joules per byte. ``*_constants``: of the kernel that runs each
    class. ``moving``: number of decode requests or chunk
    tokens, context, columns: operators beside attention that follow both (an indexer's scores).
    """

    points: Array
    tables: Array
    decode_rows: Array
    decode_own: Array
    prefill_rows: Array
    prefill_own: Array
    decode_constants: Array
    prefill_constants: Array
    moving_points: Array
    moving_decode: Array
    moving_prefill: Array
    layout: Array
    """Attention groups, stages, send seconds per token, send seconds, idle watts of a device, devices, active share of
    power, and the sparse limit beyond which prefill takes the absorbed form (0: none)."""
    sparse: Array
    """Rows, own figures and constants of absorbed prefill, side by side; empty where there is none."""


def grid(most: int) -> Array:
    """Points of the tables up to ``most`` tokens: every number to 16, then four to an octave."""
    points = [float(i) for i in range(1, 17)]
    while points[-1] < most:
        start = points[-1]
        points += [start * (1 + i / 4) for i in range(1, 5)]
    return np.array(points)


@dataclass(frozen=True, slots=True)
class _Builder:
    """Everything that stays the same while tables are built."""

    classes: LayerClasses
    precision: Precision
    layout: Layout
    node: Node
    memory: MemorySpace
    exchanges: Exchanges

    def step(self, phase: Phase, count: int, context: int) -> list[Shared]:
        """Operators of ``count`` decodes at a context, or of one prefill of the last ``count`` tokens of one."""
        decode = Step(count, 1, context, context, decode=True)
        step = decode if phase == "decode" else Step(1, count, context, context)
        return list(device_operators(self.classes, self.precision, step, self.layout))


def build_tables(
    classes: LayerClasses,
    precision: Precision,
    layout: Layout,
    node: Node,
    memory: MemorySpace,
    exchanges: Exchanges,
    most: int = 32768,
) -> PriceTables:
    """The tables of a model under a layout; ``most``: tokens of the largest step. Raises ``InputError``."""
    if layout.pp > classes.layers:
        raise bad_input(f"{classes.layers} layers, too few for {layout.pp} stages", path="layout.pp")
    builder = _Builder(classes, precision, layout, node, memory, exchanges)
    groups, moving = _groups(builder)
    points = grid(most)
    tables = np.zeros((len(GROUPS), len(points), len(COLUMNS)))
    for phase in ("decode", "prefill"):
        wanted = groups[phase]
        if not wanted:
            continue
        steps = [
            [
                s
                for s in builder.step(phase, int(m), PROBE_CONTEXT if phase == "decode" else int(m))
                if s.name in wanted
            ]
            for m in points
        ]
        _fill(builder, tables, steps, wanted)
    decode_rows, decode_own, decode_constants = _attention(builder, "decode", PROBE_CONTEXT)
    prefill_rows, prefill_own, prefill_constants = _attention(builder, "prefill", PROBE_CONTEXT)
    limit = _indexed(classes)
    sparse = np.zeros((0, 0))
    if limit:
        sparse = np.concatenate(_attention(builder, "prefill", 2 * limit), axis=1)
    moving_points, moving_decode, moving_prefill = _moving(builder, moving, limit)
    return PriceTables(
        points, tables, decode_rows, decode_own, prefill_rows, prefill_own, decode_constants, prefill_constants,
        moving_points, moving_decode, moving_prefill, _layout_figures(builder, limit), sparse,
    )  # fmt: skip


def _indexed(classes: LayerClasses) -> int:
    """Tokens that an indexer chooses; 0 without one."""
    for layer in classes.decoder.layers:
        if isinstance(layer.mixer, LatentAttention) and layer.mixer.indexer is not None:
            return layer.mixer.indexer.top_k
    return 0


def _layout_figures(builder: _Builder, limit: int) -> Array:
    from simulator.serving.device_share import Exchange

    layout, hidden = builder.layout, builder.classes.decoder.hidden
    sheet = GPU.sheet(builder.node, builder.memory)
    per_token = base = 0.0
    if layout.pp > 1:
        few, many = (builder.exchanges.seconds(Exchange("send", 2 * hidden * n, 2)) for n in (1, 4096))
        per_token = (many - few) / 4095
        base = few - per_token
    share = float(shipped_constants().data.get("power", {}).get("active_share", 0.0))
    return np.array([
        float(layout.attention_dp), float(layout.pp), per_token * (layout.pp - 1), base * (layout.pp - 1),
        sheet.idle, float(layout.devices), share * max(0.0, min(sheet.tdp, 1e5) - sheet.idle), float(limit),
    ])  # fmt: skip


def _groups(builder: _Builder) -> tuple[dict[Phase, dict[str, int]], set[str]]:
    """The group of every operator, for the phase that its table is built from, and those that follow two sizes."""
    decode = {s.name: s for s in builder.step("decode", PROBE, PROBE_CONTEXT)}
    longer = {s.name: s for s in builder.step("decode", PROBE, 2 * PROBE_CONTEXT)}
    prefill = {s.name: s for s in builder.step("prefill", PROBE, PROBE_CONTEXT)}
    deeper = {s.name: s for s in builder.step("prefill", PROBE, 2 * PROBE_CONTEXT)}
    last = len(builder.classes.decoder.layers)
    found: dict[Phase, dict[str, int]] = {"decode": {}, "prefill": {}}
    moving: set[str] = set()
    for name, shared in decode.items():
        if _is_attention(shared):
            continue
        other = prefill.get(name)
        if not _alike(shared, longer[name]):
            moving.add(name)
        elif other is not None and _alike(shared, other):
            found["decode"][name] = TOKEN
        elif shared.layer == last:
            found["decode"][name] = SAMPLE
        else:
            found["decode"][name] = DECODE
    for name, shared in prefill.items():
        if _is_attention(shared) or found["decode"].get(name) in (TOKEN, SAMPLE) or name in moving:
            continue
        found["prefill"][name] = CHUNK if _alike(shared, deeper[name]) else POSITION
    return found, moving


def _is_attention(shared: Shared) -> bool:
    return shared.operator is not None and isinstance(shared.operator.work, Attention)


def _alike(one: Shared, other: Shared) -> bool:
    """Whether two operators do the same, whatever room a cache has."""
    if one.operator is None or other.operator is None:
        return one.exchange == other.exchange
    return one.operator.work == other.operator.work and one.operator.write_bytes == other.operator.write_bytes


def _fill(builder: _Builder, tables: Array, steps: list[list[Shared]], wanted: dict[str, int]) -> None:
    """Add the operators of each grid point's step to their groups."""
    flat = [(point, s) for point, step in enumerate(steps) for s in step if s.times]
    costs = iter(_costs(builder, [s for _, s in flat]))
    for point, shared in flat:
        tables[wanted[shared.name], point] += shared.times * next(costs)


def _costs(builder: _Builder, shared: Iterable[Shared]) -> list[Array]:
    """Columns of :data:`COLUMNS` of each operator or exchange, once."""
    listed = list(shared)
    operators = [s.operator for s in listed if s.operator is not None and s.operator.kind != "view"]
    found = iter(GPU.costs(operators, builder.node, builder.memory))
    columns = []
    for s in listed:
        if s.exchange is not None:
            seconds = builder.exchanges.seconds(s.exchange)
            columns.append(np.array([seconds, seconds, 0.0, 1.0]))
        elif s.operator is None or s.operator.kind == "view":
            columns.append(np.zeros(len(COLUMNS)))
        else:
            cost = next(found)
            joules = cost.compute_energy_j + cost.memory_energy_j
            columns.append(np.array([cost.seconds + cost.launch_seconds, 0.0, joules, 1.0]))
    return columns


def _attention(builder: _Builder, phase: Phase, context: int) -> tuple[Array, Array, Array]:
    """Inputs of the attention kernel for each kind of attention layer, what the step's kernel adds, its constants."""
    from simulator.gpu.lowering import lowered

    constants = shipped_constants()
    sheet, setup = GPU.sheet(builder.node, builder.memory), constants.setup("default")
    kinds: dict[object, tuple[Shared, int]] = {}
    for shared in builder.step(phase, PROBE, context):
        if _is_attention(shared) and shared.times and shared.operator is not None:
            known = kinds.get(shared.operator.work)
            kinds[shared.operator.work] = (shared, shared.times + (known[1] if known else 0))
    rows, own, fitted = [], [], []
    for shared, times in kinds.values():
        operator = shared.operator
        assert operator is not None
        assert isinstance(operator.work, Attention)
        work = operator.work
        plain = replace(operator, work=replace(work, window=0, sink_tokens=0, chunk=0, top_k=0))
        line = attention_line(Request(lowered(plain), sheet, setup), constants)
        line[WINDOWED] = float(work.window > 0)
        rows.append(line)
        fitted.append(constants.array(family_of(plain, sheet), attention.CONSTANTS))
        launch = GPU.predict_rows([plain], builder.node, builder.memory)[0].launch_s
        limits = [size for size in (work.reach, work.top_k) if size]
        peak = peak_rate(builder.node.device.compute, operator.kind, operator.dtype)  # type: ignore[union-attr]
        own.append([
            float(min(limits)) if limits else 0.0, float(work.chunk), float(times), launch, peak,
            builder.memory.read_bandwidth, _flop_joules(family_of(plain, sheet), builder), sheet.joule_per_byte,
        ])  # fmt: skip
    width = len(attention.COLUMNS)
    count = len(attention.CONSTANTS)
    return (
        np.array(rows).reshape(-1, width),
        np.array(own).reshape(-1, OWN),
        np.array(fitted).reshape(-1, count),
    )


def _flop_joules(family: str, builder: _Builder) -> float:
    from simulator.gpu.request import flop_joules

    return flop_joules(family, GPU.sheet(builder.node, builder.memory), shipped_constants())


def _moving(builder: _Builder, names: set[str], limit: int) -> tuple[Array, Array, Array]:
    """Tables over requests (or chunk tokens) and context of operators that follow both; empty where there are none."""
    if not names:
        return np.zeros((0, 0)), np.zeros((0, 0, 0)), np.zeros((0, 0, 0))
    counts = 4.0 ** np.arange(0, 8)
    contexts = float(limit or 512) * 2.0 ** np.arange(-6, 9)
    contexts = contexts[contexts >= 16]
    size = max(len(counts), len(contexts))
    points = np.full((2, size), np.inf)
    points[0, : len(counts)], points[1, : len(contexts)] = counts, contexts
    made = []
    for phase in ("decode", "prefill"):
        table = np.zeros((len(counts), len(contexts), len(COLUMNS)))
        for i, count in enumerate(counts):
            for j, context in enumerate(contexts):
                at = int(max(context, count)) if phase == "prefill" else int(context)
                step = [s for s in builder.step(phase, int(count), at) if s.name in names and s.times]
                for shared, cost in zip(step, _costs(builder, step), strict=True):
                    table[i, j] += shared.times * cost
        made.append(table)
    return points, made[0], made[1]
