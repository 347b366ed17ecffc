"""Offload policies: what lives where, what moves when, decided for one model on one system.

A policy answers a request (model, phase, sizes, system, settings) with a report and, where the simulator can
execute its decision, with a graph and a plan. ``offchip solve offload`` finds policies by name here; another
package can add one under the entry-point group ``offchip.offload_policies``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from hw_configs.problems import InputError, Problem, nearest
from hw_configs.registry import Registry
from hw_configs.system import System
from simulator.cost.model import DEFAULT_COST_MODEL
from simulator.plan import Plan
from workloads.graph import Graph

__all__ = ["OFFLOAD_POLICIES", "OffloadAnswer", "OffloadPolicy", "OffloadRequest", "Table", "check_request"]

MOST_TOKENS: Final = 2**40
"""Of a training step over all devices; what one device computes at once has the bounds of the model's builder."""


@dataclass(frozen=True, slots=True)
class OffloadRequest:
    """What a user asks. ``sequence`` is the tokens of a sequence (training) or of the prompt (inference).

    ``batch`` counts sequences: of a whole step over all devices in training, at once in inference.
    ``settings`` are a policy's own options, as text.
    """

    model: str
    system: System
    phase: str = "train"
    sequence: int = 2048
    batch: int = 1
    generate: int = 0
    dtype: str | None = None
    cost_model: str = DEFAULT_COST_MODEL
    seed: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """A table for people: cells are text or numbers that print as they are."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


@dataclass(frozen=True, slots=True)
class OffloadAnswer:
    """A decision. ``why`` says in sentences what decided; ``report`` is plain data for ``--json`` (SI units in
    names). ``plan`` runs on ``graph`` by :func:`simulator.simulate.simulate`; both None where a policy only
    estimates, which ``why`` must then say.
    """

    policy: str
    report: Mapping[str, Any]
    why: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    graph: Graph | None = None
    plan: Plan | None = None


class OffloadPolicy(Protocol):
    """Answers requests. ``DESCRIPTION`` is one line, ``PHASES`` what it serves, ``SETTINGS`` what it reads."""

    DESCRIPTION: str
    PHASES: tuple[str, ...]
    SETTINGS: Mapping[str, str]

    def solve(self, request: OffloadRequest) -> OffloadAnswer:
        """The answer; ``InfeasibleError`` with the reason in words when nothing fits."""
        ...


OFFLOAD_POLICIES: Final[Registry[OffloadPolicy]] = Registry(
    "offload policy",
    "offchip.offload_policies",
    {
        "block-schedule": "mapping.offload.block_search:POLICY",
        "cache-neurons": "mapping.offload.mapper_policy:CACHE_NEURONS",
        "offload-kv": "mapping.offload.mapper_policy:OFFLOAD_KV",
        "choose-training": "mapping.training.policies:EVERYTHING",
        "memo": "mapping.training.policies:MEMO",
        "megatron": "mapping.training.policies:MEGATRON",
        "deepspeed": "mapping.training.policies:DEEPSPEED",
        "rematerialize": "mapping.training.rematerialize:POLICY",
        "zero-offload": "mapping.training.state_policies:ZERO_OFFLOAD",
        "zero-infinity": "mapping.training.state_policies:ZERO_INFINITY",
    },
)


def check_request(name: str, policy: OffloadPolicy, request: OffloadRequest) -> None:
    """Raise ``InputError`` for a phase or settings that the policy does not know, and for sizes below one."""
    known = ", ".join(policy.SETTINGS) or "none"
    problems = [
        Problem(
            f"policy {name!r} has no setting {key!r}; known: {known}",
            path="--set",
            suggestion=nearest(key, policy.SETTINGS),
        )
        for key in request.settings
        if key not in policy.SETTINGS
    ]
    if request.phase not in policy.PHASES:
        served = ", ".join(policy.PHASES)
        problems.append(Problem(f"policy {name!r} serves {served}; found {request.phase!r}", path="--phase"))
    for flag, value, least in (
        ("--seq", request.sequence, 1),
        ("--batch", request.batch, 1),
        ("--generate", request.generate, 0),
    ):
        if value < least:
            problems.append(Problem(f"found {value}; expected {least} or more", path=flag))
    if request.sequence * request.batch > MOST_TOKENS:
        found = f"found {request.batch} sequences of {request.sequence} tokens"
        problems.append(Problem(f"{found}; expected at most {MOST_TOKENS} tokens in all", path="--batch"))
    if request.generate and request.phase != "decode":
        problems.append(Problem(f"found {request.generate}; only decode generates tokens", path="--generate"))
    if problems:
        raise InputError(problems)
