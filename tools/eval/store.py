"""Results on disk, so that an interrupted run goes on where it was: one line of JSON each, found
by the hash of everything they depend on."""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eval.progress import Progress

Value = dict[str, object]


def key_of(*facts: object) -> str:
    """`facts` are what JSON can hold."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """Threads may share it; processes may not."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._values: dict[str, Value] = {}
        if path.exists():
            self._values = dict(_read(path))
        self._file = path.open("a", encoding="utf-8")
        # What an interrupted write left must not swallow the next line.
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self._file.write("\n")

    def get(self, key: str) -> Value | None:
        return self._values.get(key)

    def put(self, key: str, value: Value) -> None:
        with self._lock:
            self._values[key] = value
            self._file.write(json.dumps({"key": key, "value": value}) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def _read(path: Path):
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            yield row["key"], row["value"]
        except (ValueError, KeyError, TypeError):
            continue  # the half line of an interrupted run


Job = tuple[str, Callable[[], Value]]


def run_all(jobs: Sequence[Job], store: Store, in_flight: int, label: str) -> list[Value]:
    """The values of all jobs, in their order; those not in the store are computed, `in_flight`
    at once. The first failure ends it: what was computed stays in the store."""
    missing = {key: job for key, job in jobs if store.get(key) is None}
    if missing:
        progress = Progress(label, len(missing))

        def compute(entry: Job) -> None:
            key, job = entry
            store.put(key, job())
            progress.step()

        pool = ThreadPoolExecutor(in_flight)
        try:
            for _ in pool.map(compute, missing.items()):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
    return [store.get(key) for key, _ in jobs]
