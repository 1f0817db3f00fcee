"""Pieces of long texts, as token ids."""

import random
from collections.abc import Callable, Sequence

from eval.errors import EvalError

Tokenize = Callable[[str], list[int]]
# Servers limit the size of a message, and users' documents are no longer than this.
LONGEST_TEXT = 400_000


def cut(ids: Sequence[int], length: int) -> list[tuple[int, ...]]:
    """Whole pieces that follow each other without overlap; what is left over is dropped."""
    return [tuple(ids[begin : begin + length]) for begin in range(0, len(ids) - length + 1, length)]


def draw(
    documents: Sequence[tuple[str, str]], length: int, count: int, tokenize: Tokenize, seed: int
) -> list[tuple[int, ...]]:
    """`count` pieces of `length` tokens, as many documents as possible taking part: round by
    round each gives one, in an order that the seed decides."""
    rng = random.Random(seed)
    order = list(documents)
    rng.shuffle(order)
    left: list[list[tuple[int, ...]]] = []
    chosen: list[tuple[int, ...]] = []
    # A document is only tokenised while a first piece of it may be needed.
    for _, text in order:
        if len(chosen) == count:
            return chosen
        pieces = cut(tokenize(text[:LONGEST_TEXT]), length)
        rng.shuffle(pieces)
        if pieces:
            chosen.append(pieces.pop())
            left.append(pieces)
    while len(chosen) < count and any(left):
        for pieces in left:
            if pieces and len(chosen) < count:
                chosen.append(pieces.pop())
    if len(chosen) < count:
        raise EvalError(f"the texts hold {len(chosen)} pieces of {length} tokens, not {count}")
    return chosen
