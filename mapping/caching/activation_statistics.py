"""How many neurons of a sparse feed-forward layer a token uses, and how many a window of tokens uses.

A predictor names the neurons a token will use: the active ones and some more. Neurons differ: some are named
for nearly every token, most hardly ever. With each neuron's chance drawn from a beta distribution of mean m
and concentration c, a window of k tokens uses the share

    s(k) = 1 - prod_{j<k} (b + j) / (c + j),   b = c (1 - m),

and one more token asks for s(k+1) - s(k) that the window does not hold. Large c makes all neurons alike
(independent draws), small c makes few of them hot. The statistics belong to a workload: they come from its
publication or from counting, and say nothing of accuracy (LLM in a flash, arXiv:2312.11514, sections 3.1, 4.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from hw_configs.problems import bad_input

__all__ = ["ActivationStatistics", "counted_statistics", "fitted_concentration"]


@dataclass(frozen=True, slots=True)
class ActivationStatistics:
    """Mean share of neurons that the predictor names per token, and the concentration of their use."""

    predicted_share: float
    concentration: float

    def __post_init__(self) -> None:
        if not 0 < self.predicted_share <= 1:
            raise bad_input(
                f"found {self.predicted_share:g}; expected a share above 0, at most 1", path="predicted_share"
            )
        if not self.concentration > 0:
            raise bad_input(f"found {self.concentration:g}; expected more than 0", path="concentration")

    def window_share(self, window: int) -> float:
        """Share of neurons that at least one of ``window`` tokens uses; 0 for no window."""
        left = 1.0
        cold = self.concentration * (1 - self.predicted_share)
        for token in range(window):
            left *= (cold + token) / (self.concentration + token)
        return 1 - left

    def loaded_share(self, window: int) -> float:
        """Share of neurons that a token needs and the window before it does not hold."""
        return self.window_share(window + 1) - self.window_share(window)


def fitted_concentration(predicted_share: float, window: int, window_share: float) -> float:
    """The concentration at which a window uses a given share; raises ``InputError`` when none does.

    ``window_share`` must lie between the share of one token and that of independent tokens.
    """
    independent = 1 - (1 - predicted_share) ** window
    if window < 2 or not predicted_share < window_share < independent:
        raise bad_input(
            f"a window of {window} tokens uses between {predicted_share:.3g} and {independent:.3g} of the neurons; "
            f"found {window_share:g}"
        )
    return float(
        brentq(
            lambda c: ActivationStatistics(predicted_share, c).window_share(window) - window_share, 1e-6, 1e9
        )
    )


def counted_statistics(used: Iterable[npt.NDArray[np.bool_]], window: int = 5) -> ActivationStatistics:
    """Statistics counted on a trace: for each token, which neurons were named (all of one length).

    The concentration is fitted to the share that ``window`` successive tokens use, the mean over the trace.
    """
    table = np.array(list(used), dtype=bool)
    if table.ndim != 2 or len(table) < window or window < 2:
        raise bad_input(f"a trace needs at least {window} tokens of equal length, a window at least 2 tokens")
    mean = float(table.mean())
    unions = [float(table[i : i + window].any(axis=0).mean()) for i in range(len(table) - window + 1)]
    return ActivationStatistics(mean, fitted_concentration(mean, window, float(np.mean(unions))))
