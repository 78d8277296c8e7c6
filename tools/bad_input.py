"""Every message of the catalogue of bad input on one page, as a user sees it at 80 columns, to be read by a person.

    python tools/bad_input.py [--keep] [WORDS ...]

WORDS: only the cases whose name or section holds one of them. --keep: what they said goes into tests/bad_input/messages.txt, with
which the tests compare: read it first. Exit code 1 where a message breaks a law (tests/bad_input/laws.py).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.bad_input.case import Case, Said, made, run
from tests.bad_input.catalogue import SECTIONS
from tests.bad_input.laws import broken
from tests.bad_input.page import FILE, compared, entry, kept
from tests.bad_input.world import make_world


def main() -> int:
    parser = argparse.ArgumentParser(description="Print every message of the catalogue of bad input.")
    parser.add_argument("words", nargs="*", help="only cases whose name or section holds one of them")
    parser.add_argument("--keep", action="store_true", help="write tests/bad_input/messages.txt")
    asked = parser.parse_args()
    wanted = [word.lower() for word in asked.words] or [""]
    chosen = {
        section: [case for case in cases if any(word in f"{section}: {case.name}".lower() for word in wanted)]
        for section, cases in SECTIONS.items()
    }
    with tempfile.TemporaryDirectory() as name:
        said, bad = spoken(chosen, Path(name))
    if asked.keep:
        FILE.write_text(page(said), encoding="utf-8")
    print(f"\n{sum(map(len, chosen.values()))} cases, {bad} of them break a law")
    return bool(bad)


def spoken(chosen: Mapping[str, Sequence[Case]], root: Path) -> tuple[dict[str, list[tuple[Case, Said]]], int]:
    """(section -> its cases with what was said, how many break a law), each printed as it comes."""
    world = root / "world"
    if any(case.of_world for cases in chosen.values() for case in cases):
        world.mkdir()
        make_world(world, root / "cache")
    found: dict[str, list[tuple[Case, Said]]] = {}
    bad = 0
    for section, cases in chosen.items():
        print(f"\n\n=== {section} ===" if cases else "", end="\n" if cases else "")
        for case in cases:
            folder = Path(tempfile.mkdtemp(dir=root))
            made(case, folder, world if case.of_world else None)
            begin = time.perf_counter()
            said = run(case, folder, root / "cache")
            seconds = time.perf_counter() - begin
            found.setdefault(section, []).append((case, said))
            broke = broken(case, said)
            bad += bool(broke)
            print(f"\n{entry(case, said)}")
            shown = [f"(standard output) {said.out.strip()[:400]}"] if said.out else []
            shown += [f"(took {seconds:.1f} s)"] if seconds > 5 else []
            print(*shown, *(f"!!! {law}" for law in broke), sep="\n", end="", flush=True)
    return found, bad


def page(found: Mapping[str, Sequence[tuple[Case, Said]]]) -> str:
    """What the tests compare with: what was said now, and of other cases what was kept."""
    now = {case.name: entry(case, said) for entries in found.values() for case, said in entries}
    before = kept(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    parts = ["Messages to bad input, made by `python tools/bad_input.py --keep`, read by a person."]
    for section, cases in SECTIONS.items():
        parts.append(f"=== {section} ===")
        parts += [text for case in compared(cases) if (text := now.get(case.name) or before.get(case.name))]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
