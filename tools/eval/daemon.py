"""A skimd to ask: one that runs already, or one that is started here and stopped at the end."""

import contextlib
import hashlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from eval.errors import EvalError
from first_line import NotReady, first_line

START_LIMIT_S = 180
STOP_LIMIT_S = 60


@contextlib.contextmanager
def started(skimd: Path, model: Path, arguments: Sequence[str]) -> Iterator[str]:
    """Its gRPC address."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        listen = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
        command = [str(skimd), "--model", str(model), *listen, *arguments]
        with log.open("wb") as stderr:
            try:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    start_new_session=True,
                )
            except OSError as error:
                raise EvalError(f"cannot start {skimd}: {error.strerror}; build it first") from error
        try:
            yield ready_address(_first_line(child, log))
        finally:
            child.terminate()
            try:
                child.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            child.stdout.close()


def _first_line(child: subprocess.Popen, log: Path) -> str:
    try:
        return first_line(child, START_LIMIT_S, "skimd")
    except NotReady as error:
        raise EvalError(f"{error}: {_last_line(log)}") from error


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def ready_address(line: str) -> str:
    """From "ready grpc=HOST:PORT metrics=HOST:PORT"."""
    words = dict(word.partition("=")[::2] for word in line.split()[1:])
    if not line.startswith("ready ") or "grpc" not in words:
        raise EvalError(f"skimd said '{line}' instead of its addresses")
    return words["grpc"]


def identity(skimd: Path, model: Path, arguments: Sequence[str]) -> list[str]:
    """What a result of this daemon depends on: its program, the model's files, its arguments but
    for the number of threads, which changes no reply."""
    try:
        program = hashlib.sha256(skimd.read_bytes()).hexdigest()
        files = sorted(path for path in model.iterdir() if path.is_file())
    except OSError as error:
        raise EvalError(f"{error.filename}: {error.strerror}; build skimd and make the model first")
    sizes = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    chosen = [argument for argument in arguments if not argument.startswith("--threads=")]
    return [program, *sizes, *chosen]
