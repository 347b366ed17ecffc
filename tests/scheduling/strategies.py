"""Random small scheduling problems."""

from __future__ import annotations

from hypothesis import strategies as st

from mapping.scheduling import InPlace, ScheduleOperator, ScheduleProblem, ScheduleTensor


@st.composite
def problems(
    draw: st.DrawFn, most_operators: int = 7, most_bytes: int = 3, in_place: bool = False
) -> ScheduleProblem:
    """Up to so many operators, some with two outputs, workspaces, tensors from off-chip, extra waits.

    With ``in_place`` most operators may write outputs over inputs that are no smaller.
    """
    n = draw(st.integers(1, most_operators))
    sizes: list[int] = []
    producer: list[int] = []
    outside = draw(st.integers(0, 2))
    for _ in range(outside):
        sizes.append(draw(st.integers(1, most_bytes)))
        producer.append(-1)
    operators = []
    for o in range(n):
        there = list(range(len(sizes)))
        inputs = draw(st.lists(st.sampled_from(there), max_size=3, unique=True)) if there else []
        made = draw(st.sampled_from([1, 1, 1, 2]))
        outputs = tuple(range(len(sizes), len(sizes) + made))
        for _ in range(made):
            sizes.append(draw(st.integers(1, most_bytes)))
            producer.append(o)
        after = (draw(st.integers(0, o - 1)),) if o and draw(st.integers(0, 5)) == 0 else ()
        workspace = draw(st.sampled_from([0, 0, 0, 1, 2]))
        pairs = []
        for t in outputs if in_place and draw(st.integers(0, 4)) else ():
            free = [i for i in inputs if sizes[i] >= sizes[t] and all(i not in pair.inputs for pair in pairs)]
            over = draw(st.lists(st.sampled_from(free), max_size=2, unique=True)) if free else []
            pairs += [InPlace(t, tuple(over))] if over else []
        operators.append(
            ScheduleOperator(f"op{o}", tuple(sorted(inputs)), outputs, workspace, after, tuple(pairs))
        )
    tensors = []
    for t, size in enumerate(sizes):
        consumers = tuple(o for o, op in enumerate(operators) if t in op.inputs)
        output = producer[t] >= 0 and (not consumers or draw(st.integers(0, 3)) == 0)
        tensors.append(
            ScheduleTensor(f"t{t}", size, producer[t], consumers, producer[t] < 0 or output, output)
        )
    return ScheduleProblem("random", tuple(operators), tuple(tensors))
