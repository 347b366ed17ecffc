"""Vocabulary Parallelism: the output layer over all ranks of a pipeline, against the last stage and moved layers.

Yeung et al., Balancing Pipeline Parallelism with Vocabulary Parallelism, arXiv:2411.05288, MLSys 2025. Every pass has
the sum of its operators' prices on an A100, every schedule is run action by action with unequal stages, and memory is
what each rank holds in that run.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.library import load_system
from mapping.training.pricing import Prices
from mapping.training.schedules.run import ScheduleRun, StageTimes, run_schedule
from mapping.training.schedules.write import packed_schedule
from offchip.studies.line_figure import draw_lines
from offchip.studies.study import (
    Basis,
    Certainty,
    Claim,
    ClaimResult,
    Figure,
    Outcome,
    Study,
    StudyTable,
    compare,
)  # fmt: skip
from workloads.importers import load_workload
from workloads.workload import WorkloadOptions

__all__ = ["STUDY"]

_PAPER: Final = "Vocabulary Parallelism, arXiv:2411.05288"
_TABLES: Final = f"{_PAPER}, tables 3, 5 and 6 as the review in deep-diver/ai-paper-reviewer prints them"
MICRO_BATCHES: Final = 128
VOCABULARIES: Final = (32 * 1024, 64 * 1024, 128 * 1024, 256 * 1024)
STATE_BYTES: Final = 16
"""Per parameter: BF16 weight and gradient, FP32 master weight and two moments."""
LAYER_BYTES: Final = 34
"""Per token and hidden element of a layer with fused attention (Korthikanti et al., arXiv:2205.05198, equation 2)."""
PEAK_FLOPS: Final = 312e12
"""A100, BF16, dense, which the paper's MFU is a share of."""
GPUS_PER_NODE: Final = 8
METHODS: Final = ("last stage", "moved layers", "vocab-1", "vocab-2")
_SCHEDULE: Final = {
    "1f1b": {
        "last stage": "1f1b", "moved layers": "1f1b", "vocab-1": "1f1b-vocabulary-1", "vocab-2": "1f1b-vocabulary-2",
    },
    "v-half": {"last stage": "v-half", "vocab-1": "v-half-vocabulary-1", "vocab-2": "v-half-vocabulary-2"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Setting:
    """A row of the paper's tables 1 and 2."""

    schedule: str
    ranks: int
    layers: int
    heads: int
    hidden: int
    sequence: int


_ONE_FORWARD: Final = tuple(
    _Setting("1f1b", *shape, sequence)
    for shape in ((8, 32, 24, 3072), (16, 48, 32, 4096), (32, 64, 40, 5120))
    for sequence in (2048, 4096)
)
_V_HALF: Final = tuple(
    _Setting("v-half", *shape, sequence)
    for shape in ((16, 32, 32, 4096), (24, 48, 40, 5120), (32, 64, 48, 6144))
    for sequence in (2048, 4096)
)


@dataclass(frozen=True, slots=True)
class _Seconds:
    """F, I and W of a layer, of the output and of the input layer; the optimizer of a layer and of the output layer."""

    layer: NDArray[np.float64]
    output: NDArray[np.float64]
    embedding: NDArray[np.float64]
    layer_update: float
    vocabulary_update: float


@dataclass(frozen=True, slots=True)
class _Step:
    """A step of one method: its run, seconds with the optimizer, MFU and the fullest rank's bytes."""

    run: ScheduleRun
    seconds: float
    mfu: float
    peak_bytes: float


@cache
def _prices() -> Prices:
    return Prices(load_system("dgx-a100-x2"))


@cache
def _seconds(hidden: int, heads: int, sequence: int, vocabulary: int) -> _Seconds:
    """Prices of a decoder of one layer, by part and pass."""
    config = {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": hidden, "n_layer": 1, "n_head": heads,
        "n_positions": sequence, "n_ctx": sequence, "vocab_size": vocabulary, "activation_function": "gelu_new",
        "tie_word_embeddings": False,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="offchip-study-") as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        options = WorkloadOptions(phase="train", prompt=sequence, batch=1, dtype="bf16")
        graph = load_workload(path, options).phases[0].graph
    parts = {name: np.zeros(3) for name in ("layer", "output", "embedding")}
    updates = dict.fromkeys(parts, 0.0)
    for op in graph.operators:
        name = op.name.removeprefix("optimizer.")
        part = "embedding" if "embedding" in name else "layer" if name.startswith("layers.") else "output"
        seconds = _prices().operator(op)
        if op.place.training_pass == "optimizer":
            updates[part] += seconds
        else:
            # The half of the weights is what nothing waits for; all else of a backward is the half of the input.
            kind = 0 if op.place.training_pass == "forward" else 2 if "backward_weight" in name else 1
            parts[part][kind] += seconds
    return _Seconds(parts["layer"], parts["output"], parts["embedding"], updates["layer"], updates["output"])


def _layers_of(setting: _Setting, vocabulary: int, method: str) -> list[int]:
    """Layers of each stage. Moved: whole layers leave the last stage until the longest stage, by FLOPs, is shortest."""
    stages = setting.ranks * (2 if setting.schedule == "v-half" else 1)
    even = [setting.layers // stages] * stages
    if method != "moved layers":
        return even
    output = 6 * vocabulary / (72 * setting.hidden + 12 * setting.sequence)

    def split(last: int) -> list[int]:
        each, more = divmod(setting.layers - last, stages - 1)
        # The first stages hold most micro-batches: the layers that are over go to the later ones.
        return [each + (stage >= stages - 1 - more) for stage in range(stages - 1)] + [last]

    def longest(last: int) -> float:
        layers = split(last)
        return max(*layers[:-1], layers[-1] + output)

    return split(min(range(setting.layers // stages + 1), key=lambda last: (longest(last), -last)))


def _flops(setting: _Setting, vocabulary: int) -> float:
    """Of a micro-batch, forward and backward, as table 4 counts."""
    s, h = setting.sequence, setting.hidden
    return s * h * (setting.layers * (72 * h + 12 * s) + 3 + 6 * vocabulary)


@cache
def _step(setting: _Setting, vocabulary: int, method: str) -> _Step:
    ranks, h, s = setting.ranks, setting.hidden, setting.sequence
    whole = _seconds(h, setting.heads, s, vocabulary)
    packed = packed_schedule(_SCHEDULE[setting.schedule][method], ranks, MICRO_BATCHES)
    plan = packed.schedule
    layers = np.array(_layers_of(setting, vocabulary, method), float)
    passes = layers[:, None] * whole.layer
    parameters, update = np.zeros(ranks), np.zeros(ranks)
    for stage, rank in enumerate(plan.rank_of_stage):
        parameters[rank] += 12 * h * h * layers[stage]
        update[rank] += layers[stage] * whole.layer_update
    passes[0] += whole.embedding
    held = LAYER_BYTES * s * h * layers
    logits = gradient = logits_bytes = 0.0
    if plan.vocabulary_barriers:
        share = _seconds(h, setting.heads, s, vocabulary // ranks)
        f, i, w = share.output.tolist()
        logits, gradient = (f, i + w) if plan.vocabulary_barriers == 2 else (f + i, w)
        # FP32 logits of the share from S to T.
        logits_bytes = 4.0 * s * vocabulary / ranks
        parameters += 2 * h * vocabulary / ranks
        update += 2 * share.vocabulary_update
    else:
        passes[-1] += whole.output
        # Logits and their gradient live within the last stage's F and B, in FP32.
        held[-1] += 4.0 * s * vocabulary
        for stage in (0, -1):
            rank = plan.rank_of_stage[stage]
            parameters[rank] += h * vocabulary
            update[rank] += whole.vocabulary_update
    run = run_schedule(
        packed,
        StageTimes(
            passes[:, 0], passes[:, 1], passes[:, 2], logits_s=logits, logit_gradient_s=gradient,
            communication_s=_transfers(ranks, 2 * s * h), barrier_s=_barrier(ranks, 2 * s * h) if logits else 0.0,
            activation_bytes=held, logits_bytes=logits_bytes,
        ),
    )  # fmt: skip
    # The norm of all gradients is clipped, so that the updates begin together.
    seconds = run.makespan_s + float(update.max())
    mfu = _flops(setting, vocabulary) * MICRO_BATCHES / (seconds * ranks * PEAK_FLOPS)
    return _Step(run, seconds, mfu, float((STATE_BYTES * parameters + run.peak_bytes).max()))


def _transfers(ranks: int, size: int) -> NDArray[np.float64]:
    """Seconds of a stage's output between ranks: within a node, or over a rail to the next."""
    devices = _prices().devices
    near = _prices().collective("send", size, (devices[0], devices[1]))
    far = _prices().collective("send", size, (devices[0], devices[GPUS_PER_NODE]))
    node = np.arange(ranks) // GPUS_PER_NODE
    return np.where(node[:, None] == node[None, :], near, far)


def _barrier(ranks: int, size: int) -> float:
    """Seconds of the reduction of the input's gradient over all ranks (two nodes for more than eight)."""
    devices = _prices().devices
    return _prices().collective("all_reduce", size, tuple(devices[: min(ranks, len(devices))]))


_PUBLISHED_MFU: Final = {
    # 8 GPUs, sequences of 2048, 1F1B, by vocabulary.
    "last stage": (46.16, 40.48, 33.11, 25.23),
    "moved layers": (46.01, 46.37, 44.22, 38.91),
    "vocab-1": (50.42, 50.28, 49.93, 50.12),
    "vocab-2": (50.23, 50.18, 49.82, 49.69),
}  # fmt: skip
_PUBLISHED_GIB: Final = {
    "last stage": (14.86, 16.32, 19.25, 25.64),
    "vocab-1": (15.63, 16.02, 16.84, 18.59),
    "vocab-2": (14.83, 15.23, 16.04, 17.78),
}  # fmt: skip
_PUBLISHED_V_HALF: Final = {
    # 16 GPUs, sequences of 2048: MFU, then GiB.
    "last stage": ((46.41, 38.52, 28.75, 19.99), (15.57, 19.77, 28.55, 46.77)),
    "vocab-1": ((52.82, 53.11, 53.41, 52.89), (13.20, 13.46, 13.98, 15.02)),
}  # fmt: skip
_SMALLEST, _LARGEST = VOCABULARIES[0], VOCABULARIES[-1]
_LABELS: Final = ("32k", "64k", "128k", "256k")


def _run() -> Outcome:
    claims = [*_headlines(), *_throughput(), *_memory(), *_v_half(), _output_scaling()]
    figure = Figure(
        "mfu",
        "8 ranks, 32 layers of width 3072, sequences of 2048, 128 micro-batches.",
        partial(
            draw_lines,
            lines={
                method: [(v / 1024, 100 * _step(_ONE_FORWARD[0], v, method).mfu) for v in VOCABULARIES]
                for method in METHODS
            },
            xlabel="vocabulary, thousands (1024)", ylabel="MFU, %", log_x=True,
        ),
    )  # fmt: skip
    return Outcome(
        claims,
        [_table(_ONE_FORWARD, METHODS, "1F1B"), _table(_V_HALF, METHODS[:1] + METHODS[2:], "V-Half")],
        [figure],
    )


_HOW: Final = (
    "Every pass is the sum of its operators' prices on an A100 (shares of the output layer as products of their own "
    "width); 128 micro-batches run action by action over DGX A100 nodes; the optimizer follows. MFU as the paper "
    "counts FLOPs."
)
_HARDWARE: Final = (
    "The paper's nodes are joined by RoCE, ours by InfiniBand HDR; the input layer stays in the first stage in time "
    "(its weights are spread), and barriers over more than two nodes are priced over two."
)


def _claim(
    name: str,
    statement: str,
    published: float,
    unit: str = "",
    certainty: Certainty = "second-hand",
    basis: Basis = "mechanism",
) -> Claim:
    source = _TABLES if certainty == "second-hand" else _PAPER
    return Claim(name, statement, published, unit, source, certainty, basis)


def _headlines() -> list[ClaimResult]:
    gains = [
        _step(setting, v, "vocab-1").mfu
        / max(_step(setting, v, m).mfu for m in ("last stage", "moved layers"))
        - 1
        for setting in _ONE_FORWARD
        for v in VOCABULARIES
    ]
    over = "throughput of vocab-1 over the better of the two baselines, 1F1B, 24 settings"
    held = {}
    for method in ("vocab-1", "vocab-2"):
        run = _step(_ONE_FORWARD[0], _SMALLEST, method).run
        held[method] = float(run.peak_live.max() - _ONE_FORWARD[0].ranks)
    alone = "Most micro-batches that a rank holds in the run with 8 ranks, less 8."
    built = "The schedule gives each barrier an interval, as the paper does, from which the count follows."
    widest = next(s for s in _ONE_FORWARD if (s.ranks, s.sequence) == (32, 2048))
    wide = [_step(widest, _LARGEST, method).mfu for method in ("vocab-1", "moved layers")]
    return [
        compare(_claim("widest-gain", "vocab-1 over layers moved at 256k, 32 GPUs, sequences of 2048", 46.11 / 29.16),
                wide[0] / wide[1], _HOW, _HARDWARE),
        compare(_claim("least-gain", f"{over}, least", 0.05, certainty="published"), min(gains), _HOW, _HARDWARE),
        compare(_claim("most-gain", f"{over}, most", 0.51, certainty="published"), max(gains), _HOW,
                f"{_HARDWARE} The tables hold a larger gain, 58 %, at 32 GPUs, sequences of 2048 and 256k."),
        compare(_claim("held-1", "micro-batches held beyond the number of ranks, Algorithm 1", 2.0,
                       basis="construction"), held["vocab-1"], alone, built),
        compare(_claim("held-2", "micro-batches held beyond the number of ranks, Algorithm 2", 1.0,
                       basis="construction"), held["vocab-2"], alone, built),
    ]  # fmt: skip


def _throughput() -> list[ClaimResult]:
    setting, found = _ONE_FORWARD[0], []
    names = {"last stage": "the output layer on the last stage", "moved layers": "layers moved",
             "vocab-1": "vocab-1", "vocab-2": "vocab-2"}  # fmt: skip
    for method, published in _PUBLISHED_MFU.items():
        ours = [_step(setting, v, method).mfu for v in VOCABULARIES]
        word = names[method]
        key = method.replace(" ", "-")
        found += [
            compare(_claim(f"mfu-{key}", f"MFU with {word}, 8 GPUs, 32k", published[0] / 100), ours[0], _HOW,
                    f"{_HARDWARE} Host time and clocks under load are left out."),
            compare(_claim(f"flat-{key}", f"throughput at 256k over that at 32k, {word}, 8 GPUs",
                           published[3] / published[0]), ours[3] / ours[0], _HOW, _HARDWARE),
        ]  # fmt: skip
    for method in ("last stage", "moved layers"):
        ours_gain = _step(setting, _LARGEST, "vocab-1").mfu / _step(setting, _LARGEST, method).mfu
        published_gain = _PUBLISHED_MFU["vocab-1"][3] / _PUBLISHED_MFU[method][3]
        key = method.replace(" ", "-")
        found.append(
            compare(_claim(f"gain-{key}", f"vocab-1 over {names[method]} at 256k, 8 GPUs", published_gain), ours_gain,
                    _HOW, _HARDWARE)
        )  # fmt: skip
    return found


_BYTES: Final = (
    f"{STATE_BYTES} bytes per parameter (BF16 weight and gradient, FP32 master weight and moments), {LAYER_BYTES} "
    "bytes per token and hidden element of a layer, FP32 logits; the fullest rank in the run."
)
_UNKNOWN: Final = (
    f"{STATE_BYTES} bytes per parameter were chosen over Megatron's usual 18 because the published peaks grow so with "
    "the vocabulary. What else the framework holds (workspaces, buffers of communication, fragmentation) is left out."
)


def _memory() -> list[ClaimResult]:
    setting, found = _ONE_FORWARD[0], []
    for method, published in _PUBLISHED_GIB.items():
        for at in (0, 3):
            ours = _step(setting, VOCABULARIES[at], method).peak_bytes / 2**30
            claim = _claim(f"peak-{method.replace(' ', '-')}-{_LABELS[at]}",
                           f"peak memory, {method}, 8 GPUs, {_LABELS[at]}", published[at], "GiB",
                           basis="construction")  # fmt: skip
            found.append(compare(claim, ours, _BYTES, _UNKNOWN))
    return found


def _v_half() -> list[ClaimResult]:
    setting, found = _V_HALF[0], []
    for method, (mfu, gib) in _PUBLISHED_V_HALF.items():
        ours = [_step(setting, v, method) for v in (_SMALLEST, _LARGEST)]
        key = method.replace(" ", "-")
        found += [
            compare(_claim(f"v-half-flat-{key}", f"V-Half: throughput at 256k over that at 32k, {method}, 16 GPUs",
                           mfu[3] / mfu[0]), ours[1].mfu / ours[0].mfu, _HOW, _HARDWARE),
            compare(_claim(f"v-half-peak-{key}-32k", f"V-Half: peak memory, {method}, 16 GPUs, 32k", gib[0], "GiB",
                           basis="construction"),
                    ours[0].peak_bytes / 2**30, _BYTES, _UNKNOWN),
            compare(_claim(f"v-half-peak-{key}-256k", f"V-Half: peak memory, {method}, 16 GPUs, 256k", gib[3], "GiB",
                           basis="construction"),
                    ours[1].peak_bytes / 2**30, _BYTES, _UNKNOWN),
        ]  # fmt: skip
    gain = _step(setting, _LARGEST, "vocab-1").mfu / _step(setting, _LARGEST, "last stage").mfu
    published = _PUBLISHED_V_HALF["vocab-1"][0][3] / _PUBLISHED_V_HALF["last stage"][0][3]
    found.append(
        compare(_claim("v-half-gain", "V-Half: vocab-1 over the last stage at 256k, 16 GPUs", published), gain, _HOW,
                _HARDWARE)
    )  # fmt: skip
    return found


def _output_scaling() -> ClaimResult:
    """How near an eighth of the output layer is to an eighth of its time."""
    setting = _ONE_FORWARD[0]
    whole = _seconds(setting.hidden, setting.heads, setting.sequence, _LARGEST).output.sum()
    share = _seconds(setting.hidden, setting.heads, setting.sequence, _LARGEST // setting.ranks).output.sum()
    return compare(
        _claim(
            "output-scaling",
            "an eighth of the output layer against an eighth of its time, Algorithm 1",
            0.9129,
        ),
        float(whole / setting.ranks / share),
        "Prices of the output layer's operators with a vocabulary of 256k, and of an eighth of it.",
        "The paper does not say in the review for which vocabulary; kernels for the shares of the softmax are its own.",
    )


def _table(settings: tuple[_Setting, ...], methods: tuple[str, ...], title: str) -> StudyTable:
    rows: list[tuple[str | float, ...]] = [
        (
            float(setting.ranks), float(setting.sequence), method,
            *(100 * _step(setting, v, method).mfu for v in VOCABULARIES),
            *(_step(setting, v, method).peak_bytes / 2**30 for v in VOCABULARIES),
        )
        for setting in settings
        for method in methods
    ]  # fmt: skip
    columns = (
        "GPUs",
        "sequence",
        "output layer",
        *(f"MFU {v}, %" for v in _LABELS),
        *(f"{v}, GiB" for v in _LABELS),
    )
    return StudyTable(f"{title}: MFU and the fullest rank's memory by vocabulary", columns, tuple(rows))


STUDY: Final = Study(
    "vocabulary-stages",
    "Vocabulary Parallelism: the output layer of a pipeline",
    "Yeung et al., Balancing Pipeline Parallelism with Vocabulary Parallelism, arXiv:2411.05288, MLSys 2025",
    "GPT models of 4B to 30B on pipelines of 8 to 32 A100, vocabularies of 32k to 256k: the output layer on the last "
    "stage, whole layers moved away from it, and vocabulary passes on all ranks, under 1F1B and V-Half.",
    _run,
)
