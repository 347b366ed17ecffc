"""Batches through stages one after another, with a queue of so many batches before each stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hw_configs.problems import bad_input

__all__ = ["PipelineRun", "run_pipeline"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PipelineRun:
    """``seconds`` from the first start to the last end, ``busy`` ones of each stage, the ``end`` of each batch."""

    seconds: float
    busy: tuple[float, ...]
    end: Floats


def run_pipeline(times: Floats, queue: int) -> PipelineRun:
    """Times: one row a batch, one column a stage. ``queue`` finished batches may wait before the next stage.

    A stage begins a batch when the stage before has ended it, itself has ended the batch before, and its own result
    has room: the next stage has begun the batch ``queue`` before. 0 is no overlap: a batch goes through all stages
    before the next one begins.

    >>> run_pipeline(np.ones((3, 2)), 1).seconds, run_pipeline(np.ones((3, 2)), 0).seconds
    (4.0, 6.0)
    """
    if queue < 0:
        raise bad_input(f"found {queue}; expected 0 or more", path="--queue")
    busy = tuple(float(x) for x in times.sum(axis=0))
    if queue == 0:
        end = np.cumsum(times.sum(axis=1))
        return PipelineRun(float(end[-1]) if end.size else 0.0, busy, end)
    batches, stages = times.shape
    begun, ended = np.zeros((batches, stages)), np.zeros((batches, stages))
    for batch in range(batches):
        for stage in range(stages):
            start = ended[batch - 1, stage] if batch else 0.0
            if stage:
                start = max(start, ended[batch, stage - 1])
            if stage + 1 < stages and batch >= queue:
                start = max(start, begun[batch - queue, stage + 1])
            begun[batch, stage] = start
            ended[batch, stage] = start + times[batch, stage]
    return PipelineRun(float(ended[-1, -1]) if batches else 0.0, busy, ended[:, -1].copy())
