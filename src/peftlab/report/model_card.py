"""Model card of an exported adapter or merged model, from its record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.compat import StringIO

from peftlab.analysis.planned import folds_of, task_name
from peftlab.analysis.words import is_share, show, show_count
from peftlab.records.record import RunConfig, RunResults


def model_card(config: RunConfig, results: RunResults | None, *, library: str = "peft", as_run: bool = True) -> str:
    """Markdown with the front matter the Hugging Face hub reads.

    Args:
        config: what was trained.
        results: what came out; None where the run is not finished (the card then says so).
        library: what loads the files beside the card.
        as_run: the files beside the card compute what the run evaluated; otherwise its figures are not put into the front
            matter, where the hub would take them for those of the files.
    """
    parts = [
        "---", _front_matter(config, results if as_run else None, library).rstrip(), "---", "",
        f"# {_text(config.label)} on {_text(config.backbone)}", "",
        f"Adapter trained by peftlab in the study {_code(config.study)}, seed {config.seed}"
        + (f", fold {config.fold}" if folds_of(config.task) > 1 else "") + ".", "",
        "## What it is", "", *_list(_about(config, results)), "",
        "## Results", "", *_results(results), "",
        "## Training", "", *_list(_training(config, results)), "",
    ]  # fmt: skip
    known = (*results.flags, *results.data_warnings, *results.notes) if results is not None else ()
    if known:
        parts += ["## To be known", "", *[f"* {_text(note)}" for note in known], ""]
    parts += [
        "## Limits", "",
        "One run, one seed: the numbers above are of this run alone. How the method compares with others, over several seeds "
        "and with intervals, is in the study's report. The licence of the backbone holds for what is built on it.", "",
        "## Reproduce", "", f"Run {_code(config.run_id)} of the study: `peftlab run study.yaml`.", "",
        f"* backbone fingerprint {_code(config.backbone_fingerprint)}", f"* data fingerprint {_code(config.data_fingerprint)}",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _front_matter(config: RunConfig, results: RunResults | None, library: str) -> str:
    kind, data = str(config.task.get("kind", "")), task_name({"data": config.task.get("data", "")})
    front: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": kind,
        "base_model": config.backbone,
        "tags": ["peftlab", str(config.adapter.get("name", "")), kind],
    }
    if ":" in config.backbone or config.backbone.startswith(("/", ".")):
        front.pop("base_model")  # the hub resolves this key; a bundled or local backbone is named in the text
    test = results.metrics.get("test", {}) if results else {}
    values = [{"type": name, "value": round(value, 6), "name": name} for name, value in test.items() if value is not None]
    if values:
        result = {"task": {"type": kind}, "dataset": {"name": data, "type": data, "split": "test"}, "metrics": values}
        name = re.sub(r"\s+", " ", f"{config.study} {config.label}")
        front["model-index"] = [{"name": name, "results": [result]}]
    stream = StringIO()
    YAML().dump(front, stream)
    return stream.getvalue()


def _about(config: RunConfig, results: RunResults | None) -> dict[str, str]:
    about = {"backbone": _code(config.backbone), "task": _text(task_name(config.task)), "adapter": _spec(config.adapter)}
    if config.allocator:
        about["allocator"] = _spec(config.allocator)
    if config.quantizer.get("name", "none") != "none":
        about["quantizer of the frozen weights"] = _spec((results and results.quantizer) or config.quantizer)
    return about


def _results(results: RunResults | None) -> list[str]:
    if results is None:
        return ["The run is not finished; there are no results."]
    lines = ["**Training diverged.** The numbers are those of the broken model.", ""] if results.status == "diverged" else []
    metrics = list(dict.fromkeys(name for values in results.metrics.values() for name in values))
    splits = [s for s in ("validation", "test") if s in results.metrics]
    if not metrics:
        return [*lines, "Nothing was measured."]
    sizes = [f"{s} ({results.splits[s]:,} examples)" if s in results.splits else s for s in splits]
    lines += [f"| metric | {' | '.join(sizes)} | chance |", "|---" * (len(splits) + 2) + "|"]
    for name in metrics:
        cells = [show(results.metrics[s].get(name), name) for s in splits]
        lines.append(f"| {_text(name)} | {' | '.join(cells)} | {show(results.chance.get(name), name)} |")
    if any(is_share(name) for name in metrics):
        lines += ["", "Chance is the level of uniform guessing."]
    return lines


def _training(config: RunConfig, results: RunResults | None) -> dict[str, str]:
    train = config.train
    about = {key.replace("_", " "): _text(train[key]) for key in ("learning_rate", "batch_size", "precision") if key in train}
    if config.tuned:
        about["tuned on validation data"] = ", ".join(f"{_text(k)} = {_text(v)}" for k, v in config.tuned.items())
    if results is None:
        return about
    parameters, memory, time = results.parameters, results.memory, results.time
    about["optimizer steps"] = f"{results.steps:,} ({results.epochs:g} epochs)"
    if parameters.get("trainable") is not None:
        share = parameters.get("trainable_percent")
        about["trainable parameters"] = show_count(parameters["trainable"]) + (
            f" of {show_count(parameters.get('total'))} ({share:.3g} %)" if isinstance(share, int | float) else ""
        )
    if memory.get("measured_peak_mb") is not None:
        about["peak memory, measured"] = f"{memory['measured_peak_mb']:,.0f} MB"
    if time.get("train_s") is not None:
        about["training time"] = f"{time['train_s']:.3g} s"
    return about


def _list(about: Mapping[str, str]) -> list[str]:
    return [f"* {name}: {value}" for name, value in about.items()]


def _spec(spec: Mapping[str, Any]) -> str:
    options = ", ".join(f"{k} = {v}" for k, v in spec.items() if k != "name" and v is not None)
    return _code(str(spec.get("name", ""))) + (f" ({_text(options)})" if options else "")


def _text(value: Any) -> str:
    """Text that Markdown and HTML print as it stands, on one line."""
    text = re.sub(r"\s+", " ", str(value))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", text)


def _code(value: str) -> str:
    return "`" + re.sub(r"\s+", " ", value).replace("`", "'") + "`"
