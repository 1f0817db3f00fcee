#!/usr/bin/env python3
"""The bundle for a machine with a GPU on the simulated one: it passes there, times nothing, and
fails where there is no device."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

BUILD, PRELOAD = sys.argv.pop(1), sys.argv.pop(1)
HERE = Path(__file__).resolve().parent


class Bundle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.bundle = Path(cls.folder.name) / "bundle"
        subprocess.run([HERE / "bundle.sh", BUILD, cls.bundle], check=True)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def check(self, **environment: str) -> tuple[int, list[dict]]:
        done = subprocess.run(
            [self.bundle / "gpu_check.sh", "--tiny"],
            env=os.environ | {"LD_PRELOAD": PRELOAD, "TMPDIR": self.folder.name} | environment,
            stdout=subprocess.PIPE, text=True,
        )
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    def test_passes_on_the_simulated_device_and_times_nothing(self):
        code, lines = self.check()
        said = "\n".join(map(str, lines))
        self.assertEqual(code, 0, said)
        names = {line["name"] for line in lines}
        self.assertLessEqual(
            {"device", "op_suite", "engine_parity", "roof_copy", "roof_product", "linear", "attention",
             "prefill", "decode", "tokens_do_not_depend_on_the_batch",
             "tokens_do_not_depend_on_graphs"}, names, said)
        for line in lines:
            self.assertTrue(line.get("passed", True), line)
            if "device" in line:
                self.assertEqual(line["device"], "ptxsim")
                self.assertTrue(line["emulated"])
            self.assertIsNone(line.get("value"), line)
            for name in ("share_of_copy", "share_of_product"):
                self.assertIsNone(line["params"].get(name), line)
        products = [line["params"] for line in lines if line["name"] == "linear"]
        formats = {by: {p["format"] for p in products if p["by"] == by} for by in ("own", "cublaslt")}
        self.assertEqual(formats["own"], {"bf16", "fp8", "int8", "int4"})
        self.assertEqual(formats["cublaslt"], {"bf16", "fp8", "int8"})

    def test_fails_without_a_device_and_runs_nothing(self):
        code, lines = self.check(PTXSIM_NO_DEVICE="1")
        self.assertEqual(code, 1)
        self.assertEqual([(line["name"], line["passed"]) for line in lines], [("device", False)])


if __name__ == "__main__":
    unittest.main()
