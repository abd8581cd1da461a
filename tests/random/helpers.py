"""Statistics of samples, with fixed seeds: thresholds that chance passes once in a million."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

ENGINES = ("llvm", "numba")
FEW = 1.4e-6  # two-sided


def known_normal_statistics(zs: np.ndarray, most: float = 5.2) -> None:
    """That standard normal statistics look like such: none is far out, and their squares add up to what they should."""
    n = zs.size
    assert np.abs(zs).max() < most, np.abs(zs).max()
    assert abs((zs * zs).sum() - n) < 5 * math.sqrt(2 * n), (zs * zs).sum() / n


def kolmogorov_smirnov(x: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray]) -> float:
    """sqrt(n) times the largest distance between the distribution functions; over 2.7 once in a million."""
    x = np.sort(np.asarray(x, np.float64).ravel())
    f, n = cdf(x), x.size
    ranks = np.arange(n + 1) / n
    return math.sqrt(n) * max(np.max(ranks[1:] - f), np.max(f - ranks[:-1]))


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """The statistic as a number of standard deviations from its mean."""
    freedom = counts.size - 1
    return (np.sum((counts - expected) ** 2 / expected) - freedom) / math.sqrt(2 * freedom)
