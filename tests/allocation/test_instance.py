"""The tables that the search kernels read, against plain counting on small problems; and the greedy orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings

from allocation.brute_force import distance
from allocation.strategies import problems
from hw_configs.problems import InputError
from mapping.allocation import AllocationProblem, Buffer, Gap, check, lower_bound, peak_of, solve
from mapping.allocation import instance as instance_module
from mapping.allocation.bounds import most_live
from mapping.allocation.greedy import compact, greedy_orders, peak_units, place_in_order, section_totals
from mapping.allocation.instance import (
    Component,
    build_components,
    highest_offsets,
    section_ceilings,
)


def members(component: Component) -> list[list[int]]:
    """Buffers of the problem in use in each section."""
    inst = component.instance
    rows = [inst.member[a:b] for a, b in itertools.pairwise(inst.member_ptr.tolist())]
    return [sorted(component.index[row].tolist()) for row in rows]


def live_sets(problem: AllocationProblem, among: list[int]) -> list[list[int]]:
    """Buffers in use at each time from the first to the last, empty ones left out."""
    spans = {i: problem.spans(i) for i in among}
    times = range(int(problem.lower.min()), int(problem.upper.max()))
    sets = [[i for i in among if any(s.lower <= t < s.upper for s in spans[i])] for t in times]
    return [alive for alive in sets if alive]


def hold_sections(problem: AllocationProblem, component: Component) -> None:
    """Every section is the set of buffers of one moment, and no moment is in none of them."""
    among = sorted(component.index.tolist())
    found, sets = members(component), live_sets(problem, among)
    if not component.windowed:
        assert all(section in sets for section in found)
        assert all(not set(a) <= set(b) and not set(b) <= set(a) for a, b in itertools.pairwise(found))
    assert all(any(set(alive) <= set(section) for section in found) for alive in sets)
    inst = component.instance
    for i, buffer in enumerate(component.index.tolist()):
        within = [s for s, section in enumerate(found) if buffer in section]
        assert (int(inst.first[i]), int(inst.last[i])) == (min(within), max(within) + 1)


def hold_distances(problem: AllocationProblem, component: Component) -> None:
    """Neighbours are those in use together, at the distance of their windows in whole units."""
    inst, unit = component.instance, component.unit
    for i, buffer in enumerate(component.index.tolist()):
        part = slice(int(inst.near_ptr[i]), int(inst.near_ptr[i + 1]))
        near = component.index[inst.near[part]].tolist()
        apart = {k: distance(problem, buffer, k) for k in component.index.tolist() if k != buffer}
        assert sorted(near) == sorted(k for k, reach in apart.items() if reach is not None)
        for k, above in zip(near, inst.above[part].tolist(), strict=True):
            assert above == -(-(apart[k] or 0) // unit)
    positive = all(above > 0 for above in inst.above.tolist())
    assert component.complete_by_offset == positive


def hold_offsets(problem: AllocationProblem, component: Component) -> None:
    """Barred are the offsets, in units, at which a free buffer would meet a fixed one; intervals are open."""
    inst, unit = component.instance, component.unit
    for i, buffer in enumerate(component.index.tolist()):
        part = slice(int(inst.barred_ptr[i]), int(inst.barred_ptr[i + 1]))
        intervals = list(zip(inst.barred_lo[part].tolist(), inst.barred_hi[part].tolist(), strict=True))
        assert all(a[1] <= b[0] + 1 for a, b in itertools.pairwise(intervals))
        assert all(low + 1 < high for low, high in intervals)
        barred = {at for low, high in intervals for at in range(low + 1, high)}
        expected = set()
        for k in component.index.tolist():
            up, down = distance(problem, k, buffer), distance(problem, buffer, k)
            if k != buffer and problem.fixed[k] >= 0 and problem.fixed[buffer] < 0 and up is not None:
                low, high = problem.fixed[k] - down, problem.fixed[k] + up  # type: ignore[operator]
                expected |= {at for at in range(-40, 60) if low < at * unit < high}
        assert barred == expected
        assert int(inst.fixed[i]) == (problem.fixed[buffer] // unit if problem.fixed[buffer] >= 0 else -1)
        assert int(inst.align[i]) == max(problem.alignment[buffer] // unit, 1)
        assert int(inst.size[i]) == -(-problem.size[buffer] // unit)
    assert component.true_size.tolist() == problem.size[component.index].tolist()


def hold_twins(problem: AllocationProblem, component: Component) -> None:
    """A twin is the buffer before, when both are free and alike in all that counts."""
    inst = component.instance

    def content(i: int) -> tuple[int, ...]:
        return tuple(int(column[i]) for column in (inst.first, inst.last, component.true_size, inst.align))

    for i, twin in enumerate(inst.twin.tolist()):
        alike = i > 0 and content(i) == content(i - 1) and inst.fixed[i] < 0 and inst.fixed[i - 1] < 0
        assert twin == (i - 1 if alike and not component.windowed else -1)


@pytest.mark.parametrize("kind", [{}, {"aligned": True}, {"pinned": True}, {"gapped": True},
                                  {"aligned": True, "pinned": True, "gapped": True}])  # fmt: skip
def test_the_tables_are_those_of_plain_counting(kind: dict[str, bool]) -> None:
    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(problems(**kind, most=7))
    def holds(problem: AllocationProblem) -> None:
        components = build_components(problem)
        used = [i for i in range(len(problem)) if problem.spans(i)]
        assert sorted(i for c in components for i in c.index.tolist()) == used
        for component in components:
            assert component.searchable
            assert component.windowed == any(i in problem.gaps for i in component.index.tolist())
            hold_sections(problem, component)
            hold_distances(problem, component)
            hold_offsets(problem, component)
            hold_twins(problem, component)
        lives = [[(s.lower, s.upper) for i in c.index.tolist() for s in problem.spans(i)] for c in components]
        assert all(max(b for _, b in a) <= min(a for a, _ in b) for a, b in itertools.pairwise(lives))

    holds()


@pytest.mark.parametrize(
    ("buffers", "unit", "sizes"),
    [
        # One alignment: sizes are rounded up to it, and the unit is what the rounded ones share.
        ([Buffer("a", 0, 2, 5, 4), Buffer("b", 0, 2, 9, 4)], 4, [2, 3]),
        ([Buffer("a", 0, 2, 5, 4), Buffer("b", 0, 2, 13, 4)], 8, [1, 2]),
        ([Buffer("a", 0, 2, 5, 4), Buffer("b", 0, 2, 13, 4, 12)], 4, [2, 4]),
        ([Buffer("a", 0, 2, 8), Buffer("b", 0, 2, 12)], 4, [2, 3]),
        ([Buffer("a", 0, 2, 8), Buffer("b", 0, 2, 12, 1, 2)], 2, [4, 6]),
        # Unlike alignments, a pin between multiples, or windows: the divisor of all figures.
        ([Buffer("a", 0, 2, 8, 4), Buffer("b", 0, 2, 12, 8)], 4, [2, 3]),
        ([Buffer("a", 0, 2, 8, 4), Buffer("b", 0, 2, 12, 4, 2)], 2, [4, 6]),
        ([Buffer("a", 0, 2, 8, 4, 0, None, (Gap(0, 1, (2, 4)),)), Buffer("b", 0, 2, 12, 4)], 2, [4, 6]),
        ([Buffer("a", 0, 2, 8, 4), Buffer("never", 1, 1, 3, 5), Buffer("b", 0, 2, 12, 4)], 4, [2, 3]),
    ],
)  # fmt: skip
def test_the_unit_is_the_largest_that_all_figures_share(
    buffers: list[Buffer], unit: int, sizes: list[int]
) -> None:
    (component,) = build_components(AllocationProblem.of(buffers))
    assert component.unit == unit
    assert sorted(component.instance.size.tolist()) == sizes


def test_identical_buffers_are_told_apart_by_gaps_and_names() -> None:
    same = [Buffer(name, 0, 4, 3) for name in ("c", "a", "b")]
    late = [
        Buffer("d", 1, 6, 3, gaps=(Gap(2, 3),)),
        Buffer("e", 1, 6, 3, gaps=(Gap(2, 4),)),
        Buffer("f", 1, 6, 3),
    ]
    for order in itertools.islice(itertools.permutations(late + same), 0, 720, 37):
        problem = AllocationProblem.of(order)
        (component,) = build_components(problem)
        assert [str(problem.ids[i]) for i in component.index] == ["a", "b", "c", "f", "d", "e"]
    # By sections first (4 is over before 5 to 8 begin), then size, start, end, alignment and pin.
    apart = [
        Buffer("0", 0, 9, 1), Buffer("1", 0, 9, 2, 1), Buffer("2", 0, 9, 2, 2), Buffer("3", 0, 9, 2, 2, 4),
        Buffer("4", 1, 2, 1), Buffer("5", 3, 4, 9), Buffer("6", 3, 9, 1),
        Buffer("7", 2, 9, 1), Buffer("8", 3, 8, 1),
    ]  # fmt: skip
    (component,) = build_components(AllocationProblem.of(apart[::-1]))
    assert (8 - component.index).tolist() == [4, 0, 1, 2, 3, 7, 8, 6, 5]


def test_a_pinned_buffer_is_no_twin() -> None:
    problem = AllocationProblem.of(
        [Buffer("free", 0, 2, 4), Buffer("pin", 0, 2, 4, offset=0), Buffer("too", 0, 2, 4)]
    )
    (component,) = build_components(problem)
    hold_twins(problem, component)
    assert solve(problem).peak_bytes == 12


def test_a_part_too_large_for_the_search_is_placed_greedily(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = AllocationProblem.of([Buffer(f"b{i}", i, i + 3, 4 + i) for i in range(5)])
    cells = sum(int((c.instance.span_hi - c.instance.span_lo).sum()) for c in build_components(problem))
    for most, searchable in ((cells, True), (cells - 1, False)):
        monkeypatch.setattr(instance_module, "MOST_CELLS", most)
        (component,) = build_components(problem)
        assert component.searchable == searchable
    inst = component.instance
    assert (inst.near_ptr.tolist(), len(inst.near), len(inst.above)) == ([0] * 6, 0, 0)
    assert (inst.member_ptr.tolist(), len(inst.member)) == ([0] * (int(inst.last.max()) + 1), 0)
    assert most_live(component) == 6 + 7 + 8
    monkeypatch.setattr(instance_module, "MOST_CELLS", 1000)
    for most, searchable in ((5, True), (4, False)):
        monkeypatch.setattr(instance_module, "MOST_BUFFERS", most)
        assert build_components(problem)[0].searchable == searchable
    gapped = AllocationProblem.of([Buffer(f"b{i}", 0, 4, 4, gaps=(Gap(1, 2),)) for i in range(3)])
    monkeypatch.setattr(instance_module, "MOST_WINDOWED", 3)
    assert build_components(gapped)[0].windowed
    monkeypatch.setattr(instance_module, "MOST_WINDOWED", 2)
    with pytest.raises(InputError) as error:
        build_components(gapped)
    assert str(error.value) == "3 buffers with gaps share one part of time; at most 2 can be solved"


def test_a_part_without_tables_is_explained_by_its_live_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times five bytes fit in 18, at multiples of four they do not: 8 + 8 + 5."""
    monkeypatch.setattr(instance_module, "MOST_BUFFERS", 1)
    problem = AllocationProblem.of([Buffer(name, 0, 2, 5, 4) for name in "abc"])
    result = solve(problem, 18)
    assert (result.status, result.bound_bytes) == ("infeasible", 21)
    assert result.explanation is not None
    assert (result.explanation.buffers, result.explanation.minimal) == ((0, 1, 2), False)
    assert solve(problem, 21).status == "optimal"


def test_highest_offsets_and_ceilings_leave_room_for_the_true_size() -> None:
    problem = AllocationProblem.of(
        [Buffer("a", 0, 2, 5, 4), Buffer("b", 1, 3, 9, 4), Buffer("c", 2, 4, 20, 4), Buffer("d", 9, 9, 1, 4)]
    )
    (component,) = build_components(problem)
    assert component.unit == 4
    assert members(component) == [[0, 1], [1, 2]]
    highest = highest_offsets(component, 30)
    assert highest.tolist() == [6, 5, 2]
    assert section_ceilings(component.instance, highest).tolist() == [8, 8]
    assert section_totals(component.instance).tolist() == [5, 8]
    assert build_components(problem.subset([3])) == []
    # Of each section the topmost buffer may end with its true size, whichever gains most: 20 - 3 and 32 - 3.
    assert most_live(component) == 29
    # The excess of 'a' is none of the second section's.
    assert (
        lower_bound(
            AllocationProblem.of([Buffer("a", 0, 2, 5, 4), Buffer("b", 0, 3, 8, 4), Buffer("c", 2, 4, 12, 4)])
        )
        == 20
    )


def test_the_most_live_bytes_count_pins_and_alignment() -> None:
    pinned = AllocationProblem.of([Buffer("low", 0, 3, 2, 4, 3), Buffer("free", 0, 3, 7, 1)])
    # Below the pin there is no room for seven bytes: they end at 12 at least.
    assert lower_bound(pinned) == 12
    high = AllocationProblem.of([Buffer("pin", 0, 3, 2, offset=40), Buffer("free", 0, 3, 7)])
    assert lower_bound(high) == 42
    assert lower_bound(AllocationProblem.of([Buffer("a", 0, 1, 4), Buffer("b", 5, 6, 9)])) == 9
    assert lower_bound(AllocationProblem.of([])) == 0


def test_the_orders_of_the_portfolio() -> None:
    """Four buffers whose size, area, life, start, fullest section and neighbours all rank them otherwise."""
    problem = AllocationProblem.of(
        [Buffer("a", 0, 9, 3), Buffer("b", 2, 4, 9), Buffer("c", 3, 8, 5), Buffer("d", 6, 7, 5)]
    )
    (component,) = build_components(problem)
    assert members(component) == [[0, 1, 2], [0, 2, 3]]
    orders = {name: component.index[order].tolist() for name, order in greedy_orders(component.instance)}
    # Lives in sections: a 2, b 1, c 2, d 1; areas 6, 9, 10, 5; fullest sections 17, 17, 17, 13; neighbours 3, 2, 3, 2.
    assert orders == {
        "size": [1, 2, 3, 0],
        "area": [2, 1, 0, 3],
        "duration": [2, 0, 1, 3],
        "start": [1, 2, 0, 3],
        "breadth": [1, 2, 0, 3],
        "section": [2, 0, 1, 3],
    }


@settings(max_examples=25, deadline=None, derandomize=True)
@given(problems(aligned=True, most=7))
def test_every_order_makes_a_plan_and_pushing_down_never_raises_it(problem: AllocationProblem) -> None:
    for component in build_components(problem):
        part = problem.subset(component.index)
        for _, order in greedy_orders(component.instance):
            for best_fit in (False, True):
                plan = place_in_order(component, order, best_fit)
                offsets = (plan * component.unit).tolist()
                assert check(part, offsets) == []
                assert peak_units(component, plan) == peak_of(part, offsets)
                lowered = compact(component, plan + 3 * np.max(component.instance.align) * (plan > 0))
                assert check(part, (lowered * component.unit).tolist()) == []
                assert peak_units(component, compact(component, plan)) <= peak_units(component, plan)
