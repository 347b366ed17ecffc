"""Questions to the encoders: published counts, FLOPs by closed form, shapes and options."""

import pytest

from hw_configs.problems import InputError
from workloads import encoder
from workloads.builtin import builder_at
from workloads.graph import check_graph
from workloads.workload import WorkloadOptions

PARAMETERS = {
    "bert-base-uncased": 109_482_240,
    "bert-large-uncased": 335_141_888,
    "roberta-base": 124_645_632,
    "roberta-large": 355_359_744,
    "distilbert-base-uncased": 66_362_880,
    "vit-b-16": 86_567_656,
    "vit-b-32": 88_224_232,
    "vit-l-16": 304_326_632,
    "vit-l-32": 306_535_400,
    "vit-h-14": 632_045_800,
    # Vaswani et al. print 65 million; by hand: a table of 37,000 rows, 6 layers with 1 and 6 with 2 attentions.
    "transformer-base": 37_000 * 512
    + 18 * 4 * (512 * 512 + 512)
    + 12 * (2 * 512 * 2048 + 2048 + 512)
    + 30 * 2 * 512,
}
VIT_GMACS = {
    "vit-b-16": 17.564,
    "vit-b-32": 4.409,
    "vit-l-16": 61.555,
    "vit-l-32": 15.378,
    "vit-h-14": 167.295,
}
"""10^9 multiply-adds as published on torchvision's model pages."""


def graph_of(name, **options):
    return builder_at(encoder.MODELS[name])(WorkloadOptions(**options)).phases[0].graph


def products(graph):
    return sum(op.flops for op in graph.operators if op.kind in ("conv", "matmul", "attention"))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name):
    assert set(PARAMETERS) == set(encoder.MODELS)
    for options in ({}, {"fused": False}, {"phase": "train"}):
        assert graph_of(name, **options).parameters() == PARAMETERS[name]
    assert encoder.describe(name).parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", VIT_GMACS)
def test_vision_transformers_count_the_published_multiply_adds(name):
    assert products(graph_of(name)) / 2e9 == pytest.approx(VIT_GMACS[name], abs=0.0006)


@pytest.mark.parametrize(
    ("name", "h", "layers"), [("bert-base-uncased", 768, 12), ("bert-large-uncased", 1024, 24)]
)
@pytest.mark.parametrize(("batch", "s"), [(1, 512), (3, 128)])
@pytest.mark.parametrize("fused", [True, False])
def test_bert_counts_what_the_closed_form_says(name, h, layers, batch, s, fused):
    per_layer = 2 * s * 4 * h * h + 2 * s * 8 * h * h + 4 * s * s * h
    graph = graph_of(name, batch=batch, prompt=s, fused=fused)
    assert products(graph) == batch * (layers * per_layer + 2 * h * h)


@pytest.mark.parametrize("name", ["roberta-base", "vit-b-16"])
@pytest.mark.parametrize("fused", [True, False])
def test_graphs_are_valid_and_every_operator_says_how_it_is_divided(name, fused):
    graph = graph_of(name, fused=fused)
    assert check_graph(graph) is graph
    for op in graph.operators:
        if op.name != "patch_embedding":
            assert op.place.axis in ("column", "row", "head", "split", "vocab", "replicated"), op.name
            assert -1 <= op.place.layer <= 12, op.name


def test_a_fused_layer_has_the_kernels_that_engines_run():
    graph = graph_of("bert-base-uncased")
    names = [op.name.removeprefix("layers.3.") for op in graph.operators if op.name.startswith("layers.3.")]
    assert names == [
        "attention.qkv", "attention.attend", "attention.out", "mlp_norm", "mlp.up", "mlp.act", "mlp.down",
        "output_norm",
    ]  # fmt: skip


def test_attention_keeps_scores_on_chip_only_when_fused():
    fused, apart = graph_of("vit-b-16"), graph_of("vit-b-16", fused=False)
    attend = fused.operator_by_name["layers.0.attention.attend"]
    assert attend.read_bytes == 2 * 197 * 3 * 768
    assert attend.write_bytes == 2 * 197 * 768
    assert apart.tensors["layers.0.attention.softmax.out"].size_bytes == 2 * 12 * 197 * 197


def test_an_embedding_reads_only_its_rows():
    op = graph_of("bert-base-uncased", prompt=16).operator_by_name["embedding"]
    assert op.read_bytes == 4 * 16 + 2 * 16 * 768


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        (
            "bert-base-uncased",
            {"prompt": 513},
            "--prompt: found 513; bert-base-uncased reads at most 512 tokens",
        ),
        ("roberta-base", {"prompt": 513}, "--prompt: found 513; roberta-base reads at most 512 tokens"),
        (
            "vit-b-16",
            {"dims": {"height": 1}},
            "--dim: vit-b-16 has no dimension 'height'; it has none to choose",
        ),
        ("vit-b-16", {"chunk": 8}, "--chunk: found 8; vit-b-16 makes no tokens: leave this option out"),
    ],
)
def test_options_that_make_no_sense_are_refused(name, options, expected):
    with pytest.raises(InputError) as caught:
        graph_of(name, **options)
    assert str(caught.value) == expected
