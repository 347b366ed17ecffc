"""Prefill and decode apart: bytes over real links, room at the other end, and nothing lost on the way."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.library import load_system
from hw_configs.problems import InputError
from simulator.serving.apart import AttentionApart, AttentionWire
from simulator.serving.cluster import run_service
from simulator.serving.service import Failure, FrontEnd, Service
from simulator.serving.step import ScheduledStep
from simulator.serving.views import decode_view, prefill_view
from simulator.serving.wires import Wires
from tests.serving.counts import Affine, Receiving, worker
from tests.serving.test_cluster import request_tables
from workloads.requests import make_requests


@cache
def node():
    return load_system("dgx-h100")


def split(prefill: int = 1, decode: int = 1, *, failures=(), transfer="layers", **changes) -> Service:
    """An xPyD service on the GPUs of a DGX; caches of 4 tokens a block."""
    workers = [
        worker(f"{role}{i}", role=role, devices=(f"gpu{number}",), layers=changes.get("layers", 4),
               block_bytes=changes.get("block_bytes", 4e6), blocks=changes.get(f"{role}_blocks", 64),
               budget=changes.get("budget", 32), **({"make": changes["make"]} if "make" in changes else {}))
        for number, (role, i) in enumerate(
            [("prefill", i) for i in range(prefill)] + [("decode", i) for i in range(decode)]
        )
    ]  # fmt: skip
    return Service(tuple(workers), system=node(), failures=tuple(failures), transfer=transfer, keep_gaps=True)


def holds(requests, service, record) -> None:
    """Everything is answered once, and every cache went over the wires once, whole."""
    columns, transfers = record.requests, record.transfers
    assert columns.tokens.tolist() == requests.output_tokens.tolist()
    assert record.gaps.total == int((columns.tokens - 1).sum())
    # The last token of a retried request may be the one that its new prefill worker gives.
    more = (requests.output_tokens > 1) & (columns.retries == 0)
    arrived = transfers.lost == 0
    counts = np.bincount(transfers.request[arrived], minlength=requests.count)
    assert (counts >= more).all()
    if not service.failures:
        assert counts.tolist() == (requests.output_tokens > 1).astype(int).tolist()
    size = service.workers[0].space.block_bytes
    which = transfers.request[arrived]
    blocks = -(-requests.prompt_tokens[which] // 4)
    again = columns.retries[which] > 0
    sent = transfers.bytes[arrived] / size
    assert sent[~again] == pytest.approx(blocks[~again], rel=1e-9)
    # A retried request's prompt is longer by the tokens that its client had.
    most = -(-(requests.prompt_tokens + requests.output_tokens)[which] // 4)
    assert ((sent >= blocks * (1 - 1e-9)) & (sent <= most * (1 + 1e-9))).all()
    roles = np.array([one.role for one in service.workers])
    assert (roles[columns.replica[more]] == "decode").all()
    assert (roles[columns.prefill_replica] == "prefill").all()
    assert (transfers.end_s >= transfers.begin_s).all()
    rate = 450e9
    seconds = (transfers.end_s - transfers.begin_s)[arrived]
    assert (seconds >= transfers.bytes[arrived] / rate * (1 - 1e-9)).all()
    # The decode worker never answers before the cache is there.
    second = columns.last_token_s[more]
    assert (second > columns.first_token_s[more] + columns.transfer_s[more]).all()


@given(
    request_tables(12), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["layers", "end"]),
    st.booleans(), st.sampled_from([4e6, 4e9]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_everything_is_answered_once_and_bytes_are_conserved(
    requests, prefill, decode, transfer, failing, size
) -> None:
    failures = (Failure(0, 0.31, 0.83), Failure(prefill, 0.52, 1.37)) if failing else ()
    service = split(prefill, decode, failures=failures, transfer=transfer, block_bytes=size)
    record = run_service(requests, service)
    holds(requests, service, record)
    assert record.to_bytes() == run_service(requests, service).to_bytes()


@pytest.mark.parametrize(("part", "column", "value"), [
    ("requests", "tokens", 4), ("requests", "replica", 0), ("requests", "prefill_replica", 1),
    ("requests", "transfer_s", 50.0), ("transfers", "bytes", 3.0), ("transfers", "lost", 1),
    ("transfers", "request", 1), ("transfers", "end_s", 0.0),
])  # fmt: skip
def test_each_guard_trips(part, column, value) -> None:
    requests, service = make_requests([8, 9], [5, 5]), split()
    record = run_service(requests, service)
    holds(requests, service, record)
    getattr(getattr(record, part), column)[0] = value
    with pytest.raises(AssertionError):
        holds(requests, service, record)


def test_a_transfer_by_hand() -> None:
    """A prompt of 8 tokens: 0.018 s, then 2 blocks at the links' rate, then steps of a token."""
    requests = make_requests([8], [3])
    for transfer in ("end", "layers"):
        record = run_service(requests, split(transfer=transfer, block_bytes=450e6, layers=4))
        columns = record.requests
        assert columns.first_token_s[0] == pytest.approx(0.018)
        path = Wires(node(), _Clock()).table.path("gpu0", "gpu1")
        rate = min(_capacity(path))
        # At the end: all 900 MB. By layers: three quarters go while the step computes, the last when it is over.
        size = 900e6 if transfer == "end" else 225e6
        assert columns.transfer_s[0] == pytest.approx(size / rate + path.latency_s, rel=1e-9)
        assert columns.last_token_s[0] == pytest.approx(0.018 + columns.transfer_s[0] + 2 * 0.011)
        assert record.transfers.begin_s[0] == (pytest.approx(0.018) if transfer == "end" else 0.0)
        assert record.transfers.joules[0] > 0


def test_a_worker_for_decode_that_answers_the_client_by_hand() -> None:
    """The first token comes with the second; a front end and the handover add what they take."""
    requests = make_requests([8, 8], [3, 1], [0.0, 100.0])
    plain = run_service(requests, split(transfer="end", block_bytes=450e6)).requests
    told = replace(
        split(transfer="end", block_bytes=450e6),
        first_token="decode",
        handover_s=0.5,
        front_end=FrontEnd(0.1, 0.05),
    )
    late = run_service(requests, told).requests
    # 0.1 s and 8 tokens of 0.05 s before the prompt, 0.5 s behind the wire, then the step of the second token.
    assert late.first_token_s[0] == pytest.approx(0.5 + 0.018 + plain.transfer_s[0] + 0.5 + 0.011)
    assert late.last_token_s[0] == pytest.approx(late.first_token_s[0] + 0.011)
    assert late.tokens.tolist() == [3, 1]
    # A request for one token has no decode worker to wait for.
    assert late.first_token_s[1] == pytest.approx(100.5 + 0.018)


class _Clock:
    now = 0.0


def _capacity(path):
    table = Wires(node(), _Clock()).table
    return [table.capacity[name] / weight for name, weight in path.load.items()]


def test_a_slow_wire_holds_layers_up() -> None:
    """Where the wire is slower than the prompt, overlap hides all but what is left when the prompt is done."""
    requests = make_requests([8], [3])
    seconds = {
        transfer: run_service(requests, split(transfer=transfer, block_bytes=45e9)).requests.transfer_s[0]
        for transfer in ("end", "layers")
    }
    hidden = 0.018 * 3 / 4
    assert seconds["layers"] == pytest.approx(seconds["end"] - hidden, rel=1e-3)


def test_transfers_share_the_target_s_link() -> None:
    """Two prompts from two workers to one: together they take twice as long as one alone."""
    alone = run_service(make_requests([8], [3]), split(2, 1, transfer="end", block_bytes=45e9))
    both = run_service(make_requests([8, 8], [3, 3]), split(2, 1, transfer="end", block_bytes=45e9))
    apart = run_service(make_requests([8, 8], [3, 3]), split(2, 2, transfer="end", block_bytes=45e9))
    seconds = alone.requests.transfer_s[0]
    assert both.requests.transfer_s == pytest.approx([2 * seconds] * 2, rel=1e-3)
    assert apart.requests.transfer_s == pytest.approx([seconds] * 2, rel=1e-6)


def test_shards_go_beside_each_other() -> None:
    """Two devices on either side have two links."""
    requests = make_requests([8], [3])
    pairs = {"prefill": ("gpu0", "gpu1"), "decode": ("gpu2", "gpu3")}
    wide = Service(
        tuple(worker(role, role=role, devices=pairs[role], block_bytes=45e9) for role in pairs),
        system=node(), transfer="end",
    )  # fmt: skip
    narrow = run_service(requests, split(transfer="end", block_bytes=45e9)).requests.transfer_s[0]
    assert run_service(requests, wide).requests.transfer_s[0] == pytest.approx(narrow / 2, rel=1e-3)


def test_decode_that_is_full_stops_prefill() -> None:
    """Back-pressure: prefill keeps what decode has no room for, and then computes no more."""
    requests = make_requests(np.full(30, 32), np.full(30, 60), 0.0)
    free = run_service(requests, split(decode_blocks=64 * 30, prefill_blocks=64))
    full = run_service(requests, split(decode_blocks=30, prefill_blocks=64))
    assert free.requests.first_token_s.max() < 2
    # Six prompts of 8 blocks fit beside a step of 8; the others wait for decode.
    waiting = np.sort(full.requests.first_token_s)
    assert waiting[-1] > 5 * free.requests.first_token_s.max()
    assert (full.requests.tokens == 60).all()
    prefill = full.steps.replica == 0
    starts = full.steps.start_s[prefill]
    arrived = np.sort(full.transfers.end_s)
    computed = np.searchsorted(starts, arrived)
    assert (computed - np.arange(30) <= 8).all()


def test_a_scheduler_that_takes_caches_has_its_budget_for_itself() -> None:
    """Ten caches of 32 tokens come at once: one that counts them admits one a step, one that takes them all."""
    requests = make_requests(np.full(6, 31), np.full(6, 12), 0.0)
    steps = {}
    for make in (None, Receiving):
        extra = {"make": make} if make else {}
        record = run_service(requests, split(1, 1, decode_blocks=200, **extra))
        holds(requests, split(1, 1), record)
        decode = record.steps.replica == 1
        assert (record.steps.tokens[decode] <= 6).all()
        assert (record.steps.prefill_tokens[decode] == 0).all()
        steps[make] = int(decode.sum())
    assert steps[Receiving] <= steps[None]


def test_a_preempted_request_is_computed_again_where_it_is() -> None:
    requests = make_requests(np.full(4, 20), np.full(4, 60), 0.0)
    record = run_service(requests, split(decode_blocks=48, budget=64))
    assert record.requests.preemptions.sum() > 0
    decode = record.steps.replica == 1
    assert record.steps.prefill_tokens[decode].sum() > 0
    holds(requests, split(), record)


def test_views_keep_all_but_the_lengths() -> None:
    requests = make_requests([5, 3], [4, 1], prompts=[[(7, 2), (8, 3)], [(7, 3)]])
    prefill, decode = prefill_view(requests), decode_view(requests)
    assert prefill.output_tokens.tolist() == [1, 1]
    assert decode.prompt_tokens.tolist() == [6, 4]
    assert decode.output_tokens.tolist() == [3, 1]
    assert decode.segment_stream[decode.segment_begin[0] : decode.segment_begin[1]].tolist()[:2] == [7, 8]
    assert decode.segment_tokens.tolist() == [2, 3, 1, 3, 1]
    assert len(set(decode.segment_stream.tolist())) == 4


def test_prefill_and_decode_apart_need_a_system() -> None:
    with pytest.raises(InputError, match="need a system"):
        Service((worker(role="prefill"), worker(role="decode")))
    with pytest.raises(InputError, match="no device 'gpu9'"):
        Service(
            (worker(role="prefill", devices=("gpu0",)), worker(role="decode", devices=("gpu9",))),
            system=node(),
        )


def step(tokens: int) -> ScheduledStep:
    none = np.zeros(1, np.int64)
    return ScheduledStep(none, np.array([tokens]), none, none, np.array([True]), none - 1)


class TestAttentionApart:
    """A layer of all batches takes what its busiest part takes."""

    def price(self, batches: int, sets: int = 1, model=0.004, attention=0.004, **wire):
        fields = {"bytes_per_s": 1e9, "latency_s": 1e-5, "out_bytes": 1e3, "back_bytes": 1e3, **wire}
        apart = AttentionApart(Affine(model, 0), Affine(attention, 0), AttentionWire(**fields), 10, sets)
        return apart.price_groups([step(100)] * batches)

    def test_one_batch_waits_for_everything(self) -> None:
        assert self.price(1).seconds == pytest.approx(0.008 + 2 * 10 * 1e-4 + 2 * 10 * 1e-5)

    def test_two_batches_share_what_is_busiest(self) -> None:
        assert self.price(2, latency_s=0.0, out_bytes=0.0, back_bytes=0.0).seconds == pytest.approx(0.008)
        assert self.price(2, model=0.01).seconds == pytest.approx(0.02)
        assert self.price(2, attention=0.01).seconds == pytest.approx(0.02)
        assert self.price(2, out_bytes=1e5).seconds == pytest.approx(2 * 10 * 100 * 1e5 / 1e9)
        assert self.price(2, back_bytes=1e5).seconds == pytest.approx(2 * 10 * 100 * 1e5 / 1e9)

    def test_more_sets_of_model_workers_let_more_batches_turn(self) -> None:
        """Staggered: n batches, n - 1 sets; attention takes 1 / (n - 1) of the model's time."""
        quick = {"latency_s": 0.0, "out_bytes": 0.0, "back_bytes": 0.0}
        assert self.price(3, 2, model=0.008, attention=0.004, **quick).seconds == pytest.approx(0.012)
        assert self.price(3, 1, model=0.008, attention=0.004, **quick).seconds == pytest.approx(0.024)

    def test_a_service_of_two_batches(self) -> None:
        fields = AttentionWire(bytes_per_s=1e9, latency_s=0.0, out_bytes=0.0, back_bytes=0.0)
        apart = AttentionApart(Affine(0.01, 0.0), Affine(0.01, 0.0), fields, 10)
        requests = make_requests(np.full(8, 8), np.full(8, 20), 0.0)
        one, two = (
            run_service(requests, Service((worker(pricer=apart, groups=groups, seqs=4, budget=64),)))
            for groups in (1, 2)
        )
        assert one.requests.tokens.tolist() == two.requests.tokens.tolist() == [20] * 8
        assert two.end_s == pytest.approx(one.end_s / 2)

    def test_a_wire_without_bandwidth_is_refused(self) -> None:
        with pytest.raises(InputError, match="above 0"):
            AttentionWire(bytes_per_s=0.0, latency_s=0.0, out_bytes=0.0, back_bytes=0.0)
