"""The guides do what they say: their files are written, their commands run in order, and their wrong turns end as shown.

A fenced block with a title is a file; ``bash`` is run; ``console`` is a wrong turn, whose lines must be in what is printed;
``text`` shows output. Studies are shortened by their own options, data and backbones are small ones made here.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from peftlab.cli import main
from peftlab.records.store import ResultsFolder
from tests.contracts.tiny import make
from tests.tasks.texts import make_bert, sentences

GUIDES = Path(__file__).parents[1] / "docs" / "guides"
BLOCK = re.compile(r'^```(\w+)(?: title="([\w.-]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
#: options that shorten a study, by verb
SHORT = {verb: ["--set", "train.max_steps=3", "--set", "seeds=[0, 1]"] for verb in ("plan", "check", "run")}

pytestmark = pytest.mark.slow


def blocks(guide: str) -> list[tuple[str, str, str]]:
    """(language, title, content) in order."""
    return [(kind, title, text) for kind, title, text in BLOCK.findall((GUIDES / guide).read_text(encoding="utf-8"))]


class Walk:
    """A reader with a folder of their own, who types what a guide says."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.capsys, self.monkeypatch = folder, capsys, monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PEFTLAB_CACHE", str(folder / ".cache"))
        monkeypatch.setenv("COLUMNS", "200")
        self.printed: dict[str, str] = {}  #: command -> what it printed

    def follow(self, guide: str, short: dict[str, list[str]]) -> None:
        for kind, title, text in blocks(guide):
            if title:
                (self.folder / title).write_text(text, encoding="utf-8")
            elif kind == "bash":
                for line in text.splitlines():
                    assert self.type(line, short) == 0, f"{line}\n{self.printed[line]}"
            elif kind == "console":
                command, *lines = text.splitlines()
                line = command.removeprefix("$ ")
                assert self.type(line, short) not in (0, 70), line
                for shown in lines:  # numbers of the whole study are left out as `...`
                    parts = map(re.escape, shown.split("..."))
                    assert re.search(".*".join(parts), " ".join(self.printed[line].split())), f"{line}\n{self.printed[line]}"

    def type(self, line: str, short: dict[str, list[str]]) -> int:
        """The exit code."""
        program, *arguments = shlex.split(line)
        self.capsys.readouterr()
        if program == "python":
            runpy.run_path(str(self.folder / arguments[0]), run_name="__main__")
            code: Any = 0
        else:
            assert program == "peftlab", f"a guide types {line!r}"
            extra = short.get(arguments[0], [])
            self.monkeypatch.setattr(sys, "argv", ["peftlab", *arguments[:2], *extra, *arguments[2:]])
            try:
                code = main()
            except SystemExit as stop:
                code = stop.code
        found = self.capsys.readouterr()
        self.printed[line] = found.out + found.err
        return int(code or 0)

    def scores(self, study: str) -> dict[tuple[str, int], float]:
        """(arm, seed) -> test accuracy of finished runs."""
        found = {}
        for run in ResultsFolder(self.folder / "results" / study).runs("evaluation"):
            results, config = run.results(), run.config()
            assert results is not None
            found[config.label, config.seed] = results.metrics["test"]["accuracy"]
        return found


@pytest.fixture
def walk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Walk:
    return Walk(tmp_path, capsys, monkeypatch)


@pytest.fixture
def agrees(walk: Walk) -> Callable[[str, dict[str, str], str], None]:
    """Whether plain libraries, as typed in the guide, gave the labels and confidences of ``peftlab predict``, twice each."""

    def check(command: str, kind: dict[str, str], separator: str) -> None:
        walk.type(command + " --json", {})
        ours = {entry[kind["is"]]: entry for entry in json.loads(walk.printed[command + " --json"])["predictions"]}
        lines = [line for line in walk.printed["python outside.py"].splitlines() if re.search(r" \d\.\d{3}$", line)]
        assert lines
        for line in lines:
            name, *told = re.match(rf"(.*?){separator}(.*) (\d\.\d{{3}}){separator}(.*) (\d\.\d{{3}})$", line).groups()  # pyright: ignore
            entry = ours[name]
            assert told[0] == told[2] == entry["label"] or max(map(float, told[1::2])) - entry["top"][1]["confidence"] < 2e-3
            for confidence in told[1::2]:
                assert float(confidence) == pytest.approx(entry["confidence"], abs=2e-3)

    return check


def draw(folder: Path, count: int, seed: int) -> None:
    """Photographs of two kinds: one is dark, one is bright."""
    draws = np.random.default_rng(seed)
    for kind, level in (("ants", 40), ("bees", 190)):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(draws.normal(level, 30, (60 + number % 3, 70, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{number:02}.{'png' if number % 2 else 'jpg'}")


def ask(folder: Path) -> None:
    """Seven articles in SQuAD's form, with 20 to 26 questions each, some with a comma."""
    articles = []
    for number in range(7):
        texts = [f"{text}, in {number}?" for text, _ in sentences(20 + number, seed=number)]
        asked = [{"id": f"{number}-{place}", "question": text} for place, text in enumerate(texts)]
        articles.append({"title": f"Topic_{number}", "paragraphs": [{"qas": asked}]})
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps({"data": articles}), encoding="utf-8")


def test_own_images(walk: Walk, agrees: Callable[[str, dict[str, str], str], None]) -> None:
    draw(walk.folder / "ants-and-bees", 25, seed=0)
    draw(walk.folder / "new", 3, seed=1)
    make("timm", walk.folder / "vit-tiny")
    short = {verb: [*options, "--set", "tune.learning_rate=[1e-2]"] for verb, options in SHORT.items()}
    walk.follow("own-images.md", short)
    assert "2 classes (ants, bees)" in walk.printed["peftlab plan insects.yaml"]
    assert set(walk.scores("insects")) == {(arm, seed) for arm in ("full", "probe", "lora") for seed in (0, 1)}
    assert (walk.folder / "results/insects/report/index.html").is_file() and (
        walk.folder / "results/insects/paper/main.tex"
    ).is_file()
    agrees("peftlab predict ants-merged new", {"is": "file"}, " ")


def test_own_texts(walk: Walk, agrees: Callable[[str, dict[str, str], str], None]) -> None:
    ask(walk.folder / "squad_v2")
    make_bert(walk.folder / "minilm")
    write_files(walk, "own-texts.md", "make_csv.py")
    walk.type("python make_csv.py", {})
    raw = (walk.folder / "questions.csv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf") and raw.endswith(b"\r\n,,\r\n")
    walk.follow("own-texts.md", SHORT)
    assert set(walk.scores("topics")) == {(arm, seed) for arm in ("probe", "lora") for seed in (0, 1)}
    assert (walk.folder / "results/topics/paper/main.tex").is_file()
    texts = '"Who founded the city?" "Who presides over debates in parliament?"'
    agrees(f"peftlab predict topics-merged {texts}", {"is": "text"}, r" \| ")


def test_existing_adapter(walk: Walk, agrees: Callable[[str, dict[str, str], str], None]) -> None:
    walk.follow("existing-adapter.md", {verb: ["--set", "train.max_steps=3"] for verb in SHORT})
    scores = walk.scores("compare")
    printed = re.findall(r"seed (\d): test accuracy (\d\.\d{4})", walk.printed["python elsewhere.py"])
    assert len(printed) == 3
    for seed, accuracy in printed:  # what the script measured with plain PEFT is what the import measures
        assert scores["theirs", int(seed)] == pytest.approx(float(accuracy), abs=5e-5)
    assert "Trained elsewhere: theirs." in walk.printed["peftlab report results/compare"]
    agrees("peftlab predict lora-merged digit-images/test/3", {"is": "file"}, " ")


def write_files(walk: Walk, guide: str, name: str) -> None:
    (text,) = (text for _, title, text in blocks(guide) if title == name)
    (walk.folder / name).write_text(text, encoding="utf-8")
