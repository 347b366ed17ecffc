"""A GPU with PIM memories: attention there, the rest on the GPU, sub-batches in turn."""

from __future__ import annotations

import pytest

from hw_configs.problems import InfeasibleError, InputError
from offchip.api import load_system, simulate

SYSTEM = load_system("gpu-pim")


def run(**more):
    options = {"phase": "decode", "batch": 8, "prompt": 256, "mapper": "pim-attention", **more}
    return simulate("opt-1.3b", SYSTEM, **options)


@pytest.fixture(scope="module")
def whole():
    return run(fidelity="cycle")


def test_attention_runs_in_the_memories_and_nothing_else_does(whole):
    line = whole.timeline
    at = {
        kind: {d for d, k in zip(line.device, line.operator_kind, strict=True) if k == kind}
        for kind in set(line.operator_kind)
    }
    assert at["attention"] == {"pim0", "pim1", "pim2", "pim3"}
    assert at["matmul"] == {"gpu"}
    assert whole.memories["gpu"].resident_bytes > 0
    caches = {name: use.resident_bytes for name, use in whole.memories.items() if name.startswith("pim")}
    # Two sequences each of 24 layers' keys and values, 32 heads of 64 in fp16.
    assert set(caches.values()) == {2 * 24 * 2 * 256 * 2048 * 2}


def test_what_crosses_the_links_is_queries_keys_values_and_results(whole):
    moved = sum(
        use.bytes_forward + use.bytes_backward for name, use in whole.wires.items() if "gpu-pim" in name
    )
    assert moved == 24 * 8 * (3 + 1) * 2048 * 2


def test_sub_batches_overlap_and_never_beat_either_side():
    apart, together = run(), run(microbatches=2)
    line = together.timeline
    gpu = sum(
        e - s
        for d, k, s, e in zip(line.device, line.kind, line.start, line.end, strict=True)
        if d == "gpu" and k == "compute"
    )
    assert together.makespan_s >= gpu
    spans = [
        (s, e)
        for d, k, s, e in zip(line.device, line.kind, line.start, line.end, strict=True)
        if d == "gpu" and k == "compute"
    ]
    attends = [(s, e) for d, s, e in zip(line.device, line.start, line.end, strict=True) if d == "pim0"]
    both = sum(max(0.0, min(e, f) - max(s, t)) for s, e in spans for t, f in attends)
    assert both > 0.5 * sum(f - t for t, f in attends)
    attending = sum(f - t for t, f in attends)
    assert together.makespan_s < gpu + attending
    assert apart.makespan_s > 0


def test_a_generation_has_its_prefill_on_the_gpu():
    result = run(phase=None, prompt=32, generate=2)
    line = result.timeline
    prefill = {
        d
        for d, k, p in zip(line.device, line.operator_kind, line.phase, strict=True)
        if k == "attention" and p == 0
    }
    decode = {
        d
        for d, k, p in zip(line.device, line.operator_kind, line.phase, strict=True)
        if k == "attention" and p > 0
    }
    assert prefill == {"gpu"}
    assert decode == {"pim0", "pim1", "pim2", "pim3"}


def test_fewer_sequences_than_memories_are_cut_by_heads():
    result = run(batch=1)
    caches = [use.resident_bytes for name, use in result.memories.items() if name.startswith("pim")]
    assert len(caches) == 4
    assert len(set(caches)) == 1


def test_what_does_not_fit_is_said():
    with pytest.raises(InfeasibleError, match="keys and values of"):
        simulate(
            "llama-2-7b",
            SYSTEM,
            phase="decode",
            batch=256,
            prompt=4096,
            mapper="pim-attention",
            fidelity="analytic",
        )
    with pytest.raises(InfeasibleError, match="does not fit"):
        simulate("llama-3-70b", SYSTEM, phase="decode", prompt=16, mapper="pim-attention")
    with pytest.raises(InputError, match="GPU and PIM"):
        simulate("gpt2", "dgx-a100", mapper="pim-attention")


@pytest.mark.parametrize("model", ["qwen3-0.6b", "tinyllama-1.1b"])
def test_queries_that_share_a_key_find_its_rows_open(model):
    """Groups of query heads on units shared by four banks: what the layout expects is what the engine counts."""
    result = simulate(
        model, SYSTEM, phase="decode", batch=4, prompt=512, mapper="pim-attention", fidelity="cycle"
    )
    assert result.makespan_s > 0
