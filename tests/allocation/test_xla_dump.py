"""XLA dumps: nothing is lost, XLA's own plan and figures hold, and a dump that cannot be joined is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from mapping.allocation import Gap, check, solve
from mapping.allocation.importers import Part, parse_problem, read_problem
from mapping.allocation.xla_dump import XlaValue, _buffers, read_values

DUMPS = Path(__file__).parents[1] / "reference" / "alloc" / "dumps"
PAIRS = ("step", "scan_gradient", "nested_loops")


def told(text: str, part: Part | None = None) -> list[str]:
    with pytest.raises(InputError) as error:
        parse_problem(text, "f", part=part)
    return [str(problem) for problem in error.value.problems]


def test_elements_of_a_tuple_are_buffers_and_a_loop_state_is_the_buffer_it_stands_for() -> None:
    problem = read_problem(DUMPS / "xla_tuple.txt")
    assert [(b.id, b.lower, b.upper, b.size) for b in problem.buffers] == [
        ("while{0}", 0, 10, 1000), ("while{1}", 0, 10, 1000),
    ]  # fmt: skip
    assert solve(problem).peak_bytes == 2000


def _arena(text: str) -> int:
    """Bytes of all allocations of a dump but those of single threads: what XLA itself needs."""
    return sum(int(size) for size in re.findall(r"^allocation \d+: size (\d+),(?! thread-local)", text, re.M))


def _holds_its_own_plan(assignment: Path) -> int:
    """XLA's plan is a plan of the problem; its figure for live bytes is the sum of our rows; the least peak."""
    text = assignment.read_text()
    lives = Path(str(assignment).replace("buffer-assignment", "live-range")).read_text()
    values = read_values(text, str(assignment))
    moment = re.search(r"Live ranges at (\d+) \(peak\)", lives)
    if moment:
        figure = int(re.findall(r"\(cumulative: (\d+) bytes\)", lives)[-1])
        assert sum(v.size for v in values if v.first <= int(moment[1]) <= v.last) == figure
    problem = read_problem(assignment)
    base, at = {}, 0
    for number, size in re.findall(r"^allocation (\d+): size (\d+)", text, re.M):
        base[int(number)], at = at, at + int(size)
    first = {v.name: v for v in values}
    # A buffer begins where the lowest of its values does; its first value may lie higher.
    offsets = []
    for buffer in problem.buffers:
        value = first[buffer.id]
        shift = next((g.window[0] for g in buffer.gaps if g.lower == buffer.lower and g.window), 0)
        offsets.append(base[value.allocation] + value.offset - shift)
    assert check(problem, offsets) == []
    result = solve(problem, max_nodes=20_000)
    assert result.bound_bytes <= (result.peak_bytes or 0) <= _arena(text)
    return result.peak_bytes or 0


@pytest.mark.parametrize("name", PAIRS)
def test_the_two_files_of_a_dump_are_read_together(name: str) -> None:
    path = DUMPS / f"{name}-buffer-assignment.txt"
    peak = _holds_its_own_plan(path)
    other = read_problem(DUMPS / f"{name}-live-range.txt")
    assert solve(other, max_nodes=20_000).peak_bytes == peak
    if name == "step":
        assert peak == 114692  # XLA's own figure; this step has no loop.


def test_half_a_dump_is_refused(tmp_path: Path) -> None:
    for ours, theirs in (("buffer-assignment", "live-range"), ("live-range", "buffer-assignment")):
        path = tmp_path / f"m-{ours}.txt"
        path.write_text((DUMPS / f"step-{ours}.txt").read_text())
        with pytest.raises(InputError, match=rf"expected them beside it in m-{theirs}\.txt"):
            read_problem(path)
        path.unlink()
    assert "side by side" in told("value: <3 a @0> (size=8,offset=0): f32[2]\n")[0]


VALUE = " value: <3 {} @{}> (size={},offset={}): f32[16]\n"


def one(name: str = "a", space: int = 0, size: int = 8, offset: int = 0) -> str:
    return VALUE.format(name, space, size, offset)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (one() + "BufferLiveRange:\n b{}:0-3\n",
         ["f:1: value 'a{}' has no live range; expected one under BufferLiveRange",
          "f:3: live range of 'b{}' has no value with a size"]),
        (one("a{0}") + "BufferLiveRange:\n a{1}:0-3\n",
         ["f:1: value 'a{0}' has no live range; expected one under BufferLiveRange",
          "f:3: live range of 'a{1}' has no value with a size"]),
        (one() + one() + "BufferLiveRange:\n a{}:0-3\n", ["f:2: value 'a{}' stands here and on line 1"]),
        (one() + "BufferLiveRange:\n a{}:0-3\n a:0-3\n", ["f:4: live range of 'a{}' stands here and on line 3"]),
        (one() + "BufferLiveRange:\n a{}:4-3\n", ["f:3: live range of 'a{}' ends at 3, before 4"]),
        (one() + "BufferLiveRange:\n a{}:4\n",
         ["f:3: found 'a{}:4'; expected a live range 'name{}:first-last'"]),
        ("value: <3 a @0> (size=x)\nBufferLiveRange:\n a{}:0-3\n",
         ["f:1: found 'value: <3 a @0> (size=x)'; expected 'value: <12 name @0> (size=1024,offset=0)'"]),
        (one() + "BufferLiveRange:\n a{}:0-3\n Live ranges at 2 (peak):\n  a{}: 9 bytes (cumulative: 9 bytes)\n",
         ["f: XLA counts 9 bytes live at 2, the values read sum to 8; expected equal figures"]),
        (one() + one("b", 1) + "BufferLiveRange:\n a{}:0-3\n b{}:0-3\n",
         ["f: holds the memory spaces 0, 1; choose one with --memory-space"]),
        (one() + f"BufferLiveRange:\n a{{}}:0-{2**60 + 1}\n", [f"f:3: found {2**60 + 1}; expected at most 2**60"]),
    ],
)  # fmt: skip
def test_a_dump_that_cannot_be_joined_is_refused(text: str, expected: list[str]) -> None:
    assert told(text) == expected


def test_a_memory_space_can_be_chosen() -> None:
    text = one() + one("b", 1, 16) + "BufferLiveRange:\n a{}:0-3\n b{}:0-3\n"
    assert parse_problem(text, part=Part(memory_space=1)).size.tolist() == [16]
    assert told(text, Part(memory_space=2)) == ["--memory-space: found 2; f holds 0, 1"]
    assert told("id,lower,upper,size\n", Part(memory_space=2)) == [
        "--memory-space: found 2; f holds no parts of this kind"
    ]


def test_values_of_computations_inside_one_instruction_lie_outside() -> None:
    text = (
        "allocation 0: size 8, maybe-live-out:\n" + one() + "allocation 1: size 4, thread-local:\n" + one("b")
        + "allocation 2: size 4, constant:\n" + one("c") + "BufferLiveRange:\n a{}:0-3\n"
    )  # fmt: skip
    assert parse_problem(text).ids == ("a",)


def value(name: str, life: tuple[int, int], place: tuple[int, int] = (0, 8), phi: bool = False) -> XlaValue:
    return XlaValue(name, place[1], place[0], 0, *life, phi)


def test_what_shares_bytes_while_alive_is_one_buffer_with_gaps() -> None:
    (state,) = _buffers([value("a", (0, 3)), value("p", (3, 5), phi=True), value("q", (8, 9), phi=True)])
    assert (state.id, state.lower, state.upper, state.gaps) == ("a", 0, 10, (Gap(6, 8),))
    (grown,) = _buffers([value("a", (0, 3), (4, 4)), value("b", (3, 5))])
    assert (grown.size, grown.gaps) == (8, (Gap(0, 3, (4, 8)),))
    assert len(list(_buffers([value("a", (0, 3)), value("b", (4, 5))]))) == 2
    assert len(list(_buffers([value("a", (0, 3)), value("b", (3, 5), (8, 8))]))) == 2


@st.composite
def _placed(draw: st.DrawFn) -> list[XlaValue]:
    """Values at random places, as a dump may state them."""
    rows = []
    for i in range(draw(st.integers(1, 8))):
        first = draw(st.integers(0, 8))
        rows.append(
            XlaValue(
                f"v{i}",
                draw(st.integers(1, 4)),
                draw(st.integers(0, 6)),
                draw(st.integers(0, 1)),
                first,
                first + draw(st.integers(0, 4)),
                draw(st.booleans()),
            )
        )
    return rows


def _bytes_in_use(values: list[XlaValue], moment: int) -> int:
    """Plainly: the distinct bytes under the values alive at a moment."""
    used = {
        (v.allocation, byte)
        for v in values
        if v.first <= moment <= v.last
        for byte in range(v.offset, v.offset + v.size)
    }
    return len(used)


@given(_placed())
@settings(max_examples=200, deadline=None)
def test_no_problem_is_smaller_than_the_bytes_that_are_in_use(values: list[XlaValue]) -> None:
    buffers = list(_buffers(values))
    for moment in range(14):
        live = 0
        for buffer in buffers:
            if buffer.lower <= moment < buffer.upper:
                gap = next((g for g in buffer.gaps if g.lower <= moment < g.upper), None)
                window = (0, buffer.size) if gap is None else gap.window or (0, 0)
                live += window[1] - window[0]
        assert live >= _bytes_in_use(values, moment)


def test_the_guard_sees_values_that_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its states and in-place values the reader counts bytes twice, and XLA's own plan is none any more."""
    monkeypatch.setattr("mapping.allocation.xla_dump._shared", lambda values: iter(()))
    assert solve(read_problem(DUMPS / "xla_tuple.txt")).peak_bytes == 3000
    with pytest.raises(AssertionError):
        _holds_its_own_plan(DUMPS / "scan_gradient-buffer-assignment.txt")


PROGRAMS = """
import jax, jax.numpy as jnp
from jax import lax
def compiled(f, *a): jax.jit(f).lower(*a).compile()
for n, d in [(2, 16), (3, 33), (6, 64), (4, 24)]:
    x, w = jnp.ones((d, d)), [jnp.ones((d, d))] * n
    def loss(w, x):
        for a in w: x = jnp.tanh(x @ a)
        return (x ** 2).mean()
    compiled(lambda w, x: [a - g for a, g in zip(w, jax.grad(loss)(w, x))], w, x)
    def turn(c, t): return (jnp.sin(c[0] @ c[1]) + t, c[0]), c[0].sum()
    compiled(lambda x: lax.scan(turn, (x, x * 2), jnp.ones(n)), x)
    def run(x, w): return (lax.scan(lambda c, t: (jnp.tanh(c @ w) * t, c), x, jnp.ones(n))[0] ** 2).sum()
    compiled(jax.grad(run, argnums=1), x, x)
    def inner(i, c): return lax.fori_loop(0, 3, lambda j, s: s @ c[0], c[1]), c[1]
    compiled(lambda x: lax.fori_loop(0, n, inner, (x, x)), x)
    compiled(lambda x, p: lax.switch(p, [lambda a: a @ a, lambda a: a.T + 1, lambda a: jnp.cumsum(a, 0)], x), x, 1)
    for f in (jnp.sort, jnp.linalg.qr, jnp.linalg.inv, jnp.fft.fft2, jax.nn.softmax): compiled(f, x)
    compiled(lambda x, i: x.at[i].set(3.0).at[i + 1].add(x[0]) @ x, x, 3)
    compiled(lambda x: lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ c, x), x)
    compiled(lambda x: jax.random.normal(jax.random.key(0), (d, d)) @ x, x)
"""


@pytest.mark.slow
def test_fresh_dumps_of_the_real_tool(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    environment = os.environ | {"XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"}
    subprocess.run([sys.executable, "-c", PROGRAMS], env=environment, check=True, timeout=600)
    dumps = sorted(tmp_path.glob("*-buffer-assignment.txt"))
    assert len(dumps) >= 50
    for dump in dumps:
        _holds_its_own_plan(dump)


def test_the_command_reads_the_pair(cli: Callable[..., Any]) -> None:
    outcome = cli("solve", "alloc", DUMPS / "step-buffer-assignment.txt", "--minimize", "--json")
    assert '"peak": 114692' in outcome.out
