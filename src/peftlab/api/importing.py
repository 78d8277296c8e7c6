"""Results from elsewhere as an arm of a study: a PEFT adapter, evaluated here, or a file of numbers, taken as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftlab.api._outside import Arm
from peftlab.api.answers import Answer, lines, table
from peftlab.errors import DataError, StudyError, absent
from peftlab.records.record import RunConfig, RunResults
from peftlab.records.store import ResultsFolder
from peftlab.study.expand import cells
from peftlab.study.load import parse_yaml, validate_study
from peftlab.study.schema import NAME, Study

NUMBERS = (".csv", ".json")


def import_results(path: str | Path, folder: str | Path, label: str, *, seed: int | None = None) -> Answer:
    """Take in an arm that was not trained here. Its records say so, and every table flags it.

    Args:
        path: a PEFT adapter's folder (``adapter_config.json`` and ``adapter_model.safetensors``), which is evaluated on the
            study's validation and test data without any training: one record. Or a ``.csv`` or ``.json`` file with a row per
            seed: ``seed``, metrics by their names in the study, and where known ``trainable``, ``peak_memory_mb``, ``train_s``,
            ``backbone``.
        folder: the study's results.
        label: what the arm is called; no arm of the study may have that name.
        seed: of an adapter, the seed of the study that it stands beside; default: the first. Adapters trained with several
            seeds are imported one by one, with one label.

    Raises:
        DataError: the file or adapter is not what it should be; file, column and row are named.
        StudyError: the label is taken, the seed is none of the study or given for a table, or the study has several backbones
            or tasks and nothing says which is meant.
        RecordError: no results folder; the adapter does not fit the backbone; the arm has other results for the seed, or this
            adapter with another seed, already.
    """
    path, results = Path(path), ResultsFolder(folder)
    study = validate_study(parse_yaml(results.study_text(), where=str(results.path / "study.yaml")))
    _check_label(label, study, results)
    if path.is_dir():
        from peftlab.api._import_adapter import evaluate_adapter

        records = [evaluate_adapter(path, Arm(study, results, label), seed)]
    elif path.suffix.lower() in NUMBERS and path.is_file():
        from peftlab.api._import_numbers import read_numbers

        if seed is not None:
            raise StudyError("a table has a column for it", where="--seed", remedy="leave it out")
        records = read_numbers(path, Arm(study, results, label))
    else:
        remedy = "name a folder with adapter_config.json, or a table with a row per seed"
        if not path.exists():
            raise DataError("there is no such file or folder", where=str(path), remedy=absent(path, remedy))
        raise DataError("neither an adapter's folder nor a .csv or .json file", where=str(path), remedy=remedy)
    return _answer(records, results, label)


def _check_label(label: str, study: Study, results: ResultsFolder) -> None:
    if not NAME.fullmatch(label):
        remedy = "use a-z 0-9 . _ -, starting with a letter or digit, at most 81 characters"
        raise StudyError(f"{label!r} is no name for an arm", where="--label", remedy=remedy)
    taken = {*study.arms, *(cell.label for cell in cells(study)), *(cell.slug for cell in cells(study))}
    taken |= {config.label for run in results.runs() if not (config := run.config()).adapter.get("source")}
    if label in taken:
        raise StudyError(f"the study has an arm {label!r} already", where="--label", remedy="choose another name")


def _answer(records: Sequence[tuple[RunConfig, RunResults]], results: ResultsFolder, label: str) -> Answer:
    rows = [
        {"run_id": config.run_id, "seed": config.seed, "backbone": config.backbone, "metrics": done.metrics, "flags": done.flags}
        for config, done in records
    ]
    data = {"label": label, "folder": results.path, "records": rows}

    def shown() -> Any:
        names = list(dict.fromkeys(name for _, done in records for name in done.metrics["test"]))
        cells_ = ([config.seed, *(done.metrics["test"].get(name) for name in names)] for config, done in records)
        flags = dict.fromkeys(flag for _, done in records for flag in done.flags)
        return lines(
            table(["seed", *names], cells_, title=f"{label}: test", right=["seed", *names]),
            *flags,
            *(f"note: {note}" for note in dict.fromkeys(note for _, done in records for note in done.notes)),
            f"Compare it: peftlab report {results.path}",
        )

    return Answer(data, shown)
