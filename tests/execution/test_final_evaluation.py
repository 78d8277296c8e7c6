"""What the selected weights score in the end, and what that leaves in the run's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from peftlab.execution.protocol import WorkerOptions
from tests.execution.test_fused_record import finish
from tests.execution.test_worker import backbone, config, folder, light_fork_server  # noqa: F401


@pytest.mark.parametrize("quantize", ["before", "after"])
@pytest.mark.parametrize("test", [True, False])
def test_scores_and_their_files(tmp_path: Path, backbone: str, quantize: str, test: bool) -> None:  # noqa: F811
    update = {"quantize": quantize, "evaluate_test": test, "quantizer": {"name": "groupwise", "group_size": 8}}
    wanted = config(backbone, epochs=0.25).model_copy(update=update)
    run = folder(tmp_path / "results").run(wanted)
    finish(run, wanted, WorkerOptions(cache=tmp_path / "cache", device="cpu"))
    results = run.results()
    assert results is not None
    assert set(results.metrics) == ({"validation", "test"} if test else {"validation"})
    assert (run.path / "evaluation.json").exists() == (run.path / "predictions.npz").exists() == test
    if test:
        with np.load(run.path / "predictions.npz") as found:
            right = (found["label"] == found["prediction"]).mean()
        assert results.metrics["test"]["accuracy"] == pytest.approx(right)
    said = run.read_json("quantization_analysis.json").get("validation")
    if quantize == "after":
        assert results.metrics["validation"] == said["quantized"] != said["float"]
    else:
        assert said is None
