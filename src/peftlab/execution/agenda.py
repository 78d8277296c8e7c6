"""The book that an execution keeps, on whatever engine: runs still to do, runs left for last, and what became of the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Literal

from peftlab.errors import RecordError
from peftlab.execution.child import error_hash
from peftlab.execution.outcome import Ending, Outcome
from peftlab.execution.progress import Listener
from peftlab.records.record import RunConfig
from peftlab.records.store import ResultsFolder, RunFolder

#: ended: done, or failed and not to be retried; leased: somebody works on it now; open: to be started
Standing = Literal["ended", "leased", "open"]


def key_of(config: RunConfig) -> str:
    """By which a run is known on all machines. Its id alone is not enough: arms of equal configuration share it."""
    return f"{config.purpose}/{config.slug}/{config.run_id}"


class Agenda:
    """The runs of one execution, each once. Whoever executes takes from ``queue`` and says here what came of it.

    Args:
        folder: where the runs live.
        configs: the runs, in the order in which they are begun.
        listener: is told of every ending.
        retry_failed: also run what has failed by now (what fails from now on is not retried).

    Raises:
        RecordError: with ``retry_failed``, a run has no place in the folder (:meth:`ResultsFolder.run`).
    """

    def __init__(
        self, folder: ResultsFolder, configs: Iterable[RunConfig], listener: Listener, *, retry_failed: bool = False
    ) -> None:
        self.listener = listener
        self.configs = {key_of(config): config for config in configs}
        self.queue = deque(self.configs.values())
        self.deferred: deque[RunConfig] = deque()  #: leased by another process when their turn came
        self.final = False  #: the deferred ones are being looked at for the last time
        self.endings: list[Ending] = []
        self.stop: int | None = None  #: the signal that asked us to stop
        known = {key: error_hash(folder.run(config)) for key, config in self.configs.items()} if retry_failed else {}
        self.retry = {key: found for key, found in known.items() if found}  #: SHA-256 of the errors that may be retried

    @property
    def left(self) -> bool:
        """Whether a run is still to be begun."""
        return self.stop is None and bool(self.queue or self.deferred)

    def standing(self, config: RunConfig, run: RunFolder) -> Standing:
        """Where a run stands, from one look at its folder."""
        status = run.status()
        if status == "finished" or (status == "failed" and not self.to_retry(config, run)):
            return "ended"
        return "leased" if status == "running" else "open"

    def to_retry(self, config: RunConfig, run: RunFolder) -> bool:
        """Only the error that was there at the beginning: another runner may have tried again since."""
        found = self.retry.get(key_of(config))
        return found is not None and found == error_hash(run)

    def defer(self, config: RunConfig, by: str) -> None:
        """Leave a run that another process works on until all else is done; then, and after a stop, it ends as ``leased``.

        Args:
            by: who works on it, as far as is known.
        """
        if self.final or self.stop is not None:
            self.end(Ending(config, "leased", by))
        else:
            self.deferred.append(config)

    def take_deferred(self) -> None:
        """Queue the deferred runs, for the last time. Does nothing while others are queued."""
        if not self.queue and self.deferred:
            self.queue, self.deferred, self.final = self.deferred, deque(), True

    def end(self, ending: Ending) -> None:
        """Note what became of a run, and tell."""
        self.endings.append(ending)
        self.listener.ended(ending)

    def end_as_found(self, config: RunConfig, run: RunFolder) -> None:
        """End a run with the record that it has from before, or from another process."""
        try:
            results, failure = run.results(), run.error()
        except RecordError as error:  # one record that cannot be read is no reason to leave the other runs undone
            return self.end(Ending(config, "failed-before", error=error.as_json()))
        if results is not None:
            return self.end(Ending(config, "reused", results.status))
        return self.end(Ending(config, "failed-before", error=dict(failure.error) if failure else {}))

    def ask_to_stop(self, number: int) -> bool:
        """Begin nothing any more, because of the signal ``number``; whether one had asked before, which stays the reason."""
        again = self.stop is not None
        if not again:
            self.stop = number
        return again

    def close(self) -> Outcome:
        """What became of all runs; the listener is told."""
        outcome = Outcome(tuple(self.endings), self.stop)
        self.listener.close(outcome)
        return outcome
