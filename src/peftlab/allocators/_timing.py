"""When ranks move."""

from __future__ import annotations

import dataclasses

from peftlab.errors import OptionError
from peftlab.nn.shares import share_of

#: optimizer steps, or a share of the run if below 1 and not whole
Steps = int | float

#: the loop proves in the first two updates that every tensor moves; ranks change after that only
EARLIEST = 2


def check_share(value: Steps, where: str) -> None:
    """Raises OptionError: neither a number of steps nor a share of the run."""
    if value < 0 or (isinstance(value, float) and not 0 <= value <= 1):
        raise OptionError(f"neither steps nor a share of the run: {value}", where=where, remedy="e.g. 200, or 0.1 of the run")


def steps_of(value: Steps, total: int) -> int:
    """A share as steps of a run of ``total``, rounded down."""
    return int(share_of(value, total)) if isinstance(value, float) else value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Due after ``first``, ``first + every``, ... optimizer steps, up to ``last``, and never after the run's last update."""

    total: int
    first: int
    every: int
    last: int

    @classmethod
    def of(cls, total: int, warmup: Steps, every: Steps, last: Steps) -> Timing:
        """Shares are rounded down, to at least one step between two, two before the first and one behind the last."""
        return cls(
            total=total,
            first=max(EARLIEST, steps_of(warmup, total)),
            every=max(1, steps_of(every, total)),
            last=min(steps_of(last, total), total - 1),
        )

    def due(self, steps_done: int) -> bool:
        return self.first <= steps_done <= self.last and (steps_done - self.first) % self.every == 0

    def check(self) -> None:
        """Raises OptionError: never due before the run ends."""
        if self.last < self.first or self.first >= self.total:
            raise OptionError(
                f"no reallocation fires within the run: the first would be after step {self.first}, the last one may be after "
                f"step {self.last}, and the run has {self.total}",
                where="allocator.warmup_steps",
                remedy="train longer, lower warmup_steps, or raise last_step",
            )
