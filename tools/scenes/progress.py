"""A progress line."""

from __future__ import annotations

import time
from typing import TextIO


class Progress:
    """Counts on one line of a terminal; stays quiet where the stream is a file or a pipe.

    Args:
        stream: where the line goes.
        interval: least seconds between two updates.
    """

    def __init__(self, stream: TextIO, interval: float = 0.1) -> None:
        """Starts the clock."""
        self._stream = stream
        self._interval = interval
        self._start = time.monotonic()
        self._next = self._start

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def update(self, done: int, total: int) -> None:
        """Shows how far it is, and how long the rest will take at this pace."""
        now = time.monotonic()
        if not self._stream.isatty() or (now < self._next and done < total):
            return
        self._next = now + self._interval
        left = (now - self._start) / done * (total - done)
        bar = ("#" * (30 * done // total)).ljust(30, ".")
        end = "\n" if done == total else ""
        self._stream.write(f"\r{bar} {done}/{total} scenes, {left:.0f} s left {end}")
        self._stream.flush()
