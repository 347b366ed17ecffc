"""MEMO: a 7B model at a million tokens on 8 A800, by swapping and recomputing token by token.

MEMO (arXiv:2407.12117, SIGMOD 2025) swaps a share alpha of each layer's activations to host memory, recomputes the
rest, and plans all addresses in advance. Offchip chooses alpha from its own link, layer times and host memory,
plans the addresses, and runs the plan of the longest sequence event by event.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hw_configs.library import load_system
from mapping.offload.policy import OffloadRequest
from mapping.training.allocator_trace import replay
from mapping.training.choose_setup import TrainingSettings
from mapping.training.estimate import Estimator
from mapping.training.policies import DEEPSPEED, MEGATRON, MEMO
from mapping.training.pricing import Prices
from mapping.training.recompute.skeleton import skeleton_of
from mapping.training.training_plan import execute
from mapping.training.two_level_addresses import plan_bilevel, plan_one_level
from offchip.studies.line_figure import draw_lines
from offchip.studies.study import Claim, ClaimResult, Figure, Outcome, Study, StudyTable, compare
from offchip.studies.training_lengths import (
    HARDWARE,
    LENGTHS,
    K,
    Length,
    at_length,
    length_figures,
    lengths_table,
    longest,
    setup_at_tp8,
    simulated_mfu,
)

__all__ = ["STUDY"]

SAMPLES: Final = 120
EIGHT_NODES: Final = "a800-node*8"
_PAPER: Final = "MEMO, arXiv:2407.12117"
_SECOND_HAND: Final = "MEMO v1 as quoted by a third party's implementation; the table itself was not at hand"


def _run() -> Outcome:
    estimator = Estimator(Prices(load_system(HARDWARE)))
    lengths = [at_length(estimator, tokens) for tokens in LENGTHS]
    million = simulated_mfu(estimator)
    results = [
        *_counted(estimator),
        *_utilisation(lengths, million),
        _on_eight_nodes(),
        *_reach(estimator, lengths),
        *_fragmentation(estimator),
    ]
    tables = [lengths_table(lengths), _levels_table(estimator), _fragmentation_table(estimator)]
    return Outcome(results, tables, [*length_figures(lengths), _memory_figure(estimator)])


def _on_eight_nodes() -> ClaimResult:
    """The largest published run: 65B on 64 GPUs, executed over the nodes' network."""
    system = load_system(EIGHT_NODES)
    request = OffloadRequest("memo-65b", system, "train", 1408 * K, 1, settings=TrainingSettings())
    answer = MEMO.solve(request)
    assert answer.training is not None
    step = execute(answer.training, Estimator(Prices(system)))
    return compare(
        Claim("mfu-65b", "MFU, 65B at 1408K tokens on 64 A800", 0.5145, "", _SECOND_HAND, "second-hand", "mechanism"),
        step.mfu,
        f"The fastest layout of its family on eight nodes, executed event by event: {answer.training.setup.words()}.",
        "As above; the nodes' network is eight rails, an assumption.",
    )  # fmt: skip


# Counts.


def _counted(estimator: Estimator) -> list[ClaimResult]:
    graph = estimator.rank_step(setup_at_tp8(K * K)).graph
    skeleton = skeleton_of(graph)
    size = {name: tensor.size_bytes for name, tensor in graph.tensors.items()}
    total = 8 * sum(size[name] for names in skeleton.layers.values() for name in names) / 2**30
    # The first layer's input is the embedding, which stands outside the layers.
    entries = 8 * size[skeleton.inputs[1]] * len(skeleton.layers) / 2**30
    middle = len(skeleton.layers) // 2
    own = sum(size[name] for name in skeleton.layers[middle])
    output = sum(size[name] for name in skeleton.attention[middle]) / own
    method = (
        "Summed over the tensors that the backward pass reads of the forward pass, from the training graph."
    )
    return [
        compare(
            Claim("skeletal", "skeletal activations, 7B at 1 M tokens", 4096.0, "GiB", f"{_PAPER}, section 3",
                  "published", "counting"),
            total, method, "Sixteen tensors of the residual's width per layer on both sides, so equal counting.",
        ),
        compare(
            Claim("inputs", "of these the layers' inputs", 128.0, "GiB", f"{_PAPER}, section 3", "published",
                  "counting"),
            entries, method,
            "The paper's figure is half of what its own formula gives at two bytes per element (16 tensors of which "
            "make its 4096 GB); Offchip follows the formula.",
        ),
        compare(
            Claim("output", "attention output, share of a layer's skeletal bytes", 0.0625, "",
                  f"{_PAPER}, section 4.1", "published", "counting"),
            output, method,
        ),
    ]  # fmt: skip


def _attention_share(estimator: Estimator, tokens: int) -> float:
    """Attention's part of a layer's forward time, collectives included."""
    setup = setup_at_tp8(tokens)
    graph = estimator.rank_step(setup).graph
    inside = [
        op for op in graph.operators
        if op.place.layer == 16 and op.place.training_pass == "forward"
    ]  # fmt: skip
    attention = sum(estimator.prices.operator(op) for op in inside if op.kind == "attention")
    return attention / estimator.chain(setup)[16].forward_s


# Utilisation.


def _utilisation(lengths: list[Length], million: float) -> list[ClaimResult]:
    method = (
        "FLOPs of the forward and backward passes, the causal mask's half left out and recomputation not counted, "
        "over step time, 8 devices and 312 TFLOP/s. TP 8; alpha, addresses and times are Offchip's; the plan of three "
        "streams and two rounding buffers was run event by event."
    )
    differences = (
        "Whether the paper counts the masked half of attention is not known; counted, the same run would read above "
        "100 %. The framework's own overheads, and waits between kernels, are left out."
    )
    results = [
        compare(
            Claim("mfu-1m", "MFU, 7B at 1 M tokens on 8 A800", 0.523, "", f"{_PAPER}, abstract", "published",
                  "mechanism"),
            million, method, differences,
        )
    ]  # fmt: skip
    ratio_method = (
        f"Mean over {len(lengths)} lengths from 64K to 1M of the 7B model on 8 A800; MEMO and the baselines each in "
        "the fastest layout of their family that fits, the baselines with full recomputation and PyTorch's caching "
        "allocator; lengths that a baseline cannot hold are left out."
    )
    ratio_differences = (
        "The paper averages over four models of up to 65B on up to 64 GPUs; its table was not found. Its baselines "
        "were tuned by hand and run at less than half of MEMO's MFU; here they pay for recomputation and "
        "collectives only, at the kernels' full efficiency. Recomputing all layers costs a factor of 4.5 / 3.5 = "
        "1.29 where attention dominates, which bounds what swapping can gain over them at such lengths. The "
        "allocator's reorganisations, which the paper blames for much of the difference, hardly occur here. A "
        "baseline that recomputes only as many layers as it must (last MFU column) narrows the gap further, and is "
        "ahead of MEMO where activations still fit."
    )
    for name, word, published, older in (
        ("megatron", "Megatron-LM", 1.97, 2.42), ("deepspeed", "DeepSpeed", 1.80, 2.26),
    ):  # fmt: skip
        pairs = [(item.memo, getattr(item, name)) for item in lengths]
        ratios = [memo.mfu / other.mfu for memo, other in pairs if memo is not None and other is not None]
        mean = sum(ratios) / len(ratios) if ratios else None
        for version, value in (("v3", published), ("v1", older)):
            claim = Claim(
                f"{name}-{version}", f"mean MFU over that of {word} ({version})", value, "",
                f"{_PAPER}{version}, abstract", "published", "mechanism",
            )  # fmt: skip
            results.append(compare(claim, mean, ratio_method, ratio_differences))
    means = {
        "memo": ("MEMO", 0.5133),
        "megatron": ("Megatron-LM", 0.2391),
        "deepspeed": ("DeepSpeed", 0.2326),
    }
    for name, (word, value) in means.items():
        found = [estimate.mfu for item in lengths if (estimate := getattr(item, name)) is not None]
        claim = Claim(
            f"mean-{name}", f"mean MFU, {word}", value, "", _SECOND_HAND, "second-hand", "mechanism"
        )
        results.append(compare(claim, sum(found) / len(found), ratio_method, ratio_differences))
    return results


# Lengths.


def _reach(estimator: Estimator, lengths: list[Length]) -> list[ClaimResult]:
    whole = next((item.tokens for item in lengths if item.share.alpha >= 1.0), None)
    results = [
        compare(
            Claim("overlap", "shortest sequence whose whole swap hides behind computation", 192.0, "K tokens",
                  f"{_PAPER}, section 4.1: 7B, 8 GPUs, TP 8", "published", "mechanism"),
            None if whole is None else whole / K,
            "The shortest of the lengths tried, in steps of 64K, at which alpha reaches 1. Two GPUs share a PCIe 4.0 "
            "x16 uplink to their socket, so each copies at half its rate while all copy.",
        ),
        compare(
            Claim("attention", "attention's part of a layer's forward time at 576K tokens", 0.90, "",
                  f"{_PAPER}, section 4.1: more than 90 % beyond 576K", "published", "mechanism"),
            _attention_share(estimator, 576 * K),
            "The attention kernel's time over that of the layer's forward pass, collectives of TP 8 included.",
        ),
    ]  # fmt: skip
    method = (
        "The longest sequence, in steps of 64K up to 4M, for which some setup of the family fits. MEMO's is at "
        "TP 8."
    )
    differences = (
        "Logits are kept in two bytes and their gradients too; frameworks that keep them in fp32, or hold more "
        "workspace, end earlier. Offchip's baselines pick the layout that reaches furthest."
    )
    for name, word, published, family, settings in (
        ("memo", "MEMO", 1024.0, MEMO.family, TrainingSettings(tp=8)),
        ("megatron", "Megatron-LM", 640.0, MEGATRON.family, TrainingSettings()),
        ("deepspeed", "DeepSpeed", 256.0, DEEPSPEED.family, TrainingSettings()),
    ):
        claim = Claim(
            f"longest-{name}",
            f"longest 7B sequence on 8 GPUs, {word}",
            published,
            "K tokens",
            _SECOND_HAND,
            "second-hand",
            "mechanism",
        )
        found = longest(estimator, family, settings)
        results.append(compare(claim, None if found is None else found / K, method, differences))
    return results


# Memory.


def _reserved(estimator: Estimator, expandable: bool) -> tuple[int, int]:
    """Reserved and allocated bytes at their peaks, model states included: full recomputation, TP 8, 512K."""
    step = estimator.rank_step(setup_at_tp8(512 * K, recompute="full"))
    memory = estimator.of_step(step, exact=False).memory
    states = memory.weights + memory.gradients + memory.optimizer_state
    trace = replay(estimator.requests(step), expandable=expandable, steps=2)
    return states + trace.peak_reserved, states + trace.peak_allocated


def _fragmentation(estimator: Estimator) -> list[ClaimResult]:
    reserved, allocated = _reserved(estimator, False)
    method = (
        "The request sequence of a step with full recomputation at TP 8, twice through PyTorch's caching allocator "
        "without a limit, model states added to both."
    )
    differences = (
        "The paper's layout and its framework's extra copies are not known: it allocates more (65.7 GB). The ratio, "
        "not the bytes, is what the allocator's rules decide. It reads both at one moment, Offchip each at its peak."
    )
    return [
        compare(
            Claim("fragmentation", "reserved over allocated bytes, 7B at 512K", 73.5 / 65.7, "",
                  f"{_PAPER}, figure 1a, peak A: 73.5 GB against 65.7 GB", "derived", "mechanism"),
            reserved / allocated, method, differences,
        ),
        compare(
            Claim("allocated", "allocated bytes, 7B at 512K", 65.7e9, "B", f"{_PAPER}, figure 1a, peak A", "published",
                  "mechanism"),
            float(allocated), method, differences,
        ),
    ]  # fmt: skip


def _memory_figure(estimator: Estimator) -> Figure:
    """Reserved and allocated bytes over a step in its steady state, and the planned peak."""
    sequence = estimator.requests(estimator.rank_step(setup_at_tp8(512 * K, recompute="full")))
    trace = replay(sequence, steps=2)
    first, count = sequence.instructions, sequence.instructions
    cuts = [first + count * part // SAMPLES for part in range(SAMPLES + 1)]

    def sampled(values: NDArray[np.int64]) -> list[tuple[float, float]]:
        pairs = itertools.pairwise(cuts)
        return [(100 * (low - first) / count, float(values[low:high].max()) / 2**30) for low, high in pairs]

    peak = plan_one_level(sequence).peak_bytes / 2**30

    def draw(path: Path) -> None:
        draw_lines(
            path,
            {"reserved": sampled(trace.reserved), "allocated": sampled(trace.allocated)},
            "requests of a step (%)",
            "activations (GiB)",
            bounds={"planned peak": [(0.0, peak), (100.0, peak)]},
        )

    caption = (
        "What the caching allocator reserves and what is allocated of it, over the second step at 512K tokens (full "
        "recomputation, TP 8)."
    )
    return Figure("memory", caption, draw)


def _fragmentation_table(estimator: Estimator) -> StudyTable:
    rows: list[tuple[str | float, ...]] = []
    step = estimator.rank_step(setup_at_tp8(512 * K, recompute="full"))
    sequence = estimator.requests(step)
    live = int(sequence.live_bytes().max())
    for word, expandable in (("caching", False), ("caching, expandable segments", True)):
        trace = replay(sequence, expandable=expandable, steps=2)
        rows.append((word, trace.peak_reserved / 2**30, trace.peak_reserved / live, trace.driver_mallocs))
    plan = plan_one_level(sequence)
    rows.append(("planned", plan.peak_bytes / 2**30, plan.peak_bytes / live, 1))
    return StudyTable(
        "A step's activations at 512K, full recomputation, TP 8",
        ("allocator", "GiB reserved", "of what is live at once", "requests to the driver"), tuple(rows),
    )  # fmt: skip


def _levels_table(estimator: Estimator) -> StudyTable:
    rows: list[tuple[str | float, ...]] = []
    for word, more in (
        ("none", {}), ("pointwise", {"recompute": "pointwise"}), ("full", {"recompute": "full"}),
        ("tokens, alpha 0.5", {"swap_tokens": 0.5}),
    ):  # fmt: skip
        step = estimator.rank_step(setup_at_tp8(512 * K, **more), bounded=False)
        sequence = estimator.requests(step)
        one = plan_one_level(sequence)
        boxes = plan_bilevel(sequence, staircase=False)
        stairs = plan_bilevel(sequence)
        rows.append(
            (
                word,
                len(sequence),
                one.bound_bytes / 2**30,
                one.peak_bytes / 2**30,
                boxes.peak_bytes / 2**30,
                stairs.peak_bytes / 2**30,
            )
        )
    return StudyTable(
        "What two levels cost: peaks in GiB at 512K, TP 8",
        (
            "recomputation",
            "blocks",
            "live at once",
            "one level",
            "two levels as published",
            "two levels, staircases",
        ),
        tuple(rows),
    )


STUDY: Final = Study(
    "memo",
    "MEMO: a 7B model at a million tokens on 8 A800",
    "Zhao et al., MEMO: Fine-grained Tensor Management for Ultra-long Context LLM Training, arXiv:2407.12117, "
    "SIGMOD 2025",
    "The 7B model of the paper's table 2 (32 layers of 4096, feed-forward 16384, vocabulary 50257) in bf16, one "
    "sequence per step, on 8 A800 80 GB with 2 TiB of host memory. MEMO: TP 8 with sequence parallelism, token-wise "
    "swapping, planned addresses. Megatron-LM-like: tensor, context and pipeline parallelism, distributed optimizer "
    "(ZeRO-1), full recomputation, caching allocator. DeepSpeed-like: Ulysses, ZeRO-3, full recomputation, caching "
    "allocator. Operators are priced by the GPU model; nothing is fitted to the paper.",
    _run,
    slow=True,
)
