"""Which heads score, and where to cut, so that a prompt costs least.

A cut at boundary b needs the share r(b) of the tokens: the keep ratio that loses nothing of 90 % of
the items, by heads chosen without these items (two halves take turns), since the best of many heads
always look good on what they were chosen by. Heads lie in the segment below the cut."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from calibrate.needed import Head, Sample, keep_ratio, normalised, pooled

MOST_HEADS = 5
# Heads far below a cut knew less, and every scored layer costs a pass over its keys.
WINDOW_LAYERS = 4
QUANTILES = (0.5, 0.75, 0.9)
# Choosing by a few items fits them; a share below this is never believed.
LEAST_RATIO = 0.02
# Prompts hold more than the one thing that is asked for: so many times what is needed is kept where
# the cost of cuts is compared.
MARGIN = 2


class Scores:
    """Of some samples: what each head gives to a score, and sums of that. `prepare` makes it of the
    samples' attention."""

    def __init__(
        self,
        samples: Sequence[Sample],
        prepare: Callable[[np.ndarray], np.ndarray] = normalised,
    ) -> None:
        self._samples, self._prepare = samples, prepare
        self._by_head = [prepare(sample.attention) for sample in samples]

    def folds(self) -> list["Scores"]:
        """Two halves, drawn, so that no pattern in the order of the samples parts them."""
        order = np.random.default_rng(0).permutation(len(self._samples))
        halves = np.array_split(order, 2)
        return [Scores([self._samples[i] for i in half], self._prepare) for half in halves]

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


@dataclass(frozen=True)
class Cut:
    boundary: int  # layers below it
    heads: tuple[Head, ...]
    ratio: float  # r(b), see above


@dataclass(frozen=True)
class Cuts:
    first: Cut
    second: Cut

    def cost(self, layers: int) -> float:
        """Token-layers a prompt token, with the margin; unpruned it is `layers`."""
        kept = [min(1.0, MARGIN * cut.ratio) for cut in (self.first, self.second)]
        middle = (self.second.boundary - self.first.boundary) * kept[0]
        return self.first.boundary + middle + (layers - self.second.boundary) * kept[1]


def best_cuts(
    scores: Scores,
    layers: int,
    heads: int,
    step: Callable[[], None],
    nearest: int = 2,
    also: Sequence[int] = (),
) -> Cuts:
    """Of all pairs of boundaries at least `nearest` layers apart. `step` is called for each first
    boundary, of which there are first_boundaries(). Heads lie above the boundaries in `also`."""
    best: Cuts | None = None
    known: dict[tuple[int, int], Cut] = {}

    def cut(boundary: int, others: Sequence[int]) -> Cut:
        """Most second boundaries have the same heads to choose from, whatever the first is."""
        key = (window_below(segment_below(boundary, others), boundary), boundary)
        if key not in known:
            known[key] = cut_at(scores, key[0], boundary, heads)
        return known[key]

    for first_boundary in first_boundaries(layers, nearest):
        first = cut(first_boundary, also)
        for second_boundary in range(first_boundary + nearest, layers):
            # Even a cut that keeps nothing would not do.
            floor = Cuts(first, Cut(second_boundary, (), 0.0)).cost(layers)
            if best is not None and floor >= best.cost(layers):
                break
            second = cut(second_boundary, [first_boundary, *also])
            cuts = Cuts(first, second)
            if second.ratio <= first.ratio and (best is None or cuts.cost(layers) < best.cost(layers)):
                best = cuts
        step()
    if best is None:
        raise ValueError(f"{layers} layers are too few for two cuts")
    return best


def first_boundaries(layers: int, nearest: int = 2) -> range:
    """From half of the depth on. Heads further below may know the answer's tokens, but not what
    else a reply needs: cut after 8 and 15 of 30 layers, with twice what the answers take kept, the
    default model lost 19 points of whole replies (168 items of 1k and 4k tokens)."""
    return range(max(2, layers // 2), layers - nearest)


def segment_below(boundary: int, others: Sequence[int]) -> int:
    """The first layer of the segment that ends at the boundary."""
    return max((other for other in others if other < boundary), default=0)


def window_below(begin: int, boundary: int) -> int:
    """The first layer of those whose heads may score."""
    return max(begin, boundary - WINDOW_LAYERS)


def cut_at(scores: Scores, begin: int, boundary: int, heads: int) -> Cut:
    """By the heads of layers [begin, boundary) near the boundary."""
    from_layer = window_below(begin, boundary)
    candidates = [(layer, h) for layer in range(from_layer, boundary) for h in range(heads)]
    one, other = scores.folds()
    unseen = [
        judged.ratios(choose_heads(chosen_on, candidates))
        for chosen_on, judged in ((one, other), (other, one))
    ]
    ratio = max(LEAST_RATIO, quantiles(np.concatenate(unseen))[-1])
    return Cut(boundary, tuple(choose_heads(scores, candidates)), ratio)
