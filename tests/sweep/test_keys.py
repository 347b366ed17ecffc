"""A key is complete: whatever decides an outcome moves it, and nobody had to list it."""

from __future__ import annotations

import math
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from pydantic import BaseModel

from hw_configs import library
from hw_configs.digest import digest
from hw_configs.files import catalog, load_link
from hw_configs.system import System
from offchip import api
from offchip.run_options import RunOptions
from offchip.sweep import keys
from offchip.sweep.machine import Machines
from offchip.sweep.points import points_of
from offchip.sweep.space import option_leaves
from tests.sweep.spaces import REPOSITORY, run_serially, space_of
from workloads.workload import WorkloadOptions

NOT_HASHED = {"System.provenance"}
"""The only field of a machine that no result depends on: where its figures were read."""
JOINS = ("/System.network", "/System.cluster")
"""How more of a machine would be joined, and of what it was; either stands in the wires."""

SPACE = """
model: model.json
hw: machine.yaml
fidelity: [analytic, event]
options: {batch: 2, prompt: 8, generate: 1}
vary: {prompt: [8, 16], gpu.use: [a100-80gb, card.yaml], gpu.memory.bandwidth: [1 TB/s, 2 TB/s]}
objectives: {cost: minimise}
define: {cost: makespan_s * 2}
seed: 3
"""
MACHINE = """
kind: system
name: machine
devices:
  gpu: {use: a100-80gb}
  cpu: {use: epyc-7742, memory: host}
  host: {use: host-ddr4-3200-8ch-128gb}
links:
  - {use: pcie4-x16, between: [gpu, cpu]}
  - {use: ddr4-3200-8ch-path, between: [cpu, host]}
"""


def changed(value: object) -> Iterator[tuple[str, object]]:
    """Every copy of a value in which one thing is another, with the path of that thing."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            for path, other in changed(getattr(value, name)):
                yield f"/{type(value).__name__}.{name}{path}", value.model_copy(update={name: other})
    elif is_dataclass(value):
        for field in fields(value):
            for path, other in changed(getattr(value, field.name)):
                yield f"/{type(value).__name__}.{field.name}{path}", replace(value, **{field.name: other})
    elif isinstance(value, Mapping):
        yield ".added", {**value, "added": 1}
        if len(value) > 1:
            yield ".order", dict(reversed(value.items()))
        for key, entry in value.items():
            yield ".dropped", {k: v for k, v in value.items() if k != key}
            for path, other in changed(entry):
                yield f"[]{path}", {**value, key: other}
    elif isinstance(value, list | tuple):
        yield ".added", type(value)([*value, 1])
        for index, entry in enumerate(value):
            for path, other in changed(entry):
                yield f"[]{path}", type(value)([*value[:index], other, *value[index + 1 :]])
    elif isinstance(value, bool):
        yield "", not value
    elif isinstance(value, int):
        yield "", value + 1
    elif isinstance(value, float):
        yield "", math.nextafter(value, math.inf)
    elif isinstance(value, str):
        yield "", f"{value}'"
    else:
        assert value is None, f"teach this test to change a {type(value)}"
        yield "", 1


def machines() -> Iterator[System]:
    """Every machine, device and link of the library, as a machine."""
    for entry in catalog().values():
        if entry.kind == "link":
            pair = library.load_system("workstation")
            wire = next(iter(pair.wires.values()))
            yield replace(pair, nodes={}, wires={wire.name: replace(wire, link=load_link(entry.name))})
        elif "architecture" not in entry.kind:  # it is read into the GPUs that name it
            system = library.load_system(entry.name)
            if system.cluster is None:  # a cluster's digest is over what it was joined of, machine by machine
                yield system


def test_any_field_of_any_machine_moves_its_digest():
    seen, models = set[str](), set[str]()
    for system in machines():
        for path, other in changed(system):
            place = path.rpartition("/")[2]
            if path.startswith(JOINS):
                assert digest(other) == system.digest
                continue
            if place in seen:
                continue
            seen.add(place)
            models.add(place.split(".")[0])
            moves = digest(other) != system.digest
            assert moves == (not any(place.startswith(still) for still in (*NOT_HASHED, "Provenance."))), (
                place
            )
    assert {"System", "Node", "Wire", "Gpu", "Cpu", "Pim", "Flash", "Accelerator", "Pcie", "NvLink"} <= models
    assert "System.price_rate" in seen
    assert len(seen) > 300


def test_a_value_without_bytes_has_no_digest():
    with pytest.raises(TypeError, match="a object has no digest"):
        digest({"x": object()})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        ("1", 1),
        (None, "None"),
        ([1], [[1]]),
        ({"a": 1}, [["a", 1]]),
        (0.0, -0.0),
        ([], None),
    ],
)
def test_values_of_different_kinds_differ(one, other):
    assert digest(one) != digest(other)


@pytest.fixture
def space(tmp_path):
    write_parts(tmp_path)
    return space_of(tmp_path, SPACE)


def write_parts(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "machine.yaml").write_text(MACHINE)
    shutil.copy(REPOSITORY / "workloads/models/gpt2.json", folder / "model.json")
    card = next((REPOSITORY / "hw_configs").rglob("a100-80gb.yaml")).read_text()
    (folder / "card.yaml").write_text(card.replace("name: a100-80gb", "name: card"))


def key_of(space, number=0, stage=0, code="code"):
    values = dict(points_of(space))[number]
    return keys.point_key(space, Machines(space.beside), values, stage, code)


def test_points_stages_codes_and_seeds_have_keys_of_their_own(space):
    known = {key_of(space, number, stage) for number in range(8) for stage in (0, 1)}
    assert len(known) == 16
    assert key_of(space, code="other") not in known
    assert key_of(replace(space, seed=4)) not in known


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("machine.yaml", "name: machine", "name: machine\nprice_rate: 3 USD/h"),
        ("machine.yaml", "pcie4-x16", "pcie5-x16"),
        ("model.json", '"n_layer": 12', '"n_layer": 13'),
        ("space.yaml", "batch: 2", "batch: 3"),
        ("space.yaml", "makespan_s * 2", "makespan_s * 3"),
        ("space.yaml", "cost: minimise", "cost: maximise"),
        ("space.yaml", "seed: 3", "seed: 3\nconstraints: [cost > 0]"),
        ("space.yaml", "[8, 16]", "[9, 16]"),
    ],
)
def test_what_a_point_depends_on_moves_its_key(space, file, before, after):
    key, path = key_of(space), Path(space.file).parent / file
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    assert key_of(space_of(path.parent, Path(space.file).read_text())) != key


def test_the_content_of_an_exchanged_part_moves_the_keys_of_its_points_alone(space):
    before = [key_of(space, number) for number in range(8)]
    path = Path(space.file).parent / "card.yaml"
    path.write_text(path.read_text().replace("name: card", "name: card\nprice_rate: 9 USD/h"))
    after = [key_of(space, number) for number in range(8)]
    with_card = [values["gpu.use"] == "card.yaml" for _, values in points_of(space)]
    assert [one != other for one, other in zip(before, after, strict=True)] == with_card
    assert any(with_card)


def test_a_parameter_that_only_a_constraint_reads_moves_the_key(tmp_path):
    vary = "vary: {limit: {free: number, values: [1, 2]}}"
    rest = "options: {batch: 1}\nconstraints: [batch < limit]"
    space = space_of(tmp_path, f"model: gpt2\nhw: a100-80gb\n{vary}\n{rest}\n")
    assert key_of(space, 0) != key_of(space, 1)


def test_a_space_in_another_folder_has_the_same_keys(space, tmp_path):
    write_parts(tmp_path / "elsewhere")
    assert key_of(space_of(tmp_path / "elsewhere", SPACE)) == key_of(space)


def other_than(value: object) -> object:
    return {bool: lambda: not value, int: lambda: value + 1, type(None): lambda: "x"}.get(
        type(value), lambda: f"{value}x"
    )()


OPTIONS = {
    f.name: getattr(stated, f.name)
    for stated in (WorkloadOptions(), RunOptions())
    for f in fields(stated)
    if f.name in option_leaves()
} | {"dims": {"n": 1}, "settings": {"device": "gpu"}}
"""Every option a space may set, at its default."""


@pytest.mark.parametrize("name", [*keys.workload_options(), "dims"])
def test_any_option_of_a_workload_moves_its_key_and_its_plans(name):
    other = OPTIONS | {name: {"n": 2} if name == "dims" else other_than(OPTIONS[name])}
    assert keys.workload_key("gpt2", other, "code") != keys.workload_key("gpt2", OPTIONS, "code")


def test_the_options_of_a_workload_are_all_there_are():
    described = {f.name for f in fields(WorkloadOptions)}
    assert described == {*keys.workload_options(), "dims", "adapters", "types", "trained"}
    assert set(keys.workload_options()) <= set(option_leaves())


def test_name_content_and_code_move_the_key_of_a_workload(space):
    folder = Path(space.file).parent
    shutil.copy(folder / "model.json", folder / "same.json")
    found = {
        keys.workload_key(str(folder / "model.json"), OPTIONS, "code"),
        keys.workload_key(str(folder / "same.json"), OPTIONS, "code"),
        keys.workload_key(str(folder / "model.json"), OPTIONS, "other"),
        keys.workload_key("gpt2", OPTIONS, "code"),
    }
    (folder / "model.json").write_text(
        (folder / "model.json").read_text().replace('"n_layer": 12', '"n_layer": 13')
    )
    found.add(keys.workload_key(str(folder / "model.json"), OPTIONS, "code"))
    assert len(found) == 5


RUN_OPTIONS = [name for name in OPTIONS if name not in (*keys.workload_options(), "dims")]


@pytest.mark.parametrize("name", RUN_OPTIONS)
def test_any_option_of_a_run_moves_the_key_of_its_plans(name):
    graph, system = graph_of("prefill"), library.load_system("a100-80gb")
    other = OPTIONS | {name: {"device": "cpu"} if name == "settings" else other_than(OPTIONS[name])}
    assert keys.plan_key("w", other, graph, system) != keys.plan_key("w", OPTIONS, graph, system)


def test_workload_graph_and_machine_move_the_key_of_a_plan():
    system = library.load_system("a100-80gb")
    priced = System(system.name, system.nodes, system.wires, system.description, 1.0)
    found = {
        keys.plan_key("w", OPTIONS, graph_of("prefill"), system),
        keys.plan_key("other", OPTIONS, graph_of("prefill"), system),
        keys.plan_key("w", OPTIONS, graph_of("decode"), system),
        keys.plan_key("w", OPTIONS, graph_of("prefill"), priced),
    }
    assert len(found) == 4
    assert {"mapper", "tp", "pp", "microbatches", "settings", "cost_model", "collective"} <= set(RUN_OPTIONS)


def graph_of(phase):
    return api.load_model("gpt2", phase=phase, prompt=8).phases[0].graph


@pytest.mark.parametrize("name", keys.LIBRARIES)
def test_another_version_of_a_library_is_other_code(monkeypatch, name):
    before = keys.code_digest.__wrapped__()
    versions = keys.libraries()
    monkeypatch.setattr(keys, "libraries", lambda: versions | {name: "0.0.0"})
    assert keys.code_digest.__wrapped__() != before


def test_every_library_that_computes_is_in_the_key():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}
    assert needed - {"typer", "rich"} <= set(keys.LIBRARIES)
    assert all(version for name, version in keys.libraries().items() if name in needed)


class Package:
    def __init__(self, name, version):
        self.name, self.version, self.metadata = name, version, {"Name": name}


def entry(name="mine", value="mine:MAPPER", group="offchip.mappers", package="mine", version="1"):
    return EntryPoint(name, value, group)._for(Package(package, version))


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"name": "yours"},
        {"value": "mine:OTHER"},
        {"group": "offchip.studies"},
        {"package": "p"},
        {"version": "2"},
    ],
)
def test_a_plug_in_is_code_by_name_place_and_version(monkeypatch, other):
    def with_entries(*points):
        def chosen(**wanted):
            return EntryPoints(points).select(**wanted)

        monkeypatch.setattr(keys, "entry_points", chosen)
        return keys.code_digest.__wrapped__()

    without, with_mine = with_entries(), with_entries(entry())
    assert with_entries(entry(**other)) not in ({without} if not other else {without, with_mine})
    assert with_entries(entry(group="console_scripts")) == without


def test_every_file_of_the_program_is_in_its_digest(monkeypatch, tmp_path):
    (tmp_path / "offchip/sweep").mkdir(parents=True)
    for part in ("hw_configs", "workloads", "simulator", "mapping"):
        (tmp_path / part).mkdir()
    (tmp_path / "offchip/api.py").touch()
    monkeypatch.setattr(keys, "__file__", str(tmp_path / "offchip/sweep/keys.py"))
    found = {keys.code_digest.__wrapped__()}
    for count, name in enumerate(
        ("hw_configs/a.yaml", "mapping/b.py", "simulator/table.csv", "offchip/api.py"), 2
    ):
        (tmp_path / name).write_text("x = 1\n")
        found.add(keys.code_digest.__wrapped__())
        assert len(found) == count, name
    (tmp_path / "mapping/__pycache__").mkdir()
    (tmp_path / "mapping/__pycache__/b.pyc").touch()
    assert keys.code_digest.__wrapped__() in found


def test_resume_prices_anew(tmp_path):
    write_parts(tmp_path)
    text = SPACE.replace("makespan_s * 2", "price_rate_usd_per_s").replace("[analytic, event]", "analytic")
    (tmp_path / "machine.yaml").write_text(
        MACHINE.replace("name: machine", "name: machine\nprice_rate: 1 USD/h")
    )
    run_serially(space_of(tmp_path, text), tmp_path / "out")
    (tmp_path / "machine.yaml").write_text(
        MACHINE.replace("name: machine", "name: machine\nprice_rate: 2 USD/h")
    )
    space = space_of(tmp_path, text)
    anew = []
    run_serially(space, tmp_path / "out", resume=True, notice=lambda *args: anew.extend(args[3]))
    assert len(anew) == 8
    assert {row.figures["cost"] for row in anew} == {2 / 3600}
    run_serially(space, tmp_path / "out", resume=True, notice=lambda *args: anew.extend(args[3]))
    assert len(anew) == 8
