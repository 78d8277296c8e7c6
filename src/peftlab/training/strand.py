"""Code that runs until it asks for something, and goes on when it is answered: a coroutine that any function can be.

It is a thread, but never two of them run at once: the one that starts strands waits while a strand runs, and a strand waits while
it does. So code in strands needs no locks, and what it does is the same in every execution.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

#: seconds after which a handler has run at the latest of a signal that came just before the wait, or to a strand's thread:
#: Python runs handlers in the main thread alone, and the system does not wake that one for them
WOKEN_EVERY_S = 0.5


class Ended:
    """What a strand says last."""


class Strand:
    """``work`` is called with the strand, in a thread of its own; it asks by :meth:`ask`.

    What it raises is raised by :meth:`resume`.
    """

    def __init__(self, work: Callable[[Strand], None], name: str = "strand") -> None:
        self._answered, self._asked = threading.Semaphore(0), threading.Semaphore(0)
        self._request: Any = None
        self._answer: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[Strand], None]) -> None:
        self._answered.acquire()
        try:
            work(self)
        except BaseException as error:  # raised where the strand was told to go on
            self._error = error
        self._request = Ended()
        self._asked.release()

    def ask(self, request: Any) -> Any:
        """From within: hand ``request`` out and wait for the answer, which is raised if it is an exception."""
        self._request = request
        self._asked.release()
        self._answered.acquire()
        answer, self._answer = self._answer, None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def resume(self, answer: Any = None) -> Any:
        """From outside: let it go on, until it asks again or is :class:`Ended`; returns that."""
        self._answer = answer
        del answer
        self._answered.release()
        while not self._asked.acquire(timeout=WOKEN_EVERY_S):  # a strand may wait for what a signal's handler says
            pass
        request, self._request = self._request, None
        if isinstance(request, Ended) and self._error is not None:
            raise self._error
        return request
