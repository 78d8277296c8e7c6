"""Memory within the limits of a control group: what can be dropped is free."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftlab.nn.memory import control_groups

STAT = "anon 200000000\nfile 900000000\ninactive_file 500000000\nactive_file 300000000\nslab 1\n"
TOTALS = "cache 1\ninactive_file 7\nactive_file 7\ntotal_inactive_file 500000000\ntotal_active_file 300000000\n"


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "4000000000\n", "memory.current": "3000000000\n", "memory.stat": STAT},
        {
            "memory/memory.limit_in_bytes": "4000000000",
            "memory/memory.usage_in_bytes": "3000000000",
            "memory/memory.stat": TOTALS,
        },
    ],
    ids=["version 2", "version 1"],
)
def test_files_kept_in_memory_are_not_used(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert list(control_groups(tmp_path)) == [(4000.0, 2200.0)]
    stat = next(tmp_path / name for name in files if name.endswith("stat"))
    stat.write_text("inactive_file\nhalf a line")
    assert list(control_groups(tmp_path)) == [(4000.0, 3000.0)], "a kernel that does not tell: all of it is used"
    stat.write_text("inactive_file 9000000000\ntotal_inactive_file 9000000000\n")
    assert list(control_groups(tmp_path)) == [(4000.0, 0.0)], "counted at another moment than the sum"


def test_without_a_limit_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000000000\n")
    assert list(control_groups(tmp_path)) == [] == list(control_groups(tmp_path / "none"))
