"""Engines' defaults: each is a setting that exists, has a source, and gives way to an operator's own value."""

from __future__ import annotations

from dataclasses import fields

import pytest

from hw_configs.problems import InputError
from simulator.serving.presets import GIB, engine_settings, preset
from simulator.serving.settings import ENGINES, EngineSettings


@pytest.mark.parametrize("engine", ENGINES)
def test_every_default_is_a_setting_with_a_source(engine: str) -> None:
    base = preset(engine)
    assert set(base.defaults) <= {field.name for field in fields(EngineSettings)}
    assert all(default.source for default in base.defaults.values())
    assert base.version
    settings = engine_settings(base, {})
    assert settings.engine == engine
    assert all(getattr(settings, name) == default.value for name, default in base.defaults.items())


def test_defaults_follow_the_chip() -> None:
    assert preset("vllm", 80 * GIB, "a100-80gb").defaults["max_num_batched_tokens"].value == 2048
    assert preset("vllm", 80 * GIB, "h100-sxm").defaults["max_num_batched_tokens"].value == 8192
    assert preset("sglang", 24 * GIB).defaults["max_num_batched_tokens"].value == 2048
    assert preset("sglang", 192 * GIB).defaults["max_num_batched_tokens"].value == 16384


def test_texts_are_read_by_type() -> None:
    given = {
        "max_num_seqs": "64", "enable_prefix_caching": "no", "watermark": "0.05", "policy": "priority",
        "speculation.method": "eagle", "speculation.tokens": "3", "speculation.acceptance": "0.5", "swap": True,
    }  # fmt: skip
    settings = engine_settings(preset("vllm"), given)
    assert settings.max_num_seqs == 64
    assert not settings.enable_prefix_caching
    assert settings.watermark == 0.05
    assert settings.policy == "priority"
    assert settings.swap
    assert settings.speculation is not None
    assert (settings.speculation.tokens, settings.speculation.acceptance) == (3, 0.5)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_num_seq": "3"}, "did you mean 'max_num_seqs'"),
        ({"max_num_seqs": "3.5"}, "expected a whole number"),
        ({"max_num_seqs": "0"}, "expected 1 or more"),
        ({"max_num_seqs": 2.5}, "expected int"),
        ({"max_num_seqs": True}, "expected int"),
        ({"swap": "maybe"}, "expected true or false"),
        ({"policy": "lifo"}, "expected fcfs, priority"),
        ({"gpu_memory_utilization": "1.5"}, "expected a share above 0 up to 1"),
        ({"watermark": "2"}, "expected 0 to below 1"),
        ({"speculation.tokens": "2"}, "missing setting 'speculation.method'"),
        ({"speculation.method": "mtp", "speculation.tokens": "0"}, "expected 1 or more"),
        ({"speculation.method": "mtp", "speculation.tokens": "2", "speculation.acceptance": "2"}, "expected 0 to 1"),
        ({"engine": "sglang"}, "unknown setting 'engine'"),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_line_each(given: dict[str, object], told: str) -> None:
    with pytest.raises(InputError) as found:
        engine_settings(preset("vllm"), given)
    assert told in str(found.value)
    assert len(str(found.value).splitlines()) == 1


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'sglang'"):
        preset("sglan")
