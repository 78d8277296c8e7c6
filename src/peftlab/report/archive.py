"""A reproducibility bundle: one archive that holds a study with its records, findings and report, and says how to redo it.

The same folder gives the same bytes: names sorted, times fixed, no owner. Every text is searched for secrets on its way in; links
are refused (report/unarchive.py refuses them on the way out as well).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import peftlab
from peftlab.analysis.analyze import read_findings
from peftlab.analysis.frame import Frame, load_frame
from peftlab.analysis.reading import read_json
from peftlab.analysis.words import listed, plural
from peftlab.errors import RecordError
from peftlab.records.commit import disk_errors, fsync_folder
from peftlab.records.lease import FILE as LEASE
from peftlab.records.lease import holder
from peftlab.records.record import to_json
from peftlab.records.redact import redact
from peftlab.records.run_folder import ADAPTER, CHECKPOINTS, LOG
from peftlab.records.temporaries import is_left_over
from peftlab.records.times import took_s
from peftlab.report import facts

SCHEMA_VERSION = 1
ABOUT, CHECKSUMS, README = "bundle.json", "SHA256SUMS", "README.txt"
#: what of a results folder belongs into a bundle
FOLDERS, FILES = ("runs", "tuning", "analysis", "report"), ("study*.yaml", "plan.json", "tuning.json", "racing.json")
TEXT = {".json", ".jsonl", ".yaml", ".csv", ".html", ".tex", ".txt", ".md", ".svg", ".log", ".bib"}
PICTURES = {".pdf", ".png", ".eps", ".npz"}  #: of numbers and drawings only
WEIGHTS = {".safetensors"}
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """What was written."""

    path: Path
    sha256: str
    bytes: int
    files: int
    runs: int
    masked: list[str]  #: files in which a secret was found and masked
    left_out: dict[str, int]  #: why -> how many files


def pack(folder: Path, output: Path, *, adapters: bool = False, checkpoints: bool = False) -> Packed:
    """Write the archive of a results folder, whose analysis and report are up to date.

    Args:
        folder: ``results/<study>``.
        output: the file; it appears whole or not at all.
        adapters: with the trained adapters of every run.
        checkpoints: with what interrupted runs need to go on.

    Raises:
        RecordError: a link in the folder, a run that is being executed, a file of an unknown kind, or the disk.
    """
    chosen = _Chosen(folder, adapters=adapters, checkpoints=checkpoints)
    frame = load_frame(folder)
    about = about_bundle(frame, chosen.names)
    sums: list[str] = []
    temporary = output.with_name(f".{output.name}.part")
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in sorted([*chosen.names, ABOUT, README]):
                    content = _content(name, chosen, about)
                    sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
                    _add(archive, name, content)
                _add(archive, CHECKSUMS, "".join(sums).encode())
            fsync_folder(temporary)
            temporary.replace(output)
        finally:
            temporary.unlink(missing_ok=True)
    with output.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Packed(
        path=output, sha256=digest, bytes=output.stat().st_size, files=len(sums) + 1, runs=about["runs"],
        masked=chosen.masked, left_out=dict(sorted(chosen.left_out.items())),
    )  # fmt: skip


def _content(name: str, chosen: _Chosen, about: Mapping[str, Any]) -> bytes:
    if name == ABOUT:
        return to_json(dict(about)).encode()
    return _readme(about).encode() if name == README else chosen.read(name)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, date_time=_TIME)
    info.external_attr, info.compress_type, info.create_system = (stat.S_IFREG | 0o644) << 16, zipfile.ZIP_DEFLATED, 3
    archive.writestr(info, content)


class _Chosen:
    """Files of a results folder that go into its bundle."""

    def __init__(self, folder: Path, *, adapters: bool, checkpoints: bool) -> None:
        self.folder, self.adapters, self.checkpoints = folder, adapters, checkpoints
        self.masked: list[str] = []
        self.left_out: dict[str, int] = {}
        self.names = sorted(self._select())

    def read(self, name: str) -> bytes:
        """Content, without secrets."""
        raw = (self.folder / name).read_bytes()
        if Path(name).suffix not in TEXT:
            return raw
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise RecordError("not UTF-8 text", where=str(self.folder / name), remedy="`peftlab verify` lists damage") from error
        clean = redact(text)
        if clean == text:
            return raw
        self.masked.append(name)
        return clean.encode()

    def _select(self) -> Iterator[str]:
        for path in self._walk():
            name = path.relative_to(self.folder).as_posix()
            if path.is_symlink():
                raise RecordError("a link is not packed", where=str(path), remedy="copy the file itself, or remove the link")
            if path.is_dir():
                continue
            if not path.is_file():
                raise RecordError("neither a file nor a folder", where=str(path), remedy="remove it")
            if why := self._why_not(path, PurePosixPath(name)):
                self.left_out[why] = self.left_out.get(why, 0) + 1
                continue
            yield name

    def _walk(self) -> Iterator[Path]:
        for pattern in FILES:
            yield from self.folder.glob(pattern)
        for part in FOLDERS:
            root = self.folder / part
            if root.is_symlink():
                yield root
            elif root.is_dir():
                yield from root.rglob("*")

    def _why_not(self, path: Path, name: PurePosixPath) -> str:
        if path.name == LEASE:
            if (other := holder(path.parent)) is not None:
                raise RecordError(f"the run is being executed by {other}", where=str(path.parent), remedy="wait for its end")
            return "lease"
        if path.name == LOG or is_left_over(path.name) or any(part.startswith(".") for part in name.parts):
            return "log or left over"
        inside = name.parts[3:4] if name.parts[0] in ("runs", "tuning") else ()
        if inside == (CHECKPOINTS,):
            return "" if self.checkpoints and path.suffix in TEXT | PICTURES | WEIGHTS else "checkpoint"
        if inside == (ADAPTER,):
            return "" if self.adapters else "adapter"
        if path.suffix in WEIGHTS:
            return "weights"
        return "" if path.suffix in TEXT | PICTURES else f"{path.suffix or 'unnamed'} file, which can be made anew"


def about_bundle(frame: Frame, names: list[str]) -> dict[str, Any]:
    """``bundle.json``: what is in it, where it was made, and the commands that redo it with the time that each took there
    (``took_s``: seconds of its runs, one after the other, of runs computed together each its part; ``expected_s``: estimated)."""
    findings, environment = read_findings(frame.folder), facts.environment(frame)
    times: dict[str, list[float | None]] = {}
    for record in frame.records:
        if record.results is not None:
            times.setdefault(record.config.label, []).append(took_s(record.results.time))
    study = frame.study.study
    everything = [time for taken in times.values() for time in taken]
    commands = [_command("peftlab reproduce {bundle}", "every evaluation run again, each beside its record", everything)]
    commands += [_command(f"peftlab reproduce {{bundle}} --only '{label}'", "one arm", taken) for label, taken in times.items()]
    tuned = _tuning_times(frame)
    lost = sum(p.kind in ("failed", "missing", "unfinished", "unreadable") for p in frame.problems)
    lacks = ["its tuning" * (frame.study.tune is not None and not tuned), plural(lost, "run without results") * (lost > 0)]
    commands += [
        {"command": "unzip {bundle} -d " + study, "what": "the folder itself", "runs": 0, "took_s": None},
        {"command": f"peftlab report {study}", "what": "findings, figures, tables from the records", "runs": 0, "took_s": None,
         "expected_s": _report_s(len(frame.settings), len(everything))},
        _command(f"peftlab run {study}/study.yaml", "the whole study anew, tuning with it", everything + tuned, lacks),
    ]  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION, "study": study, "question": frame.study.question, "peftlab": peftlab.__version__,
        "runs": sum(map(len, times.values())), "verdict": findings.verdict, "files": len(names), "commands": commands,
        "problems": len(frame.problems), "environment": environment, "fingerprints": facts.fingerprints(frame),
    }  # fmt: skip


def _tuning_times(frame: Frame) -> list[float | None]:
    """Seconds of every tuning run of which there is a record."""
    runs = (read_json(path) for path in sorted(frame.folder.glob("tuning/*/*/results.json")))
    times = [run["time"] for run in runs if isinstance(run, Mapping) and isinstance(run.get("time"), Mapping)]
    return [took_s(time) for time in times]


def _report_s(settings: int, runs: int) -> float:
    """Seconds of one processor, estimated: a figure measured when the report was made would make every archive another one.

    Starting takes about 3 s, the figures of one task and backbone as long, a run 14 ms (benchmarks/report_speed.py: 32 to 34 s of
    the processors for 2,030 runs).
    """
    return round(3.0 + 3.0 * settings + 0.014 * runs, 1)


def _command(command: str, what: str, taken: Sequence[float | None], lacks: Sequence[str] = ()) -> dict[str, Any]:
    """``lacks``: what else there is no time of; empty texts are nothing."""
    known = [seconds for seconds in taken if seconds is not None]
    untimed = len(taken) - len(known)
    parts = [part for part in (*lacks, plural(untimed, "run") * (untimed > 0)) if part]
    missing = f"; the time lacks {listed(parts)}, of which no record says how long" if parts else ""
    took = round(sum(known), 1) if known or not taken else None
    return {"command": command, "what": what + missing, "runs": len(taken), "took_s": took}


def _readme(about: Mapping[str, Any]) -> str:
    lines = [
        f"{about['study']}: {about['question']}", "",
        f"A study made with peftlab {about['peftlab']}: {plural(int(about['runs']), 'evaluation run')}.",
        f"Open report/index.html to read it. `sha256sum -c {CHECKSUMS}` checks the files.",
        "Weights are not here unless they were asked for; the hash of every adapter stands in the MANIFEST.json of its run.", "",
        "Verdict:", *(f"  {line}" for line in about["verdict"]), "",
        "Commands, and the time that their runs took on the machine below, one after the other (of runs computed together: each",
        "its part; of the report: estimated):",
        *(f"  {c['command'].replace('{bundle}', 'BUNDLE')}\n      {c['what']}" + _took(c) for c in about["commands"]), "",
        "Machine and versions:",
        *(f"  {key}: {value}" for key, value in sorted(about["environment"]["same"].items())),
        *(f"  {key}: runs differ: {json.dumps(value)}" for key, value in sorted(about["environment"]["differs"].items())),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _took(command: Mapping[str, Any]) -> str:
    if command["took_s"] is not None:
        return f" ({plural(command['runs'], 'run')}, {command['took_s']:,.0f} s)"
    return f" (about {command['expected_s']:,.0f} s, estimated)" if "expected_s" in command else ""
