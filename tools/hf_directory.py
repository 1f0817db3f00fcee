"""Writing Hugging Face model directories: bf16 tensors, JSON, all or nothing."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

BF16 = ml_dtypes.bfloat16
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


def save_bf16(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Rounds to nearest even; the "format" entry is what transformers asks for."""
    rounded = {name: np.ascontiguousarray(t, dtype=BF16) for name, t in tensors.items()}
    save_file(rounded, path, metadata={"format": "pt"})
    path.chmod(0o644)  # the library creates it for the owner alone


def save_bf16_sharded(directory: Path, tensors: dict[str, np.ndarray], shards: int) -> None:
    """One model.safetensors, or `shards` files of about equal size and their index."""
    if shards == 1:
        save_bf16(directory / "model.safetensors", tensors)
        return
    if shards > len(tensors):
        raise ToolError(f"--shards {shards}: the model has only {len(tensors)} tensors")
    names = sorted(tensors)
    total_elements = sum(t.size for t in tensors.values())
    parts: list[list[str]] = [[] for _ in range(shards)]
    seen_elements = 0
    for index, name in enumerate(names):
        by_size = seen_elements * shards // total_elements
        # Every shard gets at least one tensor, however unequal the tensors are.
        latest = shards - (len(names) - index)
        parts[max(min(by_size, index), latest)].append(name)
        seen_elements += tensors[name].size
    parts = [part for part in parts if part]
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        file_name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        save_bf16(directory / file_name, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file_name)
    write_json(
        directory / "model.safetensors.index.json",
        {"metadata": {"total_size": 2 * total_elements}, "weight_map": weight_map},
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
        os.rename(fresh, target)
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
    except (OSError, ValueError, KeyError, TypeError):
        return False
