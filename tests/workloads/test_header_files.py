"""GGUF and safetensors headers: against a plain writer, as models, and every way that they can be broken."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from tests.workloads.header_files import (
    BLOCK_BYTES,
    LLAMA_KEYS,
    gguf_bytes,
    llama_tensors,
    safetensors_bytes,
    small_llama,
    text,
    value_bytes,
)
from workloads.gguf_header import BLOCKS, GgufArray, read_gguf
from workloads.importers import load_workload
from workloads.safetensors_header import read_safetensors
from workloads.workload import WorkloadOptions

WORDS = {
    "fp32": ("F32", 32),
    "fp16": ("F16", 16),
    "bf16": ("BF16", 16),
    "fp8": ("F8_E4M3", 8),
    "u8": ("U8", 8),
}

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
VALUES = (
    st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.lists(st.integers(-5, 5), max_size=5)
    | st.lists(st.text(max_size=4), max_size=4)
    | st.lists(st.lists(st.text(max_size=3), max_size=2), min_size=1, max_size=3)
)
TENSORS = st.dictionaries(
    NAMES,
    st.tuples(
        st.lists(st.integers(1, 4), max_size=3), st.integers(1, 3), st.sampled_from(sorted(BLOCK_BYTES))
    ).map(lambda parts: ((*parts[0], parts[1] * BLOCK_BYTES[parts[2]][1]), parts[2])),
    max_size=5,
)


@settings(deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=5), TENSORS, st.sampled_from([2, 3]))
def test_gguf_headers_against_a_plain_writer(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Any], tensors: Any, version: int
) -> None:
    metadata.pop("general.alignment", None)
    path = tmp_path_factory.getbasetemp() / "made.gguf"
    path.write_bytes(gguf_bytes(metadata, tensors, version))
    header = read_gguf(path)
    assert header.version == version
    for key, value in metadata.items():
        found = header.metadata[key]
        if isinstance(value, list):
            assert isinstance(found, GgufArray)
            assert found.length == len(value)
            if not any(isinstance(item, list) for item in value):
                assert list(found.values) == value
        else:
            assert found == value
    assert {t.name: (t.shape, t.dtype) for t in header.stored.tensors} == tensors
    total = 0
    for shape, dtype in tensors.values():
        _, elements, size = BLOCK_BYTES[dtype]
        rows = 1
        for side in shape[:-1]:
            rows *= side
        total += rows * (shape[-1] // elements) * size
    assert header.stored.size_bytes == total


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 2**64 - 1))
def test_a_broken_gguf_is_an_error_of_one_line(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, cut: int, number: int
) -> None:
    """Cut, filled with junk, or with any eight bytes replaced: read, or said in words."""
    path = tmp_path_factory.getbasetemp() / "broken.gguf"
    whole = gguf_bytes({**LLAMA_KEYS, "x": [["a"], ["b"]]}, llama_tensors(512, 1024, 2, 128, 1000, "q4_k"))
    at = min(cut, len(whole) - 8)
    for content in (
        whole[:cut] + junk,
        whole[:at] + struct.pack("<Q", number) + whole[at + 8 :],
        b"GGUF" + junk,
    ):
        path.write_bytes(content)
        try:
            load_workload(path, WorkloadOptions(phase="decode"))
        except InputError as error:
            assert "\n" not in str(error.problems[0])  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"GGUF" + struct.pack(">I", 3), "big-endian GGUF"),
        (b"GGUF" + struct.pack("<I", 1), "GGUF version 1; expected version 2 or 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "number of tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 2**50), "length of array 'a'"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<I", 13), "found type 13"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text("a") + value_bytes(1)), "it stands twice"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9,
         "nested deeper than 4"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("w") + struct.pack("<IQIQ", 1, 32, 99, 0), "element type 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("w") + struct.pack("<IQIQ", 1, 33, 8, 0), "no whole blocks"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("w") + struct.pack("<IQIQ", 1, 32, 8, 5), "multiple of 32"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("w") + struct.pack("<I", 9), "found 9 sides"),
        (gguf_bytes({"general.architecture": "lama"}, {}), "did you mean 'llama'?"),
        (gguf_bytes({}, {}), "missing metadata general.architecture"),
        (gguf_bytes({**LLAMA_KEYS, "llama.attention.head_count_kv": [2, 1]}, {}), "figures by layer that differ"),
        (gguf_bytes({**LLAMA_KEYS, "split.count": 2}, {}), "one of 2 shards"),
        (b"GGUF", "cut short"),
    ],
)  # fmt: skip
def test_each_guard_of_gguf(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_workload(path, WorkloadOptions(phase="decode"))
    assert part in str(caught.value)


def test_block_sizes_agree_with_the_element_types() -> None:
    from workloads.dtypes import BITS

    for dtype, elements, size in BLOCKS.values():
        if dtype in BITS:
            assert BITS[dtype] == 8 * size / elements


def test_a_gguf_model_has_the_types_of_its_tensors(tmp_path: Path) -> None:
    path = small_llama(tmp_path)
    workload = load_workload(path, WorkloadOptions(phase="decode"))
    graph = workload.phases[0].graph
    types = {name: tensor.dtype for name, tensor in graph.tensors.items() if tensor.is_weight}
    assert types["embedding.weight"] == "q4_k"
    assert types["lm_head.weight"] == "q6_k"
    # Values are stored in 6 bits, so the fused product is divided.
    assert types["layers.0.attention.qkv.q_proj.weight"] == "q4_k"
    assert types["layers.0.attention.qkv.v_proj.weight"] == "q6_k"
    assert (types["layers.0.mlp.down.weight"], types["layers.1.mlp.down.weight"]) == ("q6_k", "q4_k")
    stored = read_gguf(path).stored
    assert graph.parameters() == sum(tensor.elements for tensor in stored.tensors)
    norms = 5 * 512
    weights = sum(t.size_bytes for t in graph.tensors.values() if t.is_weight)
    assert weights == stored.size_bytes - norms * (4 - 2)
    assert "the file's tensors" not in str(workload.metadata.get("notes", ""))
    wider = load_workload(path, WorkloadOptions(phase="decode", dtype="fp16")).phases[0].graph
    assert {t.dtype for t in wider.tensors.values() if t.is_weight} == {"fp16"}


def test_weights_that_the_metadata_do_not_explain_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "more.gguf"
    tensors = {**llama_tensors(512, 1024, 2, 128, 1000, "q8_0"), "blk.0.extra.weight": ((64, 64), "fp32")}
    path.write_bytes(gguf_bytes(LLAMA_KEYS, tensors))
    assert "the file's tensors hold" in str(
        load_workload(path, WorkloadOptions(phase="decode")).metadata["notes"]
    )


def test_shards_of_a_gguf_are_read_together(tmp_path: Path) -> None:
    tensors = list(llama_tensors(512, 1024, 2, 128, 1000, "q4_k").items())
    for number, (keys, part) in enumerate((({**LLAMA_KEYS}, tensors[:9]), ({}, tensors[9:])), 1):
        path = tmp_path / f"m-{number:05d}-of-00002.gguf"
        path.write_bytes(gguf_bytes({**keys, "split.count": 2}, dict(part)))
    first = tmp_path / "m-00001-of-00002.gguf"
    assert len(read_gguf(first).stored.tensors) == len(tensors)
    assert load_workload(first, WorkloadOptions(phase="decode")).name == "m"


D, H, KV, HD, FF, E, V = 512, 8, 2, 64, 1024, 4, 1000
"""Width, heads, key-value heads, features of a head, feed-forward width, experts and vocabulary."""

ATTENTION = {
    "attn_q": (H * HD, D),
    "attn_k": (KV * HD, D),
    "attn_v": (KV * HD, D),
    "attn_output": (D, H * HD),
}
DENSE = {"ffn_gate": (FF, D), "ffn_up": (FF, D), "ffn_down": (D, FF)}
NORMS = {"attn_norm": (D,), "ffn_norm": (D,)}
SPARSE = {"ffn_gate_inp": (E, D), "ffn_gate_exps": (E, 256, D), "ffn_up_exps": (E, 256, D),
          "ffn_down_exps": (E, D, 256)}  # fmt: skip
SIZES = {"embedding_length": D, "block_count": 2, "feed_forward_length": FF, "attention.head_count": H,
         "attention.head_count_kv": KV, "attention.key_length": HD, "context_length": 4096}  # fmt: skip
EXPERTS = {"expert_count": E, "expert_used_count": 2, "expert_feed_forward_length": 256}
LATENT = {"attn_q_a": (96, D), "attn_q_a_norm": (96,), "attn_q_b": (H * 96, 96), "attn_kv_a_mqa": (64 + 32, D),
          "attn_kv_a_norm": (64,), "attn_output": (D, H * 64)}  # fmt: skip
SHARED = {"ffn_gate_shexp": (256, D), "ffn_up_shexp": (256, D), "ffn_down_shexp": (D, 256)}


@pytest.mark.parametrize(
    ("architecture", "keys", "layers", "tables"),
    [
        ("mistral3", SIZES, [ATTENTION | DENSE | NORMS] * 2, ("output",)),
        ("qwen2", SIZES, [ATTENTION | DENSE | NORMS | {
            "attn_q.bias": (H * HD,), "attn_k.bias": (KV * HD,), "attn_v.bias": (KV * HD,)}] * 2, ()),
        ("phi3", SIZES, [{"attn_qkv": ((H + 2 * KV) * HD, D), "attn_output": (D, H * HD), "ffn_up": (2 * FF, D),
                          "ffn_down": (D, FF)} | NORMS] * 2, ("output",)),
        ("gemma2", SIZES | {"attention.sliding_window": 128}, [ATTENTION | DENSE | NORMS | {
            "post_attention_norm": (D,), "post_ffw_norm": (D,)}] * 2, ()),
        ("gemma3", SIZES | {"attention.sliding_window": 128}, [ATTENTION | DENSE | NORMS | {
            "post_attention_norm": (D,), "post_ffw_norm": (D,), "attn_q_norm": (HD,), "attn_k_norm": (HD,)}] * 2, ()),
        ("llama", SIZES | {"expert_count": E, "expert_used_count": 2, "feed_forward_length": 256},
         [ATTENTION | SPARSE | NORMS] * 2, ("output",)),
        ("deepseek2", SIZES | EXPERTS | {
            "attention.q_lora_rank": 96, "attention.kv_lora_rank": 64, "attention.key_length": 96,
            "attention.value_length": 64, "rope.dimension_count": 32, "leading_dense_block_count": 1,
            "expert_shared_count": 1, "attention.head_count_kv": H,
        }, [LATENT | DENSE | NORMS | {"attn_kv_b": (H * 128, 64)},
            LATENT | SPARSE | SHARED | NORMS | {"attn_kv_b": (H * 128, 64), "exp_probs_b.bias": (E,)}], ("output",)),
        ("deepseek2", SIZES | EXPERTS | {
            "attention.q_lora_rank": 96, "attention.kv_lora_rank": 64, "attention.key_length": 96,
            "attention.key_length_mla": 96, "attention.value_length": 64, "attention.value_length_mla": 64,
            "rope.dimension_count": 32, "leading_dense_block_count": 0, "expert_shared_count": 1,
            "attention.head_count_kv": 1,
        }, [LATENT | SPARSE | SHARED | NORMS | {"attn_k_b": (H, 64, 64), "attn_v_b": (H, 64, 64)}] * 2, ("output",)),
        ("gpt-oss", SIZES | EXPERTS | {"attention.sliding_window": 128}, [ATTENTION | SPARSE | {
            "attn_norm": (D,), "post_attention_norm": (D,), "attn_sinks": (H,), "attn_q.bias": (H * HD,),
            "attn_k.bias": (KV * HD,), "attn_v.bias": (KV * HD,), "attn_output.bias": (D,), "ffn_gate_inp.bias": (E,),
            "ffn_gate_exps.bias": (E, 256), "ffn_up_exps.bias": (E, 256), "ffn_down_exps.bias": (E, D)}] * 2,
         ("output",)),
        ("qwen2moe", SIZES | EXPERTS | {"expert_shared_feed_forward_length": 256}, [
            ATTENTION | SPARSE | SHARED | NORMS | {"ffn_gate_inp_shexp": (D,), "attn_q.bias": (H * HD,),
            "attn_k.bias": (KV * HD,), "attn_v.bias": (KV * HD,)}] * 2, ("output",)),
    ],
)  # fmt: skip
def test_architectures_explain_every_weight(
    tmp_path: Path,
    architecture: str,
    keys: dict[str, Any],
    layers: list[dict[str, Any]],
    tables: tuple[str, ...],
) -> None:
    """Each model built from metadata has as many weights as its tensors, in their types."""
    tensors: Any = {"token_embd.weight": ((V, D), "q8_0"), "output_norm.weight": ((D,), "fp32")}
    tensors |= {f"{name}.weight": ((V, D), "fp16") for name in tables}
    for index, layer in enumerate(layers):
        for name, shape in layer.items():
            whole = name if "." in name else f"{name}.weight"
            tensors[f"blk.{index}.{whole}"] = (shape, "q8_0" if len(shape) > 1 else "fp32")
    path = tmp_path / "m.gguf"
    metadata = {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in keys.items()},
    }
    path.write_bytes(gguf_bytes(metadata, tensors))
    workload = load_workload(path, WorkloadOptions(phase="decode"))
    assert "the file's tensors" not in str(workload.metadata.get("notes", ""))
    graph = workload.phases[0].graph
    products = [t for t in graph.tensors.values() if t.is_weight and len(t.shape) > 1 and t.size_bytes > 4096]
    # The gate of a shared expert is one row, which stays as activations are.
    assert {t.dtype for t in products if t.name != "lm_head.weight"} == {"q8_0"}


def expert_tensors(layers: int, hidden: int, inner: int, experts: int, vocab: int) -> Any:
    found: Any = {"token_embd.weight": ((vocab, hidden), "q8_0"), "output_norm.weight": ((hidden,), "fp32"),
                  "output.weight": ((vocab, hidden), "q8_0")}  # fmt: skip
    for layer in range(layers):
        for name, shape, dtype in (
            ("attn_norm.weight", (hidden,), "fp32"), ("ffn_norm.weight", (hidden,), "fp32"),
            ("attn_q.weight", (8 * 64, hidden), "q8_0"), ("attn_k.weight", (2 * 64, hidden), "q8_0"),
            ("attn_v.weight", (2 * 64, hidden), "q8_0"), ("attn_output.weight", (hidden, 8 * 64), "q8_0"),
            ("attn_q_norm.weight", (64,), "fp32"), ("attn_k_norm.weight", (64,), "fp32"),
            ("ffn_gate_inp.weight", (experts, hidden), "fp32"),
            ("ffn_gate_exps.weight", (experts, inner, hidden), "iq3_s"),
            ("ffn_up_exps.weight", (experts, inner, hidden), "iq3_s"),
            ("ffn_down_exps.weight", (experts, hidden, inner), "q4_k"),
        ):  # fmt: skip
            found[f"blk.{layer}.{name}"] = (shape, dtype)
    return found


def test_experts_in_gguf(tmp_path: Path) -> None:
    keys = {"general.architecture": "qwen3moe", "qwen3moe.block_count": 2, "qwen3moe.embedding_length": 512,
            "qwen3moe.feed_forward_length": 1024, "qwen3moe.attention.head_count": 8,
            "qwen3moe.attention.head_count_kv": 2, "qwen3moe.attention.key_length": 64, "qwen3moe.expert_count": 4,
            "qwen3moe.expert_used_count": 2, "qwen3moe.expert_feed_forward_length": 256}  # fmt: skip
    path = tmp_path / "experts.gguf"
    path.write_bytes(gguf_bytes(keys, expert_tensors(2, 512, 256, 4, 1000)))
    workload = load_workload(path, WorkloadOptions(phase="decode"))
    graph = workload.phases[0].graph
    types = {name: tensor.dtype for name, tensor in graph.tensors.items() if tensor.is_weight}
    assert types["layers.1.mlp.experts.gate_up.weight"] == "iq3_s"
    assert types["layers.1.mlp.experts.down.weight"] == "q4_k"
    assert types["layers.1.mlp.router.weight"] == "fp32"
    assert "the file's tensors" not in str(workload.metadata.get("notes", ""))


@settings(deadline=None)
@given(st.dictionaries(NAMES, st.tuples(st.lists(st.integers(0, 5), max_size=3).map(tuple),
                                        st.sampled_from(sorted(WORDS))), max_size=6))  # fmt: skip
def test_safetensors_headers_against_a_plain_writer(
    tmp_path_factory: pytest.TempPathFactory, tensors: Any
) -> None:
    tensors.pop("__metadata__", None)
    path = tmp_path_factory.getbasetemp() / "made.safetensors"
    path.write_bytes(safetensors_bytes(tensors, WORDS))
    stored = read_safetensors(path)
    assert {t.name: t.shape for t in stored.tensors} == {name: shape for name, (shape, _) in tensors.items()}
    sizes = {name: WORDS[dtype][1] // 8 for name, (_, dtype) in tensors.items()}
    for tensor in stored.tensors:
        assert tensor.size_bytes == tensor.elements * sizes[tensor.name]


@settings(deadline=None)
@given(st.binary(max_size=100), st.integers(0, 300))
def test_a_broken_safetensors_file_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "broken.safetensors"
    whole = safetensors_bytes({"a": ((2, 2), "fp16"), "b": ((3,), "fp32")}, WORDS)
    for content in (whole[:cut] + junk, junk, struct.pack("<Q", len(junk)) + junk):
        path.write_bytes(content)
        try:
            read_safetensors(path)
        except InputError:
            continue


def header(value: Any) -> bytes:
    raw = json.dumps(value).encode()
    return struct.pack("<Q", len(raw)) + raw


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"abc", "shorter than the length of a header"),
        (struct.pack("<Q", 2**60), "a header of"),
        (struct.pack("<Q", 100) + b"{}", "98 bytes are missing"),
        (header([]), "no object"),
        (header({"a": {"dtype": "F17", "shape": [1], "data_offsets": [0, 2]}}), "unknown dtype 'F17'"),
        (header({"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 4]}}), "expected 2 bytes from 0"),
        (header({"a": {"dtype": "F16", "shape": [1], "data_offsets": [2, 4]}}), "spans bytes 2 to 4"),
        (header({"a": {"dtype": "F16", "shape": [-1], "data_offsets": [0, 2]}}), "shape: expected"),
        (header({"a": {"dtype": "F16", "shape": [1]}}), "expected data_offsets, dtype, shape"),
        (header({"a": {"dtype": "F16", "shape": [1], "data_offsets": [0]}}), "where its bytes begin and end"),
        (struct.pack("<Q", 3) + b"\xff\xfe\xfd", "is no text"),
        (struct.pack("<Q", 40000) + b"[" * 40000, "nested too deeply"),
    ],
)
def test_each_guard_of_safetensors(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_safetensors(path)
    assert part in str(caught.value)


CONFIG = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 1,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000, "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip


def checkpoint(folder: Path, shards: bool = True) -> Path:
    """An index of two shards; one product is in 16 bits although the config does not say so."""
    parts: Any = [
        {"model.embed_tokens.weight": ((1000, 512), "bf16"), "lm_head.weight": ((1000, 512), "fp32")},
        {"model.layers.0.mlp.down_proj.weight": ((512, 1024), "bf16"),
         "model.layers.0.self_attn.o_proj.weight": ((512, 512), "fp8")},
    ]  # fmt: skip
    where = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05d}-of-00002.safetensors"
        where |= dict.fromkeys(part, name)
        if shards:
            (folder / name).write_bytes(safetensors_bytes(part, WORDS))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 4_435_968}, "weight_map": where}))
    return index


def test_headers_go_before_the_config(tmp_path: Path) -> None:
    index = checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    graph = load_workload(index, WorkloadOptions(phase="decode")).phases[0].graph
    types = {name: tensor.dtype for name, tensor in graph.tensors.items() if tensor.is_weight}
    assert (types["lm_head.weight"], types["layers.0.mlp.down.weight"]) == ("fp32", "bf16")
    assert (types["layers.0.attention.out.weight"], types["layers.0.mlp.gate_up.weight"]) == ("fp8", "fp8")


def test_an_index_without_its_shards(tmp_path: Path) -> None:
    stored = read_safetensors(checkpoint(tmp_path, shards=False))
    assert stored.size_bytes == 4_435_968
    assert "2 of 2 shards are not beside the index" in stored.notes[0]
    index = tmp_path / "model.safetensors.index.json"
    for wrong, part in (
        ({"weight_map": {"a": "../b"}}, "found shard '../b'"),
        ({"weight_map": {"a": "b"}}, "missing field metadata.total_size"),
        ({"weight_map": {"a": 1}}, "missing field weight_map"),
        ([], "missing field weight_map"),
    ):
        index.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=re.escape(part)):
            read_safetensors(index)


def test_a_lost_tensor_and_a_checkpoint_alone(tmp_path: Path) -> None:
    index = checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"no config.json beside it"):
        load_workload(index, WorkloadOptions(phase="decode"))
    content = json.loads(index.read_text())
    content["weight_map"]["model.lost.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(InputError, match=re.escape("'model.lost.weight' first")):
        read_safetensors(index)


def test_the_command_shows_what_is_stored(cli: Any, tmp_path: Path) -> None:
    path = small_llama(tmp_path)
    facts = json.loads(cli("models", "show", path, "--json").out)
    assert facts["stored"]["size_bytes"] == read_gguf(path).stored.size_bytes
    assert {share["dtype"] for share in facts["stored"]["by_type"]} == {"q4_k", "q6_k", "fp32"}
    outcome = cli("simulate", path, "--hw", "rtx-4090", "--phase", "decode")
    assert outcome.code == 0, outcome.err
    alone = cli("models", "show", checkpoint(tmp_path))
    assert alone.code == 0
    assert "safetensors" in alone.out


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_a_file_of_many_gigabytes_costs_its_header_alone(tmp_path: Path, kind: str) -> None:
    """The file is sparse; reading its 60 GB would take minutes and more memory than there is."""
    import tracemalloc

    path = tmp_path / f"large.{kind}"
    tensors: Any = {"a": ((2**14, 2**20), "fp16")}
    path.write_bytes(gguf_bytes({}, tensors) if kind == "gguf" else safetensors_bytes(tensors, WORDS))
    with path.open("r+b") as stream:
        stream.truncate(60 * 2**30)
    tracemalloc.start()
    stored = read_gguf(path).stored if kind == "gguf" else read_safetensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert stored.size_bytes == 2**35
    assert not stored.notes
    assert peak < 2**20
