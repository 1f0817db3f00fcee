"""A Llama model inside a GGUF file as Hugging Face config and tensors."""

import re
from collections.abc import Iterator

import numpy as np
from gguf import GGUFReader, dequantize

from hf_directory import ToolError

_GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_PATTERN = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def metadata(reader: GGUFReader, key: str):
    field = reader.get_field(key)
    if field is None:
        raise ToolError(f"the GGUF file has no metadata field {key}")
    return field.contents()


def rows_to_halves(weight: np.ndarray, head_count: int) -> np.ndarray:
    """Undoes GGUF's row order of q and k, [heads * head_dim, hidden] -> the same shape.

    GGUF rotates neighbours (2i, 2i+1), Hugging Face rotates halves (i, i + head_dim / 2), so
    the row of pair i, member j stands at 2i + j there and at j * head_dim / 2 + i here.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(head_count, rows // head_count // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def rows_to_pairs(weight: np.ndarray, head_count: int) -> np.ndarray:
    """The inverse of rows_to_halves: what a converter to GGUF does."""
    rows, columns = weight.shape
    halves = weight.reshape(head_count, 2, rows // head_count // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def hf_name(gguf_name: str) -> str:
    if name := _GLOBAL_NAMES.get(gguf_name):
        return name
    match = _LAYER_PATTERN.fullmatch(gguf_name)
    if not match or match[2] not in _LAYER_NAMES:
        raise ToolError(f"tensor {gguf_name} has no place in a Llama model")
    return f"model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}.weight"


def hf_tensors(reader: GGUFReader) -> Iterator[tuple[str, np.ndarray]]:
    """Yields every tensor dequantised to float32, under its Hugging Face name."""
    head_counts = {
        "attn_q": metadata(reader, "llama.attention.head_count"),
        "attn_k": metadata(reader, "llama.attention.head_count_kv"),
    }
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        match = _LAYER_PATTERN.fullmatch(tensor.name)
        if match and match[2] in head_counts:
            values = rows_to_halves(values, head_counts[match[2]])
        yield hf_name(tensor.name), values


def hf_config(reader: GGUFReader) -> dict[str, object]:
    if (architecture := metadata(reader, "general.architecture")) != "llama":
        raise ToolError(f"general.architecture is {architecture}; only llama is converted")
    hidden = metadata(reader, "llama.embedding_length")
    heads = metadata(reader, "llama.attention.head_count")
    if metadata(reader, "llama.rope.dimension_count") != hidden // heads:
        raise ToolError("llama.rope.dimension_count differs from the head size")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": metadata(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata(reader, "tokenizer.ggml.eos_token_id"),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": metadata(reader, "llama.feed_forward_length"),
        "max_position_embeddings": metadata(reader, "llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": metadata(reader, "llama.block_count"),
        "num_key_value_heads": metadata(reader, "llama.attention.head_count_kv"),
        "pad_token_id": metadata(reader, "tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": shortest(metadata(reader, "llama.attention.layer_norm_rms_epsilon")),
        "rope_scaling": None,
        "rope_theta": shortest(metadata(reader, "llama.rope.freq_base")),
        # A GGUF file without output.weight means that the head is the embedding.
        "tie_word_embeddings": all(t.name != "output.weight" for t in reader.tensors),
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": metadata(reader, "llama.vocab_size"),
    }


def shortest(value: float) -> float:
    """GGUF keeps float32: 1e-5 comes out as 9.99999975e-06 unless printed as a float32."""
    return float(str(np.float32(value)))
