"""Accuracy of deployed models: arms trained on a backbone and data, and every form that a finished run can take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _turns import in_turns

from peftlab import api
from peftlab.api._model_folder import Exported, load_forward
from peftlab.errors import OptionError
from peftlab.records.store import ResultsFolder
from peftlab.study.load import dump, validate_study
from peftlab.tasks.contract import Preprocessing

#: name -> options of ``export``
FORMS: dict[str, dict[str, Any]] = {
    "adapter on its base": {},
    "merged, float": {"merged": True},
    "merged, requantized": {"merged": True, "requantize": True},
    "packed": {"packed": True},
    "packed, requantized": {"packed": True, "requantize": True},
    "ONNX": {"onnx": True},
    "ONNX, 8-bit inputs": {"onnx": True, "activations": "int8"},
}


def study(backbone: str, data: str, rank: int, train: dict[str, Any], task: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    """LoRA in float, on bitsandbytes and on groups of 32; QA-LoRA in every type. All on every linear layer of the blocks."""
    lora = {"name": "lora", "rank": rank, "targets": "all-linear"}
    pooled = {"name": "pooled", "rank": rank, "targets": "all-linear"}
    arms: dict[str, Any] = {
        "lora": {"adapter": lora},
        "qlora-nf4": {"adapter": lora, "quantizer": {"name": "bnb", "bits": 4}},
        "qlora-int8": {"adapter": lora, "quantizer": {"name": "bnb", "bits": 8}},
        "qlora-groupwise": {"adapter": lora, "quantizer": {"name": "groupwise", "type": "int4", "group_size": 32}},
    }
    for kind in ("int4", "int8", "nf4", "fp4"):
        arms[f"qa-lora-{kind}"] = {"adapter": pooled, "quantizer": {"name": "groupwise", "type": kind, "group_size": 32}}
    return {
        "study": "deployment",
        "backbone": backbone,
        "task": {"kind": "image-classification", "data": data, **task},
        "seeds": seeds,
        "train": train,
        "arms": arms,
        "analysis": {"baseline": "lora"},
    }


def chosen(name: str, only: Sequence[str]) -> bool:
    """Whether the name contains one of the texts asked for."""
    return any(text in name for text in only)


def train_study(content: dict[str, Any], only: Sequence[str], folder: Path) -> list[tuple[str, str]]:
    """Run the study; (results, run) of every run, for :func:`run_rows`."""
    wanted = {"lora"} | {label for label in content["arms"] if chosen(label, only)}
    content = {**content, "arms": {label: arm for label, arm in content["arms"].items() if label in wanted}}
    path = folder / "deployment.yaml"
    path.write_text(dump(validate_study(content)), encoding="utf-8")
    results = folder / "results"
    answer = api.run(path, output=results)
    if answer.exit_code:
        raise SystemExit(f"the study did not finish (exit code {answer.exit_code})")
    found = results / content["study"]
    return [(str(found), run.run_id) for run in ResultsFolder(found).runs("evaluation")]


def run_rows(folder: str, run: str, target: Path, repeats: int, batches: list[int]) -> list[dict[str, Any]]:
    """Every form that this run can take: bytes, test metrics, and milliseconds of a call by batch, all forms called in turns."""
    rows: list[dict[str, Any]] = []
    calls: dict[int, dict[str, Any]] = {batch: {} for batch in batches}
    for name, options in FORMS.items():
        place = target / name.replace(" ", "-")
        try:
            answer = api.export(folder, run, place, **options, evaluate=True)
        except OptionError as error:
            rows.append({"form": name, "refused": error.what})
            continue
        exported = Exported.read(place)
        assert isinstance(exported.preprocessing, Preprocessing)
        size, forward = exported.preprocessing.image_size, load_forward(place, exported)
        for batch in batches:
            pixels = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
            calls[batch][name] = lambda forward=forward, pixels=pixels: forward({"pixel_values": pixels})
        about = ("run_id", "label", "seed", "weights", "merge_difference", "bytes", "test", "test_of_the_run")
        rows.append({"form": name, **{key: answer[key] for key in about}})
    with torch.inference_mode():
        times = {batch: in_turns(calls[batch], max(repeats // (4 if batch == 1 else 20), 3)) for batch in batches}
    for entry in rows:
        if "refused" not in entry:
            entry |= {f"ms_batch_{batch}": round(times[batch][entry["form"]], 3) for batch in batches}
    return rows
