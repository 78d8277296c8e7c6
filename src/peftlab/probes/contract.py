"""What a probe is: a diagnostic that watches a run and leaves a JSON file in its folder. It never changes a result."""

from __future__ import annotations

from abc import ABC, abstractmethod

from peftlab.adapters.contract import Adapted
from peftlab.nn.hooks import TrainingHook
from peftlab.registry import Component


class Probe(Component, ABC):
    """A configured probe. Its hook's ``report`` is written as ``<name>.json``."""

    @abstractmethod
    def hook(self, adapted: Adapted) -> TrainingHook:
        """What watches the run; asked for before the first step."""
