"""Networks that stay frozen while something small beside or before them is trained, by two ledgers of memory.

Test-time adaptation with small networks beside the parts of a frozen one (EcoTTA, arXiv:2303.01904), against training
all of it (CoTTA, arXiv:2203.13591) or its norms (TENT, arXiv:2006.10726). And a prompt found from two forward passes
alone (BlackVIP, arXiv:2303.14773), against one found by backpropagation. One ledger is the profiler's that the first
paper counts with; the other is what eager PyTorch keeps (:mod:`workloads.saved_activations`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Final

from mapping.training.requests import request_sequence
from offchip.studies.study import Claim, ClaimResult, Outcome, Study, StudyTable, apart, compare
from offchip.validation.activations import kept_storages
from workloads.graph import Graph, Role
from workloads.importers import load_workload
from workloads.step_types import StepTypes
from workloads.trained_parts import ALL_TRAINED, TrainedParts, WeightMethod
from workloads.workload import WorkloadOptions

__all__ = ["BLACKVIP", "ECOTTA", "profiled_bytes"]

MB: Final = 1e6
BATCH: Final = 64
EAGER: Final = StepTypes(master="none", moments="", saved="eager", loss="eager")
_ECOTTA: Final = "EcoTTA, arXiv:2303.01904, abstract"
_COTTA: Final = "CoTTA: everything, beside a teacher and the source model"
NORMS: Final = TrainedParts((("*norm*", WeightMethod()),), name="norms")
BESIDE: Final = TrainedParts((("meta*", WeightMethod()),), name="beside")


# EcoTTA: small networks beside a frozen one.


@dataclass(frozen=True, slots=True)
class Way:
    """One way to adapt a network at test time; ``held``: how often its parameters lie in memory."""

    label: str
    model: str
    parts: TrainedParts
    held: int = 1
    dims: tuple[tuple[str, int], ...] = ()

    def options(self) -> WorkloadOptions:
        """A batch of images in FP32, operator by operator as eager code runs them."""
        return WorkloadOptions(batch=BATCH, dtype="fp32", fused=False, dims=dict(self.dims))

    def trains(self, weight: str) -> bool:
        """Whether a weight is trained."""
        return self.parts.method_of(weight).method != "frozen"


def _ways(model: str) -> list[Way]:
    ways = [
        Way(_COTTA, model, ALL_TRAINED, held=3),
        Way("TENT: norms", model, NORMS),
    ]
    for parts in (4, 5):
        for kernel in (3, 1):
            label = f"EcoTTA: {parts} networks beside it, {kernel}x{kernel}"
            dims = (("parts", parts), ("kernel", kernel))
            ways.append(Way(label, f"{model}-meta", BESIDE, dims=dims))
    return ways


def profiled_bytes(graph: Graph, trains: Callable[[str], bool]) -> tuple[float, float]:
    """Bytes of parameters, and of activations of a forward graph at their most, as TinyTL's profiler counts them.

    A product and a norm keep their FP32 input if their weight is trained, a rectifier a bit per element whatever is
    trained; where a network beside the main one rectifies, the profiler sees a function and counts nothing. What a
    layer reads and writes comes on top while it runs. Frozen parameters take a byte, as its default has it
    (``memory_cost_profiler.py`` of github.com/mit-han-lab/tinyml).
    """
    held, most = 0.0, 0.0
    for op in graph.operators:
        entered, left = (prod(graph.tensors[names[0]].shape) for names in (op.inputs, op.outputs))
        if op.kind in ("conv", "matmul", "norm"):
            beside = 0 if op.kind == "norm" else 4 * left
            own = 4.0 * entered * any(trains(name) for name in op.inputs if graph.tensors[name].is_weight)
        elif op.kind == "activation" and not op.name.startswith("meta"):
            beside, own = 0, entered / 8
        else:
            continue
        most = max(most, held + 4 * entered + beside)
        held += own
    weights = [t for t in graph.tensors.values() if t.role is Role.WEIGHT]
    return sum(prod(t.shape) * (4 if trains(t.name) else 1) for t in weights), most


def _counted(way: Way) -> tuple[float, float, float]:
    """Bytes of parameters and activations by the profiler, and of FP32 parameters."""
    graph = load_workload(way.model, way.options()).phases[0].graph
    parameters, activations = profiled_bytes(graph, way.trains)
    whole = 4.0 * graph.parameters()
    return parameters + (way.held - 1) * whole, activations, way.held * whole


@cache
def _kept(model: str, parts: TrainedParts, dims: tuple[tuple[str, int], ...]) -> int:
    """Bytes that eager code keeps of a forward pass for the backward pass."""
    options = replace(Way("", model, parts, dims=dims).options(), phase="train", types=EAGER, trained=parts)
    return sum(kept_storages(load_workload(model, options).phases[0].graph, "none").values())


def _adaptation(model: str) -> tuple[StudyTable, dict[str, tuple[float, float]]]:
    """The ledger of one network, and the bytes of each way by the profiler and by eager code."""
    rows: list[tuple[str | float, ...]] = []
    found: dict[str, tuple[float, float]] = {}
    for way in _ways(model):
        parameters, activations, whole = _counted(way)
        kept = _kept(way.model, way.parts, way.dims)
        counted, held = parameters + activations, whole + kept
        found[way.label] = (counted, held)
        rows.append(
            (way.label, parameters / MB, activations / MB, counted / MB, whole / MB, kept / MB, held / MB)
        )
    columns = (
        "way", "parameters, profiler, MB", "activations, profiler, MB", "all, profiler, MB", "parameters, MB",
        "kept by eager code, MB", "all, MB",
    )  # fmt: skip
    return StudyTable(f"{model}, {BATCH} images of 32 x 32", columns, tuple(rows)), found


def _run_ecotta() -> Outcome:
    results: list[ClaimResult] = []
    tables = []
    whole = Way("", "wide-resnet-40", ALL_TRAINED)
    parameters, activations, _ = _counted(whole)
    results.append(
        compare(
            Claim("full", "WideResNet-40 with everything trained, parameters and activations", 392_864_976.0, "B",
                  "output in the authors' notebook, as github.com/Lily-Le/EcoTTA has it", "second-hand", "counting"),
            parameters + activations,
            f"TinyTL's rules over {BATCH} images: FP32 inputs of trained convolutions and norms, a bit per rectified "
            "element.",
        )
    )  # fmt: skip
    for model, less in (("resnet-50-small", 0.86), ("wide-resnet-40", 0.80)):
        table, found = _adaptation(model)
        tables.append(table)
        cotta, ours = found[_COTTA], found["EcoTTA: 4 networks beside it, 3x3"]
        results.append(
            compare(
                Claim(f"counted-{model}", f"memory less than CoTTA's, {model}, by the profiler", less, "", _ECOTTA,
                      "published", "counting"),
                1 - ours[0] / cotta[0],
                "Four parts, a 3x3 convolution, norm and rectifier beside each and a norm behind it, as the authors' "
                "notebook builds them; parameters and activations by TinyTL's rules; CoTTA holds three copies of the "
                "parameters and keeps the student's activations.",
                "Where ResNet-50 is divided is taken from the other repository, and the abstract's number of parts was "
                "not found. The profiler's default takes 8 bits for a frozen parameter.")
        )  # fmt: skip
        results.append(
            compare(
                Claim(f"kept-{model}", f"memory less than CoTTA's, {model}, by what eager code keeps", less, "",
                      _ECOTTA, "published", "mechanism"),
                1 - ours[1] / cotta[1],
                "Autograd's rules: gradients of the entropy reach every network beside the main one through the "
                "frozen parts, whose norms keep their inputs and whose rectifiers keep their results for it.",
                "The profiler counts nothing for a frozen norm and a bit for a rectified element; code that saves so "
                "little needs kernels of its own.")
        )  # fmt: skip
    return Outcome(results, tables)


# BlackVIP: a prompt from two forward passes.

PROMPT: Final = TrainedParts((("patch_embedding.bias", WeightMethod()),), name="prompt")
"""What is trained lies before all layers: gradients have to come the whole way down, for next to no parameters."""
IMAGES: Final = 128
"""Batch of the repository's configurations (``configs/trainers``)."""
AUTOCAST: Final = StepTypes(weights="fp32", master="none", saved="eager", loss="eager", logits="fp32")
COORDINATOR_PARAMETERS: Final = 86_000_000
"""The frozen encoder of the coordinator, a ViT-B (``trainers/visual_prompters.py``)."""
_BLACKVIP: Final = "BlackVIP, arXiv:2303.14773, table of peak memory on ImageNet"


def _prompted(model: str, parts: TrainedParts, types: StepTypes) -> tuple[float, float]:
    """Bytes held from step to step, and the most of all others that live at once."""
    options = WorkloadOptions(phase="train", batch=IMAGES, dtype="fp16", types=types, trained=parts)
    graph = load_workload(model, options).phases[0].graph
    states = sum(
        t.size_bytes for t in graph.tensors.values() if t.role in (Role.WEIGHT, Role.OPTIMIZER_STATE)
    )
    # Frozen weights are FP32 too under autocast; the graph holds them in the products' own type.
    states += sum(
        2 * prod(t.shape) for t in graph.tensors.values() if t.role is Role.WEIGHT and t.dtype == "fp16"
    )
    gradients = {
        name for op in graph.operators if op.kind == "optimizer" for name in op.inputs
        if graph.tensors[name].role is Role.GRADIENT
    }  # fmt: skip
    held = states + sum(graph.tensors[name].size_bytes for name in gradients)
    return float(held), float(request_sequence(graph).live_bytes().max(initial=0))


def _run_blackvip() -> Outcome:
    forward = replace(PROMPT, forward_only=True)
    rows: list[tuple[str | float, ...]] = []
    results: list[ClaimResult] = []
    recalled = {"vit-b-16": (21_655.0, 11_937.0, 2_428.0), "vit-l-16": (76_635.0, 44_560.0, 5_260.0)}
    method = (
        f"{IMAGES} images of 224 x 224 under autocast (FP32 weights, FP16 products), eager attention: what is held "
        "from step to step and the most that lives at once. The prompt is stood for by a bias before the first layer; "
        "forward only, the coordinator's frozen ViT-B is held beside it."
    )
    unknown = (
        "The table's figures are recalled, not read, and so is nothing of its batch: ours is that of the repository's "
        "configurations. Measured peaks hold the allocator's slack and libraries' workspaces."
    )
    for model, (full, white, black) in recalled.items():
        ways = {
            "everything trained": _prompted(model, ALL_TRAINED, AUTOCAST),
            "prompt, by backpropagation": _prompted(model, PROMPT, AUTOCAST),
            "prompt, by two forward passes": _prompted(model, forward, AUTOCAST),
        }
        held, live = ways["prompt, by two forward passes"]
        ways["prompt, by two forward passes"] = (held + 4 * COORDINATOR_PARAMETERS, live)
        total = {label: sum(pair) for label, pair in ways.items()}
        rows += [(f"{model}, {label}", a / MB, b / MB, (a + b) / MB) for label, (a, b) in ways.items()]
        last = total["prompt, by two forward passes"]
        for other, label, figure in (
            ("full", "everything trained", full), ("white", "prompt, by backpropagation", white),
        ):  # fmt: skip
            results.append(
                compare(
                    Claim(f"{model}-{other}", f"peak memory of {label} over forward only, {model}", figure / black, "",
                          _BLACKVIP, "recalled", "mechanism"),
                    total[label] / last, method, unknown)
            )  # fmt: skip
        results.append(
            compare(
                Claim(f"{model}-forward", f"peak memory of a step of forward passes, {model}", black, "MB", _BLACKVIP,
                      "recalled", "mechanism"),
                last / MB, method, unknown)
        )  # fmt: skip
    results.append(
        apart(Claim("minimal", "minimal memory requirements", "minimal", "", "BlackVIP, arXiv:2303.14773, abstract",
                    "published", "mechanism"),
              None, method, "A word without a figure.")
    )  # fmt: skip
    columns = ("way", "held, MB", "live at once, MB", "all, MB")
    return Outcome(results, [StudyTable(f"A step over {IMAGES} images", columns, tuple(rows))])


ECOTTA: Final = Study(
    "ecotta", "EcoTTA: small networks beside a frozen one", "Song et al., EcoTTA, arXiv:2303.01904, CVPR 2023",
    "Test-time adaptation of ResNet-50 and WideResNet-40 on images of 32 x 32: all trained, norms, or networks beside.",
    _run_ecotta,
)  # fmt: skip
BLACKVIP: Final = Study(
    "blackvip", "BlackVIP: a prompt from forward passes alone", "Oh et al., BlackVIP, arXiv:2303.14773, CVPR 2023",
    "A step of ViT-B and ViT-L with everything trained, with a prompt by backpropagation, and by two forward passes.",
    _run_blackvip,
)  # fmt: skip
