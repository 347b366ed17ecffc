"""Folders of one sweep's parts into one: what array jobs wrote apart becomes one table.

Rows of the first fidelity are taken, since later ones repeat the best of all points: ``offchip sweep SPACE.yaml --out
DIR --resume`` runs those on the merged folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hw_configs.problems import InputError, Problem
from offchip.sweep.store import Store, open_store

__all__ = ["merge"]


def merge(folders: Sequence[Path], out: Path) -> int:
    """Put the rows of several folders into ``out``; returns how many points it has then.

    A point that is in several folders keeps a final outcome rather than a failed one. Raises ``InputError`` when a
    folder holds no sweep, another space's, or one that other code evaluated.
    """
    stores = [open_store(folder) for folder in folders]
    try:
        first = stores[0].meta()
        with open_store(out, create=True) as target:
            known = target.meta()
            named = [*zip(folders, stores, strict=True), *([(out, target)] if known else [])]
            _insist_equal(named, first)
            target.write_meta(known or first)
            for store in stores:
                target.write(store.rows(stage=0))
            return sum(count for (stage, _), count in target.counts().items() if stage == 0)
    finally:
        for store in stores:
            store.close()


def _insist_equal(stores: Sequence[tuple[Path, Store]], first: dict[str, object]) -> None:
    problems = []
    for folder, store in stores:
        meta = store.meta()
        for key, what in (("space_digest", "the sweep of another space"), ("code", "rows of other code")):
            if meta.get(key) != first.get(key):
                problems.append(Problem(f"holds {what} than {stores[0][0]}", str(folder)))
                break
    if problems:
        raise InputError(problems)
