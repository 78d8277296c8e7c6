"""Keys of a study typed as options: the override that was meant."""

from __future__ import annotations

import shlex

import pytest

from peftlab.study.as_option import override_of
from peftlab.study.load import apply_overrides


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--seeds 7", "--set 'seeds=[7]'"),
        ("--seeds 7 8 s.yaml", "--set 'seeds=[7, 8]'"),
        ("--seeds 0,1", "--set 'seeds=[0,1]'"),
        ("--seeds [0,1]", "--set 'seeds=[0,1]'"),
        ("--seed 7", "--set 'seeds=[7]'"),
        ("--seeds", "--set 'seeds=[VALUE]'"),
        ("--trackers wandb", "--set 'trackers=[wandb]'"),
        ("--backbone 'my model'", "--set 'backbone=my model'"),
        ("--epochs 3", "--set train.epochs=3"),
        ("--train.epochs 3", "--set train.epochs=3"),
        ("--batch-size 16", "--set train.batch_size=16"),
        ("--batchsize 16", "--set train.batch_size=16"),
        ("--learning_rate 1e-3", "--set train.learning_rate=1e-3"),
        ("--lr 1e-3", "--set train.learning_rate=1e-3"),
        ("--epochs s.yaml", "--set train.epochs=VALUE"),
        ("--gradient-checkpointing s.yaml", "--set train.gradient_checkpointing=true"),
        ("--metric f1", "--set analysis.metric=f1"),
    ],
)
def test_the_override_that_was_meant(typed: str, meant: str) -> None:
    option, *words = shlex.split(typed)
    assert override_of(option, words) == meant
    assert apply_overrides({}, [shlex.split(meant)[1]])  # it can be typed


@pytest.mark.parametrize("option", ["--jbos", "--workers", "--quiet", "--study", "--task", "--early-stopping", "--margin", "--e"])
def test_what_is_no_key_with_a_value_of_its_own(option: str) -> None:
    assert override_of(option, ["3"]) is None
