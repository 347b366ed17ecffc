"""A service from names: model, machine, engine and options become workers with a price, a cache and a place.

Workers take the machine's GPUs one after another. Where it has too few, further replicas stand on further machines like
it, which is said in a note; prefill and decode apart need one machine that holds all, since its links carry the caches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from hw_configs.prices import Rent, rent
from hw_configs.problems import InfeasibleError, InputError, Problem, bad_input, nearest
from hw_configs.system import Node, System
from hw_configs.units import format_quantity
from offchip.serving.options import ServeOptions
from simulator.serving.capacity import Capacity, capacity_of
from simulator.serving.engine_constants import EngineConstants, constants_of
from simulator.serving.exchange_time import gpus_of
from simulator.serving.presets import Preset, engine_settings, preset
from simulator.serving.pricing import Adapters, Pricer, ServedModel, make_pricer
from simulator.serving.replica import Worker
from simulator.serving.result import ServiceFacts, WorkerFacts
from simulator.serving.routing import ROUTERS, RouterOptions
from simulator.serving.scheduler import SCHEDULERS
from simulator.serving.service import Service
from simulator.serving.settings import EngineSettings
from workloads.requests import Requests

__all__ = ["Deployment", "deploy", "load_served", "refuse_too_long", "rent_of"]

UNBOUNDED: Final = 1 << 20
"""Tokens of a model that states no bound."""
MOST_TOLD: Final = 5


@dataclass(frozen=True)
class Served:
    """A model ready to be served, and the longest sequence that it was made for."""

    model: ServedModel
    positions: int


@dataclass(frozen=True)
class Deployment:
    """Everything of a service that does not depend on its requests."""

    service: Service
    asked: ServeOptions
    served: Served
    system: System
    preset: Preset
    settings: EngineSettings
    capacity: Capacity
    constants: EngineConstants
    workers: tuple[WorkerFacts, ...]
    notes: tuple[str, ...]

    def facts(self, requests: Requests, seed: int, notes: tuple[str, ...] = ()) -> ServiceFacts:
        """What the record of a run does not say."""
        asked, constants = self.asked, self.constants
        return ServiceFacts(
            model=self.served.model.name, system=self.system.name, requests=requests.name, engine=asked.engine,
            layout=asked.describe_layout(), settings=_plain(self.settings), workers=self.workers, seed=seed,
            routing=asked.routing if asked.workers > 1 else "", notes=(*notes, *self.notes),
            request_s=1e-6 * constants.request_us, prompt_token_s=1e-6 * constants.prompt_token_us,
        )  # fmt: skip


def load_served(model: str | Path, dtype: str | None = None, kv_dtype: str | None = None) -> Served:
    """A language model by built-in name or ``config.json``; ``InputError`` for anything that writes no tokens."""
    from workloads import models
    from workloads.huggingface import read_config
    from workloads.workload import WorkloadOptions

    name, path = str(model), Path(model)
    if name in models.names():
        path = Path(models.__file__).parent / f"{name}.json"
        if not path.is_file():
            raise bad_input(f"{name!r} is no language model that writes tokens")
    elif path.is_dir():
        path, name = path / "config.json", path.name
    else:
        name = path.parent.name if path.name == "config.json" else path.stem
    if not path.is_file():
        raise bad_input(f"unknown model {str(model)!r}: neither a built-in name nor a config.json",
                        suggestion=nearest(str(model), models.names()))  # fmt: skip
    decoder, precision = read_config(path, WorkloadOptions(dtype=dtype, kv_dtype=kv_dtype))
    raw: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    inner = raw.get("text_config") if isinstance(raw.get("text_config"), dict) else raw
    stated = inner.get("max_position_embeddings", inner.get("n_positions", 0))
    positions = stated if isinstance(stated, int) and stated > 1 else decoder.max_positions or UNBOUNDED
    return Served(ServedModel(name, decoder, precision), positions)


def deploy(model: str | Path, hw: str | Path | System, asked: ServeOptions, requests: Requests) -> Deployment:
    """The service that is asked for; ``InputError`` for what does not go together, ``InfeasibleError`` without room.

    Of the requests only what a deployment depends on is looked at: adapters.
    """
    from hw_configs.library import load_system

    system = hw if isinstance(hw, System) else load_system(hw)
    gpus = gpus_of(system)
    served = load_served(model, asked.dtype, asked.kv_dtype)
    base = preset(
        asked.engine, system.memories[gpus[0].memory or gpus[0].name].capacity_bytes, gpus[0].device.name
    )
    settings = _settings(base, asked, served)
    _check_experts(asked, served)
    SCHEDULERS.get(settings.scheduler), ROUTERS.get(asked.routing)
    capacity = capacity_of(served.model, system, asked.layout, settings)
    if capacity.space.blocks < asked.dp:
        raise InfeasibleError(
            f"{served.model.name} on {capacity.device}: {format_quantity(capacity.cache, 'size')} are left for the "
            f"cache, less than a block of {format_quantity(capacity.space.block_bytes, 'size')}"
        )
    adapters = Adapters.on(served.model) if requests.adapters else None
    draft = _draft(settings)
    pricer = make_pricer(served.model, system, asked.layout, settings, adapters=adapters, draft_model=draft)
    workers, notes = _workers(asked, settings, capacity, pricer, gpus)
    cost = rent_of(system, gpus)
    if cost is not None and cost.written_off:
        notes = (*notes, f"dollars: {cost.basis}")
    layers = max(len(served.model.decoder.layers) // asked.pp, 1)
    service = Service(
        tuple(replace(worker, layers=layers) for worker in workers), asked.routing,
        RouterOptions(seed=asked.seed or 0), system=system if asked.apart else None, failures=asked.failures,
        seed=asked.seed or 0,
    )  # fmt: skip
    facts = tuple(_worker_facts(worker, asked, settings, system, gpus) for worker in workers)
    return Deployment(service, asked, served, system, base, settings, capacity,
                      constants_of(asked.engine, asked.version), facts, notes)  # fmt: skip


def _settings(base: Preset, asked: ServeOptions, served: Served) -> EngineSettings:
    """The preset's settings, the operator's, and the model's length where the operator gives none."""
    given: dict[str, object] = {"version": asked.version, **asked.settings}
    if "max_model_len" not in given:
        given["max_model_len"] = max(served.positions, 2)
    settings = engine_settings(base, given)
    if settings.max_model_len > served.positions:
        message = f"max_model_len: found {settings.max_model_len}; {served.model.name} has {served.positions} positions"
        raise bad_input(message, path="--set")
    return settings


def _check_experts(asked: ServeOptions, served: Served) -> None:
    if asked.ep > 1 and all(layer.experts is None for layer in served.model.decoder.layers):
        raise bad_input(f"found {asked.ep}; {served.model.name} has no experts", path="--ep")


def _draft(settings: EngineSettings) -> ServedModel | None:
    speculation = settings.speculation
    if speculation is None or speculation.method != "draft-model":
        return None
    if not speculation.draft_model:
        raise bad_input("missing setting 'speculation.draft_model'", path="--set")
    return load_served(speculation.draft_model).model


def _workers(
    asked: ServeOptions, settings: EngineSettings, capacity: Capacity, pricer: Pricer, gpus: list[Node]
) -> tuple[list[Worker], tuple[str, ...]]:
    """Workers with their names, roles and places, and what is to be said of them."""
    each, need = asked.layout.devices, asked.layout.devices * asked.workers
    if asked.apart and need > len(gpus):
        raise bad_input(f"found {asked.workers} workers of {each} GPUs; the machine has {len(gpus)}, and its links "
                        "carry the caches between them", path="--prefill-workers, --decode-workers")  # fmt: skip
    notes: list[str] = []
    if need > len(gpus):
        machines = -(-asked.workers // max(len(gpus) // each, 1)) * max(-(-each // len(gpus)), 1)
        notes.append(f"{need} GPUs stand on {machines} machines like this one")
    roles = ["prefill"] * asked.prefill_workers + ["decode"] * asked.decode_workers or [
        "both"
    ] * asked.replicas
    workers = []
    for number, role in enumerate(roles):
        own = gpus[number * each : (number + 1) * each] if need <= len(gpus) else []
        name = f"{role if asked.apart else 'replica'} {number}"
        workers.append(Worker(
            name, SCHEDULERS.get(settings.scheduler), settings, capacity.space, pricer, groups=asked.dp, role=role,  # type: ignore[arg-type]
            devices=tuple(node.name for node in own),
        ))  # fmt: skip
    return workers, tuple(notes)


def rent_of(system: System, gpus: list[Node]) -> Rent | None:
    """What a device of a machine costs: its share of the machine's rent, else its own; None where nothing is stated."""
    if system.price_rate is not None:
        return Rent(system.price_rate / len(gpus), "its share of the system's price_rate")
    return rent(gpus[0].device)


def _worker_facts(
    worker: Worker, asked: ServeOptions, settings: EngineSettings, system: System, gpus: list[Node]
) -> WorkerFacts:
    """What of a worker goes into the answer: its price is its devices', or their share of the machine's."""
    device, count = gpus[0].device, asked.layout.devices
    rate = rent_of(system, gpus)
    power = getattr(device, "power", None)
    return WorkerFacts(
        name=worker.name, role=worker.role, devices=count, blocks=worker.space.blocks,
        block_tokens=worker.space.block_tokens, most_sequences=settings.max_num_seqs * worker.groups,
        price_per_s=None if rate is None else rate.usd_per_s * count,
        idle_w=power.idle * count if power is not None else 0.0,
    )  # fmt: skip


def refuse_too_long(requests: Requests, deployment: Deployment) -> None:
    """``InputError`` that names the requests longer than the model or than a worker's cache."""
    settings, worker = deployment.settings, deployment.service.workers[0]
    space = worker.space._replace(blocks=worker.space.blocks // worker.groups)
    total = requests.prompt_tokens + requests.output_tokens
    room = space.blocks * space.block_tokens
    problems: list[Problem] = []
    limits = (
        (settings.max_model_len, f"at most {settings.max_model_len}, the model's length (max_model_len)"),
        (room, f"at most {room}, which {space.blocks} blocks of the KV cache hold "
               f"({format_quantity(space.blocks * space.block_bytes, 'size')})"),
    )  # fmt: skip
    for limit, words in limits:
        long = (total > limit).nonzero()[0]
        for number in long[:MOST_TOLD].tolist():
            more = f" ({len(long)} requests are too long)" if len(long) > 1 and number == long[0] else ""
            message = (
                f"found {requests.prompt_tokens[number]} tokens of prompt and {requests.output_tokens[number]} of "
                f"answer; expected {words}{more}"
            )
            problems.append(Problem(message, requests.name, path=f"request {number}"))
        if problems:
            raise InputError(problems)


def _plain(settings: EngineSettings) -> Mapping[str, object]:
    values: dict[str, object] = {}
    for name in EngineSettings.__dataclass_fields__:
        value = getattr(settings, name)
        if name == "speculation" and value is not None:
            value = {part: getattr(value, part) for part in type(value).__dataclass_fields__}
        values[name] = value
    return values
