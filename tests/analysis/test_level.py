"""What counts as shown is told at the study's own level, 1 - confidence, wherever a form says ``shown``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peftlab.analysis.assess_flow import assess_flow
from peftlab.analysis.assess_layers import assess_layers
from peftlab.analysis.assess_quantization import assess_quantization
from peftlab.analysis.findings import alpha_of
from peftlab.analysis.frame import Frame, load_frame
from peftlab.report.bundle import bundles
from tests.analysis.test_gradient_flow import options
from tests.report.fixtures import Options, write_results
from tests.report.gradients import write_gradients
from tests.report.layers import write_layers
from tests.report.quantized import write_quantized


def quantized(root: Path) -> Path:
    return write_quantized(root)


def gradients(root: Path) -> Path:
    folder = write_results(root, options())
    write_gradients(folder, {"lora": 0.2, "qlora": 0.21, "late": 0.2})
    return folder


def layers(root: Path) -> Path:
    folder = write_results(root, Options(failed=(), diverged=()))
    write_layers(folder)
    return folder


def arms(frame: Frame) -> list[Any]:
    from peftlab.analysis.assess import assess

    compared = bundles(frame, assess(frame))[0].compared
    return list(compared.effects) if compared else []


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (quantized, lambda frame: [*(q := assess_quantization(frame).quantization).effects, *q.interactions]),
        (gradients, lambda frame: assess_flow(frame).flow.contrasts),
        (layers, lambda frame: assess_layers(frame).layers.contrasts),
        (lambda root: write_results(root), arms),
    ],
    ids=["quantization", "gradients", "layers", "ablation"],
)
def test_shown_at_the_level_of_the_study(
    tmp_path: Path, write: Callable[[Path], Path], said: Callable[[Frame], list[Any]]
) -> None:
    frame, counts, elsewhere = load_frame(write(tmp_path)), [], 0
    for confidence in (1 - 1e-9, 0.6):
        analysis = frame.study.analysis.model_copy(update={"confidence": confidence})
        found = said(dataclasses.replace(frame, study=frame.study.model_copy(update={"analysis": analysis})))
        assert found and {entry.alpha for entry in found} == {alpha_of(confidence)}
        counts.append(sum(entry.shown for entry in found))
        elsewhere += sum(entry.shown != entry.model_copy(update={"alpha": 0.05}).shown for entry in found)
    assert counts[0] < counts[1] and elsewhere > 0
