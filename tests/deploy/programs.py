"""Programs that a test starts and is sure to end, and what it asks them."""

import json
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/SmolLM2-135M-Instruct"
BIN = ROOT / "build/release/bin"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(what: str, condition, timeout_s: float = 60):
    """The first true value of `condition`; an exception from it counts as not yet."""
    end = time.monotonic() + timeout_s
    last = None
    while time.monotonic() < end:
        try:
            value = condition()
            if value:
                return value
        except urllib.error.HTTPError as error:
            last = f"{error.code} {error.read().decode(errors='replace')}"
        except (OSError, ValueError, KeyError) as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {timeout_s} s ({last})")


class Program:
    """A child process with its output in a file. `stop` is called by the test's clean-up."""

    def __init__(self, arguments, **popen):
        self.log = tempfile.NamedTemporaryFile(prefix="skim-", suffix=".log")
        self.process = subprocess.Popen(
            [str(a) for a in arguments], stderr=self.log, stdout=popen.pop("stdout", self.log), **popen
        )

    def output(self) -> str:
        return Path(self.log.name).read_text(errors="replace")

    def stop(self, timeout_s: float = 60) -> int:
        """SIGTERM, then the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        return self.kill()

    def kill(self) -> int:
        self.process.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log.close()
        return self.process.wait()


class Skimd(Program):
    """skimd with the default model, on free ports, serving gateways too."""

    def __init__(self, *arguments, port: int = 0, worker_port: int = 0):
        super().__init__(
            [BIN / "skimd", "--model", MODEL, "--model-name", "smollm2", "--kv-cache", "256MiB"]
            + ["--listen", f"127.0.0.1:{port}", "--metrics", "127.0.0.1:0"]
            + ["--worker-listen", f"127.0.0.1:{worker_port}", "--threads", "1", *arguments],
            stdout=subprocess.PIPE,
        )
        line = self.process.stdout.readline().decode()
        ready = re.fullmatch(r"ready grpc=(\S+) metrics=(\S+)((?: worker=\S+)+)\n", line)
        if not ready:
            raise AssertionError(f"skimd does not serve: {self.output()}")
        self.grpc, self.metrics_address, workers = ready.groups()
        # As "HOST:PORT" or "HOST:PORT/SAVINGS".
        self.workers = [word.removeprefix("worker=") for word in workers.split()]
        self.worker = self.workers[0]

    def metrics(self) -> dict[str, float]:
        """Sample (with its labels) -> value."""
        text = urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=60).read()
        samples = {}
        for line in text.decode().splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def is_idle(self) -> bool:
        now = self.metrics()
        return (
            now["skim_requests_running"] == 0
            and now["skim_requests_waiting"] == 0
            and now['skim_kv_pages{state="owned"}'] == 0
        )


def get(url: str, timeout_s: float = 30) -> bytes:
    return urllib.request.urlopen(url, timeout=timeout_s).read()


def post(url: str, body: dict, timeout_s: float = 120) -> dict:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        return json.load(response)


def answered(daemon: Skimd) -> float:
    """Requests that got all tokens they asked for."""
    return daemon.metrics()['skim_requests_finished_total{reason="length"}']
