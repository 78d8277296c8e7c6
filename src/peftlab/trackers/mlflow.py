"""MLflow: a SQLite store in the results folder, or a tracking server that the study names."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from peftlab.trackers.contract import MARK, Line, Notebook, Session, Status, TrackedRun, Tracker, alone, flat

_STATUS = {"completed": "FINISHED", "diverged": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_SPLITS = ("train", "validation", "final")
_MOST_PARAMETERS, _MOST_METRICS, _LONGEST = 100, 1000, 6000  # per request; characters of a value


class _Session(Session):
    def __init__(self, client: Any, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        histories = {split: client.get_metric_history(run_id, f"{split}/{MARK}") for split in _SPLITS}
        self.last = {split: max(point.step for point in points) for split, points in histories.items() if points}

    def log(self, lines: Sequence[Line]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, value, now, line.step) for line in lines for name, value in line.values.items()]
        for start in range(0, len(points), _MOST_METRICS):
            self.client.log_batch(self.run_id, metrics=points[start : start + _MOST_METRICS])

    def close(self, status: Status) -> None:
        self.client.set_tag(self.run_id, "status", status)
        self.client.set_terminated(self.run_id, _STATUS[status])


def _made(path: Path) -> str:
    """Address of the store. A new one takes seconds to make, and is not seen before it is whole."""
    from mlflow.tracking import MlflowClient

    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        MlflowClient(tracking_uri=f"sqlite:///{unfinished}").search_experiments(max_results=1)
        unfinished.rename(path)
    return f"sqlite:///{path}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MLflow(Tracker):
    """MLflow: an experiment per study, a run per run; its settings as parameters, its metrics with their steps.

    The store is ``trackers/mlflow.db`` in the results folder unless ``tracking_uri`` names a server, whose credentials MLflow
    takes from the environment. MLflow's own usage reports are switched off. Shown by
    ``mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///results/STUDY/trackers/mlflow.db`` of the full package mlflow.
    """

    name: ClassVar[str] = "mlflow"
    modules: ClassVar[tuple[str, ...]] = ("mlflow", "sqlalchemy", "alembic")
    citation: ClassVar[str] = """@article{zaharia2018accelerating,
  title = {Accelerating the Machine Learning Lifecycle with {MLflow}},
  author = {Zaharia, Matei and Chen, Andrew and Davidson, Aaron and others},
  journal = {IEEE Data Engineering Bulletin}, volume = {41}, number = {4}, pages = {39--45}, year = {2018}
}"""

    tracking_uri: str | None = None  #: a tracking server, ``http://127.0.0.1:5000``; none: the SQLite file in the results folder

    def open(self, run: TrackedRun) -> Session:
        """Finds the experiment and the run again, or makes them."""
        os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_LOGGING_LEVEL="WARNING")
        from mlflow.tracking import MlflowClient

        with alone(run.folder / self.name / "lock"):  # of several processes one makes store and experiment
            client = MlflowClient(tracking_uri=self.tracking_uri or _made(run.folder / "mlflow.db"))
            experiment_id = self._experiment(client, run)
        return _Session(client, self._run(client, run, experiment_id))

    def _experiment(self, client: Any, run: TrackedRun) -> str:
        found = client.get_experiment_by_name(run.config.study)
        if found is None:
            artifacts = None if self.tracking_uri else (run.folder / self.name / "artifacts").as_uri()
            return client.create_experiment(run.config.study, artifact_location=artifacts)
        if found.lifecycle_stage != "active":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _run(self, client: Any, run: TrackedRun, experiment_id: str) -> str:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        notebook = Notebook(run, self.name)
        if known := notebook.read().get("id"):
            try:
                client.update_run(known, status="RUNNING")
                return known
            except MlflowException:  # the store was deleted or replaced: a new run, from the journal's first line
                pass
        made = client.create_run(experiment_id, run_name=run.name("/"), tags=run.names()).info.run_id
        notebook.write({"id": made})
        settings = [Param(key, str(value)[:_LONGEST]) for key, value in flat(run.settings()).items()]
        for start in range(0, len(settings), _MOST_PARAMETERS):
            client.log_batch(made, params=settings[start : start + _MOST_PARAMETERS])
        return made
