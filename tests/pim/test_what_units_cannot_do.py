"""What PIM units cannot do is refused or said, never priced as if it were something else."""

from __future__ import annotations

import pytest

from hw_configs.problems import InputError
from offchip.api import simulate

SHORT = {"phase": "decode", "prompt": 16}


@pytest.mark.parametrize(
    "asked", [{"dtype": "int4"}, {"dtype": "int8"}, {"dtype": "nf4"}, {"kv_dtype": "int8"}]
)
def test_elements_of_another_width(asked):
    with pytest.raises(
        InputError, match=r"--dtype: .* stored as .*; the units of 'pim-gpt-gddr6' multiply bf16"
    ):
        simulate("gpt2", "pim-gpt", **SHORT, **asked)


def test_elements_of_another_width_in_a_plan_written_for_others(tmp_path):
    simulate("gpt2", "pim-gpt", **SHORT, save_plan=tmp_path / "plan.json")
    with pytest.raises(InputError, match="stored as int4"):
        simulate("gpt2", "pim-gpt", **SHORT, dtype="int4", plan=tmp_path / "plan.json")


def test_a_cache_of_another_width_beside_a_gpu():
    with pytest.raises(InputError, match="stored as int8; the units of 'attacc-hbm3' multiply fp16"):
        simulate("qwen3-0.6b", "gpu-pim", **SHORT, kv_dtype="int8", mapper="pim-attention")


@pytest.mark.parametrize("device", ["gddr6-aim", "hbm-pim", "attacc-hbm3", "pim-gpt-gddr6"])
def test_a_memory_without_a_host_chip(device):
    with pytest.raises(InputError, match="need a host chip"):
        simulate("gpt2", device, **SHORT)
    result = simulate("gpt2", device, **SHORT, mapper="single-device")
    assert any("roofline over its pins" in line for line in result.warnings)


def test_a_laid_out_model_needs_no_such_note():
    assert not any("pins" in line for line in simulate("gpt2", "pim-gpt", **SHORT).warnings)
