"""What a pytest run under mutation does otherwise: fixed examples, no shrinking, and the time of every test."""

from __future__ import annotations

import json
import os
from pathlib import Path

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
    """Seconds of every test that passes, with its fixtures, written where the environment names a file."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        if path := os.environ.get(TIMES):
            Path(path).write_text(
                json.dumps({"seconds": self.seconds, "failed": sorted(self.failed)}), encoding="utf-8"
            )
