"""Who may allocate: out of turn only when everyone who stands before still fits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from simulator.system.admission import Admission

USABLE = 14


def admission(third: int, streams: str = "xxyy", room: int = USABLE) -> Admission:
    """Four tasks that make 6, 4, ``third`` and 3 bytes; the first is used by the second, the others by the last."""
    sizes = (6, 4, third, 3)
    copies = [SimpleNamespace(memory="m", tensor=f"t{i}", home=False, kept=False) for i in range(4)]
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
