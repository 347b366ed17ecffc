"""One point of a space, from its values to a row: the machine, the run, the figures, or the reason why not.

Nothing a point does ends a sweep: what does not fit, does not exist or goes wrong is a row with a status. Points on
one device at fidelity ``analytic`` go through the condensed evaluation (``simulator/system/condensed.py``);
all others are simulated.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hw_configs.problems import InfeasibleError, InputError, NoAnswerError
from hw_configs.system import System
from offchip.sweep.cache import DiskCache
from offchip.sweep.expression import ExpressionError
from offchip.sweep.figures import figures_of
from offchip.sweep.keys import beside, code_digest, plan_key, point_key, workload_key, workload_options
from offchip.sweep.limit import PointStopped, Stopwatch, overrun
from offchip.sweep.loop_nests import mapping_figures
from offchip.sweep.machine import Machines, Value, is_config
from offchip.sweep.plans import remembering
from offchip.sweep.services import ServicePoints
from offchip.sweep.store import Row

if TYPE_CHECKING:
    from offchip.sweep.space import Space
    from offchip.sweep.worker import Slot
    from simulator.result import Result
    from simulator.system.condensed import Condensed
    from workloads.workload import Workload, WorkloadOptions

__all__ = ["Evaluator"]

WORKLOADS_REMEMBERED: Final = 4
CONDENSED_REMEMBERED: Final = 1024
MAX_REASON: Final = 500


class Evaluator:
    """Evaluates points of one space, one after another; remembers machines, workloads and their condensed forms."""

    def __init__(
        self, space: Space, cache: DiskCache | None = None, code: str | None = None, slot: Slot | None = None
    ) -> None:
        self.space, self.slot = space, slot
        self.cache = cache or DiskCache(None)
        self.machines = Machines(space.beside)
        self.services = ServicePoints(space.beside)
        self.code = code or code_digest()
        self._workloads: OrderedDict[str, Workload] = OrderedDict()
        self._condensed_by_key: OrderedDict[str, Condensed | None] = OrderedDict()

    def row(self, number: int, values: Mapping[str, Value], stage: int = 0, *, alarm: bool = False) -> Row:
        """The row of a point; never raises for anything the point itself does.

        ``alarm``: stop the point, in the main thread, when its time is over. Without, it runs to its end (unless its
        process is ended) and is a row with status ``timeout`` all the same.
        """
        key = point_key(self.space, self.machines, values, stage, self.code)
        watch = Stopwatch(self.space.time_limit, alarm=alarm, slot=self.slot)
        outcome: tuple[str, str, dict[str, Any]] | None = None
        try:
            try:
                watch.start()
                outcome = self._outcome(values, stage)
            finally:
                watch.close()
        except PointStopped:
            watch.close()
        seconds = watch.seconds()
        if outcome is None or seconds > self.space.time_limit:
            # The second case: something took the stop for a failure of its own, and went on.
            outcome = ("timeout", overrun(self.space.time_limit), {})
        status, reason, figures = outcome
        reason = " ".join(reason.split())[:MAX_REASON]
        return Row(number, key, status, reason, dict(values), figures, seconds, 1, stage)

    def _outcome(self, values: Mapping[str, Value], stage: int) -> tuple[str, str, dict[str, Any]]:
        space, figures = self.space, dict[str, Any]()
        try:
            settings = space.settings(values)
            for constraint in space.before:
                if not constraint.value({**settings, **values}):
                    return "excluded", f"breaks {constraint.text}", {}
            changes = {path: value for path, value in settings.items() if is_config(path)}
            system = self.machines.system(str(settings["hw"]), changes)
            if "mapping" in settings:
                figures = mapping_figures(settings, system, space.beside)
            elif "requests" in settings:
                figures = self.services.figures(settings, system)
            else:
                result = self._run(settings, _options(settings), system, space.stages[stage].fidelity)
                figures = figures_of(result, system)
            status, reason = space.judged(Row(0, "", "ok"), figures, {**settings, **values})
        except InfeasibleError as error:
            return "infeasible", str(error), {}
        except (InputError, ExpressionError) as error:
            return "invalid", str(error), {}
        except NoAnswerError as error:
            return "failed", str(error), {}
        except Exception as error:
            # A defect anywhere in the program costs this point, not the sweep; its name stands in the row.
            return "failed", f"{type(error).__name__}: {error}", {}
        return status, reason, figures

    def _run(
        self, settings: Mapping[str, Value], options: Mapping[str, Any], system: System, fidelity: str
    ) -> Result:
        from offchip import api
        from offchip.run_options import RunOptions

        model = beside(str(settings["model"]), self.space.beside)
        if fidelity == "analytic":
            estimate = self._estimate(model, options, system)
            if estimate is not None:
                return estimate
        how = RunOptions(
            **{
                f.name: options[f.name]
                for f in fields(RunOptions)
                if f.name in options and f.name != "settings"
            },
            settings=options["settings"],
            fidelity=fidelity,
        )
        system = api.machine_of(system, how)
        key = workload_key(model, options, self.code)
        planner = remembering(self.cache, partial(plan_key, key, options))(api.planner_of(how, system))
        if how.microbatches > 1:
            workload = api.workload_of(model, _workload_options(options), how)
        else:
            workload = self._workload(model, options)
        return api.run_workload(workload, system, how, planner)

    def _estimate(self, model: str, options: Mapping[str, Any], system: System) -> Result | None:
        """The estimate of a point on one device; None for anything that has to be simulated."""
        from mapping.mapper import MapperOptions, default_mapper
        from mapping.placement.single_device import candidates
        from simulator.cost.collective import CHOICES
        from simulator.cost.model import COST_MODELS, DEFAULT_COST_MODEL
        from simulator.system.condensed import estimate

        several = (
            options.get("tp", 1) != 1 or options.get("pp", 1) != 1 or options.get("microbatches", 1) != 1
        )
        cost_model, collective = (
            options.get("cost_model", DEFAULT_COST_MODEL),
            options.get("collective", "auto"),
        )
        mapper = options.get("mapper") or default_mapper(system, MapperOptions())
        if options.get("engine", "none") != "none":
            return None
        if several or mapper != "single-device" or collective not in CHOICES:
            return None
        if cost_model not in COST_MODELS.builtin or set(options["settings"]) - {"device"}:
            return None
        condensed = self._condensed(model, options)
        if condensed is None:
            return None
        device = options["settings"].get("device")
        nodes = candidates(system) if device is None else [system.node(device)]
        # One plan per structure, written for its first phase, as the simulator has it.
        chosen: set[str | None] = set()
        for structure in {phase.structure: phase for phase in reversed(condensed.phases)}.values():
            fits = (
                n for n in nodes if structure.need_bytes <= system.memories[n.memory or n.name].usable_bytes
            )
            chosen.add(getattr(next(fits, None), "name", None))
        name = chosen.pop() if len(chosen) == 1 else None
        if name is None:
            return None
        return estimate(
            condensed, system, system.nodes[name], COST_MODELS.get(cost_model), collective=collective
        )

    def _condensed(self, model: str, options: Mapping[str, Any]) -> Condensed | None:
        from simulator.system.condensed import Condensed, condense

        key = workload_key(model, options, self.code)
        if key in self._condensed_by_key:
            self._condensed_by_key.move_to_end(key)
            return self._condensed_by_key[key]
        condensed: Condensed | None = None
        data = self.cache.get(key)
        if data is not None:
            condensed = Condensed.from_bytes(data)
        else:
            condensed = condense(self._workload(model, options))
            if condensed is not None:
                self.cache.put(key, condensed.to_bytes())
        self._condensed_by_key[key] = condensed
        if len(self._condensed_by_key) > CONDENSED_REMEMBERED:
            self._condensed_by_key.popitem(last=False)
        return condensed

    def _workload(self, model: str, options: Mapping[str, Any]) -> Workload:
        from workloads.importers import load_workload

        key = workload_key(model, options, self.code)
        if key not in self._workloads:
            self._workloads[key] = load_workload(model, _workload_options(options))
            if len(self._workloads) > WORKLOADS_REMEMBERED:
                self._workloads.popitem(last=False)
        return self._workloads[key]


def _workload_options(options: Mapping[str, Any]) -> WorkloadOptions:
    from workloads.workload import WorkloadOptions

    own = {name: options[name] for name in workload_options() if name in options}
    return WorkloadOptions(**{**own, "dims": options["dims"]})


def _options(settings: Mapping[str, Value]) -> dict[str, Any]:
    from offchip.sweep.space import option_leaves

    known = option_leaves()
    options: dict[str, Any] = {name: value for name, value in settings.items() if name in known}
    options["settings"] = {p[9:]: v for p, v in settings.items() if p.startswith("settings.")}
    options["dims"] = {p[5:]: v for p, v in settings.items() if p.startswith("dims.")}
    return options
