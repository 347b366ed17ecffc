"""Steps priced for a model on a machine under a layout: the :class:`~simulator.serving.step.StepPricer` of serving.

``make_pricer`` builds the tables once (:mod:`simulator.serving.price_tables`); ``price`` then takes microseconds. To
the
device's time come the engine's host time (:mod:`simulator.serving.engine_constants`), draft tokens, adapters, and
copies
of cache over the host's wire.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hw_configs.problems import bad_input
from hw_configs.system import MemorySpace, Node, System
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
from workloads.transformer.formats import Precision
from workloads.transformer.shape import Decoder

__all__ = ["Adapters", "Pricer", "ServedModel", "make_pricer"]


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

    @classmethod
    def on(cls, model: ServedModel, rank: int = 16) -> Adapters:
        """Adapters of a rank on queries, keys, values and outputs of all attention layers of a model."""
        from workloads.transformer.shape import Attention

        hidden, elements = model.decoder.hidden, 0
        for layer in model.decoder.layers:
            mixer = layer.mixer
            if isinstance(mixer, Attention):
                q, kv = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
                elements += rank * (4 * hidden + 2 * q + 2 * kv)
        if not elements:
            raise bad_input(f"{model.name} has no grouped-query attention to put adapters on")
        return cls(rank=rank, elements=elements)


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
        host_bandwidth: float = 0.0,
    ) -> None:
        self.tables, self.engine, self.settings = tables, engine, settings
        self._draft, self._adapter, self._host_bandwidth = draft, adapter_s, host_bandwidth
        self._out = np.zeros(len(PRICE_COLUMNS))

    def price(self, step: ScheduledStep) -> StepCost:
        """The cost of a step that schedules at least one request."""
        if not len(step.request):
            raise bad_input("a step without requests has no price")
        out = self._out
        sampled = float(np.count_nonzero(step.samples))
        price_step(self.tables, step.tokens, step.context, step.drafts, sampled, out)
        device, exchange, joules, kernels, requests, chunk = out.tolist()
        if step.drafts.any():
            # A verified token needs its logits too: the price above has those of one token a request.
            device += self._verification(step, sampled)
        device += self._draft_seconds(step)
        device += self._adapter_seconds(step)
        if step.copied_in_bytes or step.copied_out_bytes:
            device += max(step.copied_in_bytes, step.copied_out_bytes) / self._host_bandwidth
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

    def _verification(self, step: ScheduledStep, sampled: float) -> float:
        from simulator.serving.step_kernel import interpolate

        few, many = np.zeros(4), np.zeros(4)
        interpolate(self.tables.points, self.tables.tables[4], sampled, few)
        interpolate(self.tables.points, self.tables.tables[4], sampled + float(step.drafts.sum()), many)
        return float(many[0] - few[0])

    def _draft_seconds(self, step: ScheduledStep) -> float:
        """The draft's steps: one for each of the most draft tokens of a request, over all that draft."""
        speculation = self.settings.speculation
        if self._draft is None or speculation is None:
            return 0.0
        drafting = step.samples
        count = int(np.count_nonzero(drafting))
        if not count:
            return 0.0
        out = np.zeros(len(PRICE_COLUMNS))
        ones = np.ones(count, np.int64)
        after = (step.context + step.tokens)[drafting]
        price_step(self._draft, ones, after, np.zeros(count, np.int64), float(count), out)
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
            **self.engine.describe(),
        }


def make_pricer(
    model: ServedModel,
    system: System,
    layout: Layout,
    settings: EngineSettings | None = None,
    *,
    adapters: Adapters | None = None,
    draft_model: ServedModel | None = None,
    collectives: Literal["library", "wires"] = "library",
) -> Pricer:
    """A pricer of a model on the GPUs of a system; ``InputError`` for layouts that it cannot have.

    ``collectives``: ``library`` as engines run them, ``wires`` as ``offchip simulate`` does. With multi-token
    prediction
    or EAGLE the draft is the model's last layer with its output projection; a draft model runs whole on one device
    of each group.
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
        host_bandwidth=_host_bandwidth(system, node),
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


def _host_bandwidth(system: System, node: Node) -> float:
    """Bytes per second between a GPU and the host, from the system; the GPU's own memory where it has no host."""
    from hw_configs.device import Gpu

    own = node.memory or node.name
    best = 0.0
    for name, memory in system.memories.items():
        if name == own or isinstance(system.nodes[name].device, Gpu):
            continue
        try:
            route = system.route(own, name)
        except Exception:
            continue
        del memory
        best = max(best, min((system.wires[w].link.bandwidth for w, _ in route), default=0.0))
    return best or system.memories[own].read_bandwidth
