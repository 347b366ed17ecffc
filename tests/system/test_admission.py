"""Who may allocate: out of turn only when everyone who stands before still fits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simulator.system.admission import Admission, last_moments
from simulator.system.bound_plan import Copy

USABLE = 14


def admission(third: int, streams: str = "xxyy", room: int = USABLE) -> Admission:
    """Four tasks that make 6, 4, ``third`` and 3 bytes; the first is used by the second, the others by the last."""
    sizes = (6, 4, third, 3)
    copies = [Copy(f"t{i}", "m", i) for i in range(4)]
    bound = SimpleNamespace(
        tasks=[SimpleNamespace(kind="compute", device="d", stream=stream) for stream in streams],
        makes=[(0,), (1,), (2,), (3,)],
        uses=[(0,), (0, 1), (2,), (1, 2, 3)],
        copies=copies,
    )
    ledger = SimpleNamespace(
        usable={"m": USABLE},
        tensors={f"t{i}": SimpleNamespace(size_bytes=size) for i, size in enumerate(sizes)},
        room=lambda memory: room,
    )
    return Admission(bound, ledger)  # type: ignore[arg-type]


@pytest.mark.parametrize(("third", "may"), [(3, True), (4, True), (5, False), (6, False)])
def test_out_of_turn_only_beside_all_that_stand_before(third: int, may: bool) -> None:
    """After the second task 10 of 14 bytes are held: 4 go beside them, 5 do not."""
    assert admission(third).may(2, "m") is may


def test_in_turn_needs_room_alone() -> None:
    queue = admission(5)
    assert queue.may(0, "m")
    queue.grant(0, "m")
    assert queue.may(1, "m")
    queue.grant(1, "m")
    assert queue.may(2, "m")
    assert not admission(5, room=5).may(0, "m")
    assert admission(5, room=6).may(0, "m")


def test_what_was_granted_out_of_turn_is_counted_until_it_goes() -> None:
    queue = admission(4)
    queue.grant(2, "m")
    assert not queue.may(3, "m"), "10 + 4 bytes are held after the second task, so 3 more do not fit"
    queue.release(2)
    assert queue.may(3, "m"), "10 + 3 bytes fit once it is gone"


def test_one_stream_takes_its_turns_by_itself() -> None:
    assert admission(5, streams="xxxx").used == {}
    assert set(admission(5).used) == {"m"}
    assert admission(1, streams="xxyy").used == {}, "6 + 4 + 1 + 3 bytes fit at once"
    assert admission(0).used == {}


@st.composite
def queues(draw: st.DrawFn) -> tuple[Any, Any, int]:
    """A plan whose list order just fits: every task makes a copy, which a later one uses last; some stand at home."""
    count, homes = draw(st.integers(2, 7)), draw(st.integers(0, 2))
    sizes = draw(st.lists(st.integers(1, 6), min_size=count + homes, max_size=count + homes))
    last = [draw(st.integers(max(n - homes, 0), count - 1)) for n in range(count + homes)]
    copies = [
        Copy(f"t{n}", "m", n - homes, home=n < homes, kept=draw(st.booleans()) and n == 0)
        for n in range(count + homes)
    ]
    bound = SimpleNamespace(
        tasks=[SimpleNamespace(kind="compute", device="d", stream=str(n % 2)) for n in range(count)],
        makes=[(n + homes,) for n in range(count)],
        uses=[tuple(c for c in range(count + homes) if last[c] == n) for n in range(count)],
        copies=copies,
    )
    until = [count - 1 if copy.kept else last[n] for n, copy in enumerate(copies)]
    held = [
        sum(sizes[c] for c in range(count + homes) if c - homes <= place <= until[c])
        for place in range(count)
    ]
    return bound, (sizes, until, homes), max(held)


@settings(max_examples=150, deadline=None)
@given(queues(), st.data())
def test_whoever_may_leaves_room_for_all_before_him(queue: tuple[Any, Any, int], data: st.DataObject) -> None:
    """The rule in its own words: with what is held now, everyone before still fits, one after another."""
    bound, (sizes, until, homes), usable = queue
    ledger = SimpleNamespace(
        usable={"m": usable}, tensors={f"t{n}": SimpleNamespace(size_bytes=size) for n, size in enumerate(sizes)},
        room=lambda _: 10**9,
    )  # fmt: skip
    admission_ = Admission(bound, ledger)  # type: ignore[arg-type]
    assume(sum(sizes) > usable)
    count = len(bound.tasks)
    held, gone = set(range(homes)), set[int]()
    for _ in range(count + 3):
        waiting = [n for n in range(count) if n + homes not in held | gone]
        for index in waiting:
            first = waiting[0]
            fits = all(
                sum(size for c, size in enumerate(sizes)
                    if c not in gone and place <= until[c] and (c in held or c - homes <= place))
                + sizes[index + homes] <= usable
                for place in range(first, index)
            )  # fmt: skip
            assert admission_.may(index, "m") is fits, (index, held, gone)
        able = [n for n in waiting if admission_.may(n, "m")]
        if able and data.draw(st.booleans()):
            chosen = data.draw(st.sampled_from(able))
            admission_.grant(chosen, "m")
            held.add(chosen + homes)
        elif held:
            number = data.draw(st.sampled_from(sorted(held)))
            admission_.release(number)
            held.remove(number)
            gone.add(number)


def test_ranks_of_a_collective_let_go_together() -> None:
    """The first rank stands at 1, the last at 3: what either uses goes after 3; other tasks after themselves."""
    group = ("a", "b", "c")
    ranks = [SimpleNamespace(kind="collective", device=device, group=group) for device in group]
    alone = SimpleNamespace(kind="compute", device="a")
    bound = SimpleNamespace(tasks=[alone, *ranks, alone], uses=[(0, 1), (1, 2), (2,), (3,), (4, 0)])
    assert last_moments(bound) == {0: 4, 1: 3, 2: 3, 3: 3, 4: 4}  # type: ignore[arg-type]
