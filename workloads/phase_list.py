"""Phases that are built when they are asked for: a generation has thousands, of which one is looked at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from workloads.workload import Phase, WorkloadOptions

__all__ = ["PhaseList", "prompt_and_answer"]


class PhaseList(Sequence[Phase]):
    """``number`` phases, each by ``build`` of its index."""

    def __init__(self, build: Callable[[int], Phase], number: int) -> None:
        self.build, self.number = build, number

    def __len__(self) -> int:
        return self.number

    @overload
    def __getitem__(self, index: int) -> Phase: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Phase]: ...
    def __getitem__(self, index: int | slice) -> Phase | Sequence[Phase]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self.number))]
        if not -self.number <= index < self.number:
            raise IndexError(index)
        return self.build(index % self.number)


def prompt_and_answer(step: Callable[[str, int, int], Phase], options: WorkloadOptions) -> Sequence[Phase]:
    """Prefill of the prompt and a decode step per further token, or the one phase that the options ask for.

    ``step(kind, new, before)``: the phase of ``new`` tokens a sequence behind ``before`` cached ones.
    """
    prompt = options.prompt
    if options.phase == "decode":
        return [step("decode", 1, prompt - 1)]

    def build(index: int) -> Phase:
        return step("decode", 1, prompt + index - 1) if index else step("prefill", prompt, 0)

    return PhaseList(build, 1 + (options.generate if options.phase is None else 0))
