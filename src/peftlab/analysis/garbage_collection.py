"""The garbage collector, kept from walking over records again and again."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

#: allocations before a look at generation 0, and looks at one generation before a look at the next (700, 10, 10 by default)
THRESHOLDS = (100_000, 20, 50)

_lock = threading.Lock()
_users = 0
_before = gc.get_threshold()


@contextlib.contextmanager
def few_collections() -> Iterator[None]:
    """Rare collections for work on thousands of records: trees that live to its end and hold nothing that only the collector
    frees.

    The thresholds are the process's: the first user sets them, the last one restores what was there, whatever the order in
    which threads come and go.
    """
    global _users, _before
    with _lock:
        if _users == 0:
            _before = gc.get_threshold()
            gc.set_threshold(*THRESHOLDS)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                gc.set_threshold(*_before)
