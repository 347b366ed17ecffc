"""A tenth of the output features in 8 bits, the others in 4, activations in 8: bytes and time of the products.

Zheng et al., MixLLM, arXiv:2412.14590. The forms are graphs of their own operators (:mod:`workloads.mixed_columns`),
priced by the GPU model; without overlap, its soft maxima of memory, conversion and matrix units become sums.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from hw_configs.library import load_system
from offchip.studies.study import Basis, Claim, ClaimResult, Outcome, Study, StudyTable, compare
from simulator.gpu.constants import Constants, shipped_constants
from simulator.gpu.model import GPU
from simulator.gpu.request import Request
from simulator.gpu.rows import predict
from workloads.graph import Graph, Operator, Role
from workloads.importers import load_workload
from workloads.low_rank import LowRank, with_low_rank
from workloads.mixed_columns import MixedColumns, with_mixed_columns
from workloads.workload import WorkloadOptions

__all__ = ["STUDY", "forms", "layer_seconds"]

MODEL: Final = "llama-3.1-70b"
DEVICE: Final = "a100-80gb"
SHARE: Final = 0.1
"""Of columns in 8 bits: 10 % more bits than 4."""
TOKENS: Final = (1, 16, 64, 256, 512, 1024, 2048, 4096)
OVERLAPS: Final = ("overlap", "memory_overlap", "vector_overlap")
OURS: Final = "W4.4A8"
_ONE: Final = "arXiv:2412.14590, abstract (version 1)"
_TWO: Final = "arXiv:2412.14590, abstract (version 2)"


def _in_layers(operator: Operator) -> bool:
    return operator.name.startswith("layers.")


def _mixed(graph: Graph, form: MixedColumns, share: float) -> Graph:
    return with_mixed_columns(graph, form, lambda operator: share if _in_layers(operator) else None)


@cache
def forms(tokens: int) -> dict[str, Graph]:
    """One layer over so many tokens in every form."""
    options = WorkloadOptions(phase="prefill", prompt=tokens, dtype="fp16", layers=1)
    whole = load_workload(MODEL, options).phases[0].graph
    return {
        "16 bits": whole,
        "W8A8": with_low_rank(whole, LowRank("int8", group=1 << 20, rank=0), _in_layers),
        "W4A16": _mixed(whole, MixedColumns(two_steps=False), 0.0),
        "W4.4A16": _mixed(whole, MixedColumns(two_steps=False), SHARE),
        "W4A8": _mixed(whole, MixedColumns(), 0.0),
        OURS: _mixed(whole, MixedColumns(), SHARE),
        "W4.4A8, two kernels": _mixed(whole, MixedColumns(fused=False), SHARE),
        "W8A8, groups": _mixed(whole, MixedColumns(), 1.0),
    }


def _without_overlap() -> Constants:
    """Constants with which what a kernel does beside one another comes one after another."""
    data = shipped_constants().data
    changed = {
        name: dict(value) | dict.fromkeys(OVERLAPS, 1.0) if name in ("integer8", "widened", "tensor16") else value
        for name, value in data.items()
    }  # fmt: skip
    return Constants(changed)


@cache
def layer_seconds(form: str, tokens: int, overlapped: bool = True) -> float:
    """Seconds of a layer's products and of quantising for them, launches within."""
    constants = shipped_constants() if overlapped else _without_overlap()
    system = load_system(DEVICE)
    node = system.workers()[0]
    sheet = GPU.sheet(node, system.memories[node.memory or node.name])
    chosen = [o for o in forms(tokens)[form].operators if o.kind in ("matmul", "quantize") and _in_layers(o)]
    setup = constants.setup("default")
    found = predict([Request(operator, sheet, setup) for operator in chosen], constants)
    return sum(one.kernel_s + one.launch_s for one in found)


def layer_bytes(form: str) -> int:
    """Bytes of a layer's weights."""
    graph = forms(TOKENS[0])[form]
    products = [o for o in graph.operators if o.kind == "matmul" and _in_layers(o)]
    names = {name for o in products for name in o.inputs if graph.tensors[name].role is Role.WEIGHT}
    return sum(graph.tensors[name].size_bytes for name in names)


def _claims() -> list[ClaimResult]:
    def claim(
        id: str, statement: str, published: float | str, source: str, basis: Basis, unit: str = ""
    ) -> Claim:
        return Claim(id, statement, published, unit, source, "published", basis)

    accuracy = ("Not covered.", "Accuracy is an input of Offchip, never an output.")
    leads = {
        name: [layer_seconds(name, tokens) / layer_seconds(OURS, tokens) for tokens in TOKENS]
        for name in ("16 bits", "W8A8", "W4A16")
    }
    spans = ", ".join(f"{name} {max(lead):.2f} to {min(lead):.2f}" for name, lead in leads.items())
    return [
        compare(claim("bits", "bits of weights over 4-bit ones", 1.1, _TWO, "counting", "x"),
                layer_bytes(OURS) / layer_bytes("W4A8"),
                f"Bytes of a layer of {MODEL} with scales and zero points, groups of 128; a tenth of the columns wide.",
                "Scales and zero points are in both."),
        compare(claim("efficiency", "system efficiency", "state of the art, no figure", _TWO, "mechanism"), None,
                f"Products of a layer of {MODEL} over 1 to 4096 tokens on {DEVICE}. Times of others over those of "
                f"{OURS}, most to least: {spans}.",
                "The abstract says whom it is compared with as little as by how much."),
        compare(claim("perplexity", "rise of perplexity, Llama 3.1 70B (0.5 before)", 0.2, _ONE, "mechanism"), None,
                *accuracy),
        compare(claim("mmlu-pro", "MMLU-Pro better than before", 0.93, _ONE, "mechanism"), None, *accuracy),
        compare(claim("mmlu-pro-loss", "loss of MMLU-Pro (1.92 before)", 0.99, _TWO, "mechanism"), None, *accuracy),
    ]  # fmt: skip


def _run() -> Outcome:
    names = tuple(forms(TOKENS[0]))
    times = tuple(
        (float(tokens), *(1e6 * layer_seconds(name, tokens) for name in names)) for tokens in TOKENS
    )
    sizes = tuple(
        (name, layer_bytes(name) / 1e6, layer_bytes(name) / layer_bytes("16 bits")) for name in names
    )
    overlaps = tuple(
        (float(tokens), *(
            layer_seconds(name, tokens, overlapped=False) / layer_seconds(name, tokens)
            for name in ("16 bits", "W4A16", OURS)
        ))
        for tokens in TOKENS
    )  # fmt: skip
    return Outcome(
        _claims(),
        [
            StudyTable(f"Weights of a layer of {MODEL}", ("form", "MB", "of 16 bits"), sizes),
            StudyTable(f"Products of a layer and quantising for them on {DEVICE}, us", ("tokens", *names), times),
            StudyTable(
                "Times longer without overlap of memory, conversion and matrix units",
                ("tokens", "16 bits", "W4A16", OURS), overlaps,
            ),
        ],
    )  # fmt: skip


STUDY: Final = Study(
    "mixed-columns",
    "MixLLM: output features in 4 and in 8 bits",
    "Zheng, Song, Liu, MixLLM: LLM Quantization with Global Mixed-precision between Output-features and "
    "Highly-efficient System Design, arXiv:2412.14590",
    "Products of a layer of Llama 3.1 70B with a tenth of the columns in 8 bits and groups scaled in two steps, beside "
    "16 bits, 8 bits, 4-bit weights alone, both widths in kernels of their own, and kernels without overlap.",
    _run,
)
