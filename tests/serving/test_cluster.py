"""The loop of a service: every request ends once with its tokens, as the plain loop says, whatever happens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InfeasibleError, InputError
from simulator.serving.cluster import run_service
from simulator.serving.record import TokenGaps
from simulator.serving.scheduler import SCHEDULERS
from simulator.serving.service import Failure, Service
from simulator.serving.settings import EngineSettings, Speculation
from simulator.serving.step import StepCost, StepOutcome
from tests.serving.counts import Affine, Counts, Resuming, worker
from tests.serving.plain_cluster import plain_service
from workloads.requests import make_requests


@st.composite
def request_tables(draw, most=24):
    n = draw(st.integers(1, most))
    lengths = st.lists(st.integers(1, 60), min_size=n, max_size=n)
    prompt, output = draw(lengths), draw(lengths)
    seed = draw(st.integers(0, 1 << 30))
    random = np.random.default_rng(seed)
    arrival = np.sort(random.uniform(0, draw(st.sampled_from([1e-3, 1.0, 20.0])), n))
    columns = {}
    if draw(st.booleans()):
        after = np.array([int(random.integers(-1, i)) if i else -1 for i in range(n)])
        columns = {"after": after, "think_s": random.uniform(0, 2, n)}
    clients = draw(st.sampled_from([0, 0, 1, 3]))
    return make_requests(prompt, output, arrival, clients=clients, **columns)


@st.composite
def services(draw, failing=True):
    count = draw(st.integers(1, 4))
    make = draw(st.sampled_from([Counts, Resuming, SCHEDULERS.get("vllm"), SCHEDULERS.get("sglang")]))
    workers = tuple(
        worker(
            f"w{i}", make=make, blocks=draw(st.integers(31, 70)), budget=draw(st.sampled_from([7, 32, 200])),
            pricer=Affine(draw(st.sampled_from([0.0101, 0.0503])), 0.00107), speed=draw(st.sampled_from([1.0, 2.0])),
        )
        for i in range(count)
    )  # fmt: skip
    failures = []
    if failing:
        for i in range(count):
            for at in sorted(draw(st.lists(st.floats(0.01, 9.9), max_size=2, unique=True))):
                if failures and failures[-1].worker == i and failures[-1].back_s > at:
                    continue
                failures.append(Failure(i, at, at + draw(st.sampled_from([0.0371, 1.013, 20.017]))))
    return Service(
        workers, router=draw(st.sampled_from(["round-robin", "least-loaded"])), failures=tuple(failures),
        retry_s=draw(st.sampled_from([0.0, 0.1003])), keep_gaps=True,
    )  # fmt: skip


@given(request_tables(), services())
@settings(max_examples=120, deadline=None)
def test_it_does_what_the_plain_loop_does(requests, service) -> None:
    record, plain = run_service(requests, service), plain_service(requests, service)
    columns = record.requests
    assert columns.tokens.tolist() == requests.output_tokens.tolist() == plain.tokens
    for ours, theirs in (
        (columns.arrival_s, plain.arrival), (columns.first_token_s, plain.first), (columns.last_token_s, plain.last),
        (columns.retries, plain.retries), (columns.replica, plain.worker),
    ):  # fmt: skip
        assert ours.tolist() == theirs
    steps = zip(record.steps.replica.tolist(), record.steps.start_s.tolist(), strict=True)
    assert list(steps) == [(w, start) for w, start, _ in plain.steps]
    assert sorted(record.gaps.gap_s.tolist()) == sorted(plain.gaps)


def holds(requests, service, record) -> None:
    """What every run keeps to, whatever its rules."""
    columns, steps = record.requests, record.steps
    assert columns.tokens.tolist() == requests.output_tokens.tolist()
    assert (columns.replica >= 0).all()
    assert (columns.arrival_s >= requests.arrival_s).all()
    assert (columns.arrival_s <= columns.first_scheduled_s).all()
    assert (columns.first_scheduled_s < columns.first_token_s).all()
    assert (columns.first_token_s <= columns.last_token_s).all()
    assert (np.diff(steps.start_s) >= 0).all()
    for number, one in enumerate(service.workers):
        mine = steps.replica == number
        ends = steps.start_s[mine] + steps.seconds[mine]
        assert (steps.start_s[mine][1:] >= ends[:-1] * (1 - 1e-12)).all()
        assert (steps.free_blocks[mine] <= one.space.blocks).all()
        assert (steps.free_blocks[mine] >= 0).all()
    assert int(steps.delivered.sum()) == int(columns.tokens.sum())
    assert record.gaps.total == int((columns.tokens - 1).sum())
    assert len(record.gaps.gap_s) == (record.gaps.total if service.keep_gaps else 0)
    after = requests.after >= 0
    turns = columns.last_token_s[requests.after[after]] + requests.think_s[after]
    assert (columns.arrival_s[after] >= turns).all()


@given(request_tables(), services())
@settings(max_examples=60, deadline=None)
def test_what_every_run_keeps_to(requests, service) -> None:
    record = run_service(requests, service)
    holds(requests, service, record)
    assert run_service(requests, service).to_bytes() == record.to_bytes()


@given(request_tables(), services(failing=False))
@settings(max_examples=40, deadline=None)
def test_the_rate_is_never_above_the_best_price(requests, service) -> None:
    record = run_service(requests, service)
    best = sum(1 / one.pricer.token_s for one in service.workers)
    assert int(record.steps.tokens.sum()) <= best * record.end_s * (1 + 1e-9)


@given(request_tables(), services(failing=False))
@settings(max_examples=40, deadline=None)
def test_littles_law(requests, service) -> None:
    """Requests in the system over time = arrivals a second x mean time in the system, counted apart from each other."""
    columns = run_service(requests, service).requests
    times = np.sort(np.concatenate((columns.arrival_s, columns.last_token_s)))
    inside = (columns.arrival_s[:, None] <= times[:-1]) & (columns.last_token_s[:, None] > times[:-1])
    area = float((inside.sum(axis=0) * np.diff(times)).sum())
    assert area == pytest.approx(float((columns.last_token_s - columns.arrival_s).sum()), rel=1e-9)


def test_a_closed_loop_has_no_more_than_its_clients_at_work() -> None:
    requests = make_requests(np.arange(1, 40), 5, 0.0, clients=3)
    columns = run_service(requests, Service((worker("a"), worker("b")))).requests
    for moment in columns.arrival_s:
        assert ((columns.arrival_s <= moment) & (columns.last_token_s > moment)).sum() <= 3
    assert (np.diff(columns.arrival_s) >= 0).all()


def test_more_replicas_lose_nothing_and_end_no_later() -> None:
    requests = make_requests(np.full(60, 20), np.full(60, 10), 0.0)
    ends = [
        run_service(requests, Service(tuple(worker(str(i)) for i in range(n)))).end_s for n in (1, 2, 4, 8)
    ]
    assert ends == sorted(ends, reverse=True)
    assert ends[0] > 6 * ends[-1]


def test_groups_step_together_and_take_as_long_as_the_longest() -> None:
    requests = make_requests([8, 24], [3, 3], 0.0)
    record = run_service(requests, Service((worker("g", groups=2),)))
    holds(requests, Service((worker("g", groups=2),)), record)
    assert record.steps.seconds.tolist() == [0.01 + 0.024, 0.011, 0.011]
    assert record.steps.sequences.tolist() == [2, 2, 2]
    assert record.steps.joules[0] == pytest.approx(2 * (0.034 + 0.018))


def test_groups_are_priced_together_where_the_pricer_can() -> None:
    class Together(Affine):
        def price_groups(self, steps) -> StepCost:
            return StepCost(1.0, 1.0, 0.0, 0.0, float(sum(len(step.request) for step in steps)))

    requests = make_requests([8, 24], [3, 3], 0.0)
    record = run_service(requests, Service((worker("g", groups=2, pricer=Together()),)))
    assert record.steps.seconds.tolist() == [1.0, 1.0, 1.0]
    assert record.steps.joules.tolist() == [2.0, 2.0, 2.0]


def test_drafts_are_accepted_as_often_as_stated() -> None:
    def with_acceptance(chance: float):
        speculation = Speculation(method="ngram", tokens=3, acceptance=chance)
        engine = EngineSettings(max_num_batched_tokens=64, max_num_seqs=8, speculation=speculation)
        requests = make_requests(np.full(8, 4), np.full(8, 60), 0.0)
        return run_service(requests, Service((worker("s", settings=engine, blocks=400),), keep_gaps=True))

    none, half, all_of_them = (with_acceptance(chance) for chance in (0.0, 0.5, 1.0))
    assert len(none.steps) == 60
    assert len(all_of_them.steps) == 1 + 15
    assert 1 + 59 / 2.2 < len(half.steps) < 1 + 59 / 1.5
    for record in (none, half, all_of_them):
        assert record.requests.tokens.tolist() == [60] * 8
        assert record.gaps.total == 8 * 59
    assert none.gaps.quantile(0.01) > 0
    # Of four tokens that come at once, three follow the first without a gap.
    assert int(all_of_them.gaps.counts[0]) == 8 * (59 - 15)


def test_steps_say_what_was_prefill() -> None:
    requests = make_requests([40], [3], 0.0)
    steps = run_service(requests, Service((worker(),))).steps
    assert steps.tokens.tolist() == [32, 8, 1, 1]
    assert steps.prefill_tokens.tolist() == [32, 8, 0, 0]
    assert steps.delivered.tolist() == [0, 1, 1, 1]


def test_preemptions_are_counted_and_nothing_is_lost() -> None:
    requests = make_requests(np.full(6, 30), np.full(6, 40), 0.0)
    service = Service((worker(blocks=40, budget=200),))
    record = run_service(requests, service)
    holds(requests, service, record)
    assert record.requests.preemptions.sum() > 0


def test_gaps_are_counted_exactly() -> None:
    gaps = TokenGaps(np.array([0.1, 0.2, 0.9]), np.array([50, 49, 1]))
    assert [gaps.quantile(q) for q in (0.5, 0.501, 0.99, 0.995, 1.0)] == [0.1, 0.2, 0.2, 0.9, 0.9]
    assert gaps.mean() == pytest.approx((5 + 9.8 + 0.9) / 100)


def test_a_request_that_never_fits_is_infeasible() -> None:
    with pytest.raises(InfeasibleError, match="more blocks"):
        run_service(make_requests([10_000], [1]), Service((worker(),)))


def test_a_service_that_is_stuck_says_so() -> None:
    class Idle(Counts):
        def schedule(self):
            step = super().schedule()
            return step._replace(**{name: getattr(step, name)[:0] for name in step._fields[:6]})

        def complete(self, accepted) -> StepOutcome:
            none = np.zeros(0, np.int64)
            return StepOutcome(none, none, none)

    with pytest.raises(InfeasibleError, match="2 of 2 requests can never end"):
        run_service(make_requests([4, 4], [1, 1]), Service((worker(make=Idle),)))


class Forgetful(Counts):
    """Says that a request has ended one token early."""

    def complete(self, accepted) -> StepOutcome:
        outcome = super().complete(accepted)
        return outcome._replace(
            tokens=np.maximum(outcome.tokens - np.isin(outcome.request, outcome.finished), 0)
        )


def test_the_guard_sees_a_token_that_is_missing() -> None:
    requests, service = make_requests([4, 9], [5, 5]), Service((worker(make=Forgetful),))
    with pytest.raises(AssertionError):
        holds(requests, service, run_service(requests, service))


@pytest.mark.parametrize(
    ("part", "column", "value"),
    [
        ("requests", "tokens", 4), ("requests", "replica", -1), ("requests", "arrival_s", -1.0),
        ("requests", "first_scheduled_s", 1e3), ("requests", "first_token_s", 1e3), ("requests", "last_token_s", 0.0),
        ("steps", "start_s", 1e3), ("steps", "seconds", 1e3), ("steps", "free_blocks", 65),
        ("steps", "free_blocks", -1), ("steps", "delivered", 7), ("gaps", "counts", 1),
    ],
)  # fmt: skip
def test_each_guard_trips(part, column, value) -> None:
    requests, service = make_requests([4, 9], [5, 5], [0.0, 0.1]), Service((worker(),), keep_gaps=True)
    record = run_service(requests, service)
    holds(requests, service, record)
    getattr(getattr(record, part), column)[0] = value
    with pytest.raises(AssertionError):
        holds(requests, service, record)


def test_the_guard_of_sessions_trips() -> None:
    requests = make_requests([4, 9], [5, 5], after=np.array([-1, 0]), think_s=np.array([0.0, 1.0]))
    service = Service((worker(),))
    record = run_service(requests, service)
    holds(requests, service, record)
    record.requests.arrival_s[1] -= 0.5
    with pytest.raises(AssertionError):
        holds(requests, service, record)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workers": ()}, "a service needs a worker"),
        ({"router": "roundrobin"}, "unknown router 'roundrobin'.*did you mean 'round-robin'"),
        ({"failures": (Failure(3, 1.0),)}, "there is no worker 3"),
        ({"failures": (Failure(0, 1.0, 5.0), Failure(0, 2.0))}, "can't fail at 2.0 s"),
        ({"failures": (Failure(0, 2.0, 1.0),)}, "can't fail at 2.0 s and be back at 1.0 s"),
        ({"retry_s": -1.0}, "expected 0 s or more"),
        ({"transfer": "some"}, "expected layers or end"),
        ({"workers": (worker(role="prefill", devices=("x",)),)}, "go together"),
        ({"workers": (worker(role="half"),)}, "found 'half'"),
        ({"workers": (worker(speed=0.0),)}, "expected a speed above 0"),
    ],
)
def test_what_is_no_service_is_said_in_a_line(changes, words) -> None:
    with pytest.raises(InputError, match=words):
        Service(**{"workers": (worker(),), **changes})
