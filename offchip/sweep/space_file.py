"""A space file: YAML, every name in which is checked before anything runs.

Paths into machines, options of ``simulate``, names in expressions, units of values: all problems come at once, each
with its line and the nearest valid name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter

from hw_configs.config import Config, Time, parse
from hw_configs.problems import InputError, Problem, nearest
from hw_configs.whole_number import decimal
from hw_configs.yaml_file import Document, read_yaml, read_yaml_text
from offchip.sweep.axis import Axis, AxisSpec, free_leaf, make_axis
from offchip.sweep.expression import Expression, ExpressionError, parse_expression
from offchip.sweep.figures import figure_names
from offchip.sweep.keys import beside
from offchip.sweep.loop_nests import mapping_figure_names, mapping_leaves
from offchip.sweep.machine import Leaf, Machines, Value
from offchip.sweep.services import check_service_option, service_figures, service_leaves
from offchip.sweep.space import Objective, Space, Stage, Strategy, option_leaves
from simulator.simulate import FIDELITIES

__all__ = ["load_space", "space_from_text"]

STRATEGIES: Final = ("grid", "lhs", "sobol", "random", "optuna")
_OF_A_MEMBER: Final = re.compile(r"time\.\w+_s|energy\.\w+_j|memory\.\w+\.peak_bytes|link\.\w+\.bytes")
"""Figures as ``figures.py`` names those of one memory, link, device or bound."""


class SpaceFile(Config):
    """The keys of a space file."""

    name: str = ""
    description: str = ""
    model: str | None = None
    hw: str | None = None
    requests: str | None = None
    """Requests to serve at every point: a description or a trace. Without it points are runs."""
    mapping: Literal["energy", "latency", "edp"] | None = None
    """What loop nests are best in, found at every point for the layers of the model. Without it points are runs."""
    options: dict[str, Any] = Field(default_factory=dict)
    vary: Annotated[dict[str, Any], Field(min_length=1)]
    derived: dict[str, Any] = Field(default_factory=dict)
    define: dict[str, Any] = Field(default_factory=dict)
    constraints: list[Any] = Field(default_factory=list)
    objectives: dict[str, Literal["minimise", "minimize", "maximise", "maximize"]] = Field(
        default_factory=dict
    )
    strategy: str | dict[str, Any] = "grid"
    fidelity: str | list[Any] = "analytic"
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    time_limit: Time = 60.0


def load_space(path: str | Path) -> Space:
    """The space of a file; ``InputError`` with every problem in it."""
    document = read_yaml(path)
    return _Checker(document, Path(path).read_text(encoding="utf-8-sig")).space()


def space_from_text(text: str, file: str) -> Space:
    """The space of a text that was read from a file before."""
    return _Checker(read_yaml_text(text, file), text).space()


class _Checker:
    """Reads a document into a space, collecting problems on the way."""

    def __init__(self, document: Document, text: str) -> None:
        self.document, self.text = document, text
        self.problems: list[Problem] = []
        self.broken: set[str] = set()
        """Keys of the file that say something no space may say; the others are checked all the same."""
        self.machines = Machines(Path(document.file).resolve().parent)

    def space(self) -> Space:
        file = self._file()
        self.serves = file.requests is not None
        self.maps = file.mapping is not None
        if self.serves and self.maps:
            self._problem("stands beside requests; points are mappings or services", ("mapping",))
        self.options = service_leaves() if self.serves else mapping_leaves() if self.maps else option_leaves()
        raw = self.document.data
        self.specs = self._specs(file)
        self.hardware = self._hardware(file)
        base = self._base(file, raw)
        axes = self._axes(raw)
        if "model" not in {axis.leaf.path for axis in axes} | set(base) | self.broken:
            self._problem("missing key 'model': a built-in name or a file", ("model",))
        if not self.hardware and "hw" not in self.broken:
            self._problem("missing key 'hw': a system or device, by name or file", ("hw",))
        parameters = {*base, *(axis.name for axis in axes)}
        derived = self._derived(file, parameters)
        known = {*parameters, *(path for path, _, _ in derived)}
        figures, define = self._define(file, known)
        every = {*known, *figures}
        before, after = list[Expression](), list[Expression]()
        for index, text in enumerate(file.constraints):
            expression = self._expression(text, every, ("constraints", index))
            if expression is not None:
                (before if expression.names <= known else after).append(expression)
        objectives = [
            Objective(text, expression, 1 if direction.startswith("min") else -1)
            for text, direction in file.objectives.items()
            if (expression := self._expression(text, every, ("objectives", text))) is not None
        ]
        strategy, stages = self._strategy(file, axes, objectives), self._stages(file)
        if self.problems:
            raise InputError(sorted(self.problems, key=lambda problem: problem.line or 0))
        return Space(
            file.name or Path(self.document.file).stem, self.document.file, self.text, base, tuple(axes),
            tuple(derived), tuple(define), tuple(before), tuple(after), tuple(objectives), strategy, tuple(stages),
            file.seed, file.time_limit, raw,
        )  # fmt: skip

    def _file(self) -> SpaceFile:
        try:
            return parse(SpaceFile, self.document)
        except InputError as error:
            self.problems += error.problems
            self.broken = {str(problem.path).split(".")[0] for problem in error.problems}
            data = self.document.data
            if not isinstance(data, dict) or "vary" in self.broken:
                raise
            self.document = replace(
                self.document, data={key: value for key, value in data.items() if key not in self.broken}
            )
            return parse(SpaceFile, self.document)

    def _problem(self, message: str, path: tuple[str | int, ...], near: str | None = None) -> None:
        document = self.document
        dotted = ".".join(str(part) for part in path)
        self.problems.append(Problem(message, document.file, document.line_of(path), dotted, near))

    def _adopt(self, error: InputError, path: tuple[str | int, ...]) -> None:
        """Problems found elsewhere, said on this line unless they have a place of their own."""
        for problem in error.problems:
            if problem.file is not None:
                self.problems.append(problem)
            else:
                self._problem(problem.message, path, problem.suggestion)

    def _specs(self, file: SpaceFile) -> dict[str, AxisSpec]:
        specs = {}
        for name, entry in file.vary.items():
            if isinstance(entry, list):
                specs[name] = AxisSpec(values=entry)
            elif isinstance(entry, dict):
                try:
                    specs[name] = parse(AxisSpec, self.document, ("vary", name))
                except InputError as error:
                    self.problems += error.problems
            else:
                self._problem(
                    f"found {entry!r}; expected a list of values, or range, log or sample", ("vary", name)
                )
        return specs

    def _hardware(self, file: SpaceFile) -> list[str]:
        """Every machine the space names; each is loaded once to be sure of it."""
        named = [("hw", file.hw)] if file.hw is not None else []
        for name, spec in self.specs.items():
            if (spec.path or name) == "hw" and spec.free is None:
                named += [(f"vary.{name}", value) for value in spec.values or ()]
        found = []
        for where, value in named:
            path = tuple(where.split(".", 1))
            try:
                self.machines.base(str(value))
                found.append(str(value))
            except InputError as error:
                self._adopt(error, path)
        return found

    def _base(self, file: SpaceFile, raw: Mapping[str, Any]) -> dict[str, Value]:
        base: dict[str, Value] = {}
        if file.model is not None:
            base["model"] = file.model
            self._check_name("model", file.model, ("model",))
        if file.hw is not None:
            base["hw"] = file.hw
        if file.requests is not None:
            base["requests"] = file.requests
            self._check_name("requests", file.requests, ("requests",))
        if file.mapping is not None:
            base["mapping"] = file.mapping
        for name, value in (raw.get("options") or {}).items():
            where = ("options", name)
            leaf = self._leaf(name, where)
            if leaf is not None:
                try:
                    base[name] = leaf.read(value)
                    self._check_name(name, base[name], where)
                except ValueError as error:
                    self._problem(str(error), where)
        return base

    def _leaf(self, path: str, where: tuple[str | int, ...]) -> Leaf | None:
        """What a path leads to: an option, or a figure of every machine of the space."""
        options = self.options
        if path in ("model", "hw"):
            return Leaf(path, None, TypeAdapter(str))
        if path in options:
            return options[path]
        if path.startswith("settings."):
            return Leaf(path, None, TypeAdapter(str | int | float))
        if path.startswith("dims."):
            return Leaf(path, None, TypeAdapter(Annotated[int, Field(strict=True, ge=1)]), whole=True)
        if "." not in path:
            known = [*options, "model", "hw"]
            self._problem(
                f"unknown option {path!r}; known: {', '.join(known)}, or a path such as gpu.memory.bandwidth",
                where, nearest(path, known),
            )  # fmt: skip
            return None
        leaf = None
        for hw, changes in self._variants(path):
            try:
                leaf = self.machines.variant_leaf(hw, changes, path)
            except InputError as error:
                self._adopt(error, where)
                return None
        return leaf

    def _variants(self, path: str) -> Iterator[tuple[str, dict[str, Value]]]:
        """The machines in which a path must lead somewhere: each one, and each with its exchanged parts."""
        uses = [
            (str(spec.path or name), value)
            for name, spec in self.specs.items()
            if str(spec.path or name).endswith(".use") and (spec.path or name) != path
            for value in spec.values or ()
        ]
        for hw in self.hardware:
            yield hw, {}
            for part, value in uses:
                yield hw, {part: value}

    def _check_name(self, name: str, value: Value, where: tuple[str | int, ...]) -> None:
        """Names that a registry knows are looked up now, not when the first point runs."""
        from mapping.mapper import plan_writer
        from simulator.cost.collective import CHOICES
        from simulator.cost.model import COST_MODELS
        from simulator.serving.host_time import host_time
        from workloads.dtypes import dtype_bits

        try:
            if self.serves:
                check_service_option(name, value)
            if name == "requests":
                from workloads.requests.sources import load_requests

                load_requests(beside(str(value), self.machines.beside))
            elif name == "mapper":
                plan_writer(str(value))
            elif name == "engine" and not self.serves:
                host_time(str(value))
            elif name == "cost_model":
                COST_MODELS.get(str(value))
            elif name in ("dtype", "kv_dtype"):
                dtype_bits(str(value))
            elif name in ("phase", "collective"):
                known = ("prefill", "decode", "train") if name == "phase" else CHOICES
                if value not in known:
                    shown = f"found {value!r}; known: {', '.join(known)}"
                    self._problem(shown, where, nearest(str(value), known))
            elif name == "model":
                from offchip import api
                from offchip.solving.mapping_input import holds_layers

                path = beside(str(value), self.machines.beside)
                if not (self.maps and holds_layers(path)):
                    api.load_model(path)
        except InputError as error:
            self._adopt(error, where)

    def _free(self, name: str, spec: AxisSpec, where: tuple[str | int, ...]) -> Leaf | None:
        if spec.path is not None:
            self._problem("has 'path' and 'free'; one of them holds", where)
        if not name.isidentifier() or name in self.options or name in ("model", "hw"):
            self._problem("a free parameter's name is a word of its own: letters, digits and '_'", where)
        try:
            return free_leaf(spec.free or "")
        except ValueError as error:
            self._problem(str(error), (*where, "free"))
            return None

    def _check_part(self, path: str, value: Value, where: tuple[str | int, ...]) -> None:
        for hw in self.hardware:
            try:
                self.machines.system(hw, {path: value})
            except InputError as error:
                self.problems += [
                    p if p.file is None else Problem(p.message, self.document.file, self.document.line_of(where),
                                                     ".".join(map(str, where)), p.suggestion)
                    for p in error.problems
                ]  # fmt: skip

    def _axes(self, raw: Mapping[str, Any]) -> list[Axis]:
        axes: list[Axis] = []
        taken: dict[str, str] = {}
        for name, spec in self.specs.items():
            where, entry = ("vary", name), raw["vary"][name]
            path = spec.path or name
            leaf = self._free(name, spec, where) if spec.free is not None else self._leaf(path, where)
            if leaf is None:
                continue
            if leaf.path and path in taken:
                self._problem(f"sets {path!r}, as {taken[path]!r} does", where)
            taken[path] = name
            try:
                axis = make_axis(name, {"values": entry} if isinstance(entry, list) else entry, leaf)
            except ValueError as error:
                self._problem(str(error), where)
                continue
            for value in axis.choices if leaf.path else ():
                self._check_name(path, value, where)
                if path.endswith(".use"):
                    self._check_part(path, value, where)
            earlier = {other.name for other in axes}
            if spec.when is not None:
                known = {*earlier, *self.options, "model", "hw"}
                when = self._expression(spec.when, known, (*where, "when"))
                axis = Axis(**{**{f: getattr(axis, f) for f in Axis.__dataclass_fields__}, "when": when})
            axes.append(axis)
        return axes

    def _derived(self, file: SpaceFile, names: set[str]) -> list[tuple[str, Expression, Leaf]]:
        known, derived = set(names) | set(self.options), []
        for path, text in file.derived.items():
            leaf = self._leaf(path, ("derived", path))
            expression = self._expression(text, known, ("derived", path))
            if path in names and path in file.vary:
                self._problem("is varied and derived; one of them holds", ("derived", path))
            if leaf is not None and expression is not None:
                derived.append((path, expression, leaf))
                known.add(path)
        return derived

    def _define(self, file: SpaceFile, known: set[str]) -> tuple[set[str], list[tuple[str, Expression]]]:
        figures: dict[str, None] = dict.fromkeys(service_figures()) if self.serves else {}
        for hw in self.hardware if self.maps else ():
            try:
                figures.update(dict.fromkeys(mapping_figure_names(self.machines.base(hw))))
            except InputError as error:
                self._adopt(error, ("hw",))
        for hw in self.hardware if not (self.serves or self.maps) else ():
            for _, changes in self._variants(""):
                try:
                    figures.update(dict.fromkeys(figure_names(self.machines.system(hw, changes))))
                except InputError:
                    continue
            figures.update(dict.fromkeys(figure_names(self.machines.base(hw))))
        define = []
        for name, text in file.define.items():
            where = ("define", name)
            if name in figures or name in known:
                self._problem("is a figure or parameter already; choose another name", where)
            expression = self._expression(text, {*known, *figures}, where)
            if expression is not None:
                define.append((name, expression))
            figures[name] = None
        return set(figures), define

    def _expression(self, text: Any, known: Iterable[str], where: tuple[str | int, ...]) -> Expression | None:
        try:
            expression = parse_expression(text)
        except ExpressionError as error:
            self._problem(str(error), where)
            return None
        valid = set(known)
        for name in sorted(expression.names - valid):
            # Machines with counts that vary have members that only some points have.
            if _OF_A_MEMBER.fullmatch(name):
                continue
            self._problem(f"unknown name {name!r}", where, nearest(name, valid))
            return None
        return expression

    def _strategy(self, file: SpaceFile, axes: list[Axis], objectives: list[Objective]) -> Strategy:
        spec, where = file.strategy, ("strategy",)
        if isinstance(spec, str):
            if spec not in STRATEGIES:
                self._problem(
                    f"unknown strategy {spec!r}; known: {', '.join(STRATEGIES)}",
                    where,
                    nearest(spec, STRATEGIES),
                )
                return Strategy(kind="grid")
            strategy = Strategy.model_validate({"kind": spec})
        else:
            try:
                strategy = parse(Strategy, self.document, where)
            except InputError as error:
                self.problems += error.problems
                return Strategy(kind="grid")
        if strategy.kind == "grid":
            if strategy.points is not None:
                self._problem("a grid has the points its values make; 'points' is for samples", where)
            for axis in axes:
                if not axis.grid and not (axis.form not in ("range", "log", "choice") and axis.count):
                    self._problem(f"a grid needs 'count' or 'step' for {axis.form!r}", ("vary", axis.name))
        elif strategy.points is None:
            self._problem(f"{strategy.kind} needs 'points', the number of points to draw", where)
        if strategy.kind == "optuna" and not objectives:
            self._problem("a search needs objectives", where)
        return strategy

    def _stages(self, file: SpaceFile) -> list[Stage]:
        entries = file.fidelity if isinstance(file.fidelity, list) else [file.fidelity]
        stages: list[Stage] = []
        if not entries:
            self._problem(f"the list is empty; expected {', '.join(FIDELITIES)}", ("fidelity",))
        for index, entry in enumerate(entries):
            where: tuple[str | int, ...] = (
                ("fidelity", index) if isinstance(file.fidelity, list) else ("fidelity",)
            )
            if isinstance(entry, str):
                if entry not in FIDELITIES:
                    message = f"found {entry!r}; known: {', '.join(FIDELITIES)}"
                    self._problem(message, where, nearest(entry, FIDELITIES))
                else:
                    stages.append(Stage(fidelity=entry))
                continue
            if not isinstance(entry, dict):
                self._problem(f"found {entry!r}; expected a fidelity", where)
                continue
            try:
                share = _share(self.document.data["fidelity"][index].get("promote", 1.0))
                stages.append(Stage(fidelity=entry.get("fidelity"), promote=share))
                unknown = [key for key in entry if key not in ("fidelity", "promote")]
                if unknown:
                    self._problem(f"unknown key {unknown[0]!r}; known: fidelity, promote", where)
            except ValueError:
                message = f"found {entry!r}; expected fidelity (analytic, event, cycle) and promote (0 to 1, or '10%')"
                self._problem(message, where)
        if stages and stages[0].promote != 1:
            self._problem("the first fidelity has nothing to promote from", ("fidelity",))
        if len(stages) > 1 and not file.objectives:
            self._problem("promotion needs objectives, which say what is best", ("fidelity",))
        return stages


def _share(value: Any) -> float:
    if not isinstance(value, str):
        return float(value)
    number = decimal(value.removesuffix("%"))
    if number is None:
        raise ValueError(f"found {value!r}; expected a share")
    return number / 100 if value.endswith("%") else number
