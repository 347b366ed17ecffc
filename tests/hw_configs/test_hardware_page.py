"""docs/hardware.md: its examples load, and its tables of keys are those of the schema."""

import importlib.util
import re
from pathlib import Path

import pytest

from hw_configs import (
    access_energy,
    cache,
    csd,
    device,
    flash,
    gpu_architecture,
    gpu_memory_path,
    link,
    many_threads,
    network,
    pim,
    processor,
    scratchpad,
    spatial,
    system,
    vector_unit,
    window_pipeline,
)
from hw_configs.config import Config
from hw_configs.library import check_file

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "hardware.md").read_text(encoding="utf-8")
EXAMPLES = [block for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.S) if "name:" in block]


def keys_script():
    spec = importlib.util.spec_from_file_location("hardware_keys", DOCS / "hardware_keys.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_schema():
    assert keys_script().page(TEXT) == TEXT


def test_every_model_of_the_schema_has_a_table():
    models = {
        model
        for module in (
            cache,
            csd,
            device,
            flash,
            gpu_architecture,
            gpu_memory_path,
            link,
            many_threads,
            network,
            pim,
            processor,
            system,
            scratchpad,
            spatial,
            access_energy,
            vector_unit,
            window_pipeline,
        )
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, Config) and model.__module__ == module.__name__
    }
    bases = {device.DeviceBase, link.LinkBase, pim.PimDetail}
    assert models - bases == set(keys_script().MODELS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: re.search("name: (.*)", text)[1])
def test_the_examples_load(example, tmp_path):
    (tmp_path / "example.yaml").write_text(example)
    assert check_file(tmp_path / "example.yaml")


def test_there_are_five_examples():
    assert len(EXAMPLES) == 5
