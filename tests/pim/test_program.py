"""The text form of PIM programs: what is written is read back, and wrong lines are named."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from simulator.pim.program import ALL, Instruction, Loop, Program
from simulator.pim.text import parse_program, read_program, write_program

STEPS = st.lists(st.integers(-99, 99), max_size=3).map(tuple)
INSTRUCTIONS = st.builds(
    Instruction, st.sampled_from(["MAC_ABK", "WR_GB", "RD_MAC"]), st.integers(1, 99), st.integers(0, 9999),
    st.integers(0, 63), st.integers(0, 15), st.sampled_from([ALL, 1, 0xFF, 1 << 31]), STEPS, STEPS, STEPS,
)  # fmt: skip
BODIES = st.recursive(
    st.lists(INSTRUCTIONS, min_size=1, max_size=4).map(tuple),
    lambda inner: st.lists(
        st.one_of(INSTRUCTIONS, st.builds(Loop, st.integers(0, 99), inner)), min_size=1, max_size=4
    ).map(tuple),
    max_leaves=8,
)


def without_lines(body):
    return tuple(
        Loop(entry.count, without_lines(entry.body))
        if isinstance(entry, Loop)
        else Instruction(entry.op, entry.n, entry.row, entry.col, entry.bank, entry.channels, entry.row_steps,
                         entry.col_steps, entry.bank_steps, entry.label)
        for entry in body
    )  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True)
@given(BODIES)
def test_what_is_written_is_read_back(body):
    assert without_lines(parse_program(write_program(Program(body))).body) == body


def test_the_example_of_the_format():
    program = parse_program(
        """
        PHASE qkv              # a label
        LOOP 2
          wr_gb 64 channels=0-7
          LOOP 64
            MAC_ABK 64 row=0+1+64 col=0-1 channels=0,2-3
          END
        END
        WAIT 100
        EOC
        """,
        "example",
    )
    phase, loop, wait, end = program.body
    assert (phase.op, phase.label, wait.n, end.op) == ("PHASE", "qkv", 100, "EOC")
    assert loop.body[0].op == "WR_GB"
    assert loop.body[0].channels == 0xFF
    mac = loop.body[1].body[0]
    assert (mac.row, mac.row_steps, mac.col_steps, mac.channels) == (0, (1, 64), (-1,), 0b1101)
    assert program.instructions == 2 + 2 * 64 + 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f: holds no instruction"),
        ("# nothing", "f: holds no instruction"),
        ("LOOP 3\nEOC", "f:1: LOOP without END"),
        ("END", "f:1: END without LOOP"),
        ("LOOP many\nEOC\nEND", "f:1: found 'LOOP many'; expected LOOP and a count"),
        ("LOOP 1\nEND now", "f:2: found 'END now'; expected END alone"),
        ("EOC\nMAC_ABK x", "f:2: found 'x'; expected a whole number of commands"),
        (
            "MAC_ABK 1 rwo=3",
            "f:1: found 'rwo=3'; known keys: row, col, bank, channels, label (did you mean 'row'?)",
        ),
        ("MAC_ABK row=-3", "f:1: row: found '-3'; expected a number and strides"),
        ("MAC_ABK row=1 row=2", "f:1: row is given twice"),
        ("MAC_ABK channels=5-2", "f:1: channels: found '5-2'; expected all, a mask such as 0xff"),
        ("MAC_ABK channels=9999", "f:1: channels: found '9999'"),
        ("PHASE", "f:1: PHASE needs a label"),
        ("PHASE label=<b>", "f:1: label: found '<b>'"),
    ],
)
def test_wrong_lines_are_named(text, message):
    with pytest.raises(InputError) as error:
        parse_program(text, "f")
    assert message in str(error.value)


def test_all_wrong_lines_are_named_at_once_but_not_without_end():
    with pytest.raises(InputError) as error:
        parse_program("MAC_ABK x\n" * 500, "f")
    assert len(error.value.problems) == 20


def test_deep_loops_do_not_exhaust_the_reader():
    with pytest.raises(InputError, match="deeper"):
        parse_program("LOOP 2\n" * 5000 + "EOC\n" + "END\n" * 5000)


def test_packed_files_and_files_that_are_none(tmp_path):
    path = tmp_path / "p.pim.gz"
    path.write_bytes(gzip.compress(b"EOC\n"))
    assert read_program(path).body[0].op == "EOC"
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"EOC\n")[:-6])
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, message in (
        ("none", "No such file"),
        ("cut.gz", "ended before"),
        ("binary", "not a text file"),
    ):
        with pytest.raises(InputError, match=message):
            read_program(tmp_path / name)
    with pytest.raises(InputError):
        read_program(tmp_path)
