"""Opening a reproducibility bundle that somebody else made: checked before anything is written, and against its sums after."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from peftlab.errors import RecordError
from peftlab.records.commit import disk_errors
from peftlab.report.archive import ABOUT, CHECKSUMS, FILES, FOLDERS, README, SCHEMA_VERSION

MOST_FILES, MOST_BYTES = 500_000, 64 * 10**9
_OWN = {ABOUT, CHECKSUMS, README}


def unpack(bundle: Path, target: Path) -> dict[str, Any]:
    """The archive's files below ``target``, an empty folder, checked against its sums; returns ``bundle.json``.

    Raises:
        RecordError: no bundle, a damaged one, or one that holds a link or a name that leads out of the folder.
    """
    with disk_errors(bundle):
        try:
            with zipfile.ZipFile(bundle) as archive:
                members = _checked(archive, bundle)
                if shutil.disk_usage(target).free < (size := sum(m.file_size for m in members)):
                    raise RecordError(f"needs {size / 1e9:.1f} GB of disk", where=str(bundle), remedy="free some disk space")
                sums = _sums(archive, members, bundle)
                for member in members:
                    digest = _extract(archive, member, target)
                    if member.filename != CHECKSUMS and sums.get(member.filename) != digest:
                        raise _bad(f"{member.filename} is not what was packed (SHA-256 differs)", bundle)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise _bad(f"not a readable archive: {error}", bundle) from error
    if missing := sorted(set(sums) - {m.filename for m in members}):
        raise _bad(f"{missing[0]} is missing", bundle)
    try:
        about = json.loads((target / ABOUT).read_bytes())
        version = about["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _bad(f"{ABOUT} is missing or damaged", bundle) from error
    if version != SCHEMA_VERSION:
        raise RecordError(f"a bundle of version {version!r}", where=str(bundle), remedy="open it with the peftlab that wrote it")
    return about


def _checked(archive: zipfile.ZipFile, bundle: Path) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    names = [member.filename for member in members]
    if CHECKSUMS not in names or ABOUT not in names:
        raise _bad("an archive, but no bundle of peftlab", bundle)
    if len(members) > MOST_FILES or sum(m.file_size for m in members) > MOST_BYTES:
        raise _bad("larger than any bundle", bundle)
    if len({name.casefold() for name in names}) < len(names):
        raise _bad("holds one name twice", bundle)
    for member in members:
        path, mode = PurePosixPath(member.filename), member.external_attr >> 16
        odd = "\\" in member.filename or ":" in member.filename or "\0" in member.orig_filename
        if path.is_absolute() or ".." in path.parts or odd or str(path) != member.filename:
            raise _bad(f"the name {member.filename!r} leads out of the folder or is no plain one", bundle)
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise _bad(f"{member.filename!r} is a link or no file", bundle)
        if path.parts[0] not in FOLDERS and not (len(path.parts) == 1 and (member.filename in _OWN or _at_the_top(path))):
            raise _bad(f"{member.filename!r} does not belong into a bundle", bundle)
    return members


def _at_the_top(path: PurePosixPath) -> bool:
    return any(path.match(pattern) for pattern in FILES)


def _sums(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], bundle: Path) -> dict[str, str]:
    lines = archive.read(CHECKSUMS).decode().splitlines()
    found = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if extra := sorted({m.filename for m in members} - set(found) - {CHECKSUMS}):
        raise _bad(f"{extra[0]} is not listed in {CHECKSUMS}", bundle)
    return found


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> str:
    """Never more than the stated size; returns the SHA-256."""
    path, digest = target / member.filename, hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, path.open("xb") as copy:
        while block := source.read(1 << 20):
            digest.update(block)
            copy.write(block)
    return digest.hexdigest()


def _bad(what: str, bundle: Path) -> RecordError:
    return RecordError(what, where=str(bundle), remedy="get the archive again from where it was published")
