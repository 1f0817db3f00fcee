"""Matrices in the layout called compressed-tensors: codes, one scale per row, and the field of
config.json that says so. Two schemes, the ones that skimd reads."""

import ml_dtypes
import numpy as np

SUFFIX = "_scale"
_FP8 = ml_dtypes.float8_e4m3fn
# Type of the codes, their largest magnitude, and what the layout calls type and format.
_SCHEMES = {
    "fp8": (_FP8, 448, "float", "float-quantized"),
    "int8": (np.int8, 127, "int", "int-quantized"),
}
SCHEMES = tuple(_SCHEMES)
CODE_TYPES = (np.dtype(_FP8), np.dtype(np.int8))


def is_quantized(name: str) -> bool:
    """Whether the scheme covers this tensor: every linear layer but the head."""
    return name.startswith("model.layers.") and name.endswith("_proj.weight")


def quantize(values: np.ndarray, scheme: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales, [rows, 1] in float32 but bf16 values: codes * scales is close to values."""
    code_type, largest, _, _ = _SCHEMES[scheme]
    peak = np.abs(values).max(axis=1, keepdims=True)
    scales = (peak / np.float32(largest)).astype(ml_dtypes.bfloat16).astype(np.float32)
    scales[scales == 0] = 1
    # The scale was rounded, so the peak may lie a little beyond the largest code.
    codes = np.clip(values / scales, -largest, largest)
    return (np.rint(codes) if scheme == "int8" else codes).astype(code_type), scales


def quantization_config(scheme: str) -> dict:
    _, _, kind, format_name = _SCHEMES[scheme]
    weights = {"num_bits": 8, "type": kind, "strategy": "channel", "symmetric": True}
    activations = {"num_bits": 8, "type": kind, "strategy": "token", "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": format_name,
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights | {"dynamic": False},
                "input_activations": activations | {"dynamic": True},
                "output_activations": None,
            }
        },
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    }
