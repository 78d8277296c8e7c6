"""Files of a results folder, read without following a link and without waiting at a pipe or device that took their place."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from peftlab.errors import RecordError

RECORD_BYTES = 64_000_000  #: a JSON record larger than this is not ours


def read_regular(path: Path, limit: int | None = RECORD_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: absent, unreadable, a link, no regular file, or larger than ``limit`` bytes.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a link, and links are not followed", str(path)) from error
        raise
    try:  # looked at before it is made a file of Python's, which refuses a folder by the handle's number and leaves it open
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        if limit is not None and about.st_size > limit:
            raise OSError(errno.EFBIG, f"is larger than {limit:,} bytes", str(path))
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


def refuse_links(*folders: Path) -> None:
    """Before something is written below them: none of these folders may be a link, which could lead anywhere.

    Raises:
        RecordError: one is.
    """
    for folder in folders:
        if folder.is_symlink():
            remedy = "remove the link; to keep results elsewhere, move the whole folder or use --output"
            raise RecordError("is a link, and nothing is written through it", where=str(folder), remedy=remedy)
