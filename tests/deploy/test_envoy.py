"""Envoy with our configuration in front of two daemons."""

import re
import signal
import sys
import tempfile
import unittest
from pathlib import Path

from programs import BIN, ROOT, Program, Skimd, answered, free_port, get, wait_until


def envoy() -> Path:
    """The program inside the wheel."""
    return next(Path(p, "envoy/_bin/envoy") for p in sys.path if Path(p, "envoy/_bin/envoy").exists())


class EnvoyTest(unittest.TestCase):
    def start(self, *daemons: Skimd):
        self.daemons = daemons
        for daemon in self.daemons:
            self.addCleanup(daemon.kill)
        self.port = free_port()
        config = (ROOT / "deploy/envoy/envoy.yaml").read_text()
        for default, actual in (
            ("50051", self.daemons[0].grpc.split(":")[1]),
            ("50061", self.daemons[1].grpc.split(":")[1]),
            ("50050", str(self.port)),
        ):
            self.assertEqual(config.count(f"port_value: {default}"), 1)
            config = config.replace(f"port_value: {default}", f"port_value: {actual}")
        self.admin_port = free_port()
        socket = f"{{address: 127.0.0.1, port_value: {self.admin_port}}}"
        config += f"admin: {{address: {{socket_address: {socket}}}}}\n"
        file = tempfile.NamedTemporaryFile("w", suffix=".yaml")
        self.addCleanup(file.close)
        file.write(config)
        file.flush()
        self.envoy = Program([envoy(), "-c", file.name, "--concurrency", "1", "--log-level", "warn"])
        self.addCleanup(self.envoy.kill)
        # Nobody has reported anything.
        wait_until("equal weights", lambda: self.weights() == {"1"})
        wait_until("an answer", lambda: self.load("--requests", 1).process.wait(30) == 0)

    def load(self, *how_much, streams: int = 4) -> Program:
        program = Program(
            [BIN / "skim-load", "--server", f"127.0.0.1:{self.port}", "--json", "--timeout", "60"]
            + ["--concurrency", streams, "--prompt-tokens", "32", "--output-tokens", "40", *how_much]
        )
        self.addCleanup(program.kill)
        return program

    def weights(self) -> set[str]:
        clusters = get(f"http://127.0.0.1:{self.admin_port}/clusters").decode()
        return set(re.findall(r"::weight::(\d+)", clusters))

    def test_daemons_are_weighted_by_the_load_that_they_report(self):
        self.start(Skimd(), Skimd())
        load = self.load("--requests", 60)
        wait_until("weights", lambda: self.weights() != {"1"})
        self.assertEqual(load.process.wait(120), 0, load.output())

    def test_a_daemon_that_is_stopped_under_load_is_seen_by_no_client(self):
        self.start(Skimd(), Skimd())
        load = self.load("--requests", 30)

        def both_have_answered():
            return all(answered(daemon) >= 2 for daemon in self.daemons)

        wait_until("both daemons have answered", both_have_answered)
        self.daemons[0].process.send_signal(signal.SIGTERM)
        self.assertEqual(load.process.wait(60), 0, load.output())
        self.assertEqual(self.daemons[0].process.wait(60), 0)


if __name__ == "__main__":
    unittest.main()
