"""Fuzz the readers of what strangers write, studies and data files: every outcome is data or a typed error, or it is a find.

    python tools/fuzz.py [study|table|squad|npz|text] [--seconds 60]

One reader with Atheris (pip install atheris; not on every platform): the inputs follow the coverage. Else valid inputs are
changed at random. What breaks a reader is written to build/fuzz/.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import random
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from peftlab.errors import PeftlabError

FINDS = Path(__file__).parents[1] / "build" / "fuzz"


def _study(content: bytes, folder: Path) -> None:
    from peftlab.study.load import load_study

    (folder / "s.yaml").write_bytes(content)
    load_study(folder / "s.yaml")


def _table(content: bytes, folder: Path) -> None:
    from peftlab.tasks.text.tables import SUFFIXES, Tables

    for suffix in SUFFIXES:
        path = folder / f"train{suffix}"
        path.write_bytes(content)
        try:
            Tables(path=str(path)).read()
        except PeftlabError:
            continue


def _squad(content: bytes, folder: Path) -> None:
    from peftlab.tasks.text.squad_json import SquadJson

    (folder / "train.json").write_bytes(content)
    SquadJson(path=str(folder / "train.json")).read()


def _npz(content: bytes, folder: Path) -> None:
    from peftlab.tasks.data.npz import Npz

    (folder / "train.npz").write_bytes(content)
    Npz(path=str(folder / "train.npz")).read()


def _text(content: bytes, folder: Path) -> None:
    from peftlab.tasks.text.text_files import TextFiles

    (folder / "train.txt").write_bytes(content)
    TextFiles(path=str(folder / "train.txt"), separator="|").read()


READERS: dict[str, Callable[[bytes, Path], None]] = {
    "study": _study, "table": _table, "squad": _squad, "npz": _npz, "text": _text,
}  # fmt: skip


#: what readers stumble over
ODD = (b"\0", b"[" * 9, b"{", b'"', b"\xff", b"9" * 30, b"\n", b": ", b"\\ud800", b"-")


def seeds(name: str) -> list[bytes]:
    """Valid inputs to begin from."""
    if name == "npz":
        import numpy as np

        stream = io.BytesIO()
        np.savez(stream, images=np.zeros((4, 2, 2, 3), np.uint8), labels=np.arange(4) % 2)
        return [stream.getvalue()]
    answers = b'[{"text": "she", "answer_start": 0}]'
    question = b'{"context": "she did", "qas": [{"id": "1", "question": "who?", "answers": ' + answers + b"}]}"
    found = {
        "study": [path.read_bytes() for path in sorted((Path(__file__).parents[1] / "studies").glob("*.yaml"))[:5]],
        "table": [b"text\tlabel\na\t0\n", b'text,label\n"a",0\n', b'[{"text": "a", "label": 0}]', b'{"text": "a", "label": 0}\n'],
        "squad": [b'{"data": [{"title": "t", "paragraphs": [' + question + b"]}]}"],
    }
    return found.get(name, [b"one|two"])


def check(name: str, content: bytes) -> None:
    """One input; what is neither data nor a typed error is kept and raised."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            READERS[name](content, Path(folder))
        except PeftlabError:
            pass
        except BaseException:
            FINDS.mkdir(parents=True, exist_ok=True)
            (FINDS / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}").write_bytes(content)
            raise


def mutated(content: bytes, generator: random.Random) -> bytes:
    """A few bytes overwritten, put in, taken out or repeated."""
    found = bytearray(content)
    for _ in range(generator.randint(1, 8)):
        place = generator.randrange(len(found) + 1)
        kind = generator.randrange(4)
        if kind == 0:
            found[place : place + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            found[place:place] = generator.choice(ODD)
        elif kind == 2:
            del found[place : place + generator.randint(1, 9)]
        else:
            found[place:place] = found[place : place + generator.randint(1, 40)] * generator.randint(1, 9)
    return bytes(found)


def with_coverage(name: str, seconds: float) -> int:
    """Atheris, from the valid inputs on; it ends the process when the time is over."""
    atheris = importlib.import_module("atheris")
    atheris.instrument_all()
    with tempfile.TemporaryDirectory() as corpus:
        for number, content in enumerate(seeds(name)):
            (Path(corpus) / str(number)).write_bytes(content)
        arguments = [sys.argv[0], corpus, f"-max_total_time={seconds:.0f}", "-max_len=8192"]
        atheris.Setup(arguments, lambda content: check(name, content))
        atheris.Fuzz()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("reader", nargs="?", choices=READERS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    names = [asked.reader] if asked.reader else list(READERS)
    if find_spec("atheris") is not None and asked.reader:
        return with_coverage(asked.reader, asked.seconds)
    for name in names:
        generator, end, count = random.Random(asked.seed), time.monotonic() + asked.seconds / len(names), 0
        while time.monotonic() < end:
            content = generator.choice(seeds(name))
            check(name, mutated(content, generator) if count else content)
            count += 1
        print(f"{name}: {count} inputs, every one data or a typed error")
    return 0


if __name__ == "__main__":
    sys.exit(main())
