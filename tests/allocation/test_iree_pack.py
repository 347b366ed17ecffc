"""IREE's packs: slices, lives and sizes of the compiler's text, its own layout, and bad text in one line."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hw_configs.problems import InputError
from mapping.allocation import solve
from mapping.allocation.importers import Part, parse_problem, read_problem

DUMPS = Path(__file__).parents[1] / "reference" / "alloc" / "dumps"


def told(text: str, pack: int | None = None) -> list[str]:
    with pytest.raises(InputError) as error:
        parse_problem(text, "f", part=Part(pack_index=pack))
    return [str(problem) for problem in error.value.problems]


def test_slices_with_their_lives() -> None:
    problem = read_problem(DUMPS / "iree_chain.mlir")
    assert [(b.id, b.lower, b.upper, b.size, b.alignment) for b in problem.buffers] == [
        ("%2#1", 0, 3, 16384, 64), ("%2#2", 1, 4, 16384, 64), ("%2#3", 2, 4, 16384, 64),
    ]  # fmt: skip
    # The compiler's own layout of this pack takes 49,152 bytes.
    assert solve(problem).peak_bytes == 49152


def test_several_packs_and_open_sizes(cli: Callable[..., Any]) -> None:
    path = DUMPS / "iree_two_functions.mlir"
    outcome = cli("solve", "alloc", path, "--minimize")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert (
        "holds 2 packs (0: @dyn %4 (line 64), 1: @two %2 (line 109)); choose one with --pack-index"
        in outcome.err
    )
    outcome = cli("solve", "alloc", path, "--minimize", "--pack-index", 1, "--json")
    assert '"peak": 26448' in outcome.out  # Two slices of 13,200, the second at a multiple of 64.
    outcome = cli("solve", "alloc", path, "--minimize", "--pack-index", 0)
    assert outcome.err.splitlines() == [
        f"{path}:{line}: slice of %1 bytes, which is no constant; expected sizes that do not depend on the input"
        for line in (65, 66)
    ]
    assert told(path.read_text(), 2) == ["--pack-index: found 2; f holds 2"]
    assert told("malloc a 3\n", 0) == ["--pack-index: found 0; f holds no parts of this kind"]


HEAD = "util.func public @f() {\n  %c8 = arith.constant 8 : index\n"
PACK = "  %1:2 = stream.resource.pack slices({\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{HEAD}{PACK}    [0, 1] = %c8\n", ["f:3: ends inside a pack; expected '})'"]),
        (f"{HEAD}{PACK}    [2, 1] = %c8\n  }})\n",
         ["f:4: found the life 2 to 1; expected moments in order, below 2**60"]),
        (f"{HEAD}{PACK}    0, 1 = %c8\n  }})\n", ["f:4: found '0, 1 = %c8'; expected a slice '[first, last] = %size'"]),
        (f"{HEAD}{PACK}    [0, 1] = %c8,\n    [0, 1] = %c8\n  }})\n",
         ["f:3: has 2 slices and 2 results; expected one more result"]),
        (f"{HEAD}  %1 = stream.resource.pack x\n", ["f:3: expected 'slices({' on the line of the operation"]),
        (f"{HEAD}}}\nutil.func @g() {{\n{PACK}    [0, 1] = %c8\n  }})\n",
         ["f:6: slice of %c8 bytes, which is no constant; expected sizes that do not depend on the input"]),
        (f"{HEAD}  %c8 = arith.muli %a, %b : index\n{PACK}    [0, 1] = %c8\n  }})\n",
         ["f:5: slice of %c8 bytes, which is no constant; expected sizes that do not depend on the input"]),
    ],
)  # fmt: skip
def test_bad_text_is_told_in_one_line(text: str, expected: list[str]) -> None:
    assert told(text) == expected


PROGRAM = """
func.func @main(%x: tensor<{n}x{n}xf32>, %w: tensor<{n}x{n}xf32>) -> tensor<{n}x{n}xf32> {{
  %z = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<{n}x{n}xf32>
  %f = linalg.fill ins(%z : f32) outs(%e : tensor<{n}x{n}xf32>) -> tensor<{n}x{n}xf32>
{body}  return %v{last} : tensor<{n}x{n}xf32>
}}
"""
PRODUCT = (
    "  %v{i} = linalg.matmul ins(%{a}, %{b} : tensor<{n}x{n}xf32>, tensor<{n}x{n}xf32>) "
    "outs(%f : tensor<{n}x{n}xf32>) -> tensor<{n}x{n}xf32>\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "steps"), [(64, 5), (33, 9), (100, 16)])
def test_the_compilers_own_layout_is_never_below_ours(tmp_path: Path, n: int, steps: int) -> None:
    compiler = shutil.which("iree-compile")
    if compiler is None:
        pytest.skip("iree-compile is not installed")
    names = ["x", "w"]
    body = ""
    for i in range(steps):
        body += PRODUCT.format(i=i, a=names[-1], b=names[-1 - (i % 3) % len(names)], n=n)
        names.append(f"v{i}")
    source = tmp_path / "m.mlir"
    source.write_text(PROGRAM.format(n=n, body=body, last=steps - 1))
    found = {}
    for when in ("before", "after"):
        command = [compiler, str(source), "--iree-hal-target-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=generic",
                   "--compile-to=stream", f"--mlir-print-ir-{when}=iree-stream-layout-slices", "-o", "-"]  # fmt: skip
        found[when] = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stderr
    problem = parse_problem(found["before"])
    total = re.search(r"!stream\.resource<transient>\{%c(\d+)", found["after"])
    assert total is not None
    assert len(problem) >= 2
    assert (solve(problem).peak_bytes or 0) <= int(total[1])
