"""Collectives, checked by moving labelled chunks between ranks and looking at what each rank ends up with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.cost.collective import ALGORITHMS, COLLECTIVE_KINDS, Collective, chunk_bytes, schedule

RANKS = st.integers(2, 20)
SIZES = st.integers(1, 10_000)


def run_reduction(c: Collective, owned: bool) -> None:
    """Each rank holds its own contribution to every chunk; contributions must never be counted twice."""
    n = c.ranks
    held = [[{rank} for _ in range(n)] for rank in range(n)]
    for step in range(c.steps):
        arriving = [(m, [set(held[m.source][i]) for i in m.chunks]) for m in c.messages(step)]
        for message, parts in arriving:
            for chunk, part in zip(message.chunks, parts, strict=True):
                mine = held[message.target][chunk]
                # Either a sum of others' contributions, or a finished sum that replaces a partial one.
                assert not (mine & part) or len(part) == n
                mine |= part
    for rank in range(n):
        for chunk in [rank] if owned else range(n):
            assert held[rank][chunk] == set(range(n))


def run_copies(c: Collective, start: list[set[int]]) -> list[set[int]]:
    held = [set(chunks) for chunks in start]
    for step in range(c.steps):
        arriving = list(c.messages(step))
        for message in arriving:
            assert set(message.chunks) <= held[message.source], "a rank sends what it does not hold"
        for message in arriving:
            held[message.target] |= set(message.chunks)
    return held


def run_exchange(c: Collective) -> None:
    """Blocks (origin, destination) in the hands of the ranks, forwarded as the messages say."""
    n = c.ranks
    hands = [[(rank, target) for target in range(n)] for rank in range(n)]
    for step in range(c.steps):
        moved = []
        for message in c.messages(step):
            reach = (message.target - message.source) % n
            for chunk in message.chunks:
                fits = [
                    b
                    for b in hands[message.source]
                    if b[1] == chunk and (chunk - message.source) % n >= reach
                ]
                block = next(b for b in fits if c.algorithm == "tree" or b[0] == message.source)
                hands[message.source].remove(block)
                moved.append((message.target, block))
        for target, block in moved:
            hands[target].append(block)
    for rank in range(n):
        assert sorted(hands[rank]) == [(origin, rank) for origin in range(n)]


@given(RANKS, SIZES, st.sampled_from(ALGORITHMS))
def test_the_chunks_arrive(ranks: int, size: int, algorithm: str) -> None:
    everything = set(range(ranks))
    run_reduction(schedule("all_reduce", algorithm, ranks, size), owned=False)
    scatter = schedule("reduce_scatter", algorithm, ranks, size)
    run_reduction(scatter, owned=True)
    gather = schedule("all_gather", algorithm, ranks, size)
    assert run_copies(gather, [{rank} for rank in range(ranks)]) == [everything] * ranks
    broadcast = schedule("broadcast", algorithm, ranks, size)
    assert run_copies(broadcast, [everything] + [set()] * (ranks - 1)) == [everything] * ranks
    run_exchange(schedule("all_to_all", algorithm, ranks, size))


@given(st.sampled_from(COLLECTIVE_KINDS), st.sampled_from(ALGORITHMS), RANKS, SIZES)
def test_the_closed_form_is_what_the_messages_add_up_to(
    kind: str, algorithm: str, ranks: int, size: int
) -> None:
    c = schedule(kind, algorithm, ranks, size)
    steps = [list(c.messages(step)) for step in range(c.steps)]
    assert sum(m.bytes for step in steps for m in step) == c.total_bytes
    by_rank = [sum(m.bytes for step in steps for m in step if m.source == rank) for rank in range(ranks)]
    chunks = max(len(m.chunks) for step in steps for m in step) * c.steps
    for figure, exact in (
        (c.bytes_sent, max(by_rank)),
        (c.step_bytes, max(m.bytes for step in steps for m in step)),
        (c.critical_bytes, sum(max(m.bytes for m in step) for step in steps)),
    ):
        assert exact <= figure <= exact + chunks
        if size % ranks == 0:
            assert figure == exact
    for step in steps:
        assert len({m.source for m in step}) == len(step), "one message per port and step"
        assert len({m.target for m in step}) == len(step)
        assert all(m.source != m.target for m in step)


@given(RANKS, SIZES)
def test_chunks_cover_the_buffer(ranks: int, size: int) -> None:
    assert sum(chunk_bytes(size, ranks, index) for index in range(ranks)) == size


def test_known_forms() -> None:
    ring = schedule("all_reduce", "ring", 8, 8 << 20)
    assert (ring.steps, ring.step_bytes, ring.bytes_sent) == (14, 1 << 20, 14 << 20)
    assert ring.seconds(1e9, 1e-6) == pytest.approx(14e-6 + (14 << 20) / 1e9)
    assert schedule("all_gather", "tree", 8, 8 << 20).steps == 3
    assert schedule("all_reduce", "tree", 1000, 1).steps == 20
    assert schedule("all_reduce", "ring", 1, 1 << 20).steps == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("all_reduced", "ring", 2, 8), "did you mean 'all_reduce'"),
        (("all_reduce", "star", 2, 8), "known: ring, tree"),
        (("all_reduce", "ring", 0, 8), "found 0 ranks"),
        (("all_reduce", "ring", 2, -1), "found -1 bytes"),
    ],
)
def test_bad_arguments(arguments: tuple[str, str, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        schedule(*arguments)
