"""The training loss beside the validation loss, by hand."""

from __future__ import annotations

import pandas as pd

from peftlab.report.figures.training_curves import training_loss


def lines(label: str, split: str, losses: dict[int, float], diverged: bool = False) -> list[dict]:
    about = {"label": label, "seed": 0, "fold": 0, "split": split, "diverged": diverged}
    return [{**about, "step": step, "loss": loss} for step, loss in losses.items()]


def test_training_loss_is_the_mean_since_the_evaluation_before() -> None:
    curves = pd.DataFrame(
        lines("a", "train", {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0, 5: 9.0})  # nothing was evaluated after step 4
        + lines("a", "validation", {2: 3.5, 4: 2.5})
        + lines("b", "train", {1: 7.0}, diverged=True)
        + lines("b", "validation", {1: 7.0}, diverged=True)
        + lines("c", "validation", {0: 5.0})  # not trained
    )
    found = training_loss(curves)
    assert list(zip(found["label"], found["step"], found["loss"], strict=True)) == [("a", 2, 3.5), ("a", 4, 1.5)]
    assert training_loss(curves[curves["split"] == "validation"]).empty
