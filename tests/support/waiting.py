"""The one place where a test waits for a condition that no descriptor announces."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], *, timeout: float = 10.0, interval: float = 0.005, what: str = ""
) -> tuple[T, float]:
    """Return the first true value of `condition` and the seconds that it took.

    An OSError counts as "not yet". Raises AssertionError, with the last value or error, when the
    deadline passes.
    """
    start = time.monotonic()
    pause = growing_pause(interval)
    while True:
        try:
            value = condition()
            last: object = value
        except OSError as error:
            value, last = None, error  # type: ignore[assignment]
        seconds = time.monotonic() - start
        if value:
            return value, seconds
        if seconds > timeout:
            name = what or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"Not within {timeout} s: {name} (last: {last!r}).")
        pause()


def growing_pause(interval: float) -> Callable[[], None]:
    """Make the pause between two looks: short at first, so that a latency is measured well."""
    looks = 0

    def pause() -> None:
        nonlocal looks
        looks += 1
        time.sleep(interval / 10 if looks < 50 else interval)

    return pause
