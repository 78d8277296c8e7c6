"""What a causal model makes of new prompts, decoded greedily."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from peftlab.api._model_folder import Exported, load_module
from peftlab.api._predict_texts import texts_of
from peftlab.api.answers import Answer, lines, table
from peftlab.registry import create
from peftlab.tasks._causal import CausalTask, text_ends
from peftlab.tasks._prompts import fitted, tokenize_prompts
from peftlab.tasks._tokens import load_tokenizer
from peftlab.tasks.contract import TextPreprocessing

MOST = 256  #: tokens of a continuation


def predict_continuations(folder: Path, exported: Exported, inputs: Sequence[str]) -> Answer:
    """Continue texts, lines of ``.txt`` files and rows of tables; of the columns of training the first is enough.

    The prompt is what it was in training. Of one that leaves less than half of the length trained with, and at most
    :data:`MOST` tokens, for the continuation, the beginning is cut, and it is named.

    Raises:
        DataError: a table lacks the column or has no text in it, nothing is there.
    """
    names, texts = texts_of(inputs, exported.columns, needed=1)
    prepared = exported.preprocessing
    assert isinstance(prepared, TextPreprocessing)
    task: CausalTask = create("task", exported.config.task, key="kind", where="task")
    prompts = tokenize_prompts([task.prompt(text) for text in texts], prepared)
    tokenizer, (start, end) = load_tokenizer(prepared.tokenizer), text_ends(prepared.tokenizer)
    model: Any = load_module(folder, exported)
    found: list[dict[str, Any]] = []
    cut: list[str] = []
    for name, ids in zip(names, prompts, strict=True):
        kept, room = fitted(len(start), len(ids) - len(start), min(MOST, prepared.max_length), prepared.max_length)
        if kept < len(ids) - len(start):
            cut.append(name)
        given = torch.tensor([[*start, *ids[len(ids) - kept :]]] if kept else [ids])
        with torch.inference_mode():  # one by one: no padding that a model could see
            whole = model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                do_sample=False,
                num_beams=1,
                max_new_tokens=room,
                eos_token_id=end,
                pad_token_id=end,
            )
        new = whole[0, given.shape[1] :].tolist()
        ended = bool(new) and new[-1] == end
        text = tokenizer.decode(new[:-1] if ended else new, skip_special_tokens=True)
        found.append({"text": name, "continuation": text, "tokens": len(new), "ended": ended})
    data = {
        "model": folder,
        "label": exported.config.label,
        "run_id": exported.config.run_id,
        "predictions": found,
        "cut": cut,
    }
    return Answer(data, lambda: _shown(found, cut))


def _shown(found: list[dict[str, Any]], cut: list[str]) -> Any:
    drawn = table(["prompt", "continuation"], ([entry["text"], entry["continuation"]] for entry in found))
    unfinished = sum(not entry["ended"] for entry in found)
    return lines(
        drawn,
        f"{len(found)} prompts" + (f", {unfinished} continuations without an end" if unfinished else ""),
        f"{len(cut)} prompts were too long and lost their beginning: {', '.join(cut[:5])}" if cut else None,
    )
