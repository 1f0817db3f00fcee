"""Maps that bring the row with which a draft leaves at an early exit closer to the last layer's.

With h what leaves the first E layers, z what leaves the last one and n(x) = x / rms(x), least
squares with a little ridge, in closed form:

    h + W(E) n(h) + b(E)  ~  z

The head sees rows normed, so an error counts by its share of z: each row is weighted by 1 / rms(z).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from calibrate.forward import Array, Inside, Shape, Tensors, rms_norm, run
from calibrate.own_text import Passage
from calibrate.predictors import Products, inputs_of

# Rows whose logits are held at once.
HEAD_ROWS = 256


@dataclass(frozen=True)
class Adapter:
    weight: Array  # [hidden, hidden]
    bias: Array  # [hidden]
    # Of passages it was not fitted to: how often the head takes the last layer's best token.
    agrees_without: float
    agrees: float


def fit(
    shape: Shape,
    tensors: Tensors,
    passages: Sequence[Passage],
    held_out: Sequence[Passage],
    exits: Sequence[int],
    step: Callable[[], None],
) -> dict[int, Adapter]:
    """By exit. `step` is called for each layer and passage."""
    every = [*passages, *held_out]
    rows = _Rows(every, exits, step)
    run(shape, tensors, [p.inputs for p in every], rows.visit, leave=rows.leave)
    head = Head(shape, tensors)
    count = len(passages)
    last = np.concatenate(rows.last[count:])
    best = head.best(last)
    adapters = {}
    for number in exits:
        of = rows.at[number]
        pairs = zip(of[:count], rows.last[:count], strict=True)
        weight, bias = solve(pairs, shape)
        left = np.concatenate(of[count:])
        without, with_it = left, adapted(left, weight, bias, shape.norm_eps)
        adapters[number] = Adapter(
            weight,
            bias,
            float(np.mean(head.best(without) == best)),
            float(np.mean(head.best(with_it) == best)),
        )
    return adapters


def solve(pairs, shape: Shape) -> tuple[Array, Array]:
    """From (h, z) of some passages."""
    products = Products(shape.hidden + 1)
    targets = np.zeros((shape.hidden + 1, shape.hidden))
    for left, last in pairs:
        share = 1 / np.sqrt(np.mean(last * last, axis=1, keepdims=True) + shape.norm_eps)
        inputs = inputs_of(left, shape.norm_eps) * share
        products.add(inputs)
        targets += inputs.T @ ((last - left) * share)
    solved = products.solve(targets)
    return solved[:, :-1], solved[:, -1]


def adapted(left: Array, weight: Array, bias: Array, norm_eps: float) -> Array:
    solved = np.concatenate([weight, bias[:, None]], axis=1)
    return left + inputs_of(left, norm_eps) @ solved.T.astype(left.dtype)


class Head:
    """What all exits share."""

    def __init__(self, shape: Shape, tensors: Tensors) -> None:
        self._norm, self._eps = tensors("model.norm.weight"), shape.norm_eps
        matrix = tensors("lm_head.weight")
        self._matrix = tensors("model.embed_tokens.weight") if matrix is None else matrix

    def best(self, rows: Array) -> Array:
        """The best token of each."""
        normed = rms_norm(rows, self._norm, self._eps)
        parts = (normed[i : i + HEAD_ROWS] for i in range(0, len(normed), HEAD_ROWS))
        return np.concatenate([np.argmax(part @ self._matrix.T, axis=1) for part in parts])


class _Rows:
    """Of all passages, those that a draft could leave with."""

    def __init__(
        self, passages: Sequence[Passage], exits: Sequence[int], step: Callable[[], None]
    ) -> None:
        self._passages, self._step = passages, step
        self.at: dict[int, list[Array]] = {number: [] for number in exits}
        self.last: list[Array] = []

    def visit(self, i: int, inside: Inside) -> None:
        # What enters a layer has left those below it.
        if inside.layer in self.at:
            self.at[inside.layer].append(inside.hidden[self._passages[i].first :].copy())
        self._step()

    def leave(self, i: int, hidden: Array) -> None:
        self.last.append(hidden[self._passages[i].first :])
