#!/usr/bin/env python3
"""Does the op suite notice a missing barrier? Takes one __syncthreads, __syncwarp or wait for an
asynchronous copy at a time out of the CUDA kernels, in a copy of the sources, and runs the suite on
the simulated device. One JSON line per mutant, then the share of them that was caught."""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
KERNELS = Path("kernels/cuda")
STATEMENT = re.compile(r"\b(__syncthreads|__syncwarp|WaitAsync<\d+>)\(\);")
TARGETS = ("kernels_op_suite_test", "ptxsim")
TIMEOUT_S = 900


def sites(root: Path) -> list[tuple[Path, int]]:
    """(file, offset of the statement) of every barrier and wait that a kernel calls."""
    found = []
    for path in sorted((root / KERNELS).glob("*.cu*")):
        found += [(path.relative_to(root), match.start()) for match in STATEMENT.finditer(path.read_text())]
    return found


class Workplace:
    """A copy of the sources with a build of its own, for one virtual architecture."""

    def __init__(self, folder: Path, jobs: int):
        self.source, self.build, self.jobs = folder / "source", folder / "build", jobs
        files = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=SOURCE, capture_output=True, check=True, text=True,
        ).stdout.split("\0")
        for name in filter(None, files):
            origin, copy = SOURCE / name, self.source / name
            if not origin.is_file() or (copy.exists() and copy.read_bytes() == origin.read_bytes()):
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin, copy)  # with a new time: what is built from it is out of date
        subprocess.run(
            ["cmake", "-S", self.source, "-B", self.build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
             "-DSKIM_SERVER=OFF", "-DSKIM_CUDA=ON", "-DSKIM_CUDA_ARCHITECTURES=80-virtual",
             f"-DSKIM_CUDA_ROOT={SOURCE / 'build/cuda-toolkit'}"],
            check=True, stdout=subprocess.DEVNULL,
        )

    def compile(self) -> bool:
        command = ["cmake", "--build", self.build, "-j", str(self.jobs), "--target", *TARGETS]
        return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0

    def verdict(self, seeds: int) -> str:
        """What the first failing run said; empty if all passed."""
        for seed in range(1, seeds + 1):
            environment = dict(os.environ, PTXSIM_SEED=str(seed))
            environment["LD_PRELOAD"] = str(self.build / "tests/ptxsim/libptxsim.so")
            try:
                run = subprocess.run(
                    [self.build / "tests/kernels_op_suite_test", "--gtest_filter=*cuda*"],
                    env=environment, capture_output=True, text=True, timeout=TIMEOUT_S,
                )
            except subprocess.TimeoutExpired:
                return "timed out"
            if run.returncode != 0:
                lines = (run.stdout + run.stderr).splitlines()
                told = [line for line in lines if line.startswith("ptxsim:") or "Failure" in line]
                return told[0] if told else f"ended with {run.returncode}"
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--sample", type=int, default=0, help="that many mutants; default: all")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--orders", type=int, default=3, help="seeds of the simulated device to try")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    place = Workplace(SOURCE / "build/mutants", args.jobs)
    if not place.compile():
        sys.exit("cuda_mutants: the suite does not compile")
    if said := place.verdict(args.orders):
        sys.exit(f"cuda_mutants: the suite fails without any mutation: {said}")
    chosen = sites(place.source)
    if 0 < args.sample < len(chosen):
        chosen = sorted(random.Random(args.seed).sample(chosen, args.sample))
    killed = 0
    for path, at in chosen:
        file = place.source / path
        original = file.read_text()
        statement = STATEMENT.match(original, at).group(0)
        # Nothing else moves, so that messages name the lines of the original.
        file.write_text(original[:at] + ";" + original[at + len(statement) :])
        try:
            if not place.compile():
                sys.exit(f"cuda_mutants: {path} does not compile without the statement at {at}")
            said = place.verdict(args.orders)
        finally:
            file.write_text(original)
        killed += bool(said)
        line = original.count("\n", 0, at) + 1
        print(json.dumps({"file": str(path), "line": line, "removed": statement,
                          "killed": bool(said), "by": said}), flush=True)
    print(json.dumps({"mutants": len(chosen), "mutation_kill_rate": round(killed / len(chosen), 3)}))


if __name__ == "__main__":
    main()
