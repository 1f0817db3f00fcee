"""Paired bootstrap: every quantity compares two settings on the same items, and items are drawn
again together. Percentile intervals of 95 %."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def bootstrap(
    columns: list[np.ndarray], statistic: Callable[..., np.ndarray], seed: int = 0
) -> Estimate:
    """`columns` hold one number an item each, all in the same order of items. `statistic` takes
    them as arrays [resamples, items] and returns one value a resample."""
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    items = arrays[0].size
    if items == 0:
        raise ValueError("no items")
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, items, size=(RESAMPLES, items))
    values = statistic(*(array[draws] for array in arrays))
    edge = (1 - LEVEL) / 2
    low, high = np.quantile(values, [edge, 1 - edge])
    return Estimate(float(statistic(*(array[None] for array in arrays))[0]), float(low), float(high))


def mean(values: np.ndarray) -> Estimate:
    return bootstrap([values], lambda drawn: drawn.mean(axis=1))


def perplexity_increase(base_nll: np.ndarray, nll: np.ndarray, tokens: np.ndarray) -> Estimate:
    """Relative, in percent. Arguments are sums over the scored tokens of each chunk, in nats."""

    def statistic(base: np.ndarray, other: np.ndarray, counts: np.ndarray) -> np.ndarray:
        per_token = (other - base).sum(axis=1) / counts.sum(axis=1)
        return 100 * np.expm1(per_token)

    return bootstrap([base_nll, nll, tokens], statistic)
