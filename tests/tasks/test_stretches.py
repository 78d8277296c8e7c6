"""Blocks, windows and splits of a long text, in tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftlab.errors import DataError, OptionError
from peftlab.tasks._splits import SplitOptions
from peftlab.tasks._stretches import Cutter, Runs, Stretch, blocks, windows

CONTEXTS = st.integers(2, 12)


def hugging_face(begin: int, end: int, context: int, stride: int) -> list[tuple[int, int, int]]:
    """(start, length, predicted) of the loop in transformers' documentation, "Perplexity of fixed-length models".

    The first token of what a model is given is never predicted, whatever the labels say.
    """
    found, before = [], 0
    for start in range(0, end - begin, stride):
        stop = min(start + context, end - begin)
        found.append((begin + start, stop - start, min(stop - before, stop - start - 1)))
        before = stop
        if stop == end - begin:
            break
    return [run for run in found if run[2] > 0]


@given(begin=st.integers(0, 50), size=st.integers(1, 80), context=CONTEXTS, data=st.data())
def test_windows_are_those_of_hugging_face(begin: int, size: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    found = windows((begin, begin + size), context, stride)
    wanted = hugging_face(begin, begin + size, context, stride)
    assert list(zip(found.starts.tolist(), found.lengths.tolist(), found.predicted.tolist(), strict=True)) == wanted
    scored = [t for start, length, n in wanted for t in range(start + length - n, start + length)]
    if stride < context:
        assert scored == list(range(begin + 1, begin + size))  # each once, all but the first
    else:
        assert scored == [t for t in range(begin, begin + size) if (t - begin) % context]
    for start, length, _ in wanted[1:]:
        assert length == min(context, begin + size - start)


@given(begin=st.integers(0, 50), size=st.integers(1, 80), context=CONTEXTS)
def test_blocks_lie_side_by_side(begin: int, size: int, context: int) -> None:
    found = blocks((begin, begin + size), context)
    tokens = [t for s, n in zip(found.starts, found.lengths, strict=True) for t in range(s, s + n)]
    assert tokens == list(range(begin, begin + size - (size % context == 1)))
    assert (found.predicted == found.lengths - 1).all()
    again = Runs.decode(found.encode(context), context)
    assert all(np.array_equal(getattr(again, name), getattr(found, name)) for name in ("starts", "lengths", "predicted"))
    assert (np.diff(found.encode(context)) > 0).all()


def tokens(indices: np.ndarray, context: int) -> set[int]:
    runs = Runs.decode(indices, context)
    return {t for s, n in zip(runs.starts, runs.lengths, strict=True) for t in range(s, s + n)}


PARTS: list[dict[str, Stretch]] = [
    {"train": (0, 400)},
    {"train": (0, 300), "test": (300, 401)},
    {"train": (0, 300), "validation": (300, 350), "test": (350, 401)},
]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("options", [{}, {"validation": 0.3}, {"folds": 4}, {"train_size": 6, "test_size": 3}])
def test_no_token_is_in_two_splits_and_none_is_lost(parts: dict, options: dict) -> None:
    cutter = Cutter(parts=parts, options=SplitOptions(**options), context=10, stride=4)
    whole = {}
    for fold in range(options.get("folds", 1)):
        for seed in range(5):
            splits = cutter.splits(seed, fold)
            held = [tokens(splits[name], 10) for name in ("train", "validation", "test")]
            assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]
            assert all(held[i] and max(held[i]) - min(held[i]) + 1 == len(held[i]) for i in (1, 2))  # one stretch each
            whole.setdefault((fold, "all"), held[0] | held[1] | held[2])
            assert whole[fold, "all"] - (held[0] | held[1] | held[2]) <= {400, 299}  # a token by itself is no block
            assert whole.setdefault((fold, "test"), held[2]) == held[2]
        if "train_size" in options:
            assert len(splits.train) == 6 and len(held[2]) == 30
    if "folds" in options:
        assert sorted(t for fold in range(4) for t in whole[fold, "test"]) == list(range(max(max(p) for p in parts.values())))


def test_the_place_of_validation_follows_the_seed() -> None:
    cutter = Cutter(parts={"train": (0, 1000)}, options=SplitOptions(), context=10, stride=10)
    places = {min(tokens(cutter.splits(seed).validation, 10)) for seed in range(40)}
    assert len(places) > 15 and max(places) <= 720 and all(place % 10 == 0 for place in places)
    assert tokens(cutter.splits(3).test, 10) == set(range(800, 1000))


def test_splits_of_the_data_stay_as_they_are() -> None:
    cutter = Cutter(parts=PARTS[2], options=SplitOptions(), context=10, stride=5)
    for seed in (0, 1):
        splits = cutter.splits(seed)
        assert [tokens(splits[name], 10) for name in ("train", "validation")] == [set(range(300)), set(range(300, 350))]


@pytest.mark.parametrize(
    ("parts", "options", "error", "message"),
    [
        ({"train": (0, 9)}, {}, OptionError, "1 blocks of 10 tokens to validate; there are 0 in a row"),
        (
            {"train": (0, 12), "validation": (12, 40), "test": (40, 45)},
            {},
            DataError,
            "the test text has 5 tokens, less than one",
        ),
        ({"train": (0, 9), "validation": (9, 40), "test": (40, 80)}, {}, DataError, "the train text has 9 tokens"),
        ({"train": (0, 15), "test": (15, 40)}, {}, DataError, "the train text has 5 tokens"),
        (PARTS[0], {"train_size": 40}, OptionError, "44 blocks of 10 tokens asked for, but there are 32"),
        (PARTS[2], {"test": 0.1}, OptionError, "have a test split of their own"),
        (PARTS[0], {"folds": 3, "train_size": 2}, OptionError, "with folds all that is not tested is for training"),
        (PARTS[1], {"validation_size": 31}, OptionError, "31 blocks of 10 tokens to validate; there are 30 in a row"),
    ],
)
def test_what_does_not_work_out_is_said(parts: dict, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Cutter(parts=parts, options=SplitOptions(**options), context=10, stride=5).splits(0)
    with pytest.raises(OptionError, match="no fold"):
        Cutter(parts=PARTS[0], options=SplitOptions(), context=10, stride=5).splits(0, 1)
