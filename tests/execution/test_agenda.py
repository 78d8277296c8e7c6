"""The book of an execution: what is to do, what is left for last, what is retried, and what is told of every run."""

from __future__ import annotations

import signal

import pytest

from peftlab.errors import RecordError
from peftlab.execution.agenda import Agenda, key_of
from peftlab.execution.outcome import Ending, Outcome
from peftlab.execution.progress import NullListener
from peftlab.records.record import RunConfig, RunError
from peftlab.records.run_folder import CONFIG, ERROR, METRICS, RESULTS, RunFolder
from peftlab.records.store import ResultsFolder
from tests.execution.targets import configuration, results

FIRST, SECOND = configuration(0), configuration(1)
#: another arm whose runs have the ids of the first
TWIN = FIRST.model_copy(update={"arm": "twin", "label": "twin", "slug": "twin"})


class Recorder(NullListener):
    def __init__(self) -> None:
        self.told: list[Ending] = []
        self.closed: list[Outcome] = []

    def ended(self, ending: Ending) -> None:
        self.told.append(ending)

    def close(self, outcome: Outcome) -> None:
        self.closed.append(outcome)


def agenda(folder: ResultsFolder, *configs: RunConfig, retry_failed: bool = False) -> Agenda:
    return Agenda(folder, configs, Recorder(), retry_failed=retry_failed)


def failed(folder: ResultsFolder, config: RunConfig, what: str = "before") -> RunFolder:
    run = folder.run(config).create(config)
    run.fail(RunError(run_id=run.run_id, error={"type": "NonFinite", "what": what, "where": "", "remedy": ""}))
    return run


def finished(folder: ResultsFolder, config: RunConfig, **more: str) -> RunFolder:
    run = folder.run(config).create(config)
    run.finish(results(run.run_id, **more))
    return run


def how(book: Agenda) -> list[str]:
    return [ending.how for ending in book.endings]


def test_a_run_is_known_by_purpose_arm_and_id() -> None:
    tuning = FIRST.model_copy(update={"purpose": "tuning"})
    assert key_of(FIRST) == f"evaluation/arm/{FIRST.run_id}"
    assert TWIN.run_id == FIRST.run_id and len({key_of(config) for config in (FIRST, TWIN, SECOND, tuning)}) == 4


def test_every_run_is_queued_once_in_the_order_given(results_folder: ResultsFolder) -> None:
    book = agenda(results_folder, SECOND, FIRST, SECOND, TWIN, FIRST)
    assert list(book.queue) == list(book.configs.values()) == [SECOND, FIRST, TWIN]
    assert list(book.configs) == [key_of(config) for config in (SECOND, FIRST, TWIN)]
    assert book.left and not agenda(results_folder).left


def test_where_a_run_stands(results_folder: ResultsFolder) -> None:
    book = agenda(results_folder, FIRST)
    run = results_folder.run(FIRST)
    assert book.standing(FIRST, run) == "open"
    with run.create(FIRST).lease():
        assert book.standing(FIRST, run) == "leased"
    (run.path / METRICS).touch()
    assert book.standing(FIRST, run) == "open", "interrupted"
    assert book.standing(FIRST, failed(results_folder, FIRST)) == "ended"
    assert book.standing(SECOND, finished(results_folder, SECOND)) == "ended"


def test_only_the_error_of_the_beginning_is_retried(results_folder: ResultsFolder) -> None:
    run = failed(results_folder, FIRST)
    again, once = (agenda(results_folder, FIRST, SECOND, retry_failed=retry) for retry in (True, False))
    assert again.to_retry(FIRST, run) and again.standing(FIRST, run) == "open"
    assert not once.to_retry(FIRST, run) and once.standing(FIRST, run) == "ended"
    failed(results_folder, FIRST, "another runner tried again")
    assert not again.to_retry(FIRST, run) and again.standing(FIRST, run) == "ended"
    later = failed(results_folder, SECOND)
    assert not again.to_retry(SECOND, later) and again.standing(SECOND, later) == "ended", "it had not failed then"


def test_arms_of_equal_configuration_are_retried_each_for_its_own_error(results_folder: ResultsFolder) -> None:
    first, twin = failed(results_folder, FIRST, "of one arm"), failed(results_folder, TWIN, "of the other")
    both = agenda(results_folder, FIRST, TWIN, retry_failed=True)
    assert both.to_retry(FIRST, first) and both.to_retry(TWIN, twin)
    assert set(both.retry) == {key_of(FIRST), key_of(TWIN)} and both.retry[key_of(FIRST)] != both.retry[key_of(TWIN)]


def test_what_may_be_retried_needs_a_place_in_the_folder(results_folder: ResultsFolder) -> None:
    outside = FIRST.model_copy(update={"slug": "../outside"})
    with pytest.raises(RecordError, match="no safe folder name"):
        agenda(results_folder, outside, retry_failed=True)


def test_a_leased_run_is_left_for_last_and_looked_at_once_more(results_folder: ResultsFolder) -> None:
    book = agenda(results_folder, FIRST, SECOND)
    book.defer(book.queue.popleft(), "somebody")
    book.take_deferred()
    assert list(book.queue) == [SECOND] and list(book.deferred) == [FIRST] and not book.final, "others are still queued"
    book.queue.clear()
    assert book.left and not how(book)
    book.take_deferred()
    assert list(book.queue) == [FIRST] and not book.deferred and book.final
    book.defer(book.queue.popleft(), "somebody else")
    assert book.endings == [Ending(FIRST, "leased", "somebody else")] and not book.left


def test_nothing_that_was_left_for_last_is_no_last_look(results_folder: ResultsFolder) -> None:
    book = agenda(results_folder)
    book.take_deferred()
    assert not book.final


def test_the_first_signal_is_the_reason_of_a_stop_after_which_nothing_is_left_for_later(results_folder: ResultsFolder) -> None:
    book = agenda(results_folder, FIRST, SECOND)
    assert book.stop is None
    assert not book.ask_to_stop(signal.SIGTERM)
    assert book.ask_to_stop(signal.SIGINT)
    assert book.stop == signal.SIGTERM and book.queue and not book.left
    book.defer(FIRST, "somebody")
    assert how(book) == ["leased"] and not book.deferred


def test_a_run_ends_with_the_record_that_it_has(results_folder: ResultsFolder) -> None:
    other = configuration(2)
    book = agenda(results_folder, FIRST, SECOND, other)
    book.end_as_found(FIRST, failed(results_folder, FIRST, "too hot"))
    book.end_as_found(SECOND, finished(results_folder, SECOND, status="diverged"))
    book.end_as_found(other, results_folder.run(other))
    assert [(ending.how, ending.detail, ending.error.get("what")) for ending in book.endings] == [
        ("failed-before", "", "too hot"), ("reused", "diverged", None), ("failed-before", "", None),
    ]  # fmt: skip


@pytest.mark.parametrize("name", [RESULTS, ERROR])
def test_a_record_that_cannot_be_read_ends_its_run_alone(results_folder: ResultsFolder, name: str) -> None:
    book = agenda(results_folder, FIRST)
    run = results_folder.run(FIRST).create(FIRST)
    (run.path / name).write_text("{ half")
    assert (run.path / CONFIG).exists() and book.standing(FIRST, run) == "ended"
    book.end_as_found(FIRST, run)
    assert how(book) == ["failed-before"]
    assert book.endings[0].error["type"] == "RecordError" and book.endings[0].error["where"].endswith(name)


def test_every_ending_is_told_and_counted_in_the_outcome(results_folder: ResultsFolder) -> None:
    told = Recorder()
    book = Agenda(results_folder, iter([FIRST, SECOND]), told)
    endings = [Ending(FIRST, "finished", time_s=1.0), Ending(SECOND, "interrupted")]
    for ending in endings:
        book.end(ending)
    book.ask_to_stop(signal.SIGINT)
    assert book.close() == Outcome(tuple(endings), signal.SIGINT)
    assert told.told == endings and told.closed == [Outcome(tuple(endings), signal.SIGINT)]
