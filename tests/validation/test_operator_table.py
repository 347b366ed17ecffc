"""Operator tables: what rows mean, and what is said about rows and cells that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import offchip
from hw_configs.problems import InputError
from workloads.operator_table import OPS, OperatorTable, TableRow, read_operator_table
from workloads.operators import Attention, GroupedProduct, Product, Quantize

REFERENCE = Path(__file__).parent.parent / "reference" / "gpu" / "operators.csv"


def table(tmp_path: Path, text: str) -> OperatorTable:
    path = tmp_path / "ops.csv"
    path.write_text(text, encoding="utf-8")
    return read_operator_table(path)


def test_the_reference_rows_all_mean_something() -> None:
    rows = read_operator_table(REFERENCE).rows
    assert len(rows) == 4294
    assert [row.id for row in rows if row.operator is None] == []
    assert all(row.measured_us for row in rows)


def test_no_measured_product_or_attention_beats_the_data_sheet() -> None:
    from offchip.validation.reference_gpu import ReferenceGpus
    from simulator.cost.model import peak_rate

    gpus = ReferenceGpus(REFERENCE.with_name("hardware.csv"), shipped=False)
    for row in read_operator_table(REFERENCE).rows:
        op, gpu = row.operator, gpus.find(row.gpu)
        assert op is not None
        assert gpu is not None
        assert row.measured_us is not None
        if op.kind in ("matmul", "attention"):
            least = op.flops / peak_rate(gpu.gpu.compute, op.kind, op.dtype)
            assert row.measured_us * 1e-6 >= least * 0.999, row.id


def test_counts_of_a_product_with_narrow_weights(tmp_path: Path) -> None:
    text = "op,dtype,weight_dtype,m,n,k\ngemm,fp16,,16,32,64\ngemm,bf16,int4,16,32,64\ngemm,fp8,,16,32,64\n"
    full, narrow, fp8 = (row.operator for row in table(tmp_path, text).rows)
    assert full is not None
    assert narrow is not None
    assert fp8 is not None
    assert full.flops == narrow.flops == 2 * 16 * 32 * 64
    assert full.read_bytes == 2 * (16 * 64 + 64 * 32)
    assert narrow.read_bytes == 2 * 16 * 64 + 64 * 32 // 2
    assert narrow.work == Product(m=16, n=32, k=64, weight_dtype="int4")
    assert (fp8.read_bytes, fp8.write_bytes) == (16 * 64 + 64 * 32, 2 * 16 * 32)


def test_grouped_heads_share_their_keys(tmp_path: Path) -> None:
    text = "op,batch,heads,kv_heads,head_dim,q_len,kv_len\nattention_decode,2,32,8,128,1,1000\n"
    (row,) = table(tmp_path, text).rows
    assert row.operator is not None
    assert row.operator.flops == 4 * 2 * 32 * 1000 * 128
    assert row.operator.read_bytes == 2 * (2 * 32 * 128 + 2 * 8 * 1000 * 2 * 128)


@given(st.integers(1, 40), st.integers(0, 40), st.booleans(), st.integers(1, 100))
def test_the_pairs_of_attention_counted_one_by_one(q_len: int, past: int, causal: bool, window: int) -> None:
    kv_len = past + q_len
    window = min(window, kv_len)
    counted = 0
    for query in range(past, kv_len):
        last = query if causal else kv_len - 1
        first = max(0, query - window + 1) if causal else kv_len - window
        counted += sum(first <= key <= last for key in range(kv_len))
    work = Attention(
        batch=1, heads=1, kv_heads=1, head_dim=1, q_len=q_len, kv_len=kv_len, causal=causal, window=window
    )
    assert work.pairs == counted


def test_experts_that_rows_reach_have_their_weights_read(tmp_path: Path) -> None:
    (row,) = table(tmp_path, "op,m,n,k,groups,touched\ngrouped_gemm,16,8,4,64,12\n").rows
    assert row.operator is not None
    assert row.operator.work == GroupedProduct(m=16, n=8, k=4, groups=64, expected_groups=12.0)
    assert row.operator.read_bytes == 2 * (16 * 4 + 12 * 8 * 4)


def test_rows_that_cannot_be_expressed_are_kept_with_the_reason(tmp_path: Path) -> None:
    text = (
        "id,op,m,n,k,dtype,heads,kv_heads,head_dim,q_len,kv_len\n"
        "a,softmaxx,1,2,,,,,,,\nb,gemm,1,,3,,,,,,\nc,gemm,1,2,3,fp17,,,,,\nd,attention,,,,,9,2,64,1,5\n"
        "e,attention_prefill,,,,,8,8,64,10,5\n"
    )
    problems = [row.problem for row in table(tmp_path, text).rows]
    assert problems == [
        "no rule for operator 'softmaxx', perhaps 'softmax'",
        "gemm: no n",
        "gemm: unknown element type 'fp17', perhaps 'fp16'",
        "attention: 9 heads cannot share 2 KV heads evenly",
        "attention_prefill: 10 queries see only 5 keys under a causal mask",
    ]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["the file is empty"]),
        ("a,b\n1,2\n", ["no column 'op'"]),
        ("op,m,m\n", ["the column appears twice"]),
        ("op,heds\ngemm,1\n", ["unknown column 'heds' (did you mean 'heads'?)"]),
        ("op,m\ngemm,1,2\ngemm,x\n", ["ops.csv:2: found 3 cells; expected 2", "ops.csv:3: m: found 'x'"]),
        ("op,m\ngemm,-4\n", ["m: found '-4'; expected a whole number of 1 or more"]),
        ("op,m\ngemm,1.5\n", ["m: found '1.5'"]),
        ("op,m\ngemm,nan\n", ["m: found 'nan'"]),
        ("op,median_us\ngemm,0\n", ["median_us: found '0'; expected microseconds above zero"]),
        ("op,median_us\ngemm,inf\n", ["median_us: found 'inf'"]),
        ("id,op\n7,gemm\n7,gemm\n", ["ops.csv:3: id: id '7' stands in line 2 as well"]),
    ],
)
def test_bad_cells_are_all_named(tmp_path: Path, text: str, messages: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        table(tmp_path, text)
    for message in messages:
        assert message in str(caught.value)
    assert len(caught.value.problems) == len(messages)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_operator_table(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"op\n\xff\xfe\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_operator_table(tmp_path / "binary.csv")


def test_columns_of_others_and_a_byte_order_mark_pass(tmp_path: Path) -> None:
    text = "\ufeffop,m,n,comment_by_me\nrelu,4,5,hello\n"
    (row,) = table(tmp_path, text).rows
    assert row.id == "line 2"
    assert row.cells["comment_by_me"] == "hello"
    assert row.operator is not None


def test_every_operator_name_builds_an_operator() -> None:
    from workloads.operator_table.cells import Cells
    from workloads.operators import KINDS

    shape = dict.fromkeys(
        ("m", "n", "k", "heads", "head_dim", "groups", "in_channels", "out_channels", "height", "width",
         "kernel_h", "bytes", "q_len", "kv_len", "kv_heads", "tokens", "hidden", "inter", "experts", "top_k"),
        8,
    )  # fmt: skip
    for name, rule in OPS.items():
        built = rule(Cells({"dtype": "bf16", "to_dtype": "fp8"}, shape))
        assert built.work.kind in KINDS, name
        assert built.work.flops >= 0
        assert built.read_bytes > 0
        assert built.write_bytes > 0


def test_active_experts_of_a_table_are_those_of_a_token(tmp_path: Path) -> None:
    (row,) = table(tmp_path, "op,m,n,k,groups,active\ngrouped_gemm,16,8,4,64,2\n").rows
    assert row.operator is not None
    work = row.operator.work
    assert isinstance(work, GroupedProduct)
    assert (work.active, work.tokens) == (2, 8.0)
    assert work.touched == pytest.approx(64 * (1 - (1 - 2 / 64) ** 8))
    (row,) = table(tmp_path, "op,m,n,k,groups,active\ngrouped_gemm,16,8,4,64,65\n").rows
    assert row.problem == "grouped_gemm: active 65 of 64 groups"


MOE = "op,gpu,dtype,tokens,hidden,inter,experts,top_k,tp,ep,distribution,kernel,label\nmoe,H100-SXM,"


def test_a_layer_of_experts_is_its_kernels_in_turn(tmp_path: Path) -> None:
    (row,) = table(
        tmp_path, MOE + "bf16,64,4096,2048,256,8,2,1,balanced,vllm_x_triton_tritonexperts,vllm 0.24.0\n"
    ).rows
    assert row.operator is not None
    kinds = [operator.kind for operator in (row.operator, *row.then)]
    assert kinds == ["sort", "grouped_matmul", "activation", "grouped_matmul", "reduce"]
    up, down = (op.work for op in row.then if isinstance(op.work, GroupedProduct))
    assert (up.m, up.n, up.k, up.groups, up.touched, up.library) == (512, 2048, 4096, 256, 256, "triton")
    assert (down.n, down.k) == (4096, 1024)
    (row,) = table(tmp_path, MOE + "fp8,64,4096,2048,256,8,1,8,power_law_1.2,x_trtllm_y,vllm 0.24.0\n").rows
    assert [operator.kind for operator in row.then] == [
        "quantize",
        "grouped_matmul",
        "grouped_matmul",
        "reduce",
    ]
    first = row.then[1].work
    assert isinstance(first, GroupedProduct)
    assert (first.groups, first.load, first.exponent) == (32, "power_law", 1.2)
    assert first.m > 64 * 8 / 8


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ("bf16,64,4096,2048,256,8,1,3,balanced,x,y", "3 ranks do not divide 256 experts"),
        ("bf16,64,4096,2048,4,8,1,1,balanced,x,y", "top_k 8 of 4 experts"),
        ("bf16,64,4096,2048,256,8,1,1,zipf,x,y", "unknown distribution 'zipf'"),
        ("bf16,64,4096,2048,256,8,1,1,power_law_x,x,y", "unknown distribution 'power_law_x'"),
        ("bf16,64,,2048,256,8,1,1,balanced,x,y", "no hidden"),
    ],
)
def test_layers_that_no_operator_expresses(tmp_path: Path, cells: str, told: str) -> None:
    (row,) = table(tmp_path, MOE + cells + "\n").rows
    assert told in row.problem


def test_sinks_of_attention(tmp_path: Path) -> None:
    text = (
        "op,batch,heads,kv_heads,head_dim,q_len,kv_len,window,sink_logits,sink_tokens\n"
        "attention_decode,2,64,8,64,1,4096,128,,\nattention_decode,2,64,8,64,1,4096,128,1,\n"
        "attention_decode,2,64,8,64,1,4096,128,0,4\nattention_decode,2,64,8,64,1,4096,,,4\n"
        "attention_decode,2,64,8,64,1,4096,128,perhaps,\n"
    )
    plain, logits, tokens, alone, unclear = table(tmp_path, text).rows
    assert plain.operator is not None
    assert logits.operator is not None
    assert tokens.operator is not None
    assert logits.operator.read_bytes == plain.operator.read_bytes + 64 * 2
    assert logits.operator.flops == plain.operator.flops + 2 * 2 * 64
    assert tokens.operator.read_bytes == plain.operator.read_bytes + 2 * 8 * 4 * 2 * 64 * 2
    assert tokens.operator.flops == plain.operator.flops / 128 * 132
    assert alone.problem.startswith("attention_decode: 4 sink_tokens without a window")
    assert unclear.problem == "attention_decode: found sink_logits 'perhaps'; expected 1 or 0"


def test_quantising_says_what_becomes_what(tmp_path: Path) -> None:
    text = (
        "op,dtype,to_dtype,m,n,scales,block\nquantize,fp8,,64,4096,,\nquantize,fp16,int8,64,4096,,\n"
        "quantize,fp8_block,,64,4096,,\nquantize,fp8,,64,4096,tensor,\nquantize,fp8,,64,4096,static,\n"
        "quantize,nvfp4,,64,4096,,\nquantize,fp8,bf16,64,4096,,\nquantize,bf16,,64,4096,,\nquantize,fp8,,64,4096,rwo,\n"
        "quantize,fp8,,64,4096,,32\n"
    )
    rows = table(tmp_path, text).rows
    made = [row.operator for row in rows if row.operator is not None]
    works = [operator.work for operator in made]
    assert [operator.read_bytes for operator in made] == [64 * 4096 * 2] * 7
    sizes = (1, 1, 1, 1, 1, 0.5, 1)
    scales = [op.write_bytes - round(64 * 4096 * size) for op, size in zip(made, sizes, strict=True)]
    assert scales == [
        64 * 4, 64 * 4, 64 * 32 * 4, 4, 4, 64 * 4096 // 16, 64 * 128 * 4,
    ]  # fmt: skip
    assert works[0] == Quantize(m=64, n=4096, to_dtype="fp8", flops_per_element=4.0)
    assert [(work.block, work.dynamic, work.per_token) for work in works if isinstance(work, Quantize)] == [
        (0, True, True), (0, True, True), (128, True, True), (0, True, False), (0, False, False), (16, True, True),
        (32, True, True),
    ]  # fmt: skip
    problems = [row.problem for row in rows if row.operator is None]
    assert problems == [
        "quantize: fp8 is not narrowed by bf16; expected a narrower type",
        "quantize: no to_dtype that says what bf16 becomes; expected a narrower type",
        "quantize: unknown scales 'rwo'; expected row, tensor, static, perhaps 'row'",
    ]


def test_a_column_says_whether_experts_are_gated(tmp_path: Path) -> None:
    sizes = "8,2688,1856,128,6"
    text = f"op,tokens,hidden,inter,experts,top_k,gated\nmoe,{sizes},\nmoe,{sizes},0\nmoe,{sizes},1\n"
    text += "moe,8,4096,1024,64,4,0\n"
    assumed, stated, gated, other = table(tmp_path, text).rows
    assert "assumed to have no gate" in assumed.note
    assert (stated.note, gated.note, other.note) == ("", "", "")

    def first(row: TableRow) -> int:
        return next(op.work.n for op in row.then if isinstance(op.work, GroupedProduct))

    assert [first(row) for row in (assumed, stated, gated, other)] == [1856, 1856, 2 * 1856, 1024]


def test_predictions_say_what_they_rest_on(tmp_path: Path) -> None:
    path = tmp_path / "ops.csv"
    path.write_text(
        "op,dtype,m,n,k,tokens,hidden,inter,experts,top_k\ngemm,nvfp4,64,4096,4096,,,,,\ngemm,fp8,64,4096,4096,,,,,\n"
        "moe,bf16,,,,8,2688,1856,128,6\n",
        encoding="utf-8",
    )
    notes = [p.note for _, p in offchip.predict(path, "h100-sxm").pairs]
    assert notes[:2] == ["nvfp4 products run at the rate of fp8", ""]
    assert "gate" in notes[2]
    assert next(p.note for _, p in offchip.predict(path, "b200").pairs) == ""
    told = offchip.simulate(
        "llama-3-8b", "h100-sxm", phase="decode", dtype="nvfp4", fidelity="analytic"
    ).warnings
    assert [line for line in told if "nvfp4 products" in line] == [
        "h100-sxm has no rate for nvfp4 products: they run at that of fp8"
    ]
    assert not any(
        "products" in line
        for line in offchip.simulate(
            "llama-3-8b", "b200", phase="decode", dtype="nvfp4", fidelity="analytic"
        ).warnings
    )
