"""InstInfer (InstAttention): decode attention inside computational storage, against offloading to plain drives.

Pan et al., arXiv:2409.04992v1; HPCA 2025, doi:10.1109/HPCA61900.2025.00113. An A6000 computes everything but the
attention of decode; the KV cache lies in emulated drives with eight channels of 1.4 GB/s behind PCIe 4.0 x4.
The baselines run by mechanism on the same machine with plain drives: FlexGen reads the cache through mapped
files, DeepSpeed keeps it in GPU or host memory as long as it fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Final

from hw_configs.device import ComputationalStorage
from hw_configs.library import load_device
from hw_configs.problems import InfeasibleError
from hw_configs.system import System
from offchip.studies.graph_pricer import GraphPricer
from offchip.studies.offloaded_generation import Generation, decode_step, generation
from offchip.studies.phase_times import cache_bytes, usable_bytes, weight_bytes
from offchip.studies.study import Basis, Claim, ClaimResult, Outcome, Study, StudyTable, compare
from offchip.sweep.machine import Machines, Value
from simulator.csd.attention import AttentionWork, attention_step
from simulator.csd.endurance import kv_bytes_per_token, tokens_until_wear_out
from simulator.csd.kv_layout import SparseChoice
from simulator.flash.patterns import DrivePattern, drive_rate
from simulator.serving.cluster import run_service
from simulator.serving.replica import Worker
from simulator.serving.scheduler import SCHEDULERS, KvSpace
from simulator.serving.service import Service
from simulator.serving.settings import EngineSettings
from workloads.requests import make_requests

__all__ = ["STUDY"]

MODEL: Final = "opt-13b"
PROMPT: Final = 1024
LAYERS: Final = 40
FITTED_BATCH: Final = 64
SHARES: Final = {(1, False): 80.7, (2, False): 76.4, (1, True): 82.3, (2, True): 74.0}
"""Published share of KV access in a decode step, per cent, by drives and whether it is sparse."""
IN_STORAGE: Final = {"kv": "csd", "attend": "drive"}
SPARSE: Final = {**IN_STORAGE, "kept": "0.125", "groups": "0.5"}
MAPPED_FILES: Final = {"kv": "ssd", "attend": "gpu", "chunk": "128 KiB", "readers": "2"}
"""FlexGen's released code maps a file per tensor and copies K and V by one thread each; 128 KiB is the default
read-ahead of Linux."""
HOST_ROWS_OF_96_GIB: Final = 98304
"""Rows per bank with which the machine's host memory has 96 GiB instead of 128."""
HOST_MEMORY: Final = {"kv": "host", "attend": "gpu"}
SEEN: Final = (
    "That filters work while pages flow past them was settled after the sparse rows had been seen. With filters after "
    "the loads, as the rest of the drive is, SparF over InstA is 1.00, 20 drives over one 9.49 and the shares of one "
    "and two drives 55 and 52 %; so this row is no clean validation."
)
"""What the sparse rows rest on."""
_PAPER: Final = "InstAttention, HPCA 2025, doi:10.1109/HPCA61900.2025.00113"


@dataclass(frozen=True, slots=True)
class _Machines:
    """The study's machines: drives with engines, or plain drives in their place."""

    machines: Machines

    def csd(self, count: int) -> System:
        return self.machines.system("csd-node", {"csd.count": count})

    def ssd(self, count: int, host_rows: int | None = None) -> System:
        """With plain drives; ``host_rows`` per bank of host memory instead of the shipped ones."""
        changes: dict[str, Value] = {
            "csd.count": count,
            "csd.use": "nvme-pcie4-tlc",
            "host.organisation.rows": host_rows,
        }
        return self.machines.system("csd-node", changes)


@cache
def _machines() -> _Machines:
    return _Machines(Machines())


def _run_of(system: System, batch: int, settings: Mapping[str, str]) -> Generation:
    return generation(MODEL, system, batch, PROMPT, PROMPT, settings)


def _in_storage(system: System, batch: int, settings: Mapping[str, str]) -> Generation:
    """A generation with attention in drives, with the host's time of every decode step."""
    found = _run_of(system, batch, settings)
    return replace(found, decode_s=found.decode_s + (PROMPT - 1) * _host_s() * batch / FITTED_BATCH)


@cache
def _host_s() -> float:
    """Seconds of host software in a decode step of :data:`FITTED_BATCH` sequences, from two published shares alone.

    With one drive KV access is 80.7 % of a dense step, with two, each with half of it, 76.4 %. A step of
    ``a + (KV + b) / n`` then has ``a = KV (1 / 0.764 - 1 / 0.807)``. What our own step has beside the drives is part of
    ``a``; the rest is host software, taken as proportional to the sequences.
    """
    m, device = _machines(), load_device("instinfer-csd")
    assert isinstance(device, ComputationalStorage)
    stages = attention_step(device, _work(FITTED_BATCH, False)).stages
    access = LAYERS * (stages.load_s + stages.program_s)
    fixed = access * (1 / SHARES[2, False] - 1 / SHARES[1, False]) * 100
    one, two = (
        decode_step(MODEL, m.csd(count), FITTED_BATCH, PROMPT * 3 // 2, IN_STORAGE).makespan_s
        for count in (1, 2)
    )
    return max(0.0, fixed - (2 * two - one))


def _deepspeed(system: System, batch: int) -> Generation | None:
    """DeepSpeed-style: the cache in GPU memory, else in host memory, else on the drive without overlap of reads."""
    room = {"room": str(PROMPT)}
    for settings in (
        {"kv": "gpu", **room},
        {**HOST_MEMORY, **room},
        {**MAPPED_FILES, "readers": "1", "ahead": "1"},
    ):
        try:
            return _run_of(system, batch, settings)
        except InfeasibleError:
            continue
    return None


def _claim(
    id: str,
    statement: str,
    published: float,
    ours: float | None,
    method: str,
    differences: str,
    unit: str = "",
    basis: Basis = "mechanism",
) -> ClaimResult:
    claim = Claim(id, statement, published, unit, _PAPER, "published", basis)
    return compare(claim, ours, method, differences)


_fitted = partial(_claim, basis="construction")
"""A claim that rests on the host software of a step or on the firmware's time of a page."""


def _throughputs() -> tuple[dict[tuple[str, int], Generation], list[StudyTable]]:
    """Every run by (scheme, batch), and the table of them."""
    m = _machines()
    runs: dict[tuple[str, int], Generation] = {}
    for batch in (16, 32, 64):
        runs["FlexGen", batch] = _run_of(m.ssd(1), batch, MAPPED_FILES)
        runs["FlexGen, 2 drives", batch] = _run_of(m.ssd(2), batch, {**MAPPED_FILES, "readers": "1"})
    for batch in (4, 8, 16, 32):
        found = _deepspeed(m.ssd(1), batch)
        if found is not None:
            runs["DeepSpeed", batch] = found
    for batch in (16, 64, 256):
        for count in (1, 2):
            drives = "" if count == 1 else f", {count} drives"
            runs[f"InstA{drives}", batch] = _in_storage(m.csd(count), batch, IN_STORAGE)
            runs[f"SparF{drives}", batch] = _in_storage(m.csd(count), batch, SPARSE)
    for scheme, settings in (("InstA", IN_STORAGE), ("SparF", SPARSE)):
        runs[f"{scheme}, 20 drives", 256] = _in_storage(m.csd(20), 256, settings)
    rows = tuple(
        (scheme, batch, g.tokens_per_s, g.prefill_s, g.decode_s) for (scheme, batch), g in runs.items()
    )
    columns = ("scheme", "batch", "tokens/s", "prefill s", "decode s")
    return runs, [StudyTable(f"OPT-13B, {PROMPT} tokens in and {PROMPT} out", columns, rows)]


def _throughput_claims(runs: dict[tuple[str, int], Generation]) -> list[ClaimResult]:
    rate = {key: g.tokens_per_s for key, g in runs.items()}

    def best(scheme: str) -> float:
        return max(value for (name, _), value in rate.items() if name == scheme)

    method = (
        "Both run on one machine; tokens of all sequences over prefill and 1023 decode steps, the steps "
        "integrated from three contexts."
    )
    path = (
        "FlexGen's host path is mapped files with 128 KiB of read-ahead and two copying threads, which gives 3.6 GB/s "
        "of the drive's 7. The published ratio, with 7.66 GB/s inside the drive, implies about 1.1 GB/s for FlexGen; "
        "what in its software costs the rest is not modelled."
    )
    sparse = (
        "The share of 16-token groups that hold a chosen token is the paper's half. Channels are chosen independently "
        "of one another, two to a page. Pages then fall to 0.62 of the dense ones, and firmware takes as long for "
        "each. How the paper's 2.08 comes about with half of the pages left is not said. " + SEEN
    )
    scaling = (
        "The part of a step that does not shrink with drives is host software, from the published shares of KV access "
        "of one and two drives alone, in proportion to the sequences; arithmetic adds to the loads of a drive. Neither "
        "was taken from this figure."
    )
    host = (
        "DeepSpeed's absolute rate is only in a figure. Here its cache moves over PCIe at the link's rate, and on the "
        "GPU while it fits, which is far faster than the published comparison allows."
    )
    less = _deepspeed(_machines().ssd(1, HOST_ROWS_OF_96_GIB), 32)
    found = "it does not run at all" if less is None else f"it runs at {less.tokens_per_s:.4g} tokens/s"
    smaller = (
        "The size of host memory is not the reason: the machine here has 128 GiB and the paper's 96 GB, and with 96 "
        f"GiB batch 32 is the same ({found}). What made the published one leave memory there is not in its text."
    )
    return [
        _fitted("insta-flexgen", "InstA over FlexGen, batch 64, one drive", 6.85,
               rate["InstA", 64] / rate["FlexGen", 64], method, path),
        _fitted("sparf-insta", "SparF over InstA, batch 256", 2.08,
               rate["SparF", 256] / rate["InstA", 256], method, sparse),
        _fitted("sparf-flexgen", "best of SparF over best of FlexGen", 11.1, best("SparF") / best("FlexGen"), method,
               path + " " + sparse),
        _fitted("insta-deepspeed", "best of InstA over best of DeepSpeed", 1.046,
               best("InstA") / best("DeepSpeed"), method, host),
        _claim("deepspeed-drop", "DeepSpeed, batch 16 over batch 32, where the cache leaves memory", 32.6,
               rate["DeepSpeed", 16] / rate["DeepSpeed", 32], method,
               f"{host} {smaller}"),
        _fitted("two-drives", "InstA on two drives at batch 256 over FlexGen's best on two", 10.5,
               rate["InstA, 2 drives", 256] / best("FlexGen, 2 drives"), method, path),
        _claim("flexgen-two-drives", "FlexGen on two drives over one, batch 64 (no gain)", 1.0,
               rate["FlexGen, 2 drives", 64] / rate["FlexGen", 64], method,
               "The two copying threads are dealt to the drives; each still waits for one read-ahead at a time."),
        _fitted("scaling-dense", "20 drives over one, dense, batch 256", 8.99,
               rate["InstA, 20 drives", 256] / rate["InstA", 256], method, scaling),
        _fitted("scaling-sparse", "20 drives over one, sparse, batch 256", 7.29,
               rate["SparF, 20 drives", 256] / rate["SparF", 256], method, f"{scaling} {SEEN}"),
    ]  # fmt: skip


def _work(batch: int, sparse: bool) -> AttentionWork:
    choice = SparseChoice(0.125, 0.125, 0.5) if sparse else None
    return AttentionWork(batch, 40, 40, 128, PROMPT * 3 // 2, choice=choice)


def _share_claims() -> tuple[list[ClaimResult], StudyTable]:
    """Share of a decode step that goes to the KV cache: flash reads in the drive, or transfers to the GPU."""
    m, device = _machines(), load_device("instinfer-csd")
    assert isinstance(device, ComputationalStorage)
    context = PROMPT * 3 // 2
    claims, rows = [], []
    method = (
        "Seconds in which the drive's flash stage works, over the step's seconds, batch 64, context 1536."
    )
    differences = (
        "Host software of a step is set by the two published dense shares; the arithmetic beside it is the engines' "
        "published rates. What the paper counts beside KV access is not said."
    )
    for (count, sparse), share in SHARES.items():
        step = (
            decode_step(MODEL, m.csd(count), 64, context, SPARSE if sparse else IN_STORAGE).makespan_s
            + _host_s()
        )
        stages = attention_step(device, _work(64 // count, sparse)).stages
        load = LAYERS * (stages.load_s + stages.program_s)
        engines = LAYERS * stages.compute_s
        name = f"{'SparF' if sparse else 'InstA'}, {count} drive{'s' if count > 1 else ''}"
        rows.append((name, step, 100 * load / step, 100 * engines / step))
        claims.append(
            _claim(f"share-{'sparse' if sparse else 'dense'}-{count}", f"KV access in a decode step, {name}", share,
                   100 * load / step, method, f"{differences} {SEEN}" if sparse else differences, "%", "construction")
        )  # fmt: skip
    flexgen = decode_step(MODEL, m.ssd(1), 64, context, MAPPED_FILES)
    line = flexgen.timeline
    moved = sum(
        e - s for s, e, k in zip(line.start, line.end, line.operator_kind, strict=True) if k == "transfer"
    )
    streams = len(
        {s for s, k in zip(line.stream, line.operator_kind, strict=True) if k == "transfer" and "->gpu" in s}
    )
    share = 100 * min(1.0, moved / max(streams, 1) / flexgen.makespan_s)
    rows.append(("FlexGen", flexgen.makespan_s, share, 0.0))
    claims.append(_claim("share-flexgen", "KV access in a decode step, FlexGen", 98.9, share,
                         "Busy time of the drive's copies over the step's seconds.", "None known.", "%"))  # fmt: skip
    table = StudyTable(
        "Share of KV access in decode, batch 64",
        ("scheme", "step s", "KV access %", "engines %"),
        tuple(rows),
    )
    return claims, table


def _device_claims() -> list[ClaimResult]:
    device = load_device("instinfer-csd")
    assert isinstance(device, ComputationalStorage)
    step = attention_step(device, _work(64, False))
    read = step.read_bytes / step.stages.load_s
    written = drive_rate(device, DrivePattern("write", "sequential", 1 << 20, 32)).bandwidth_bytes_per_s
    inside = "Pages of 4 KiB, striped over all channels; firmware's time for each is set by this figure."
    assumed = "Dies per channel and array times are not published; dies are chosen so that single pages fill a channel."
    drives = [device] * 4
    scaled = [
        d.model_copy(update={"store": d.store.model_copy(update={"capacity": 2.0 * 2**40})}) for d in drives
    ]
    tokens = tokens_until_wear_out(scaled, kv_bytes_per_token(40, 5120))
    return [
        _claim("read-bandwidth", "bandwidth of decode reads inside the drive", 7.66e9, read, inside, assumed, "B/s",
               "construction"),
        _claim("write-bandwidth", "bandwidth of prefill writes", 3.78e9, written,
               "Sequential writes of 1 MiB, 32 in flight, over PCIe.", assumed, "B/s"),
        _claim("endurance", "tokens until four drives of 2 TiB are worn out", 3.2263877e10, tokens,
               "Capacity times 3000 erases over 819 200 B per token of OPT-13B, write amplification 1.",
               "K is counted once, as the paper does; a second copy for SparF costs half as much again.", "tokens",
               "counting"),
    ]  # fmt: skip


def _ablations() -> StudyTable:
    """What each part of the drive is worth: one layer's attention at batch 64, context 1536."""
    device = load_device("instinfer-csd")
    assert isinstance(device, ComputationalStorage)
    engine = device.engine
    assert engine is not None
    dense, sparse = _work(64, False), _work(64, True)
    scattered = AttentionWork(64, 40, 40, 128, PROMPT * 3 // 2, choice=SparseChoice(0.125, 0.125))
    entries = [
        ("dense", engine, dense),
        ("dense, loads and arithmetic overlap", engine.model_copy(update={"overlap": True}), dense),
        ("dense, no firmware time", engine.model_copy(update={"page_time": 0.0}), dense),
        ("dense, one engine", engine.model_copy(update={"engines": 1}), dense),
        ("sparse", engine, sparse),
        ("sparse, loads and arithmetic overlap", engine.model_copy(update={"overlap": True}), sparse),
        ("sparse, tokens chosen independently", engine, scattered),
    ]
    for channels in (4, 8, 16):
        changed = engine.model_copy(update={"key_channels_per_page": channels})
        entries.append((f"sparse, {channels} channels of K to a page", changed, sparse))
    rows = []
    for name, changed, work in entries:
        step = attention_step(device.model_copy(update={"engine": changed}), work)
        rows.append(
            (name, step.seconds * 1e3, step.stages.load_s * 1e3, step.stages.softmax_s * 1e3, step.bound_by)
        )
    columns = ("variant", "ms per layer", "flash ms", "softmax ms", "bound by")
    return StudyTable("Ablations of attention in one drive, batch 64", columns, tuple(rows))


def _missing() -> list[ClaimResult]:
    """Claims that nothing here puts a figure to."""
    entries = (
        ("opt-30b", "OPT-30B on two GPUs, InstA over FlexGen", 4.09,
         "Two GPUs with one cache in drives: the mapper plans one GPU."),
        ("sparq", "SparF over FlexGen with SparQ on two drives", 3.11,
         "FlexGen with SparQ gathers single tokens from mapped files; how it fetches them is not published."),
    )  # fmt: skip
    return [_claim(i, s, value, None, "Not run.", reason) for i, s, value, reason in entries]


def _vllm_tokens_per_s(requests: int) -> float:
    """Tokens a second of vLLM in the GPU's memory: what does not fit waits, or is preempted and computed again."""
    token = cache_bytes(MODEL)
    room = 0.9 * usable_bytes("a6000") - weight_bytes(MODEL)
    space = KvSpace(int(room / (16 * token)), 16, 16.0 * token)
    settings = EngineSettings(
        scheduler_reserve_full_isl=False, max_num_batched_tokens=2048, max_num_seqs=requests
    )
    worker = Worker("gpu", SCHEDULERS.get("vllm"), settings, space, GraphPricer(MODEL, "a6000", 2048))
    asked = make_requests([PROMPT] * requests, PROMPT)
    record = run_service(asked, Service((worker,)))
    return float(record.requests.tokens.sum()) / record.end_s


def _vllm_claim(sparse_tokens_per_s: float) -> ClaimResult:
    theirs = _vllm_tokens_per_s(256)
    return _fitted(
        "vllm", "SparF over vLLM with recomputation, batch 256", 1.713, sparse_tokens_per_s / theirs,
        "256 requests at once under vLLM's scheduler, 0.9 of the A6000's memory, steps priced from graphs without the "
        "engine's software; against SparF on one drive.",
        f"vLLM keeps about 15 requests at work and reaches {theirs:.0f} tokens/s here, since few of them are computed "
        "again; a ratio above 1 needs a vLLM that spends nearly all of its time on recomputation, and how the paper's "
        "was set was not found.",
    )  # fmt: skip


def _llama_claim() -> ClaimResult:
    m = _machines()
    found = generation("llama-2-13b", m.csd(2), 128, 2048, 2048, IN_STORAGE)
    ours = replace(found, decode_s=found.decode_s + 2047 * _host_s() * 128 / FITTED_BATCH).tokens_per_s
    theirs = generation(
        "llama-2-13b", m.ssd(2), 16, 2048, 2048, {**MAPPED_FILES, "readers": "1"}
    ).tokens_per_s
    return _fitted("llama-2-13b", "Llama-2-13B, 2048 in and out, InstA at 128 over FlexGen at 16, two drives", 5.68,
                  ours / theirs, "As for OPT-13B, with its host software.",
                  "FlexGen's host path, as above.")  # fmt: skip


def _run() -> Outcome:
    runs, tables = _throughputs()
    shares, table = _share_claims()
    claims = [
        *_throughput_claims(runs), _llama_claim(), _vllm_claim(runs["SparF", 256].tokens_per_s), *shares,
        *_device_claims(), *_missing(),
    ]  # fmt: skip
    return Outcome(claims, [*tables, table, _ablations()])


STUDY: Final = Study(
    "instinfer",
    "InstInfer: attention of decode inside computational storage",
    "Pan et al., InstAttention: In-Storage Attention Offloading for Cost-Effective Long-Context LLM Inference, HPCA "
    "2025; preprint InstInfer, arXiv:2409.04992v1",
    "OPT-13B in FP16 on one A6000, 1024 tokens in and 1024 out per sequence. The KV cache lies in one to twenty "
    "emulated drives (8 channels of 1.4 GB/s, PCIe 4.0 x4) whose engines attend; SparF keeps an eighth of the "
    "channels and tokens. FlexGen and DeepSpeed run on the same machine with PCIe 4.0 consumer drives. Figures "
    "follow from rates of parts; host software of a step is fitted to two published shares, firmware's time of a page "
    "to the published bandwidth of reads, and the other claims are held against that. The sparse rows were seen before "
    "it was settled that filters work while pages flow past them: they are no clean validation.",
    _run,
    slow=True,
)
