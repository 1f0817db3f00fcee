"""A decoder of the Llama family in NumPy, float32, layer by layer over many prompts at once: each
layer's weights are read once, and whoever calibrates something sees every layer from inside."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from eval.errors import EvalError

Array = np.ndarray
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
# Rows of queries at once: bounds the memory of attention.
QUERY_TILE = 256


@dataclass(frozen=True)
class Shape:
    """Of config.json, as far as the arithmetic needs it."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float

    @staticmethod
    def of(config: dict) -> "Shape":
        family = config.get("model_type")
        if family not in FAMILIES:
            raise EvalError(f"model_type {family} is none of {', '.join(FAMILIES)}")
        scaling = config.get("rope_scaling") or {}
        if scaling.get("rope_type", scaling.get("type", "default")) != "default":
            raise EvalError(f"rope_scaling {scaling} is not supported here")
        heads = config["num_attention_heads"]
        return Shape(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads", heads),
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            norm_eps=config["rms_norm_eps"],
            rope_theta=config.get("rope_theta", 10000.0),
        )


@dataclass(frozen=True)
class Inside:
    """What a layer computes of one prompt of n tokens. Heads come first."""

    layer: int
    hidden: Array  # [n, hidden] what enters the layer
    queries: Array  # [heads, n, head_dim], rotated
    keys: Array  # [kv_heads, n, head_dim], rotated
    bare_keys: Array  # the same before the rotation
    values: Array  # [kv_heads, n, head_dim]
    shape: Shape

    def attention(self, row: int) -> Array:
        """[heads, row + 1]: the softmax probabilities that one row puts on the tokens up to it."""
        group = self.shape.heads // self.shape.kv_heads
        keys = self.keys[:, : row + 1].repeat(group, axis=0)
        logits = np.einsum("hd,hnd->hn", self.queries[:, row], keys)
        return softmax(logits / math.sqrt(self.shape.head_dim))


# Called for every layer and prompt: (index of the prompt, its inside).
Visit = Callable[[int, Inside], None]
# Called for every prompt: (its index, what leaves the last layer that runs, [n, hidden]).
Leave = Callable[[int, Array], None]
# The tensor of that name, as float32; None if the model has none.
Tensors = Callable[[str], Array | None]


def run(
    shape: Shape,
    tensors: Tensors,
    prompts: Sequence[Sequence[int]],
    visit: Visit,
    end: int | None = None,
    leave: Leave | None = None,
) -> None:
    """Through layers [0, end), by default all; what leaves the last one is not computed if nobody
    looks at it."""
    end = shape.layers if end is None else end
    embedding = tensors("model.embed_tokens.weight")
    states = [embedding[list(prompt)] for prompt in prompts]
    del embedding
    for number in range(end):
        layer = Layer(shape, number, tensors)
        for i, state in enumerate(states):
            inside = layer.project(state)
            visit(i, inside)
            if number + 1 < end or leave is not None:
                attended = attend(inside.queries, inside.keys, inside.values)
                states[i] = layer.finish(inside, attended)
    if leave is not None:
        for i, state in enumerate(states):
            leave(i, state)


class Layer:
    def __init__(self, shape: Shape, number: int, tensors: Tensors) -> None:
        self._shape = shape
        self._number = number
        prefix = f"model.layers.{number}."

        def linear(name: str) -> tuple[Array, Array | None]:
            return tensors(f"{prefix}{name}.weight"), tensors(f"{prefix}{name}.bias")

        self._attention_norm = tensors(f"{prefix}input_layernorm.weight")
        self._mlp_norm = tensors(f"{prefix}post_attention_layernorm.weight")
        self._q, self._k, self._v, self._o = (linear(f"self_attn.{n}_proj") for n in "qkvo")
        self._gate, self._up, self._down = (
            linear(f"mlp.{name}_proj") for name in ("gate", "up", "down")
        )
        self._q_norm = tensors(f"{prefix}self_attn.q_norm.weight")
        self._k_norm = tensors(f"{prefix}self_attn.k_norm.weight")

    def project(self, hidden: Array, positions: Array | None = None) -> Inside:
        """Of tokens at these positions, by default one after the other."""
        shape = self._shape
        positions = np.arange(len(hidden)) if positions is None else positions
        normed = rms_norm(hidden, self._attention_norm, shape.norm_eps)
        q = split(apply(normed, self._q), shape.heads)
        k = split(apply(normed, self._k), shape.kv_heads)
        if self._q_norm is not None:
            q = rms_norm(q, self._q_norm, shape.norm_eps)
            k = rms_norm(k, self._k_norm, shape.norm_eps)
        values = split(apply(normed, self._v), shape.kv_heads)
        rotated = (rotate(x, shape.rope_theta, positions) for x in (q, k))
        return Inside(self._number, hidden, *rotated, k, values, shape)

    def finish(self, inside: Inside, attended: Array) -> Array:
        """What leaves the layer, from what attention gave its rows: [heads, n, head_dim]"""
        shape = self._shape
        joined = attended.transpose(1, 0, 2).reshape(len(inside.hidden), -1)
        x = inside.hidden + apply(joined, self._o)
        normed = rms_norm(x, self._mlp_norm, shape.norm_eps)
        gate = apply(normed, self._gate)
        return x + apply(gate / (1 + np.exp(-gate)) * apply(normed, self._up), self._down)


def apply(x: Array, linear: tuple[Array, Array | None]) -> Array:
    weight, bias = linear
    y = x @ weight.T
    return y if bias is None else y + bias


def split(x: Array, heads: int) -> Array:
    """[n, heads * d] -> [heads, n, d]"""
    return np.ascontiguousarray(x.reshape(len(x), heads, -1).transpose(1, 0, 2))


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rotate(x: Array, theta: float, positions: Array) -> Array:
    """RoPE on the halves of each head."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-np.arange(half) / half)
    angles = positions[:, None] * frequencies
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    low, high = x[..., :half], x[..., half:]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def attend(queries: Array, keys: Array, values: Array) -> Array:
    """Causal attention with grouped heads: [heads, n, d] -> [heads, n, d]"""
    heads, tokens, width = queries.shape
    group = heads // len(keys)
    out = np.empty_like(queries)
    for begin in range(0, tokens, QUERY_TILE):
        end = min(begin + QUERY_TILE, tokens)
        hidden = np.arange(end)[None, :] > np.arange(begin, end)[:, None]
        for head in range(heads):
            of = head // group
            logits = queries[head, begin:end] @ keys[of, :end].T / math.sqrt(width)
            out[head, begin:end] = softmax(np.where(hidden, -np.inf, logits)) @ values[of, :end]
    return out
