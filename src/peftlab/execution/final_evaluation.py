"""What the selected weights of a run score once its training has ended, quantized first where the study says so."""

from __future__ import annotations

import dataclasses

from peftlab.execution.frozen_prefix import FrozenPrefix
from peftlab.records.run_folder import RunFolder
from peftlab.tasks.contract import PreparedTask
from peftlab.training.assemble import Ingredients
from peftlab.training.evaluation import check_finite, predictions
from peftlab.training.loop import Trainer
from peftlab.training.prefix_task import PrefixTask
from peftlab.training.quantization import FILE, examine, first_batches


@dataclasses.dataclass(frozen=True, slots=True)
class FinalEvaluation:
    """Of one run that did not diverge."""

    folder: RunFolder
    ingredients: Ingredients
    task: PreparedTask  #: as it was prepared; the trainer's may have hidden states for examples
    trainer: Trainer  #: after ``fit``: it holds the selected weights
    prefix: FrozenPrefix

    def scores(self, *, test: bool) -> dict[str, dict[str, float | None]]:
        """The task's metrics by split, in their own units.

        Validation data: as scored when the weights were selected (absent where nothing was validated), or anew where the study
        quantizes after training; ``quantization_analysis.json`` then says both. Test data: only if ``test`` says so, with
        ``evaluation.json`` and ``predictions.npz``.

        Raises:
            NonFinite: the loss on some split is not, quantized or not.
            RecordError: the disk refuses, or the hidden states of the test data cannot be had.
        """
        validated = self.trainer.selected.metrics
        metrics: dict[str, dict[str, float | None]] = {"validation": dict(validated)} if validated else {}
        if self.ingredients.quantize == "after":
            metrics["validation"] = self._quantize_merged()
        if test:
            metrics["test"] = self._test()
        return metrics

    def _quantize_merged(self) -> dict[str, float | None]:
        """From here on the trainer evaluates the merged model, quantized; returns what that scores on validation data."""
        trainer, quantizer, unquantized = self.trainer, self.ingredients.quantizer, self.trainer.selected
        backbone = self.ingredients.deployed(trainer.adapted)
        batches = first_batches(self.task, trainer.splits.train, trainer.device)
        found = examine(backbone, quantizer, quantizer.convert, self.task, batches)
        trainer.adapted = dataclasses.replace(trainer.adapted, module=backbone.module, backbone=backbone)
        trainer.task = self.task  # hidden states are those of the backbone before it was merged and quantized
        scores: dict[str, float] = {}
        if unquantized.metrics:
            meter = trainer.evaluate("validation")
            scores = meter.compute()
            check_finite(scores, "validation")
            trainer.selected = dataclasses.replace(unquantized, metrics=scores, thresholds=meter.thresholds())
        self.folder.write_json(FILE, {**found, "validation": {"float": dict(unquantized.metrics), "quantized": scores}})
        return dict(scores)

    def _test(self) -> dict[str, float | None]:
        """Test data, touched once."""
        trainer = self.trainer
        if isinstance(trainer.task, PrefixTask):
            self.prefix.ready(trainer.splits.test)
        meter = trainer.evaluate("test")
        metrics = meter.compute()
        if len(trainer.splits.test):
            check_finite(metrics, "test")
        self.folder.write_json("evaluation.json", meter.details())
        self.folder.write_arrays("predictions.npz", predictions(trainer.task, trainer.splits.test, meter))
        return dict(metrics)
