"""Folders of parts into one, row by row, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hw_configs.problems import InputError
from offchip.sweep.merge import merge
from offchip.sweep.store import Row, Store, open_store

META = {"format": "offchip-sweep-1", "name": "s", "space_digest": "d", "code": "c", "expected": 4}


def folder(path: Path, *rows: Row, **meta: Any) -> Path:
    with open_store(path, create=True) as store:
        store.write_meta({**META, **meta})
        store.write(rows)
    return path


def kept(path: Path) -> list[tuple[int, int, str]]:
    with open_store(path) as store:
        return [(row.stage, row.number, row.status) for row in store.rows()]


def test_parts_become_one_table(tmp_path: Path) -> None:
    """A final outcome stands before a failed one, whichever comes first; later fidelities are left out."""
    parts = [
        folder(tmp_path / "a", Row(0, "k0", "ok"), Row(2, "k2", "failed"), Row(3, "k3", "ok")),
        folder(tmp_path / "b", Row(1, "k1", "ok"), Row(2, "k2", "ok"), Row(3, "k3", "timeout"),
               Row(1, "k", "ok", stage=1)),
    ]  # fmt: skip
    out = tmp_path / "out"
    assert merge(parts, out) == 4
    assert kept(out) == [(0, 0, "ok"), (0, 1, "ok"), (0, 2, "ok"), (0, 3, "ok")]
    with open_store(out) as store:
        assert store.meta() == META
    assert merge([folder(tmp_path / "c", Row(4, "k4", "crashed"))], out) == 5, "it adds to what is there"
    assert kept(out)[4:] == [(0, 4, "crashed")]


def test_rows_of_later_stages_in_the_target_are_not_counted(tmp_path: Path) -> None:
    out = folder(tmp_path / "out", Row(0, "k", "ok"), Row(0, "k", "ok", stage=1), name="kept")
    assert merge([folder(tmp_path / "a", Row(1, "k1", "ok"))], out) == 2
    with open_store(out) as store:
        assert store.meta()["name"] == "kept"


@pytest.mark.parametrize(
    ("meta", "what"),
    [({"space_digest": "x"}, "the sweep of another space"), ({"code": "x"}, "rows of other code"),
     ({"space_digest": "x", "code": "x"}, "the sweep of another space")],
)  # fmt: skip
def test_parts_of_other_sweeps_are_refused(tmp_path: Path, meta: dict[str, Any], what: str) -> None:
    one, other = folder(tmp_path / "a", Row(0, "k", "ok")), folder(tmp_path / "b", Row(1, "k", "ok"), **meta)
    with pytest.raises(InputError) as error:
        merge([one, other], tmp_path / "out")
    assert [(problem.file, problem.message) for problem in error.value.problems] == [
        (str(other), f"holds {what} than {one}")
    ]
    assert kept(tmp_path / "out") == []
    with pytest.raises(InputError) as error:
        merge([one], other)
    assert [problem.file for problem in error.value.problems] == [str(other)]
    with pytest.raises(InputError, match="holds no sweep"):
        merge([one, tmp_path / "none"], tmp_path / "new")


def test_every_folder_is_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Path] = []
    close = Store.close
    monkeypatch.setattr(Store, "close", lambda store: closed.append(store.path.parent) or close(store))
    one, two = folder(tmp_path / "a"), folder(tmp_path / "b", code="x")
    closed.clear()
    with pytest.raises(InputError):
        merge([one, two], tmp_path / "out")
    assert sorted(closed) == [one, two, tmp_path / "out"]
