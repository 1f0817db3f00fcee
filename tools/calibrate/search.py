"""The cuts that make a prompt cheapest, of those whose replies lose no more than a profile may."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SHARES = (0.5, 0.3, 0.2, 0.1, 0.05)
# The daemon takes so many, and every one is a stretch of pages of its own.
MOST_CANDIDATES = 12

Cuts = tuple[tuple[int, float], ...]  # (layers below, share of the prompt that goes on), ascending
# The share of right replies' tokens that each of these cuts loses.
Losses = Callable[[Sequence[Cuts]], list[float]]


@dataclass(frozen=True)
class Found:
    cuts: Cuts
    loss: float


def candidates(layers: int) -> list[int]:
    """Boundaries in the upper half, evenly. Heads further below may know the answer's tokens, but
    not what else a reply needs; cuts there need scouts."""
    lowest = max(1, layers // 2)
    step = -(-(layers - lowest) // MOST_CANDIDATES)
    return list(range(lowest, layers, step))


def cost(cuts: Cuts, layers: int) -> float:
    """Token-layers a prompt token; unpruned it is `layers`."""
    stretches = itertools.pairwise([(0, 1.0), *cuts, (layers, 0.0)])
    return sum((end - begin) * share for (begin, share), (end, _) in stretches)


def cheapest(
    boundaries: Sequence[int], layers: int, tolerances: dict[str, float], losses: Losses
) -> dict[str, Found]:
    """By the profiles' names: a first cut, then a second one where that is cheaper still. If
    nothing loses as little as a profile may, what comes nearest."""
    singles: dict[Cuts, float] = {}
    for boundary in boundaries:
        cuts = [((boundary, share),) for share in SHARES]
        of = dict(zip(cuts, losses(cuts), strict=True))
        singles |= of
        if of[cuts[-1]] <= min(tolerances.values()):
            break  # a later cut is dearer and cannot lose less than nobody minds

    def best(known: dict[Cuts, float], tolerance: float) -> Cuts:
        return min(known, key=lambda c: (max(0.0, known[c] - tolerance), cost(c, layers)))

    found = {}
    for name, tolerance in tolerances.items():
        first = best(singles, tolerance)
        boundary, most = first[0]
        pairs = [
            (*first, (later, share))
            for later in boundaries
            for share in SHARES
            if later > boundary and share < most
        ]
        known = {first: singles[first]} | dict(zip(pairs, losses(pairs), strict=True))
        cuts = best(known, tolerance)
        found[name] = Found(cuts, known[cuts])
    return found
