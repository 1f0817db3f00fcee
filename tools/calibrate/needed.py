"""How small a share of a prompt may be kept, by the scores of some heads, before a token is lost
that the answer needs."""

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
# Of a longer answer only the begin is what a prompt's last row looks for: the rest is looked for
# by the rows that follow.
WHOLE_ANSWER, BEGIN_TOKENS = 5, 3

Head = tuple[int, int]  # layer, query head


@dataclass(frozen=True)
class Sample:
    """One item as the last row of its prompt sees it."""

    attention: np.ndarray  # [layers, heads, tokens], probabilities
    needed: tuple[tuple[int, ...], ...]  # places where the answer stands; one has to survive


def places_of(item: Item) -> tuple[tuple[int, ...], ...]:
    """Positions of the needed tokens of the answer, wherever it stands in the context."""
    lead = () if len(item.answer) >= LONG_ANSWER else item.prompt[-2:]
    wanted: Ids = lead + item.answer
    needed = len(item.answer) if len(item.answer) <= WHOLE_ANSWER else BEGIN_TOKENS
    begin, end = item.context
    return tuple(
        tuple(range(i + len(lead), i + len(lead) + needed))
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


def keep_ratio(scores: np.ndarray, places: Sequence[Sequence[int]]) -> float:
    """The least share of all tokens that keeps one of the places whole. `scores` are pooled, one
    a token; of equal scores the lower position goes first."""
    tokens = len(scores)
    scores = scores.copy()
    scores[:SINKS] = np.inf
    scores[-1] = np.inf
    kept = min(max(_rank(scores, position) for position in place) for place in places)
    return kept / tokens


def _rank(scores: np.ndarray, position: int) -> int:
    """How many tokens have to be kept for this one to be among them."""
    value = scores[position]
    return int((scores > value).sum() + (scores[:position] == value).sum()) + 1
