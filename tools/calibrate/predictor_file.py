"""skim_predictors.safetensors: what the daemon reads beside a model (engine/predictors.h)."""

import os
from pathlib import Path

import numpy as np

from calibrate.predictors import Maps

NAME = "skim_predictors.safetensors"


def write(path: Path, maps: Maps, made_for: dict[str, str]) -> None:
    """As a whole or not at all."""
    import ml_dtypes
    from safetensors.numpy import save

    tensors = {}
    for (boundary, layer), of in maps.items():
        weight = np.ascontiguousarray(of.weight.astype(np.float32))
        tensors[f"{boundary}.{layer}.weight"] = weight.astype(ml_dtypes.bfloat16)
        tensors[f"{boundary}.{layer}.bias"] = np.ascontiguousarray(of.bias.astype(np.float32))
    scratch = path.with_suffix(".partial")
    scratch.write_bytes(save(tensors, made_for))
    os.replace(scratch, path)
