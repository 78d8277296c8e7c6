"""``tuning/optuna.db``, read back with Optuna's own client."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest

from peftlab.errors import RecordError
from peftlab.planning.planner import Planner
from peftlab.planning.search import Key, Search
from peftlab.records.store import ResultsFolder, verify
from peftlab.study.schema import Study
from peftlab.tuning.search import follow
from peftlab.tuning.store import Entry, Store, name_of
from tests.tuning import studies
from tests.tuning.studies import fail, finish, outstanding


def client(folder: Path) -> dict[str, optuna.Study]:
    url = f"sqlite:///{folder / 'tuning' / 'optuna.db'}"
    return {name: optuna.load_study(study_name=name, storage=url) for name in optuna.get_all_study_names(url)}


def search(study: Study, label: str = "arm", fold: int = 0) -> Search:
    assert study.tune is not None
    return Search(
        key=Key(label, "backbone", "task", fold), space=study.tune.space, lacks=(), trials=12, seeds=(100, 101), about="x"
    )


def entries(number: int, told: int) -> list[Entry]:
    return [
        ({"learning_rate": 1e-3 * (i + 1) / 3, "adapter.rank": i % 8 + 1}, 0.1 * i if i < told else None, {"runs": [f"r{i}"]})
        for i in range(number)
    ]


def test_optuna_reads_back_what_was_drawn_and_reached(study: Study, planner: Planner, tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "tuned").open_or_create("study: tuned\n")
    progress = follow(folder, study, planner)
    store = Store(folder.path, study, progress.plan.higher_is_better)
    diverged = outstanding(folder, progress.plan)[3].run_id
    while left := outstanding(folder, progress.plan):
        store.write(progress.entries())
        for config in left:
            finish(folder, config, lambda c: None if c.run_id == diverged else studies.accuracy(c))
        progress = follow(folder, study, planner)
    store.write(progress.entries())
    theirs = client(folder.path)
    assert set(theirs) == {name_of(study, found) for found in progress.plan.searches}
    for found in progress.plan.searches:
        kept = theirs[name_of(study, found)]
        assert kept.direction == optuna.study.StudyDirection.MAXIMIZE and kept.user_attrs["label"] == found.key[0]
        assert [trial.number for trial in kept.trials] == list(range(12))
        for trial in kept.trials:
            runs = [run for run in progress.found if run.key == found.key and run.trial == trial.number]
            assert trial.params == dict(runs[0].values), "to the last bit"
            assert trial.user_attrs["runs"] == [run.run_id for run in runs] and trial.state == optuna.trial.TrialState.COMPLETE
            if any(run.value is None for run in runs):
                assert trial.value == -math.inf
            else:
                assert trial.value == pytest.approx(sum(run.value or 0.0 for run in runs) / 2)
        (chosen,) = [chosen for chosen in progress.chosen if chosen.key == found.key]
        assert kept.best_params == dict(chosen.values) and kept.best_value == pytest.approx(chosen.mean)
    assert verify(folder) == []


def test_a_store_is_continued_from_wherever_it_stopped(study: Study, tmp_path: Path) -> None:
    store, arm = Store(tmp_path, study, True), search(study)
    for number, told in ((3, 0), (3, 2), (7, 3), (7, 3), (12, 12)):
        store.write([(arm, entries(number, told))])
        (kept,) = client(tmp_path).values()
        assert [trial.value for trial in kept.trials] == [score for _, score, _ in entries(number, told)]
        assert store.drawn(arm) == [values for values, _, _ in entries(number, told)]
    assert store.drawn(search(study, "another")) == []


def test_another_search_of_the_same_arm_is_another_study(study: Study, backbone: str, tmp_path: Path) -> None:
    store, arm = Store(tmp_path, study, True), search(study)
    store.write([(arm, entries(4, 4))])
    other = studies.study(backbone, tune={**studies.TUNE, "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}})
    assert Store(tmp_path, other, True).drawn(search(other)) == []
    more = studies.study(backbone, tune={**studies.TUNE, "trials": 30})
    assert len(Store(tmp_path, more, True).drawn(search(more))) == 4, "more trials are the same search, continued"


def test_draws_are_kept_when_a_failed_run_is_tried_again(study: Study, planner: Planner, tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path)
    progress = follow(folder, study, planner)
    first = [config for config in outstanding(folder, progress.plan) if config.label == "full"]
    fail(folder, first[0])
    for config in first[1:]:
        finish(folder, config)
    before = follow(folder, study, planner)
    store = Store(folder.path, study, True)
    store.write(before.entries())
    folder.run(first[0]).clear_error()
    finish(folder, first[0], lambda _: 0.999)
    after = follow(folder, study, planner)

    def drawn(found: Any) -> list[Any]:
        return [run.config.tuned for run in found.plan.tuning if run.config and run.label == "full"]

    assert len(drawn(before)) == 2 * 10 and drawn(after) == drawn(before)
    store.write(after.entries())
    (kept,) = [kept for name, kept in client(tmp_path).items() if name.startswith("full")]
    assert kept.trials[0].value is not None and kept.trials[0].value > 0.9
    (tmp_path / "tuning" / "optuna.db").unlink()
    assert drawn(follow(folder, study, planner)) != drawn(before), "the store alone remembered them"


def test_two_writers_leave_every_trial_once(study: Study, tmp_path: Path) -> None:
    store, arm = Store(tmp_path, study, True), search(study)
    threads = [threading.Thread(target=store.write, args=([(arm, entries(8, 8))],)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (kept,) = client(tmp_path).values()
    assert [trial.number for trial in kept.trials] == list(range(8))


def test_a_damaged_store_is_an_error_that_says_how_it_is_made_anew(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "tuning" / "optuna.db"
    path.parent.mkdir()
    path.write_text("this is no database, and long enough to be looked at as one " * 20)
    for use in (lambda: Store(tmp_path, study, True).drawn(search(study)), lambda: Store(tmp_path, study, True).write([])):
        with pytest.raises(RecordError, match="the store of the trials") as caught:
            use()
        assert caught.value.where == str(path) and "move the file away" in caught.value.remedy


def test_folds_are_studies_of_their_own_and_the_first_has_the_name_it_always_had(study: Study) -> None:
    names = [name_of(study, search(study, fold=fold)) for fold in (0, 1, 2)]
    assert names[0].startswith("arm | backbone | task | ") and names[0].count("|") == 3
    assert [name.split(" | ")[3] for name in names[1:]] == ["fold 1", "fold 2"]


def test_a_grid_is_kept_too(backbone: str, cache: Path, tmp_path: Path) -> None:
    study = studies.study(backbone, tune={"learning_rate": [1e-3, 1e-2], "schedule": ["cosine", "linear"], "seeds": [100]})
    planner, folder = studies.planner(study, cache), ResultsFolder(tmp_path)
    for config in outstanding(folder, follow(folder, study, planner).plan):
        finish(folder, config)
    progress = follow(folder, study, planner)
    Store(tmp_path, study, True).write(progress.entries())
    for kept in client(tmp_path).values():
        assert [json.dumps(trial.params) for trial in kept.trials] == [
            json.dumps({"learning_rate": rate, "schedule": schedule})
            for rate in (1e-3, 1e-2)
            for schedule in ("cosine", "linear")
        ]
