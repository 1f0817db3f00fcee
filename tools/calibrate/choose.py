"""Which heads score for a cut: those by whose scores the least of a prompt has to be kept for
nothing to be lost that its answer needs. Heads lie in the segment below the cut."""

from collections.abc import Callable, Sequence

import numpy as np

from calibrate.needed import Head, Sample, keep_ratio, normalised, pooled

MOST_HEADS = 5
# Heads far below a cut knew less, and every scored layer costs a pass over its keys.
WINDOW_LAYERS = 4
QUANTILES = (0.5, 0.75, 0.9)


class Scores:
    """Of some samples: what each head gives to a score, and sums of that. `prepare` makes it of the
    samples' attention."""

    def __init__(
        self,
        samples: Sequence[Sample],
        prepare: Callable[[np.ndarray], np.ndarray] = normalised,
    ) -> None:
        self._samples = samples
        self._by_head = [prepare(sample.attention) for sample in samples]

    def ratios(self, heads: Sequence[Head]) -> np.ndarray:
        """The least keep ratio of each sample."""
        layers, numbers = zip(*heads, strict=True)
        return self._of([of[:, list(layers), list(numbers)].sum(axis=1) for of in self._by_head])

    def mean_ratios(self, layer: int) -> np.ndarray:
        """The same by the mean over all heads of a layer, as published."""
        return self._of([sample.attention[:, layer].mean(axis=1) for sample in self._samples])

    def _of(self, sums: Sequence[np.ndarray]) -> np.ndarray:
        """`sums`: [rows, tokens] of each sample, the rows' own tokens behind the prompt's."""
        both = zip(sums, self._samples, strict=True)
        return np.array(
            [
                keep_ratio(pooled(s)[:, : s.shape[1] - len(s) + 1], sample.needed)
                for s, sample in both
            ]
        )


def quantiles(ratios: np.ndarray) -> tuple[float, ...]:
    return tuple(float(np.quantile(ratios, q)) for q in QUANTILES)


def badness(ratios: np.ndarray) -> float:
    """What choosing makes small: halving any item's ratio is worth the same."""
    return float(np.log(ratios).mean())


def choose_heads(
    scores: Scores, candidates: Sequence[Head], most: int = MOST_HEADS
) -> list[Head]:
    """One after the other, the one that helps most, until none does."""
    chosen: list[Head] = []
    best = np.inf
    while len(chosen) < most:
        left = [head for head in candidates if head not in chosen]
        tried = [(badness(scores.ratios([*chosen, head])), head) for head in left]
        if not tried or min(tried)[0] >= best:
            break
        best, head = min(tried)
        chosen.append(head)
    return sorted(chosen)


def segment_below(boundary: int, others: Sequence[int]) -> int:
    """The first layer of the segment that ends at the boundary."""
    return max((other for other in others if other < boundary), default=0)


def heads_below(scores: Scores, begin: int, boundary: int, heads: int) -> list[Head]:
    """Those that score best for a cut at the boundary, of layers [begin, boundary) near it."""
    layers = range(max(begin, boundary - WINDOW_LAYERS), boundary)
    return choose_heads(scores, [(layer, head) for layer in layers for head in range(heads)])


def held_out(heads: dict[int, list[Head]], scores: Scores) -> dict[str, tuple[float, ...]]:
    """Name of a scoring -> keep ratios that 50, 75 and 90 % of the items need, by the chosen
    heads of each boundary and by the mean over the heads of the last layer below it."""
    table = {}
    for boundary, chosen in heads.items():
        where = f"cut at {boundary}"
        by_mean = scores.mean_ratios(boundary - 1)
        table[f"{where}, mean of layer {boundary - 1}"] = quantiles(by_mean)
        table[f"{where}, {len(chosen)} chosen heads"] = quantiles(scores.ratios(chosen))
    return table
