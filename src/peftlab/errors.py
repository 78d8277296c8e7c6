"""Typed errors. Every one says what is wrong, where, and what to do about it.

Exit codes of the command line (also in docs/cli.md):

==== =====================================================================
code meaning
==== =====================================================================
0    done
1    the study ended, but at least one run failed; doctor: something here does not work
2    the study file, an option or the command line is wrong
3    the data are wrong
4    the backbone cannot be had
5    the plan refuses what was asked
6    the records cannot be read or written, or another runner holds them
7    training stopped on a broken promise (non-finite, nothing moved, ...); check: an arm does not do what it says
8    an optional part is not installed
9    LaTeX stopped at the paper
10   a run that was reproduced came out different
70   a bug in peftlab; the traceback is printed
75   stopped on request (SIGTERM); run again to continue
130  stopped on request (Ctrl-C); run again to continue
==== =====================================================================
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import re
from collections.abc import Iterable
from pathlib import Path


class PeftlabError(Exception):
    """Base of all errors that are raised on purpose.

    Args:
        what: the fact, in one sentence.
        where: file, key path, row, module or run concerned.
        remedy: what the reader can do now.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.remedy = what, where, remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  -> {self.remedy}" if self.remedy else text

    def __reduce__(self):  # crosses process borders whole
        return _rebuild, (type(self), self.what, self.where, self.remedy)

    def as_json(self) -> dict[str, str]:
        """The form kept in ``error.json``."""
        return {"type": type(self).__name__, "what": self.what, "where": self.where, "remedy": self.remedy}


def _rebuild(cls: type[PeftlabError], what: str, where: str, remedy: str) -> PeftlabError:
    return cls(what, where=where, remedy=remedy)


class StudyError(PeftlabError):
    """The study file is wrong: unknown key, bad value, contradiction."""

    exit_code = 2


class OptionError(StudyError):
    """An option of a component (adapter, task, ...) is wrong."""


class DataError(PeftlabError):
    """Data are missing, unreadable or not what the task needs."""

    exit_code = 3


class BackboneError(PeftlabError):
    """The backbone is not found, not loadable or does not fit the task."""

    exit_code = 4


class PlanRefused(PeftlabError):
    """What was asked cannot be run here; nothing was started."""

    exit_code = 5


class RecordError(PeftlabError):
    """A record is damaged, incomplete or cannot be written."""

    exit_code = 6


class LeaseHeld(RecordError):
    """Another live process works on this run."""


class TrainingError(PeftlabError):
    """Training stopped because it could not keep what the arm's name promises."""

    exit_code = 7


class NonFinite(TrainingError):
    """A loss or gradient became NaN or infinite."""


class DidNothing(TrainingError):
    """A method had no effect: tensors that never moved, an option that was ignored."""


class BaseChanged(TrainingError):
    """A frozen weight changed during training."""


class OutOfMemory(TrainingError):
    """The device ran out of memory."""


class WorkerDied(PeftlabError):
    """The process of a run ended without leaving a result or an error: killed, or crashed in native code."""


class Hung(WorkerDied):
    """A run said nothing for longer than its study allows, and was ended."""


class MissingExtra(PeftlabError):
    """An optional dependency is not installed."""

    exit_code = 8


class LatexError(PeftlabError):
    """LaTeX stopped at the paper."""

    exit_code = 9


class Stopped(PeftlabError):
    """Stopped by a signal at a step boundary, checkpoint written."""

    exit_code = 75


def nearest(word: str, known: Iterable[str]) -> str:
    """``Did you mean 'rank'?`` for a mistyped word, else the list of what is known."""
    known = sorted(known)
    if found := close(word, known):
        return found
    if len(known) > 30:
        return f"None of the {len(known)} known names is close."
    return "Known: " + ", ".join(known) + "." if known else "Nothing is known here."


def close(word: str, known: Iterable[str]) -> str:
    """``Did you mean 'rank'?``, or nothing where no known word is close: other letters, its initials, or a part of it."""
    plain = {_plain(name): name for name in sorted(known)}
    wanted = _plain(word)
    found = difflib.get_close_matches(wanted, plain, n=1, cutoff=0.6)
    if not found and wanted:
        initials = {"".join(part[0] for part in name.split()): name for name in plain if name}
        found = [initials[wanted]] if len(wanted) > 1 and wanted in initials else _held_in(wanted, plain)
    return f"Did you mean {plain[found[0]]!r}?" if found else ""


def absent(path: Path, otherwise: str, *, also: Iterable[str] = ()) -> str:
    """The remedy for a path that leads nowhere: its first part that is not there, and what is nearly called so.

    Args:
        otherwise: what to do where nothing is.
        also: words that could have been meant, too.
    """
    while not path.parent.is_dir() and path.parent != path:
        path = path.parent
    return f"{path.name!r} is not in {path.parent.resolve()}; {close(path.name, [*beside(path), *also]) or otherwise}"


def beside(path: Path, most: int = 2000) -> list[str]:
    """Names in the folder of a path; none where that cannot be read."""
    with contextlib.suppress(OSError):
        return [other.name for other in itertools.islice(path.parent.iterdir(), most)]
    return []


def _held_in(wanted: str, known: Iterable[str]) -> list[str]:
    """The one name whose words all stand in the wrong one: ``halving`` in ``successive halving``; two letters prove nothing."""
    words = {*wanted.split()}
    held = [name for name in known if len(name) > 2 and words > {*name.split()}]
    return held if len(held) == 1 else []


def _plain(word: str) -> str:
    """``Learning-Rate`` as ``learning rate``."""
    return " ".join(re.findall(r"[^\s_-]+", word.lower())) or word


def install(extra: str) -> str:
    """The command that brings an optional part: from the folder of the source where peftlab runs out of it."""
    if (Path(__file__).parents[2] / "constraints.txt").is_file():
        return f"in peftlab's own folder: python -m pip install --constraint constraints.txt --editable '.[{extra}]'"
    return f"pip install 'peftlab[{extra}]'"
