"""The trials as Optuna keeps them: ``tuning/optuna.db`` (SQLite), one Optuna study per arm x backbone x task x fold.

The run folders are the truth about results. What the store alone knows are the values drawn, and they can be drawn again; so a
store that is lost is written anew, from the same draws and the same runs. Values that were drawn are kept even where a failed run
is tried again and would have led to others. Every change is one transaction, by whoever holds the lease.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from peftlab.errors import LeaseHeld, PeftlabError, RecordError
from peftlab.planning.search import Search, Values, shown
from peftlab.records.commit import disk_errors
from peftlab.records.lease import Lease
from peftlab.study.schema import Study
from peftlab.tuning.sampling import decoded, distributions, encoded, load_optuna, quiet

FILE = "tuning/optuna.db"
_PATIENCE_S = 60.0  #: waiting for another runner of the study to let go of the store

#: a trial: values, score (None: not ended), attributes
Entry = tuple[Values, float | None, dict[str, Any]]


def name_of(study: Study, search: Search) -> str:
    """Name of the Optuna study: the arm, and a hash of what is searched and how; what changes that is another search."""
    tune = study.tune
    assert tune is not None
    defined = [tune.sampler, shown(search.space), tune.seeds, study.analysis.metric, search.about]
    digest = hashlib.sha256(json.dumps(defined, sort_keys=True).encode()).hexdigest()[:8]
    label, backbone, task, fold = search.key
    return " | ".join((label, backbone, task, *([f"fold {fold}"] if fold else []), digest))


class Store:
    """The store of one results folder."""

    def __init__(self, folder: Path, study: Study, higher_is_better: bool) -> None:
        self.path, self.study = folder / FILE, study
        self.direction = "maximize" if higher_is_better else "minimize"

    def drawn(self, search: Search) -> list[Values]:
        """The values of every trial that was drawn for a search, as far as they are whole; none where there is no store.

        Raises:
            RecordError: the file cannot be read.
        """
        if not self.path.is_file():
            return []
        optuna, found = load_optuna(), []
        with self._errors(), quiet():
            storage = self._storage()
            try:
                for trial in optuna.load_study(study_name=name_of(self.study, search), storage=storage).trials:
                    if trial.distributions != distributions(search.space):
                        break
                    found.append(decoded(search.space, trial.params))
            except KeyError:  # no such study in the store
                return []
            finally:
                storage.engine.dispose()
        return found

    def write(self, trials: Sequence[tuple[Search, Sequence[Entry]]]) -> None:
        """Bring the store to these trials. Scores that are known are told; one that has changed is written anew.

        Raises:
            RecordError: the file cannot be read or written.
            LeaseHeld: another process has been writing for a minute.
        """
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lease(), self._errors(), quiet():
            storage = self._storage()
            try:
                for search, entries in trials:
                    self._write(storage, search, entries)
            finally:
                storage.engine.dispose()

    def _write(self, storage: Any, search: Search, entries: Sequence[Entry]) -> None:
        optuna, name = load_optuna(), name_of(self.study, search)
        study = self._study(storage, search, name)
        if not self._continues(study.trials, search, entries):
            optuna.delete_study(study_name=name, storage=storage)
            study = self._study(storage, search, name)
        known = study.trials
        for values, score, about in entries[len(known) :]:
            state = optuna.trial.TrialState.RUNNING if score is None else optuna.trial.TrialState.COMPLETE
            kinds, parameters = distributions(search.space), encoded(search.space, values)
            study.add_trial(
                optuna.trial.create_trial(state=state, value=score, params=parameters, distributions=kinds, user_attrs=about)
            )
        for trial, (_, score, about) in zip(known, entries, strict=False):
            if score is not None and not trial.state.is_finished():
                for key, value in about.items():
                    storage.set_trial_user_attr(trial._trial_id, key, value)
                study.tell(trial.number, score)

    def _continues(self, known: Sequence[Any], search: Search, entries: Sequence[Entry]) -> bool:
        """Whether the trials in the store are these, with the same scores or none yet."""
        return all(
            trial.params == encoded(search.space, values) and (not trial.state.is_finished() or trial.value == score)
            for trial, (values, score, _) in zip(known, entries, strict=False)
        )

    def _study(self, storage: Any, search: Search, name: str) -> Any:
        study = load_optuna().create_study(storage=storage, study_name=name, direction=self.direction, load_if_exists=True)
        about = {**search.as_dict(), "metric": self.study.analysis.metric}
        for key, value in about.items():
            if study.user_attrs.get(key) != value:
                study.set_user_attr(key, value)
        return study

    def _storage(self) -> Any:
        url, wait = f"sqlite:///{self.path}", {"connect_args": {"timeout": _PATIENCE_S}}
        return load_optuna().storages.RDBStorage(url, engine_kwargs=wait)

    @contextlib.contextmanager
    def _lease(self) -> Iterator[None]:
        lease, deadline = Lease(self.path.parent), time.monotonic() + _PATIENCE_S
        while True:
            try:
                lease.__enter__()
                break
            except LeaseHeld:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        try:
            yield
        finally:
            lease.__exit__()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What SQLite and Optuna raise, as an error that says what to do."""
        try:
            yield
        except (PeftlabError, KeyboardInterrupt):
            raise
        except Exception as error:  # classes of SQLAlchemy, Alembic and Optuna
            remedy = "move the file away and run again: the same trials are drawn, their runs reused, and the file is made anew"
            what = f"the store of the trials cannot be used: {str(error).strip().splitlines()[0][:200]}"
            raise RecordError(what, where=str(self.path), remedy=remedy) from error
