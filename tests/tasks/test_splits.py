"""Splits: disjoint, and the test examples fixed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.errors import DataError, OptionError
from peftlab.tasks._splits import SplitOptions, Splitter

SPLITS = ("train", "validation", "test")


def splitter(counts=(40, 40, 20), roles=None, usable=None, **options) -> Splitter:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"c{label}" for label in range(len(counts)))
    roles = roles or {"train": np.arange(len(labels))}
    return Splitter(labels=labels, label_names=names, roles=roles, options=SplitOptions(**options), usable=usable)


@given(
    st.integers(0, 10**12),
    st.sampled_from([None, 0.1, 0.3]),
    st.sampled_from([None, 10, 30]),
    st.sampled_from([None, 6, 12]),
    st.sampled_from([None, 2, 5]),
)
def test_splits_are_disjoint_and_test_is_fixed(seed, validation, train_size, test_size, folds):
    made = splitter(validation=validation, train_size=train_size, test_size=test_size, folds=folds)
    for fold in range(folds or 1):
        try:
            splits = made.splits(seed, fold)
        except OptionError as error:  # ten training examples with a share of 0.1 leave validation without a class
            assert train_size == 10 and error.where == "validation"
            return
        together = np.concatenate([splits[name] for name in SPLITS])
        assert len(np.unique(together)) == len(together)
        assert np.array_equal(splits.test, made.splits(0, fold).test)
        assert train_size is None or len(splits.train) == train_size
        assert test_size is None or len(splits.test) == test_size
        assert np.isin(together, made.used()).all()


def test_data_without_a_test_split_lose_a_fifth_or_what_is_asked_for():
    assert len(splitter().splits(0).test) == 20
    assert len(splitter(test=0.35).splits(0).test) == 35


def test_unusable_examples_are_in_no_split():
    usable = np.ones(100, dtype=bool)
    usable[[3, 50, 99]] = False
    splits = splitter(usable=usable).splits(0)
    together = np.concatenate([splits[name] for name in SPLITS])
    assert len(together) == 97 and usable[together].all()


@pytest.mark.parametrize("options", [{}, {"validation": 0.3}, {"validation_size": 7}])
def test_the_train_size_named_in_the_remedy_is_the_largest_that_works(options):
    with pytest.raises(OptionError, match="there are 80") as caught:
        splitter(train_size=81, **options).splits(0)
    largest = int(caught.value.remedy.removeprefix("at most "))
    assert len(splitter(train_size=largest, **options).splits(0).train) == largest
    with pytest.raises(OptionError, match="there are 80"):
        splitter(train_size=largest + 1, **options).splits(0)


def test_folds_that_do_not_exist():
    with pytest.raises(OptionError, match="no folds"):
        splitter().splits(0, 1)
    with pytest.raises(OptionError, match="no fold 3"):
        splitter(folds=3).splits(0, 3)


def test_a_cut_that_leaves_a_class_out_is_refused():
    with pytest.raises(OptionError, match="without any in validation"):
        splitter(validation=0.02).splits(0)
    with pytest.raises(OptionError, match="without any in train"):
        splitter(validation=0.99).splits(0)
    with pytest.raises(DataError, match="'c2'"):
        splitter(counts=(10, 10, 1), test=0.1).splits(0)
