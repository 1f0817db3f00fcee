"""OpenVINO GenAI's continuous batching pipeline, in a process of its own, without a network."""

from pathlib import Path

from bench_peers.gguf_files import gguf_file
from bench_peers.installs import pinned_version, python_environment
from bench_peers.peer import VISIT_LIMIT_S, Setup
from bench_peers.processes import output_of, say, worker_output
from bench_peers.works import Samples

REQUIREMENTS = "requirements-openvino.txt"
CONVERSION_LIMIT_S = 900
HERE = Path(__file__).resolve().parent


class OpenVinoPeer:
    name = "openvino"
    remark = (
        "GenAI's ContinuousBatchingPipeline, INFERENCE_PRECISION_HINT bf16, "
        "int8 compressed per channel by NNCF with the dynamic quantisation it chooses itself, "
        "bf16 KV, token ids in and out: no tokenizer and no transport are in its times"
    )

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def weights(self) -> tuple[str, ...]:
        return ("bf16", "int8")

    def prepare(self, weights: str) -> str:
        self._model(weights)
        return pinned_version(REQUIREMENTS, "openvino-genai")

    def visit(self, weights: str, seed: int) -> Samples:
        worker = [self._python(), "-m", "bench_peers.openvino_worker"]
        facts = [self._setup.threads, seed, self._setup.vocabulary]
        log = self._setup.folder / "logs" / f"openvino-{weights}.log"
        command = [*worker, self._model(weights), *facts]
        return worker_output(command, log, VISIT_LIMIT_S, "openvino")

    def _python(self) -> Path:
        return python_environment("openvino", REQUIREMENTS, self._setup.folder)

    def _model(self, weights: str) -> Path:
        # It reads no bf16 GGUF. From f16, told to compute in bf16, it makes bf16 again.
        source = gguf_file("f16", self._setup.gguf, self._setup.folder)
        if weights == "bf16":
            return source
        folder = self._setup.folder / "models" / f"{source.stem}.openvino-int8"
        done = folder / "openvino_model.xml"
        if done.exists() and done.stat().st_mtime > source.stat().st_mtime:
            return folder
        say(f"writing {folder.name}")
        log = self._setup.folder / "logs" / "openvino-compress.log"
        command = [self._python(), HERE / "openvino_compress.py", source, folder]
        output_of(command, log, CONVERSION_LIMIT_S, "compressing OpenVINO's weights")
        return folder
