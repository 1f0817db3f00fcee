"""Which weights a file was made for (engine/fingerprint.h)."""

import hashlib
import json
from pathlib import Path

from calibrate.model_files import weight_files

VERSION = "1"
SAMPLE_BYTES = 4096


def made_for(model: Path) -> dict[str, str]:
    """The metadata of a safetensors file that belongs to these weights."""
    return {"version": VERSION, "fingerprint": fingerprint(model)}


def fingerprint(model: Path) -> str:
    """Of the weights, as the daemon computes it."""
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
