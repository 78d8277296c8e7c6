"""Questions about small paragraphs, in SQuAD's JSON, answered by a word or two that a tiny model can learn to point at."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

from tests.tasks.texts import BAD, GOOD, shelf

THINGS = "film story plot music actors scene".split()


def paragraph(draws: random.Random, things: int) -> tuple[str, dict[str, str]]:
    """``the film is very warm . the plot is dull .``, and which thing is what."""
    said = {thing: draws.choice(GOOD + BAD) for thing in draws.sample(THINGS, things)}
    return " ".join(f"the {thing} is {'very ' * draws.randint(0, 1)}{word} ." for thing, word in said.items()), said


def articles(count: int, seed: int, longest: int = 5) -> list[dict[str, Any]]:
    """``count`` paragraphs of 1 to ``longest`` sentences with three questions each; two of three have an answer."""
    draws = random.Random(seed)
    found = []
    for number in range(count):
        context, said = paragraph(draws, draws.randint(1, longest))
        qas = []
        for which in range(3):
            possible = which > 0
            thing = draws.choice(sorted(said) if possible else sorted(set(THINGS) - set(said)))
            begin = context.find("is ", context.index(f"the {thing} ")) + 3 if possible else 0
            text = context[begin : context.index(" .", begin)] if possible else ""
            answers = (
                [{"text": text, "answer_start": begin}, {"text": text.split()[-1], "answer_start": begin}] if possible else []
            )
            if answers and " " in text:
                answers[1]["answer_start"] = begin + len(text) - len(text.split()[-1])
            qas.append(
                {
                    "id": f"{seed}-{number}-{which}",
                    "question": f"the {thing} is",
                    "answers": answers,
                    "is_impossible": not possible,
                }
            )
        found.append({"title": f"number {number}", "paragraphs": [{"context": context, "qas": qas}]})
    return found


def write_squad(folder: Path, train: int = 60, dev: int = 20, longest: int = 5) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", train, 0), ("dev", dev, 1)):
        content = {"version": "v2.0", "data": articles(count, seed, longest)}
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@functools.cache
def shared_squad() -> Path:
    return write_squad(shelf() / "squad")
