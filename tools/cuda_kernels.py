#!/usr/bin/env python3
"""What ptxas made of the CUDA kernels: registers, shared memory, occupancy, tensor-core and
asynchronous-copy instructions, per kernel and architecture. Read from the cubins in an archive or
object file, so it needs neither a GPU nor NVIDIA's tools. All of it is arithmetic; none of it is a
measurement.

    python3 tools/cuda_kernels.py build/release/kernels/cuda/libskim_cuda.a > docs/cuda_kernels.csv
    python3 tools/cuda_kernels.py LIBRARY --check docs/cuda_kernels.csv
"""

import argparse
import collections
import csv
import difflib
import io
import re
import struct
import subprocess
import sys
from pathlib import Path

EM_CUDA = 190
# Attributes of .nv.info.
MAX_THREADS = 0x05  # a kernel's launch bounds: x, y, z
REGISTER_COUNT = 0x2F  # symbol, registers
INSTRUCTION_BYTES = 16
# The low 12 bits of an instruction.
OPCODES = {"mma": (0x23C, 0x237), "ldmatrix": (0x83B,), "cp.async": (0xFAE,), "barrier": (0xB1D,)}
WARP = 32
REGISTERS = 65536
REGISTER_UNIT = 256  # a warp's registers are handed out in such pieces
RESERVED_SHARED = 1024  # of a block, by the driver; from sm_90 on cubins count it
# Threads, blocks and bytes of shared memory of a multiprocessor.
LIMITS = {80: (2048, 32, 164), 89: (1536, 24, 100), 90: (2048, 32, 228), 100: (2048, 32, 228)}
FIELDS = ["kernel", "arch", "threads", "registers", "static_shared", "dynamic_shared"]
FIELDS += ["blocks_per_sm", "warps_per_sm"]
FIELDS += list(OPCODES)
DYNAMIC_SHARED = re.compile(r", DynamicShared<(\d+)>")  # kernels/cuda/device_util.cuh
ENUMS = {"WeightFormat": ("bf16", "fp8", "int8", "int4"), "KvFormat": ("bf16", "int8", "fp8")}


class Cubin:
    def __init__(self, data: bytes):
        self.data = data
        self.arch = struct.unpack_from("<I", data, 48)[0] >> 8 & 0xFF
        (table,) = struct.unpack_from("<Q", data, 40)
        size, count, names = struct.unpack_from("<HHH", data, 58)
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
        self.sections = {}
        for header in headers:
            at = headers[names][4] + header[0]
            self.sections[data[at : data.index(b"\0", at)].decode()] = header

        self.registers = dict(self.attributes(".nv.info", REGISTER_COUNT, 2))

    def content(self, name: str) -> bytes:
        header = self.sections[name]
        return self.data[header[4] : header[4] + header[5]]

    def kernels(self):
        for section, header in self.sections.items():
            if section.startswith(".text."):
                name = section.removeprefix(".text.")
                yield name, self.describe(name, header)

    def describe(self, name: str, header: tuple) -> dict:
        code = self.content(f".text.{name}")
        opcodes = collections.Counter(
            word & 0xFFF
            for (word,) in (struct.unpack_from("<H", code, i) for i in range(0, len(code), INSTRUCTION_BYTES))
        )
        shared = self.sections.get(f".nv.shared.{name}")
        kernel = readable(name)
        dynamic = DYNAMIC_SHARED.search(kernel)
        row = {
            "kernel": DYNAMIC_SHARED.sub("", kernel).replace(" >", ">"),
            "arch": f"sm_{self.arch}",
            "threads": self.launch_bound(name),
            "registers": self.registers[header[7] & 0xFFFFFF],
            "static_shared": max(0, shared[5] - (RESERVED_SHARED if self.arch >= 90 else 0)) if shared else 0,
            "dynamic_shared": int(dynamic[1]) if dynamic else 0,
        }
        row["blocks_per_sm"] = blocks_per_sm(self.arch, row)
        row["warps_per_sm"] = row["blocks_per_sm"] * -(-row["threads"] // WARP)
        for field, codes in OPCODES.items():
            row[field] = sum(opcodes[code] for code in codes)
        return row

    def attributes(self, section: str, wanted: int, words: int):
        info = self.content(section)
        at = 0
        while at < len(info):
            form, attribute, value = struct.unpack_from("<BBH", info, at)
            if form == 4 and attribute == wanted:
                yield struct.unpack_from(f"<{words}I", info, at + 4)
            at += 4 + (value if form == 4 else 0)

    def launch_bound(self, name: str) -> int:
        for x, y, z in self.attributes(f".nv.info.{name}", MAX_THREADS, 3):
            return x * y * z
        sys.exit(f"cuda_kernels: {readable(name)} has no launch bounds")


def blocks_per_sm(arch: int, row: dict) -> int:
    """By the CUDA programming guide's rules."""
    threads, blocks, kib = LIMITS[arch]
    warps = -(-row["threads"] // WARP)
    registers = -(-row["registers"] * WARP // REGISTER_UNIT) * REGISTER_UNIT * warps
    shared = row["static_shared"] + row["dynamic_shared"] + RESERVED_SHARED
    return min(threads // (warps * WARP), blocks, REGISTERS // registers, kib * 1024 // shared)


def readable(mangled: str) -> str:
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    name = name.strip().removeprefix("void ").replace("(anonymous namespace)::", "")
    name = re.sub(r"\(skim::(\w+)\)(\d+)", lambda m: ENUMS[m[1]][int(m[2])], name)
    name = name.partition("(")[0]
    return re.sub(r"skim::|cuda::", "", name)


def cubins(data: bytes):
    at = data.find(b"\x7fELF\x02")
    while at >= 0:
        if struct.unpack_from("<H", data, at + 18)[0] == EM_CUDA:
            yield Cubin(data[at:])
        at = data.find(b"\x7fELF\x02", at + 4)


def table(archive: Path) -> str:
    rows = [row for cubin in cubins(archive.read_bytes()) for _, row in cubin.kernels()]
    if not rows:
        sys.exit(f"cuda_kernels: there are no cubins in {archive}")
    rows.sort(key=lambda row: (row["kernel"], int(row["arch"].removeprefix("sm_"))))
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--check", type=Path, help="a table that must still be true")
    args = parser.parse_args()
    found = table(args.archive)
    if args.check is None:
        sys.stdout.write(found)
        return
    difference = list(
        difflib.unified_diff(
            args.check.read_text().splitlines(), found.splitlines(), str(args.check), "built", lineterm=""
        )
    )
    if difference:
        sys.exit("\n".join(difference))


if __name__ == "__main__":
    main()
