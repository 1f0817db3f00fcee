"""The model whose tokens are to be guessed, in PyTorch: a decoder of the Llama family that takes
one token of every slot at a time and shows its last hidden rows."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from draft_head.errors import HeadError, read_json

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def load_tensors(model: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    files = sorted(path for path in model.glob("*.safetensors") if path.name != HEAD_FILE)
    if not files:
        raise HeadError(f"{model} holds no safetensors file")
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors |= load_file(path)
    return tensors


HEAD_FILE = "skim_draft_head.safetensors"


class Teacher:
    def __init__(self, model: Path) -> None:
        config = read_json(model / "config.json")
        if config.get("model_type") not in FAMILIES or config.get("rope_scaling"):
            known = ", ".join(FAMILIES)
            raise HeadError(f"{model}: only {known} without rope_scaling are known here")
        self.layers: int = config["num_hidden_layers"]
        self.hidden: int = config["hidden_size"]
        self.vocabulary: int = config["vocab_size"]
        self.eps: float = config["rms_norm_eps"]
        self.heads: int = config["num_attention_heads"]
        self.kv_heads: int = config.get("num_key_value_heads", self.heads)
        self.head_dim: int = config.get("head_dim") or self.hidden // self.heads
        self.theta: float = config.get("rope_theta", 10000.0)
        end = config["eos_token_id"]
        self.stops: frozenset[int] = frozenset(end if isinstance(end, list) else [end])
        self.tensors = load_tensors(model)
        if not torch.cpu._is_avx512_bf16_supported():
            # Products of bf16 are several times slower than those of fp32 there.
            self.tensors = {name: tensor.float() for name, tensor in self.tensors.items()}
        self.embedding = self.tensors["model.embed_tokens.weight"]
        self.lm_head = self.tensors.get("lm_head.weight", self.embedding)
        self.final_norm = self.tensors["model.norm.weight"]

    def open(self, slots: int, length: int) -> None:
        """Empty slots for `length` tokens each."""
        shape = (self.layers, slots, self.kv_heads, length, self.head_dim)
        self._keys = torch.zeros(shape, dtype=self.embedding.dtype)
        self._values = torch.zeros(shape, dtype=self.embedding.dtype)
        self._slots = torch.arange(slots)
        half = self.head_dim // 2
        frequencies = self.theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(length)[:, None] * frequencies
        self._cos, self._sin = angles.cos().float(), angles.sin().float()

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """[slots] tokens at [slots] positions -> [slots, hidden]: the residual rows behind the last
        layer, before the final norm, float32."""
        x = self.embedding[tokens].float()
        length = int(positions.max()) + 1
        seen = torch.arange(length)[None, :] <= positions[:, None]
        mask = torch.where(seen, 0.0, -torch.inf).to(self.embedding.dtype)[:, None, None, :]
        for layer in range(self.layers):
            x = self._layer(layer, x, positions, length, mask)
        return x

    def logits(self, rows: Tensor) -> Tensor:
        normed = rms_norm(rows, self.eps) * self.final_norm.float()
        return F.linear(normed.to(self.lm_head.dtype), self.lm_head).float()

    def _layer(
        self, layer: int, x: Tensor, positions: Tensor, length: int, mask: Tensor
    ) -> Tensor:
        normed = self._normed(x, layer, "input_layernorm")
        q = self._split(self._linear(normed, layer, "self_attn.q_proj"), self.heads)
        k = self._split(self._linear(normed, layer, "self_attn.k_proj"), self.kv_heads)
        v = self._split(self._linear(normed, layer, "self_attn.v_proj"), self.kv_heads)
        if (norm := self._tensor(layer, "self_attn.q_norm.weight")) is not None:
            q = rms_norm(q, self.eps) * norm.float()
            k = rms_norm(k, self.eps) * self._tensor(layer, "self_attn.k_norm.weight").float()
        q, k = self._rotate(q, positions), self._rotate(k, positions)
        keys, values = self._keys[layer], self._values[layer]
        keys[self._slots, :, positions] = k.to(keys.dtype)
        values[self._slots, :, positions] = v.to(values.dtype)
        grouped = q.to(keys.dtype).view(len(q), self.kv_heads, -1, self.head_dim)
        attended = F.scaled_dot_product_attention(
            grouped, keys[:, :, :length], values[:, :, :length], attn_mask=mask
        )
        x = x + self._linear(attended.reshape(len(q), -1), layer, "self_attn.o_proj")
        normed = self._normed(x, layer, "post_attention_layernorm")
        gate = F.silu(self._linear(normed, layer, "mlp.gate_proj"))
        up = self._linear(normed, layer, "mlp.up_proj")
        return x + self._linear((gate * up).to(normed.dtype), layer, "mlp.down_proj")

    def _tensor(self, layer: int, name: str) -> Tensor | None:
        return self.tensors.get(f"model.layers.{layer}.{name}")

    def _normed(self, x: Tensor, layer: int, name: str) -> Tensor:
        weight = self._tensor(layer, f"{name}.weight")
        return (rms_norm(x, self.eps) * weight.float()).to(weight.dtype)

    def _linear(self, x: Tensor, layer: int, name: str) -> Tensor:
        bias = self._tensor(layer, f"{name}.bias")
        return F.linear(x, self._tensor(layer, f"{name}.weight"), bias).float()

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(len(x), heads, self.head_dim)

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]
        low, high = x.chunk(2, dim=-1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
