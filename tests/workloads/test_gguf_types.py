"""Blocks of GGUF files as element types of weights."""

from __future__ import annotations

import pytest

import offchip
from workloads.dtypes import BITS, GGUF
from workloads.graph import Role

# Bytes and elements of a block, from llama.cpp's ggml-common.h.
BLOCKS = {
    "q8_0": (34, 32), "q4_0": (18, 32), "q4_1": (20, 32), "q5_0": (22, 32), "q5_1": (24, 32), "q2_k": (84, 256),
    "q3_k": (110, 256), "q4_k": (144, 256), "q5_k": (176, 256), "q6_k": (210, 256), "iq4_nl": (18, 32),
    "iq4_xs": (136, 256), "q8_k": (292, 256), "iq3_s": (110, 256), "iq3_xxs": (98, 256), "iq2_s": (82, 256),
    "iq2_xs": (74, 256), "iq2_xxs": (66, 256), "iq1_m": (56, 256), "iq1_s": (50, 256), "tq2_0": (66, 256),
    "tq1_0": (54, 256), "q1_0": (18, 128),
}  # fmt: skip


def test_bits_are_those_of_the_blocks() -> None:
    assert set(BLOCKS) == GGUF
    for name, (size, elements) in BLOCKS.items():
        assert BITS[name] == pytest.approx(8 * size / elements)


def weights(dtype: str) -> int:
    return (
        offchip.load_model("llama-2-7b", dtype=dtype, prompt=16).phases[0].graph.bytes_by_role()[Role.WEIGHT]
    )


def test_a_model_s_weights_shrink_but_for_its_embedding() -> None:
    """6.74e9 parameters of Llama-2-7B, 131 M of them the embedding, which stays in 16 bits."""
    embedding = 32000 * 4096
    products = weights("fp16") // 2 - embedding
    assert weights("q4_k") == pytest.approx(products * 4.5 / 8 + embedding * 2, rel=1e-3)


def test_decoding_quickens_by_about_the_bytes_that_it_spares() -> None:
    seconds = [
        offchip.simulate("llama-2-7b", "rtx-4090", phase="decode", prompt=512, dtype=dtype).makespan_s
        for dtype in ("fp16", "q8_0", "q6_k", "q4_k")
    ]
    assert seconds == sorted(seconds, reverse=True)
    assert 2.2 < seconds[0] / seconds[-1] < 16 / 4.5
