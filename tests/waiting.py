"""Waits of the unit tests: each has a condition and a deadline."""

import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], what: str, deadline: float = 30) -> None:
    """Wait until the condition holds; past the deadline (seconds) the test fails and says what was waited for."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        # nobody tells: what is waited for goes on in other processes
        time.sleep(0.05)
