"""Things that leave a mark when they are run: a pickle, a module, a loading script."""

from __future__ import annotations

import pickle
from pathlib import Path


class Pickled:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def pickled(mark: Path) -> bytes:
    return pickle.dumps({"weight": Pickled(mark)})


def module(mark: Path) -> str:
    """Source code that makes a file when it is imported."""
    head = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    return head + "class Evil:\n    pass\nEvilConfig = EvilModel = EvilTokenizer = Evil\n"
