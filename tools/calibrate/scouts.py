"""Scouts in NumPy: at a boundary b a prompt's last W tokens run ahead alone through the layers above,
over keys and values that are predicted for all others from what entered layer b; the first tokens,
which nothing predicts, run with them. What each head of each layer then puts on a token, in the last
row and in the mean over the W rows, each over its maximum, is the score by that head."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from calibrate.forward import Array, Inside, Layer, Shape, Tensors, rotate, run, softmax
from calibrate.needed import SINKS, Places, Sample, places_of
from calibrate.predictors import inputs_of
from eval.prompts import Item

WHOLE_ANSWER, BEGIN_TOKENS = 5, 3

# By boundary and layer, [2 * kv_heads * head_dim, hidden + 1]: the bias comes last.
Weights = dict[tuple[int, int], Array]


def look(
    shape: Shape,
    tensors: Tensors,
    maps: Weights,
    items: Sequence[Item],
    boundary: int,
    window: int,
    step: Callable[[], None],
) -> tuple[list[Sample], list[Sample]]:
    """As scouts see the items, scores [1, layers, heads, tokens] that are zero below the boundary; and
    as the last row sees them in the last layer below it, [1, 1, heads, tokens] probabilities. Needed
    are the tokens that a prompt's last rows look for. `step` is called for each layer and item."""
    entering: list[Array] = []
    below: list[Array] = []

    def visit(i: int, inside: Inside) -> None:
        if inside.layer == boundary - 1:
            below.append(inside.attention(len(items[i].prompt) - 1)[None])
        if inside.layer == boundary:
            entering.append(inside.hidden)
        step()

    run(shape, tensors, [item.prompt for item in items], visit, end=boundary + 1)
    scores = [np.zeros((shape.layers, shape.heads, len(h)), np.float32) for h in entering]
    ahead = [rows_of(len(h), window) for h in entering]
    states = [h[rows] for h, rows in zip(entering, ahead, strict=True)]
    inputs = [inputs_of(h, shape.norm_eps) for h in entering]
    for number in range(boundary, shape.layers):
        layer = Layer(shape, number, tensors)
        for i, rows in enumerate(ahead):
            inside = layer.project(states[i], rows)
            seen, attended = attend(shape, inside, rows, inputs[i] @ maps[boundary, number].T)
            of_window = seen[:, -window:].mean(axis=1)
            scores[i][number] = over_maximum(seen[:, -1]) + over_maximum(of_window)
            states[i] = layer.finish(inside, attended)
            step()
    places = [begins(places_of(item)) for item in items]
    return (
        [Sample(s[None], p) for s, p in zip(scores, places, strict=True)],
        [Sample(b[None], p) for b, p in zip(below, places, strict=True)],
    )


def begins(places: Places) -> Places:
    """Of longer answers only the begin: the rest is looked for by the rows that follow."""
    return tuple(p if len(p) <= WHOLE_ANSWER else p[:BEGIN_TOKENS] for p in places)


def rows_of(tokens: int, window: int) -> Array:
    """Positions of those who run ahead."""
    window = min(window, tokens)
    sinks = min(SINKS, tokens - window)
    return np.concatenate([np.arange(sinks), np.arange(tokens - window, tokens)])


def attend(shape: Shape, inside: Inside, rows: Array, predicted: Array) -> tuple[Array, Array]:
    """Of `rows`, to all tokens: probabilities [heads, rows, tokens] and values [heads, rows, d]."""
    both = predicted.reshape(len(predicted), 2 * shape.kv_heads, shape.head_dim).transpose(1, 0, 2)
    keys = rotate(both[: shape.kv_heads], shape.rope_theta, np.arange(len(predicted)))
    values = both[shape.kv_heads :].copy()
    keys[:, rows], values[:, rows] = inside.keys, inside.values
    group = shape.heads // shape.kv_heads
    logits = inside.queries @ keys.repeat(group, axis=0).transpose(0, 2, 1)
    hidden = np.arange(keys.shape[1])[None, :] > rows[:, None]
    seen = softmax(np.where(hidden, -np.inf, logits / math.sqrt(shape.head_dim)))
    return seen, seen @ values.repeat(group, axis=0)


def over_maximum(x: Array) -> Array:
    return x / x.max(axis=-1, keepdims=True)
