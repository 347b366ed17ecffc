"""Every mapper's settings: declared once, read from text, printed, and refused by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from hw_configs.problems import InputError
from hw_configs.settings import Settings, Share, read_settings, settings_of
from mapping.caching.cache_neurons import CacheNeuronsSettings
from mapping.mapper import (
    MAPPERS,
    MapperOptions,
    answers_offload,
    mapper_settings,
    offload_solver,
    plan_writer,
    settings_class,
    writes_plans,
)
from mapping.notes import typed_notes
from mapping.offload.block_plan import BlockSettings
from mapping.offload.offload_kv import OffloadKvSettings
from mapping.offload.stream_weights import StreamWeightsNotes, StreamWeightsSettings
from mapping.training.choose_setup import TrainingSettings
from simulator.plan_file import plan_from_json

ALL = [(name, info) for name in MAPPERS for info in settings_of(settings_class(MAPPERS.get(name))).values()]


@pytest.mark.parametrize("name", list(MAPPERS))
def test_a_mapper_answers_something_and_its_defaults_are_settings(name: str) -> None:
    mapper = MAPPERS.get(name)
    assert writes_plans(mapper) or answers_offload(mapper)
    assert mapper.DESCRIPTION
    cls = settings_class(mapper)
    assert mapper_settings(name, {}, "") == cls()
    assert cls().changed() == {}


@pytest.mark.parametrize(("name", "info"), ALL, ids=[f"{name}:{info.name}" for name, info in ALL])
def test_a_setting_says_what_it_is_and_reads_its_own_default(name: str, info: Any) -> None:
    assert info.meaning
    assert info.range
    shown = info.shown_default
    if info.default is not None or info.kind != "name":
        assert shown, "a default is a value, or a word for its absence"
    cls = settings_class(MAPPERS.get(name))
    if info.kind != "name":
        assert read_settings(cls, {info.name: shown}) == cls()
    assert info.fault(info.default) is None
    for value in info.choices:
        assert read_settings(cls, {info.name: value}).changed() == (
            {} if value == info.default else {info.name: value}
        )


@pytest.mark.parametrize(("name", "info"), ALL, ids=[f"{name}:{info.name}" for name, info in ALL])
def test_a_value_out_of_range_is_refused_from_text_and_from_python(name: str, info: Any) -> None:
    cls = settings_class(MAPPERS.get(name))
    wrong: list[object] = [object(), b"x"]
    if info.kind in ("count", "number", "seconds", "share"):
        wrong += [info.least - 1, info.most + 1, True, "much"]
    if info.kind == "count":
        wrong += [1.5, "²", "-1", "9" * 5000]
    if info.above:
        wrong.append(info.least)
    if info.choices:
        wrong.append("no such word")
    if info.kind == "flag":
        wrong += ["perhaps", 1]
    if info.kind == "size":
        wrong += [-1, 0.5, "8 GB/s", "8"]
    for value in wrong:
        with pytest.raises(InputError, match=f"--set {info.name}: found|--set {info.name}: .*"):
            read_settings(cls, {info.name: value})
        if not isinstance(value, str):
            with pytest.raises(InputError, match=f"--set {info.name}"):
                cls(**{info.name.replace("-", "_"): value})


def test_the_bounds_themselves_are_values() -> None:
    assert read_settings(StreamWeightsSettings, {"ahead": "1000"}).ahead == 1000
    assert read_settings(StreamWeightsSettings, {"ahead": 1}).ahead == 1
    assert TrainingSettings(alpha=0).alpha == 0
    assert BlockSettings(fill=1.5).fill == 1.5


def test_text_has_units_and_percentages() -> None:
    assert read_settings(StreamWeightsSettings, {"limit": "1.5 GiB"}).limit == 3 << 29
    assert read_settings(OffloadKvSettings, {"kept": "12.5%", "chunk": "0"}).kept == 0.125
    budgets = [read_settings(CacheNeuronsSettings, {"budget": b}).budget for b in ("25%", "2 MiB")]
    assert budgets == [Share(0.25), 2 << 20]
    assert read_settings(CacheNeuronsSettings, {"window": "auto", "bundle": "no"}).bundle is False


def test_a_name_may_have_hyphens_or_underscores() -> None:
    assert read_settings(TrainingSettings, {"micro_batch": 2}) == read_settings(
        TrainingSettings, {"micro-batch": "2"}
    )
    with pytest.raises(InputError, match="given twice"):
        read_settings(TrainingSettings, {"micro_batch": 2, "micro-batch": 2})


def test_all_problems_are_said_at_once_with_the_nearest_names() -> None:
    with pytest.raises(InputError) as caught:
        mapper_settings("offload-kv", {"ahed": "1", "kv": "hots", "kept": "2", "room": "x"}, "plan")
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for part in (
        "did you mean 'ahead'",
        "did you mean 'host'",
        "--set kept: found '2'",
        "--set room: found 'x'",
    ):
        assert part in text
    assert "mapper 'offload-kv' has no setting 'ahed'" in text


def test_a_setting_of_another_answer_is_refused() -> None:
    assert mapper_settings("block-schedule", {"form": "serial"}, "offload") == BlockSettings(form="serial")
    with pytest.raises(InputError, match="--set form: only 'offchip solve offload' takes it"):
        mapper_settings("block-schedule", {"form": "serial"}, "plan")
    with pytest.raises(InputError, match="--set ahead: only a plan for a graph takes it"):
        mapper_settings("block-schedule", {"ahead": 3}, "offload")


def test_settings_are_frozen_and_of_the_mapper() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        StreamWeightsSettings().ahead = 3  # type: ignore[misc]
    with pytest.raises(InputError, match="found OffloadKvSettings; expected StreamWeightsSettings"):
        mapper_settings("stream-weights", OffloadKvSettings(), "plan")
    assert MapperOptions().of(StreamWeightsSettings) == StreamWeightsSettings()


def test_one_registry_says_who_answers_what() -> None:
    with pytest.raises(InputError, match="mapper 'memo' writes no plan for a given graph"):
        plan_writer("memo")
    with pytest.raises(InputError, match="mapper 'single-device' only writes plans"):
        offload_solver("single-device")
    with pytest.raises(InputError, match="did you mean 'offload-kv'"):
        plan_writer("offload-kw")
    assert plan_writer("offload-kv") is offload_solver("offload-kv")


def test_a_mapper_of_another_package_needs_no_settings() -> None:
    class Elsewhere:
        DESCRIPTION = "from an entry point"

        def plan(self, graph: Any, system: Any, options: MapperOptions) -> Any: ...

    assert settings_class(Elsewhere())() == settings_class(MAPPERS.get("tensor-pipeline"))()


def test_notes_of_a_file_are_read_as_the_class_of_their_mapper() -> None:
    import offchip

    plan = offchip.solve("gpt2", "workstation", "stream-weights", prompt=16, settings={"limit": "200 MiB"})
    assert isinstance(plan.notes, StreamWeightsNotes)
    again = plan_from_json(plan.to_json(), "plan.json")
    assert typed_notes(again, StreamWeightsNotes) == plan.notes
    assert again.to_json() == plan.to_json()
    data = plan.to_json()
    data["notes"] = {"streamed_bytes": "many", "ahead": 2}
    with pytest.raises(InputError, match=r"notes\.streamed_bytes") as caught:
        typed_notes(plan_from_json(data, "plan.json"), StreamWeightsNotes)
    assert "notes.streamed_from" in str(caught.value)


@pytest.mark.parametrize("name", list(MAPPERS))
def test_show_prints_each_setting(cli: Callable[..., Any], name: str) -> None:
    shown = cli("mappers", "show", name)
    assert shown.code == 0
    found = json.loads(cli("mappers", "show", name, "--json").out)
    infos = settings_of(settings_class(MAPPERS.get(name)))
    assert [entry["name"] for entry in found["settings"]] == list(infos)
    for info in infos.values():
        assert info.name in shown.out
        assert info.meaning.split()[0] in shown.out


def test_the_list_is_the_default_of_the_group(cli: Callable[..., Any]) -> None:
    assert cli("mappers").out == cli("mappers", "list").out
    assert set(json.loads(cli("mappers", "--json").out)["mappers"]) == set(MAPPERS)
    assert cli("mappers", "show", "stream-weight").code == 2


def test_a_class_of_settings_reads_back_what_it_changed() -> None:
    chosen: Settings = OffloadKvSettings(kv="host", kept=0.5, chunk=4096)
    assert chosen.changed() == {"kv": "host", "kept": 0.5, "chunk": 4096}
    assert read_settings(OffloadKvSettings, chosen.changed()) == chosen
