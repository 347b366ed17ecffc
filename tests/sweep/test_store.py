"""What the store keeps when two outcomes of one point meet."""

from __future__ import annotations

import pytest

from offchip.sweep.store import FINAL, STATUSES, Row, open_store

FAILED = sorted(set(STATUSES) - FINAL)


def kept(folder, *rows):
    with open_store(folder, create=True) as store:
        for row in rows:
            store.write([row])
        return list(store.rows())


@pytest.mark.parametrize("final", sorted(FINAL))
@pytest.mark.parametrize("failed", FAILED)
def test_a_final_outcome_is_not_overwritten_by_a_failed_one(tmp_path, final, failed):
    done, broken = Row(3, "key", final, "why", {"x": 1}, {"y": 2.0}), Row(3, "key", failed, "broke")
    (row,) = kept(tmp_path, done, broken)
    assert row.outcome() == done.outcome()


@pytest.mark.parametrize("failed", FAILED)
def test_a_failed_outcome_is_overwritten_by_any(tmp_path, failed):
    first, again, done = Row(3, "key", failed, "1"), Row(3, "key", failed, "2"), Row(3, "key", "ok")
    assert kept(tmp_path / "a", first, again)[0].reason == "2"
    assert kept(tmp_path / "b", first, again, done)[0].status == "ok"


def test_a_row_of_another_key_is_out_of_date(tmp_path):
    (row,) = kept(tmp_path, Row(3, "old", "ok", "", {}, {"y": 1.0}), Row(3, "new", "failed", "broke"))
    assert (row.key, row.status, dict(row.figures)) == ("new", "failed", {})


def test_rows_of_other_points_and_stages_stand_beside_it(tmp_path):
    rows = [Row(3, "key", "ok"), Row(4, "key", "failed"), Row(3, "key", "failed", stage=1)]
    assert [(row.stage, row.number, row.status) for row in kept(tmp_path, *rows)] == [
        (0, 3, "ok"), (0, 4, "failed"), (1, 3, "failed"),
    ]  # fmt: skip
