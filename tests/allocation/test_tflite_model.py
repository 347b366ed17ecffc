"""TensorFlow Lite models: tensors, lives and sizes as the interpreter has them, and damaged files in one line."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_configs.problems import InputError
from mapping.allocation import solve
from mapping.allocation.importers import Part, read_problem
from mapping.allocation.tflite_model import parse_tflite

MODEL = Path(__file__).parents[1] / "reference" / "alloc" / "dumps" / "small.tflite"


def test_a_model_is_its_tensors_with_their_lives() -> None:
    problem = read_problem(MODEL)
    # weights are made once of half-precision constants and stay; the input stays for the next inference.
    assert [(b.id, b.lower, b.upper, b.size, b.alignment) for b in problem.buffers] == [
        ("0:input", 0, 5, 64, 64), ("2:weights", 0, 5, 64, 64), ("3:sum", 1, 4, 64, 64), ("4:relu", 2, 4, 64, 64),
        ("5:joined", 3, 5, 128, 64), ("6:output", 4, 5, 256, 64),
    ]  # fmt: skip
    assert solve(problem).peak_bytes == 64 + 64 + 128 + 256


def test_the_command_takes_a_model(cli: Callable[..., Any]) -> None:
    assert '"peak": 512' in cli("solve", "alloc", MODEL, "--minimize", "--json").out
    assert '"reserved_peak": 2097152' in cli("trace", "memory", MODEL, "--json").out
    outcome = cli("solve", "alloc", MODEL, "--minimize", "--device-index", 0)
    assert (outcome.code, outcome.err) == (
        2,
        f"--device-index: found 0; {MODEL} holds no parts of this kind\n",
    )
    with pytest.raises(InputError, match="--memory-space"):
        read_problem(MODEL, Part(memory_space=0))


def patched(old: bytes, new: bytes, which: int = 0) -> bytes:
    """The sample with one run of bytes replaced where it stands for the ``which``-th time."""
    data, at = MODEL.read_bytes(), -1
    for _ in range(which + 1):
        at = data.index(old, at + 1)
    return data[:at] + new + data[at + len(old) :]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (MODEL.read_bytes()[:200], "f: is not a whole .tflite file"),
        (b"\0\0\0\0TFL3", "f: subgraphs: found 0; expected one"),
        (patched(struct.pack("<3i", 2, 1, 16), struct.pack("<3i", 2, -1, 16)), "has the open shape [-1, 16]"),
        (patched(struct.pack("<I2i", 2, 3, 4), struct.pack("<I2i", 2, 3, 9)),
         "operators.3: found tensor 9; the file has 7"),
        (patched(struct.pack("<I2i", 2, 3, 4), struct.pack("<I2i", 2, 3, 6)),
         "operators.3: reads tensor '6:output', which nothing has written"),
    ],
)  # fmt: skip
def test_a_bad_model_is_told_in_one_line(data: bytes, words: str) -> None:
    with pytest.raises(InputError) as error:
        parse_tflite(data, "f")
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@given(st.integers(0, len(MODEL.read_bytes()) - 1), st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_damaged_byte_is_read_or_refused(place: int, value: int) -> None:
    data = bytearray(MODEL.read_bytes())
    data[place] = value
    with contextlib.suppress(InputError):
        assert solve(parse_tflite(bytes(data), "f"), max_nodes=100).status in ("optimal", "feasible")


@pytest.mark.slow
def test_real_models_as_the_interpreter_has_them() -> None:
    """Every tensor in the arena has the interpreter's bytes, and is read and written by its operators."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    mediapipe = pytest.importorskip("mediapipe")
    builtin = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    seen = 0
    for path in sorted(Path(next(iter(mediapipe.__path__))).rglob("*.tflite")):
        interpreter = litert.Interpreter(str(path), experimental_op_resolver_type=builtin)
        try:
            interpreter.allocate_tensors()
        except RuntimeError:  # An operator of the model's own.
            continue
        operators = interpreter._get_ops_details()
        written = {int(t): i for i, op in reversed(list(enumerate(operators))) for t in op["outputs"]}
        ours = {int(b.id.partition(":")[0]): b for b in read_problem(path).buffers}
        assert set(ours) == set(written) | {detail["index"] for detail in interpreter.get_input_details()}
        for index, buffer in ours.items():
            assert buffer.size == interpreter.tensor(index)().nbytes
            assert buffer.lower <= written.get(index, 0) < buffer.upper
            reads = [i for i, op in enumerate(operators) if index in op["inputs"]]
            assert buffer.upper >= max(reads, default=0) + 1
        seen += 1
    assert seen
