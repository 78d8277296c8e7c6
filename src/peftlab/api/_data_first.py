"""The data of a study are prepared once before anything trains: what is wrong with them is told once, and not by every run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from peftlab.errors import BackboneError, DataError, PeftlabError


def prepare_first(asked: Iterable[tuple[str, Mapping[str, Any]]], cache: Path) -> Iterator[str]:
    """Prepare data into the cache that all runs share, and tell what there is to know of them.

    Args:
        asked: backbone and task of every run; alike ones are prepared once.
        cache: where prepared data are kept.

    Yields:
        what was skipped, what the splits share: the task's warnings.

    Raises:
        DataError: images or texts that cannot be read.
        BackboneError: a backbone that no arm can be tried on. Whatever else is wrong is left to those who say it better.
    """
    for backbone, spec in {json.dumps(pair, sort_keys=True, default=str): pair for pair in asked}.values():
        try:
            warnings = _prepared(backbone, spec, cache).info.warnings
        except (DataError, BackboneError):
            raise
        except PeftlabError:
            continue
        yield from dict.fromkeys(warnings)


def unfinished(folder: Any, plan: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Backbone and task of every run of a plan that is still to do."""
    for item in (*plan.tuning, *plan.runs):
        if item.config is not None and not item.refusal and folder.run(item.config).status() != "finished":
            yield item.config.backbone, item.config.task


def _prepared(backbone: str, spec: Mapping[str, Any], cache: Path) -> Any:
    from peftlab.backbones.resolve import source_of
    from peftlab.registry import create

    task: Any = create("task", spec, key="kind", where="task")
    source = source_of(backbone)
    if task.input_kind == "text":
        return task.prepare(source.text_preprocessing(backbone, task.head), cache)
    return task.prepare(source.preprocessing(backbone, spec.get("image_size")), cache)
