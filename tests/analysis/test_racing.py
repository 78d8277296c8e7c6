"""Races on numbers: what leaves and when, error rate and power of whole races."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from peftlab.analysis.anytime import earliest, log_e, p_process
from peftlab.analysis.comparison import holm
from peftlab.analysis.racing import Race, Rule, _holm, _left, chance, race, shortfall
from peftlab.study.schema import Margin

SEEDS = 15


def rule(arms: int, **changes: Any) -> Rule:
    return Rule(**{"goal": "best", "level": 0.05, "minimum": 3, "arms": arms, **changes})


def names(arms: int) -> list[str]:
    return [f"arm{i}" for i in range(arms)]


def drawn(generator: np.random.Generator, means: list[float], sd: float = 1.0, shared: float = 3.0) -> np.ndarray:
    """[seeds, arms]: what a seed does to all arms alike is larger than what it does to each."""
    return (
        np.asarray(means) + sd * generator.standard_normal((SEEDS, len(means))) + shared * generator.standard_normal((SEEDS, 1))
    )


def played(values: np.ndarray, asked: Rule) -> Race:
    return race(values, names(values.shape[1]), asked)


def reference(values: np.ndarray, level: float, minimum: int) -> list[tuple[str, int]]:
    """The rule once more, written down without regard to speed: (arm, seeds) of those that leave."""
    arms = values.shape[1]
    inside, frozen, gone = set(range(arms)), {}, []
    for n in range(minimum, len(values) + 1):
        if len(inside) < 2:
            break
        for worse in inside:
            for better in inside - {worse}:
                frozen[worse, better] = float(p_process(values[:n, better] - values[:n, worse])[-1])
        pairs = [(i, j) for i in range(arms) for j in range(arms) if i != j]
        adjusted = dict(zip(pairs, holm([frozen.get(pair, 1.0) for pair in pairs]), strict=True))
        out = {w for w in inside if any((adjusted[w, b] or 0.0) <= level for b in inside - {w})}
        gone += [(f"arm{w}", n) for w in sorted(out)]
        inside -= out
    return gone


@pytest.mark.parametrize("seed", range(8))
def test_the_race_is_the_rule_written_down_naively(seed: int) -> None:
    values = drawn(np.random.default_rng(seed), [0, 0.5, -1, -2, -4, -9], sd=0.8)
    assert [(left.label, left.seeds) for left in played(values, rule(6)).left] == reference(values, 0.05, 3)


def test_no_arm_is_lost_in_more_than_five_of_a_hundred_races_of_equal_arms() -> None:
    generator, races = np.random.default_rng(11), 1500
    lost = sum(bool(played(drawn(generator, [0.0] * 4), rule(4)).left) for _ in range(races))
    assert lost / races <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / races)


def test_false_reasons_are_as_rare_where_some_arms_are_truly_worse() -> None:
    """Half the arms are far behind; a reason is false where the arm that left is no worse than the one it was compared with."""
    generator, races, means = np.random.default_rng(12), 800, [0.0, 0.0, 0.0, -2.0, -2.0, -5.0]
    false = 0
    for _ in range(races):
        left = played(drawn(generator, means), rule(6)).left
        false += any(means[int(one.label[3:])] >= means[int(one.against[3:])] for one in left)
    assert false / races <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / races)


def test_false_reasons_at_the_margin() -> None:
    """goal: margin with arms exactly at the margin, where both answers are false."""
    generator, races, margin = np.random.default_rng(13), 1500, Margin(absolute=1.0)
    asked = rule(4, goal="margin", margin=margin, baseline="arm0")
    false = sum(bool(played(drawn(generator, [0.0, -1.0, -1.0, -1.0]), asked).left) for _ in range(races))
    assert false / races <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / races)


def test_power_of_a_race_of_eight() -> None:
    """The figures of docs/racing.md: of 120 runs 60 to 70 % where five arms are 3 to 10 paired standard deviations behind."""
    generator, means = np.random.default_rng(14), [0.0, -0.2, -0.3, -3.0, -4.0, -5.0, -7.0, -10.0]
    used, survived = [], 0
    for _ in range(60):
        found = played(drawn(generator, means, sd=np.sqrt(0.5)), rule(8))
        used.append(sum(found.seeds_of(label) for label in found.labels) / 120)
        survived += {"arm0", "arm1", "arm2"} <= set(found.running)
    assert 0.55 < np.mean(used) < 0.72 and survived >= 55


def test_baseline_and_kept_arms_stay_however_far_behind() -> None:
    values = drawn(np.random.default_rng(3), [0, -30, -40, -50], sd=0.5)
    found = played(values, rule(4, baseline="arm1", keep=frozenset({"arm3"})))
    assert [left.label for left in found.left] == ["arm2"] and set(found.running) == {"arm0", "arm1", "arm3"}
    assert found.seeds_of("arm1") == SEEDS


def test_a_race_ends_where_nothing_is_left_to_compare() -> None:
    values = drawn(np.random.default_rng(4), [0, -30, -40], sd=0.5)
    found = played(values, rule(3))
    assert found.running == ("arm0",) and found.over and found.seeds < 7
    everyone = rule(3, goal="margin", margin=Margin(absolute=20.0), baseline="arm0")
    found = played(values, everyone)
    assert found.running == ("arm0",) and {left.why for left in found.left} == {"beyond"}
    near = played(drawn(np.random.default_rng(5), [0, -0.1, -40], sd=0.5), everyone)
    assert {left.label: left.why for left in near.left} == {"arm1": "within", "arm2": "beyond"}


def test_a_margin_keeps_arms_that_are_a_little_worse() -> None:
    values = drawn(np.random.default_rng(6), [0, -2], sd=0.3)
    assert played(values, rule(2)).left and not played(values, rule(2, margin=Margin(absolute=3.0))).left


def test_lower_can_be_better() -> None:
    values = drawn(np.random.default_rng(7), [5, 9, 20], sd=0.3)
    assert played(values, rule(3, higher_is_better=False)).running == ("arm0",)
    assert shortfall(np.array([2.0]), np.array([2.3]), Margin(relative=0.1), False)[0] == pytest.approx(0.1)
    assert shortfall(np.array([0.9]), np.array([0.8]), Margin(relative=0.1), True)[0] == pytest.approx(0.01)


def test_equal_arms_and_arms_without_a_value_stay() -> None:
    values = drawn(np.random.default_rng(8), [0, 0, -30], sd=0.5)
    values[:, 1] = values[:, 0]
    values[:, 2] = np.nan
    found = played(values, rule(3))
    assert found.left == () and found.over


def test_the_race_waits_for_runs_without_an_outcome() -> None:
    values = drawn(np.random.default_rng(9), [0, -0.2, -40], sd=0.5)
    ended = np.zeros(values.shape, dtype=bool)
    begin = race(values, names(3), rule(3), ended=ended)
    assert begin.due == tuple((i, label) for i in range(3) for label in names(3)) and not begin.over
    ended[:4] = True
    ended[3, 0] = False
    waiting = race(values, names(3), rule(3), ended=ended)
    assert waiting.due == ((3, "arm0"),) and waiting.seeds == 3


@given(some.integers(0, 10_000), some.integers(2, 5))
def test_played_round_by_round_it_is_the_same_race(seed: int, arms: int) -> None:
    """However often it is interrupted: what is asked for next, given, and so on, ends as the race on all values does."""
    generator = np.random.default_rng(seed)
    values = drawn(generator, list(generator.normal(0, 4, arms)), sd=0.7)
    ended, asked = np.zeros(values.shape, dtype=bool), 0
    found = race(values, names(arms), rule(arms), ended=ended)
    while found.due:
        seen = np.where(ended, values, np.nan)
        assert race(seen, names(arms), rule(arms), ended=ended) == found, "nothing that has not ended is looked at"
        for i, label in found.due:
            ended[i, int(label[3:])] = True
        asked += len(found.due)
        found = race(values, names(arms), rule(arms), ended=ended)
    whole = played(values, rule(arms))
    assert found == whole and asked == sum(whole.seeds_of(label) for label in whole.labels)


def test_what_was_decided_stands() -> None:
    values = drawn(np.random.default_rng(10), [0, -0.2, -40], sd=0.5)
    first = played(values, rule(3))
    (left,) = first.left
    values[0, 2] = 1000.0
    assert not played(values, rule(3)).left
    again = race(values, names(3), rule(3), standing={left.label: left})
    assert again.left == (left,) and again.looks == first.looks


def test_evidence_is_what_the_differences_say() -> None:
    values = drawn(np.random.default_rng(15), [0, -40], sd=0.5)
    (left,) = played(values, rule(2)).left
    gap = values[: left.seeds, 1] - values[: left.seeds, 0]
    assert left.difference == pytest.approx(gap.mean()) and left.sd == pytest.approx(gap.std(ddof=1)) and left.n == left.seeds
    assert left.p == pytest.approx(p_process(-gap)[-1]) and left.e_value * left.p == pytest.approx(1.0)


def test_an_arm_at_the_margin_leaves_undecided_where_asked() -> None:
    generator, margin = np.random.default_rng(16), Margin(absolute=1.0)
    asked = rule(3, goal="margin", margin=margin, baseline="arm0")
    values = drawn(generator, [0.0, -1.0, -9.0], sd=0.3)
    patient = played(values, asked)
    found = played(values, dataclasses.replace(asked, futility=0.1))
    assert "arm1" in patient.running and patient.seeds == SEEDS
    by_label = {left.label: left for left in found.left}
    assert by_label["arm1"].why == "open" and by_label["arm2"].why == "beyond" and found.over and found.seeds < SEEDS
    assert by_label["arm1"].chance is not None and by_label["arm1"].chance < 0.1


def test_a_question_that_is_answered_keeps_no_arm_in_the_race() -> None:
    """arm0 stays whatever is shown of it; once it is shown to be far worse than arm1, that is no open question of arm1."""
    generator = np.random.default_rng(19)
    values = drawn(generator, [-30.0, 0.0, 0.0], sd=0.3)
    found = played(values, rule(3, baseline="arm0", futility=0.5))
    (left,) = [left for left in found.left if left.why == "open"][:1]
    assert {left.label, left.against} == {"arm1", "arm2"} and left.seeds < SEEDS


def test_the_chance_of_an_answer_is_that_of_races_played_on() -> None:
    """Of races whose mean and variance are themselves drawn as the prior says, by the share that was answered in the end."""
    generator, asked, needed, seeds = np.random.default_rng(17), rule(2), np.log(0.05 / 14), 6
    told, answered = [], []
    for _ in range(600):
        gap = generator.normal(generator.uniform(-6, 6), 1.0, SEEDS)
        told.append(chance(gap, seeds, needed, asked))
        answered.append(float(p_process(gap)[-1]) <= np.exp(needed) and float(p_process(gap)[seeds - 1]) > np.exp(needed))
    open_still = [(t, a) for t, a in zip(told, answered, strict=True) if 0.02 < t < 0.98]
    assert np.mean([t for t, _ in open_still]) == pytest.approx(np.mean([a for _, a in open_still]), abs=0.12)


@pytest.mark.parametrize("known", [[0.3, 0.9, -0.1], [0.2, 0.25, 0.1, 0.4], [1.0, -0.2, 0.6, 0.1, 0.3]], ids=len)
def test_the_next_difference_is_predicted_by_students_t(known: list[float]) -> None:
    """Whose scale is sd sqrt(1 + 1/n), with n - 1 degrees of freedom: the evidence after it, by 40,000 draws of scipy's."""
    n, asked = len(known), rule(2)
    spread = float(np.std(known, ddof=1)) * np.sqrt(1 + 1 / n)
    future = np.mean(known) + spread * stats.t.rvs(n - 1, size=(40_000, 1), random_state=1)
    evidence = log_e(np.hstack([np.tile(known, (40_000, 1)), future]), scale=asked.scale, resolution=asked.resolution)[:, n]
    told = [chance(np.array([*known, np.nan]), n, -float(np.quantile(evidence, 1 - share)), asked) for share in (0.15, 0.25)]
    assert told == pytest.approx([0.15, 0.25], abs=0.03)


def test_leaving_undecided_makes_no_error_more_likely() -> None:
    generator, races = np.random.default_rng(18), 300
    asked = rule(3, futility=0.1)
    false = sum(any(left.why != "open" for left in played(drawn(generator, [0.0] * 3), asked).left) for _ in range(races))
    assert false / races <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / races)


def test_hypotheses_and_the_first_look_at_which_an_arm_can_leave() -> None:
    margin = {"goal": "margin", "margin": Margin(absolute=1.0), "baseline": "arm0"}
    assert (rule(8).family, rule(8, **margin).family) == (56, 14)
    assert rule(8).first_seed == 5 and rule(8, minimum=9).first_seed == 9
    assert rule(8).first_seed == earliest(0.05 / 56, scale=3.0) and rule(8, scale=0.5).first_seed == earliest(
        0.05 / 56, scale=0.5
    )
    bare = Rule(goal="best", level=0.05, minimum=3, arms=3)
    assert (bare.futility, bare.resolution, bare.higher_is_better, bare.scale) == (0.0, 0.0, True, 3.0)
    assert not bare.stays("arm0") and rule(3, baseline="arm0").stays("arm0") and rule(3, keep=frozenset({"arm1"})).stays("arm1")


@pytest.mark.parametrize(
    ("margin", "higher", "short"),
    [
        (None, True, 0.3), (None, False, -0.3),
        (Margin(absolute=0.1), True, 0.2), (Margin(absolute=0.1), False, -0.4),
        (Margin(relative=0.1), True, 0.7 * 0.9 - 0.4), (Margin(relative=0.1), False, 0.4 - 0.7 * 1.1),
    ],
)  # fmt: skip
def test_how_far_an_arm_falls_short(margin: Margin | None, higher: bool, short: float) -> None:
    assert shortfall(np.array([0.7]), np.array([0.4]), margin, higher) == pytest.approx([short])


def test_before_any_look_nothing_was_seen() -> None:
    none = race(np.zeros((3, 2)), names(2), rule(2), ended=np.zeros((3, 2), dtype=bool))
    assert (none.seeds, none.seeds_of("arm0"), none.looks) == (0, 0, ()) and len(none.due) == 6
    few = played(drawn(np.random.default_rng(20), [0, -30])[:2], rule(2, minimum=5))
    assert few.seeds == 2 and few.over and few.seeds_of("arm1") == 2 and few.seeds_of("nobody") == 0


@pytest.mark.parametrize("baseline", [None, "arm9"])
def test_without_its_baseline_a_race_for_the_margin_asks_nothing(baseline: str | None) -> None:
    values = drawn(np.random.default_rng(21), [0, -30])
    found = played(values, rule(2, goal="margin", margin=Margin(absolute=1.0), baseline=baseline))
    assert found.left == () and found.seeds == SEEDS and found.over


def test_two_differences_or_equal_ones_promise_nothing() -> None:
    """Three that differ do: two say next to nothing of their spread, and equal ones that there is none."""
    far = -math.log(1e-6)
    asked, rest = rule(2), [math.nan] * 4
    assert chance(np.array([-0.5, -0.6, *rest]), 2, -far, asked) == 1.0
    assert chance(np.array([-0.5, -0.6, -0.55, *rest]), 3, -far, asked) < 0.01
    assert chance(np.array([-0.5, math.nan, -0.6, *rest]), 3, -far, asked) == 1.0
    assert chance(np.array([-0.5, -0.5, -0.5, *rest]), 3, -far, asked) == 1.0
    assert chance(np.array([-0.5, *rest]), 1, -far, asked) == 1.0


def test_a_chance_is_a_share_of_a_thousand_draws_over_the_seeds_to_come() -> None:
    gap = np.array([0.4, 0.1, 0.3, 0.2, *[math.nan] * 6])
    asked = rule(2)
    found = [chance(gap[:n], 4, math.log(0.05), asked) for n in (5, 7, 10)]
    assert found == sorted(found) and found[0] < found[2]
    assert all(1000 * one == pytest.approx(round(1000 * one)) for one in found) and found[0] > 0
    finer = dataclasses.replace(asked, resolution=5.0)
    assert chance(gap, 4, math.log(0.05), finer) < found[2], "half a step of 5 is a spread of 5 at least"
    assert chance(gap, 4, math.log(0.05), dataclasses.replace(asked, scale=0.1)) < found[2]


def undecided(values: np.ndarray, asked: Rule) -> list[tuple[str, str, str, int]]:
    """(arm, why, against, seeds) of those that leave, futility with it, written down once more."""
    arms, inside, gone = values.shape[1], set(range(values.shape[1])), []
    gaps = {(i, j): values[:, j] - values[:, i] for i in range(arms) for j in range(arms) if i != j}
    frozen = dict.fromkeys(gaps, 1.0)
    for n in range(asked.minimum, len(values) + 1):
        if len(inside) < 2:
            break
        frozen |= {k: float(p_process(gaps[k][:n])[-1]) for k in gaps if set(k) <= inside}
        adjusted = dict(zip(gaps, holm(list(frozen.values())), strict=True))
        shown = {k for k in gaps if (adjusted[k] or 0.0) <= asked.level}
        out = {}
        for i in sorted(inside):
            if not asked.stays(f"arm{i}") and (mine := [k for k in shown if k[0] == i and k[1] in inside]):
                out[i] = ("worse", f"arm{min(mine, key=lambda k: frozen[k])[1]}")
        if n < len(values):
            away, needed = set(out), math.log(asked.level / max(1, len(gaps) - len(shown)))
            for i in sorted(inside - away):
                rest = {
                    k: chance(gaps[k], n, needed, asked) for k in gaps if i in k and set(k) <= inside - away and k not in shown
                }
                if not asked.stays(f"arm{i}") and rest and max(rest.values()) < asked.futility:
                    best = max(rest, key=lambda k: rest[k])
                    out[i] = ("open", f"arm{best[0] + best[1] - i}")
        gone += [(f"arm{i}", why, other, n) for i, (why, other) in out.items()]
        inside -= set(out)
    return gone


@pytest.mark.parametrize("seed", range(6))
def test_the_race_with_futility_is_the_rule_written_down_naively(seed: int) -> None:
    values = drawn(np.random.default_rng(seed), [0, -0.1, -3, -8], sd=0.5)
    asked = rule(4, futility=0.3, baseline="arm3" if seed % 2 else None)
    found = [(left.label, left.why, left.against, left.seeds) for left in played(values, asked).left]
    assert found == undecided(values, asked)


def test_what_is_told_of_an_arm_that_left() -> None:
    values = np.array([[0.5, 0.1], [0.7, math.nan], [0.6, 0.3], [9.0, 9.0]])
    left = _left(values, ["a", "b"], ("worse", "b", "a"), -2.0, 0.3, 3)
    assert (left.label, left.why, left.against, left.seeds, left.n, left.p_adjusted) == ("b", "worse", "a", 3, 2, 0.3)
    assert (left.difference, left.sd) == pytest.approx((-0.35, np.std([-0.4, -0.3], ddof=1)))
    assert (left.e_value, left.p, left.chance) == (pytest.approx(math.exp(2)), pytest.approx(math.exp(-2)), None)
    assert _left(values, ["a", "b"], ("worse", "b", "a"), -800.0, 0.0, 3).e_value == math.exp(700), "no overflow"


def test_holm_in_a_race_counts_hypotheses_that_are_not_there() -> None:
    p = np.array([0.01, 0.5, 0.004, 0.2])
    assert _holm(np.log(p), 4) == pytest.approx(holm(list(p)))
    assert _holm(np.log(p), 6) == pytest.approx(holm([*p, 1.0, 1.0])[:4])
    assert list(_holm(np.log(p), 600)) == [1.0] * 4


def test_an_arm_that_left_before_leaves_when_it_did() -> None:
    values = drawn(np.random.default_rng(22), [0, -0.1, -40], sd=0.5)
    (left,) = played(values, rule(3)).left
    later = dataclasses.replace(left, seeds=left.seeds + 2)
    again = race(values, names(3), rule(3), standing={left.label: later})
    assert again.left == (later,) and again.seeds_of("arm2") == later.seeds
