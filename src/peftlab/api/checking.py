"""check: proof that every arm of a study works here."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from peftlab.api import answers
from peftlab.api._data_first import prepare_first
from peftlab.api.answers import Answer
from peftlab.study.schema import Study


def check(study: str | Path, *, overrides: Iterable[str] = (), only: Sequence[str] = (), device: str = "auto") -> Answer:
    """Prove on the study's own backbone and data that each arm works: base frozen, loss falls, save and load, merge.

    Takes about two minutes for a small ViT on a CPU. Exit code 7 if a promise is not kept.

    Raises:
        DataError: data that cannot be read, which no arm can help.
        BackboneError: nor a backbone that is not there.
        PlanRefused: no such device here.
    """
    from peftlab.study.load import load_study, of_file

    overrides = [*overrides]
    parsed = load_study(study, overrides)
    with of_file(study, overrides):
        return _checked(parsed, only, device)


def _checked(parsed: Study, only: Sequence[str], device: str) -> Answer:
    from peftlab.api.running import cache_folder
    from peftlab.execution.check import check_cell
    from peftlab.planning.budgets import resolve_budgets
    from peftlab.study.expand import cells, select_cells
    from peftlab.training.precision import resolve_device

    resolve_device(device)
    known = cells(parsed)
    wanted = resolve_budgets(select_cells(known, only), known)
    told = [f"data: {found}" for found in prepare_first(((cell.backbone, cell.task) for cell in wanted), cache_folder())]
    rates = _rates(parsed)
    proofs = []
    for number, cell in enumerate(wanted, 1):  # an arm takes seconds to minutes: nobody should wonder whether anything happens
        print(f"[{number}/{len(wanted)}] checking {cell.label}", file=sys.stderr, flush=True)
        proofs += check_cell(cell, cache_folder(), parsed.seeds[0], device, rates=rates)
    broken = [proof for proof in proofs if not proof.kept]
    checked = _counted(len({proof.label for proof in proofs}), "arm")
    verdict = f"{checked} checked, every promise kept" if not broken else f"{_counted(len(broken), 'promise')} not kept"
    rows = [
        (proof.label, "yes" if proof.kept else "NO", proof.promise, proof.detail) for proof in proofs if proof.promise != "time"
    ]
    return Answer(
        {"study": parsed.study, "verdict": verdict, "proofs": proofs},
        lambda: answers.lines(answers.table(["arm", "kept", "promise", "shown by"], rows), *told, verdict),
        exit_code=7 if broken else 0,
    )


def _counted(number: int, word: str) -> str:
    return f"{number} {word if number == 1 else word + 's'}"


def _rates(study: Study) -> list[float]:
    """The learning rates that the study's tuning tries, of a range its ends; none where it is not tuned."""
    values = study.tune.space.get("learning_rate", []) if study.tune else []
    return [float(rate) for rate in values] if isinstance(values, list) else [float(values.low), float(values.high)]
