"""What a process takes, against blocks of known size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="high-water marks of the kernel")


def in_a_process(code: str) -> Any:
    """What ``code`` prints as JSON, run in a process of its own: its memory is then nobody else's."""
    paths = [path for path in sys.path if path]
    header = f"import sys; sys.path[:0] = {paths!r}\n"
    done = subprocess.run([sys.executable, "-c", header + code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def soon(code: str, holds: Callable[[Any], bool]) -> None:
    """What ``code`` prints holds in one of three processes: under pressure the kernel takes pages away."""
    seen = []
    for _ in range(3):
        seen.append(in_a_process(code))
        if holds(seen[-1]):
            return
    pytest.fail(f"resident sizes in MB: {seen}")


@linux
def test_the_peak_of_a_block_that_is_gone_is_seen_and_can_be_reset() -> None:
    code = (
        "import json, torch\n"
        "from peftlab.training.resident import allocate_exactly, peak_resident_mb, reset_peak, resident_mb\n"
        "exact = allocate_exactly(True)\n"
        "torch.ones(50_000_000)\n"  # what runs for the first time brings its own pages in: code, tables, threads
        "before = resident_mb(); can = reset_peak()\n"
        "block = torch.ones(50_000_000); del block\n"
        "peak = peak_resident_mb() - before; now = resident_mb() - before; again = reset_peak() and peak_resident_mb() - before\n"
        "print(json.dumps([exact, can, peak, now, again]))"
    )
    exact, can, *_ = in_a_process(code)
    if not (exact and can):
        pytest.skip("no glibc, or the high-water mark cannot be reset here")
    expected = [pytest.approx(mb, abs=8.0) for mb in (200.0, 0.0, 0.0)]  # 50 million float32 are 200 MB of 10^6 bytes
    soon(code, lambda found: found[2:] == expected)


@linux
def test_blocks_are_given_back_only_when_asked_to() -> None:
    """Freed neighbours of a block that stays: exact allocation returns them, the heap keeps them."""
    code = (
        "import json, torch\n"
        "from peftlab.training.resident import allocate_exactly, resident_mb\n"
        "done = allocate_exactly({exact})\n"
        "torch.ones(500_000)\n"
        "before = resident_mb()\n"
        "blocks = [torch.ones(500_000) for _ in range(40)]\n"
        "blocks = blocks[-1:]\n"
        "print(json.dumps([done, resident_mb() - before]))"
    )
    if not in_a_process(code.format(exact=True))[0]:
        pytest.skip("no glibc")
    soon(code.format(exact=True), lambda found: found[1] < 10.0)  # one block of 2 MB is left
    soon(code.format(exact=False), lambda found: found[1] > 50.0)
