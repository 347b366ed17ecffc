from __future__ import annotations

from pathlib import Path

import pytest

REFERENCE = Path(__file__).parent.parent / "reference" / "alloc"


@pytest.fixture
def reference() -> Path:
    return REFERENCE
