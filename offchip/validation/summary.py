"""The summary of a validation: verdicts, errors and engine time, over all rows and by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from offchip.validation.registry import RowResult, Verdict

__all__ = ["summarise"]


def summarise(results: Sequence[RowResult]) -> dict[str, Any]:
    """Counts and errors of all rows, and under ``by`` those of every group that rows name.

    Errors are absolute relative errors in percent over the rows that have one; None where none has.
    """
    summary = _part(results)
    kinds = dict.fromkeys(kind for result in results for kind in result.groups)
    summary["by"] = {
        kind: {
            name: _part([result for result in results if result.groups.get(kind) == name])
            for name in sorted({result.groups[kind] for result in results if kind in result.groups})
        }
        for kind in kinds
    }
    return summary


def _part(results: Sequence[RowResult]) -> dict[str, Any]:
    import numpy as np

    errors = np.abs([result.error for result in results if result.error is not None]) * 100
    figures = {}
    for name in dict.fromkeys(name for result in results for name in result.figures):
        off = np.abs([result.figures[name] for result in results if name in result.figures]) * 100
        figures[name] = {"rows": len(off), "mean": float(np.mean(off)), "median": float(np.median(off))}
    return {
        **({"figures_pct": figures} if figures else {}),
        "rows": len(results),
        "verdicts": {v: sum(result.verdict == v for result in results) for v in get_args(Verdict)},
        "error_pct": {
            "mean": float(np.mean(errors)),
            "median": float(np.median(errors)),
            "p95": float(np.percentile(errors, 95)),
            "worst": float(errors.max()),
        }
        if errors.size
        else None,
        "seconds": sum(result.seconds for result in results),
    }
