"""check: proof that every arm of a study works here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from peftlab.api import answers
from peftlab.api._data_first import prepare_first
from peftlab.api.answers import Answer


def check(study: str | Path, *, overrides: Iterable[str] = (), only: Sequence[str] = ()) -> Answer:
    """Prove on the study's own backbone and data that each arm works: base frozen, loss falls, save and load, merge.

    Takes about two minutes for a small ViT on a CPU. Exit code 7 if a promise is not kept.

    Raises:
        DataError: data that cannot be read, which no arm can help.
    """
    from peftlab.api.running import cache_folder
    from peftlab.execution.check import check_cell
    from peftlab.planning.budgets import resolve_budgets
    from peftlab.study.expand import cells, select_cells
    from peftlab.study.load import load_study

    parsed = load_study(study, overrides)
    known = cells(parsed)
    wanted = resolve_budgets(select_cells(known, only), known)
    told = [f"data: {found}" for found in prepare_first(((cell.backbone, cell.task) for cell in wanted), cache_folder())]
    proofs = [proof for cell in wanted for proof in check_cell(cell, cache_folder(), parsed.seeds[0])]
    broken = [proof for proof in proofs if not proof.kept]
    arms = len({proof.label for proof in proofs})
    verdict = f"{arms} arms checked, every promise kept" if not broken else f"{len(broken)} promises are not kept"
    rows = [
        (proof.label, "yes" if proof.kept else "NO", proof.promise, proof.detail) for proof in proofs if proof.promise != "time"
    ]
    return Answer(
        {"study": parsed.study, "verdict": verdict, "proofs": proofs},
        lambda: answers.lines(answers.table(["arm", "kept", "promise", "shown by"], rows), *told, verdict),
        exit_code=7 if broken else 0,
    )
