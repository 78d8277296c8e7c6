"""Weights & Biases: online with a key, else offline in the results folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, ClassVar

from peftlab.errors import OptionError
from peftlab.trackers.contract import Line, Notebook, Session, Status, TrackedRun, Tracker

_STEP = "step"


class _Session(Session):
    """How far a run has come is kept in a notebook: an offline store cannot be asked."""

    def __init__(self, run: Any, notebook: Notebook, last: dict[str, int]) -> None:
        self.run, self.notebook, self.last = run, notebook, last
        run.define_metric(_STEP, hidden=True)
        run.define_metric("*", step_metric=_STEP)
        self._note()

    def log(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self.run.log({**line.values, _STEP: line.step})
            self.last[line.split] = line.step
        self._note()

    def close(self, status: Status) -> None:
        self.run.summary["status"] = status
        self.run.finish(exit_code=0 if status in ("completed", "diverged") else 1)

    def _note(self) -> None:
        self.notebook.write({"id": self.run.id, "last": self.last})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WeightsAndBiases(Tracker):
    """Weights & Biases: a run per run, grouped by study, named by arm and seed.

    Where no API key is configured (``wandb login``, ``WANDB_API_KEY``), runs are written to ``trackers/wandb`` of the results
    folder and ``wandb sync results/STUDY/trackers/wandb/offline-run-*`` uploads them later. ``WANDB_MODE`` is respected. Nobody
    is ever asked for a key. Only settings and metrics are sent: no code, console output, packages, details of the machine.
    """

    name: ClassVar[str] = "wandb"
    modules: ClassVar[tuple[str, ...]] = ("wandb",)
    citation: ClassVar[str] = """@misc{biewald2020experiment,
  title = {Experiment Tracking with {Weights and Biases}},
  author = {Biewald, Lukas}, year = {2020}, howpublished = {Software, https://www.wandb.com}
}"""

    project: str = "peftlab"  #: of W&B
    entity: str | None = None  #: user or team; none: the default of the account

    def __post_init__(self) -> None:
        Tracker.__post_init__(self)
        if not 0 < len(self.project) <= 128 or set(self.project) & set("/\\#?%:"):
            raise OptionError(
                f"{self.project!r} is no project name", where="project", remedy="1 to 128 characters, none of / \\ # ? % :"
            )

    def open(self, run: TrackedRun) -> Session:
        """A run that was tracked before keeps its id; offline it gets a further folder beside the first."""
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        import wandb

        notebook = Notebook(run, self.name)
        known = notebook.read()
        quiet = wandb.Settings(
            silent=True, console="off", save_code=False, disable_code=True, disable_git=True, x_disable_meta=True,
            x_disable_machine_info=True, x_disable_stats=True, x_save_requirements=False, init_timeout=0.8 * self.timeout_s,
        )  # fmt: skip
        online = wandb.setup(quiet).settings.mode == "online"
        begun = wandb.init(
            project=self.project,
            entity=self.entity,
            dir=str(run.folder),
            id=known.get("id"),
            resume="allow" if known else None,
            group=run.config.study,
            name=run.name("-"),
            job_type=run.config.purpose,
            config={**run.names(), **run.settings()},
            allow_val_change=True,
            mode="offline" if online and not wandb.login(prompt=False, verify=False) else None,
            settings=quiet,
        )
        return _Session(begun, notebook, dict(known.get("last", {})))
