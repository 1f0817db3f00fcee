"""The example clients, each in its own language: against a daemon, and against a server that is
full twice before it answers. A client whose tool chain is missing is skipped."""

import concurrent.futures
import os
import shutil
import subprocess
import sys
import time
import unittest
from pathlib import Path

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from programs import ROOT, Skimd, wait_until

CLIENTS = ROOT / "clients"
PROMPT = "The three primary colours are"


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise AssertionError(f"{command}: {done.stdout}{done.stderr}")


class Clients:
    """The command of each client that can be run here. What they need is built in a directory
    of its own that is kept between runs."""

    def __init__(self, names=("python", "node", "go")):
        self.directory = ROOT / "build/clients"
        self.commands = {}
        for name, tool in (("python", sys.executable), ("node", "npm"), ("go", "go")):
            if name in names and shutil.which(tool):
                self.commands[name] = getattr(self, name)()

    def copy(self, name: str) -> Path:
        """The client beside the protos, as in the source tree."""
        target = self.directory / "clients" / name
        shutil.copytree(CLIENTS / name, target, dirs_exist_ok=True)
        shutil.copytree(ROOT / "proto", self.directory / "proto", dirs_exist_ok=True)
        return target

    def python(self):
        target = self.copy("python")
        run(
            [sys.executable, "-m", "grpc_tools.protoc", "-I../../proto", "--python_out=."]
            + ["--grpc_python_out=.", "skim/v1/inference.proto"],
            cwd=target,
        )
        sys.path.insert(0, str(target))  # its messages serve the test, too
        return [sys.executable, target / "generate.py"]

    def node(self):
        target = self.copy("node")
        run(["npm", "install", "--no-audit", "--no-fund"], cwd=target)
        return ["node", target / "generate.js"]

    def go(self):
        target = self.copy("go")
        tools = self.directory / "go-bin"
        env = {**os.environ, "GOBIN": str(tools), "PATH": f"{tools}:{os.environ['PATH']}"}
        for tool in (
            "google.golang.org/protobuf/cmd/protoc-gen-go@v1.34.2",
            "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.4.0",
        ):
            if not (tools / tool.split("/")[-1].split("@")[0]).exists():
                run(["go", "install", tool], env=env)
        run(["go", "generate"], cwd=target, env=env)
        run(["go", "build", "-o", "client", "."], cwd=target, env=env)
        return [target / "client"]


class ClientsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.clients = Clients().commands
        cls.daemon = Skimd()
        cls.addClassCleanup(cls.daemon.kill)

    def run_client(self, name, server, *flags):
        command = [str(part) for part in (*self.clients[name], *flags, server, PROMPT)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def test_all_stream_the_same_text(self):
        texts = set()
        for name in self.clients:
            with self.subTest(name):
                done = self.run_client(name, self.daemon.grpc, "--max-tokens=20")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(done.stderr.strip(), "FINISH_REASON_LENGTH 20")
                texts.add(done.stdout)
        self.assertEqual(len(texts), 1)

    def test_cancelling_frees_the_pages(self):
        for name in self.clients:
            with self.subTest(name):
                begin = time.monotonic()
                done = self.run_client(
                    name, self.daemon.grpc, "--max-tokens=8000", "--cancel-after=5"
                )
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertLess(time.monotonic() - begin, 30)
                wait_until("idle", self.daemon.is_idle, 20)

    def test_a_deadline_ends_the_call(self):
        for name in self.clients:
            with self.subTest(name):
                done = self.run_client(
                    name, self.daemon.grpc, "--max-tokens=8000", "--timeout=1.5"
                )
                self.assertEqual(done.returncode, 1)
                code = done.stderr.strip().split(":")[0].replace("_", "").lower()
                self.assertEqual(code, "deadlineexceeded")
                wait_until("idle", self.daemon.is_idle, 20)

    def test_a_full_queue_is_waited_for_as_the_server_asks(self):
        from skim.v1 import inference_pb2, inference_pb2_grpc

        class FullTwice(inference_pb2_grpc.InferenceServicer):
            def __init__(self):
                self.times = []

            def Generate(self, request, context):
                self.times.append(time.monotonic())
                if len(self.times) < 3:
                    delay = error_details_pb2.RetryInfo()
                    delay.retry_delay.FromMilliseconds(300)
                    detail = any_pb2.Any()
                    detail.Pack(delay)
                    full = status_pb2.Status(code=8, message="the queue is full", details=[detail])
                    context.abort_with_status(rpc_status.to_status(full))
                yield inference_pb2.GenerateResponse(delta={"text": "at last", "token_ids": [1]})
                yield inference_pb2.GenerateResponse(
                    final={"finish_reason": "FINISH_REASON_STOP", "usage": {"generated_tokens": 1}}
                )

        for name in self.clients:
            with self.subTest(name):
                service = FullTwice()
                server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
                inference_pb2_grpc.add_InferenceServicer_to_server(service, server)
                port = server.add_insecure_port("127.0.0.1:0")
                server.start()
                done = self.run_client(name, f"127.0.0.1:{port}")
                server.stop(None)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(done.stdout, "at last")
                self.assertEqual(len(service.times), 3)
                for earlier, later in zip(service.times, service.times[1:]):
                    self.assertGreaterEqual(later - earlier, 0.29)


if __name__ == "__main__":
    unittest.main()
