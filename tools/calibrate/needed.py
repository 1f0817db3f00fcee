"""How small a share of a prompt may be kept, by the scores of some heads, before a token is lost
that the answer needs: neither kept by the prompt's last row nor revived by the reply's own rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.prompts import Ids, Item

# As the daemon scores: each head's probabilities over their maximum, summed, then the maximum over
# the neighbours at up to RADIUS positions; the first SINKS tokens and the last are always kept.
RADIUS = 3
SINKS = 4
# A shorter answer may stand in the text by chance, so the words before it have to be there too.
LONG_ANSWER = 3
# As the daemon's profiles revive, at each cut and step.
REVIVED = 8

Head = tuple[int, int]  # layer, query head
Places = tuple[tuple[int, ...], ...]  # where an answer stands: the position of each of its tokens


@dataclass(frozen=True)
class Sample:
    """One item, as rows see it whose next token is the answer's first, second, ..: the last row of
    the prompt, and those of the answer so far. Or as one row does that looks for all of it."""

    attention: np.ndarray  # [rows, layers, heads, tokens and rows behind], probabilities
    needed: Places  # one has to survive


def places_of(item: Item) -> Places:
    """Positions of the answer's tokens, wherever it stands in the context."""
    lead = () if len(item.answer) >= LONG_ANSWER else item.prompt[-2:]
    wanted: Ids = lead + item.answer
    begin, end = item.context
    return tuple(
        tuple(range(i + len(lead), i + len(wanted)))
        for i in range(begin, end - len(wanted) + 1)
        if item.prompt[i : i + len(wanted)] == wanted
    )


def normalised(attention: np.ndarray) -> np.ndarray:
    return attention / attention.max(axis=-1, keepdims=True)


def pooled(scores: np.ndarray) -> np.ndarray:
    """The maximum over the neighbours, along the last axis."""
    best = scores.copy()
    for shift in range(1, RADIUS + 1):
        best[..., shift:] = np.maximum(best[..., shift:], scores[..., :-shift])
        best[..., :-shift] = np.maximum(best[..., :-shift], scores[..., shift:])
    return best


def keep_ratio(scores: np.ndarray, places: Sequence[Sequence[int]], revived: int = REVIVED) -> float:
    """The least share of the prompt's tokens, at a cut and by the choice of every step, that keeps
    one of the places whole. `scores`: [rows, tokens], pooled; row i looks for the i-th position of a
    place, the last for those behind it, too. It finds it if the first row kept it, or if it is among
    so many of the best that were not kept: those are revived, if they are within the share of the
    row itself."""
    scores = scores.copy()
    scores[:, :SINKS] = np.inf
    scores[0, -1] = np.inf
    kept = _ranks(scores[0])

    def least(row: int, position: int) -> int:
        better = scores[row] > scores[row, position]
        # With fewer kept, too many others would be better and lacking.
        lacking = kept[better]
        crowd = 0 if len(lacking) < revived else int(np.sort(lacking)[-revived])
        found = max(crowd, int(better.sum()) + 1) if row > 0 else int(kept[position])
        return min(int(kept[position]), found)

    last = len(scores) - 1
    needs = (max(least(min(row, last), at) for row, at in enumerate(place)) for place in places)
    return min(needs) / scores.shape[1]


def _ranks(scores: np.ndarray) -> np.ndarray:
    """How many tokens have to be kept for each to be among them; of equal scores the lower position
    goes first."""
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks
