"""A service from names: model, machines, engines and options become workers with a price, a cache and a place.

All that is asked is pools of workers that are alike: one where options say it all, several from a file
(:mod:`offchip.serving.pools`). Workers of a pool take their machine's GPUs one after another. Where it has too few,
further ones stand on further machines like it, which is said in a note; prefill and decode apart on one machine need
one that holds all, since its links carry the caches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from hw_configs.files import load_link
from hw_configs.prices import Rent, rent
from hw_configs.problems import InfeasibleError, InputError, bad_input, nearest
from hw_configs.system import System
from hw_configs.units import UnitError, format_quantity, parse_quantity
from offchip.serving.machines import Machine, joined
from offchip.serving.options import ServeOptions
from offchip.serving.planned import PlannedCapacity, check_planned, default_mapper, make_planned
from offchip.serving.pools import PoolAsked, options_of
from offchip.serving.speeds import with_speeds
from offchip.serving.tier_sizes import CacheTiers, tiers_of
from simulator.serving.apart import AttentionApart
from simulator.serving.apart_model import AttentionWorkers, apart_capacity, make_attention_apart
from simulator.serving.capacity import Capacity, capacity_of
from simulator.serving.engine_constants import EngineConstants, constants_of
from simulator.serving.exchange_time import gpus_of
from simulator.serving.grid_pricer import GridPricer
from simulator.serving.presets import Preset, engine_settings, preset
from simulator.serving.pricing import Adapters, Pricer, ServedModel, make_pricer
from simulator.serving.replica import Worker
from simulator.serving.result import ServiceFacts, WorkerFacts
from simulator.serving.routing import ROUTERS, RouterOptions
from simulator.serving.scheduler import SCHEDULERS, KvSpace
from simulator.serving.service import Service
from simulator.serving.settings import EngineSettings
from workloads.requests import Requests

__all__ = ["Deployment", "Part", "deploy", "load_served", "rent_of"]

UNBOUNDED: Final = 1 << 20
"""Tokens of a model that states no bound."""
SWAPPING: Final = ("vllm", "trtllm-max-utilization")
"""Policies that move preempted requests to slower memories."""


@dataclass(frozen=True)
class Served:
    """A model ready to be served, and the longest sequence that it was made for."""

    model: ServedModel
    positions: int


@dataclass(frozen=True)
class Part:
    """Workers that are alike, ready to be placed."""

    pool: PoolAsked
    served: Served
    preset: Preset
    settings: EngineSettings
    capacity: Capacity | PlannedCapacity
    pricer: Pricer | AttentionApart | GridPricer
    constants: EngineConstants
    attention: AttentionWorkers | None = None
    tiers: CacheTiers = field(default_factory=CacheTiers)

    @property
    def devices(self) -> int:
        """GPUs of a worker that hold weights; of a machine that a mapper divides all that compute."""
        if self.planned:
            return len(self.pool.system.workers())
        return self.pool.asked.layout.devices

    @property
    def planned(self) -> bool:
        """Whether each worker has a whole machine that a mapper divides."""
        return isinstance(self.pricer, GridPricer)

    @property
    def groups(self) -> int:
        """Schedulers of a worker."""
        return self.attention.batches if self.attention is not None else self.pool.asked.dp


@dataclass(frozen=True)
class Deployment:
    """Everything of a service that does not depend on its requests. What is alike in all pools is the first one's."""

    service: Service
    asked: ServeOptions
    parts: tuple[Part, ...]
    workers: tuple[WorkerFacts, ...]
    notes: tuple[str, ...]

    @property
    def served(self) -> Served:
        """The model."""
        return self.parts[0].served

    @property
    def system_name(self) -> str:
        """The machines' names."""
        return " + ".join(dict.fromkeys(part.pool.system.name for part in self.parts))

    def describe_layout(self) -> str:
        """The layout in words, pool by pool."""
        if len(self.parts) == 1:
            return self.parts[0].pool.asked.describe_layout()
        return "; ".join(
            f"{len(part.pool.roles)} {part.pool.name}"
            + (f" ({role})" if (role := part.pool.roles[0]) != "both" else "")
            for part in self.parts
        )

    def facts(self, requests: Requests, seed: int, notes: tuple[str, ...] = ()) -> ServiceFacts:
        """What the record of a run does not say."""
        asked, constants, parts = self.asked, self.parts[0].constants, self.parts
        settings: Mapping[str, object] = _plain(parts[0].settings)
        if len(parts) > 1:
            settings = {part.pool.name: _plain(part.settings) for part in parts}
        return ServiceFacts(
            model=self.served.model.name, system=self.system_name, requests=requests.name,
            engine=" + ".join(dict.fromkeys(part.pool.asked.engine for part in parts)),
            layout=self.describe_layout(), settings=settings, workers=self.workers, seed=seed,
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
        raise bad_input(f"unknown model {str(model)!r}: neither a built-in name nor a config.json or GGUF file",
                        suggestion=nearest(str(model), models.names()))  # fmt: skip
    options = WorkloadOptions(dtype=dtype, kv_dtype=kv_dtype)
    if path.suffix.lower() == ".gguf":
        from workloads.gguf_model import read_gguf_model

        decoder, precision = read_gguf_model(path, options)
        return Served(ServedModel(name, decoder, precision), decoder.max_positions or UNBOUNDED)
    decoder, precision = read_config(path, options)
    raw: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    inner = raw.get("text_config") if isinstance(raw.get("text_config"), dict) else raw
    stated = inner.get("max_position_embeddings", inner.get("n_positions", 0))
    positions = stated if isinstance(stated, int) and stated > 1 else decoder.max_positions or UNBOUNDED
    return Served(ServedModel(name, decoder, precision), positions)


def deploy(
    model: str | Path, hw: str | Path | System | None, asked: ServeOptions, requests: Requests
) -> Deployment:
    """The service that is asked for; ``InputError`` for what does not go together, ``InfeasibleError`` without room.

    Of the requests only what a deployment depends on is looked at: adapters, and mean lengths where workers differ.
    """
    ROUTERS.get(asked.routing)
    parts = tuple(_part(model, pool, requests) for pool in _pools(hw, asked))
    caches = {part.served.model.precision.cache for part in parts}
    if asked.apart and len(caches) > 1:
        raise bad_input(f"prefill and decode pools keep caches as {' and '.join(sorted(caches))}; expected one type",
                        path="--pools")  # fmt: skip
    places, system, notes = _places(parts, asked)
    workers: list[Worker] = []
    facts: list[WorkerFacts] = []
    for part, devices in zip(parts, places, strict=True):
        for number, role in enumerate(part.pool.roles):
            kind = part.pool.name or (role if asked.apart else "replica")
            name = f"{kind} {number}"
            workers.append(_worker(part, name, role, devices[number]))
            facts.append(_worker_facts(workers[-1], part))
    if len(parts) > 1:
        workers = with_speeds(workers, requests)
        if asked.routing == "round-robin" and len({worker.speed for worker in workers}) > 1:
            notes.append(
                "round-robin gives unlike workers as many requests each; --routing least-loaded goes by speed"
            )
    service = Service(
        tuple(workers), asked.routing, RouterOptions(seed=asked.seed or 0), system=system, failures=asked.failures,
        seed=asked.seed or 0,
    )  # fmt: skip
    notes.extend(_written_off(parts))
    return Deployment(service, asked, parts, tuple(facts), tuple(notes))


def _pools(hw: str | Path | System | None, asked: ServeOptions) -> list[PoolAsked]:
    """What is asked, as pools: those of a file, or one of all options."""
    from hw_configs.library import load_system

    pools = asked.pool_file
    if (hw is None) == (pools is None):
        raise bad_input("found both; expected one of them" if pools is not None else
                        "missing: a system or device, or pools of them", path="--hw, --pools")  # fmt: skip
    if pools is None:
        assert hw is not None
        system = hw if isinstance(hw, System) else load_system(hw)
        roles = ("prefill",) * asked.prefill_workers + ("decode",) * asked.decode_workers or (
            "both",
        ) * asked.replicas
        return [PoolAsked("", system, asked, roles)]  # type: ignore[arg-type]
    given = {name: getattr(asked, name) for name in ("engine", "version", "dtype", "kv_dtype", "seed")}
    found = []
    for index, pool in enumerate(pools.pools):
        own = options_of(pool, {**given, "settings": asked.settings})
        own = replace(own, settings={**asked.settings, **pool.settings})
        found.append(PoolAsked(
            pools.name_of(index), load_system(pool.hw), own, (pool.role,) * pool.count, pool.max_concurrency or 0,
            pools.link_of(index),
        ))  # fmt: skip
    return found


def _part(model: str | Path, pool: PoolAsked, requests: Requests) -> Part:
    """The price and the cache of a pool's workers."""
    asked, system = pool.asked, pool.system
    mapper = asked.mapper or ("" if system.of_kind("gpu") else default_mapper(system))
    if mapper:
        return _planned_part(
            model, replace(pool, asked=replace(asked, mapper=mapper)), bool(requests.adapters)
        )
    gpus = gpus_of(system)
    served = load_served(model, asked.dtype, asked.kv_dtype)
    base = preset(
        asked.engine, system.memories[gpus[0].memory or gpus[0].name].capacity_bytes, gpus[0].device.name
    )
    settings = _settings(base, asked, served)
    _check_experts(asked, served)
    SCHEDULERS.get(settings.scheduler)
    adapters, adapter_bytes = None, 0.0
    if requests.adapters:
        adapters = Adapters.on(served.model, requests.adapter_rank, requests.adapter_targets)
        adapter_bytes = len(requests.adapters) * adapters.size_bytes
    attention = _attention(asked)
    tiers = _tiers(pool, len(gpus), settings)
    if tiers.host_bytes or tiers.drive_bytes:
        settings = replace(settings, swap=True)
    capacity: Capacity
    pricer: Pricer | AttentionApart
    if attention is not None:
        pricer = make_attention_apart(served.model, system, asked.layout, settings, attention, adapters)
        capacity = apart_capacity(served.model, system, asked.layout, settings, attention, adapter_bytes)
    else:
        capacity = capacity_of(served.model, system, asked.layout, settings, adapter_bytes)
        pricer = make_pricer(served.model, system, asked.layout, settings, adapters=adapters,
                             draft_model=_draft(settings), drive=tiers.drive)  # fmt: skip
    space = capacity.space
    if space.blocks < (attention.batches if attention is not None else asked.dp):
        raise InfeasibleError(
            f"{served.model.name} on {capacity.device}: {format_quantity(capacity.cache, 'size')} are left for the "
            f"cache, less than a block of {format_quantity(space.block_bytes, 'size')}"
        )
    capacity = replace(capacity, space=_with_tiers(space, tiers, asked.dp))
    return Part(pool, served, base, settings, capacity, pricer, constants_of(asked.engine, asked.version), attention,
                tiers)  # fmt: skip


def _planned_part(model: str | Path, pool: PoolAsked, adapters: bool) -> Part:
    """The same for workers of which each has a whole machine that a mapper divides."""
    asked, system = pool.asked, pool.system
    served = load_served(model, asked.dtype, asked.kv_dtype)
    memory = max((space.capacity_bytes for space in system.memories.values()), default=0)
    base = preset(asked.engine, memory)
    settings = _settings(base, asked, served)
    SCHEDULERS.get(settings.scheduler)
    check_planned(asked, adapters, settings)
    if set(pool.roles) != {"both"}:
        raise bad_input(
            f"{pool.name}: plans of a mapper have no links that caches could cross", path="--pools"
        )
    constants = constants_of(asked.engine, asked.version)
    pricer, capacity = make_planned(model, served.model, system, asked, settings, constants, asked.mapper)
    return Part(pool, served, base, settings, capacity, pricer, constants)


def _attention(asked: ServeOptions) -> AttentionWorkers | None:
    """The attention workers that are asked for. A wire is a link by name or file, or a bandwidth."""
    from hw_configs.library import load_system

    if not asked.attention_workers:
        return None
    wire = asked.attention_wire
    try:
        rate, latency = parse_quantity(wire, "bandwidth"), 0.0
    except UnitError as error:
        if wire[:1].isdigit():
            raise bad_input(str(error), path="--attention-wire") from None
        try:
            link = load_link(wire)
        except InputError as wrong:
            raise InputError(replace(p, path=p.path or "--attention-wire") for p in wrong.problems) from None
        rate, latency = link.bandwidth, link.latency
    return AttentionWorkers(
        load_system(asked.attention_hw), asked.attention_workers, rate, latency, asked.attention_batches, wire
    )


def _tiers(pool: PoolAsked, gpus: int, settings: EngineSettings) -> CacheTiers:
    asked = pool.asked
    if not (asked.host_cache or asked.drive_cache):
        return CacheTiers()
    if settings.scheduler not in SWAPPING:
        raise bad_input(f"the policy {settings.scheduler!r} moves no caches; those that do: {', '.join(SWAPPING)}",
                        path="--host-cache" if asked.host_cache else "--drive-cache")  # fmt: skip
    on_machine = max(1, min(len(pool.roles), gpus // asked.layout.devices))
    return tiers_of(pool.system, asked.host_cache, asked.drive_cache, on_machine)


def _with_tiers(space: KvSpace, tiers: CacheTiers, groups: int) -> KvSpace:
    """Places in slower memories, divided over the groups of a worker as its blocks are."""
    each = space.block_bytes or 1.0
    return space._replace(
        host_blocks=int(tiers.host_bytes / each / groups), drive_blocks=int(tiers.drive_bytes / each / groups)
    )


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


def _places(
    parts: Sequence[Part], asked: ServeOptions
) -> tuple[list[list[tuple[str, ...]]], System | None, list[str]]:
    """Devices that hold each worker's cache, the system of links that caches go over, and what is to be said."""
    if asked.pool_file is not None:
        return _places_of_pools(parts, asked.apart)
    part = parts[0]
    if part.planned:
        count = asked.workers
        return [[()] * count], None, [f"{count} machines like this one"] if count > 1 else []
    gpus = [node.name for node in gpus_of(part.pool.system)]
    each, need = part.devices, part.devices * asked.workers
    if asked.apart and need > len(gpus):
        raise bad_input(f"found {asked.workers} workers of {each} GPUs; the machine has {len(gpus)}, and its links "
                        "carry the caches between them", path="--prefill-workers, --decode-workers")  # fmt: skip
    notes: list[str] = []
    if need > len(gpus):
        machines = -(-asked.workers // max(len(gpus) // each, 1)) * max(-(-each // len(gpus)), 1)
        notes.append(f"{need} GPUs stand on {machines} machines like this one")
    devices = [
        tuple(gpus[number * each : (number + 1) * each]) if need <= len(gpus) else ()
        for number in range(asked.workers)
    ]
    return [devices], part.pool.system if asked.apart else None, notes


def _places_of_pools(
    parts: Sequence[Part], apart: bool
) -> tuple[list[list[tuple[str, ...]]], System | None, list[str]]:
    """Every pool on machines of its own; attention workers, where a pool has them, hold its caches."""
    machines: list[Machine] = []
    places: list[list[tuple[str, ...]]] = []
    notes: list[str] = []
    for part in parts:
        if part.planned:
            places.append([()] * len(part.pool.roles))
            continue
        holder = part.pool.system if part.attention is None else part.attention.system
        each = part.devices if part.attention is None else part.attention.count
        gpus = [node.name for node in gpus_of(holder)]
        # A worker lies on one machine, or on so many whole ones.
        on_machine, span = max(len(gpus) // each, 1), -(-each // len(gpus))
        count = -(-len(part.pool.roles) // on_machine) * span
        if count > 1 or len(part.pool.roles) * each > len(gpus):
            notes.append(f"{part.pool.name}: {count} machines {holder.name}")
        names = [f"{part.pool.name}.{number}" for number in range(count)]
        if apart:
            assert part.pool.link is not None
            machines += [Machine(name, holder, part.pool.link) for name in names]
        flat = [f"{name}/{gpu}" for name in names for gpu in gpus]
        starts = [
            worker // on_machine * span * len(gpus) + worker % on_machine * each
            for worker in range(len(part.pool.roles))
        ]
        places.append([tuple(flat[start : start + each]) for start in starts])
    return places, joined("pools", machines) if apart else None, notes


def _worker(part: Part, name: str, role: Any, devices: tuple[str, ...]) -> Worker:
    layers = max(len(part.served.model.decoder.layers) // part.pool.asked.pp, 1)
    return Worker(
        name, SCHEDULERS.get(part.settings.scheduler), part.settings, part.capacity.space, part.pricer,
        groups=part.groups, role=role, devices=devices, layers=layers, most_requests=part.pool.most_requests,
    )  # fmt: skip


def _worker_facts(worker: Worker, part: Part) -> WorkerFacts:
    """What of a worker goes into the answer: its price is its devices', or their share of the machine's."""
    rate, power = _rate_and_idle(part.pool.system, part.devices, part.planned)
    devices = part.devices
    if part.attention is not None:
        more, idle = _rate_and_idle(part.attention.system, part.attention.count)
        rate = None if rate is None or more is None else rate + more
        power, devices = power + idle, devices + part.attention.count
    return WorkerFacts(
        name=worker.name, role=worker.role, devices=devices, blocks=worker.space.blocks,
        block_tokens=worker.space.block_tokens, most_sequences=part.settings.max_num_seqs * worker.groups,
        price_per_s=rate, idle_w=power,
    )  # fmt: skip


def _written_off(parts: Sequence[Part]) -> list[str]:
    """What is to be said of dollars that follow from a list price."""
    costs = [rent_of(part.pool.system) for part in parts if part.pool.system.of_kind("gpu")]
    return sorted({f"dollars: {cost.basis}" for cost in costs if cost is not None and cost.written_off})


def rent_of(system: System) -> Rent | None:
    """What a GPU of a machine costs: its share of the machine's rent, else its own; None where nothing is stated."""
    gpus = gpus_of(system)
    if system.price_rate is not None:
        return Rent(system.price_rate / len(gpus), "its share of the system's price_rate")
    return rent(gpus[0].device)


def _rate_and_idle(system: System, devices: int, planned: bool = False) -> tuple[float | None, float]:
    """Dollars a second of so many GPUs of a system, or of all of it, if stated, and their idle power."""
    if planned:
        computing = system.workers()
        idle = sum(
            power.idle for node in computing if (power := getattr(node.device, "power", None)) is not None
        )
        return system.price_rate, idle
    gpus = gpus_of(system)
    device = gpus[0].device
    cost = rent_of(system)
    power = getattr(device, "power", None)
    return (
        None if cost is None else cost.usd_per_s * devices,
        power.idle * devices if power is not None else 0.0,
    )


def _plain(settings: EngineSettings) -> Mapping[str, object]:
    values: dict[str, object] = {}
    for name in EngineSettings.__dataclass_fields__:
        value = getattr(settings, name)
        if name == "speculation" and value is not None:
            value = {part: getattr(value, part) for part in type(value).__dataclass_fields__}
        values[name] = value
    return values
