"""Fixtures that every layer uses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Outcome:
    """What one call of the command line printed, and how it left."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run ``offchip`` in this process with the arguments given."""

    def run(*arguments: object) -> Outcome:
        from offchip.cli.main import main

        monkeypatch.setattr(sys, "argv", ["offchip", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as leave:
            main()
        captured = capsys.readouterr()
        return Outcome(int(leave.value.code or 0), captured.out, captured.err)

    return run
