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

from dataclasses import dataclass, field
from typing import Final

from hw_configs.device import ComputationalStorage, Flash
from hw_configs.problems import InputError, bad_input
from hw_configs.settings import Settings, Share, count, flag, name_of, share, size_or_share
from hw_configs.system import Node, System
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
from mapping.offload.mapper_policy import answer_by_plan
from mapping.offload.policy import OffloadAnswer, OffloadRequest
from mapping.placement.single_device import candidates, refuse_communication
from simulator.plan import Compute, Division, Home, Plan, PlanNotes, Task, Transfer
from simulator.rewrite.divide import part_name
from workloads.graph import Graph, Operator, Role
from workloads.operators import Attention

__all__ = ["MAPPER", "CacheNeurons"]

PREDICTED_SHARE: Final = 0.099
"""OPT-6.7B: 3.3 % of the neurons are active, the predictor names three times as many (arXiv:2312.11514)."""
FITTED_WINDOW: Final = (4, 0.24)
"""OPT-6.7B: a window of 4 tokens holds 24 % of the feed-forward layers (arXiv:2312.11514, appendix)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheNeuronsSettings(Settings):
    """Settings of ``cache-neurons``."""

    budget: int | Share = size_or_share(Share(0.5), "DRAM for weights: a size, or a share of the model")
    window: int | None = count(
        None, "tokens whose neurons stay; auto: the longest reading-time gain in budget", most=MAX_WINDOW,
        unit="tokens", absent="auto",
    )  # fmt: skip
    bundle: bool | None = flag(
        None, "up and down projection of a neuron side by side in flash", absent="auto"
    )
    predicted: float = share(
        PREDICTED_SHARE, "neurons that the predictor names per token (default: OPT-6.7B)"
    )
    window_share: float = share(
        FITTED_WINDOW[1], f"neurons that a window of {FITTED_WINDOW[0]} tokens uses (default: OPT-6.7B)"
    )
    predictor_rank: int = count(128, "rank of the predictors", most=65536)
    device: str | None = name_of("the device to use", absent="the first that computes")

    def statistics(self) -> ActivationStatistics:
        """How neurons fire, fitted to the shares."""
        try:
            concentration = fitted_concentration(self.predicted, FITTED_WINDOW[0], self.window_share)
        except InputError as error:
            raise bad_input(error.problems[0].message, path="--set window-share") from None
        return ActivationStatistics(self.predicted, concentration)

    def budget_bytes(self, model: SparseModel) -> float:
        """Bytes of DRAM for the weights of a model."""
        return self.budget.value * model.bytes if isinstance(self.budget, Share) else float(self.budget)


@dataclass(frozen=True)
class CacheNeuronsNotes(PlanNotes):
    """The window chosen, what it keeps and what it leaves to read per token."""

    window_tokens: int
    bundled: bool
    window_share: float
    loaded_share: float
    resident_bytes: int
    loaded_bytes_per_token: int
    chunk_bytes: int
    read_bandwidth_bytes_per_s: float
    io_s_per_token: float
    copied_in_dram_bytes_per_token: int
    predictor_bytes: int
    not_simulated: tuple[str, ...] = ("arithmetic of the predictors", "copies inside DRAM")


class CacheNeurons:
    """The mapper ``cache-neurons``; see the module's first lines."""

    DESCRIPTION = "sparse feed-forward layers in flash, a window of used neurons in DRAM"
    SETTINGS = CacheNeuronsSettings
    PHASES: tuple[str, ...] = ("decode", "prefill")

    def plan(self, graph: Graph, system: System, options: MapperOptions) -> Plan:
        """The plan of the choice that reads least in budget; ``InfeasibleError`` when no choice fits."""
        refuse_communication(graph)
        if any(op.place.training_pass == "backward" for op in graph.operators):
            raise bad_input(f"{graph.name} has a backward pass; neurons in flash serve prefill and decode")
        chosen = options.of(CacheNeuronsSettings)
        node = candidates(system)[0] if chosen.device is None else system.node(chosen.device)
        drive = _drive(system, node)
        device = system.nodes[drive].device
        assert isinstance(device, Flash | ComputationalStorage)
        model, statistics = sparse_model(graph, chosen.predictor_rank), chosen.statistics()
        choice, _ = choose_window(
            model, statistics, device, chosen.budget_bytes(model), window=chosen.window, bundled=chosen.bundle
        )
        return _Writer(graph, system, node, drive, model, statistics, choice).plan()

    def solve(self, request: OffloadRequest) -> OffloadAnswer:
        """The plan of one step, with what the window leaves to read."""
        why = (
            "a window of {window_tokens} tokens is what the budget holds; it leaves {loaded_bytes_per_token} to read "
            "per token"
        )
        return answer_by_plan("cache-neurons", self, request, why)


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
        return any(op.work.q_len != 1 for op in self.graph.operators if isinstance(op.work, Attention))

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

    def _notes(self) -> CacheNeuronsNotes:
        choice = self.choice
        return CacheNeuronsNotes(
            choice.window, choice.bundled, choice.window_share, choice.loaded_share, round(choice.resident_bytes),
            round(choice.loaded_bytes), choice.chunk_bytes, choice.read_bandwidth, choice.io_s,
            round(choice.moved_bytes), self.model.predictor_bytes,
        )  # fmt: skip
