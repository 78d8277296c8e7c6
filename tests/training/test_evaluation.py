"""Evaluation from the shortest example to the longest, with predictions in the order asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from peftlab import registry
from peftlab.backbones.resolve import source_of
from peftlab.training.evaluation import evaluate, evaluation_order, predictions
from tests.tasks.texts import shared_bert, shared_sst2


def test_sorted_by_length_and_given_back_in_order(tmp_path: Path) -> None:
    folder = str(shared_bert())
    source = source_of(folder)
    found = {}
    for bucketing in (True, False):
        spec = {"kind": "text-classification", "data": {"name": "sst2", "path": str(shared_sst2())}, "bucketing": bucketing}
        task = registry.create("task", spec, key="kind").prepare(source.text_preprocessing(folder), tmp_path)
        backbone = source.load(folder, outputs=2, head="sequence-classification", seed=0)
        backbone.module.eval()
        indices = task.splits(0).test
        widths: list[int] = []

        def forward(inputs: dict[str, torch.Tensor], backbone=backbone, widths=widths) -> torch.Tensor:
            widths.append(inputs["input_ids"].shape[1])
            return backbone.outputs(backbone.module, inputs)

        meter = evaluate(task, indices, forward, 7, torch.device("cpu"))
        found[bucketing] = (meter.compute(), predictions(task, indices, meter), widths, evaluation_order(task, indices))
    (scores, items, widths, order), (scores_as_is, items_as_is, _, order_as_is) = found[True], found[False]
    assert widths == sorted(widths) and (order != order_as_is).any()
    assert (order_as_is == np.arange(len(order))).all()
    assert (items["label"] == items_as_is["label"]).all() and (items["prediction"] == items_as_is["prediction"]).all()
    np.testing.assert_allclose(items["confidence"], items_as_is["confidence"], rtol=1e-5)
    assert abs(scores["loss"] - scores_as_is["loss"]) < 1e-5 and scores["accuracy"] == scores_as_is["accuracy"]
