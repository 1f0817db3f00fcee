#!/usr/bin/env python3
"""Two daemons, the SMG gateway and Prometheus on this machine, without containers, for a look.

    ./run up                      builds and fetches what is missing, then runs this
    ./run up --base-port 20000    ports from there on

OpenAI's API is at the first port. Where `grafana` is installed it runs too, with the dashboard.
Ctrl-C ends everything; the daemons drain first.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/SmolLM2-135M-Instruct"
HOST = "127.0.0.1"
PORTS = ("gateway", "prometheus", "grpc1", "grpc2", "worker1", "worker2")
PORTS += ("metrics1", "metrics2", "gateway_metrics", "grafana")


class Stack:
    def __init__(self, base: int, directory: Path):
        self.directory = directory
        self.port = {name: base + i for i, name in enumerate(PORTS)}
        self.programs: dict[str, subprocess.Popen] = {}

    def at(self, name: str) -> str:
        return f"{HOST}:{self.port[name]}"

    def start(self, name: str, command, ready_url: str, says: str = "", **popen):
        """Its output goes into a file; returns once it answers at `ready_url`, and says so."""
        with open(self.directory / f"{name}.log", "w") as log:
            self.programs[name] = subprocess.Popen(
                [str(part) for part in command], stdout=log, stderr=log, **popen
            )
        end = time.monotonic() + 120
        while True:
            if self.programs[name].poll() is not None or time.monotonic() > end:
                sys.exit(f"{name} does not start:\n" + (self.directory / f"{name}.log").read_text())
            try:
                with urllib.request.urlopen(ready_url, timeout=5) as answer:
                    if says in answer.read().decode():
                        return
            except OSError:
                pass
            time.sleep(0.2)

    def start_daemon(self, number: int):
        self.start(
            f"skimd{number}",
            [ROOT / "build/release/bin/skimd", "--model", MODEL, "--model-name", "smollm2"]
            + ["--listen", self.at(f"grpc{number}"), "--metrics", self.at(f"metrics{number}")]
            + ["--worker-listen", self.at(f"worker{number}"), "--threads", "1"]
            + ["--kv-cache", "512MiB", "--vllm-metrics"],
            f"http://{self.at(f'metrics{number}')}/metrics",
            # The page is there before the model is.
            says="skim_build_info",
        )

    def start_gateway(self):
        # The tokenizer comes from the daemons, not from a hub.
        self.start(
            "smg",
            [sys.executable, "-m", "smg", "launch", "--host", HOST, "--port", self.port["gateway"]]
            + ["--worker-urls", *(f"grpc://{self.at(f'worker{n}')}" for n in (1, 2))]
            + ["--prometheus-port", self.port["gateway_metrics"], "--policy", "cache_aware"]
            + ["--health-check-interval-secs", "5"],
            f"http://{self.at('gateway')}/readiness",
            cwd=self.directory,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )

    def start_prometheus(self):
        config = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
        targets = '", "'.join(self.at(f"metrics{n}") for n in (1, 2))
        config = config.replace("15s", "5s").replace(f"{HOST}:9090", targets)
        (self.directory / "prometheus.yml").write_text(config)
        shutil.copy(ROOT / "deploy/prometheus/skim.rules.yml", self.directory)
        self.start(
            "prometheus",
            [ROOT / "build/prometheus/bin/prometheus", "--config.file", self.directory / "prometheus.yml"]
            + ["--storage.tsdb.path", self.directory / "prometheus"]
            + ["--web.listen-address", self.at("prometheus")],
            f"http://{self.at('prometheus')}/-/ready",
        )

    def start_grafana(self):
        home = Path(os.environ.get("GRAFANA_HOME", "/usr/share/grafana"))
        provisioning = self.directory / "provisioning"
        for kind in ("datasources", "dashboards"):
            (provisioning / kind).mkdir(parents=True)
        (provisioning / "datasources/prometheus.yml").write_text(
            "datasources:\n  - {name: Prometheus, type: prometheus, isDefault: true, "
            f"url: 'http://{self.at('prometheus')}'}}\n"
        )
        (provisioning / "dashboards/skim.yml").write_text(
            f"providers:\n  - {{name: skim, options: {{path: {ROOT / 'deploy/grafana'}}}}}\n"
        )
        settings = {
            "PATHS_PROVISIONING": provisioning,
            "PATHS_DATA": self.directory / "grafana",
            "SERVER_HTTP_ADDR": HOST,
            "SERVER_HTTP_PORT": self.port["grafana"],
            "AUTH_ANONYMOUS_ENABLED": "true",
        }
        self.start(
            "grafana",
            ["grafana", "server", "--homepath", home],
            f"http://{self.at('grafana')}/api/health",
            env={**os.environ, **{f"GF_{k}": str(v) for k, v in settings.items()}},
        )

    def stop(self) -> bool:
        """From the outside in; whether every daemon drained."""
        for name in reversed(self.programs):
            self.programs[name].terminate()
        return all([p.wait() == 0 for name, p in self.programs.items() if name.startswith("skimd")])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base-port", type=int, default=30000, metavar="PORT")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="skim-up-") as directory:
        stack = Stack(arguments.base_port, Path(directory))
        try:
            stack.start_daemon(1)
            stack.start_daemon(2)
            stack.start_gateway()
            stack.start_prometheus()
            if shutil.which("grafana"):
                stack.start_grafana()
                print(f"Grafana      http://{stack.at('grafana')}/d/skim")
            print(f"Prometheus   http://{stack.at('prometheus')}")
            print(f"skim.v1      {stack.at('grpc1')} {stack.at('grpc2')}")
            print(f"OpenAI's API http://{stack.at('gateway')}/v1   (model smollm2)", flush=True)
            while all(program.poll() is None for program in stack.programs.values()):
                time.sleep(1)
            print("one of them has ended", file=sys.stderr)
            return 1
        finally:
            drained = stack.stop()
            print("drained" if drained else "a daemon did not drain", flush=True)


if __name__ == "__main__":
    sys.exit(main())
