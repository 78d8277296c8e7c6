"""A first study file, copied from one that is shipped."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import peftlab
from peftlab.api.answers import Answer, lines
from peftlab.errors import RecordError, StudyError, nearest
from peftlab.records.commit import write_atomic
from peftlab.study.expand import cells
from peftlab.study.load import load_study


def init(path: str | Path = "study.yaml", template: str = "digits") -> Answer:
    """Copy a shipped study.

    Args:
        path: the file to write; nothing that exists is overwritten.
        template: name of the shipped study; :func:`peftlab.list` with kind ``study`` lists them.

    Raises:
        StudyError: the file exists, or there is no such template.
        RecordError: the file cannot be written.
    """
    path = Path(path)
    known = shipped_studies()
    if template not in known:
        remedy = nearest(template, known) + " `peftlab list study` shows them"
        raise StudyError(f"there is no shipped study {template!r}", where="--template", remedy=remedy)
    if path.is_dir():
        path = path / "study.yaml"
    if path.exists():
        raise StudyError("exists already; nothing is overwritten", where=str(path), remedy="name another file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the folder cannot be made: {error.strerror}"
        raise RecordError(what, where=str(path.parent), remedy="name a file in another folder") from error
    write_atomic(path, _named(known[template].read_text(encoding="utf-8"), path.stem))
    study = load_study(path)
    labels = list(dict.fromkeys(cell.label for cell in cells(study)))  # a grid is several arms
    data = {
        "path": path,
        "study": study.study,
        "template": template,
        "question": study.question,
        "arms": list(study.arms),
        "cost": study.cost,
    }

    def shown():
        return lines(
            f"{path}: {study.question or template}",
            f"{len(labels)} arms: {', '.join(labels)}; {len(study.seeds)} seeds",
            f"cost: {study.cost}" if study.cost else None,
            f"Next: peftlab plan {path}, then peftlab run {path}; its results will be in results/{study.study}",
        )

    return Answer(data, shown)


def _named(text: str, stem: str) -> str:
    """The study called as its file, so that its results do not lie among those of the template or of another copy."""
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("._-")[:81]
    return re.sub(r"^study: .*$", f'study: "{name}"', text, count=1, flags=re.MULTILINE) if name else text


@cache
def shipped_studies() -> dict[str, Path]:
    """Name -> file: inside an installed package, or in the repository of an editable one."""
    package = Path(peftlab.__file__).resolve().parent
    for folder in (package / "_studies", package.parents[1] / "studies"):
        if folder.is_dir():
            return {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    return {}
