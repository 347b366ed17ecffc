"""The command behind ``./dev mutants PACKAGE``: draw mutants, try them, print and write down what became of them."""

from __future__ import annotations

import argparse
import datetime
import signal
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .places import find_places, sample
from .report import read_judged, summary, write_page
from .runner import Verdict, leave, measure, scratch_copy, try_mutant

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent


def _arguments(packages: Mapping[str, Any], given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev mutants", description=__doc__)
    parser.add_argument("package", choices=list(packages))
    parser.add_argument(
        "--sample", type=int, help="places to try (default: as many as take about 15 minutes)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which places and changes are drawn (default 0)")
    parser.add_argument("--all", action="store_true", help="every change at every place: hours")
    parser.add_argument(
        "--only", metavar="WORD", default="", help="only files named with WORD; no page is written"
    )
    return parser.parse_args(given)


def _warm_up() -> None:
    """Import the libraries once; each fork then has them. The project itself is imported in the fork."""
    import hypothesis
    import networkx
    import numba
    import numpy
    import pydantic
    import pytest
    import scipy.optimize
    import typer

    del hypothesis, networkx, numba, numpy, pydantic, pytest, scipy, typer


def main(given: Sequence[str] | None = None) -> int:
    """Run; an interrupt ends the run with what was tried until then, which is a smaller sample.

    The exit status is 0 whatever survives, 1 if the tests cannot be run.
    """
    packages = tomllib.loads((_HERE / "packages.toml").read_text(encoding="utf-8"))
    options = _arguments(packages, given)
    package, settings = options.package, packages[options.package]
    signal.signal(signal.SIGTERM, leave)
    count = None if options.all else options.sample or settings["sample"]
    _warm_up()
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, scratch_copy(_ROOT, Path(folder)) as copy:
        places = [place for place in find_places(copy, package) if options.only in place.file]
        try:
            reach = measure(copy, package, settings["tests"], settings["skip"])
        except RuntimeError as failed:
            print(failed, file=sys.stderr)
            return 1
        total = sum(reach.seconds.values())
        for test in reach.failed:
            print(f"left out, for it fails without any change: {test}", file=sys.stderr, flush=True)
        print(f"{len(reach.seconds)} tests in {total:.0f} s; {len(places)} places", flush=True)
        with suppress(KeyboardInterrupt):
            for mutant in sample(copy, places, count, options.seed):
                tests = reach.of(mutant, settings["elsewhere"], settings["most_seconds"])
                seconds = sum(reach.seconds.get(test, 0.0) for test in tests)
                verdict = try_mutant(copy, mutant, tests, seconds)
                verdicts.append(verdict)
                if verdict.fate == "survived":
                    change = f"{mutant.was}  ->  {mutant.now}"
                    print(f"{mutant.file}:{mutant.line}: {change}  ({len(tests)} tests)", flush=True)
    print(summary(verdicts))
    if verdicts and not options.only:
        drawn = "all" if options.all else str(options.seed)
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        judged = read_judged(_HERE / "judged.toml")
        write_page(_ROOT / "docs" / "mutants.md", package, verdicts, len(places), drawn, date, judged)
    return 0


if __name__ == "__main__":
    sys.exit(main())
