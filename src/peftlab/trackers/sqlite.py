"""All runs of a study in one SQLite file, asked while they go on: ``sqlite3``, DuckDB, pandas, Datasette and Grafana read it."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Sequence
from typing import ClassVar

from peftlab.trackers.contract import MARK, Line, Session, Status, TrackedRun, Tracker, flat

FILE = "runs.sqlite"
#: ``curves`` and ``latest`` are what one asks: names in every row, nothing to join
SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS runs (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, study TEXT, arm TEXT, label TEXT, purpose TEXT, seed INTEGER, fold INTEGER,
  status TEXT NOT NULL, opened TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, closed TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settings (
  run TEXT NOT NULL REFERENCES runs(id), key TEXT NOT NULL, value, PRIMARY KEY (run, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS metrics (
  run TEXT NOT NULL REFERENCES runs(id), metric TEXT NOT NULL, step INTEGER NOT NULL, value REAL NOT NULL,
  PRIMARY KEY (run, metric, step)
) WITHOUT ROWID;
CREATE VIEW IF NOT EXISTS curves AS
  SELECT runs.label, runs.seed, runs.fold, runs.purpose, runs.name, metrics.metric, metrics.step, metrics.value
  FROM metrics JOIN runs ON runs.id = metrics.run;
CREATE VIEW IF NOT EXISTS latest AS
  SELECT runs.label, runs.seed, runs.fold, runs.purpose, runs.name, runs.status, metrics.metric, max(metrics.step) AS step,
    metrics.value
  FROM metrics JOIN runs ON runs.id = metrics.run GROUP BY metrics.run, metrics.metric;
COMMIT;
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sqlite(Tracker):
    """All runs of a study in one SQLite file, to be asked in SQL while they go on; nothing is to be installed (Hipp et al. 2000).

    Tables ``runs``, ``settings`` and ``metrics``; views ``curves`` (a row per run, metric and step, with label, seed and fold)
    and ``latest`` (the last value of every metric of every run).
    """

    name: ClassVar[str] = "sqlite"
    citation: ClassVar[str] = (
        "@misc{sqlite, title={{SQLite}, a self-contained database engine}, author={Hipp, D. Richard and others}, year={2000}, url={https://sqlite.org}}"
    )
    modules: ClassVar[tuple[str, ...]] = ()

    def open(self, run: TrackedRun) -> Session:
        run.folder.mkdir(parents=True, exist_ok=True)
        store = sqlite3.connect(run.folder / FILE, timeout=self.timeout_s, isolation_level="IMMEDIATE")
        store.executescript(SCHEMA)
        return SqliteSession(store, run)


class SqliteSession(Session):
    """One run in the file. What is written is one transaction: a reader, or a process that dies, sees all of it or nothing."""

    def __init__(self, store: sqlite3.Connection, run: TrackedRun) -> None:
        self.store, self.id = store, run.id
        about = {"id": run.id, "name": run.name("/"), "seed": run.config.seed, "status": "running"}
        about |= {key: value for key, value in run.names().items() if key != "run_id"}
        columns = ", ".join(about)
        changed = ", ".join(f"{key} = excluded.{key}" for key in about if key != "id")
        with store:
            store.execute(
                f"INSERT INTO runs ({columns}) VALUES ({', '.join('?' * len(about))}) "
                f"ON CONFLICT (id) DO UPDATE SET {changed}, closed = NULL",
                [*about.values()],
            )
            store.executemany(
                "REPLACE INTO settings VALUES (?, ?, ?)", [(run.id, *item) for item in flat(run.settings()).items()]
            )
        marks = store.execute(
            "SELECT metric, max(step) FROM metrics WHERE run = ? AND metric LIKE ? GROUP BY metric", (run.id, f"%/{MARK}")
        )
        self.last = {metric.removesuffix(f"/{MARK}"): step for metric, step in marks}

    def log(self, lines: Sequence[Line]) -> None:
        rows = [(self.id, metric, line.step, value) for line in lines for metric, value in line.values.items()]
        with self.store:
            self.store.executemany("REPLACE INTO metrics VALUES (?, ?, ?, ?)", rows)

    def close(self, status: Status) -> None:
        with self.store:
            self.store.execute("UPDATE runs SET status = ?, closed = CURRENT_TIMESTAMP WHERE id = ?", (status, self.id))
        self.store.close()
