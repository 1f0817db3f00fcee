#!/usr/bin/env python3
"""Fails on an #include against the arrow: each folder may include only those listed for it,
and only kernels/cuda, the simulated device of the tests and the check of a real one may see CUDA."""

import re
import sys
from pathlib import Path

ALLOWED = {
    "base": set(),
    "kernels": {"base"},
    "engine": {"kernels", "base"},
    "scheduler": {"engine", "kernels", "base"},
    "text": {"base"},
    "server": {"scheduler", "engine", "kernels", "base", "text"},
    "cli": {"base"},
    "loadtest": {"cli", "kernels", "base"},  # kernels: the roofs of kernels/bench
}
OURS = set(ALLOWED) | {"tests", "proto", "tools", "deploy"}  # other prefixes are libraries
SOURCES = {".h", ".cc", ".cu", ".cuh"}
CUDA_FOLDERS = {"kernels/cuda", "tests/gpu", "tests/ptxsim"}
CUDA_INCLUDE = re.compile(r'^\s*#\s*include\s+[<"]((?:cu(?:da|blas)|cub/|nv/)[^>"]*)', re.MULTILINE)
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"/]+)/', re.MULTILINE)


def violations(root: Path) -> list[str]:
    found = []
    for folder, allowed in ALLOWED.items():
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in SOURCES or "target" in path.parts:
                continue
            for target in INCLUDE.findall(path.read_text(encoding="utf-8")):
                if target in OURS and target != folder and target not in allowed:
                    found.append(f"{path.relative_to(root)} includes {target}/")
    return found


def cuda_outside(root: Path) -> list[str]:
    """CUDA headers, or CUDA sources, where they do not belong."""
    found = []
    for folder in sorted(OURS):
        for path in sorted((root / folder).rglob("*")):
            place = path.relative_to(root)
            if path.suffix not in SOURCES or place.parent.as_posix() in CUDA_FOLDERS:
                continue
            if path.suffix in {".cu", ".cuh"}:
                found.append(f"{place} is a CUDA source outside {sorted(CUDA_FOLDERS)}")
            for header in CUDA_INCLUDE.findall(path.read_text(encoding="utf-8")):
                found.append(f"{place} includes {header}")
    return found


def absl_in_cuda(root: Path) -> list[str]:
    """Device code knows nothing of absl: nvcc compiles only what it must."""
    return [
        f"{path.relative_to(root)} includes absl"
        for path in sorted((root / "kernels/cuda").glob("*.cu*"))
        if re.search(r'^\s*#\s*include\s+["<]absl/', path.read_text(encoding="utf-8"), re.MULTILINE)
    ]


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    # The check itself must be able to fail: kernels including the engine is against the arrow.
    if INCLUDE.findall('#include "engine/engine.h"') != ["engine"] or "engine" in ALLOWED["kernels"]:
        print("arrow_test cannot see a violation")
        return 1
    if CUDA_INCLUDE.findall("#include <cuda_runtime_api.h>\n#include <cublasLt.h>\n") != [
        "cuda_runtime_api.h",
        "cublasLt.h",
    ]:
        print("arrow_test cannot see a CUDA header")
        return 1
    found = violations(root) + cuda_outside(root) + absl_in_cuda(root)
    print("\n".join(found) if found else "every include follows the arrow")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
