"""What the machine is, in words."""

import os
import re
from pathlib import Path

# Those that decide which kernels run.
INTERESTING_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def describe_machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    meminfo = Path("/proc/meminfo").read_text(encoding="utf-8")
    return describe(cpuinfo, meminfo, usable_cores())


def describe(cpuinfo: str, meminfo: str, cores: int) -> str:
    model = _first(r"^model name\s*:\s*(.+)$", cpuinfo) or "unknown CPU"
    present = (_first(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo) or "").split()
    flags = [flag for flag in INTERESTING_FLAGS if flag in present]
    kib = int(_first(r"^MemTotal:\s*(\d+)", meminfo) or 0)
    noun = "core" if cores == 1 else "cores"
    return f"{model}, {cores} {noun}, {kib / 2**20:.0f} GiB; {' '.join(flags) or 'no vector flags'}"


def load_average() -> float:
    return os.getloadavg()[0]


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).strip() if found else None
