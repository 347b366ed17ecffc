"""Rows of inference engines: which setup they were measured under, and what runs beside the product."""

from __future__ import annotations

from pathlib import Path

import pytest

from offchip.validation.engine_rows import setup_name
from workloads.operator_table import TableRow, read_operator_table
from workloads.operators import Product, Quantize

HEAD = "id,op,label,dtype,m,n,k,kernel,timing,median_us\n"
ROWS = [
    ("vllm 0.24.0,fp8", "CutlassFP8ScaledMMLinearKernel", "linear-layer", 0),
    ("vllm 0.24.0,fp8_block", "DeepGemmFp8BlockScaledMMKernel", "block-layer-deepgemm", 128),
    ("vllm 0.24.0,fp8_block", "TritonFp8BlockScaledMMKernel", "block-layer-triton", 128),
    ("trtllm 1.3.0,nvfp4", "torch_flow", "linear-layer", 16),
    ("trtllm 1.0.0,sq", "trt_flow_/smooth_quant", "engine-plugin", -1),
    ("trtllm 1.0.0,int4_wo", "trt_flow_/weight_only", "engine-plugin", -1),
    ("vllm 0.24.0,bf16", "torch.nn.functional.linear", "graph-mean", -1),
    (",fp8", "", "graph-mean", -1),
]  # fmt: skip
"""Label and type, kernel, setup, and elements that share a scale of the activation (below zero: none is made)."""


def table(tmp_path: Path, cells: str, kernel: str, timing: str = "cuda-graph-mean") -> TableRow:
    file = tmp_path / "kernels.csv"
    file.write_text(HEAD + f"1,gemm,{cells},64,512,1024,{kernel},{timing},10\n")
    return read_operator_table(file).rows[0]


@pytest.mark.parametrize(("cells", "kernel", "setup", "block"), ROWS)
def test_a_row_s_setup_and_its_quantising_kernel(
    tmp_path: Path, cells: str, kernel: str, setup: str, block: int
) -> None:
    row = table(tmp_path, cells, kernel)
    assert setup_name(row) == setup
    assert row.operator is not None
    assert isinstance(row.operator.work, Product)
    made = [operator.work for operator in row.then]
    if block < 0:
        assert made == []
    else:
        (work,) = made or [Quantize(block=block)]
        assert isinstance(work, Quantize)
        assert work.block == block


def test_other_timings_keep_their_setup(tmp_path: Path) -> None:
    row = table(tmp_path, "vllm 0.24.0,fp8", "CutlassFP8ScaledMMLinearKernel", "kernel")
    assert setup_name(row) == "kernel"
