"""The stores of the trackers, read back with their own clients (of W&B: its own messages; it has no reader of local files)."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Points = Mapping[str, list[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Stored:
    """One run in a store: metric -> (step, value), as often as it is there."""

    name: str
    group: str
    settings: Mapping[str, Any]
    points: Points
    status: str
    more: Mapping[str, Any] = field(default_factory=dict)


def mlflow_client(uri: str) -> Any:
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_LOGGING_LEVEL="WARNING")
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def mlflow_runs(store: Path) -> list[Stored]:
    client = mlflow_client(f"sqlite:///{store / 'mlflow.db'}")
    found = []
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]):
            histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
            points = {name: [(point.step, point.value) for point in history] for name, history in histories.items()}
            more = {"tags": run.data.tags, "artifacts": experiment.artifact_location, "id": run.info.run_id}
            found.append(Stored(run.info.run_name, experiment.name, run.data.params, points, run.info.status, more))
    return found


def tensorboard_runs(store: Path) -> list[Stored]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for folder in sorted({file.parent for file in (store / "tensorboard").rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
        points = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
        text = events.Tensors("config/text_summary" if "config/text_summary" in events.Tags()["tensors"] else "config")
        settings = json.loads(text[0].tensor_proto.string_val[0])
        about = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name
        found.append(Stored(str(folder.relative_to(store / "tensorboard")), "", settings, points, "", {"plugin": about}))
    return found


def wandb_messages(file: Path) -> Iterator[Any]:
    """Messages of a ``.wandb`` file: seven bytes, then LevelDB's log format (blocks of 32 KiB, seven bytes before a record)."""
    from wandb.proto import wandb_internal_pb2

    data, position, whole = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a record in one piece; the last piece of one
            message = wandb_internal_pb2.Record()
            message.ParseFromString(whole)
            yield message
            whole = b""


def wandb_runs(store: Path) -> list[Stored]:
    found: dict[str, Stored] = {}
    for file in sorted((store / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.parent.name):
        points: dict[str, list[tuple[int, float]]] = defaultdict(list)
        run: Any = None
        code: int | None = None
        for message in wandb_messages(file):
            kind = message.WhichOneof("record_type")
            if kind == "run":
                run = message.run
            elif kind == "exit":
                code = message.exit.exit_code
            elif kind == "history":
                values = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in message.history.item}
                step = values.pop("step")
                for name, value in values.items():
                    if not name.startswith("_"):
                        points[name].append((step, value))
        before = found.get(run.run_id)
        for name, kept in (before.points if before else {}).items():
            points[name] = kept + points[name]
        settings = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in run.config.update}
        files = (before.more["files"] if before else 0) + 1
        more = {"project": run.project, "id": run.run_id, "job": run.job_type, "files": files}
        found[run.run_id] = Stored(run.display_name, run.run_group, settings, points, str(code), more)
    return [*found.values()]


def sqlite_runs(store: Path) -> list[Stored]:
    found = []
    with closing(sqlite3.connect(f"file:{store / 'runs.sqlite'}?mode=ro", uri=True)) as file:
        for key, name, study, status in file.execute("SELECT id, name, study, status FROM runs ORDER BY opened, id").fetchall():
            points: dict[str, list[tuple[int, float]]] = defaultdict(list)
            for metric, step, value in file.execute(
                "SELECT metric, step, value FROM metrics WHERE run = ? ORDER BY step", (key,)
            ):
                points[metric].append((step, value))
            settings = dict(file.execute("SELECT key, value FROM settings WHERE run = ?", (key,)))
            found.append(Stored(name, study, settings, points, status, {"id": key}))
    return found


#: tracker -> its reader; the contract suite wants one for every tracker there is
READERS: Mapping[str, Callable[[Path], list[Stored]]] = {
    "mlflow": mlflow_runs,
    "sqlite": sqlite_runs,
    "tensorboard": tensorboard_runs,
    "wandb": wandb_runs,
}
#: tracker -> what is in its store as soon as it writes; a test that stops a run waits for it
BEGUN: Mapping[str, str] = {
    "mlflow": "mlflow/*.json",
    "sqlite": "runs.sqlite",
    "tensorboard": "tensorboard/**/events.*",
    "wandb": "wandb/*.json",
}
