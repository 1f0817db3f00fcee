"""Running the peers' processes: at most one at a time, none left behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench_peers.errors import BenchError, NotServed
from first_line import NotReady
from first_line import first_line as read_first_line

LAST_WORDS = 3
STOP_LIMIT_S = 20


def say(text: str) -> None:
    print(f"bench peers: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def running(command: Sequence[object], log: Path, **options) -> Iterator[subprocess.Popen]:
    """Starts it in a process group of its own, with stderr to `log`; on leaving, the whole group
    is ended, whatever happened."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stderr:
        try:
            child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                **options,
            )
        except OSError as error:
            raise BenchError(f"cannot start {command[0]}: {error.strerror}") from error
    try:
        yield child
    finally:
        _end_group(child)
        child.stdout.close()


def _end_group(child: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=STOP_LIMIT_S)
            break


def output_of(
    command: Sequence[object], log: Path, limit_s: float, what: str | None = None, **options
) -> str:
    """Its stdout. `what` it is, for the error sentence."""
    what = what or Path(str(command[0])).name
    with running(command, log, **options) as child:
        try:
            out, _ = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{what} took more than {limit_s:.0f} s; {last_words(log)}") from error
    if child.returncode:
        # Compilers complain on stdout.
        with log.open("ab") as file:
            file.write(out)
        raise BenchError(f"{what} failed ({child.returncode}); {last_words(log)}")
    return out.decode(errors="replace")


def worker_output(command: Sequence[object], log: Path, limit_s: float, what: str) -> dict:
    """A worker (see worker.py) ends with one line of JSON, which may be an error."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    text = output_of(command, log, limit_s, what, env=environment)
    try:
        answer = json.loads(text.strip().rsplit("\n", 1)[-1])
    except json.JSONDecodeError as error:
        raise BenchError(f"{what} did not end with JSON; {last_words(log)}") from error
    if "not_served" in answer:
        raise NotServed(answer["not_served"])
    if "error" in answer:
        raise BenchError(answer["error"])
    return answer


def last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    quoted = " / ".join(line.strip() for line in lines[-LAST_WORDS:])
    return f"its last words (all in {log}): {quoted}" if quoted else f"it said nothing in {log}"


def first_line(child: subprocess.Popen, log: Path, limit_s: float, what: str) -> str:
    """Waits for the first line of its stdout."""
    try:
        return read_first_line(child, limit_s, what)
    except NotReady as error:
        raise BenchError(f"{error}; {last_words(log)}") from error
