"""Valid studies changed at random, in keys, types and nesting: what comes out is a plan or a typed error with a remedy.

The fuzzers beside the readers (tests/study, tests/security, tools/fuzz.py) change bytes, or put whole structures in place of a
key; here the edits go through every level of an arm, a task and a budget down to the components' own options, and are planned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peftlab.errors import PeftlabError
from peftlab.planning.plan import PlanOptions
from peftlab.planning.planner import make_plan
from peftlab.study.load import parse_yaml, validate_study
from tests.bad_input.laws import FOREIGN

VALID = """\
study: small
backbone: bundled:vit-nano
task: {kind: image-classification, data: digits, validation: 0.1, train_size: 100}
seeds: [0, 1]
train: {epochs: 1, batch_size: 16, warmup: 0.1}
arms:
  lora: {adapter: {name: lora, rank: [2, 4], targets: attention, alpha: 4}, learning_rate: 1e-3}
  svd: {adapter: svd, allocator: {name: adalora, budget: {ranks: 16}, every: 1}}
  matched: {adapter: svd, allocator: {name: linear-growth, budget: "match lora[rank=2]", max_rank: 8}}
  pattern: {adapter: lora, allocator: {name: empirical, importance: {name: sensitivity, beta1: 0.5}, batches: 1}}
  stored: {adapter: {name: pooled, group_size: 16}, quantizer: {name: groupwise, type: int4, group_size: 16}}
  other: {adapter: {name: peft, type: VERA, config_options: {r: 4}}}
analysis: {baseline: svd, margin: {relative: 0.03}}
"""
Place = tuple[Any, ...]
WORDS = st.sampled_from(["", "lora", "match svd", "0.5", "é"])
NESTED = st.sampled_from([[], {}, [[1]], {"name": 1}])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-2, 300), st.just(2**70), st.floats(-2, 2), WORDS, NESTED)


def places(node: Any, path: Place = ()) -> Iterator[Place]:
    """Every key and every list index of nested data."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


PLACES = [*places(parse_yaml(VALID))]


@st.composite
def edits(draw: st.DrawFn) -> dict[str, Any]:
    """One to three keys deleted, renamed, given another type, wrapped in a list or a mapping, or moved to another place."""
    raw = parse_yaml(VALID)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PLACES))
        node = _at(raw, path[:-1])
        if node is None or not _holds(node, path[-1]):
            continue
        value, kind = node[path[-1]], draw(st.sampled_from(["delete", "rename", "retype", "list", "nest", "move"]))
        if kind == "retype":
            node[path[-1]] = copy.deepcopy(draw(LEAVES))
        elif kind == "list":
            node[path[-1]] = [value, copy.deepcopy(value)]
        elif kind == "nest":
            node[path[-1]] = {draw(st.sampled_from(["name", "rank", "ranks", "x"])): value}
        else:
            del node[path[-1]]
            target = _at(raw, draw(st.sampled_from(PLACES))[:-1]) if kind == "move" else node
            if kind != "delete" and isinstance(target, dict):
                target[str(path[-1])[: -1 if kind == "rename" else None]] = value
    return raw


def _holds(node: Any, key: Any) -> bool:
    return (isinstance(node, dict) and key in node) or (isinstance(node, list) and isinstance(key, int) and key < len(node))


def _at(raw: Any, path: Place) -> Any:
    """What lies at a path, or None where an earlier edit took it away."""
    for key in path:
        if not _holds(raw, key):
            return None
        raw = raw[key]
    return raw


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[Path], Path]) -> Path:
    return measured(tmp_path_factory.mktemp("cache"))


def planned(raw: dict[str, Any], cache: Path) -> PeftlabError | None:
    """The typed error, or None for a valid plan; whatever else is raised goes through."""
    try:
        plan = make_plan(validate_study(raw), PlanOptions(cache=cache, predict=False))
    except PeftlabError as error:
        return error
    assert plan.runs
    return None


def test_the_study_that_is_edited_is_valid(cache: Path) -> None:
    assert planned(parse_yaml(VALID), cache) is None


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(raw=edits())
def test_an_edited_study_is_planned_or_refused_in_words(cache: Path, raw: dict[str, Any]) -> None:
    error = planned(raw, cache)
    if error is not None:
        assert error.what and error.remedy, error
        assert error.where, error
        assert "PEFT" in error.what or not FOREIGN.search(str(error)), error
