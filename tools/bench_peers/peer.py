from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench_peers.works import Samples

VISIT_LIMIT_S = 400


@dataclass(frozen=True)
class Setup:
    """What every peer is told."""

    folder: Path  # for everything that is installed, built or converted
    threads: int
    jobs: int  # for compilers
    gguf: Path  # the packaged model
    skim_model: Path  # the same model, as Skim loads it
    vocabulary: int


class Peer(Protocol):
    name: str
    remark: str  # how it is set up, for the report

    def weights(self) -> tuple[str, ...]:
        """The formats it can be measured with."""

    def prepare(self, weights: str) -> str:
        """Installs and converts what is missing; returns its version. Raises BenchError."""

    def visit(self, weights: str, seed: int) -> Samples:
        """Starts it, does the work of works.py once, stops it. Raises BenchError, or NotServed."""
