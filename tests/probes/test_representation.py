"""The representation probe: CKA against a naive HSIC, its invariances, the right tokens, no influence, exact resume."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.errors import OptionError, Stopped
from peftlab.nn.hooks import HookChain
from peftlab.probes.contract import probes_of
from peftlab.probes.representation import ARRAYS, FILE, Representation, linear_cka, taken
from peftlab.training.loop import Trainer
from tests.probes.conftest import view, watch
from tests.training.conftest import Lab
from tests.training.test_loop import same, stop_after, weights

LORA = {"name": "lora", "targets": "all-linear", "dropout": 0.1}


def pair(seed: int, n: int = 9) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    x = draws.normal(size=(n, 5))
    return x, x @ draws.normal(size=(5, 7)) + draws.normal(size=(n, 7))


def naive_biased(x: np.ndarray, y: np.ndarray) -> float:
    """tr(K H L H) / (n - 1)^2, written out."""
    n = len(x)
    h = np.eye(n) - 1 / n
    return np.trace((x @ x.T) @ h @ (y @ y.T) @ h) / (n - 1) ** 2


def naive_unbiased(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC as a U-statistic: the mean over all ordered quadruples of different examples."""
    one, two = x @ x.T, y @ y.T
    terms = [one[i, j] * (two[i, j] + two[q, r] - 2 * two[i, q]) for i, j, q, r in itertools.permutations(range(len(x)), 4)]
    return float(np.mean(terms))


@pytest.mark.parametrize(("unbiased", "hsic"), [(False, naive_biased), (True, naive_unbiased)])
def test_cka_is_the_naive_one(unbiased: bool, hsic: Callable[..., float]) -> None:
    x, y = pair(0)
    expected = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert linear_cka(x, y, unbiased=unbiased) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.floats(1e-3, 1e3), shift=st.floats(-100, 100), unbiased=st.booleans())
def test_cka_does_not_see_rotation_scale_and_shift(seed: int, size: float, shift: float, unbiased: bool) -> None:
    x, y = pair(seed, 12)
    rotation, _ = np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(7, 7)))
    expected = linear_cka(x, y, unbiased=unbiased)
    assert expected is not None and abs(expected) <= 1 + 1e-12
    assert linear_cka(x, size * y @ rotation + shift, unbiased=unbiased) == pytest.approx(expected, abs=1e-6)
    assert linear_cka(x, size * x, unbiased=unbiased) == pytest.approx(1)
    assert linear_cka(y, x, unbiased=unbiased) == pytest.approx(expected)


def test_unrelated_features_are_not_alike_although_there_are_many() -> None:
    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(32, 512)), draws.normal(size=(32, 512))
    unbiased, biased = linear_cka(x, y), linear_cka(x, y, unbiased=False)
    assert unbiased is not None and biased is not None
    assert abs(unbiased) < 0.1 and biased > 0.8


def test_where_there_is_nothing_to_compare_there_is_no_number() -> None:
    x, _ = pair(0)
    assert linear_cka(x, np.ones((9, 3))) is None and linear_cka(x[:3], x[:3]) is None


def test_tokens_are_the_real_ones() -> None:
    hidden = torch.arange(24.0).reshape(2, 4, 3)
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0]])  # padded left and right
    assert torch.equal(taken(hidden, mask, "class"), torch.stack([hidden[0, 1], hidden[1, 0]]))
    assert torch.equal(taken(hidden, mask, "last"), torch.stack([hidden[0, 3], hidden[1, 1]]))
    assert torch.equal(taken(hidden, mask, "mean"), torch.stack([hidden[0, 1:].mean(0), hidden[1, :2].mean(0)]))
    assert torch.equal(taken(hidden, None, "last"), hidden[:, -1])


def test_values_are_those_of_the_models_own_hidden_states(lab: Lab, tmp_path: Path) -> None:
    plain, trainer = lab.trainer(tmp_path / "plain", LORA), lab.trainer(tmp_path / "watched", LORA)
    hook = watch(trainer, Representation(examples=10, save=True))
    base = states(trainer)
    assert plain.fit().selected == trainer.fit().selected
    assert same(weights(plain), weights(trainer))
    content, arrays, tuned = hook.report()[FILE], hook.arrays()[ARRAYS], states(trainer)
    json.dumps(content, allow_nan=False)
    about = {"split": "validation", "examples": 10, "token": "class", "reference": "backbone"}
    assert content.items() >= about.items() and len(content["blocks"]) == 2
    for number, block in enumerate(content["blocks"]):
        x, y = (found[number].double().numpy() for found in (base, tuned))
        assert arrays[f"base.{number}"] == pytest.approx(x, abs=1e-5) and arrays[f"tuned.{number}"] == pytest.approx(y, abs=1e-5)
        assert block["drift"] == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-3)
        cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(x, y, strict=True)]
        assert block["cosine"] == pytest.approx(np.mean(cosines), rel=1e-4)
        expected = naive_unbiased(x, y) / np.sqrt(naive_unbiased(x, x) * naive_unbiased(y, y))
        assert block["cka"] == pytest.approx(expected, rel=1e-3)
        assert block["drift"] > 0 and block["cka"] < 1 and (block["block"], block["width"]) == (number, 32)


def states(trainer: Trainer) -> list[torch.Tensor]:
    """The class token behind every block, asked of transformers itself."""
    chosen = trainer.splits.validation[np.linspace(0, 29, 10).round().astype(int)]
    pixels = trainer.task.inputs(trainer.task.batch(chosen))["pixel_values"]
    with torch.no_grad():
        found = trainer.adapted.backbone.module.eval()(pixel_values=pixels, output_hidden_states=True)
    return [hidden[:, 0] for hidden in found.hidden_states[1:]]


def test_a_resumed_run_leaves_the_same_file(lab: Lab, tmp_path: Path) -> None:
    quiet = lab.trainer(tmp_path / "quiet", LORA)
    whole = watch(quiet, Representation())
    quiet.fit()
    cut = lab.trainer(tmp_path / "cut", LORA, should_stop=stop_after(5))
    watch(cut, Representation())
    with pytest.raises(Stopped):
        cut.fit()
    resumed = lab.trainer(tmp_path / "cut", LORA)
    hook = watch(resumed, Representation())
    resumed.fit()
    assert hook.report() == whole.report() and hook.arrays() == {}


@pytest.mark.parametrize(("kind", "token"), [("bert", "class"), ("gpt2", "last"), ("llama", "last")])
def test_of_texts(text_trainer: Callable[[str, Any], Trainer], kind: str, token: str) -> None:
    trainer = text_trainer(kind, {"name": "lora"})
    hook = watch(trainer, Representation(examples=8))
    trainer.fit()
    content = hook.report()[FILE]
    assert content["token"] == token and 4 <= content["examples"] <= 8  # packed texts share rows
    assert all(block["drift"] > 0 and block["cka"] < 1 for block in content["blocks"])


def test_what_a_head_alone_learns_moves_no_block(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, "linear-probe")
    hook = watch(trainer, Representation())
    trainer.fit()
    assert all(block["drift"] == 0 and block["cka"] == pytest.approx(1) for block in hook.report()[FILE]["blocks"])


def test_an_adapter_that_acts_from_the_start_is_compared_with_its_start(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, {"name": "vpt", "prompts": 2})
    hook = watch(trainer, Representation())
    trainer.fit()
    assert hook.report()[FILE]["reference"] == "start"


def test_its_time_is_counted(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, LORA)
    hook = watch(trainer, Representation())
    trainer.fit()
    during = trainer.chain.seconds[hook.name]
    trainer.chain.report()
    assert isinstance(trainer.chain, HookChain) and 0 < during < trainer.chain.seconds[hook.name]


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"examples": 65}, "probes.representation.examples"),
        ({"examples": 3}, "probes.representation.examples"),
        ({"examples": 0, "save": True}, "probes.representation.save"),
        ({"token": "first"}, "probes.representation.token"),
        ({"saved": True}, "probes.representation.saved"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], where: str) -> None:
    with pytest.raises(OptionError) as caught:
        probes_of({"representation": options})
    assert caught.value.where == where


def test_a_probe_that_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="representatoin") as caught:
        probes_of({"representatoin": {}})
    assert "'representation'" in str(caught.value.remedy)


def test_without_examples_nothing_is_watched(lab: Lab, tmp_path: Path) -> None:
    trainer = lab.trainer(tmp_path, LORA)
    assert Representation(examples=0).hook(trainer.adapted, view(trainer)) is None
