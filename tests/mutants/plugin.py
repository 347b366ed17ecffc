"""What a pytest run under mutation does otherwise: fixed examples, no shrinking, and notes on every test."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

TIMES = "OFFCHIP_MUTANTS_TIMES"
settings.register_profile(
    "mutants", derandomize=True, database=None, deadline=None, phases=[Phase.explicit, Phase.generate]
)


def pytest_configure(config: pytest.Config) -> None:
    """Property tests draw the same examples for every mutant."""
    settings.load_profile("mutants")
    config.pluginmanager.register(_Times(), "mutants-times")


class _Times:
    """Seconds of every test with its fixtures, and who shares one, written where the environment names a file.

    A fixture of a module or of the session runs in the set-up of the first test that asks for it, and ``shared``
    says by that test for which others it ran as well.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self.shared: dict[str, set[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        users: dict[int, list[str]] = {}
        for item in session.items:
            found: Mapping[str, Sequence[Any]] = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009
            for definition in (definitions[-1] for definitions in found.values()):
                # Those of plug-ins have no place of their own and serve every test.
                if definition.scope != "function" and definition.baseid:
                    users.setdefault(id(definition), []).append(item.nodeid)
        for first, *others in users.values():
            self.shared.setdefault(first, set()).update(others)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        if path := os.environ.get(TIMES):
            shared = {test: sorted(others) for test, others in self.shared.items()}
            notes = {"seconds": self.seconds, "failed": sorted(self.failed), "shared": shared}
            Path(path).write_text(json.dumps(notes), encoding="utf-8")
