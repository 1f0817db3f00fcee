"""Writing Hugging Face model directories: tensors, shards, JSON, all or nothing."""

import contextlib
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from compressed_tensors import CODE_TYPES

BF16 = ml_dtypes.bfloat16
DTYPES = {"bfloat16": BF16, "float16": np.float16, "float32": np.float32}
STAMP_NAME = "skim_stamp.json"


class ToolError(Exception):
    """Something the user can mend; shown as one line, without a traceback."""


def run_main(main) -> None:
    """Runs a tool's main(); a ToolError or OSError becomes one line on stderr and exit 1."""
    try:
        main()
    except (ToolError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _rounded(values: np.ndarray) -> np.ndarray:
    return values if values.dtype in CODE_TYPES else values.astype(BF16, copy=False)


def _stored_type(values: np.ndarray, dtype: str) -> np.dtype:
    return values.dtype if values.dtype in CODE_TYPES else np.dtype(DTYPES[dtype])


def save_tensors(path: Path, tensors: dict[str, np.ndarray], dtype: str = "bfloat16") -> None:
    """Values are rounded to bf16 (nearest even) whatever they are stored as, so that a model is
    the same in every dtype; codes are stored as they are. transformers asks for the "format"
    entry."""
    stored = {
        name: np.ascontiguousarray(_rounded(values).astype(_stored_type(values, dtype), copy=False))
        for name, values in tensors.items()
    }
    save_file(stored, path, metadata={"format": "pt"})
    path.chmod(0o644)  # the library creates it for the owner alone


def split_evenly(sizes: dict[str, int], parts: int) -> list[list[str]]:
    """Splits the names, in order, into `parts` runs of about equal size, none of them empty."""
    if not 1 <= parts <= len(sizes):
        raise ToolError(f"{len(sizes)} tensors cannot be split into {parts} shards")
    total = sum(sizes.values())
    runs: list[list[str]] = [[]]
    before = 0
    for index, name in enumerate(sizes):
        is_full = before * parts >= total * len(runs)
        must_leave = len(sizes) - index == parts - len(runs)
        if runs[-1] and len(runs) < parts and (is_full or must_leave):
            runs.append([])
        runs[-1].append(name)
        before += sizes[name]
    return runs


def save_model(
    directory: Path,
    shapes: dict[str, tuple[int, ...]],
    make: Callable[[str, tuple[int, ...]], np.ndarray],
    shards: int,
    dtype: str = "bfloat16",
) -> None:
    """Writes model.safetensors, or `shards` files and their index. Holds one shard in memory."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    weight_map = {}
    total_bytes = 0
    for number, names in enumerate(split_evenly(sizes, shards), start=1):
        file_name = "model.safetensors"
        if shards > 1:
            file_name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        tensors = {name: _rounded(make(name, shapes[name])) for name in names}
        save_tensors(directory / file_name, tensors, dtype)
        total_bytes += sum(
            values.size * _stored_type(values, dtype).itemsize for values in tensors.values()
        )
        weight_map |= dict.fromkeys(names, file_name)
    if shards > 1:
        write_json(
            directory / "model.safetensors.index.json",
            {"metadata": {"total_size": total_bytes}, "weight_map": weight_map},
        )


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yields an empty directory that takes the place of `target` if the body succeeds.

    A reader sees the old directory or the whole new one, but for the instant between two
    renames; a failed body leaves the old one untouched.
    """
    if target.exists() and not target.is_dir():
        raise ToolError(f"{target} is there already and is no directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fresh, old = scratch / "new", scratch / "old"
        fresh.mkdir()
        yield fresh
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(fresh, target)
        except OSError:
            if old.exists():
                os.rename(old, target)
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_stamp(directory: Path, made_from: dict[str, object]) -> None:
    """Records what the directory was made from and the size and sha256 of its files."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(directory.iterdir())
    }
    write_json(directory / STAMP_NAME, {"made_from": made_from, "files": files})


def matches_stamp(directory: Path, made_from: dict[str, object]) -> bool:
    """Whether the directory is complete and was made from exactly this. Compares sizes, not
    hashes: it guards against a half-copied directory, not against an editor."""
    try:
        stamp = json.loads((directory / STAMP_NAME).read_text(encoding="utf-8"))
        return stamp["made_from"] == made_from and all(
            (directory / name).stat().st_size == facts["bytes"]
            for name, facts in stamp["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
