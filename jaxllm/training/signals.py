"""SIGTERM and Ctrl-C as something to ask about, between two steps."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGTERM or Ctrl-C into a request; a second one acts at once.

    Gives a function that tells whether there was one. Python delivers signals to the
    main thread; in any other, nothing is changed, and nothing is ever asked.

    >>> with stop_asked() as asked:
    ...     before = asked()
    ...     signal.raise_signal(signal.SIGTERM)
    ...     before, asked()
    (False, True)
    """
    requests: list[int] = []
    handlers: dict[int, Any] = {}

    def give_back() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        requests.append(number)
        give_back()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            handlers[number] = signal.signal(number, note)
    try:
        yield lambda: bool(requests)
    finally:
        give_back()
