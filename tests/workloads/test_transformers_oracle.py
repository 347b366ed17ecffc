"""Every family against an installed transformers: parameters and cache of its default config and of one-field changes.

Needs a Python with torch and transformers: named by OFFCHIP_TRANSFORMERS_PYTHON, or in a fresh environment that pip
can fill. Skipped with the reason where there is neither.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from math import prod
from pathlib import Path
from typing import Any

import pytest

from hw_configs.problems import InputError
from workloads.graph import Role
from workloads.transformer import read_decoder
from workloads.transformer.config import known_families
from workloads.transformer.families.defaults import declared, inner_types
from workloads.transformer.fields import Fields
from workloads.transformer.phases import step_graph
from workloads.transformer.step import Step

pytestmark = pytest.mark.slow

WANTED = ("torch", "transformers==5.24.0")
TOKENS = 40

OTHERWISE = {
    "longcat_flash": "transformers gives its idle experts weights that no checkpoint has",
    "phi4_multimodal": "its towers stand in the same class",
    "idefics": "its towers stand in the same class",
    "git": "its towers stand in the same class",
}
"""Families whose count there is not that of the language model's checkpoint."""

CACHE_OTHERWISE = {
    "deepseek_v4": "room for whole open pieces of compressed tokens, filled there as they come",
    "xlstm": "as many caches as num_hidden_layers says, for num_blocks blocks",
    "cpmant": "its own prompt stands before the tokens there",
}
"""Families whose cache there is not as large as the room they need."""


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> str:
    given = os.environ.get("OFFCHIP_TRANSFORMERS_PYTHON")
    if given:
        return given
    folder = tmp_path_factory.mktemp("transformers")
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    done = subprocess.run([python, "-m", "pip", "install", "-q", *WANTED], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{' and '.join(WANTED)} cannot be installed: {done.stderr.strip()[-200:]}")
    return python


def families() -> list[str]:
    return [
        name
        for name in known_families()
        if declared(name) and not inner_types(name) and name not in OTHERWISE
    ]


def ours(config: dict[str, Any]) -> tuple[int, int, int] | None:
    """Parameters, cached elements, those of one more column of every convolution's state; None: refused in words."""
    try:
        decoder, precision = read_decoder(Fields(config), None, None)
    except InputError:
        return None
    step = Step(1, 1, TOKENS, TOKENS, decode=True)
    graph = step_graph("model", decoder, precision, step, fused=True)
    kept = [tensor for tensor in graph.tensors.values() if tensor.role is Role.KV_CACHE]
    columns = sum(prod(tensor.shape[:-1]) for tensor in kept if tensor.name.endswith("conv_state"))
    return graph.parameters(), sum(prod(tensor.shape) for tensor in kept), columns


def same_cache(row: dict[str, Any], found: tuple[int, int, int]) -> bool:
    """Whether the cache is as large, where it can be compared.

    A window shorter than the tokens is kept there without the newest token, a convolution's state with the column that
    the next token no longer sees; an encoder's class keeps none.
    """
    if row["config"]["model_type"] in CACHE_OTHERWISE or "window" in str(row["name"]):
        return True
    return row["cached"] in (None, 0, found[1], found[1] + found[2])


def test_every_one_field_change_has_the_same_count_and_cache_or_is_refused(oracle: str) -> None:
    script = Path(__file__).with_name("transformers_oracle.py")
    done = subprocess.run(
        [oracle, str(script)], input="\n".join(families()), capture_output=True, text=True, check=True
    )
    wrong, agreed = [], 0
    for line in done.stdout.splitlines():
        row = json.loads(line)
        if row.get("count") is None:
            continue
        found = ours(row["config"])
        if found is None:
            continue
        same = found[0] == row["count"] and same_cache(row, found)
        agreed += same
        if not same:
            name = f"{row['config']['model_type']} {row['name']}={row['value']!r:.40}"
            wrong.append(f"{name}: found {found}, expected {row['count']}, {row['cached']}")
    print(f"{agreed} agree", file=sys.stderr)
    assert not wrong, "\n".join(wrong)
    assert agreed > 2000
