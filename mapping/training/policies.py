"""The mappers that choose how to train, and how they tell what they chose.

They differ in what they may use: ``choose-training`` everything; ``memo`` what MEMO does (token-wise swapping, planned
addresses); ``megatron`` and ``deepspeed`` what those frameworks do, with PyTorch's caching allocator: the baselines
of MEMO's evaluation (arXiv:2407.12117).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from hw_configs.problems import InfeasibleError
from hw_configs.units import format_quantity
from mapping.offload.policy import OffloadAnswer, OffloadRequest, Table
from mapping.training.choose_setup import Choice, Family, TrainingSettings, choose
from mapping.training.estimate import Estimator
from mapping.training.framework_report import estimator_table, framework_report
from mapping.training.plan import executable, training_plan
from mapping.training.pricing import Prices
from mapping.training.search_layouts import Searched, can_search, search_layouts, told
from mapping.training.setup import TrainingEstimate
from mapping.training.state_policies import ZERO_INFINITY, StateSettings
from mapping.training.training_plan import plan_of

__all__ = ["DEEPSPEED", "EVERYTHING", "MEGATRON", "MEMO"]

MOST_PRICED: Final = 16
"""Devices up to which a step of one sequence is decided by pricing every layout."""

_KEPT_OFF_THE_DEVICES: Final = {"devices", "micro-batch"}
"""Settings that mean the same with model states off the devices."""


class _Chooser:
    PHASES = ("train",)
    SETTINGS = TrainingSettings

    def __init__(self, name: str, description: str, family: Family, tiers: bool = False) -> None:
        self.name, self.DESCRIPTION, self.family, self.tiers = name, description, family, tiers

    def solve(self, request: OffloadRequest) -> OffloadAnswer:
        """The fastest setup of the family that fits, its plan where the simulator can run it, and why."""
        estimator = Estimator(Prices(request.system, request.cost_model))
        if self._searches(request, estimator):
            try:
                return _searched(self.name, search_layouts(request, self.family, estimator), estimator)
            except InfeasibleError as error:
                # Swapping and states off the devices are what is left; the search has neither.
                if not self.tiers or request.of(TrainingSettings).search == "executed":
                    raise
                if len(estimator.prices.devices) > MOST_PRICED:
                    return self._off_the_devices(request, error)
        try:
            choice = choose(request, self.family, estimator)
        except InfeasibleError as error:
            if not self.tiers or set(request.of(TrainingSettings).changed()) - _KEPT_OFF_THE_DEVICES:
                raise
            return self._off_the_devices(request, error)
        why = list(_reasons(choice))
        if choice.unseen_floor_s is not None:
            why.append(
                f"The time limit ended the search after {choice.priced} setups; "
                + (
                    f"none of the others is faster than {choice.unseen_floor_s:.4g} s."
                    if choice.unseen_floor_s > 0
                    else "of the others nothing is known."
                )
            )
        graph = plan = None
        report: dict[str, Any] = {"policy": self.name, **choice.best.to_json(), "priced": choice.priced}
        training = plan_of(choice.step, estimator)
        if not executable(choice.step.setup):
            # With every tensor at its planned address, where one kind of group is all there is.
            plan, graph = (
                replace(training_plan(choice.step, estimator.prices), mapper=self.name),
                choice.step.graph,
            )
        if choice.unseen_floor_s is not None:
            report["unseen_floor_s"] = choice.unseen_floor_s
        report["alternatives"] = {way: item.to_json() for way, item in choice.by_way.items()}
        told = framework_report(choice.step, estimator.prices)
        if told:
            report["framework_estimate"] = told
        tables = (*_tables(choice), *estimator_table(told, _states(choice.best)))
        return OffloadAnswer(self.name, report, tuple(why), tables, graph, plan, training)

    def _searches(self, request: OffloadRequest, estimator: Estimator) -> bool:
        """Whether all degrees are searched and the best layouts run."""
        settings = request.of(TrainingSettings)
        if settings.search == "estimated":
            return False
        devices = settings.devices or len(estimator.prices.devices)
        wide = settings.search == "executed" or request.batch > 1 or devices > MOST_PRICED
        return wide and can_search(request, self.family, settings)

    def _off_the_devices(self, request: OffloadRequest, error: InfeasibleError) -> OffloadAnswer:
        """Model states on host and drives, where nothing fits with them on the devices."""
        asked = request.of(TrainingSettings)
        settings = StateSettings(devices=asked.devices, micro_batch=asked.micro_batch or 1)
        found = ZERO_INFINITY.solve(replace(request, settings=settings))
        before = f"With model states on the devices nothing fits: {str(error).partition(chr(10))[0]}."
        report = {**found.report, "policy": self.name}
        return replace(found, policy=self.name, report=report, why=(before, *found.why))


EVERYTHING: Final = _Chooser(
    "choose-training", "the fastest way to train that fits, of all there are", Family(), tiers=True
)
MEMO: Final = _Chooser(
    "memo", "token-wise swapping and recomputation with planned addresses",
    Family(("tp", "cp", "pp", "dp"), (0, 1), ("swap",), "planned"),
)  # fmt: skip
MEGATRON: Final = _Chooser(
    "megatron", "tensor, context, pipeline and data parallelism, recomputation, caching allocator",
    Family(("tp", "cp", "pp", "dp"), (0, 1), ("none", "pointwise", "full"), "caching"),
)  # fmt: skip
DEEPSPEED: Final = _Chooser(
    "deepspeed", "Ulysses and data parallelism under ZeRO-3, recomputation, caching allocator",
    Family(("ulysses", "dp"), (3,), ("none", "full"), "caching"),
)  # fmt: skip


def _searched(name: str, found: Searched, estimator: Estimator) -> OffloadAnswer:
    """The answer of a search whose best layouts were run."""
    best = found.best
    report: dict[str, Any] = {"policy": name, **found.estimate.to_json(), "search": told(found)}
    report["executed"] = {"step_s": best.step_s, "mfu": best.mfu, "peak_bytes": best.peak_bytes}
    report["fits"], report["obstacle"] = True, ""
    report["runners_up"] = [
        {"setup": words, "step_s": run.step_s, "peak_bytes": run.peak_bytes} for run, words in found.runs[1:]
    ]
    below = 100 * (1 - found.floor_s / best.step_s)
    proven = (
        "none of the others is faster"
        if found.floor_s >= best.step_s
        else f"none of the others that fits is faster than {found.floor_s:.4g} s ({below:.1f} % less)"
    )
    why = [
        f"{best.setup.words()} takes {best.step_s:.4g} s per step, executed: the least of {found.executed} executed, "
        f"of {found.layouts} layouts.",
        f"{found.bounded} were bounded away, {found.priced} priced, of which {found.unfit} do not fit; {proven}.",
    ]
    if not found.complete:
        why.append("The time limit ended the search; the bound counts what was not looked at.")
    rows = tuple(
        (words, f"{run.step_s:.4g} s", f"{100 * run.mfu:.2f} %", format_quantity(run.peak_bytes, "size"))
        for run, words in found.runs
    )
    tables = (
        Table("Executed, fastest first", ("setup", "step", "MFU", "fullest device"), rows),
        *best.tables(),
    )
    own = framework_report(estimator.rank_step(best.setup), estimator.prices)
    if own:
        report["framework_estimate"] = own
        tables = (*tables, *estimator_table(own, _states(found.estimate)))
    return OffloadAnswer(name, report, tuple(why), tables, None, None, found.plan)


def _states(estimate: TrainingEstimate) -> int:
    memory = estimate.memory
    return memory.weights + memory.gradients + memory.optimizer_state + memory.buffers


_WAY: Final = {
    "none": "keep everything", "selective": "recompute the attention core",
    "pointwise": "recompute norms and activations", "every-other": "recompute every second product",
    "full": "recompute layers", "reversible": "work layers' inputs out of their results",
    "swap": "swap tokens, recompute the rest",
}  # fmt: skip


def _reasons(choice: Choice) -> Iterator[str]:
    best = choice.best
    yield f"{best.setup.words()} takes {best.time.step_s:.4g} s per step, the least of {choice.priced} priced."
    for way, other in choice.by_way.items():
        if other.setup == best.setup:
            continue
        if not other.fits:
            yield f"To {_WAY[way]} does not fit: {other.obstacle}."
        else:
            slower = other.time.step_s / best.time.step_s - 1
            yield f"To {_WAY[way]} takes {other.time.step_s:.4g} s, {100 * slower:.1f} % more ({other.setup.words()})."
    share = choice.step.share
    if share is not None and best.setup.swap_tokens is not None:
        bound = {
            "none": "nothing bounds it",
            "link": "the link to host memory bounds it: more would not leave while a layer computes",
            "host": "host memory bounds it: it holds no more",
            "device": "device memory bounds it: the rounding buffers grow with it",
        }[share.bound_by]
        allowed = min(1.0, max(0.0, share.unbounded))
        if best.setup.swap_tokens > allowed * (1 + 1e-9):
            limit = {"host": "host memory", "device": "device memory"}.get(
                share.bound_by, "the link to host memory"
            )
            bound = f"{limit} allows {allowed:.3f} without waiting or overflow"
        elif share.bound_by != "device" and best.setup.swap_tokens < allowed * (1 - 1e-9):
            bound = f"{allowed:.3f} would be hidden and held too"
        yield f"{best.setup.swap_tokens:.3f} of the tokens' activations are swapped; {bound}."
        if not share.hidden:
            yield "Layer inputs and attention outputs alone take longer to leave than a layer computes."
    yield from best.notes


def _tables(choice: Choice) -> Iterator[Table]:
    best = choice.best
    memory = [
        (name.removesuffix("_bytes").replace("_", " "), format_quantity(value, "size"))
        for name, value in best.memory.to_json().items()
        if value
    ]
    yield Table("Device memory", ("role", "size"), tuple(memory))
    seconds = [
        (
            name.removesuffix("_s").replace("_", " "),
            f"{value:.4g} s",
            f"{100 * value / best.time.step_s:.1f} %",
        )
        for name, value in best.time.to_json().items()
        if value
    ]
    yield Table("Step time", ("part", "time", "share"), tuple(seconds))
    setup = best.setup
    if setup.framework != "plain" or setup.types is not None:
        yield Table(
            f"Element types, as {setup.state_types.name} has them",
            ("what", "type"),
            setup.state_types.lines(setup.dtype),
        )
    if setup.trainable != "all":
        yield Table("Trained", ("",), tuple((line,) for line in setup.trained.words()))
    rows = []
    for way, item in choice.by_way.items():
        rows.append(
            (
                _WAY[way], item.setup.words(), f"{item.time.step_s:.4g} s", f"{100 * item.mfu:.2f} %",
                format_quantity(item.memory.device_bytes, "size"), item.obstacle or "yes",
            )
        )  # fmt: skip
    yield Table(
        "Ways to make activations fit", ("way", "setup", "step", "MFU", "device memory", "fits"), tuple(rows)
    )
