"""Words of notes, warnings and errors about data."""

from __future__ import annotations

from peftlab.tasks._wording import counted


def test_counted_and_named():
    assert counted(["a"], "class has no example", "classes have no example") == "1 class has no example ('a')"
    assert counted(list("abcdefg"), "class", "classes").startswith("7 classes ('a', 'b', 'c', 'd', 'e', ...")
