"""Workers of unlike hardware in one service, as a YAML file or in Python: a list of pools of workers that are alike.

Each pool stands on machines of its own. Caches go between prefill and decode pools over the pools' networks, into one
switch, so that the narrower of two pools' links decides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from hw_configs.config import BrokenReferenceError, Config, Fault, parse, refuse
from hw_configs.files import load_link
from hw_configs.library import load_system
from hw_configs.problems import InputError, Problem, bad_input
from hw_configs.system import AnyLink, System
from hw_configs.yaml_file import Document, read_yaml, read_yaml_text
from offchip.serving.options import MOST_WORKERS, ServeOptions

__all__ = ["AttentionPart", "Pool", "Pools", "pools_of", "read_pools"]

_OPTIONS: Final = (
    "engine",
    "version",
    "settings",
    "tp",
    "pp",
    "ep",
    "dp",
    "dtype",
    "kv_dtype",
    "host_cache",
    "drive_cache",
    "mapper",
)
"""Keys of a pool that are options of ``offchip serve``."""
Number = Annotated[int, Field(ge=1, le=MOST_WORKERS)]


def _machine(name: str, info: ValidationInfo) -> str:
    """A system's or device's name, or its file, beside the pools' file first."""
    near = Path((info.context or {}).get("folder", ".")) / name
    path = str(near) if near.suffix in (".yaml", ".yml") and near.is_file() else name
    try:
        load_system(path)
    except InputError as error:
        raise BrokenReferenceError(error) from None
    return path


def _network(name: str, info: ValidationInfo) -> str:
    near = Path((info.context or {}).get("folder", ".")) / name
    path = str(near) if near.suffix in (".yaml", ".yml") and near.is_file() else name
    try:
        load_link(path)
    except InputError as error:
        raise BrokenReferenceError(error) from None
    return path


Machine = Annotated[str, AfterValidator(_machine)]
Network = Annotated[str, AfterValidator(_network)]


class AttentionPart(Config):
    """Attention apart from the rest of a pool's model: each of its workers has so many attention workers."""

    hw: Machine
    workers: Number
    wire: str
    """A link's name, or a bandwidth with its unit."""
    batches: Annotated[int, Field(ge=1, le=16)] = 2


class Pool(Config):
    """``count`` workers that are alike."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")] | None = None
    hw: Machine
    count: Number = 1
    role: Literal["both", "prefill", "decode"] = "both"
    engine: str | None = None
    version: str | None = None
    settings: dict[str, str | int | bool] = Field(default_factory=dict)
    tp: Number = 1
    pp: Number = 1
    ep: Number = 1
    dp: Number = 1
    dtype: str | None = None
    kv_dtype: str | None = None
    max_concurrency: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """Requests at one worker at a time; further ones wait before the router."""
    mapper: str | None = None
    network: Network | None = None
    attention: AttentionPart | None = None
    host_cache: str | None = None
    drive_cache: str | None = None


class Pools(Config):
    """The pools of a service. ``network``: of pools that do not name their own."""

    name: str = ""
    description: str = ""
    network: Network | None = None
    pools: Annotated[list[Pool], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _whole(self) -> Pools:
        roles = {pool.role for pool in self.pools}
        apart = roles != {"both"}
        faults: list[Fault | None] = []
        for index, pool in enumerate(self.pools):
            if apart and pool.role == "both":
                faults.append((("pools", index, "role"), "found 'both' beside pools for prefill or decode alone; "
                               "expected prefill or decode"))  # fmt: skip
            if apart and pool.network is None and self.network is None:
                faults.append((("pools", index), "missing key 'network': a link's name, over which caches go between "
                               "prefill and decode; expected here or beside 'pools'"))  # fmt: skip
            first = next(i for i, other in enumerate(self.pools) if other.name == pool.name)
            if pool.name is not None and first < index:
                faults.append((("pools", index, "name"), f"{pool.name!r} is the name of another pool"))
        for role, other in (("prefill", "decode"), ("decode", "prefill")):
            if apart and role in roles and other not in roles:
                faults.append(
                    (("pools",), f"no pool has the role {other!r}, which {role!r} alone needs beside it")
                )
        if sum(pool.count for pool in self.pools) > MOST_WORKERS:
            faults.append((("pools",), f"more than {MOST_WORKERS} workers"))
        refuse(*faults)
        return self

    @property
    def workers(self) -> int:
        """Number of workers of all pools."""
        return sum(pool.count for pool in self.pools)

    def name_of(self, index: int) -> str:
        """A pool's own name, or one from its hardware and place."""
        pool = self.pools[index]
        return pool.name or f"{Path(pool.hw).stem}-{index}"

    def link_of(self, index: int) -> AnyLink | None:
        """The network of a pool."""
        name = self.pools[index].network or self.network
        return None if name is None else load_link(name)


@dataclass(frozen=True)
class PoolAsked:
    """A pool with all that is asked of its workers."""

    name: str
    system: System
    asked: ServeOptions
    roles: tuple[Literal["both", "prefill", "decode"], ...]
    """One for each worker."""
    most_requests: int = 0
    link: AnyLink | None = None
    notes: tuple[str, ...] = field(default=())


def options_of(pool: Pool, given: Mapping[str, object]) -> ServeOptions:
    """The options of a pool's workers; ``given``: those of the whole service, where the pool has none of its own."""
    values = {name: getattr(pool, name) for name in _OPTIONS if getattr(pool, name) is not None}
    if pool.attention is not None:
        part = pool.attention
        values |= {"attention_hw": part.hw, "attention_workers": part.workers, "attention_wire": part.wire,
                   "attention_batches": part.batches}  # fmt: skip
    return ServeOptions(**{**given, **values, "replicas": pool.count})


def read_pools(source: str | Path, text: str | None = None) -> Pools:
    """The pools in a YAML file (or ``text``, named ``source``); ``InputError`` with every problem in it."""
    return _checked(read_yaml(source) if text is None else read_yaml_text(text, str(source)))


def pools_of(value: object) -> Pools:
    """Pools as they are, from a file, or from plain data such as a list of mappings."""
    if isinstance(value, Pools):
        return value
    if isinstance(value, str | Path):
        return read_pools(value)
    if isinstance(value, Sequence):
        value = {
            "pools": [
                pool.model_dump(exclude_unset=True) if isinstance(pool, Pool) else pool for pool in value
            ]
        }
    if not isinstance(value, Mapping):
        raise bad_input(f"found {value!r:.80}; expected a YAML file, Pools, or their keys", path="--pools")
    return read_pools("pools", json.dumps(value, default=str))


def _checked(document: Document) -> Pools:
    """The pools; options of each that do not go together are told on its lines."""
    from simulator.serving.presets import engine_settings, preset

    pools = parse(Pools, document)
    problems: list[Problem] = []
    for index, pool in enumerate(pools.pools):
        place: tuple[str | int, ...] = ("pools", index)
        try:
            asked = options_of(pool, {})
            engine_settings(preset(asked.engine), asked.settings)
        except InputError as error:
            for problem in error.problems:
                key = (problem.path or "").lstrip("-").replace("-", "_").split(",")[0]
                inner = next(
                    (
                        name
                        for name in pool.settings
                        if problem.message.startswith((f"{name}:", f"unknown setting {name!r}"))
                    ),
                    None,
                )
                path = (
                    (*place, "settings", inner)
                    if inner
                    else (*place, *([key] if key in Pool.model_fields else []))
                )
                if key.startswith("attention_"):
                    path = (*place, "attention", key.removeprefix("attention_"))
                problems.append(Problem(
                    problem.message, document.file, document.line_of(path), ".".join(str(part) for part in path),
                    problem.suggestion,
                ))  # fmt: skip
    if problems:
        raise InputError(problems)
    return pools
