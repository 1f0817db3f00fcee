"""What the user sees while it runs, on stderr: stdout is for results."""

import sys
import threading
import time

BAR_WIDTH = 30


def say(text: str) -> None:
    print(f"eval: {text}", file=sys.stderr, flush=True)


class Progress:
    """A bar on a terminal; elsewhere a line for every tenth. Threads may share it."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._tenths = 0
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            self._done += 1
            line = self.line(time.monotonic() - self._start)
            ended = self._done == self._total
            if sys.stderr.isatty():
                print(f"\r{line}", end="\n" if ended else "", file=sys.stderr, flush=True)
            elif self._done * 10 // self._total > self._tenths:
                self._tenths = self._done * 10 // self._total
                say(line)

    def line(self, seconds: float) -> str:
        filled = BAR_WIDTH * self._done // self._total
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        left = seconds / self._done * (self._total - self._done) if self._done else 0
        return f"{self._label} [{bar}] {self._done}/{self._total}, {left:.0f} s left  "
