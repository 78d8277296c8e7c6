"""Values of a trial, drawn by Optuna: a function of the study's ``tune``, the trial's number and what earlier trials gave.

Trials are drawn in rounds. All of a round are drawn when every trial of the rounds before it has ended, and as if none of its own
had, so neither the number of processes nor an interruption changes what is drawn:

==========  =====================================================================================================
``random``  one round: no draw depends on a result
``tpe``     first half of the trials, at most 10, at random; from then on rounds of 4 by the tree-structured Parzen estimator
            over all keys together (Bergstra et al. 2011; Watanabe 2023), in which trials without a result count as bad ones
            ("constant liar"), which keeps the four apart
==========  =====================================================================================================

Each trial has a generator of its own, seeded with a hash of ``tune`` and its number. It does not depend on the arm: arms with the
same space begin with the same random trials.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftlab.errors import MissingExtra, install
from peftlab.planning.search import Space, Values
from peftlab.study.schema import Range, Tune

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

STARTUP = 10  #: trials drawn at random before the estimator has something to go by, at most (Optuna's default)
ROUND = 4  #: trials drawn at once from then on


def startup(trials: int) -> int:
    """How many of the trials ``tpe`` draws at random: half of them, at most :data:`STARTUP`."""
    return min(STARTUP, math.ceil(trials / 2))


def round_of(tune: Tune, number: int) -> tuple[int, int]:
    """(first, end) of the round that a trial belongs to."""
    if tune.sampler == "halving":
        return tune.rung_of(number)[:2]
    if tune.sampler != "tpe":
        return 0, tune.number
    first = startup(tune.number)
    if number < first:
        return 0, first
    first += (number - first) // ROUND * ROUND
    return first, min(first + ROUND, tune.number)


def draw(tune: Tune, space: Space, before: Sequence[tuple[Values, float | None]], higher_is_better: bool) -> Values:
    """The values of the next trial.

    Args:
        tune: sampler, number of trials, and what the draws are seeded with.
        space: what is searched.
        before: values and score of every earlier trial, in order; None: not to be known yet.
        higher_is_better: of the score.

    Raises:
        MissingExtra: Optuna is not installed.
    """
    optuna = load_optuna()
    if not space:
        return {}
    with quiet():
        study = optuna.create_study(
            direction="maximize" if higher_is_better else "minimize", sampler=_sampler(tune, seed_of(tune, len(before)))
        )
        for values, score in before:
            state = optuna.trial.TrialState.RUNNING if score is None else optuna.trial.TrialState.COMPLETE
            kinds = distributions(space)
            study.add_trial(
                optuna.trial.create_trial(state=state, value=score, params=encoded(space, values), distributions=kinds)
            )
        return decoded(space, study.ask(fixed_distributions=distributions(space)).params)


def seed_of(tune: Tune, number: int) -> int:
    """Seed of one trial's generator: 32 bits of a SHA-256 over the space, the tuning seeds and the number."""
    asked = [tune.__pydantic_extra__, tune.seeds, number]
    return int.from_bytes(hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()[:4])


def _sampler(tune: Tune, seed: int) -> BaseSampler:
    samplers = load_optuna().samplers
    if tune.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    return samplers.TPESampler(seed=seed, n_startup_trials=startup(tune.number), multivariate=True, constant_liar=True)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms."""
    return {key: _distribution(values) for key, values in space.items()}


def _distribution(values: list[Any] | Range) -> BaseDistribution:
    kinds = load_optuna().distributions
    if not isinstance(values, Range):
        return kinds.CategoricalDistribution([_choice(value) for value in values])
    if values.whole:
        return kinds.IntDistribution(int(values.low), int(values.high), log=values.log)
    return kinds.FloatDistribution(values.low, values.high, log=values.log)


def _choice(value: Any) -> Any:
    """What Optuna keeps as it is; anything else as JSON text."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)


def encoded(space: Space, values: Values) -> dict[str, Any]:
    """Values as Optuna keeps them."""
    return {key: value if isinstance(space[key], Range) else _choice(value) for key, value in values.items()}


def decoded(space: Space, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`encoded`, in the order of the space."""
    return {key: _decoded(values, parameters[key]) for key, values in space.items()}


def _decoded(values: list[Any] | Range, found: Any) -> Any:
    if isinstance(values, Range):
        return found
    return next(value for value in values if _choice(value) == found and type(_choice(value)) is type(found))


def load_optuna() -> Any:
    """The module, imported when it is first needed.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        remedy = f"use `sampler: grid`, or {install('optuna')}"
        raise MissingExtra(f"Optuna cannot be imported: {error}", where="tune.sampler", remedy=remedy) from error
    return optuna


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's news of every study, and its remarks on options that are experimental in one version or another."""
    logging = load_optuna().logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
