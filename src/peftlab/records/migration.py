"""Records of an older schema, lifted to the one that this program writes; newer ones are refused.

A field that is added with a default needs no step: old records are read with the default. A step is needed where a field changes
its name, its unit or its meaning. It takes the plain data of schema n and returns those of schema n + 1. Files are never
rewritten: a record keeps the form and the checksum that it was written with, and is lifted whenever it is read.

The id of a run is no business of a step: :meth:`RunConfig.identity` covers what determines the outcome, under a version of its
own, so that the runs of an older schema are reused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from peftlab.errors import RecordError
from peftlab.records.record import SCHEMA_VERSION, RunConfig, RunError, RunResults

Step = Callable[[dict[str, Any]], dict[str, Any]]

#: kind of record -> its steps; the n-th lifts schema n to n + 1, so each kind has SCHEMA_VERSION - 1 of them
STEPS: Mapping[type[BaseModel], tuple[Step, ...]] = {RunConfig: (), RunResults: (), RunError: ()}


def lifted(raw: Any, kind: type[BaseModel], *, where: str = "", steps: Mapping[type[BaseModel], tuple[Step, ...]] = STEPS) -> Any:
    """The plain data of a record in today's schema.

    Raises:
        RecordError: a schema that this program does not know; what to do is said.
    """
    if not isinstance(raw, dict):
        return raw
    known = steps.get(kind, ())
    newest = len(known) + 1
    version = raw.get("schema_version", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        remedy = "move the run's folder away and run again; `peftlab verify` lists all that is damaged"
        raise RecordError(f"damaged: {version!r} is no version of the schema", where=where, remedy=remedy)
    if version > newest:
        what = f"the record has schema {version}, this program knows up to {newest}: a newer peftlab wrote it"
        raise RecordError(what, where=where, remedy="update peftlab here, or read the study where it was made")
    for step in known[version - 1 :]:
        raw = step(dict(raw))
    return {**raw, "schema_version": newest} if version < newest else raw


assert all(len(steps) == SCHEMA_VERSION - 1 for steps in STEPS.values()), "a schema without its migration"
