"""Recurrent and hybrid decoders, encoders, encoder-decoders, towers and diffusion: counts, phases and guards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from workloads.graph import Graph, Role, check_graph
from workloads.importers import load_workload
from workloads.operators import Attention, Scan
from workloads.operators.fit import misfits
from workloads.workload import Workload, WorkloadOptions

FOLDER = Path(__file__).parents[1] / "reference" / "models"
MODELS: dict[str, dict[str, Any]] = {
    row["name"]: row for row in json.loads((FOLDER / "architectures.json").read_text())
}
CHANGES: dict[str, list[list[Any]]] = json.loads((FOLDER / "one_field_changes.json").read_text())


def load(config: dict[str, Any], folder: Path, **options: Any) -> Workload:
    path = folder / "model.json"
    path.write_text(json.dumps(config))
    return load_workload(path, WorkloadOptions(**{"prompt": 16, **options}))


def count(config: dict[str, Any], folder: Path, **options: Any) -> int:
    return load(config, folder, **options).phases[0].graph.parameters()


def outcome(config: dict[str, Any], folder: Path) -> int | str:
    """The count of a config, or the words in which it is refused."""
    try:
        return count(config, folder)
    except InputError as error:
        return str(error)


def refusal(config: dict[str, Any], folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        load(config, folder, **options)
    return str(error.value)


@pytest.mark.parametrize("name", MODELS)
def test_counts_are_those_of_the_published_code(name, tmp_path):
    assert count(MODELS[name]["config"], tmp_path) == MODELS[name]["parameters"]


@pytest.mark.parametrize("name", [name for name in MODELS if "with_tower" in MODELS[name]])
def test_with_images_the_tower_counts_too(name, tmp_path):
    row = MODELS[name]
    workload = load(row["config"], tmp_path, images=1)
    assert workload.phases[0].graph.parameters() == row["with_tower"]
    assert workload.metadata["tower_parameters"] == row["with_tower"] - row["parameters"]


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_field_counts_as_published_or_is_refused(name, tmp_path):
    refused = 0
    for field, value, wanted in CHANGES[name]:
        found = outcome({**MODELS[name]["config"], field: value}, tmp_path)
        if isinstance(found, int):
            assert found == wanted, field
        else:
            refused += 1
            assert "expected" in found or "not modelled" in found
    assert refused <= 0.3 * len(CHANGES[name]) + 1


@pytest.mark.parametrize(
    ("hidden", "layers", "ranks", "published"),
    [
        (768, 12, (64, 64, 32, 128), 191_034_624),
        (2048, 24, (96, 96, 64, 256), 1_527_404_544),
        (2560, 32, (96, 96, 64, 320), 2_947_735_040),
    ],
)
def test_rwkv7_has_the_parameters_of_its_paper(hidden, layers, ranks, published, tmp_path):
    # arXiv:2503.14456, table of the World models.
    names = ("decay_low_rank_dim", "a_low_rank_dim", "v_low_rank_dim", "gate_low_rank_dim")
    config = {
        "model_type": "rwkv7", "vocab_size": 65536, "hidden_size": hidden, "num_hidden_layers": layers,
        **dict(zip(names, ranks, strict=True)),
    }  # fmt: skip
    assert count(config, tmp_path) == published


SMALL: dict[str, dict[str, Any]] = {
    "mamba": {"model_type": "mamba", "vocab_size": 64, "hidden_size": 32, "state_size": 4, "num_hidden_layers": 2,
              "time_step_rank": 2, "conv_kernel": 4, "expand": 2},
    "mamba2": {"model_type": "mamba2", "vocab_size": 64, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2,
               "num_heads": 4, "head_dim": 16, "n_groups": 2, "expand": 2},
    "falcon_h1": {"model_type": "falcon_h1", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
                  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "mamba_d_ssm": 64,
                  "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
    "jamba": {"model_type": "jamba", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
              "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts": 4},
    "zamba": {"model_type": "zamba", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
              "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 4, "n_mamba_heads": 2},
    "zamba2": {"model_type": "zamba2", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
               "num_hidden_layers": 4, "num_attention_heads": 4, "n_mamba_heads": 4, "adapter_rank": 8,
               "num_mem_blocks": 2, "mamba_d_state": 8,
               "layers_block_type": ["hybrid", "linear_attention", "hybrid", "hybrid"]},
    "recurrent_gemma": {"model_type": "recurrent_gemma", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 96,
                        "num_hidden_layers": 3, "num_attention_heads": 4, "lru_width": 32},
    "lfm2": {"model_type": "lfm2", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 96,
             "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "full_attn_idxs": [1],
             "block_multiple_of": 16},
    "minimax": {"model_type": "minimax", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
                "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4},
    "rwkv": {"model_type": "rwkv", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2},
    "rwkv7": {"model_type": "rwkv7", "vocab_size": 64, "hidden_size": 32, "head_dim": 8, "num_hidden_layers": 2},
    "xlstm": {"model_type": "xlstm", "vocab_size": 64, "hidden_size": 128, "num_heads": 2, "num_blocks": 2},
    "kimi_linear": {"model_type": "kimi_linear", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
                    "moe_intermediate_size": 16, "num_hidden_layers": 5, "num_attention_heads": 4, "num_experts": 8,
                    "num_experts_per_token": 2, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
                    "v_head_dim": 8, "linear_num_heads": 4, "linear_head_dim": 8},
    "t5": {"model_type": "t5", "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    "bart": {"model_type": "bart", "architectures": ["BartForConditionalGeneration"], "vocab_size": 64, "d_model": 32,
             "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
             "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64},
    "whisper": {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "vocab_size": 64,
                "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
                "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_mel_bins": 8,
                "max_source_positions": 32, "max_target_positions": 16},
}  # fmt: skip
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
             "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64},
    "albert": {"model_type": "albert", "vocab_size": 64, "hidden_size": 32, "embedding_size": 8,
               "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4},
    "modernbert": {"model_type": "modernbert", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
                   "num_hidden_layers": 3, "num_attention_heads": 4},
    "vit": {"model_type": "vit", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "image_size": 32, "patch_size": 8},
}  # fmt: skip
VISION: dict[str, Any] = {
    "model_type": "llava", "vision_feature_layer": -2,
    "text_config": {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
                    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4},
    "vision_config": {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24,
                      "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
}  # fmt: skip
FLUX: dict[str, Any] = {
    "_class_name": "FluxTransformer2DModel", "num_layers": 1, "num_single_layers": 2, "num_attention_heads": 2,
    "attention_head_dim": 8, "in_channels": 16, "joint_attention_dim": 24, "pooled_projection_dim": 12,
    "guidance_embeds": True,
}  # fmt: skip


def sound(graph: Graph) -> None:
    """Names, order and wiring hold, and every operator's fields fit its tensors."""
    check_graph(graph)
    for op in graph.operators:
        parts = [[graph.tensors[name] for name in names] for names in (op.inputs, op.outputs, op.updates)]
        backward = op.place.training_pass in ("backward", "optimizer")
        assert misfits(op.work, *parts, backward=backward) == [], op.name


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("phase", ["prefill", "decode", "train"])
@pytest.mark.parametrize("name", SMALL)
def test_every_phase_of_a_generating_model_is_sound(name, phase, fused, tmp_path):
    workload = load(SMALL[name], tmp_path, phase=phase, batch=2, fused=fused)
    sound(workload.phases[0].graph)
    if phase == "train":
        trained = workload.phases[0].graph.bytes_by_role()[Role.OPTIMIZER_STATE]
        assert trained > 0
    else:
        assert workload.phases[0].graph.parameters() == count(SMALL[name], tmp_path)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("phase", [None, "train"])
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_is_one_sound_pass(name, phase, fused, tmp_path):
    workload = load(ENCODERS[name], tmp_path, phase=phase, batch=2, fused=fused)
    (only,) = workload.phases
    assert only.kind == ("train" if phase else "forward")
    sound(only.graph)
    if phase is None:
        for op in only.graph.operators:
            assert not isinstance(op.work, Attention) or not op.work.causal


def state_bytes(workload: Workload) -> int:
    return workload.phases[0].graph.bytes_by_role()[Role.KV_CACHE]


def test_states_do_not_grow_and_are_as_large_as_the_papers_say(tmp_path):
    for prompt in (16, 160):
        mamba = load(SMALL["mamba"], tmp_path, phase="decode", prompt=prompt, dtype="fp16")
        # Per layer 64 channels of 4 numbers in fp32, and the last 3 inputs of each in 16 bits.
        assert state_bytes(mamba) == 2 * (64 * 4 * 4 + 64 * 3 * 2)
        rwkv = load(SMALL["rwkv"], tmp_path, phase="decode", prompt=prompt, dtype="fp16")
        # Three sums per channel in fp32, and the last token before each of the two mixes.
        assert state_bytes(rwkv) == 2 * (32 * 3 * 4 + 2 * 32 * 2)


def test_shared_blocks_are_stored_once_and_keep_a_cache_each(tmp_path):
    graph = load(SMALL["zamba2"], tmp_path, phase="decode").phases[0].graph
    stored = [name for name in graph.tensors if name.endswith("shared.0.attention.qkv.weight")]
    assert stored == ["shared.0.attention.qkv.weight"]
    assert sum(name.endswith("k_cache") for name in graph.tensors) == 3
    read = [op.name for op in graph.operators if stored[0] in op.inputs]
    assert read == ["layers.0.shared.attention.qkv", "layers.3.shared.attention.qkv"]


def test_groups_of_albert_share_their_weights(tmp_path):
    once = count(ENCODERS["albert"], tmp_path)
    assert count({**ENCODERS["albert"], "num_hidden_layers": 6}, tmp_path) == once
    assert count({**ENCODERS["albert"], "num_hidden_groups": 3}, tmp_path) > once


@settings(max_examples=25, deadline=None)
@given(
    hidden=st.integers(1, 12).map(lambda n: 8 * n),
    layers=st.integers(1, 4),
    state=st.integers(1, 16),
    rank=st.integers(1, 8),
    kernel=st.integers(1, 6),
    bias=st.booleans(),
)
def test_mamba_counts_as_a_plain_sum(tmp_path_factory, hidden, layers, state, rank, kernel, bias):
    config = {
        "model_type": "mamba", "vocab_size": 11, "hidden_size": hidden, "state_size": state, "expand": 2,
        "num_hidden_layers": layers, "time_step_rank": rank, "conv_kernel": kernel, "use_bias": bias,
    }  # fmt: skip
    inner = 2 * hidden
    layer = (
        hidden + 2 * inner * hidden + inner * (kernel + 1) + (rank + 2 * state) * inner + inner * (rank + 1)
    )
    layer += inner * state + inner + inner * hidden + bias * (2 * inner + hidden)
    assert count(config, tmp_path_factory.mktemp("mamba")) == 11 * hidden + hidden + layers * layer


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3), prompt=st.integers(1, 40), generate=st.integers(1, 5), width=st.integers(1, 4),
    name=st.sampled_from(["t5", "bart"]),
)  # fmt: skip
def test_decoder_steps_read_the_whole_source_and_their_own_past(
    tmp_path_factory, batch, prompt, generate, width, name
):
    config = {**SMALL[name], "d_model": 32 * width}
    folder = tmp_path_factory.mktemp("seq")
    workload = load(config, folder, batch=batch, prompt=prompt, generate=generate, dtype="fp16")
    assert len(workload.phases) == 1 + generate
    cross = 2 * 2 * batch * prompt * (32 * width if name == "bart" else 32) * 2
    for index, phase in enumerate(workload.phases):
        sound(phase.graph)
        seen = [op for op in phase.graph.operators if op.name.endswith("cross.attend")]
        assert {op.work.kv_len for op in seen} == {prompt}
        touched = [op.read_bytes if index else op.write_bytes for op in seen]
        assert sum(touched) >= cross
        own = [
            op
            for op in phase.graph.operators
            if op.name.startswith("decoder.") and op.name.endswith("n.attend")
        ]
        assert {op.work.kv_len for op in own} == {index + 1}
        assert phase.graph.parameters() == workload.phases[0].graph.parameters()


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 4),
    sequence=st.integers(1, 64),
    channels=st.integers(1, 64),
    state=st.integers(1, 16),
)
def test_a_scan_counts_every_element_of_every_state_once_per_token(batch, sequence, channels, state):
    work = Scan(batch=batch, sequence=sequence, channels=channels, state=state, flops_per_element=1.0)
    steps = sum(
        1 for _ in range(batch) for _ in range(sequence) for _ in range(channels) for _ in range(state)
    )
    assert work.flops == steps if steps < 10**5 else work.flops == batch * sequence * channels * state
    assert not Scan.matrix


def test_images_stand_among_the_prompt(tmp_path):
    workload = load(VISION, tmp_path, images=2, batch=3, generate=2)
    assert [phase.name for phase in workload.phases] == ["vision", "prefill", "decode[0]", "decode[1]"]
    tower, prefill, decode, _ = workload.phases
    for phase in workload.phases:
        sound(phase.graph)
    assert workload.metadata["image_tokens"] == 16
    assert prefill.graph.metadata["context"] == 16 + 2 * 16
    assert decode.graph.metadata["context"] == 16 + 2 * 16 + 1
    assert tower.graph.tensors["vision.pixels"].shape == (3 * 2 * 16, 3 * 8 * 8)
    assert prefill.graph.parameters() == tower.graph.parameters()


def test_a_tower_that_is_not_modelled_stops_images_alone(tmp_path):
    other = {**VISION, "vision_config": {"model_type": "sam_vision_model"}}
    assert load(other, tmp_path).phases[0].graph.parameters() == count(VISION, tmp_path)
    assert "towers that are modelled" in refusal(other, tmp_path, images=1)


@settings(max_examples=20, deadline=None)
@given(
    double=st.integers(1, 3), single=st.integers(0, 3), heads=st.integers(1, 3), guided=st.booleans(),
    fused=st.booleans(), rows=st.integers(1, 4),
)  # fmt: skip
def test_a_denoising_step_is_sound_and_counts_as_a_plain_sum(
    tmp_path_factory, double, single, heads, guided, fused, rows
):
    config = {
        **FLUX, "num_layers": double, "num_single_layers": single, "num_attention_heads": heads,
        "guidance_embeds": guided,
    }  # fmt: skip
    w = 8 * heads
    wide = {"height": 16 * rows, "width": 32, "text": 5}
    workload = load(config, tmp_path_factory.mktemp("flux"), steps=3, batch=2, dims=wide, fused=fused)
    assert [phase.name for phase in workload.phases] == ["step[0]", "step[1]", "step[2]"]
    graph = workload.phases[0].graph
    sound(graph)
    assert workload.metadata["rows"] == 2 * rows
    embedders = (1 + guided) * (257 * w + (w + 1) * w) + 13 * w + (w + 1) * w
    ends = 17 * w + 25 * w + (w + 1) * 2 * w + (w + 1) * 16
    block = 2 * ((w + 1) * 6 * w + 4 * (w + 1) * w + 2 * 8 + (w + 1) * 4 * w + (4 * w + 1) * w)
    alone = (w + 1) * 3 * w + 3 * (w + 1) * w + 2 * 8 + (w + 1) * 4 * w + (5 * w + 1) * w
    assert graph.parameters() == embedders + ends + double * block + single * alone


def test_the_usual_prompt_gives_way_to_the_positions_that_there_are(tmp_path):
    usual = WorkloadOptions().prompt
    workload = load(ENCODERS["bert"], tmp_path, prompt=usual)
    assert workload.metadata["prompt"] == 64
    assert f"64 tokens, as many as there are positions, not {usual}" in workload.metadata["notes"]
    assert "64 learned positions" in refusal(ENCODERS["bert"], tmp_path, prompt=usual - 1)


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        ({**SMALL["mamba2"], "num_heads": 5}, {}, "expected a product of 64"),
        ({**SMALL["mamba2"], "n_groups": 3}, {}, "expected a divisor of 4 heads"),
        ({**SMALL["zamba"], "attention_hidden_size": 48}, {}, "expected twice hidden_size (64)"),
        ({**SMALL["zamba"], "n_mamba_heads": 3}, {}, "expected a divisor"),
        ({**SMALL["zamba2"], "use_shared_attention_adapter": True}, {}, "not modelled"),
        ({**SMALL["jamba"], "attn_layer_offset": 9}, {}, "less than attn_layer_period (8)"),
        ({**SMALL["xlstm"], "use_bias": True}, {}, "not modelled"),
        ({**SMALL["t5"], "feed_forward_proj": "gated-swash"}, {}, "expected relu, gelu or silu"),
        (SMALL["whisper"], {"prompt": 33}, "the encoder has 32 positions"),
        (SMALL["whisper"], {"generate": 16}, "the decoder has 16 positions"),
        (SMALL["t5"], {"chunk": 4}, "takes its source at once"),
        (SMALL["t5"], {"steps": 2}, "does not denoise"),
        (SMALL["mamba"], {"images": 1}, "has no vision tower"),
        (ENCODERS["bert"], {"generate": 2}, "makes no tokens"),
        (ENCODERS["bert"], {"phase": "decode"}, "makes no tokens"),
        (ENCODERS["bert"], {"prompt": 65}, "64 learned positions"),
        ({**ENCODERS["bert"], "add_cross_attention": True}, {}, "not modelled"),
        (VISION, {"images": 1, "phase": "train"}, "training with images"),
        (VISION, {"images": 1, "dims": {"height": 30, "width": 32}}, "expected multiples of 8"),
        (FLUX, {"phase": "decode"}, "leave this option out"),
        (FLUX, {"dims": {"height": 100}}, "expected a multiple of 16"),
        (FLUX, {"dims": {"depth": 1}}, "has no dimension 'depth'"),
        ({**FLUX, "_class_name": "FluxTransformer2DModal"}, {}, "did you mean 'FluxTransformer2DModel'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_words(config, options, words, tmp_path):
    assert words in refusal(config, tmp_path, **options)
