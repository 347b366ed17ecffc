"""Fine-tuning that trains or keeps less than everything: what each published method takes, by one ledger.

Every scenario is a training setup with trained parts (:mod:`workloads.trained_parts`), priced as ``offchip solve
offload --phase train`` prices any other. Sizes that a paper's abstract does not give are assumptions, named as such.
Sources: PaCA 2503.01905, WTA-CRS 2305.15265, MEFT 2306.00477, LoRAM 2502.13533, PEQA 2305.14152, PST 2205.11005,
Natural GaLore 2410.16029, Cut Cross-Entropy 2411.09009, ViViT 2306.04822, LOOP.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from hw_configs.library import load_system
from mapping.training.estimate import Estimator
from mapping.training.pricing import Prices
from mapping.training.setup import TrainingEstimate, TrainingSetup
from mapping.training.state_types import FRAMEWORKS, StateTypes
from offchip.studies.study import Basis, Certainty, Claim, ClaimResult, Outcome, Study, StudyTable, compare
from workloads.graph import Graph, Role
from workloads.importers import load_workload
from workloads.operators import Optimizer
from workloads.step_types import StepTypes
from workloads.trained_parts import AdapterRule, TrainedParts, WeightMethod
from workloads.workload import WorkloadOptions

__all__ = [
    "CUT_CROSS_ENTROPY", "LOOP", "LORAM", "MEFT", "NATURAL_GALORE", "PACA", "PEQA", "PST", "VIVIT", "WTA_CRS",
]  # fmt: skip

CARD: Final = "a100-80gb"
EAGER: Final = FRAMEWORKS["hf-trainer-bf16"]
"""How the papers' code runs: eager operators of Hugging Face's models in BF16, one kernel for attention."""
ALL: Final = TrainedParts()
MATRICES: Final = "layers.*.weight"
GB: Final = 1e9


@cache
def _estimator() -> Estimator:
    return Estimator(Prices(load_system(CARD)))


@dataclass(frozen=True, slots=True)
class Run:
    """One way to train on one card: model, tokens of a sequence, sequences at once, types and parts."""

    model: str
    tokens: int
    batch: int
    parts: TrainedParts = ALL
    types: StateTypes = EAGER
    recompute: str = "none"
    dtype: str = "bf16"

    def estimate(self) -> TrainingEstimate:
        """Bytes and seconds of a step."""
        setup = TrainingSetup(
            self.model, self.tokens, self.batch, self.batch, self.dtype,
            recompute=self.recompute,  # type: ignore[arg-type]
            types=self.types, parts=self.parts,
        )  # fmt: skip
        return _estimator().estimate(setup, exact=False)


def _row(label: str, found: TrainingEstimate) -> tuple[str | float, ...]:
    memory = found.memory
    states = memory.weights + memory.gradients + memory.optimizer_state
    return (
        label,
        states / GB,
        (memory.skeletal + memory.transient) / GB,
        memory.device_bytes / GB,
        found.time.step_s,
    )


COLUMNS: Final = ("way", "states, GB", "activations, GB", "all, GB", "step, s")


def _table(title: str, rows: list[tuple[str, TrainingEstimate]]) -> StudyTable:
    return StudyTable(title, COLUMNS, tuple(_row(label, found) for label, found in rows))


def _published(
    name: str, statement: str, figure: float | str, unit: str, source: str, basis: Basis = "mechanism",
    certainty: Certainty = "published",
) -> Claim:  # fmt: skip
    return Claim(name, statement, figure, unit, source, certainty, basis)


def _adapters(rank: int, **fields: object) -> TrainedParts:
    rule = AdapterRule(rank, targets=("all-linear",))
    return replace(TrainedParts((), rule), **fields)  # type: ignore[arg-type]


# PaCA: a part of the connections instead of adapters beside them.


def _run_paca() -> Outcome:
    source, tokens, batch, rank = "PaCA, arXiv:2503.01905, abstract", 512, 8, 64
    columns = TrainedParts((("layers.*.attention.*.weight", WeightMethod("columns", rank=rank)),
                            ("layers.*.mlp.*.weight", WeightMethod("columns", rank=rank))))  # fmt: skip
    base = Run("llama-2-7b", tokens, batch, _adapters(rank))
    lora, paca = base.estimate(), replace(base, parts=columns).estimate()
    method = (
        f"Llama-2-7B in BF16, rank {rank} beside or inside every linear layer, {batch} sequences of {tokens} tokens on "
        f"one {CARD}, eager code. PaCA keeps {rank} columns of each input and has no adapter's kernels."
    )
    unknown = "Rank, batch and length of the abstract's figures were not found; ours are assumptions."
    longer = _longest(base, columns, lora.memory.device_bytes)
    claims = [
        compare(_published("time", "training time less than LoRA's", 0.22, "", source),
                1 - paca.time.step_s / lora.time.step_s, method,
                f"{unknown} The host's launches of the adapters' small kernels, which serial adapters wait for, are "
                "not in our time."),
        compare(_published("memory", "memory less than LoRA's", 0.16, "", source),
                1 - paca.memory.device_bytes / lora.memory.device_bytes, method, unknown),
        compare(_published("length", "longer sequences than LoRA's in the same memory", 0.23, "", source),
                longer / tokens - 1, f"{method} The sequence grows until PaCA takes what LoRA took.", unknown),
    ]  # fmt: skip
    rows = [("LoRA", lora), ("PaCA", paca)]
    for other in (16, 256):
        part = TrainedParts(tuple((pattern, replace(m, rank=other)) for pattern, m in columns.rules))
        rows += [(f"LoRA, rank {other}", replace(base, parts=_adapters(other)).estimate()),
                 (f"PaCA, rank {other}", replace(base, parts=part).estimate())]  # fmt: skip
    return Outcome(claims, [_table("A step of Llama-2-7B", rows)])


def _longest(base: Run, parts: TrainedParts, room: int) -> int:
    """The longest sequence, in steps of 16 tokens, that takes no more memory than ``room``."""
    low, high = base.tokens, 4 * base.tokens
    while high - low > 16:
        middle = (low + high) // 32 * 16
        fits = replace(base, parts=parts, tokens=middle).estimate().memory.device_bytes <= room
        low, high = (middle, high) if fits else (low, middle)
    return low


# WTA-CRS: gradients of weights from a sample of the tokens.


def _run_wta_crs() -> Outcome:
    source, share, model, tokens = "WTA-CRS, arXiv:2305.15265, abstract", 0.3, "bert-large-uncased", 128
    types = StateTypes("fp32", StepTypes(master="none", moments="", saved="eager", loss="eager"))
    sampled = TrainedParts((("*", WeightMethod()), (MATRICES, WeightMethod("sampled", share=share))))
    base = Run(model, tokens, 64, ALL, types, dtype="fp32")
    whole, part = base.estimate(), replace(base, parts=sampled).estimate()
    room = whole.memory.device_bytes
    method = (
        f"BERT-large in FP32, eager code, 64 sequences of {tokens} tokens; gradients of the layers' weights from "
        f"{share:.0%} of the rows."
    )
    unknown = (
        "The model behind the abstract's most was not found (T5 and BERT are its models); a share of 0.3 is recalled. "
        "The paper's most combines sampling with adapters, which ours leaves out; scores, norms and non-linearities "
        "are kept whole, as the estimator samples products alone."
    )
    batch = _widest(replace(base, parts=sampled), room)
    claims = [
        compare(_published("memory", "peak memory less by a factor of at most", 2.7, "", source),
                room / part.memory.device_bytes, method, unknown),
        compare(_published("batch", "larger batch by a factor of at most", 6.4, "", source), batch / 64,
                "Sequences that fit the memory of 64 under full fine-tuning, with sampling.", unknown),
    ]  # fmt: skip
    rows = [("full", whole), ("sampled", part)]
    return Outcome(claims, [_table("A step of BERT-large", rows)])


def _widest(base: Run, room: int) -> int:
    low, high = base.batch, 16 * base.batch
    while high - low > 1:
        middle = (low + high) // 2
        fits = replace(base, batch=middle).estimate().memory.device_bytes <= room
        low, high = (middle, high) if fits else (low, middle)
    return low


# MEFT: reversible layers.


def _run_meft() -> Outcome:
    source, model, tokens, batch = "MEFT, arXiv:2306.00477, abstract", "opt-1.3b", 512, 16
    base = Run(model, tokens, batch)
    adapters = _adapters(8)
    whole = base.estimate()
    kept = replace(base, parts=adapters).estimate()
    reversible = replace(base, parts=adapters, recompute="reversible").estimate()
    full = replace(base, parts=adapters, recompute="full").estimate()

    def activations(found: TrainingEstimate) -> int:
        return found.memory.skeletal + found.memory.transient

    method = (
        f"OPT-1.3B, {batch} sequences of {tokens} tokens in BF16, eager code; adapters of rank 8, nothing of a layer "
        "kept, its input worked out of its result."
    )
    claims = [
        compare(_published("activations", "activation memory less than full fine-tuning's, at most", 0.84, "", source),
                1 - activations(reversible) / activations(whole), method,
                "Sizes behind the abstract's most were not found. Ours counts logits and loss on both sides."),
    ]  # fmt: skip
    extra = reversible.time.step_s / kept.time.step_s - 1
    rows = [("full fine-tuning", whole), ("adapters", kept), ("adapters, reversible", reversible),
            ("adapters, every layer recomputed", full)]  # fmt: skip
    more = StudyTable(
        "What it costs", ("figure", "value"), (("step longer than with everything kept, %", 100 * extra),)
    )
    return Outcome(claims, [_table("A step of OPT-1.3B", rows), more])


# LoRAM: adapters trained on a pruned base in four bits.


def _kept(model: str, target: float) -> tuple[float, float]:
    """The share of parameters that is left where storage shrinks by ``target``, and bytes of the base."""
    parameters = _parameters(model)
    bits = 4 + 8 / 64 + 32 / (64 * 256)
    share = 16 / target / bits
    return share, parameters * share * bits / 8


def _parameters(model: str) -> int:
    graph = load_workload(model, WorkloadOptions(phase="decode", prompt=1)).phases[0].graph
    return graph.parameters()


def _run_loram() -> Outcome:
    source, tokens = "LoRAM, arXiv:2502.13533, abstract", 512
    results: list[ClaimResult] = []
    rows: list[tuple[str | float, ...]] = []
    for model, factor in (("llama-3.1-70b", 15.81), ("llama-2-70b", 16.95)):
        share, size = _kept(model, factor)
        # As many layers as the pruned model has parameters for stand for layers that are narrower.
        layers = max(round(80 * share), 1)
        setup = Run(model, tokens, 1, _adapters(8, base="nf4", double=True))
        graph = _layers(setup, layers)
        held, live = _held(graph)
        rows.append((model, factor, 100 * share, size / GB, layers, held / GB, live / GB, (held + live) / GB))
        results.append(
            compare(_published(f"storage-{model}", f"parameters stored less, {model}", factor, "", source,
                               "construction"),
                    16 * _parameters(model) / (size * 8),
                    f"NF4 with quantised scales is 4.127 bits a parameter; {share:.1%} of the parameters are left.",
                    "The share that pruning leaves is taken from the claim.")
        )  # fmt: skip
    fits = max(float(row[-1]) for row in rows)
    results.append(
        compare(_published("fits", "memory in which a 70B model trains", "20 GB", "", source, "construction"),
                "20 GB" if fits <= 20 else f"{fits:.1f} GB",
                f"Pruned base, adapters of rank 8 with their states, and the activations of one sequence of {tokens} "
                "tokens without recomputation; embeddings and head in BF16.",
                "Length and batch are assumptions, and the pruned share follows from the claims above. Fewer whole "
                "layers stand for narrower ones; they keep their share of activations.")
    )  # fmt: skip
    columns = ("model", "factor", "left, %", "base, GB", "layers", "states, GB", "activations, GB", "all, GB")
    return Outcome(results, [StudyTable("A pruned base in four bits", columns, tuple(rows))])


def _layers(run: Run, layers: int) -> Graph:
    options = WorkloadOptions(
        phase="train", batch=run.batch, prompt=run.tokens, dtype=run.dtype, types=run.types.step, trained=run.parts,
        layers=layers,
    )  # fmt: skip
    return load_workload(run.model, options).phases[0].graph


def _held(graph: Graph) -> tuple[int, int]:
    """Bytes that a training graph holds from step to step, and the most of all others that live at once."""
    from mapping.training.requests import request_sequence

    states = sum(
        t.size_bytes for t in graph.tensors.values() if t.role in (Role.WEIGHT, Role.OPTIMIZER_STATE)
    )
    gradients = {
        name for op in graph.operators if op.kind == "optimizer" for name in op.inputs
        if graph.tensors[name].role is Role.GRADIENT
    }  # fmt: skip
    states += sum(graph.tensors[name].size_bytes for name in gradients)
    return states, int(request_sequence(graph).live_bytes().max(initial=0))


# PEQA: scales of a quantised model.


def _run_peqa() -> Outcome:
    source = "PEQA, arXiv:2305.14152, table 1"
    rows: list[tuple[str | float, ...]] = []
    results: list[ClaimResult] = []
    model = "llama-2-70b"
    for bits in (3, 4):
        for group in (64, 128, 4096):
            parts = TrainedParts(((MATRICES, WeightMethod("scales", bits=bits, group=group)),))
            held, _ = _held(_layers(Run(model, 128, 1, parts), 80))
            rows.append((f"{bits} bits, group {group}", held / GB))
    full, _ = _held(_layers(Run(model, 128, 1, ALL, FRAMEWORKS["plain"]), 80))
    lora, _ = _held(_layers(Run(model, 128, 1, _adapters(8)), 80))
    rows += [("full, mixed precision", full / GB), ("LoRA, rank 8, BF16", lora / GB)]
    share = _parameters("llama-2-70b") / 65.3e9
    found = float(rows[5][1])
    results.append(
        compare(_published("memory", "weights and states of a 65B model, 4 bits", 33.0, "GB", source, "counting",
                           "recalled"),
                found / share, "Llama-2-70B with one scale a row (group 4096 or wider rows' parts), brought to 65.3 B "
                "parameters; embeddings and head in BF16.",
                "The figure is recalled, not read; it leaves activations out, and so does ours.")
    )  # fmt: skip
    results.append(
        compare(_published("reach", "tuning below 4 bits for models up to", 65.0, "B", source), None,
                "The table shows a model of 70 B parameters at 3 and 4 bits.",
                "A statement of what was tried, without a figure of memory.")
    )  # fmt: skip
    return Outcome(results, [StudyTable("Weights and states of Llama-2-70B", ("way", "GB"), tuple(rows))])


# PST: sparse fine-tuning with importance scores of low rank.


def _run_pst() -> Outcome:
    source = "PST, arXiv:2205.11005, abstract"
    rows: list[tuple[str | float, ...]] = []
    model = "bert-base-uncased"
    whole = _parameters_of(model)
    full_scores = 0
    for rank in (4, 8, 16):
        parts = TrainedParts(((MATRICES, WeightMethod("sparse", rank=rank)),))
        graph = (
            load_workload(model, WorkloadOptions(phase="train", prompt=128, trained=parts)).phases[0].graph
        )
        trained = sum(op.work.parameters for op in graph.operators if isinstance(op.work, Optimizer))
        matrices = sum(
            t.shape[0] * t.shape[1] for t in graph.tensors.values()
            if t.is_weight and t.name.startswith("layers.") and len(t.shape) == 2
        )  # fmt: skip
        full_scores = matrices
        rows.append((rank, trained, 100 * trained / whole))
    claim = _published("share", "trainable parameters of BERT", 1.5, "%", source, "counting")
    result = compare(
        claim, float(rows[1][2]), "Rank 8 for both the change of a weight and its importance scores, with a score per "
        "row and column, on every matrix of a layer.",
        f"The ranks are recalled; with rank 4 it is {float(rows[0][2]):.2f} %. Importance scores of every weight would "
        f"be {100 * full_scores / whole:.0f} %.",
    )  # fmt: skip
    columns = ("rank", "trained parameters", "share, %")
    return Outcome([result], [StudyTable("Trained parameters of BERT-base", columns, tuple(rows))])


def _parameters_of(model: str) -> int:
    return load_workload(model, WorkloadOptions(prompt=128)).phases[0].graph.parameters()


# Natural GaLore: a history of projected gradients.


def _run_natural_galore() -> Outcome:
    source, rank, tokens = "Natural GaLore, arXiv:2410.16029, abstract", 256, 512
    base = Run("tinyllama-1.1b", tokens, 8)
    lora = replace(base, parts=_adapters(rank)).estimate()
    rows = [("LoRA", lora)]
    found: dict[int, TrainingEstimate] = {}
    for history in (0, 5, 10):
        method = WeightMethod("low-rank", rank=rank, history=history, layerwise=True)
        parts = TrainedParts((("layers.*.attention.*.weight", method), ("layers.*.mlp.*.weight", method)))
        found[history] = replace(base, parts=parts, recompute="full").estimate()
        rows.append((f"low rank, history {history}", found[history]))
    plain = replace(base, parts=_adapters(rank), recompute="full").estimate()
    rows.append(("LoRA, layers recomputed", plain))
    result = compare(
        _published("memory", "memory less than 16-bit LoRA's", 0.30, "", source),
        1 - found[10].memory.device_bytes / plain.memory.device_bytes,
        f"TinyLlama of 1.1 B parameters in BF16, rank {rank}, 8 sequences of {tokens} tokens, layers recomputed on "
        "both sides; gradients projected layer by layer, a history of 10 steps.",
        "Rank, history and batch behind the abstract's figure were not found. LoRA holds no gradient of a matrix at "
        "all, so that beside equal activations there is little to save.",
    )  # fmt: skip
    return Outcome([result], [_table("A step of TinyLlama", rows)])


# Cut Cross-Entropy: a loss without logits.


def _run_cut_cross_entropy() -> Outcome:
    source, model, tokens = "Cut Cross-Entropy, arXiv:2411.09009, abstract", "gemma-2-2b", 8192
    forms = {
        "eager, FP32": StepTypes(loss="eager", logits="fp32", saved="eager"),
        "one kernel": StepTypes(), "chunked, 8": StepTypes(loss="chunked"), "cut": StepTypes(loss="cut"),
    }  # fmt: skip
    rows: list[tuple[str | float, ...]] = []
    measured: dict[str, tuple[int, int]] = {}
    for label, types in forms.items():
        options = WorkloadOptions(phase="train", prompt=tokens, dtype="bf16", layers=1, types=types)
        graph = load_workload(model, options).phases[0].graph
        measured[label] = _loss_bytes(graph)
        rows.append((label, measured[label][0] / 2**20, measured[label][1] / 2**20))
    forward, both = measured["eager, FP32"]
    cut, cut_both = measured["cut"]
    method = (
        f"Gemma 2 (2B), {tokens} tokens, vocabulary 256,000: bytes of logits, of what the loss makes of them and of "
        "their gradients that live at once, by the step's own requests."
    )
    unknown = "The number of tokens is taken from published batch sizes; it scales all figures alike."
    claims = [
        compare(_published("loss", "memory of the loss, eager", 24e9, "B", source), forward,
                f"{method} Kept: the cap's tanh (2 bytes a logit), logits (2), an FP32 copy (4), its log-softmax (4).",
                unknown),
        compare(_published("cut", "memory of the loss, cut", 1e6, "B", source), cut,
                f"{method} One FP32 sum per token.",
                f"{unknown} The published 1 MB has a kernel's own buffers in it, which ours has not."),
        compare(_published("head", "classifier head in training, eager", 28e9, "B", source), both,
                f"{method} With gradients of logits, head and states.", unknown),
        compare(_published("head-cut", "classifier head in training, cut", 1e9, "B", source), cut_both,
                f"{method} What is left are gradients of the head's weight and of the states.", unknown),
    ]  # fmt: skip
    columns = ("loss", "loss alone, MiB", "with gradients, MiB")
    return Outcome(claims, [StudyTable("Memory of the loss of Gemma 2 (2B)", columns, tuple(rows))])


def _loss_bytes(graph: Graph) -> tuple[int, int]:
    """Most bytes that head and loss hold at once in the forward pass, and over both passes with their gradients."""
    head = {name for op in graph.operators if op.name.startswith(("lm_head", "loss")) for name in op.outputs}
    head |= {name for op in graph.operators if op.name.startswith(("lm_head", "loss")) for name in op.updates}
    head = {name for name in head if graph.tensors[name].role is not Role.WEIGHT}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    end = 0
    for index, op in enumerate(graph.operators):
        if op.place.training_pass == "forward":
            end = index
        for name in (*op.inputs, *op.outputs, *op.updates):
            if name in head:
                first.setdefault(name, index)
                last[name] = index

    def at(index: int) -> int:
        return sum(graph.tensors[name].size_bytes for name in head if first[name] <= index <= last[name])

    heads = [i for i, op in enumerate(graph.operators) if op.name.startswith(("lm_head", "loss"))]
    return max(at(i) for i in heads if i <= end), max(at(i) for i in heads)


# ViViT with a frozen spatial part.


def _run_vivit() -> Outcome:
    source = "arXiv:2306.04822, abstract"
    frames, layers = 16, (12, 4)
    spatial = _encoder_flops(layers[0], 196, frames)
    temporal = _encoder_flops(layers[1], frames, 1)
    whole = 3 * (spatial + temporal)
    frozen = spatial + 3 * temporal
    result = compare(
        _published("cost", "training cost less", 0.5, "", source), 1 - frozen / whole,
        f"FLOPs of a factorised ViViT-B: {layers[0]} spatial layers over 196 patches of {frames} frames, {layers[1]} "
        "temporal ones over the frames. The frozen part runs forward alone.",
        "The figure is recalled from the abstract's words; frozen from the first step on, ours is the most that can be "
        "saved in FLOPs. How long the paper trains all parts first was not found.",
    )  # fmt: skip
    rows = (("everything trained", whole / 1e9), ("spatial part frozen", frozen / 1e9))
    return Outcome([result], [StudyTable("FLOPs of a step and video", ("way", "GFLOP"), rows)])


def _encoder_flops(layers: int, tokens: int, sequences: int) -> float:
    options = WorkloadOptions(batch=sequences, prompt=tokens, layers=layers)
    graph = load_workload("bert-base-uncased", options).phases[0].graph
    return float(sum(op.flops for op in graph.operators if (op.place.layer or 0) >= 0))


# LOOP: one model where others hold four.


def _run_loop() -> Outcome:
    source = "LOOP (its abstract)"
    base = Run("qwen2.5-7b", 2048, 1, replace(ALL, copies=3), FRAMEWORKS["plain"])
    four, one = base.estimate(), replace(base, parts=_adapters(16)).estimate()
    weights = four.memory.weights / replace(base, parts=ALL).estimate().memory.weights
    claims = [
        compare(_published("copies", "copies of the model in memory, others over its own", 4.0, "", source, "counting",
                           "second-hand"),
                weights, "Policy, reference, critic and reward model of one size, against a single one."),
    ]  # fmt: skip
    rows = [("four copies, one trained in full", four), ("one copy with adapters", one)]
    return Outcome(claims, [_table("A step of Qwen2.5-7B at 2048 tokens", rows)])


PACA: Final = Study(
    "paca", "PaCA: a part of the connections trained", "Woo et al., PaCA, arXiv:2503.01905",
    "A step of Llama-2-7B with adapters, and with columns of the weights themselves.", _run_paca,
)  # fmt: skip
WTA_CRS: Final = Study(
    "wta-crs", "WTA-CRS: gradients from a sample of the tokens", "Liu et al., WTA-CRS, arXiv:2305.15265",
    "A step of BERT-large, weights' gradients from all tokens or a sample.", _run_wta_crs,
)  # fmt: skip
MEFT: Final = Study(
    "meft", "MEFT: reversible fine-tuning", "Liao et al., MEFT, arXiv:2306.00477",
    "A step of OPT-1.3B with everything kept, and with layers' inputs worked out of their results.", _run_meft,
)  # fmt: skip
LORAM: Final = Study(
    "loram", "LoRAM: adapters on a pruned base", "Zhang et al., LoRAM, arXiv:2502.13533",
    "Models of 70 B parameters, pruned and in four bits, with adapters.", _run_loram,
)  # fmt: skip
PEQA: Final = Study(
    "peqa", "PEQA: scales alone are tuned", "Kim et al., PEQA, arXiv:2305.14152",
    "Weights and states of Llama-2-70B in three and four bits with trained scales.", _run_peqa,
)  # fmt: skip
PST: Final = Study(
    "pst", "PST: importance scores of low rank", "Li et al., PST, arXiv:2205.11005",
    "Trained parameters of BERT-base.", _run_pst,
)  # fmt: skip
NATURAL_GALORE: Final = Study(
    "natural-galore", "Natural GaLore: a history of projected gradients", "Das, Natural GaLore, arXiv:2410.16029",
    "A step of TinyLlama with adapters and with moments of low rank.", _run_natural_galore,
)  # fmt: skip
CUT_CROSS_ENTROPY: Final = Study(
    "cut-cross-entropy", "Cut Cross-Entropy: a loss without logits", "Wijmans et al., arXiv:2411.09009",
    "Head and loss of Gemma 2 (2B) over 8192 tokens, in four forms.", _run_cut_cross_entropy,
)  # fmt: skip
VIVIT: Final = Study(
    "frozen-vivit", "ViViT with a frozen spatial part", "arXiv:2306.04822",
    "FLOPs of a factorised video transformer with and without its spatial part trained.", _run_vivit,
)  # fmt: skip
LOOP: Final = Study(
    "loop", "LOOP: one copy of the model", "LOOP, reinforcement learning of agents",
    "A step of Qwen2.5-7B beside three frozen copies, and alone.", _run_loop,
)  # fmt: skip
