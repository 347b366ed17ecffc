"""What can be asked of a service beside its model, machine and requests: engine, layout, workers, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict

from hw_configs.problems import InputError, Problem, bad_input, nearest
from hw_configs.typed_fields import wrong_types
from hw_configs.units import UnitError, parse_quantity
from hw_configs.whole_number import integer
from simulator.serving.service import Failure
from simulator.serving.settings import ENGINES, Layout
from simulator.serving.slo import Slo, parse_slo

__all__ = ["ServeChoices", "ServeOptions", "parse_failure"]

if TYPE_CHECKING:
    from offchip.serving.pools import Pools

MOST_WORKERS: Final = 4096
MOST_BATCHES: Final = 16
OF_A_POOL: Final = (
    "tp", "pp", "ep", "dp", "replicas", "prefill_workers", "decode_workers", "host_cache", "drive_cache",
    "attention_hw", "attention_workers", "attention_wire", "mapper",
)  # fmt: skip
"""Options that pools have of their own."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of a service.

    ``settings``: of the engine, by name (``--set``). ``tp``, ``pp``, ``ep``, ``dp``: devices that share each product,
    stages, groups of experts, groups of data-parallel attention. ``prefill_workers`` and ``decode_workers``: both above
    0 puts prefill and decode apart. ``fail``: ``WORKER@TIME[:RETURN]``, such as ``0@30s:60s``. ``slo``: such as
    ``ttft=200ms,tpot=30ms,attainment=90%``. ``seed``: in place of the description's own. ``strict``: refuse requests
    that can never be answered in place of rejecting them. ``host_cache``, ``drive_cache``: of each worker, for caches
    of preempted requests: ``64GiB``, ``DRIVE:1TiB``. ``attention_hw``, ``attention_workers``, ``attention_wire``,
    ``attention_batches``: attention apart from the rest, on so many devices of each worker, over a link by name or a
    bandwidth, with so many batches in turn. ``pools``: workers of unlike hardware (:mod:`offchip.serving.pools`), in
    place of a machine and a layout. ``mapper``: steps cost what the plans of this mapper do on the whole machine;
    without GPUs ``pim`` or ``single-device`` where none is named.
    """

    engine: str = "vllm"
    version: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1
    replicas: int = 1
    routing: str = "round-robin"
    prefill_workers: int = 0
    decode_workers: int = 0
    fail: Sequence[str] = ()
    slo: str = ""
    dtype: str | None = None
    kv_dtype: str | None = None
    seed: int | None = None
    strict: bool = False
    host_cache: str = ""
    drive_cache: str = ""
    attention_hw: str = ""
    attention_workers: int = 0
    attention_wire: str = ""
    attention_batches: int = 2
    mapper: str = ""
    pools: Pools | Sequence[object] | Mapping[str, object] | str | Path | None = None

    def __post_init__(self) -> None:
        problems = wrong_types(self)
        if isinstance(self.fail, str) or not isinstance(self.fail, Sequence):
            problems.append(
                Problem(f"found {self.fail!r:.80}; expected a list of WORKER@TIME[:RETURN]", path="--fail")
            )
        if problems:
            raise InputError(problems)
        if self.engine not in ENGINES:
            raise bad_input(f"found {self.engine!r}; known: {', '.join(ENGINES)}", path="--engine",
                            suggestion=nearest(self.engine, ENGINES))  # fmt: skip
        least = {"tp": 1, "pp": 1, "ep": 1, "dp": 1, "replicas": 1, "prefill_workers": 0, "decode_workers": 0,
                 "attention_workers": 0}  # fmt: skip
        problems = [
            Problem(
                f"found {getattr(self, name)}; expected {low} to {MOST_WORKERS}",
                path=f"--{name.replace('_', '-')}",
            )
            for name, low in least.items()
            if not low <= getattr(self, name) <= MOST_WORKERS
        ]
        if (self.prefill_workers > 0) != (self.decode_workers > 0):
            problems.append(Problem("go together: prefill and decode apart need workers for both",
                                    path="--prefill-workers, --decode-workers"))  # fmt: skip
        elif self.prefill_workers and self.replicas > 1:
            problems.append(Problem("stands beside workers for prefill and decode; give the number of each",
                                    path="--replicas"))  # fmt: skip
        problems += _apart_problems(self)
        if self.seed is not None and not 0 <= self.seed < 2**32:
            problems.append(Problem(f"found {self.seed}; expected 0 to {2**32 - 1}", path="--seed"))
        problems += _unknown_to_engine(self)
        if problems:
            raise InputError(problems)
        if self.pools is not None:
            from offchip.serving.pools import pools_of

            object.__setattr__(self, "pools", pools_of(self.pools))
        _ = self.limits, self.failures

    @property
    def apart(self) -> bool:
        """Whether prefill and decode are on different workers."""
        if self.pool_file is not None:
            return self.pool_file.pools[0].role != "both"
        return self.prefill_workers > 0

    @property
    def pool_file(self) -> Pools | None:
        """The pools, read."""
        from offchip.serving.pools import Pools

        return self.pools if isinstance(self.pools, Pools) else None

    @property
    def workers(self) -> int:
        """Number of workers."""
        if self.pool_file is not None:
            return self.pool_file.workers
        return self.prefill_workers + self.decode_workers if self.apart else self.replicas

    @property
    def layout(self) -> Layout:
        """How each worker lies on devices."""
        return Layout(
            tp=self.tp, pp=self.pp, attention_dp=self.dp, moe_ep=self.ep, moe_tp=self.tp * self.dp // self.ep
        )

    @property
    def limits(self) -> Slo:
        """The limits; none where none are stated."""
        return parse_slo(self.slo) if self.slo else Slo()

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Failures of workers."""
        found = tuple(parse_failure(text) for text in self.fail)
        for failure in found:
            if failure.worker >= self.workers:
                message = f"found worker {failure.worker}; expected 0 to {self.workers - 1}"
                raise bad_input(message, path="--fail")
        return found

    def describe_layout(self) -> str:
        """The layout in words."""
        words = [f"tp {self.tp}"]
        if self.mapper:
            words = [f"plans by {self.mapper}"]
        if self.attention_workers:
            words.append(f"attention apart on {self.attention_workers} {Path(self.attention_hw).stem}")
        words += [f"{name} {getattr(self, name)}" for name in ("pp", "ep", "dp") if getattr(self, name) > 1]
        kind = (
            f"{self.prefill_workers} prefill and {self.decode_workers} decode workers"
            if self.apart
            else f"{self.replicas} replicas" if self.replicas > 1 else ""
        )  # fmt: skip
        return ", ".join([*words, kind] if kind else words)


class ServeChoices(TypedDict, total=False):
    """The fields of :class:`ServeOptions`, as keywords."""

    engine: str
    version: str
    settings: Mapping[str, object]
    tp: int
    pp: int
    ep: int
    dp: int
    replicas: int
    routing: str
    prefill_workers: int
    decode_workers: int
    fail: Sequence[str]
    slo: str
    dtype: str | None
    kv_dtype: str | None
    seed: int | None
    strict: bool
    host_cache: str
    drive_cache: str
    attention_hw: str
    attention_workers: int
    attention_wire: str
    attention_batches: int
    mapper: str
    pools: Pools | Sequence[object] | Mapping[str, object] | str | Path | None


def _apart_problems(asked: ServeOptions) -> list[Problem]:
    """What does not go together with attention apart, or with pools."""
    problems = []
    given = (bool(asked.attention_hw), asked.attention_workers > 0, bool(asked.attention_wire))
    if any(given) and not all(given):
        problems.append(Problem("go together: attention apart needs its devices, their number and a wire",
                                path="--attention-hw, --attention-workers, --attention-wire"))  # fmt: skip
    if any(given) and asked.prefill_workers:
        problems.append(Problem("stands beside workers for prefill and decode; a pools file puts both apart",
                                path="--attention-hw"))  # fmt: skip
    if not 1 <= asked.attention_batches <= MOST_BATCHES:
        problems.append(Problem(f"found {asked.attention_batches}; expected 1 to {MOST_BATCHES}",
                                path="--attention-batches"))  # fmt: skip
    if asked.pools is not None:
        fresh = {f.name: f.default for f in fields(ServeOptions)}
        problems += [
            Problem("cannot stand beside --pools, whose pools say it", path=f"--{name.replace('_', '-')}")
            for name in OF_A_POOL
            if getattr(asked, name) != fresh[name]
        ]
    return problems


def _unknown_to_engine(asked: ServeOptions) -> list[Problem]:
    """Layouts that an engine does not offer, each with the engine's own rule.

    vLLM lays experts over all devices of a replica or none (``enable_expert_parallel``); SGLang's expert groups divide
    them (``ep_size``); TensorRT-LLM's attention is data parallel over all devices or none (``enable_attention_dp``).
    """
    devices, ep = asked.tp * asked.dp, asked.ep
    if devices % ep:
        return [Problem(f"found {ep}; expected a divisor of tp x dp = {devices}", path="--ep")]
    if asked.engine == "vllm" and ep not in (1, devices):
        return [
            Problem(
                f"found {ep}; vllm knows expert parallelism over all of tp x dp = {devices} or none",
                path="--ep",
            )
        ]
    if asked.engine == "trtllm" and asked.dp > 1 and asked.tp > 1:
        rule = "trtllm knows data-parallel attention over all devices, with --tp 1"
        words = f"found {asked.dp} beside --tp {asked.tp}; {rule}"
        return [Problem(words, path="--dp")]
    if asked.engine == "sglang" and asked.pp > 1 and asked.dp > 1:
        return [Problem(f"found {asked.pp} beside --dp {asked.dp}; sglang has no pipeline with data-parallel attention",
                        path="--pp")]  # fmt: skip
    return []


def parse_failure(text: str) -> Failure:
    """A failure from ``WORKER@TIME[:RETURN]``, both times from the beginning of the run.

    >>> parse_failure("1@30s:45s")
    Failure(worker=1, at_s=30.0, back_s=45.0)
    """
    who, at, when = text.partition("@")
    worker = integer(who, 0, MOST_WORKERS)
    if not at or worker is None:
        raise bad_input(
            f"found {text[:60]!r}; expected WORKER@TIME[:RETURN], such as 0@30s:60s", path="--fail"
        )
    begin, colon, back = when.partition(":")
    try:
        start = parse_quantity(begin, "time")
        end = parse_quantity(back, "time") if colon else float("inf")
    except UnitError as error:
        raise bad_input(f"{error}", path="--fail") from None
    if not 0 <= start < end:
        raise bad_input(
            f"found {text[:60]!r}; expected a return after the failure, both at 0 s or later", path="--fail"
        )
    return Failure(worker, start, end)
