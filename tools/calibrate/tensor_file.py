"""Safetensors files that the daemon reads beside a model."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def write(
    path: Path,
    matrices: Mapping[str, np.ndarray],
    vectors: Mapping[str, np.ndarray],
    made_for: dict[str, str],
) -> None:
    """Matrices in bf16, vectors in float32; as a whole or not at all."""
    import ml_dtypes
    from safetensors.numpy import save

    def contiguous(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array.astype(np.float32))

    tensors = {n: contiguous(of).astype(ml_dtypes.bfloat16) for n, of in matrices.items()}
    tensors |= {n: contiguous(of) for n, of in vectors.items()}
    scratch = path.with_suffix(".partial")
    scratch.write_bytes(save(tensors, made_for))
    os.replace(scratch, path)
