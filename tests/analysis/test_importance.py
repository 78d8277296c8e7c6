"""Importance maps, contrasts and agreement against naive computations with numpy and scipy; error rates by simulation."""

# scipy's results have attributes that its stubs do not know:
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportOptionalIterable=false, reportOperatorIssue=false

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from peftlab.analysis.agreement import between_seeds, between_settings, tau_b, taus_with
from peftlab.analysis.anytime import p_two_sided
from peftlab.analysis.assess_layers import LayerTables, assess_layers
from peftlab.analysis.frame import load_frame
from peftlab.analysis.importance import Group, contrasts, mean_tau, module_map
from peftlab.analysis.intervals import t_interval
from peftlab.analysis.maps import Place
from peftlab.study.schema import Racing
from tests.report.fixtures import Options, write_results
from tests.report.layers import BLOCKS, METRICS, SITES, STEPS, price, write_layers

ADAPTIVE = "lora[rank=8]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_results(tmp_path_factory.mktemp("results"), Options(failed=(), diverged=()))
    write_layers(folder)
    return folder


@pytest.fixture(scope="module")
def tables(folder: Path) -> LayerTables:
    return assess_layers(load_frame(folder))


def naive_shares(folder: Path, slug: str, metric: str) -> pd.DataFrame:
    """[seed, site]: mean over the snapshots after step 42 of value / sum, from the files alone."""
    rows = {}
    for path in (folder / "runs" / slug).glob("*/importance.json"):
        values = pd.DataFrame(json.loads(path.read_text())["metrics"][metric], index=STEPS)
        shares = values.div(values.sum(axis=1), axis=0)
        rows[json.loads((path.parent / "config.json").read_text())["seed"]] = shares[shares.index > 42.5].mean()
    return pd.DataFrame(rows).T.sort_index()


def test_means_and_intervals_are_those_of_scipy(folder: Path, tables: LayerTables) -> None:
    found = next(m for m in tables.layers.importance if (m.arm, m.metric) == (ADAPTIVE, "fisher"))
    shares = naive_shares(folder, "lora.rank-8", "fisher")
    assert found.n == 5 and found.uniform == 1 / len(SITES) and sum(m.mean for m in found.modules) == pytest.approx(1)
    for module in found.modules:
        column = shares[module.site]
        low, high = stats.t.interval(0.95, 4, column.mean(), stats.sem(column))
        assert (module.mean, *module.interval) == pytest.approx((column.mean(), low, high))
        assert module.above == (low > found.uniform) and module.below == (high < found.uniform)
    order = shares.mean().sort_values()
    assert found.most == list(order.index[:-6:-1]) and found.least == list(order.index[:5])


def test_contrasts_are_those_of_a_naive_computation(folder: Path, tables: LayerTables) -> None:
    here = [c for c in tables.layers.contrasts if c.arm == ADAPTIVE]
    assert len(here) == 4 * len(METRICS) and {c.family_size for c in here} == {8}
    found = next(c for c in here if (c.metric, c.what) == ("fisher", "attention − feed-forward"))
    shares = len(SITES) * naive_shares(folder, "lora.rank-8", "fisher")

    def side(b: int, roles: str | tuple[str, ...]) -> pd.Series:
        return shares[[f"blocks.{b}.{r}" for r in roles]].mean(axis=1)

    per_seed = pd.DataFrame({b: side(b, "qkvo") - side(b, ("up", "down")) for b in range(BLOCKS)})
    blocks, seeds = per_seed.mean(), per_seed.mean(axis=1)
    assert found.estimate == pytest.approx(blocks.mean())
    assert found.interval == pytest.approx(stats.t.interval(0.95, BLOCKS - 1, blocks.mean(), stats.sem(blocks)))
    assert found.interval_over_seeds == pytest.approx(stats.t.interval(0.95, 4, seeds.mean(), stats.sem(seeds)))
    test = stats.permutation_test((blocks,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found.p_sign_flip == pytest.approx(test.pvalue)
    assert found.p_adjusted is not None and found.p_adjusted >= found.p_sign_flip


def test_agreement_is_that_of_scipy(folder: Path, tables: LayerTables) -> None:
    shares = {m: naive_shares(folder, "lora.rank-8", m) for m in METRICS}
    here = [a for a in tables.layers.agreement if a.arm == ADAPTIVE]
    seeds = next(a for a in here if (a.kind, a.metric) == ("seeds", "fisher"))
    taus = [stats.kendalltau(a, b).statistic for a, b in itertools.combinations(shares["fisher"].to_numpy(), 2)]
    assert (seeds.tau, seeds.pairs, seeds.n) == (pytest.approx(np.mean(taus)), 10, 5)
    metrics = next(a for a in here if a.kind == "metrics" and {a.metric, a.other} == set(METRICS))
    pairs = zip(*(shares[m].to_numpy() for m in METRICS), strict=True)
    taus = [stats.kendalltau(a, b).statistic for a, b in pairs]
    assert metrics.tau == pytest.approx(np.mean(taus))
    assert metrics.interval == pytest.approx(np.clip(stats.t.interval(0.95, 4, np.mean(taus), stats.sem(taus)), -1, 1))
    assert any(a.kind == "seeds" and a.metric == "rank" for a in here)
    steps = [a.step for a in tables.layers.stability if (a.arm, a.metric) == (ADAPTIVE, "fisher")]
    assert steps == STEPS[:-1]


def test_noise_is_called_noise(tables: LayerTables) -> None:
    text = " ".join(tables.layers.sentences)
    assert f"{ADAPTIVE}: attention matters more than feed-forward by fisher and sensitivity" in text
    noisy = next(a for a in tables.layers.agreement if (a.kind, a.arm, a.metric) == ("seeds", "lora-all", "fisher"))
    assert noisy.interval is not None and noisy.interval[0] < 0.2 and noisy.tau < 0.4


def test_tables(folder: Path, tables: LayerTables) -> None:
    tables.write(load_frame(folder))
    importance, ranks = (pd.read_csv(folder / "analysis" / f"{name}.csv") for name in ("importance", "ranks"))
    assert len(importance) == 3 * 5 * len(METRICS) * len(STEPS) * len(SITES)
    assert sorted(ranks["step"].unique()) == [0, 30, 60, 85] and set(ranks["arm"]) == {ADAPTIVE}
    assert len(ranks) == 5 * 4 * len(SITES)
    row = importance.iloc[1234]
    configs = {p: json.loads(p.read_text()) for p in (folder / "runs").glob("*/*/config.json")}
    path = next(p for p, config in configs.items() if (config["label"], config["seed"]) == (row["arm"], row["seed"]))
    recorded = json.loads((path.parent / "importance.json").read_text())["metrics"][row["metric"]][row["site"]]
    assert row["value"] == pytest.approx(recorded[STEPS.index(row["step"])])


def test_adaptive_against_fixed_in_a_race_holds_at_any_number_of_seeds(folder: Path) -> None:
    frame = load_frame(folder)
    raced = dataclasses.replace(frame, study=frame.study.model_copy(update={"search": Racing(method="racing")}))
    values, examples = frame.values(*frame.settings[0]), float(frame.primary()["examples"].max())
    for row in assess_layers(raced).layers.adaptive:
        gap = values[row.adaptive] - values[row.fixed]
        assert row.p == pytest.approx(p_two_sided(gap, resolution=0.5 / examples)) and row.n == len(gap)


def test_adaptive_against_fixed(folder: Path, tables: LayerTables) -> None:
    rows = {row.fixed: row for row in tables.layers.adaptive}
    assert rows.keys() == {"lora-all", "lora[rank=2]"} and {r.adaptive for r in rows.values()} == {ADAPTIVE}
    values = load_frame(folder).values(*load_frame(folder).settings[0])
    row, difference = rows["lora-all"], values[ADAPTIVE] - values["lora-all"]
    assert row.difference == pytest.approx(difference.mean())
    assert row.p == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    assert row.allocator_share == pytest.approx(0.02)
    assert (row.ranks_fixed, row.parameters_at_most, row.effective_scale) == (4 * len(SITES), 13_258, 2.0)
    ends = [json.loads(p.read_text())["ranks"] for p in (folder / "runs" / "lora.rank-8").glob("*/ranks.json")]
    assert row.parameters_at_end == pytest.approx(970 + np.mean([price(ranks) for ranks in ends]))


def test_damaged_and_absent_files_do_no_harm(tmp_path: Path) -> None:
    folder = write_results(tmp_path)
    assert assess_layers(load_frame(folder)).empty
    write_layers(folder)
    broken = sorted((folder / "runs" / "lora-all").glob("*/importance.json"))
    for path, text in zip(broken, ("{", "[]", '{"sites": {}, "steps": [1], "metrics": {"m": {"x": [1]}}}'), strict=False):
        path.write_text(text)
    layers = assess_layers(load_frame(folder)).layers
    assert sum("damaged" in note for note in layers.notes) == 3
    assert next(m for m in layers.importance if m.arm == "lora-all").n == 2


def test_one_seed_says_nothing(tmp_path: Path) -> None:
    skip = tuple((label, s) for label in ("lora[rank=8]", "lora-all", "lora[rank=2]") for s in range(1, 5))
    folder = write_results(tmp_path, Options(failed=(), diverged=(), skip=skip))
    write_layers(folder)
    layers = assess_layers(load_frame(folder)).layers
    assert not (layers.importance or layers.contrasts or layers.agreement or layers.stability or layers.sentences)
    assert "one seed" in layers.notes[0]


def test_tau_without_variation_or_modules_is_none() -> None:
    assert tau_b([1, 1, 1], [1, 2, 3]) is None
    assert tau_b([1, np.nan, 3], [1, 2, 3]) is None
    assert tau_b([1, 2, 3, np.nan], [3, 2, 1, 0]) == pytest.approx(-1)


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=20))
def test_tau_is_that_of_scipy_ties_included(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, dtype=float).T
    expected = stats.kendalltau(first, second).statistic
    found = tau_b(first, second)
    assert found is None if np.isnan(expected) else found == pytest.approx(expected)


def draw(random: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return base + random.normal(size=base.size)


def test_the_jackknife_covers_the_true_agreement_of_seeds_and_settings() -> None:
    """400 simulated studies of 5 seeds and 12 modules: coverage of at least 0.95 - 3 sqrt(0.95 0.05 / 400) = 0.917."""
    random, base = np.random.default_rng(3), np.linspace(0, 3, 12)
    truth = np.mean([tau_b(draw(random, base), draw(random, base)) for _ in range(3000)])  # type: ignore
    hits = [0, 0]
    for _ in range(400):
        here, there = ({seed: draw(random, base) for seed in range(5)} for _ in "ab")
        for k, found in enumerate((between_seeds(here), between_settings(here, there))):
            assert found is not None and found.interval is not None
            hits[k] += found.interval[0] <= truth <= found.interval[1]
    assert min(hits) / 400 >= 0.917


def groups(random: np.random.Generator, blocks: int = 8) -> list[Group]:
    """Two metrics without any difference between layers."""
    sites = [f"{b}.{role}" for b in range(blocks) for role in ("q", "k", "v", "up")]
    places = {s: Place(block=int(s.split(".")[0]), role=s.split(".")[1]) for s in sites}
    return [
        Group(arm="a", task="t", backbone="b", metric=m, sites=sites, places=places, seeds=[0, 1, 2],
              values=random.dirichlet(np.full(len(sites), 5.0), size=3))
        for m in METRICS
    ]  # fmt: skip


def test_error_rates_under_the_null() -> None:
    """200 simulated studies: family-wise error of the contrasts at most 0.05, coverage of the module intervals near 0.95."""
    random = np.random.default_rng(4)
    wrong, covered, intervals = 0, 0, 0
    for _ in range(200):
        made = groups(random)
        wrong += any(c.p_adjusted is not None and c.p_adjusted <= 0.05 for c in contrasts(made, 0.95, random))
        for module in module_map(made[0], 0.95).modules:
            assert module.interval is not None
            covered += module.interval[0] <= 1 / 32 <= module.interval[1]
            intervals += 1
    assert wrong / 200 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    assert 0.92 <= covered / intervals <= 0.98


@pytest.mark.parametrize("gap", [False, True])
def test_taus_at_once_are_those_one_by_one(gap: bool) -> None:
    random = np.random.default_rng(4)
    rows = random.normal(size=(6, 9)).round(1)  # with ties
    rows[2] = 0.5  # without variation there is no tau
    if gap:
        rows[0, 3] = np.nan
    last = random.normal(size=9).round(1)
    assert taus_with(rows, last) == [tau_b(row, last) for row in rows]
    assert taus_with(rows[:, :2], last[:2]) == [None] * 6
    assert taus_with(rows[:0], last) == [], "one map, and none before it"


def test_the_interval_of_a_mean_tau_covers_the_true_one() -> None:
    """1,500 studies of 5 seeds, each with one tau of two metrics of the same run over 12 modules."""
    random, base, trials, hits = np.random.default_rng(5), np.linspace(0, 3, 12), 1500, 0

    def tau(noise: float) -> float:
        return float(tau_b(base + noise * random.normal(size=12), base + noise * random.normal(size=12)) or 0.0)

    truth = np.mean([tau(0.6) for _ in range(20_000)])
    for _ in range(trials):
        found = mean_tau([tau(0.6) for _ in range(5)], 0.95)
        assert found is not None and found.interval is not None
        hits += found.interval[0] <= truth <= found.interval[1]
    assert hits / trials == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / trials))


def test_two_seeds_give_no_interval_because_it_would_not_keep_its_promise() -> None:
    """With two seeds of maps that agree almost wholly both taus are often alike: the t interval covers 0.57, three give 0.79."""
    random, base = np.random.default_rng(6), np.linspace(0, 3, 12)

    def tau() -> float:
        return float(tau_b(base + 0.1 * random.normal(size=12), base + 0.1 * random.normal(size=12)) or 0.0)

    truth, trials, hits = np.mean([tau() for _ in range(6000)]), 1000, {2: 0, 3: 0}
    for n in hits:
        for _ in range(trials):
            interval = t_interval([tau() for _ in range(n)])
            assert interval.low is not None and interval.high is not None
            hits[n] += interval.low <= truth <= interval.high
    assert 500 < hits[2] < 650 and 740 < hits[3] < 840
    two, three = mean_tau([0.9, 0.95], 0.95), mean_tau([0.9, 0.95, 0.97], 0.95)
    assert two is not None and two.interval is None and two.tau == pytest.approx(0.925) and two.seeds == 2
    assert three is not None and three.interval is not None
