#!/usr/bin/env python3
"""Fails on an #include against the arrow: each folder may include only those listed for it."""

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
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"/]+)/', re.MULTILINE)


def violations(root: Path) -> list[str]:
    found = []
    for folder, allowed in ALLOWED.items():
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in {".h", ".cc", ".cu", ".cuh"} or "target" in path.parts:
                continue
            for target in INCLUDE.findall(path.read_text(encoding="utf-8")):
                if target in OURS and target != folder and target not in allowed:
                    found.append(f"{path.relative_to(root)} includes {target}/")
    return found


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    # The check itself must be able to fail: kernels including the engine is against the arrow.
    if INCLUDE.findall('#include "engine/engine.h"') != ["engine"] or "engine" in ALLOWED["kernels"]:
        print("arrow_test cannot see a violation")
        return 1
    found = violations(root)
    print("\n".join(found) if found else "every include follows the arrow")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
