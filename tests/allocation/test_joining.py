"""Blocks of buffers: nothing is lost or doubled, their plans hold, and cut rectangles are put together again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.allocation import AllocationProblem, Buffer, check, solve
from mapping.allocation.bounds import most_live
from mapping.allocation.instance import Component, build_components
from mapping.allocation.joining import Block, can_join, join, offsets_of
from tests.allocation.brute_force import least_peak
from tests.allocation.strategies import problems

GO, HALT = np.zeros(1, np.int64), np.ones(1, np.int64)


def leaves(block: Block) -> list[int]:
    if block.buffer >= 0:
        return [block.buffer]
    return [leaf for stack in block.stacks for piece in stack for leaf in leaves(piece)]


def stacked(blocks: list[Block], component: Component) -> list[int]:
    """Offsets of the component's buffers with the blocks one above the other, in bytes."""
    bases = np.cumsum([0, *(block.size for block in blocks)])[:-1]
    plan = offsets_of(blocks, bases.tolist(), len(component.index))
    return [int(offset) * component.unit for offset in plan]


def cut_rectangle(pieces: int, seed: int, width: int = 60, height: int = 4096) -> AllocationProblem:
    """A full rectangle, cut from edge to edge at random."""
    rng = np.random.default_rng(seed)
    parts = [(0, width, height)]
    while len(parts) < pieces:
        areas = np.array([(end - begin) * size for begin, end, size in parts])
        begin, end, size = parts.pop(int(areas.argmax()))
        if end - begin > 1 and size < height and (size < 2 or rng.random() < 0.5):
            at = int(rng.integers(begin + 1, end))
            parts += [(begin, at, size), (at, end, size)]
        else:
            at = int(rng.integers(1, size))
            parts += [(begin, end, at), (begin, end, size - at)]
    rows = np.array(parts)[rng.permutation(len(parts))]
    return AllocationProblem.from_arrays(rows[:, 0], rows[:, 1], rows[:, 2])


@settings(max_examples=150, deadline=None)
@given(problems(most=9), st.integers(0, 5))
def test_blocks_hold_every_buffer_once_and_stack_to_plans(problem: AllocationProblem, seed: int) -> None:
    for component in build_components(problem):
        blocks = join(component.instance, seed, GO)
        assert sorted(leaf for block in blocks for leaf in leaves(block)) == list(range(len(component.index)))
        for block in blocks:
            assert all(sum(piece.size for piece in stack) == block.size for stack in block.stacks)
        part = problem.subset(component.index)
        assert check(part, stacked(blocks, component)) == []


@settings(max_examples=80, deadline=None)
@given(problems(most=6))
def test_answers_with_blocks_are_those_of_brute_force(problem: AllocationProblem) -> None:
    found = solve(problem, max_nodes=100_000)
    assert found.status == "optimal"
    assert found.peak_bytes == least_peak(problem)


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_rectangle_is_put_together_again(seed: int) -> None:
    problem = cut_rectangle(300, seed, height=1 << 20)
    found = solve(problem, max_nodes=200_000)
    assert (found.status, found.peak_bytes) == ("optimal", 1 << 20)


def test_the_same_seed_gives_the_same_blocks_and_a_set_flag_none() -> None:
    (component,) = build_components(cut_rectangle(120, 3, height=50))
    assert join(component.instance, 4, GO) == join(component.instance, 4, GO)
    assert any(join(component.instance, 4, GO) != join(component.instance, seed, GO) for seed in range(5, 15))
    assert len(join(component.instance, 4, HALT)) == 120


def test_a_piece_that_is_laid_elsewhere_is_caught() -> None:
    problem = AllocationProblem.from_arrays([0, 0, 2, 2, 0], [2, 2, 4, 4, 4], [3, 5, 6, 2, 1])
    (component,) = build_components(problem)
    part = problem.subset(component.index)
    blocks = join(component.instance, 0, GO)
    assert sorted(len(leaves(block)) for block in blocks) == [1, 4]
    assert check(part, stacked(blocks, component)) == []
    flat = [
        replace(block, stacks=tuple(tuple(replace(p, size=0) for p in stack) for stack in block.stacks))
        for block in blocks
    ]
    assert check(part, stacked(flat, component)) != []


def test_pins_alignments_and_gaps_are_not_joined() -> None:
    pinned = AllocationProblem.of([Buffer("a", 0, 2, 4, offset=4), Buffer("b", 1, 3, 4)])
    mixed = AllocationProblem.of([Buffer("a", 0, 2, 3, 4), Buffer("b", 1, 3, 5, 3)])
    plain = AllocationProblem.of([Buffer("a", 0, 2, 3), Buffer("b", 1, 3, 5)])
    answers = [can_join(build_components(problem)[0]) for problem in (pinned, mixed, plain)]
    assert answers == [False, False, True]


def test_a_join_wastes_nothing() -> None:
    (component,) = build_components(cut_rectangle(80, 1))
    blocks = join(component.instance, 0, GO)
    problem = AllocationProblem.from_arrays(
        [block.begin for block in blocks], [block.end for block in blocks], [block.size for block in blocks]
    )
    assert max(map(most_live, build_components(problem))) * component.unit == 4096
