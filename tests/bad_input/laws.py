"""What every message must be, whatever the mistake."""

from __future__ import annotations

import re

from tests.bad_input.case import Case, Said

MOST = 600  #: letters of a message; a screen of 80 columns shows them in eight lines
#: words of the machinery; a user of peftlab knows none of them
FOREIGN = re.compile(
    r"Traceback|pydantic|Input should be|Field required|Value error|NoneType|Errno|TypeError|KeyError|ValueError|<class"
    r"|object at 0x|\bdict\b|\btuple\b|frozenset|unhashable|docs/study-file|Expecting |codec can't|subset of|Extra inputs"
)


def broken(case: Case, said: Said) -> list[str]:
    """The laws that a message breaks, in words. An answer that says what is wrong (``verify``) is read on standard output."""
    answered = bool(said.out) and bool(case.words)
    laws = {
        f"exit code {said.code}, not {case.code}": said.code == case.code,
        "an answer on standard output": not said.out or answered,
        "something before the message, or none": answered or said.error.startswith("error "),
        "several messages": said.error.count("\nerror ") == 0,
        "no remedy": answered or said.error.count("\n   -> ") == 1,
        f"longer than {MOST} letters": answered or len(said.words) <= MOST,
        f"a word of the machinery: {FOREIGN.findall(said.error)}": bool(case.words) or not FOREIGN.search(said.error),
        "runs were made": not [*said.folder.glob("results/*/runs")] or "results" in case.files,
        **{f"does not say: {word}": word in said.words for word in case.words},
    }
    return [law for law, holds in laws.items() if not holds]
