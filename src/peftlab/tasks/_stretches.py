"""Where a long text is cut: into blocks to train on, into windows to be scored in, into stretches for each split.

Everything is counted in tokens; a stretch is (begin, end). C tokens in a block or window, S from one window to the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from peftlab.errors import DataError, OptionError
from peftlab.tasks._splits import DEFAULT_TEST, DEFAULT_VALIDATION, SplitOptions
from peftlab.tasks.contract import Splits
from peftlab.tasks.data._stratification import draw_order
from peftlab.tasks.data.contract import Role

Stretch = tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """N runs of tokens, of which the last are predicted. A run is one number, so that a set of runs is an array of examples."""

    starts: np.ndarray  #: int64 [N]
    lengths: np.ndarray  #: int64 [N], at most C
    predicted: np.ndarray  #: int64 [N]

    @classmethod
    def decode(cls, indices: np.ndarray, context: int) -> Runs:
        rest, predicted = np.divmod(np.asarray(indices, dtype=np.int64), context + 1)
        starts, lengths = np.divmod(rest, context + 1)
        return cls(starts=starts, lengths=lengths, predicted=predicted)

    def encode(self, context: int) -> np.ndarray:
        """int64 [N]; rises with the start."""
        return (self.starts * (context + 1) + self.lengths) * (context + 1) + self.predicted


def blocks(stretch: Stretch, context: int) -> Runs:
    """C tokens each, side by side, the last with what is left (if that is two); all but the first token of each is predicted."""
    starts = np.arange(stretch[0], stretch[1], context, dtype=np.int64)
    lengths = np.minimum(context, stretch[1] - starts)
    starts, lengths = starts[lengths > 1], lengths[lengths > 1]
    return Runs(starts=starts, lengths=lengths, predicted=lengths - 1)


def windows(stretch: Stretch, context: int, stride: int) -> Runs:
    """C tokens each, S further every time, until the end is reached; a token is predicted in the first window that has it.

    So every token but the first of the stretch is predicted once, from C - S to C - 1 tokens before it (fewer at the beginning).
    With S = C windows lie side by side, and the first token of each is not predicted.
    """
    begin, end = stretch
    count = max(0, -(-(end - begin - context) // stride)) + 1
    starts = begin + stride * np.arange(count, dtype=np.int64)
    ends = np.minimum(starts + context, end)
    fresh = np.minimum(ends - np.concatenate([[begin], ends[:-1]]), ends - starts - 1)
    some = fresh > 0
    return Runs(starts=starts[some], lengths=(ends - starts)[some], predicted=fresh[some])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cutter:
    """Who trains, who validates, who tests: whole stretches, so that a token is in one split only.

    Without splits of the data's own, the end of the text is for the test, and a stretch whose place follows the seed for
    validation. ``train_size`` and its like count blocks of C tokens, from the beginning of what there is.
    """

    parts: Mapping[Role, Stretch]  #: side by side: train, validation, test
    options: SplitOptions
    context: int
    stride: int

    def splits(self, seed: int, fold: int = 0) -> Splits:
        """Training blocks, validation windows, test windows.

        Raises:
            OptionError: sizes or shares that do not work out.
            DataError: a split shorter than one block.
        """
        pool, validation, test = self._parts(fold)
        if validation is None:
            pool, validation = self._validation(pool, seed, fold)
        self._long_enough("train", sum(end - begin for begin, end in pool))
        for name, (begin, end) in (("validation", validation), ("test", test)):
            self._long_enough(name, end - begin)
        train = np.concatenate([blocks(stretch, self.context).encode(self.context) for stretch in pool])
        scored = (windows(stretch, self.context, self.stride).encode(self.context) for stretch in (validation, test))
        return Splits(train=train, validation=next(scored), test=next(scored))

    def _parts(self, fold: int) -> tuple[list[Stretch], Stretch | None, Stretch]:
        if self.options.folds:
            return self._folded(fold)
        if fold:
            raise OptionError(f"fold {fold} asked for, but the task has no folds", where="folds", remedy="add folds: k")
        options, pool = self.options, self.parts["train"]
        own, test = self.parts.get("validation"), self.parts.get("test")
        if own is not None and options.validation is not None:
            pool, own = (pool[0], own[1]), None
        if test is None:
            share = DEFAULT_TEST if options.test is None else options.test
            middle = pool[1] - round(share * (pool[1] - pool[0]))
            pool, test = (pool[0], middle), (middle, pool[1])
        elif options.test is not None:
            raise OptionError(
                "the data have a test split of their own", where="test", remedy="remove test; test_size takes its beginning"
            )
        if own is not None:
            own = self._first(own, options.validation_size, "validation_size")
            pool = self._first(pool, options.train_size, "train_size")
        elif options.train_size is not None:
            pool = self._first(pool, options.train_size + self._count(options.train_size, of_train=True), "train_size")
        return [pool], own, self._first(test, options.test_size, "test_size")

    def _folded(self, fold: int) -> tuple[list[Stretch], None, Stretch]:
        folds = self.options.folds or 1
        if not 0 <= fold < folds:
            raise OptionError(f"there is no fold {fold}", where="folds", remedy=f"folds count from 0 to {folds - 1}")
        begin, end = min(b for b, _ in self.parts.values()), max(e for _, e in self.parts.values())
        edges = [begin + self.context * round(i * (end - begin) / folds / self.context) for i in range(folds)] + [end]
        test = (edges[fold], edges[fold + 1])
        pool = [stretch for stretch in ((begin, test[0]), (test[1], end)) if stretch[0] < stretch[1]]
        if self.options.train_size is not None:
            raise OptionError("with folds all that is not tested is for training", where="train_size", remedy="remove it")
        return pool, None, self._first(test, self.options.test_size, "test_size")

    def _validation(self, pool: Sequence[Stretch], seed: int, fold: int) -> tuple[list[Stretch], Stretch]:
        """The pool without the stretch, and the stretch: it begins with a block of the pool, which one is drawn."""
        count = self._count(sum((end - begin) // self.context for begin, end in pool))
        size = count * self.context
        begins = [i for begin, end in pool for i in range(begin, end - size + 1, self.context)]
        if not count or not begins:
            most = max((end - begin) // self.context for begin, end in pool)
            key = "validation" if self.options.validation_size is None else "validation_size"
            raise OptionError(
                f"{count} blocks of {self.context} tokens to validate; there are {most} in a row",
                where=key,
                remedy="choose from 1 block to fewer than there are, or a smaller context",
            )
        begin = begins[draw_order(len(begins), seed=seed, purpose=f"validation {fold}")[0]]
        held = (begin, begin + size)
        around = [part for b, e in pool for part in (((b, held[0]), (held[1], e)) if b <= begin < e else ((b, e),))]
        return [part for part in around if part[0] < part[1]], held

    def _count(self, total: int, *, of_train: bool = False) -> int:
        """Blocks to validate, out of ``total``; ``of_train``: beside ``total`` to train."""
        if self.options.validation_size is not None:
            return self.options.validation_size
        share = DEFAULT_VALIDATION if self.options.validation is None else self.options.validation
        return max(1, round(total * share / (1 - share)) if of_train else round(total * share))

    def _first(self, stretch: Stretch, size: int | None, key: str) -> Stretch:
        if size is None:
            return stretch
        there = (stretch[1] - stretch[0]) // self.context
        if size > there:
            raise OptionError(
                f"{size:,} blocks of {self.context} tokens asked for, but there are {there:,}",
                where=key,
                remedy=f"at most {there}",
            )
        return stretch[0], stretch[0] + size * self.context

    def _long_enough(self, split: str, tokens: int) -> None:
        if tokens < self.context:
            raise DataError(
                f"the {split} text has {tokens:,} tokens, less than one block of {self.context}",
                where="data",
                remedy="give a longer text, or a smaller context",
            )
