"""The examples of docs/cpu-caches.md give what they say."""

from __future__ import annotations

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "cpu-caches.md"


def test_the_examples_of_the_page() -> None:
    outcome = doctest.testfile(str(PAGE), module_relative=False)
    assert outcome.attempted > 3
    assert outcome.failed == 0
