"""skim_predictors.safetensors: what the daemon reads beside a model (engine/predictors.h)."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from calibrate.model_files import weight_files
from calibrate.predictors import Maps

NAME = "skim_predictors.safetensors"
VERSION = "1"
SAMPLE_BYTES = 4096


def write(path: Path, maps: Maps, fingerprint: str) -> None:
    """As a whole or not at all."""
    import ml_dtypes
    from safetensors.numpy import save

    tensors = {}
    for (boundary, layer), of in maps.items():
        weight = np.ascontiguousarray(of.weight.astype(np.float32))
        tensors[f"{boundary}.{layer}.weight"] = weight.astype(ml_dtypes.bfloat16)
        tensors[f"{boundary}.{layer}.bias"] = np.ascontiguousarray(of.bias.astype(np.float32))
    scratch = path.with_suffix(".partial")
    scratch.write_bytes(save(tensors, {"version": VERSION, "fingerprint": fingerprint}))
    os.replace(scratch, path)


def fingerprint(model: Path) -> str:
    """Of the weights, as the daemon computes it (engine/fingerprint.h)."""
    tensors: dict[str, tuple[Path, list[int], int, int]] = {}
    for path in weight_files(model):
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
                tensors[name] = (path, entry["shape"], begin, end)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        path, shape, begin, end = tensors[name]
        digest.update(f"{name} [{', '.join(map(str, shape))}]\n".encode())
        sample = min(SAMPLE_BYTES, end - begin)
        with path.open("rb") as file:
            for offset in (begin, end - sample):
                file.seek(offset)
                digest.update(file.read(sample))
    return digest.hexdigest()
