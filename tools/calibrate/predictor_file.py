"""skim_predictors.safetensors: what the daemon reads beside a model (engine/predictors.h)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibrate import tensor_file
from calibrate.predictors import Maps
from eval.errors import EvalError

NAME = "skim_predictors.safetensors"


def write(path: Path, maps: Maps, made_for: dict[str, str]) -> None:
    """As a whole or not at all."""
    weights = {f"{boundary}.{layer}.weight": of.weight for (boundary, layer), of in maps.items()}
    biases = {f"{boundary}.{layer}.bias": of.bias for (boundary, layer), of in maps.items()}
    tensor_file.write(path, weights, biases, made_for)


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
