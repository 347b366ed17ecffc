"""The oracle of the property tests: tries every offset of every buffer. Obviously right, and slow."""

from __future__ import annotations

from mapping.allocation import AllocationProblem


def distance(problem: AllocationProblem, a: int, b: int) -> int | None:
    """Least offset of ``b`` minus that of ``a`` when ``b`` lies above; None when they never meet."""
    reaches = [
        first.window_upper - second.window_lower
        for first in problem.spans(a)
        for second in problem.spans(b)
        if max(first.lower, second.lower) < min(first.upper, second.upper)
    ]
    return max(reaches, default=None)


def fits(problem: AllocationProblem, capacity: int) -> bool:
    """Whether any plan keeps below the capacity."""
    n = len(problem)
    apart = {(a, b): distance(problem, a, b) for a in range(n) for b in range(n) if a != b}
    active = [i for i in range(n) if problem.spans(i)]
    offsets: dict[int, int] = {}

    def extend(turn: int) -> bool:
        if turn == len(active):
            return True
        i = active[turn]
        step = int(problem.alignment[i])
        choices = [int(problem.fixed[i])] if problem.fixed[i] >= 0 else range(0, capacity + 1, step)
        for offset in choices:
            if offset + int(problem.size[i]) > capacity:
                break
            for k, other in offsets.items():
                up, down = apart[k, i], apart[i, k]
                if up is not None and offset < other + up and other < offset + down:
                    break
            else:
                offsets[i] = offset
                if extend(turn + 1):
                    return True
                del offsets[i]
        return False

    return extend(0)


def least_peak(problem: AllocationProblem) -> int:
    """The least peak of any plan."""
    active = [i for i in range(len(problem)) if problem.spans(i)]
    low = max((int(problem.size[i]) + max(int(problem.fixed[i]), 0) for i in active), default=0)
    capacity = low
    while not fits(problem, capacity):
        capacity += 1
        if capacity > 400:
            raise AssertionError("no plan at all")
    return capacity
