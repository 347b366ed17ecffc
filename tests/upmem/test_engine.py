"""The engine is the core that looks at every cycle; and what follows from the pipeline by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.upmem.engine import run
from simulator.upmem.program import Core, Phase, Step
from tests.upmem import oracle

STEPS = st.one_of(
    st.builds(Step, st.just("run"), st.integers(1, 9)),
    st.builds(Step, st.sampled_from(["read", "write"]), st.integers(1, 20).map(lambda n: 8 * n)),
)
BARRIERS = (Phase((Step("barrier"),)),)


@st.composite
def programs(draw):
    """Tasklets of their own, meeting equally often."""
    meetings = draw(st.integers(0, 2))
    phases = st.lists(
        st.builds(Phase, st.lists(STEPS, max_size=4).map(tuple), st.integers(0, 3)), max_size=2
    ).map(tuple)
    return tuple(
        sum((draw(phases) + BARRIERS for _ in range(meetings)), ()) + draw(phases)
        for _ in range(draw(st.integers(1, 14)))
    )


@settings(max_examples=150, deadline=None)
@given(programs(), st.integers(1, 12), st.integers(1, 4))
def test_against_the_core_that_looks_at_every_cycle(program, spacing, rate):
    core = Core(spacing=spacing, bytes_per_cycle=rate, read_cycles=7, write_cycles=5)
    found = run(program, core)
    seen = (found.cycles, found.instructions, found.transfer_cycles, found.read_bytes, found.written_bytes)
    assert seen == oracle.run(program, core)


@pytest.mark.parametrize("tasklets", [1, 5, 11, 16, 24])
def test_eleven_tasklets_fill_the_pipeline(tasklets):
    found = run(((Phase((Step("run", 1000),)),),) * tasklets, Core())
    # 1000 rounds of eleven cycles, or of as many as there are tasklets.
    assert found.cycles == pytest.approx(1000 * max(11, tasklets), abs=11)


def test_a_transfer_and_two():
    one = run(((Phase((Step("read", 2048),)),),), Core())
    assert one.cycles == 1 + 77 + 1024
    two = run(((Phase((Step("read", 2048),)),),) * 2, Core())
    assert two.cycles == 1 + 2 * (77 + 1024)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ((), "found 0 tasklets"),
        (((Phase((Step("run"),)),),) * 25, "found 25 tasklets; expected 1 to 24"),
        (((Phase((Step("read", 12),)),),), "read: found 12 bytes; expected 8 to 2048, a multiple of 8"),
        (((Phase((Step("write", 4096),)),),), "write: found 4096 bytes"),
        (((Phase((Step("jump"),)),),), "found step 'jump'"),
        (((Phase((Step("run", 0),)),),), "run: found 0"),
        ((BARRIERS, ()), "tasklets meet"),
        (((Phase((Step("run", 1 << 40),)),),), "instructions; expected up to"),
        (((Phase((Step("run"),), -1),),), "found -1 times"),
    ],
)
def test_programs_a_core_cannot_run(program, message):
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        run(program, Core())


def test_a_core_without_a_clock():
    with pytest.raises(InputError, match="clock_hz"):
        Core(clock_hz=0)
