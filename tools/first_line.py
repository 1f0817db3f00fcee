"""The first line that a process of ours prints, which tells that it is ready."""

import os
import subprocess
import time


class NotReady(Exception):
    """It ended, or the time is up; the message begins with what it is."""


def first_line(child: subprocess.Popen, limit_s: float, what: str) -> str:
    """Of its standard output, a pipe."""
    os.set_blocking(child.stdout.fileno(), False)
    deadline = time.monotonic() + limit_s
    text = b""
    while b"\n" not in text:
        if child.poll() is not None:
            raise NotReady(f"{what} ended while starting")
        if time.monotonic() > deadline:
            raise NotReady(f"{what} was not ready after {limit_s:.0f} s")
        text += child.stdout.read() or b""
        time.sleep(0.05)
    return text.split(b"\n", 1)[0].decode(errors="replace")
