"""Hugging Face configurations by name: published shapes, and tiny ones for the tests."""


def _config(model_type: str, architecture: str, **fields: object) -> dict[str, object]:
    common = {
        "architectures": [architecture],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "model_type": model_type,
        "use_cache": True,
    }
    return common | fields


def _llama(**fields: object) -> dict[str, object]:
    defaults = {"attention_bias": False, "mlp_bias": False, "rope_scaling": None}
    return _config("llama", "LlamaForCausalLM", **(defaults | fields))


def _mistral(**fields: object) -> dict[str, object]:
    return _config("mistral", "MistralForCausalLM", **({"sliding_window": None} | fields))


def _qwen2(**fields: object) -> dict[str, object]:
    # Published files name a window and switch it off.
    defaults = {"sliding_window": 32768, "max_window_layers": 24, "use_sliding_window": False}
    return _config("qwen2", "Qwen2ForCausalLM", **(defaults | fields))


def _qwen3(**fields: object) -> dict[str, object]:
    defaults = {
        "attention_bias": False,
        "max_window_layers": 28,
        "rope_scaling": None,
        "sliding_window": None,
        "use_sliding_window": False,
    }
    return _config("qwen3", "Qwen3ForCausalLM", **(defaults | fields))


def _shape(
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    positions: int,
    theta: float,
    *,
    eps: float = 1e-5,
    tied: bool = False,
    head_dim: int | None = None,
) -> dict[str, object]:
    fields = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "max_position_embeddings": positions,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": eps,
        "rope_theta": theta,
        "tie_word_embeddings": tied,
        "vocab_size": vocab,
    }
    return fields | ({"head_dim": head_dim} if head_dim else {})


def _llama3_scaling(factor: float, original_positions: int) -> dict[str, object]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original_positions,
    }


_LLAMA3_TOKENS = {"bos_token_id": 128000, "eos_token_id": 128001}
_QWEN_TOKENS = {"bos_token_id": 151643, "eos_token_id": 151645}

PUBLISHED = {
    "smollm2-135m": _llama(**_shape(30, 576, 1536, 9, 3, 49152, 8192, 1e5, tied=True)),
    "smollm2-360m": _llama(**_shape(32, 960, 2560, 15, 5, 49152, 8192, 1e5, tied=True)),
    "tinyllama-1.1b": _llama(**_shape(22, 2048, 5632, 32, 4, 32000, 2048, 1e4)),
    "llama2-7b": _llama(**_shape(32, 4096, 11008, 32, 32, 32000, 4096, 1e4)),
    "llama3-8b": _llama(**_shape(32, 4096, 14336, 32, 8, 128256, 8192, 5e5), **_LLAMA3_TOKENS),
    "llama3.2-1b": _llama(
        **_shape(16, 2048, 8192, 32, 8, 128256, 131072, 5e5, tied=True, head_dim=64),
        **_LLAMA3_TOKENS,
        rope_scaling=_llama3_scaling(32.0, 8192),
    ),
    "mistral-7b": _mistral(**_shape(32, 4096, 14336, 32, 8, 32768, 32768, 1e6)),
    "qwen2.5-0.5b": _qwen2(
        **_shape(24, 896, 4864, 14, 2, 151936, 32768, 1e6, eps=1e-6, tied=True), **_QWEN_TOKENS
    ),
    "qwen3-0.6b": _qwen3(
        **_shape(28, 1024, 3072, 16, 8, 151936, 40960, 1e6, eps=1e-6, tied=True, head_dim=128),
        **_QWEN_TOKENS,
    ),
}

# The token ids of byte_tokenizer.py. Sizes are odd on purpose: intermediate sizes that are no
# multiple of 16, a vocabulary that is no multiple of anything.
_BYTE_TOKENS = {"bos_token_id": 257, "eos_token_id": 258}


def llama_config(**shape: object) -> dict[str, object]:
    """A Llama of this shape (as of _shape) with the ids of byte_tokenizer.py."""
    return _llama(**_shape(**shape), **_BYTE_TOKENS)


TINY = {
    # An epsilon large enough to be missed if it were not read.
    "tiny-llama2": _llama(**_shape(3, 48, 70, 3, 3, 263, 256, 1e4, eps=2e-2), **_BYTE_TOKENS),
    # 48 original positions put two of the sixteen wavelengths into the interpolated band,
    # leave two as they are and stretch the rest.
    "tiny-llama3": _llama(
        **_shape(3, 64, 60, 2, 1, 272, 512, 5e5, tied=True, head_dim=32),
        **_BYTE_TOKENS,
        rope_scaling=_llama3_scaling(8.0, 48),
    ),
    "tiny-mistral": _mistral(**_shape(2, 64, 74, 4, 2, 261, 512, 1e6), **_BYTE_TOKENS),
    "tiny-qwen2": _qwen2(
        **_shape(3, 48, 66, 3, 1, 267, 256, 1e6, eps=1e-6, tied=True), **_BYTE_TOKENS
    ),
    # 4 heads of 32 on a hidden size of 48: the head size is not their quotient.
    "tiny-qwen3": _qwen3(
        **_shape(2, 48, 58, 4, 2, 260, 256, 1e6, eps=1e-6, tied=True, head_dim=32), **_BYTE_TOKENS
    ),
    "tiny-llama-bias": _llama(
        **_shape(3, 48, 62, 3, 1, 269, 256, 1e4), **_BYTE_TOKENS, attention_bias=True, mlp_bias=True
    ),
    "tiny-linear-rope": _llama(
        **_shape(2, 48, 50, 3, 1, 259, 256, 1e4, tied=True),
        **_BYTE_TOKENS,
        rope_scaling={"rope_type": "linear", "factor": 4.0},
    ),
}

SHAPES = PUBLISHED | TINY
