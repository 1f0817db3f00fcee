"""Random weights for a configuration, so scaled that the model behaves like a trained one:
activations stay bounded, attention is neither flat nor one-hot, logits have a spread of about
3, and the current token does not simply predict itself."""

import math
import zlib

import numpy as np

LOGIT_STD = 3.0


def tensor_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the checkpoint, in Hugging Face's terms."""
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    q_width = config["num_attention_heads"] * head_dim
    kv_width = config["num_key_value_heads"] * head_dim
    qkv_bias = config["model_type"] == "qwen2" or config.get("attention_bias", False)
    output_bias = config["model_type"] != "qwen2" and config.get("attention_bias", False)
    mlp_bias = config.get("mlp_bias", False)

    linears = {
        "self_attn.q_proj": ((q_width, hidden), qkv_bias),
        "self_attn.k_proj": ((kv_width, hidden), qkv_bias),
        "self_attn.v_proj": ((kv_width, hidden), qkv_bias),
        "self_attn.o_proj": ((hidden, q_width), output_bias),
        "mlp.gate_proj": ((intermediate, hidden), mlp_bias),
        "mlp.up_proj": ((intermediate, hidden), mlp_bias),
        "mlp.down_proj": ((hidden, intermediate), mlp_bias),
    }
    norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    if config["model_type"] == "qwen3":
        norms |= {"self_attn.q_norm": head_dim, "self_attn.k_norm": head_dim}

    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name, (shape, bias) in linears.items():
            shapes[f"{prefix}.{name}.weight"] = shape
            if bias:
                shapes[f"{prefix}.{name}.bias"] = shape[:1]
        for name, width in norms.items():
            shapes[f"{prefix}.{name}.weight"] = (width,)
    return shapes


def draw(name: str, shape: tuple[int, ...], config: dict, seed: int) -> np.ndarray:
    """One tensor in float32. Its numbers depend on seed, name and shape alone, so neither the
    order nor the number of shards changes a model."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape, dtype=np.float32)
    # Embeddings and head share this, so that tied and untied models have alike logits; what
    # the layers add to the residual stream is measured against it.
    row_std = LOGIT_STD / math.sqrt(config["hidden_size"])

    if name == "model.norm.weight":
        # Without random signs a tied model would find each token most like itself.
        return np.where(values < 0, np.float32(-1), np.float32(1)) + np.float32(0.1) * values
    if name.endswith("norm.weight"):
        return np.float32(1) + np.float32(0.2) * values
    if name.endswith(("embed_tokens.weight", "lm_head.weight")):
        return np.float32(row_std) * values
    adds_to_stream = "o_proj" in name or "down_proj" in name
    if name.endswith(".bias"):
        return np.float32(0.3 * row_std if adds_to_stream else 0.3) * values
    gain = 1.2 if "q_proj" in name or "k_proj" in name else 1.0
    if adds_to_stream:
        gain = 1.5 * row_std
    return np.float32(gain / math.sqrt(shape[1])) * values
