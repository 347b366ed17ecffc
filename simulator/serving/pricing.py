"""Steps priced for a model on a machine under a layout: the :class:`~simulator.serving.step.StepPricer` of serving.

``make_pricer`` builds the tables once (:mod:`simulator.serving.price_tables`); ``price`` then takes microseconds. To
the
device's time come the engine's host time (:mod:`simulator.serving.engine_constants`), draft tokens, adapters, and
copies
of cache over the host's wire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from hw_configs.problems import InputError, bad_input
from hw_configs.system import MemorySpace, Node, System
from hw_configs.units import format_quantity
from simulator.gpu.constants import shipped_constants
from simulator.gpu.model import GPU
from simulator.serving.device_share import check_layout
from simulator.serving.engine_constants import EngineConstants, constants_of
from simulator.serving.exchange_time import Exchanges, gpus_of
from simulator.serving.layer_classes import layer_classes
from simulator.serving.price_tables import PriceTables, build_tables
from simulator.serving.settings import EngineSettings, Layout
from simulator.serving.step import ScheduledStep, StepCost
from simulator.serving.step_kernel import PRICE_COLUMNS, price_step
from workloads.requests.table import ATTENTION_TARGETS
from workloads.transformer.adapted import adapter_figures
from workloads.transformer.adapters import LoraAdapter
from workloads.transformer.formats import Precision
from workloads.transformer.shape import Attention, Decoder, Layer

__all__ = ["Adapters", "CopyRates", "Pricer", "ServedModel", "host_bandwidth", "make_pricer"]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A decoder and the element types it is served in."""

    name: str
    decoder: Decoder
    precision: Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """Low-rank adapters on the linear layers of every block: their rank, and the elements of one.

    Served as by SGMV kernels (Punica, arXiv:2310.18547): per step each touched adapter's bytes are read once on
    every device that shares the products, and each layer launches two small kernels for ``products`` products.
    """

    rank: int = 16
    elements: int = 0
    products: int = 4

    @property
    def size_bytes(self) -> float:
        """Bytes of one adapter, in 16 bits an element."""
        return 2.0 * self.elements

    @classmethod
    def on(cls, model: ServedModel, rank: int = 16, targets: Sequence[str] = ATTENTION_TARGETS) -> Adapters:
        """Adapters of a rank on the products that ``targets`` names (:data:`ADAPTER_TARGETS`), in all layers.

        ``InputError`` where a model has none of a target, or has experts there.
        """
        elements, missing = 0, set(targets)
        for layer in model.decoder.layers:
            sizes = _target_sizes(layer, model.decoder.hidden)
            elements += sum(rank * sum(sizes[target]) for target in targets if target in sizes)
            missing -= set(sizes)
        if missing:
            raise bad_input(
                f"{model.name} has no {', '.join(sorted(missing))} of attention with grouped queries or of a plain "
                "feed-forward part to put adapters on", path="adapters.targets",
            )  # fmt: skip
        return cls(rank=rank, elements=elements, products=len(targets))

    @classmethod
    def of(cls, model: ServedModel, adapter: LoraAdapter) -> Adapters:
        """Adapters like one that a file describes (``adapter_config.json``), wherever on the model it stands."""
        found = adapter_figures(model.decoder, model.precision, adapter)
        return cls(rank=adapter.rank, elements=found.parameters, products=found.products_per_layer)


def _target_sizes(layer: Layer, hidden: int) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the products of a layer that adapters may stand beside."""
    sizes: dict[str, tuple[int, int]] = {}
    mixer, mlp = layer.mixer, layer.mlp
    if isinstance(mixer, Attention):
        keys, values = mixer.kv_heads * mixer.head_dim, mixer.kv_heads * mixer.v_head_dim
        sizes |= {"q_proj": (hidden, mixer.heads * mixer.head_dim), "k_proj": (hidden, keys)}
        sizes |= {"v_proj": (hidden, values), "o_proj": (mixer.heads * mixer.v_head_dim, hidden)}
    if mlp is not None:
        sizes |= {"up_proj": (hidden, mlp.intermediate), "down_proj": (mlp.intermediate, hidden)}
        if mlp.gated:
            sizes["gate_proj"] = (hidden, mlp.intermediate)
    return sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRates:
    """Bytes per second by which caches come and go: the device's wire to the host, and drives behind it."""

    host: float
    """Each way."""
    drive_read: float = 0.0
    drive_write: float = 0.0
    drive_source: str = ""

    def describe(self) -> dict[str, str]:
        """The rates in words."""
        rate = partial(format_quantity, dimension="bandwidth")
        told = {"host copies": f"{rate(self.host)} each way, the narrowest of wires and memory"}
        if self.drive_source:
            told["drive copies"] = (
                f"{rate(self.drive_read)} read, {rate(self.drive_write)} written ({self.drive_source})"
            )
        return told

    def seconds(self, step: ScheduledStep) -> float:
        """Seconds of a step's copies: all pass the host's wire, those of drives the drives too; the slowest decides."""
        if not (step.copied_in_bytes or step.copied_out_bytes or step.drive_in_bytes or step.drive_out_bytes):
            return 0.0
        times = [
            (step.copied_in_bytes + step.drive_in_bytes) / self.host,
            (step.copied_out_bytes + step.drive_out_bytes) / self.host,
        ]
        if step.drive_in_bytes or step.drive_out_bytes:
            times += [step.drive_in_bytes / self.drive_read, step.drive_out_bytes / self.drive_write]
        return max(times)


class Pricer:
    """The price of steps of one replica; see the module's first lines."""

    def __init__(
        self,
        tables: PriceTables,
        engine: EngineConstants,
        settings: EngineSettings,
        *,
        draft: PriceTables | None = None,
        adapter_s: tuple[float, float, float] = (0.0, 0.0, 0.0),
        copies: CopyRates | None = None,
    ) -> None:
        self.tables, self.engine, self.settings = tables, engine, settings
        self.group_tables = _of_one_group(tables)
        """For steps of one group of data-parallel attention, where each has a scheduler of its own."""
        self._group_draft = _of_one_group(draft) if draft is not None else None
        self._draft, self._adapter, self.copies = draft, adapter_s, copies or CopyRates(host=float("inf"))
        self._out = np.zeros(len(PRICE_COLUMNS))

    def with_engine(self, engine: EngineConstants) -> Pricer:
        """The same tables with another engine's constants."""
        return Pricer(
            self.tables, engine, self.settings, draft=self._draft, adapter_s=self._adapter,
            copies=self.copies,
        )  # fmt: skip

    def price_groups(self, steps: Sequence[ScheduledStep]) -> StepCost:
        """The cost of one step of groups of data-parallel attention, each with its own requests.

        All groups take as long as the longest: engines pad the others to its tokens, so that one graph runs on all.
        """
        costs = [
            self._price(step, self.group_tables, self._group_draft) for step in steps if len(step.request)
        ]
        longest = max(costs, key=lambda cost: cost.seconds)
        # Of each cost the joules are those of all devices.
        return longest._replace(joules=sum(cost.joules for cost in costs) / len(steps))

    def price(self, step: ScheduledStep) -> StepCost:
        """The cost of a step that schedules at least one request; its requests lie evenly on the layout's groups."""
        return self._price(step, self.tables, self._draft)

    def _price(self, step: ScheduledStep, tables: PriceTables, draft: PriceTables | None) -> StepCost:
        if not len(step.request):
            raise bad_input("a step without requests has no price")
        out = self._out
        sampled = float(np.count_nonzero(step.samples))
        price_step(tables, step.tokens, step.context, step.drafts, sampled, out)
        device, exchange, joules, kernels, requests, chunk = out.tolist()
        if step.drafts.any():
            # A verified token needs its logits too: the price above has those of one token a request.
            device += self._verification(tables, step, sampled)
        device += self._draft_seconds(draft, step)
        device += self._adapter_seconds(step)
        device += self.copies.seconds(step)
        host = self.host_seconds(requests, chunk, kernels)
        factor = self.engine.prefill_factor if chunk else self.engine.kernel_factor
        device *= factor
        beside = self.engine.overlap * min(device, host) if self.settings.async_scheduling else 0.0
        return StepCost(device + host - beside, device, host, exchange * factor, joules)

    def host_seconds(self, requests: float, chunk_tokens: float, kernels: float = 0.0) -> float:
        """Host seconds of a step; ``kernels`` are launched one by one where there are no CUDA graphs."""
        e = self.engine
        launched = 0.0 if self.settings.cuda_graphs else e.eager_launch_us * kernels
        return 1e-6 * (e.step_us + e.sequence_us * requests + e.chunk_token_us * chunk_tokens + launched)

    def _verification(self, tables: PriceTables, step: ScheduledStep, sampled: float) -> float:
        from simulator.serving.step_kernel import interpolate

        few, many = np.zeros(4), np.zeros(4)
        interpolate(tables.points, tables.tables[4], sampled, few)
        interpolate(tables.points, tables.tables[4], sampled + float(step.drafts.sum()), many)
        return float(many[0] - few[0])

    def _draft_seconds(self, draft: PriceTables | None, step: ScheduledStep) -> float:
        """The draft's steps: one for each of the most draft tokens of a request, over all that draft."""
        speculation = self.settings.speculation
        if draft is None or speculation is None:
            return 0.0
        drafting = step.samples
        count = int(np.count_nonzero(drafting))
        if not count:
            return 0.0
        out = np.zeros(len(PRICE_COLUMNS))
        ones = np.ones(count, np.int64)
        after = (step.context + step.tokens)[drafting]
        price_step(draft, ones, after, np.zeros(count, np.int64), float(count), out)
        return speculation.tokens * float(out[0])

    def _adapter_seconds(self, step: ScheduledStep) -> float:
        used = step.adapter[step.adapter >= 0]
        if not len(used):
            return 0.0
        fixed, per_adapter, per_token = self._adapter
        tokens = float(step.tokens[step.adapter >= 0].sum())
        return fixed + per_adapter * len(np.unique(used)) + per_token * tokens

    def describe(self) -> dict[str, str]:
        """What decides a price, figure by figure, with its source."""
        t = self.tables
        return {
            "tables": f"{len(t.points)} points from 1 to {t.points[-1]:g} tokens, linear between them",
            "attention": f"{len(t.decode_rows)} kinds of layers, by the attention kernel's model in every step",
            "all-reduce": "the quicker of NCCL and the engine's own kernel (calibration/fit_gpu_collective.py)",
            **self.copies.describe(),
            **self.engine.describe(),
        }


def _of_one_group(tables: PriceTables) -> PriceTables:
    layout = tables.layout.copy()
    layout[0] = 1.0
    return tables._replace(layout=layout)


def make_pricer(
    model: ServedModel,
    system: System,
    layout: Layout,
    settings: EngineSettings | None = None,
    *,
    adapters: Adapters | None = None,
    draft_model: ServedModel | None = None,
    drive: tuple[float, float, str] | None = None,
    collectives: Literal["library", "wires"] = "library",
) -> Pricer:
    """A pricer of a model on the GPUs of a system; ``InputError`` for layouts that it cannot have.

    ``collectives``: ``library`` as engines run them, ``wires`` as ``offchip simulate`` does. With multi-token
    prediction
    or EAGLE the draft is the model's last layer with its output projection; a draft model runs whole on one device
    of each group. ``drive``: bytes per second read and written of the drives behind the host, and what they are.
    """
    settings = settings or EngineSettings()
    check_layout(layout, any(layer.experts is not None for layer in model.decoder.layers))
    node = gpus_of(system)[0]
    memory = system.memories[node.memory or node.name]
    exchanges = Exchanges(system, collectives)
    most = max(settings.max_num_batched_tokens, 8192)
    tables = build_tables(
        layer_classes(model.decoder), model.precision, layout, node, memory, exchanges, most
    )
    return Pricer(
        tables, constants_of(settings.engine, settings.version), settings,
        draft=_draft_tables(model, draft_model, settings, layout, node, memory, exchanges),
        adapter_s=_adapter_seconds(adapters, model, layout, node, memory),
        copies=_copy_rates(system, node, drive),
    )  # fmt: skip


def _draft_tables(
    model: ServedModel, draft: ServedModel | None, settings: EngineSettings, layout: Layout, node: Node,
    memory: MemorySpace, exchanges: Exchanges,
) -> PriceTables | None:  # fmt: skip
    speculation = settings.speculation
    if speculation is None or speculation.method == "ngram":
        return None
    if speculation.method == "draft-model":
        if draft is None:
            raise bad_input("a draft model is asked for; give it as draft_model", path="engine.speculation")
        own, shape = replace(layout, tp=1, pp=1, moe_tp=0, moe_ep=0), layer_classes(draft.decoder)
        return build_tables(
            shape, draft.precision, replace(own, attention_dp=1), node, memory, exchanges, 1024
        )
    one = replace(model.decoder, layers=model.decoder.layers[-1:])
    flat = replace(layout, pp=1)
    return build_tables(layer_classes(one), model.precision, flat, node, memory, exchanges, 1024)


def _adapter_seconds(
    adapters: Adapters | None, model: ServedModel, layout: Layout, node: Node, memory: MemorySpace
) -> tuple[float, float, float]:
    """Seconds of a step with adapters: fixed, per adapter touched, per token."""
    if adapters is None:
        return 0.0, 0.0, 0.0
    sheet = GPU.sheet(node, memory)
    rate = sheet.bandwidth * shipped_constants().memory_share(sheet.memory)
    setup = shipped_constants().setup("default")
    launch = setup.launch_us["other"] * 1e-6
    layers = len(model.decoder.layers)
    own = adapters.elements / layout.tp
    flops = sheet.sms * sheet.clock * sheet.rate("bf16")
    return 2 * adapters.products * layers * launch, 2.0 * own / rate, 2.0 * own / flops


def _copy_rates(system: System, node: Node, drive: tuple[float, float, str] | None) -> CopyRates:
    host = host_bandwidth(system, node)
    own = system.memories[node.memory or node.name].read_bandwidth
    read, write, source = drive or (0.0, 0.0, "")
    return CopyRates(host=host or own, drive_read=read, drive_write=write, drive_source=source)


def host_bandwidth(system: System, node: Node) -> float:
    """Bytes per second between a GPU and a memory of the host, from the system's wires; 0 where it has none."""
    own = node.memory or node.name
    best = 0.0
    for name, memory in system.memories.items():
        if name == own or system.nodes[name].device.kind not in ("dram", "cpu"):
            continue
        try:
            route = system.route(own, name)
        except InputError:
            continue
        wires = min((system.wires[w].link.bandwidth for w, _ in route), default=float("inf"))
        best = max(best, min(wires, memory.read_bandwidth))
    return best
