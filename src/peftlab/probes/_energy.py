"""Energy of the processor, from the counters that Linux shows of its packages (RAPL, of Intel and AMD)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path("/sys/class/powercap")
EVERY_S = 10.0  #: between two looks
MOST_W = 600.0  #: that a package may draw: a counter that could have come round between two looks says nothing any more


class PackageEnergy:
    """What all packages together drew since this was made.

    A counter goes back to zero when it is full, with 262 kJ after some 44 minutes at 100 W: :meth:`look` has to be called more
    often than that. Sub-domains (cores, memory) are parts of their package and do not count, nor does the whole platform.

    Args:
        root: folder of the counters.
        clock: seconds.
    """

    def __init__(self, root: Path = ROOT, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._looked, self._joules = clock, clock(), 0.0
        self._seen = {package: _joules(package / "energy_uj") for package in _packages(root)}
        self._known = bool(self._seen)

    def look(self, *, at_once: bool = False) -> None:
        """Add what was drawn since the last look, if that is :data:`EVERY_S` ago or ``at_once``."""
        now = self._clock()
        if not self._known or (now - self._looked < EVERY_S and not at_once):
            return
        drawn = [self._drawn(package, now - self._looked) for package in self._seen]
        self._known, self._looked = None not in drawn, now
        self._joules += sum(joules for joules in drawn if joules is not None)

    def _drawn(self, package: Path, seconds: float) -> float | None:
        before, now, top = self._seen[package], _joules(package / "energy_uj"), _joules(package / "max_energy_range_uj")
        self._seen[package] = now
        if before is None or now is None or top is None or seconds * MOST_W >= top:
            return None
        return now - before if now >= before else now - before + top

    @property
    def joules(self) -> float | None:
        """Up to the last look; None where the machine does not tell (or not to us), or was not asked often enough."""
        return self._joules if self._known else None


def _packages(root: Path) -> list[Path]:
    """``intel-rapl:0``, ...; further colons are sub-domains, another name (``psys``) is no package."""
    zones = sorted(zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1)
    return [zone for zone in zones if _text(zone / "name").startswith("package")]


def _joules(path: Path) -> float | None:
    text = _text(path)
    return int(text) / 1e6 if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
