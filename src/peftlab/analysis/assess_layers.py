"""From the frame to ``analysis/{importance.csv,ranks.csv,importance.json}``."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from peftlab.analysis import importance as maps_of
from peftlab.analysis.comparison import smallest_sign_flip_p
from peftlab.analysis.frame import Frame
from peftlab.analysis.importance import Group, module_map
from peftlab.analysis.layers import Agreement, Contrast, Layers
from peftlab.analysis.maps import importance_table, module_runs, rank_table, share_maps
from peftlab.analysis.output import analysis_folder
from peftlab.analysis.ranks import adaptive_rows, rank_groups
from peftlab.analysis.safe_csv import write_csv
from peftlab.analysis.words import listed
from peftlab.records.commit import write_atomic
from peftlab.records.record import to_json

METHOD = [
    "Importance is a share of its run's sum over all modules, mean over the snapshots of the second half of training; "
    "1 stands for the share of the average module.",
    "Intervals of a module: Student's t over seeds, not adjusted for the number of modules.",
    "Contrasts: paired differences within each block. The first interval (t) and the exact sign-flip test treat the blocks as a "
    "sample, of the mean over seeds; the second interval (t) the seeds, of the mean over blocks. p is Holm-adjusted over all "
    "metrics and contrasts of one arm.",
    "Agreement: Kendall's tau-b. Between seeds, and between tasks or backbones: mean over pairs, interval by jackknife over "
    "seeds, because pairs share seeds (simulated: it covers about 95 % or more). Between metrics, and with the last snapshot: "
    "one tau per seed, t interval over seeds. No interval with fewer than three seeds: two taus close to 1 are often equal by "
    "chance, and an interval from them would hold the true one in 57 % of studies only.",
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerTables:
    """What was said, and the tidy tables beneath it."""

    layers: Layers
    importance: pd.DataFrame
    ranks: pd.DataFrame

    @property
    def empty(self) -> bool:
        return self.importance.empty and self.ranks.empty

    def write(self, frame: Frame) -> None:
        """Nothing is written where nothing was recorded."""
        if self.empty:
            return
        with analysis_folder(frame.folder) as target:
            for name, table in (("importance", self.importance), ("ranks", self.ranks)):
                write_csv(table, target / f"{name}.csv")
            write_atomic(target / "importance.json", to_json(self.layers))


def assess_layers(frame: Frame, *, seed: int = 0) -> LayerTables:
    """Everything that the records say about layers. ``seed``: of the sign-flip test beyond 16 blocks."""
    runs, notes = module_runs(frame)
    confidence, generator = frame.study.analysis.confidence, np.random.default_rng(seed)
    shares = share_maps(runs)
    groups = maps_of.groups_of(shares)
    dynamic, static = rank_groups(runs)
    several = [g for g in dynamic if len(g.seeds) > 1]
    contrasts = maps_of.contrasts(groups, confidence, generator)
    agreement = maps_of.agreement([*groups, *several], confidence)
    layers = Layers(
        confidence=confidence,
        importance=[module_map(g, confidence) for g in groups],
        ranks=[module_map(g, confidence, uniform=_uniform(g)) for g in [*dynamic, *static]],
        contrasts=contrasts,
        agreement=agreement,
        stability=[a for g in groups for a in maps_of.stability(g, confidence)],
        adaptive=adaptive_rows(frame, runs),
        sentences=_sentences(contrasts, agreement),
        method=METHOD,
        notes=[*notes, *_notes(len(shares) - len(groups))],
    )
    return LayerTables(layers=layers, importance=importance_table(runs), ranks=rank_table(runs))


def _uniform(group: Group) -> float:
    """The mean rank."""
    return float(np.mean(group.values))


def _notes(single: int) -> list[str]:
    return [f"{single} importance maps rest on one seed: they are in importance.csv, nothing is said of them."] if single else []


def _sentences(contrasts: Sequence[Contrast], agreement: Sequence[Agreement]) -> list[str]:
    found = []
    settings = {(a.task, a.backbone) for a in agreement} | {(c.task, c.backbone) for c in contrasts}
    for task, backbone in sorted(settings):
        prefix = f"{task}, {backbone}: " if len(settings) > 1 else ""
        here = [a for a in agreement if (a.task, a.backbone, a.kind) == (task, backbone, "seeds")]
        for arm in dict.fromkeys(a.arm for a in here):
            found.append(prefix + _agree([a for a in here if a.arm == arm]))
        quiet: dict[str, list[str]] = defaultdict(list)
        for arm in dict.fromkeys(c.arm for c in contrasts if (c.task, c.backbone) == (task, backbone)):
            members = [c for c in contrasts if (c.arm, c.task, c.backbone) == (arm, task, backbone)]
            texts = _differ(members)
            found += [f"{prefix}{arm}: {text}" for text in texts]
            if not texts:
                quiet[_no_difference(members)].append(arm)
        found += [f"{prefix}{listed(arms)}: {text}" for text, arms in quiet.items()]
    return found


def _agree(found: Sequence[Agreement]) -> str:
    """Which metrics the seeds agree by, for one arm."""
    sure = [a for a in found if a.interval is not None and a.interval[0] > 0]
    text = f"{found[0].arm} ({found[0].n} seeds): "
    if not any(a.interval for a in found):
        return text + "two seeds allow no interval for how far they agree on the order of the modules."
    if not sure:
        return text + "it is not shown that the seeds agree on the order of the modules, by any measure."
    names = [f"{a.metric} (τ {a.tau:.2f})" for a in sorted(sure, key=lambda a: -a.tau)]
    return (
        text
        + f"the seeds agree on the order of the modules by {listed(names)}"
        + ("." if len(sure) == len(found) else f", not shown by {listed([a.metric for a in found if a not in sure])}.")
    )


def _differ(found: Sequence[Contrast]) -> list[str]:
    """Which kind of layer matters more, for one arm: only where the adjusted test and the seeds say so."""
    texts = []
    for what in dict.fromkeys(c.what for c in found):
        members = [c for c in found if c.what == what]
        first, second = what.split(" − ")
        more = [c.metric for c in members if c.shown and c.estimate > 0]
        less = [c.metric for c in members if c.shown and c.estimate < 0]
        texts += [f"{first} matters more than {second} by {listed(more)}."] if more else []
        texts += [f"{second} matters more than {first} by {listed(less)}."] if less else []
    return texts


def _no_difference(found: Sequence[Contrast]) -> str:
    blocks, family = max(c.blocks for c in found), found[0].family_size
    smallest = min(1.0, family * smallest_sign_flip_p(blocks))
    text = "no difference between kinds of layers is shown; that is not evidence of equality."
    few = f" {blocks} blocks and {family} tests could not have shown one: the smallest adjusted p possible is {smallest:.2g}."
    return text + (few if smallest > found[0].alpha else "")
