"""Sparse feed-forward layers in flash, with the neurons that recent tokens used in DRAM.

The mapper chooses the window of tokens and whether up and down projection lie bundled, for a budget of DRAM
(:mod:`mapping.caching.dram_budget`), and writes the plan of a step: attention, embeddings and the window's
neurons stay; once a layer's attention is done its predictor names the neurons, and those that are missing come
from flash in chunks, before the layer goes on. A prompt uses nearly every neuron, so prefill reads all that is
not resident, in one stream. (LLM in a flash, arXiv:2312.11514.)

What the plan leaves out: the predictors' own arithmetic, and the copies inside DRAM, whose bytes stand in the
notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.problems import InputError, bad_input, nearest
from hw_configs.system import Node, System
from hw_configs.units import UnitError, parse_quantity
from hw_configs.whole_number import whole_number
from mapping.caching.activation_statistics import ActivationStatistics, fitted_concentration
from mapping.caching.dram_budget import (
    MAX_WINDOW,
    SparseModel,
    WindowChoice,
    choose_window,
    is_feed_forward,
    sparse_model,
)
from mapping.mapper import MapperOptions
from mapping.placement.single_device import candidates, refuse_communication
from simulator.plan import Compute, Division, Home, Plan, Task, Transfer
from simulator.rewrite.divide import part_name
from workloads.graph import Graph, Operator, Role

__all__ = ["MAPPER", "CacheNeurons"]

PREDICTED_SHARE: Final = 0.099
"""OPT-6.7B: 3.3 % of the neurons are active, the predictor names three times as many (arXiv:2312.11514)."""
FITTED_WINDOW: Final = (4, 0.24)
"""OPT-6.7B: a window of 4 tokens holds 24 % of the feed-forward layers (arXiv:2312.11514, appendix)."""


class CacheNeurons:
    """The mapper ``cache-neurons``; see the module's first lines."""

    DESCRIPTION = "sparse feed-forward layers in flash, a window of used neurons in DRAM"
    SETTINGS: Mapping[str, str] = MappingProxyType(
        {
            "budget": "DRAM for weights: a size, or a share of the model such as 50% (50%)",
            "window": "tokens whose neurons stay, or auto: the longest reading-time gain in budget (auto)",
            "bundle": "yes, no or auto: up and down projection of a neuron side by side in flash (auto)",
            "predicted": "share of neurons that the predictor names per token (0.099, of OPT-6.7B)",
            "window-share": "share of neurons that a window of 4 tokens uses (0.24, of OPT-6.7B)",
            "predictor-rank": "rank of the predictors (128)",
            "device": "the device to use",
        }
    )

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """The plan of the choice that reads least in budget; ``InfeasibleError`` when no choice fits."""
        refuse_communication(graph)
        if any(op.attributes.get("pass") == "backward" for op in graph.operators):
            raise bad_input(f"{graph.name} has a backward pass; neurons in flash serve prefill and decode")
        settings = options.settings
        node = system.node(settings["device"]) if "device" in settings else candidates(system)[0]
        drive = _drive(system, node)
        device = system.nodes[drive].device
        assert isinstance(device, Flash | ComputationalStorage)
        model = sparse_model(graph, _whole(settings, "predictor-rank", 128, 0, 65536))
        statistics = _statistics(settings)
        window = (
            None if settings.get("window", "auto") == "auto" else _whole(settings, "window", 0, 0, MAX_WINDOW)
        )
        choice, _ = choose_window(
            model, statistics, device, _budget(settings, model), window=window, bundled=_bundle(settings)
        )
        writer = _Writer(graph, system, node, drive, model, statistics, choice)
        return writer.plan()


MAPPER: Final = CacheNeurons()


def _drive(system: System, node: Node) -> str:
    """The first drive that links join to the device's memory."""
    target = node.memory or node.name
    for candidate in system.of_kind("flash", "csd"):
        try:
            system.route(candidate.name, target)
        except InputError:
            continue
        return candidate.name
    raise bad_input(f"system {system.name!r} has no drive that {node.name!r} can read from")


def _whole(settings: Mapping[str, str], key: str, default: int, least: int, most: int) -> int:
    return whole_number(settings.get(key, str(default)), key, least, most)


def _share(settings: Mapping[str, str], key: str, default: float) -> float:
    text = settings.get(key, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise bad_input(f"found {text!r}; expected a share above 0, at most 1", path=key)
    return value


def _statistics(settings: Mapping[str, str]) -> ActivationStatistics:
    predicted = _share(settings, "predicted", PREDICTED_SHARE)
    held = _share(settings, "window-share", FITTED_WINDOW[1])
    try:
        return ActivationStatistics(predicted, fitted_concentration(predicted, FITTED_WINDOW[0], held))
    except InputError as error:
        raise bad_input(error.problems[0].message, path="window-share") from None


def _bundle(settings: Mapping[str, str]) -> bool | None:
    text = settings.get("bundle", "auto")
    known = {"yes": True, "no": False, "auto": None}
    if text not in known:
        raise bad_input(
            f"found {text!r}; known: yes, no, auto", path="bundle", suggestion=nearest(text, known)
        )
    return known[text]


def _budget(settings: Mapping[str, str], model: SparseModel) -> float:
    text = settings.get("budget", "50%").strip()
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if not 0 < share <= 10:
                raise ValueError
            return share * model.bytes
        return parse_quantity(text, "size")
    except UnitError as error:
        raise bad_input(str(error), path="budget") from None
    except ValueError:
        raise bad_input(
            f"found {text!r}; expected a size such as '4 GiB' or a share such as '50%'", path="budget"
        ) from None


@dataclass
class _Writer:
    graph: Graph
    system: System
    node: Node
    drive: str
    model: SparseModel
    statistics: ActivationStatistics
    choice: WindowChoice
    tasks: list[Task] = field(default_factory=list)
    homes: dict[str, tuple[Home, ...]] = field(default_factory=dict)
    divisions: dict[str, Division] = field(default_factory=dict)

    def plan(self) -> Plan:
        """The plan, operator by operator in program order."""
        memory = self.node.memory or self.node.name
        parts = self._parts()
        sparse = {
            name: op
            for op in self.graph.operators
            if is_feed_forward(op)
            for name in op.inputs
            if self._is_matrix(name)
        }
        for name in self.graph.tensors:
            if name not in self.graph.producer and name not in sparse:
                self.homes[name] = (Home(memory),)
        before = ""
        for op in self.graph.operators:
            own = [name for name in op.inputs if name in sparse]
            for name in own:
                self._load(name, op, parts, memory, before)
            self.tasks.append(
                Compute(op.name, f"{self.node.name}.compute", operator=op.name, device=self.node.name)
            )
            if not is_feed_forward(op) and op.kind in ("matmul", "attention"):
                before = op.name
        return Plan(
            self.graph.name, self.system.name, "cache-neurons", tuple(self.tasks), self.homes,
            notes=self._notes(), divisions=self.divisions,
        )  # fmt: skip

    def _is_matrix(self, name: str) -> bool:
        tensor = self.graph.tensors[name]
        return tensor.role is Role.WEIGHT and len(tensor.shape) == 2

    def _parts(self) -> list[tuple[int, bool, bool]]:
        """(neurons, read in this step, in DRAM) of each part of a layer, empty parts left out."""
        neurons, choice = self.model.neurons, self.choice
        loaded = max(1, round(choice.loaded_share * neurons))
        held = round(choice.window_share * neurons)
        used = max(0, round(self.statistics.predicted_share * neurons) - loaded) if held else 0
        used = min(used, held)
        rest = neurons - held - loaded
        # Prefill reads all of them; the cut is the same, so that nothing moves between the phases.
        all_of_them = self._prompt()
        parts = [
            (used, True, True),
            (held - used, all_of_them, True),
            (loaded, True, False),
            (rest, all_of_them, False),
        ]
        return [part for part in parts if part[0] > 0]

    def _prompt(self) -> bool:
        """Whether the graph takes in many tokens per sequence at once."""
        return any(
            op.attributes.get("q_len", 1) != 1 for op in self.graph.operators if op.kind == "attention"
        )

    def _load(
        self, name: str, op: Operator, parts: list[tuple[int, bool, bool]], memory: str, before: str
    ) -> None:
        axis = 1 if op.name.endswith("down") else 0
        self.divisions[name] = Division(axis, tuple(p[0] for p in parts), tuple(p[1] for p in parts))
        prompt = self._prompt()
        for index, (_, read, resident) in enumerate(parts):
            part = part_name(name, index)
            self.homes[part] = (Home(memory if resident else self.drive),)
            if read and not resident:
                # Missing neurons are known once the layer's attention is done; a prompt needs them all anyway.
                after = (before,) if before and not prompt else ()
                self.tasks.append(
                    Transfer(
                        f"load {part}", f"{self.drive}->{memory}", tensor=part, source=self.drive,
                        target=memory, after=after, chunk_bytes=0 if prompt else self.choice.chunk_bytes,
                    )
                )  # fmt: skip

    def _notes(self) -> dict[str, Any]:
        choice = self.choice
        return {
            "window_tokens": choice.window,
            "bundled": choice.bundled,
            "window_share": choice.window_share,
            "loaded_share": choice.loaded_share,
            "resident_bytes": round(choice.resident_bytes),
            "loaded_bytes_per_token": round(choice.loaded_bytes),
            "chunk_bytes": choice.chunk_bytes,
            "read_bandwidth_bytes_per_s": choice.read_bandwidth,
            "io_s_per_token": choice.io_s,
            "copied_in_dram_bytes_per_token": round(choice.moved_bytes),
            "predictor_bytes": self.model.predictor_bytes,
            "not_simulated": ["arithmetic of the predictors", "copies inside DRAM"],
        }
