"""gRPC load balancing without a gateway: a client's own policy over two daemons, which follows the
load reports, and nginx with our configuration."""

import os
import shutil
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

from programs import BIN, ROOT, Program, Skimd, answered, free_port, wait_until
from test_clients import Clients

NGINX = ROOT / "build/nginx/sbin/nginx"


@unittest.skipUnless(shutil.which("npm"), "npm is not installed")
class WeightedRoundRobinTest(unittest.TestCase):
    """grpc-js, of which the clients' example is made."""

    @classmethod
    def setUpClass(cls):
        cls.modules = Clients(["node"]).directory / "clients/node/node_modules"
        # The same model; the second daemon reads more bytes for it and takes longer over each.
        cls.daemons = [
            Skimd("--max-running", "8", "--weights", "int4"),
            Skimd("--max-running", "8", "--weights", "bf16", "--isa", "avx2"),
        ]
        for daemon in cls.daemons:
            cls.addClassCleanup(daemon.kill)

    def shares(self, policy: str, seconds: int) -> list[float]:
        """Of each daemon, of what was answered in the second half of the time."""
        load = Program(
            ["node", ROOT / "tests/deploy/balanced_load.js", policy, seconds, 8]
            + [daemon.grpc for daemon in self.daemons],
            env={**os.environ, "NODE_PATH": str(self.modules)},
        )
        self.addCleanup(load.kill)
        begun = [answered(daemon) for daemon in self.daemons]
        wait_until("both answer", lambda: all(
            answered(daemon) > then for daemon, then in zip(self.daemons, begun)))
        try:
            load.process.wait(seconds / 2)
        except subprocess.TimeoutExpired:
            pass
        half = [answered(daemon) for daemon in self.daemons]
        self.assertEqual(load.process.wait(120), 0, load.output())
        ended = [answered(daemon) - then for daemon, then in zip(self.daemons, half)]
        return [value / sum(ended) for value in ended]

    def test_load_follows_speed_where_plain_turns_do_not(self):
        turns = self.shares("round_robin", 10)[0]
        weighted = self.shares("weighted_round_robin", 24)[0]
        self.assertLess(turns, 0.6)
        self.assertGreater(weighted, turns + 0.1)


@unittest.skipUnless(NGINX.exists(), "nginx is not here; `./run test` fetches it")
class NginxTest(unittest.TestCase):
    def setUp(self):
        self.daemons = [Skimd() for _ in range(2)]
        for daemon in self.daemons:
            self.addCleanup(daemon.kill)
        self.port = free_port()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        config = (ROOT / "deploy/nginx/nginx.conf").read_text()
        for default, actual in (
            ("127.0.0.1:50051", self.daemons[0].grpc),
            ("127.0.0.1:50061", self.daemons[1].grpc),
            ("0.0.0.0:50050", f"127.0.0.1:{self.port}"),
            ("/tmp/skim-nginx.pid", f"{directory.name}/pid"),
        ):
            self.assertEqual(config.count(default), 1)
            config = config.replace(default, actual)
        # Where it would buffer, if it did; its package's folders are not on this machine.
        folders = "".join(
            f"{kind}_temp_path {directory.name}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        Path(directory.name, "nginx.conf").write_text(config.replace("http {\n", "http {\n" + folders))
        self.nginx = Program(
            [NGINX, "-p", directory.name, "-c", f"{directory.name}/nginx.conf", "-g", "daemon off;"]
        )
        self.addCleanup(self.nginx.stop)
        wait_until("an answer", lambda: self.load(1).process.wait(30) == 0)

    def load(self, requests: int) -> Program:
        program = Program(
            [BIN / "skim-load", "--server", f"127.0.0.1:{self.port}", "--json", "--timeout", "60"]
            + ["--concurrency", "4", "--requests", requests, "--prompt-tokens", "32"]
            + ["--output-tokens", "24"]
        )
        self.addCleanup(program.kill)
        return program

    def test_both_daemons_answer_and_one_does_alone_where_the_other_is_gone(self):
        load = self.load(12)
        self.assertEqual(load.process.wait(120), 0, load.output())
        for daemon in self.daemons:
            self.assertGreaterEqual(answered(daemon), 3)
        self.daemons[0].process.send_signal(signal.SIGTERM)
        self.assertEqual(self.daemons[0].process.wait(60), 0)
        load = self.load(8)
        self.assertEqual(load.process.wait(120), 0, load.output())


if __name__ == "__main__":
    unittest.main()
