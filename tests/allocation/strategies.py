"""Small random allocation problems for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from mapping.allocation import AllocationProblem, Buffer, Gap


@st.composite
def buffers(draw: st.DrawFn, name: str, aligned: bool, pinned: bool, gapped: bool) -> Buffer:
    lower = draw(st.integers(0, 4))
    upper = draw(st.integers(lower + 1, 5))
    size = draw(st.integers(1, 4))
    gaps: tuple[Gap, ...] = ()
    if gapped and upper - lower > 1 and draw(st.booleans()):
        begin = draw(st.integers(lower, upper - 1))
        end = draw(st.integers(begin + 1, upper))
        low = draw(st.integers(0, size))
        window = draw(st.sampled_from([None, (low, draw(st.integers(low, size)))]))
        gaps = (Gap(begin, end, window),)
    return Buffer(
        id=name,
        lower=lower,
        upper=upper,
        size=size,
        alignment=draw(st.sampled_from([1, 1, 2, 3])) if aligned else 1,
        offset=draw(st.one_of(st.none(), st.none(), st.integers(0, 4))) if pinned else None,
        gaps=gaps,
    )


@st.composite
def problems(
    draw: st.DrawFn, aligned: bool = False, pinned: bool = False, gapped: bool = False, most: int = 6
) -> AllocationProblem:
    count = draw(st.integers(1, most))
    return AllocationProblem.of([draw(buffers(f"b{i}", aligned, pinned, gapped)) for i in range(count)])
