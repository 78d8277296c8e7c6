"""Every benchmark, one after another, hours of a quiet machine; what is done stays done.

    python benchmarks/_all.py [NAME ...] [--folder build/bench] [--data ../shared/data]

What a benchmark found is FOLDER/NAME.json, what it said on the way FOLDER/NAME.log. A call that was stopped goes on where it was;
a benchmark runs again when a source of the program or of the benchmarks has changed since, or when it is named. One that fails
stops no other. Exit codes: 0 all is there, 1 something failed, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = (HERE, HERE.parent / "src" / "peftlab")
#: lines of a log that are shown when its benchmark failed
SHOWN = 8


def commands(data: Path) -> dict[str, list[str]]:
    """Name -> command. ``peers`` has two more parts, one of which needs real images and weights."""
    found = {path.stem: [sys.executable, str(path)] for path in sorted(HERE.glob("[a-z]*.py"))}
    found["peers-memory"] = [*found["peers"], "--part", "memory"]
    if data.is_dir():
        found["peers-study"] = [*found["peers"], "--part", "study", "--data", str(data)]
    return found


def fingerprint(folders: Sequence[Path]) -> str:
    """Of the Python sources in ``folders``: what was measured is these."""
    found = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            found.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:20]


def run(asked: Mapping[str, Sequence[str]], folder: Path, sources: str, *, again: bool = False) -> list[str]:
    """Run what is not there yet, and say how each went; the names of what failed.

    Args:
        asked: name -> command, which takes ``--output FILE``.
        sources: fingerprint of what is measured; results of another one are not counted as there.
        again: run what is there as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for number, (name, command) in enumerate(asked.items(), 1):
        kept, stamp, part = (folder / f"{name}.{kind}" for kind in ("json", "done", "part"))
        say = f"[{number}/{len(asked)}] {name}"
        if not again and kept.exists() and stamp.exists() and json.loads(stamp.read_text())["sources"] == sources:
            print(f"{say}: there ({json.loads(stamp.read_text())['seconds']} s)", flush=True)
            continue
        stamp.unlink(missing_ok=True)
        print(f"{say} ...", flush=True)
        begin = time.perf_counter()
        with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
            code = subprocess.run([*command, "--output", str(part)], stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        seconds = round(time.perf_counter() - begin)
        if code == 0 and part.exists():
            part.replace(kept)
            stamp.write_text(json.dumps({"sources": sources, "seconds": seconds}), encoding="utf-8")
            print(f"{say}: {seconds} s, {kept}", flush=True)
        else:
            failed.append(name)
            said = Path(log.name).read_text(encoding="utf-8").splitlines()[-SHOWN:]
            print(f"{say}: failed after {seconds} s (exit code {code}), all of it in {log.name}", *said, sep="\n    ", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these, also when they are there")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    asked = parser.parse_args()
    known = commands(asked.data)
    if unknown := sorted({*asked.names} - {*known}):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    if "peers-study" not in known:
        print(f"left out: peers-study, which wants --data FOLDER with images and weights (no folder {asked.data})", flush=True)
    wanted = {name: command for name, command in known.items() if not asked.names or name in asked.names}
    try:
        failed = run(wanted, asked.folder, fingerprint(SOURCES), again=bool(asked.names))
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is not there yet", file=sys.stderr)
        return 130
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
