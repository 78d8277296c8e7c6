"""Energy counters: of all packages, over their wraps, and None where they say nothing that can be trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftlab.probes._energy import EVERY_S, MOST_W, PackageEnergy

TOP = 262_143_328_850  #: microjoules, of many Intel processors


class Machine:
    """A powercap folder whose counters are set by hand, and a clock."""

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 0.0

    def zone(self, zone: str, name: str, energy: int | None, top: int | None = TOP) -> None:
        folder = self.root / zone
        folder.mkdir(exist_ok=True)
        for file, value in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", top)):
            (folder / file).unlink(missing_ok=True)
            if value is not None:
                (folder / file).write_text(f"{value}\n")

    def meter(self) -> PackageEnergy:
        return PackageEnergy(self.root, lambda: self.now)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_all_packages_count_and_nothing_that_is_within_one_or_around_them(machine: Machine) -> None:
    def at(first: int, second: int, others: int) -> None:
        machine.zone("intel-rapl:0", "package-0", first)
        machine.zone("intel-rapl:1", "package-1", second)
        for zone, name in (("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys"), ("intel-rapl-mmio:0", "package-0")):
            machine.zone(zone, name, others)

    at(1_000_000, 5_000_000, 0)
    meter = machine.meter()
    at(3_000_000, 9_500_000, 700_000_000)
    machine.now = EVERY_S
    meter.look()
    assert meter.joules == pytest.approx(2 + 4.5)


def test_a_counter_that_came_round_goes_on(machine: Machine) -> None:
    """Two hours at 150 W: some four wraps."""
    machine.zone("intel-rapl:0", "package-0", energy := 262_000_000_000)
    meter = machine.meter()
    for _ in range(240):
        machine.now += 30.0
        energy = (energy + 150 * 30 * 1_000_000) % TOP
        machine.zone("intel-rapl:0", "package-0", energy)
        meter.look()
    assert meter.joules == pytest.approx(150 * 7200)


def test_between_two_looks_is_some_time_unless_the_end_has_come(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 0)
    meter = machine.meter()
    machine.now = EVERY_S / 2
    machine.zone("intel-rapl:0", "package-0", 8_000_000)
    meter.look()
    assert meter.joules == 0
    meter.look(at_once=True)
    assert meter.joules == pytest.approx(8)


def test_what_cannot_be_known_is_not_said(machine: Machine) -> None:
    assert machine.meter().joules is None, "no counters"
    machine.zone("intel-rapl:0", "package-0", None)
    machine.zone("intel-rapl:1", "package-1", 0)
    locked = machine.meter()
    machine.now += EVERY_S
    locked.look()
    assert locked.joules is None, "one package that may not be read makes the sum too small"
    machine.zone("intel-rapl:0", "package-0", 0)
    late = machine.meter()
    machine.now += 1.01 * TOP / 1e6 / MOST_W
    machine.zone("intel-rapl:0", "package-0", 5_000_000)
    late.look()
    assert late.joules is None, "the counter may have come round without being seen"
    without = machine.meter()
    machine.zone("intel-rapl:0", "package-0", 1_000_000, top=None)
    machine.now += EVERY_S
    without.look()
    assert without.joules is None
