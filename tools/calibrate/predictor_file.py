"""skim_predictors.safetensors: what the daemon reads beside a model (engine/predictors.h)."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibrate.predictors import Maps
from eval.errors import EvalError

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


def read(
    path: Path, boundaries: Sequence[int], made_for: dict[str, str]
) -> dict[tuple[int, int], np.ndarray]:
    """Of these boundaries, by boundary and layer: weights, and the bias as their last column."""
    import ml_dtypes  # noqa: F401
    from safetensors import safe_open

    how = f"./run calibrate --predictors {','.join(map(str, boundaries))}"
    if not path.exists():
        raise EvalError(f"{path} is not there; make it with {how}")
    with safe_open(path, framework="numpy") as file:
        if (file.metadata() or {}) != made_for:
            raise EvalError(f"{path} was made for other weights; make it anew with {how}")
        maps = {}
        for name in file.keys():
            boundary, layer, part = name.split(".")
            if part != "weight" or int(boundary) not in boundaries:
                continue
            bias = file.get_tensor(f"{boundary}.{layer}.bias")[:, None]
            weight = file.get_tensor(name).astype(np.float32)
            maps[int(boundary), int(layer)] = np.concatenate([weight, bias], axis=1)
    for boundary in boundaries:
        if (boundary, boundary) not in maps:
            raise EvalError(f"{path} predicts nothing from layer {boundary}; make it with {how}")
    return maps
