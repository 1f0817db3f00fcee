"""Skim itself: the daemon, and a gRPC client on the same machine."""

from pathlib import Path

from bench_peers.errors import BenchError
from bench_peers.installs import python_environment
from bench_peers.peer import VISIT_LIMIT_S, Setup
from bench_peers.processes import first_line, output_of, running, worker_output
from bench_peers.results import OURSELVES
from bench_peers.works import Samples

REQUIREMENTS = "requirements.txt"
START_LIMIT_S = 120
PROTO = Path("skim/v1/inference.proto")


class SkimPeer:
    name = OURSELVES
    remark = (
        "skimd over gRPC on this machine, by a Python client: transport and client are in its "
        "times; token ids in and out"
    )

    def __init__(self, setup: Setup, skimd: Path, protos: Path, arguments: list[str]) -> None:
        self._setup = setup
        self._skimd = skimd
        self._protos = protos
        self._arguments = arguments

    def weights(self) -> tuple[str, ...]:
        return ("bf16", "fp8", "int8", "int4")

    def prepare(self, weights: str) -> str:
        self._stubs()
        log = self._setup.folder / "logs" / "skimd-version.log"
        said = output_of([self._skimd, "--version"], log, START_LIMIT_S, "skimd")
        return said.strip().removeprefix("skimd ")

    def visit(self, weights: str, seed: int) -> Samples:
        logs = self._setup.folder / "logs"
        with running(self.daemon(weights), logs / "skimd.log") as child:
            address = ready_address(first_line(child, logs / "skimd.log", START_LIMIT_S, "skimd"))
            worker = [self._python(), "-m", "bench_peers.skim_worker", self._stubs()]
            command = [*worker, address, weights, seed]
            return worker_output(command, logs / "skim-client.log", VISIT_LIMIT_S, "skim's client")

    def daemon(self, weights: str) -> list[object]:
        """Its command: only the weights that are measured are held."""
        return [
            *(self._skimd, "--model", self._setup.skim_model, "--threads", self._setup.threads),
            *("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--no-prefix-cache"),
            *("--weights", weights),
            *self._arguments,
        ]

    def _python(self) -> Path:
        return python_environment("client", REQUIREMENTS, self._setup.folder)

    def _stubs(self) -> Path:
        """The folder of the generated client."""
        out = self._setup.folder / "stubs"
        made = out / PROTO.with_name(PROTO.stem + "_pb2_grpc.py")
        if made.exists() and made.stat().st_mtime > (self._protos / PROTO).stat().st_mtime:
            return out
        out.mkdir(parents=True, exist_ok=True)
        outputs = [f"-I{self._protos}", f"--python_out={out}", f"--grpc_python_out={out}"]
        command = [self._python(), "-m", "grpc_tools.protoc", *outputs, self._protos / PROTO]
        output_of(command, self._setup.folder / "logs" / "protoc.log", START_LIMIT_S, "protoc")
        return out


def ready_address(line: str) -> str:
    """From "ready grpc=HOST:PORT metrics=HOST:PORT"."""
    words = dict(word.partition("=")[::2] for word in line.split()[1:])
    if not line.startswith("ready ") or "grpc" not in words:
        raise BenchError(f"skimd said '{line}' instead of its addresses")
    return words["grpc"]
