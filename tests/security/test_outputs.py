"""One real study whose names, data and surroundings are hostile: nothing of it acts in what is written, and no secret is kept."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from peftlab.analysis.safe_csv import safe_cell

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CLASSES = [
    "<img src=x onerror=alert(1)>",
    '=HYPERLINK("http:--198.51.100.1","x")',
    r"\input{main} \write18{touch pwned} $x^2_",
    "'; touch pwned; $(touch pwned) `touch pwned`",
    "</script><script>alert(2)</script>".replace("/", "\u2215"),
    "{{7*7}}{% raw %}%s{0}",
]
QUESTION = "</script><script>alert(3)</script> \\input{/etc/passwd}\\write18{touch pwned} =1+1 {{7*7}} {% x %} & % # _ ^ ~ $"
#: name of a variable -> its value; none may be found in any file
SECRETS = {
    "HF_TOKEN": "hf_" + "Zq7" * 11,
    "WANDB_API_KEY": "c0ffee15900d" + "a1b2c3d4" * 4,
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI+K7MDENG+bPxRfiCYCANARYKEY",
    "MLFLOW_TRACKING_PASSWORD": "canary-Passw0rd-19c83a77",
    "MY_SERVICE_TOKEN": "canary-5f3a9b2c-in-a-path",
}
STUDY = """
study: hostile
question: {question}
source: {question}
cost: {question}
backbone: bundled:vit-nano
task: {{kind: image-classification, data: pictures, validation: 0.4}}
seeds: [0, 1]
train: {{max_steps: 2, batch_size: 8}}
trackers: [tensorboard]
arms:
  full: {{adapter: full, learning_rate: 1e-4}}
  lora: {{adapter: {{name: lora, rank: 2}}}}
  broken: {{adapter: full, learning_rate: 1e30, clip_norm: 1e30}}
analysis: {{metric: accuracy, baseline: full}}
"""


def peftlab(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **SECRETS, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
                   "PEFTLAB_CACHE": str(folder / "cache"), "INNOCENT": "canary-innocent-variable"}  # fmt: skip
    command = [sys.executable, "-m", "peftlab", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything a study writes: records, tracker, analysis, report, paper, exported adapter, bundle."""
    folder = tmp_path_factory.mktemp("study")
    for number, name in enumerate(CLASSES):
        for split, count in (("train", 6), ("test", 2)):
            (folder / "pictures" / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (40 * number, 10 * i, 99)).save(folder / "pictures" / split / name / f"{i}.png")
    (folder / "s.yaml").write_text(STUDY.format(question=json.dumps(QUESTION)))
    output = folder / SECRETS["MY_SERVICE_TOKEN"]
    done = peftlab("run", "s.yaml", "--output", str(output), folder=folder)
    assert done.returncode in (0, 1), done.stderr
    results = output / "hostile"
    assert (results / "report" / "index.html").is_file(), done.stderr
    for verb in (("paper", "--sources"), ("status",), ("verify",)):
        made = peftlab(verb[0], str(results), *verb[1:], folder=folder)
        assert made.returncode == 0, made.stderr
    run = next((results / "runs" / "lora").iterdir()).name
    made = peftlab("export", str(results), run, str(folder / "exported"), folder=folder)
    assert made.returncode == 0, made.stderr
    (folder / "stderr.log").write_text(done.stderr)
    return results


def written(place: Path) -> list[Path]:
    roots = (place, place.parents[1] / "exported", place.parents[1] / "stderr.log")
    return [path for root in roots for path in (root.rglob("*") if root.is_dir() else [root]) if path.is_file()]


def test_no_secret_is_in_any_file(place: Path) -> None:
    files = written(place)
    assert len(files) > 60
    kept = {*SECRETS.values(), "canary-innocent-variable"}
    leaks = [(path.name, value) for path in files for value in kept if value.encode() in path.read_bytes()]
    assert not leaks


def test_a_failed_run_tells_its_error_without_the_secret(place: Path) -> None:
    errors = [json.loads(path.read_text()) for path in place.glob("runs/broken/*/error.json")]
    outcomes = [json.loads(path.read_text()) for path in place.glob("runs/broken/*/results.json")]
    assert errors or any(outcome["status"] == "diverged" for outcome in outcomes), "the arm was to break"


def test_nothing_ran(place: Path) -> None:
    assert not list(place.parents[1].rglob("pwned*"))
    names = {path.name for path in place.parents[1].iterdir()}
    assert names == {"pictures", "s.yaml", SECRETS["MY_SERVICE_TOKEN"], "cache", "exported", "stderr.log"}


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.addresses: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {key: value or "" for key, value in attrs}
        self.handlers += [key for key in values if key.startswith("on")]
        self.addresses += [values[key] for key in ("src", "href", "action", "xlink:href") if key in values]
        if values.get("http-equiv", "").lower() == "content-security-policy":
            self.policy = values["content"]


def test_the_page_has_our_scripts_alone_and_a_policy(place: Path) -> None:
    text = (place / "report" / "index.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert "default-src 'none'" in page.policy and "unsafe-inline" not in page.policy.split("script-src")[1].split(";")[0]
    assert page.handlers == []
    assert page.tags.count("script") == 2, "the data and the program"
    outside = [address for address in page.addresses if re.match(r"(?i)\s*(https?:|//|javascript:|data:text)", address)]
    assert all(address.startswith(("https://doi.org", "https://arxiv.org")) for address in outside), outside
    assert "alert(3)" in text and "<script>alert" not in text and "49 {% x" not in text


def test_no_cell_starts_a_formula(place: Path) -> None:
    tables = [path for path in place.rglob("*.csv") if "trackers" not in path.parts]
    assert tables
    for path in tables:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.reader(stream):
                for cell in row:
                    number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|-?inf|nan", cell)
                    assert number or safe_cell(cell) == cell, (path.name, cell)


def test_tex_has_no_command_of_theirs(place: Path) -> None:
    sources = [*place.rglob("*.tex"), *place.rglob("*.bib")]
    assert len(sources) > 5
    for path in sources:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\\(input|include|write18|openout|catcode)\s*\{?\s*(/etc|touch|main\})", text), path
        assert "\\write18" not in text, path


def test_the_model_card_is_words(place: Path) -> None:
    card = (place.parents[1] / "exported" / "README.md").read_text(encoding="utf-8")
    assert "<script>" not in card and "<img" not in card
