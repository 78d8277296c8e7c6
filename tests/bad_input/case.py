"""One mistake: the files it is made with, the command line, and what the message must hold; and how it is made and read."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from peftlab import cli

WIDTH = 80
Content = str | bytes | Callable[[Path], object]

#: a study without a mistake, which most cases change in one place
STUDY = """\
study: small
backbone: bundled:vit-nano
task: {kind: image-classification, data: digits}
seeds: [0, 1]
train: {epochs: 2, learning_rate: 1e-3}
arms:
  full: {adapter: full, learning_rate: 1e-4}
  lora: {adapter: {name: lora, rank: [2, 8]}}
analysis: {metric: accuracy, baseline: full, margin: {relative: 0.03}}
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """``world/`` in a command is the folder of finished results, exported models and backbones that all cases share."""

    name: str
    command: str
    #: of a message that a library words in part, or an answer that says what is wrong: these must be in it; else the message
    #: is the one of ``messages.txt``, to the letter
    words: tuple[str, ...] = ()
    code: int = 2
    files: Mapping[str, Content] = dataclasses.field(default_factory=dict)

    @property
    def of_world(self) -> bool:
        """Whether it needs what all cases share, which takes seconds to make."""
        texts = [self.command, *(content for content in self.files.values() if isinstance(content, str))]
        return any("world" in text for text in texts) or any(getattr(c, "of_world", False) for c in self.files.values())


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """What came of a command line."""

    code: int
    out: str
    error: str
    folder: Path

    @property
    def message(self) -> str:
        """As it is kept in ``messages.txt``: without the temporary folder's name."""
        return self.error.replace(str(self.folder.resolve()), "FOLDER").replace(str(self.folder), "FOLDER").strip()

    @property
    def words(self) -> str:
        """All that was shown in one line, wherever the terminal broke it."""
        return " ".join(f"{self.error} {self.out}".split())


def study(
    name: str, *edits: tuple[str, str], words: tuple[str, ...] = (), code: int = 2, files: Mapping[str, Content] | None = None
) -> Case:
    """``peftlab plan`` of :data:`STUDY` with texts in it replaced; ``files``: further ones."""
    text = STUDY
    for old, new in edits:
        assert old in text, (name, old)
        text = text.replace(old, new, 1)
    return Case(name=name, command="plan s.yaml", words=words, code=code, files={"s.yaml": text, **(files or {})})


def arm(name: str, text: str, words: tuple[str, ...] = (), code: int = 2, files: Mapping[str, Content] | None = None) -> Case:
    """``peftlab plan`` of :data:`STUDY` with an arm ``mine`` in place of ``lora``."""
    return study(name, ("  lora: {adapter: {name: lora, rank: [2, 8]}}", f"  mine: {text}"), words=words, code=code, files=files)


def line(name: str, command: str, words: tuple[str, ...] = (), code: int = 2, files: Mapping[str, Content] | None = None) -> Case:
    """A command line as it is."""
    return Case(name=name, command=command, words=words, code=code, files=files or {})


def made(case: Case, folder: Path, world: Path | None) -> None:
    """Write the files of a case into an empty folder."""
    if world is not None:
        (folder / "world").symlink_to(world, target_is_directory=True)
    for name, content in {"good.yaml": STUDY, **case.files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def run(case: Case, folder: Path, cache: Path) -> Said:
    """Type the command line in the folder, in this process."""
    out, error = io.StringIO(), io.StringIO()
    arguments = ["peftlab", *shlex.split(case.command)]
    with _as_typed(arguments, folder, cache), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    return Said(code, out.getvalue(), error.getvalue(), folder)


@contextlib.contextmanager
def _as_typed(arguments: list[str], folder: Path, cache: Path) -> Iterator[None]:
    before, argv = dict(os.environ), sys.argv
    os.environ.update(PEFTLAB_CACHE=str(cache), COLUMNS=str(WIDTH), NO_COLOR="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    sys.argv = arguments
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(before)
