"""Who trains, who validates, who tests: stratified, disjoint, and the same on every machine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from peftlab.errors import DataError, OptionError
from peftlab.tasks._wording import counted
from peftlab.tasks.contract import Splits
from peftlab.tasks.data._stratification import grouped_cut, grouped_folds, stratified_cut, stratified_folds
from peftlab.tasks.data.contract import Role

DEFAULT_VALIDATION = 0.1
DEFAULT_TEST = 0.2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SplitOptions:
    """What a study may say about splits; None: as the data have it, else the default share."""

    validation: float | None = None  #: share of the training examples
    test: float | None = None  #: share of all examples, for data without a test split
    train_size: int | None = None
    validation_size: int | None = None
    test_size: int | None = None
    folds: int | None = None

    def __post_init__(self) -> None:
        for key in ("validation", "test"):
            share = getattr(self, key)
            if share is not None and not 0 < share < 1:
                raise OptionError(f"{share} is no share between 0 and 1", where=key, remedy="for example 0.1")
        for key in ("train_size", "validation_size", "test_size"):
            size = getattr(self, key)
            if size is not None and size < 1:
                raise OptionError(f"{size} is no number of examples", where=key, remedy="1 or more")
        if self.folds is not None and self.folds < 2:
            raise OptionError(f"{self.folds} folds", where="folds", remedy="2 or more, or leave it out")
        if self.validation is not None and self.validation_size is not None:
            raise OptionError(
                "both validation (a share) and validation_size are given", where="validation_size", remedy="give one of them"
            )
        if self.folds is not None and self.test is not None:
            raise OptionError("with folds the test examples are the fold", where="test", remedy="remove test or folds")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FixedParts:
    """What does not depend on the seed. ``pool``: train, and validation too where ``validation`` is None."""

    pool: np.ndarray
    validation: np.ndarray | None
    test: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Splitter:
    """Splits of one data set under one set of options.

    Args:
        labels: class of every example, int64 [N].
        label_names: K names.
        roles: indices of the splits that the data bring (train at least).
        usable: bool [N]; examples that could be decoded.
        groups: int64 [N]; a cut made here never parts a group (examples about one text, say), which goes before class shares.
    """

    labels: np.ndarray
    label_names: tuple[str, ...]
    roles: Mapping[Role, np.ndarray]
    options: SplitOptions
    usable: np.ndarray | None = None
    groups: np.ndarray | None = None

    def fixed(self, fold: int = 0) -> FixedParts:
        """Subsets and test examples: decided by the data, never by the seed.

        Raises:
            OptionError: a size larger than what is there, a fold that does not exist, ``test`` where the data have a test split.
        """
        options = self.options
        pool, own, test = self._folded(fold) if options.folds else self._given(fold)
        test = self._subset(test, options.test_size, "test_size")
        if own is not None:
            own = self._subset(own, options.validation_size, "validation_size")
            pool = self._subset(pool, options.train_size, "train_size")
        elif options.train_size is not None:
            wanted = options.train_size + self._validation_count(options.train_size, of_train=True)
            if wanted > len(pool):
                largest = next(n for n in range(len(pool), -1, -1) if n + self._validation_count(n, of_train=True) <= len(pool))
                beside = wanted - options.train_size
                raise OptionError(
                    f"{options.train_size:,} to train and {beside:,} to validate, but there are {len(pool):,}",
                    where="train_size",
                    remedy=f"at most {largest}",
                )
            pool = self._subset(pool, wanted, "train_size")
        return FixedParts(pool=self._usable(pool), validation=None if own is None else self._usable(own), test=self._usable(test))

    def used(self) -> np.ndarray:
        """Every index that any seed or fold can ask for, sorted."""
        if self.options.folds:
            parts = [self.fixed(fold) for fold in range(self.options.folds)]
        else:
            parts = [self.fixed()]
        found = [array for part in parts for array in (part.pool, part.validation, part.test) if array is not None]
        return np.unique(np.concatenate(found))

    def splits(self, seed: int, fold: int = 0) -> Splits:
        """Disjoint sorted indices; only the cut between train and validation follows the seed.

        Raises:
            OptionError: the validation share leaves a class without examples on one side.
        """
        fixed = self.fixed(fold)
        if fixed.validation is not None:
            return Splits(train=fixed.pool, validation=fixed.validation, test=fixed.test)
        size = self._validation_count(len(fixed.pool))
        if self.groups is None:
            self._check_cut(fixed.pool, size)
        train, validation = self._cut(fixed.pool, size, seed=seed, purpose=f"validation {fold}")
        return Splits(train=train, validation=validation, test=fixed.test)

    def tried(self, remedy: str = "give it examples") -> list[tuple[str, Splits]]:
        """The splits of every fold, cut by seed 0, each with what a message about it begins with.

        Raises:
            DataError: one is empty; says what to do.
            OptionError: as :meth:`splits`.
        """
        folds = self.options.folds or 1
        found = [(f"fold {fold}: " if folds > 1 else "", self.splits(0, fold)) for fold in range(folds)]
        for prefix, splits in found:
            empty = next((name for name in ("train", "validation", "test") if not len(splits[name])), None)
            if empty:
                raise DataError(f"{prefix}the {empty} split is empty", where="task.data", remedy=remedy)
        return found

    def _given(self, fold: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        if fold:
            raise OptionError(f"fold {fold} asked for, but the task has no folds", where="folds", remedy="add folds: k")
        options, pool = self.options, self.roles["train"]
        test, own = self.roles.get("test"), self.roles.get("validation")
        if own is not None and options.validation is not None:  # an explicit share replaces the data's own validation split
            pool, own = np.sort(np.concatenate([pool, own])), None
        if test is None:
            share = DEFAULT_TEST if options.test is None else options.test
            pool, test = self._cut(pool, round(share * len(pool)), seed=0, purpose="test")
        elif options.test is not None:
            raise OptionError(
                "the data have a test split of their own", where="test", remedy="remove test; test_size takes a subset"
            )
        return pool, own, test

    def _folded(self, fold: int) -> tuple[np.ndarray, None, np.ndarray]:
        folds = self.options.folds or 1
        if not 0 <= fold < folds:
            raise OptionError(f"there is no fold {fold}", where="folds", remedy=f"folds count from 0 to {folds - 1}")
        everything = np.sort(np.concatenate(list(self.roles.values())))
        if folds > len(everything):
            raise OptionError(f"{folds} folds of {len(everything)} examples", where="folds", remedy="use fewer folds")
        if self.groups is None:
            assigned = stratified_folds(self.labels, everything, folds)
        else:
            assigned = grouped_folds(self.groups, everything, folds)
        return everything[assigned != fold], None, everything[assigned == fold]

    def _cut(self, indices: np.ndarray, size: int, *, seed: int, purpose: str) -> tuple[np.ndarray, np.ndarray]:
        if self.groups is None:
            return stratified_cut(self.labels, indices, size, seed=seed, purpose=purpose)
        return grouped_cut(self.groups, indices, size, seed=seed, purpose=purpose)

    def _subset(self, indices: np.ndarray, size: int | None, key: str) -> np.ndarray:
        if size is None:
            return indices
        if size > len(indices):
            raise OptionError(
                f"{size:,} examples asked for, but there are {len(indices):,}", where=key, remedy=f"at most {len(indices)}"
            )
        return stratified_cut(self.labels, indices, size, seed=0, purpose=key)[1]

    def _usable(self, indices: np.ndarray) -> np.ndarray:
        return indices if self.usable is None else indices[self.usable[indices]]

    def _validation_count(self, count: int, *, of_train: bool = False) -> int:
        """Validation examples out of a pool of ``count``; ``of_train``: beside ``count`` training examples."""
        if self.options.validation_size is not None:
            return self.options.validation_size
        share = DEFAULT_VALIDATION if self.options.validation is None else self.options.validation
        return round(count * share / (1 - share)) if of_train else round(count * share)

    def _check_cut(self, pool: np.ndarray, size: int) -> None:
        counts = np.bincount(self.labels[pool], minlength=len(self.label_names))
        key = "validation" if self.options.validation_size is None else "validation_size"
        single = [self.label_names[label] for label in np.flatnonzero(counts == 1)]
        if single:
            lack = "one training example, which cannot be in train and validation both"
            raise DataError(
                counted(single, f"class has {lack}", f"classes have {lack}"),
                where=f"task.{key}",
                remedy="add examples, remove the class, or give the data a validation split of their own",
            )
        present = int((counts > 0).sum())
        if present <= size <= len(pool) - present:
            return
        share = math.ceil(1000 * (present + 0.5) / len(pool)) / 1000
        remedy = f"{key}: {present if key == 'validation_size' else share} or more"
        if size > len(pool) - present:
            remedy = f"at most {len(pool) - present} of the {len(pool)} examples can go to validation"
        side = "validation" if size < present else "train"
        raise OptionError(
            f"{size} validation examples of {len(pool)} leave a class without any in {side}", where=key, remedy=remedy
        )
