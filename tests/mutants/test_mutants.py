"""The mutation run itself: what it changes and leaves alone, what it calls killed, and what it writes down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.mutants.places import (
    Mutant,
    Place,
    apply,
    find_places,
    kernel_lines,
    same_program,
    sample,
    statement_at,
)
from tests.mutants.report import judge_page, moves_a_number, read_judged, share, summary, write_page
from tests.mutants.runner import Reach, Verdict

ROOT = Path(__file__).parents[2]
SOURCE = dedent('''
    from __future__ import annotations

    LIMIT: int | None = 10


    def below(x: int | None) -> bool:
        """Whether x is small."""
        return (
            x is not None
            and x < LIMIT
        )


    @compiled
    def kernel(x):
        return x + 1


    def never_tested(x):
        return x * 2


    def wait(x):
        while x > 0:
            x -= 1
        return x
''').lstrip()
TESTS = dedent("""
    import pytest
    from pkg.part import below, wait

    def test_below():
        assert below(9)
        assert not below(10)

    def test_wait():
        assert wait(3) == 0

    @pytest.fixture(scope="module")
    def waited():
        return wait(2)

    def test_first(waited):
        assert waited == 0

    def test_second(waited):
        assert waited != 1

    def test_that_fails_anyway():
        assert wait(1) == 1
""").lstrip()


def mutant(was: str, now: str, file: str = "pkg/part.py") -> Mutant:
    assert SOURCE.count(was) == 1
    line = SOURCE[: SOURCE.index(was)].count("\n") + 1
    return Mutant(file, line, statement_at(SOURCE, line), was, now, SOURCE.replace(was, now))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "here"
    (tree / "pkg").mkdir(parents=True)
    (tree / "pkg" / "__init__.py").write_text("compiled = None\n")
    (tree / "pkg" / "part.py").write_text(SOURCE.replace("@compiled", "@staticmethod"))
    (tree / "near").mkdir()
    (tree / "near" / "test_part.py").write_text(TESTS)
    (tree / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["slow: x"]\n')
    return tree


def test_compiled_functions_and_decorators_are_left_alone() -> None:
    lines = SOURCE.splitlines()
    closed = {lines[n - 1].strip() for n in kernel_lines(SOURCE)}
    assert closed == {"@compiled", "def kernel(x):", "return x + 1"}
    assert kernel_lines("@cache\ndef f():\n    return 1\n") == {1}
    assert kernel_lines("@numba.njit(cache=True)\ndef f():\n    return 1\n") == {1, 2, 3}


@pytest.mark.parametrize(
    ("was", "now", "same"),
    [("x: int | None", "x: int & None", True), ("LIMIT: int |", "LIMIT: int &", True),
     ("x < LIMIT", "x <= LIMIT", False), ("= 10", "= 11", False), ("x + 1", "(x + 1)", True)],
)  # fmt: skip
def test_annotations_are_no_part_of_the_program(was: str, now: str, same: bool) -> None:
    assert same_program(SOURCE, SOURCE.replace(was, now)) == same


def test_a_star_between_parameters_is_no_product() -> None:
    assert same_program("def f(a, *, b=1): pass", "def f(a, /, b=1): pass")
    assert not same_program("def f(a, *, b=1): pass", "def f(a, *, b=2): pass")


def test_a_statement_is_its_lines_without_its_body() -> None:
    line = SOURCE[: SOURCE.index("and x < LIMIT")].count("\n") + 1
    assert statement_at(SOURCE, line) == (line - 2, line + 1)
    head = SOURCE[: SOURCE.index("while x")].count("\n") + 1
    assert statement_at(SOURCE, head) == (head, head)


def test_tests_are_tried_fastest_first_within_their_time() -> None:
    """Those that reach the line, and a quarter of the time for others of its file; all where it runs unseen."""
    one, unreached = mutant("x < LIMIT", "x <= LIMIT"), mutant("x * 2", "x / 2")
    seconds = {"slow": 30.0, "fast": 1.0, "middle": 5.0, "other": 2.0, "far": 0.5, "broken": 0.1}
    here = {
        "pkg/part.py": {one.line: frozenset({"slow", "fast", "middle", "broken"}), 99: frozenset({"other"})}
    }
    reach = Reach(here, {"pkg/part.py": frozenset({1, 3})}, seconds, ["broken"])
    assert reach.of(one, (), 60.0) == ["fast", "middle", "slow"]
    assert reach.of(one, (), 152.0) == ["fast", "middle", "slow", "other"]
    assert reach.of(one, (), 6.0) == ["fast", "middle"]
    assert reach.of(one, (), 0.5) == ["fast"]
    assert reach.of(unreached, (), 60.0) == ["fast", "other", "middle"]
    assert reach.of(unreached, (), 0.5) == ["fast"]
    assert reach.of(mutant("x * 2", "x / 2", file="pkg/none.py"), (), 60.0) == []
    everywhere = ["fast", "other", "middle", "slow", "far"]
    assert reach.of(unreached, ("pkg/part.py",), 60.0) == everywhere
    assert reach.of(mutant("= 10", "= 11"), (), 60.0) == everywhere


def test_killed_survived_timeout_and_the_tree_untouched(tree: Path) -> None:
    """In a process of its own, for it forks and measures coverage."""
    mutants = [
        mutant("x < LIMIT", "x <= LIMIT"), mutant("x is not None\n        and x < LIMIT", "x < LIMIT"),
        mutant("x -= 1", "x += 1"), mutant("x * 2", "x / 2"), mutant("x > 0", "x >"),
    ]  # fmt: skip
    code = dedent("""
        import json, sys
        from pathlib import Path
        from tests.mutants import runner
        from tests.mutants.places import Mutant

        tree, place, given = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
        with runner.scratch_copy(tree, place) as copy:
            reach = runner.measure(copy, "pkg", ["near"], [])
            fates = []
            for each in given:
                one = Mutant(each[0], each[1], tuple(each[2]), *each[3:])
                fates.append(runner.try_mutant(copy, one, reach.of(one, (), 60.0), 0.0, slack_s=2.0).fate)
            left = (copy / "pkg" / "part.py").read_text() == (tree / "pkg" / "part.py").read_text()
        begun = sorted(reach.tests["pkg/part.py"][int(sys.argv[4])])
        print(json.dumps([fates, sorted(reach.seconds), reach.failed, left, begun]))
    """)
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    given = json.dumps(
        [
            [m.file, m.line, m.statement, m.was, m.now, m.text.replace("@compiled", "@staticmethod")]
            for m in mutants
        ]
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tree), str(tree.parent), given, str(mutants[2].line)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    fates, tests, failed, left, begun = json.loads(run.stdout.splitlines()[-1])
    assert fates == ["killed", "survived", "timeout", "survived", "killed"]
    names = ("below", "first", "second", "that_fails_anyway", "wait")
    assert tests == [f"near/test_part.py::test_{name}" for name in names]
    assert begun == [test for test in tests if not test.endswith("below")], (
        "who shares a fixture reaches its lines"
    )
    assert failed == ["near/test_part.py::test_that_fails_anyway"]
    assert left
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before


def test_a_sample_is_drawn_by_its_seed(tree: Path) -> None:
    pytest.importorskip("cosmic_ray")
    (tree / "pkg" / "part.py").write_text(SOURCE)
    places = find_places(tree, "pkg")
    lines = SOURCE.splitlines()
    assert {lines[place.line - 1].strip() for place in places} >= {"and x < LIMIT", "x -= 1", "return x * 2"}
    assert not [place for place in places if "x + 1" in lines[place.line - 1]]
    drawn = [list(sample(tree, places, 5, seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({(m.file, m.line) for m in drawn[0]}) >= 3
    every = list(sample(tree, places, None, 0))
    assert len(every) > len(places)
    assert all(not same_program(SOURCE, m.text) for m in every)
    assert any(m.now == "and x <= LIMIT" for m in every)
    annotation = next(p for p in places if "def below" in lines[p.line - 1])
    assert [apply(tree, annotation, change) for change in annotation.changes] == [None] * len(
        annotation.changes
    )
    assert isinstance(places[0], Place)


def test_the_page_keeps_the_other_packages(tmp_path: Path) -> None:
    page, judged = tmp_path / "mutants.md", tmp_path / "judged.toml"
    judged.write_text(
        '[[mutant]]\nfile = "pkg/part.py"\nwas = "x > 0"\nnow = "x != 0"\njudged = "equivalent"\nwhy = "x falls"\n'
    )
    verdicts = [
        Verdict(mutant("x < LIMIT", "x <= LIMIT"), "killed", 2), Verdict(mutant("x -= 1", "x += 1"), "timeout", 1),
        Verdict(mutant("x > 0", "x != 0"), "survived", 1), Verdict(mutant("x * 2", "x | 2"), "survived", 0),
    ]  # fmt: skip
    assert share(verdicts) == 0.5
    assert summary(verdicts) == "4 mutants: 1 killed, 1 timeout, 2 survived; 50% killed"
    known = read_judged(judged)
    write_page(page, "b/b", verdicts, 40, "7", "2026-01-02", known)
    write_page(page, "a/a", verdicts[:1], 10, "8", "2026-01-03", known)
    first = page.read_text()
    write_page(page, "a/a", verdicts[:1], 10, "8", "2026-01-03", known)
    assert page.read_text() == first
    lines = first.splitlines()
    assert lines.index(
        "| `a/a` | 10 | 1 | 1 | 0 | 0 | 0 | 100% | 100% | 2026-01-03 | 8 |"
    ) + 1 == lines.index("| `b/b` | 40 | 4 | 2 | 1 | 2 | 1 | 50% | 67% | 2026-01-02 | 7 |")
    assert f"| `pkg/part.py:{verdicts[2].mutant.line}` | `x > 0` | `x != 0` | equivalent |" in lines
    assert (
        f"| `pkg/part.py:{verdicts[3].mutant.line}` | `x * 2` | `x \\| 2` | not yet killed, no near test reaches it |"
        in lines
    )
    judged.write_text('[[mutant]]\nfile = "f"\nwas = "a"\nnow = "b"\njudged = "fine"\nwhy = "x"\n')
    with pytest.raises(ValueError, match="'fine', expected one of equivalent"):
        read_judged(judged)


@pytest.mark.parametrize(
    ("was", "now", "moved"),
    [
        ("NODES: Final = 20_000", "NODES: Final = 20001", True),
        ("NODES: Final = 20_000", "NODES: Final = 19999", True),
        ("NODES: Final = 20_000", "NODES: Final = 20002", False),
        ("widths = (64, 1024)", "widths = (64, 1025)", True),
        ("widths = (64, 1024)", "widths = (65, 1025)", False),
        ("cells[0]", "cells[ -1]", True),
        ("cells[-1]", "cells[- 2]", True),
        ("cells[-1]", "cells[+1]", False),
        ("limit = 8 * size1", "limit = 8 / size1", False),
        ("limit = 8 * size1", "limit = 8 * size2", False),
        ("share = 0.35", "share = 1.35", True),
    ],
)
def test_a_moved_number_is_one_more_or_one_less(was: str, now: str, moved: bool) -> None:
    assert moves_a_number(was, now) == moved


def test_an_entry_without_the_line_after_speaks_of_moved_numbers_alone(tmp_path: Path) -> None:
    page, judged = tmp_path / "mutants.md", tmp_path / "judged.toml"
    entry = '[[mutant]]\nfile = "pkg/part.py"\nwas = "LIMIT = 10"\njudged = "speed alone"\nwhy = "how long"\n'
    judged.write_text(entry)
    known = read_judged(judged)
    changes = [("LIMIT = 10", "LIMIT = 11"), ("LIMIT = 10", "LIMIT = 9"), ("LIMIT = 10", "LIMIT = -10")]
    verdicts = [Verdict(Mutant("pkg/part.py", 1, (1, 1), *change, ""), "survived", 1) for change in changes]
    verdicts += [Verdict(Mutant("pkg/other.py", 1, (1, 1), *changes[0], ""), "survived", 1)]
    write_page(
        page, "b/b", [*verdicts, Verdict(verdicts[0].mutant, "killed", 1)], 40, "7", "2026-01-02", known
    )
    lines = page.read_text().splitlines()
    assert "| `b/b` | 40 | 5 | 1 | 0 | 4 | 2 | 20% | 33% | 2026-01-02 | 7 |" in lines
    assert sum(line.endswith("| speed alone |") for line in lines) == 2
    assert "| `pkg/part.py:1` | `LIMIT = 10` | `LIMIT = -10` | not yet killed |" in lines
    two = known | {("pkg/part.py", "LIMIT = 10", "LIMIT = -10"): "equivalent"}
    judge_page(page, two)
    anew = page.read_text().splitlines()
    assert "| `b/b` | 40 | 5 | 1 | 0 | 4 | 3 | 20% | 50% | 2026-01-02 | 7 |" in anew
    assert "| `pkg/part.py:1` | `LIMIT = 10` | `LIMIT = -10` | equivalent |" in anew
    assert len(anew) == len(lines)
    judge_page(
        page, {("pkg/part.py", "LIMIT = 10", "LIMIT = -10"): "equivalent", ("a", "b|c", "b"): "equivalent"}
    )
    assert page.read_text().splitlines() == anew
    judged.write_text(entry.replace("speed alone", "equivalent"))
    with pytest.raises(ValueError, match="'LIMIT = 10' needs 'now'"):
        read_judged(judged)
    judged.write_text(entry.replace("10", "most"))
    with pytest.raises(ValueError, match="'LIMIT = most' needs 'now'"):
        read_judged(judged)
    judged.write_text(entry.replace("how long", ""))
    with pytest.raises(ValueError, match="without a reason"):
        read_judged(judged)


def test_what_was_judged_still_stands_in_the_source() -> None:
    for file, was, _ in read_judged(ROOT / "tests" / "mutants" / "judged.toml"):
        lines = [line.strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
        assert was in lines, f"{file}: {was}"
