"""Maps that predict keys and values of a layer from the hidden state at a boundary below it.

For a boundary b and a layer l >= b, with h what enters layer b, least squares with a little ridge,
in closed form:

    [k_l before its rotation ; v_l]  ~  A(b, l) [h / rms(h) ; 1]

A token that is cut at b is seen above it through these (phantoms). Of models with normed keys k_l is
the normed one. The first tokens are left out: their values are of another size, and they are never
cut."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from calibrate.forward import Array, Inside, Shape, Tensors, run
from calibrate.needed import SINKS

RIDGE = 1e-3  # of the mean of the diagonal


class Products:
    """X^T X of all inputs so far: what all layers above a boundary share."""

    def __init__(self, width: int) -> None:
        self._sum = np.zeros((width, width))

    def add(self, inputs: Array) -> None:
        self._sum += inputs.T @ inputs

    def solve(self, targets: Array) -> Array:
        """[targets, inputs], from X^T Y [inputs, targets]."""
        ridge = RIDGE * np.trace(self._sum) / len(self._sum)
        return np.linalg.solve(self._sum + ridge * np.eye(len(self._sum)), targets).T


@dataclass(frozen=True)
class Map:
    weight: Array  # [2 * kv_heads * head_dim, hidden]
    bias: Array  # [2 * kv_heads * head_dim]
    # Of prompts it was not fitted to: |error| / |value| by KV head.
    key_error: Array
    value_error: Array


Maps = dict[tuple[int, int], Map]  # by boundary and layer


def inputs_of(hidden: Array, norm_eps: float) -> Array:
    """[h / rms(h) ; 1] for each row."""
    scaled = hidden / np.sqrt(np.mean(hidden * hidden, axis=-1, keepdims=True) + norm_eps)
    return np.concatenate([scaled, np.ones((len(hidden), 1), scaled.dtype)], axis=1)


def targets_of(inside: Inside) -> Array:
    """[n, 2 * kv_heads * head_dim]: keys before their rotation, then values."""
    both = np.concatenate([inside.bare_keys, inside.values])
    return both.transpose(1, 0, 2).reshape(both.shape[1], -1)


def fit(
    shape: Shape,
    tensors: Tensors,
    prompts: Sequence[Sequence[int]],
    held_out: Sequence[Sequence[int]],
    boundaries: Sequence[int],
    step: Callable[[], None],
) -> Maps:
    """`step` is called for each layer and prompt."""
    fitting = _Fit(shape, len(prompts), len(prompts) + len(held_out), boundaries, step)
    run(shape, tensors, [*prompts, *held_out], fitting.visit)
    return fitting.maps


class _Fit:
    def __init__(
        self,
        shape: Shape,
        fitted: int,
        prompts: int,
        boundaries: Sequence[int],
        step: Callable[[], None],
    ) -> None:
        self.maps: Maps = {}
        self._shape, self._fitted, self._prompts = shape, fitted, prompts
        self._boundaries, self._step = boundaries, step
        self._inputs: dict[int, list[Array]] = {b: [] for b in boundaries}  # by prompt
        self._products = {b: Products(shape.hidden + 1) for b in boundaries}
        self._targets: list[Array] = []  # of this layer, by prompt

    def visit(self, i: int, inside: Inside) -> None:
        if inside.layer in self._inputs:
            inputs = inputs_of(inside.hidden[SINKS:], self._shape.norm_eps)
            self._inputs[inside.layer].append(inputs)
            if i < self._fitted:
                self._products[inside.layer].add(inputs)
        if any(b <= inside.layer for b in self._boundaries):
            self._targets.append(targets_of(inside)[SINKS:])
            if i + 1 == self._prompts:
                self._solve(inside.layer)
        self._step()

    def _solve(self, layer: int) -> None:
        for boundary in self._boundaries:
            if boundary > layer:
                continue
            inputs = self._inputs[boundary]
            pairs = zip(inputs[: self._fitted], self._targets, strict=False)
            solved = self._products[boundary].solve(sum(x.T @ y for x, y in pairs))
            errors = self._errors(
                np.concatenate(inputs[self._fitted :]) @ solved.T.astype(np.float32),
                np.concatenate(self._targets[self._fitted :]),
            )
            self.maps[boundary, layer] = Map(solved[:, :-1], solved[:, -1], *errors)
        self._targets = []

    def _errors(self, predicted: Array, right: Array) -> tuple[Array, Array]:
        def size(x: Array) -> Array:
            heads = x.reshape(len(x), 2 * self._shape.kv_heads, -1)
            return np.sqrt((heads.astype(np.float64) ** 2).sum(axis=(0, 2)))

        keys, values = np.split(size(predicted - right) / size(right), 2)
        return keys, values
