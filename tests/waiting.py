"""Wait for what will be true, with a bound; nothing sleeps for luck."""

import time


def wait_until(condition, seconds=30, wanted=lambda: "what was waited for"):
    """Return the first true result of `condition()`; fail with `wanted()` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {wanted()}")
        time.sleep(0.01)
