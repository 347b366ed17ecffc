"""The run against a slow one that shares no code with it, its bounds, and what it says of a standstill."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from mapping.training.schedules.action import Action, PipelineSchedule, looped
from mapping.training.schedules.picture import text_picture
from mapping.training.schedules.run import StageTimes, run_schedule
from mapping.training.schedules.write import SCHEDULES, write_schedule
from tests.pipeline.oracle import peaks, times

FIGURE = st.integers(1, 9)


@st.composite
def cases(draw):
    name = draw(st.sampled_from(SCHEDULES.names()))
    ranks, m = draw(st.integers(1, 6)), draw(st.integers(1, 13))
    try:
        return write_schedule(name, ranks, m)
    except InputError:
        assume(False)


@given(cases(), st.data())
@settings(max_examples=120, deadline=None)
def test_the_run_is_the_oracles(schedule, data):
    every, ranks = len(schedule.rank_of_stage), schedule.ranks
    f, i, w, b, held = (data.draw(st.lists(FIGURE, min_size=every, max_size=every)) for _ in range(5))
    s, t = (data.draw(st.lists(FIGURE, min_size=ranks, max_size=ranks)) for _ in range(2))
    links = np.array(data.draw(st.lists(st.integers(0, 5), min_size=ranks**2, max_size=ranks**2))).reshape(
        ranks, ranks
    )
    barrier, share = data.draw(st.integers(0, 4)), data.draw(st.sampled_from([0.0, 0.25, 1.0]))
    asked = StageTimes(
        f, i, w, b, s, t, links.astype(float), barrier, held, share, logits_bytes=2.0,
    )  # fmt: skip
    made = run_schedule(schedule, asked)
    table = {"F": f, "I": i, "W": w, "B": b, "S": s, "T": t}
    slow = times(
        schedule, lambda a: table[a.kind][a.stage], lambda x, y: 0 if x == y else links[x, y], barrier
    )  # fmt: skip
    for place in range(len(made.start_s)):
        assert slow[made.packed.action(place)] == (made.start_s[place], made.end_s[place])
    assert made.makespan_s == max(end for _, end in slow.values())
    assert (made.makespan_s >= made.busy_s).all()
    assert (made.span_s >= made.busy_s - 1e-9).all()
    assert (made.bubble >= 0).all()
    assert (made.bubble < 1).all()
    for rank, (count, size) in enumerate(peaks(schedule, lambda stage: held[stage], share, 2.0)):
        assert made.peak_live[rank] == count
        assert made.peak_bytes[rank] == pytest.approx(size)
        work = sum(table[a.kind][a.stage] for a in schedule.orders[rank])
        assert made.busy_s[rank] == pytest.approx(work)


@given(cases())
@settings(max_examples=30, deadline=None)
def test_slower_passes_never_help_and_units_do_not_matter(schedule):
    plain = run_schedule(schedule, StageTimes(1, 2, 1, communication_s=0.5))
    longer = run_schedule(schedule, StageTimes(1, 2, 1.5, communication_s=0.75))
    assert longer.makespan_s >= plain.makespan_s
    scaled = run_schedule(schedule, StageTimes(1e-3, 2e-3, 1e-3, communication_s=0.5e-3))
    assert scaled.makespan_s == pytest.approx(plain.makespan_s * 1e-3)
    assert scaled.bubble == pytest.approx(plain.bubble)


def test_nothing_is_held_at_the_end():
    """What F brings, B or I and W take away, so that a second step after the first peaks no higher."""
    for name in ("1f1b", "zb-h1", "v-half"):
        once = write_schedule(name, 4, 6)
        again = tuple(
            (*order, *(Action(a.stage, a.kind, a.micro_batch + 6) for a in order)) for order in once.orders
        )
        twice = PipelineSchedule(name, 12, once.rank_of_stage, again)
        held = StageTimes(activation_bytes=[1.5] * len(once.rank_of_stage), freed_by_input=0.3)
        assert run_schedule(twice, held).peak_bytes == pytest.approx(run_schedule(once, held).peak_bytes)


def test_a_standstill_says_who_waits_for_what():
    orders = (
        (Action(0, "F", 0), Action(0, "B", 0), Action(0, "F", 1), Action(0, "B", 1)),
        (Action(1, "F", 0), Action(1, "F", 1), Action(1, "B", 0), Action(1, "B", 1)),
    )
    with pytest.raises(InputError) as stuck:
        run_schedule(PipelineSchedule("mine", 2, looped(2, 1), orders), StageTimes())
    assert str(stuck.value) == (
        "pipeline schedule mine: deadlock: rank 0 waits at 0B0 for 1B0, rank 1 waits at 1F1 for 0F1"
    )
    missing = ((Action(0, "F", 0), Action(0, "B", 0)), (Action(1, "F", 0),))
    with pytest.raises(InputError, match="0 waits at 0B0 for 1I0 or 1B0, which no rank does"):
        run_schedule(PipelineSchedule("mine", 1, looped(2, 1), missing), StageTimes())


def test_actions_of_nothing_are_refused():
    for order in ("1F0", "0F9", "7F0", "3S0"):
        action = Action(int(order[0]), order[1], int(order[2]))  # type: ignore[arg-type]
        with pytest.raises(InputError, match=f"{order} does not belong on rank 0"):
            run_schedule(PipelineSchedule("mine", 2, looped(2, 1), ((action,), ())), StageTimes())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"forward_s": [1.0, 2.0, 3.0]}, "found 3 figures; expected one, or 2"),
        ({"weight_s": -1.0}, "at least zero"),
        ({"input_s": float("nan")}, "at least zero"),
        ({"communication_s": np.zeros((3, 3))}, "2 x 2"),
        ({"communication_s": -1.0}, "at least zero"),
        ({"freed_by_input": 1.5}, "0 to 1"),
        ({"activation_bytes": [1.0]}, "found 1 figures"),
    ],
)
def test_times_that_do_not_fit(wrong, said):
    with pytest.raises(InputError, match=said):
        run_schedule(write_schedule("1f1b", 2, 2), StageTimes(**wrong))


def test_the_picture_in_characters():
    lines = text_picture(run_schedule(write_schedule("1f1b", 2, 2), StageTimes()), columns=36)
    assert lines == [
        "0 |F0--F1--........B0------....B1------|",
        "1 |....F0--B0------F1--B1------........|",
        "F forward, B backward, . idle; a column is 0.25",
    ]
    for columns in (80, 120):
        wide = text_picture(run_schedule(write_schedule("v-half", 8, 64), StageTimes()), columns)
        assert max(map(len, wide[:-1])) <= columns + 5
