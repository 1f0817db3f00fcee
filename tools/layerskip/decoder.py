"""A decoder of the Llama family in PyTorch that can be left behind every layer. Its parameters have
the names of the checkpoint's tensors."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_directory import ToolError

INITIAL_STD = 0.02

# The samples of a batch that run a layer; None: all of them.
Runs = Callable[[int], Tensor | None]


def _everybody(_: int) -> Tensor | None:
    return None


class Layer(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim = config.get("head_dim") or hidden // self.heads
        eps = config["rms_norm_eps"]

        def linear(width: int, out: int) -> nn.Linear:
            return nn.Linear(width, out, bias=False)

        self.input_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": linear(hidden, self.heads * self.head_dim),
                "k_proj": linear(hidden, self.kv_heads * self.head_dim),
                "v_proj": linear(hidden, self.kv_heads * self.head_dim),
                "o_proj": linear(self.heads * self.head_dim, hidden),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": linear(hidden, inner),
                "up_proj": linear(hidden, inner),
                "down_proj": linear(inner, hidden),
            }
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [samples, tokens, hidden] -> the same; positions begin at 0."""
        x = x + self._attention(self.input_layernorm(x), cos, sin)
        normed = self.post_attention_layernorm(x)
        gate = functional.silu(self.mlp["gate_proj"](normed))
        return x + self.mlp["down_proj"](gate * self.mlp["up_proj"](normed))

    def _attention(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        samples, tokens, _ = x.shape

        def heads(name: str, count: int) -> Tensor:
            flat = self.self_attn[name](x)
            return flat.view(samples, tokens, count, self.head_dim).transpose(1, 2)

        q = _rotate(heads("q_proj", self.heads), cos, sin)
        k = _rotate(heads("k_proj", self.kv_heads), cos, sin)
        v = heads("v_proj", self.kv_heads)
        attended = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads
        )
        return self.self_attn["o_proj"](attended.transpose(1, 2).reshape(samples, tokens, -1))


class Decoder(nn.Module):
    """Of a Hugging Face configuration, with random weights. ToolError if it has what this has
    not."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        _check(config)
        self.config = config
        hidden, vocabulary = config["hidden_size"], config["vocab_size"]
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(vocabulary, hidden),
                "layers": nn.ModuleList(Layer(config) for _ in range(self.layers)),
                "norm": nn.RMSNorm(hidden, eps=config["rms_norm_eps"]),
            }
        )
        if not config["tie_word_embeddings"]:
            self.lm_head = nn.Linear(hidden, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                adds_to_stream = "o_proj" in name or "down_proj" in name
                depth = (2 * self.layers) ** 0.5 if adds_to_stream else 1.0
                nn.init.normal_(parameter, std=INITIAL_STD / depth)

    @property
    def layers(self) -> int:
        return self.config["num_hidden_layers"]

    def leave(
        self, ids: Tensor, behind: Collection[int], runs: Runs = _everybody
    ) -> dict[int, Tensor]:
        """ids [samples, tokens] -> the stream [samples, tokens, hidden] behind these layers.
        Samples that do not run a layer pass it by unchanged, and cost nothing there."""
        x = self.model["embed_tokens"](ids)
        cos, sin = _angles(self.config, ids.shape[1])
        left = {}
        for number in range(max(behind) + 1):
            layer, chosen = self.model["layers"][number], runs(number)
            if chosen is None:
                x = layer(x, cos, sin)
            elif len(chosen) > 0:
                x = x.index_copy(0, chosen, layer(x[chosen], cos, sin))
            if number in behind:
                left[number] = x
        return left

    def logits(self, x: Tensor) -> Tensor:
        """The norm and head that all exits share."""
        normed = self.model["norm"](x)
        if self.config["tie_word_embeddings"]:
            return functional.linear(normed, self.model["embed_tokens"].weight)
        return self.lm_head(normed)


def _check(config: dict) -> None:
    if config.get("model_type") not in ("llama", "mistral"):
        raise ToolError(f"model_type {config.get('model_type')} is not llama or mistral")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise ToolError("attention_bias, mlp_bias: biases are not supported here")
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type", "default")) != "default":
        raise ToolError(f"rope_scaling {scaling} is not supported here")


def _angles(config: dict, tokens: int) -> tuple[Tensor, Tensor]:
    """[tokens, head_dim / 2] each."""
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    frequencies = config["rope_theta"] ** (-torch.arange(dim // 2) / (dim // 2))
    angles = torch.arange(tokens)[:, None] * frequencies
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    rotated = torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)
    return rotated.to(x.dtype)
