"""Products of a few bits on a GPU's matrix units, plane by plane: which widths gain on 4-bit products, and which lose.

Ma et al., Efficient Arbitrary Precision Acceleration for Large Language Models on GPU Tensor Cores, arXiv:2409.17870,
and its successor APT-LLM, arXiv:2508.19087. Planes are operators of their own (:mod:`workloads.bit_planes`), priced by
the GPU model beside its products of 16, 8 and 4 bits.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from hw_configs.library import load_system
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, apart, compare
from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL
from workloads.bit_planes import BitPlanes, with_bit_planes
from workloads.graph import Graph, Operator
from workloads.importers import load_workload
from workloads.layer_builder import LayerBuilder
from workloads.low_rank import LowRank, with_low_rank
from workloads.workload import WorkloadOptions

__all__ = ["STUDY", "layer_seconds", "step_seconds"]

MODEL: Final = "llama-2-7b"
OLD, NEW = "rtx-3090", "rtx-4090"
WIDTHS: Final = (BitPlanes(1, 2), BitPlanes(2, 2), BitPlanes(3, 4))
"""Of weights and activations; those of the papers as recalled."""
SIDES: Final = (1024, 2048, 4096, 8192)
STEPS: Final = (
    ("prefill", 1, 128),
    ("prefill", 1, 512),
    ("prefill", 1, 2048),
    ("decode", 1, 512),
    ("decode", 16, 512),
)
"""Phase, sequences, tokens of the prompt."""
GROUP: Final = 4096
"""Elements a scale of the ordinary narrow products: one or a few a row."""
_PAPER: Final = "arXiv:2409.17870, abstract"
_NEXT: Final = "APT-LLM, arXiv:2508.19087, abstract"
Form = BitPlanes | str
"""Planes, or the element type of an ordinary product."""


def _in_layers(operator: Operator) -> bool:
    return operator.name.startswith("layers.")


def _formed(graph: Graph, form: Form, everywhere: bool = False) -> Graph:
    """A graph in 16 bits with its products (of layers, or all) in another form."""

    def chosen(operator: Operator) -> bool:
        return everywhere or _in_layers(operator)

    if isinstance(form, BitPlanes):
        return with_bit_planes(graph, form, chosen)
    if form == "fp16":
        return graph
    return with_low_rank(graph, LowRank(form, group=GROUP, rank=0), chosen)


def _seconds(graph: Graph, device: str, kinds: tuple[str, ...] = ()) -> float:
    """Seconds of a graph's operators, launches within; of some kinds alone where they are named."""
    system = load_system(device)
    node = system.workers()[0]
    memory, total = system.memories[node.memory or node.name], 0.0
    for operator in graph.operators:
        if not kinds or operator.kind in kinds:
            cost = COST_MODELS.get(DEFAULT_COST_MODEL).cost(operator, node, memory)
            total += cost.seconds + cost.launch_seconds
    return total


@cache
def layer_seconds(rows: int, side: int, form: Form, device: str = OLD) -> float:
    """Seconds of one product of so many rows with a square weight, without its quantising."""
    net = LayerBuilder("layer", WorkloadOptions(batch=rows, dtype="fp16"))
    graph = net.graph(net.linear("layer", net.input("x", side), side, bias=False))
    return _seconds(_formed(graph, form, everywhere=True), device, ("matmul", "elementwise"))


@cache
def step_seconds(step: tuple[str, int, int], form: Form, device: str = OLD) -> float:
    """Seconds of a prefill or a decode step of the model; its vocabulary's product stays in 16 bits."""
    phase, batch, prompt = step
    options = WorkloadOptions(phase=phase, batch=batch, prompt=prompt, dtype="fp16")
    return _seconds(_formed(load_workload(MODEL, options).phases[0].graph, form), device)


def _best_product(baseline: str, device: str) -> float:
    return max(
        layer_seconds(side, side, baseline, device) / layer_seconds(side, side, form, device)
        for side in SIDES
        for form in WIDTHS
    )


def _best_step(baseline: str, device: str) -> float:
    return max(
        step_seconds(step, baseline, device) / step_seconds(step, form, device)
        for step in STEPS
        for form in WIDTHS
    )


def _claims() -> list[ClaimResult]:
    squares = f"Best of {', '.join(form.name for form in WIDTHS)} over squares of {SIDES[0]} to {SIDES[-1]}, on {OLD}."
    steps = f"Best of the same widths over prefills of 128 to 2048 tokens and decode steps of {MODEL}"
    unread = "GPU, widths and shapes are not in the abstract; they are as recalled."
    one_row = layer_seconds(1, 4096, "int4") / layer_seconds(1, 4096, WIDTHS[0])

    def claim(id: str, statement: str, published: float, source: str) -> Claim:
        return Claim(id, statement, published, "x", source, "published", "mechanism")

    return [
        compare(claim("product", "product faster than CUTLASS, at most", 2.4, f"{_PAPER} (version 2)"),
                _best_product("int4", OLD), f"Over 4-bit products. {squares}",
                f"{unread} Of one row, where the bytes of weights decide, it is {one_row:.2f}."),
        apart(claim("product-first", "product faster than CUTLASS, at most", 13.0, f"{_PAPER} (version 1)"),
              _best_product("fp16", OLD), f"Over 16-bit products. {squares}",
              "Which products of CUTLASS are meant is not in the abstract, and version 2 has another figure."),
        compare(claim("inference", "inference faster, at most", 6.7, _PAPER), _best_step("fp16", OLD),
                f"{steps}, over 16 bits, on {OLD}.", f"{unread} One bit each would give more (table)."),
        compare(claim("next-fp16", "inference faster than 16 bits, at most (RTX 3090)", 3.99, _NEXT),
                _best_step("fp16", OLD), f"{steps}, on {OLD}.",
                "The same authors' two papers differ by 1.7 here; widths and lengths are not in the abstract."),
        compare(claim("next-int4", "inference faster than CUTLASS in 4 bits, at most (RTX 3090)", 2.16, _NEXT),
                _best_step("int4", OLD), f"{steps}, over 4-bit products, on {OLD}.",
                "Lengths are not in the abstract."),
        compare(claim("next-fp16-ada", "inference faster than 16 bits, at most (RTX 4090, H800)", 2.44, _NEXT),
                _best_step("fp16", NEW), f"{steps}, on {NEW}.",
                "On H800 it was not run: how fast its matrix units take single bits is not known here."),
        compare(claim("next-int-ada", "inference faster than CUTLASS integers, at most (RTX 4090, H800)", 1.65, _NEXT),
                _best_step("int4", NEW), f"{steps}, over 4-bit products, on {NEW}.", "As above."),
    ]  # fmt: skip


def _products() -> StudyTable:
    forms = (BitPlanes(1, 1), *WIDTHS, BitPlanes(4, 4), BitPlanes(8, 8))
    rows: list[tuple[str | float, ...]] = []
    for lines, side in ((1, 4096), (64, 4096), *((side, side) for side in SIDES)):
        plain = [1e6 * layer_seconds(lines, side, name) for name in ("fp16", "int8", "int4")]
        rows.append(
            (
                f"{lines} x {side} x {side}",
                *plain,
                *(1e6 * layer_seconds(lines, side, form) for form in forms),
            )
        )
    columns = ("rows x columns x sum", "16 bits", "8 bits", "4 bits", *(form.name for form in forms))
    return StudyTable(f"Products on {OLD}, us", columns, tuple(rows))


def _ways() -> StudyTable:
    """What folding on chip and packed planes are worth."""
    rows: list[tuple[str | float, ...]] = []
    for form in WIDTHS:
        bits = (form.weight_bits, form.activation_bits)
        ways = (form, BitPlanes(*bits, folded=False), BitPlanes(*bits, packed=False))
        for lines in (1, 4096):
            rows.append((form.name, float(lines), *(1e6 * layer_seconds(lines, 4096, way) for way in ways)))
    columns = ("width", "rows", "folded, packed", "sums through memory", "weights as bytes")
    return StudyTable(
        f"Ways to put planes together, weight of 4096 x 4096 on {OLD}, us", columns, tuple(rows)
    )


def _steps() -> StudyTable:
    forms: tuple[Form, ...] = ("int8", "int4", BitPlanes(1, 1), *WIDTHS)
    rows: tuple[tuple[str | float, ...], ...] = tuple(
        (f"{phase}, {batch} x {prompt}", 1e3 * step_seconds((phase, batch, prompt), "fp16"),
         *(step_seconds((phase, batch, prompt), "fp16") / step_seconds((phase, batch, prompt), form) for form in forms))
        for phase, batch, prompt in STEPS
    )  # fmt: skip
    names = (form if isinstance(form, str) else form.name for form in forms)
    return StudyTable(
        f"Steps of {MODEL} on {OLD}: ms in 16 bits, times faster", ("step", "16 bits, ms", *names), rows
    )


def _run() -> Outcome:
    return Outcome(_claims(), [_products(), _ways(), _steps()])


STUDY: Final = Study(
    "bit-planes",
    "Products of any width from products of bits",
    "Ma, Fang, Shao, Wang, Efficient Arbitrary Precision Acceleration for Large Language Models on GPU Tensor Cores, "
    "arXiv:2409.17870",
    "Planes of weights and activations multiplied bit by bit and folded in shared memory, beside products of 16, 8 and "
    "4 bits: squares, thin products, and prefill and decode of Llama-2-7B. Matrix units are assumed to take single "
    "bits as fast as 8-bit integers of as many bytes.",
    _run,
)
