"""Every schedule at all counts: valid by the checker, as short and as small as its paper says, or refused in a line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from mapping.training.schedules.action import Action, PipelineSchedule, looped
from mapping.training.schedules.check import violations
from mapping.training.schedules.run import ScheduleRun, StageTimes, run_schedule
from mapping.training.schedules.write import SCHEDULES, packed_schedule, write_schedule

MANY_STAGES = ("interleaved-1f1b", "looped-bfs", "interleaved-zero-bubble")


def run(name: str, ranks: int, micro_batches: int, f: float = 1, i: float = 1, w: float = 1) -> ScheduleRun:
    return run_schedule(write_schedule(name, ranks, micro_batches), StageTimes(f, i, w))


def takes(name: str, ranks: int, micro_batches: int) -> bool:
    """What each schedule is known to take, said here again."""
    even = ranks % 2 == 0 and micro_batches % 2 == 0
    if name in ("interleaved-1f1b", "interleaved-zero-bubble"):
        return micro_batches % max(1, micro_batches // ranks) == 0
    if name == "dualpipe-v":
        return micro_batches >= 2 * ranks
    if name == "dualpipe":
        return even and micro_batches >= 2 * ranks
    return even if name == "chimera" else True


@pytest.mark.parametrize("name", SCHEDULES.names())
@given(st.integers(1, 24), st.integers(1, 60), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_any_counts_give_a_valid_schedule_or_one_line(name, ranks, micro_batches, stages):
    per_rank = stages if name in MANY_STAGES else None
    if takes(name, ranks, micro_batches):
        schedule = write_schedule(name, ranks, micro_batches, per_rank)
        assert schedule.name == name
        assert violations(schedule) == []
        made = run_schedule(schedule, StageTimes())
        assert made.makespan_s >= made.busy_s.max()
    else:
        with pytest.raises(InputError) as refused:
            write_schedule(name, ranks, micro_batches, per_rank)
        assert name in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_large_schedules_are_valid(name):
    schedule = write_schedule(name, 32, 128)
    assert violations(schedule) == []


@pytest.mark.parametrize(
    ("ranks", "micro_batches", "stages"),
    [(0, 4, None), (4, 0, None), (4, 4, 0), (4, 4, 2), (4096, 65536, None)],
)
def test_counts_out_of_range(ranks, micro_batches, stages):
    with pytest.raises(InputError):
        write_schedule("1f1b", ranks, micro_batches, stages)


def test_unknown_names_have_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'zb-h1'"):
        write_schedule("zbh1", 4, 8)


@pytest.mark.parametrize(("ranks", "m"), [(2, 2), (4, 4), (4, 9), (8, 32), (7, 21)])
def test_closed_forms(ranks, m):
    f, i, w = 1.0, 1.25, 0.75
    work, ramp = m * (f + i + w), ranks - 1
    for name in ("gpipe", "1f1b", "eager-1f1b"):
        assert run(name, ranks, m, f, i, w).makespan_s == pytest.approx(work + ramp * (f + i + w))
    assert run("1f1b", ranks, m).peak_live.tolist() == [min(m, ranks - r) for r in range(ranks)]
    assert run("gpipe", ranks, m).peak_live.tolist() == [m] * ranks
    if m >= ranks:
        h1 = run("zb-h1", ranks, m, f, i, w)
        assert h1.makespan_s == pytest.approx(work + ramp * (f + i - w))
        assert h1.peak_live.max() == ranks
    if m >= 2 * ranks - 1:
        h2 = run("zb-h2", ranks, m)
        assert h2.span_s.max() == 3 * m
        assert h2.makespan_s == 3 * m + ramp
        assert h2.peak_live.max() == 2 * ranks - 1
        # Unequal passes: (ranks - 1) (F + I - 2 W).
        assert run("zb-h2", ranks, m, f, i, w).span_s.max() == pytest.approx(work + ramp * (f + i - 2 * w))
        zbv = run("zbv-zero-bubble", ranks, m)
        assert zbv.span_s.max() == 6 * m
        assert zbv.peak_live.max() == 2 * ranks


@pytest.mark.parametrize(("ranks", "m", "stages"), [(4, 8, 2), (8, 32, 3), (5, 10, 4)])
def test_interleaving_divides_the_bubble(ranks, m, stages):
    schedule = write_schedule("interleaved-1f1b", ranks, m, stages)
    assert run_schedule(schedule, StageTimes()).makespan_s == 3 * (m * stages + ranks - 1)
    halves = write_schedule("interleaved-zero-bubble", ranks, m, stages)
    assert run_schedule(halves, StageTimes()).makespan_s == 3 * m * stages + ranks - 1


def test_zb_h1_is_interleaved_zero_bubble_of_one_stage():
    for ranks in (1, 2, 5, 8):
        halves = write_schedule("interleaved-zero-bubble", ranks, 2 * ranks, 1)
        assert write_schedule("zb-h1", ranks, 2 * ranks).orders == halves.orders


@pytest.mark.parametrize("ranks", [2, 4, 6, 8, 16])
def test_chimera(ranks):
    """Table 2 and section 3.1 of the paper: ranks - 2 idle slots; with B = 2 F a unit has ranks F and 2 ranks - 2 B."""
    for units in (1, 2, 5):
        m = units * ranks
        assert run("chimera", ranks, m, 1, 0.5, 0.5).makespan_s == 2 * m + ranks - 2
    unit = run("chimera", ranks, ranks)
    assert unit.makespan_s == ranks + 2 * (2 * ranks - 2)
    assert unit.peak_live.tolist() == [ranks // 2 + 1 + min(r, ranks - 1 - r) for r in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 4, 8, 12])
def test_dualpipe(ranks):
    """Activations of ranks + 1 micro-batches; the bubble (ranks / 2 - 1) (F&B + B - 3 W) with F&B = F + B."""
    for f, i, w in ((1, 1, 1), (1, 1.25, 0.75)):
        made = run("dualpipe", ranks, 4 * ranks, f, i, w)
        assert made.makespan_s <= 4 * ranks * (f + i + w) + (ranks / 2 - 1) * (f + 2 * (i + w) - 3 * w) + 1e-9
        assert made.peak_live.max() == ranks + 1
    folded = run("dualpipe-v", ranks // 2, 2 * ranks)
    # Half of DualPipe's ranks, folded at the middle, do the same.
    assert run("dualpipe", ranks, 4 * ranks).makespan_s == folded.makespan_s


# Ranks; idle slots and peak passes of V-Half, then of V-Min, with 4 x ranks micro-batches and equal passes, as the
# authors' public implementation gives them (sail-sg/zero-bubble-pipeline-parallelism, scheduler/zbv_greedy.py).
PUBLISHED = (
    (2, 1, 4, 3, 4), (3, 5, 4, 5, 4), (4, 5, 6, 11, 4), (5, 11, 6, 15, 6), (6, 11, 8, 17, 6), (8, 17, 10, 27, 8),
    (9, 23, 10, 29, 8), (12, 29, 14, 41, 10), (16, 41, 18, 59, 12),
)  # fmt: skip


@pytest.mark.parametrize(("ranks", "half_idle", "half_peak", "min_idle", "min_peak"), PUBLISHED)
def test_the_controllable_memory_family(ranks, half_idle, half_peak, min_idle, min_peak):
    m = 4 * ranks
    for name, idle, peak in (("v-half", half_idle, half_peak), ("v-min", min_idle, min_peak)):
        made = run(name, ranks, m)
        assert made.peak_live.max() == peak
        assert made.makespan_s - 6 * m <= idle


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 16])
def test_vocabulary_passes(ranks):
    """Algorithm 1 holds ranks + 2 micro-batches, Algorithm 2 ranks + 1; no bubble beyond 1F1B's."""
    m = 4 * ranks
    share = StageTimes(1, 1, 1, logits_s=0.3, logit_gradient_s=0.6)
    for barriers, name in ((2, "1f1b-vocabulary-1"), (1, "1f1b-vocabulary-2")):
        made = run_schedule(write_schedule(name, ranks, m), share)
        assert made.peak_live.tolist() == [ranks - r + barriers for r in range(ranks)]
        assert made.makespan_s == pytest.approx(3.9 * m + 3 * (ranks - 1), rel=0.06)
    # One and two intervals more, of two passes a micro-batch.
    half = run("v-half", ranks, m).peak_live.max()
    for barriers, name in ((2, "v-half-vocabulary-1"), (1, "v-half-vocabulary-2")):
        made = run_schedule(write_schedule(name, ranks, m), share)
        assert made.peak_live.max() <= half + 2 * barriers


@pytest.mark.parametrize("ranks", [8, 16, 32])
@pytest.mark.parametrize("backward", [1.5, 1.75, 2.0, 2.4])
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_vocabulary_passes_cost_no_bubble_where_backwards_differ(ranks, backward, share):
    m, halves = 4 * ranks, backward / 2
    times = StageTimes(
        1, halves, halves, logits_s=share, logit_gradient_s=2 * share, communication_s=0.02, barrier_s=0.05
    )
    made = run_schedule(write_schedule("1f1b-vocabulary-1", ranks, m), times)
    alone = m * (1 + backward + 3 * share) + (ranks - 1) * (1 + backward)
    assert made.makespan_s <= 1.09 * alone


def test_packed_schedules_are_kept():
    assert packed_schedule("1f1b", 4, 8) is packed_schedule("1f1b", 4, 8)


def broken(orders: list[str], barriers: int = 0) -> list[str]:
    """Violations of a schedule of one stage a rank from texts such as ``0F0 0B0``."""
    made = tuple(
        tuple(Action(int(a[0]), a[1], int(a[2])) for a in order.split())  # type: ignore[arg-type]
        for order in orders
    )
    return violations(PipelineSchedule("x", 1, looped(len(orders), 1), made, vocabulary_barriers=barriers))


@pytest.mark.parametrize(
    ("orders", "barriers", "said"),
    [
        (["0F0 0B0", "1F0"], 0, "stage 1, micro-batch 0: found no backward"),
        (["0F0 0B0", "1F0 1I0"], 0, "found I; expected B, or I and W"),
        (["0F0 0B0", "1B0"], 0, "1F0 is missing"),
        (["0F0 0B0 0B0", "1F0 1B0"], 0, "0B0 is done 2 times"),
        (["0F0 0B0 1F0", "1B0"], 0, "1F0 is done on rank 0; it belongs to rank 1"),
        (["0F0 0B0", "1F0 1B0 1B3"], 0, "there are 1 micro-batches"),
        (["0B0 0F0", "1F0 1B0"], 0, "rank 0 cannot go on at 0B0"),
        (["0F0 0B0", "1F0 1W0 1I0"], 0, "rank 1 cannot go on at 1W0"),
        (["0F0 0S0 0B0", "1F0 1B0"], 0, "0S0 without a shared output layer"),
        (["0F0 0S0 0B0", "1F0 1S0 1T0 1B0"], 2, "0T0 is missing"),
        (["0F0 0S0 0T0 0B0", "1F0 1S0 1B0 1T0"], 2, "rank 1 cannot go on at 1B0"),
        (["0F0 0B0", "1F0 1B0"], 3, "3 barriers"),
    ],
)  # fmt: skip
def test_the_checker_sees(orders, barriers, said):
    assert any(said in words for words in broken(orders, barriers))


def test_the_checker_looks_at_replicas():
    order = (Action(0, "F", 0), Action(0, "B", 0), Action(1, "F", 0), Action(1, "B", 0))
    assert "micro-batch 0 enters 2 replicas" in violations(PipelineSchedule("x", 1, (0, 0), (order,), 2))[0]
    assert "not 2 equal replicas" in violations(PipelineSchedule("x", 1, (0,), (order,), 2))[0]
    assert "lies on rank 7" in violations(PipelineSchedule("x", 1, (7,), (order,)))[0]
