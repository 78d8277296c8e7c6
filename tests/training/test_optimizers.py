"""Which tensors weight decay pulls to zero, and the optimizer's state, which goes by names whatever the groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peftlab.adapters.contract import Adapted
from peftlab.adapters.full import Full
from peftlab.errors import Stopped
from peftlab.study.schema import Train
from peftlab.training.loop import Trainer
from peftlab.training.optimizers import make_optimizer, optimizer_tensors, restore_optimizer
from tests.adapters import models
from tests.training.conftest import Lab, Lines

DECAY = 0.25


def decayed(trainer: Trainer) -> dict[str, bool]:
    """Name -> whether it is; the last part of a name stands for all that have it."""
    decay = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert set(decay.values()) <= {0.0, DECAY}
    return {name: decay[id(p)] == DECAY for name, p in trainer.trainable.items()}


def trainer(lab: Lab, folder: Path, adapter: Any, **changes: Any) -> Trainer:
    return lab.trainer(folder, adapter, train={"weight_decay": DECAY, **changes})


@pytest.mark.parametrize(
    ("adapter", "part", "wanted"),
    [
        ("full", "cls_token", False),
        ("full", "position_embeddings", True),
        ("full", "q_proj.weight", True),
        ("full", "q_proj.bias", False),
        ("full", "layernorm_before.weight", False),
        ({"name": "peft", "type": "IA3"}, "ia3_l", False),
        ({"name": "peft", "type": "BEFT"}, "beft_bias", False),
        ({"name": "peft", "type": "LOHA", "config_options": {"r": 1}}, "hada_w1_a", True),
        ({"name": "lora", "rank": 1}, "lora_A", True),
        ({"name": "lora", "rank": 1}, "lora_B", True),
        ({"name": "lora", "dora": True}, "lora_magnitude_vector", False),
        ({"name": "fact", "rank": 1}, "own", True),
        ({"name": "fact", "rank": 2}, "own", True),
        ({"name": "vpt", "prompts": 1}, "tokens", True),
        ("svd", "singular_values", True),
        ("linear-probe", "classifier.weight", True),
        ("linear-probe", "classifier.bias", False),
    ],
    ids=str,
)
def test_weight_decay_is_on_matrices_only(lab: Lab, tmp_path: Path, adapter: Any, part: str, wanted: bool) -> None:
    found = {name: decay for name, decay in decayed(trainer(lab, tmp_path, adapter)).items() if part in name}
    assert found and set(found.values()) == {wanted}


@pytest.mark.parametrize(("family", "tokens"), [("timm", {"cls_token"}), ("deit", {"cls_token", "distillation_token"})])
def test_class_and_distillation_tokens_are_vectors(family: str, tokens: set[str]) -> None:
    adapted = Full().attach(models.backbone(family), seed=0)
    assert {name.rpartition(".")[-1] for name in adapted.vectors()} == tokens


def test_scales_that_no_gradient_moves_stay_what_they_are(lab: Lab, tmp_path: Path) -> None:
    """IA3's scales start at 1: pulled to 0 they would take the base's outputs with them."""
    made = trainer(lab, tmp_path, {"name": "peft", "type": "IA3"})
    for parameter in made.trainable.values():
        parameter.grad = torch.zeros_like(parameter)
    made.optimizer.step()
    scales = [p for name, p in made.trainable.items() if "ia3_l" in name]
    assert scales and all(torch.equal(p.detach(), torch.ones_like(p)) for p in scales)


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_a_run_that_was_begun_with_other_vectors_says_so(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decay: float
) -> None:
    asked, changes = iter(range(1, 100)), {"train": {"weight_decay": decay}, "listener": Lines()}
    with monkeypatch.context() as earlier:
        earlier.setattr(Adapted, "vectors", lambda self: frozenset())
        begun = lab.trainer(tmp_path, "full", **changes, should_stop=lambda: next(asked) >= 3)
        with pytest.raises(Stopped):
            begun.fit()
    said = ["weight decay changed after step 3, of 1 tensors, e.g. vit.embeddings.cls_token"]
    assert lab.trainer(tmp_path, "full", **changes).fit().notes == (said if decay else [])


def test_state_goes_by_names_whatever_the_groups() -> None:
    """A checkpoint from before a tensor changed its group is continued with the moments of that tensor."""
    tensors = {"a": torch.randn(2, 3), "token": torch.randn(1, 1, 3), "bias": torch.randn(3), "b": torch.randn(3, 2)}

    def made(vectors: tuple[str, ...]) -> tuple[dict[str, nn.Parameter], torch.optim.AdamW]:
        parameters = {name: nn.Parameter(tensor.clone()) for name, tensor in tensors.items()}
        return parameters, make_optimizer(parameters, Train(weight_decay=DECAY), torch.device("cpu"), vectors)

    before, one = made(())
    for number, parameter in enumerate(before.values(), start=1):
        parameter.grad = torch.full_like(parameter, float(number))
    one.step()
    kept = optimizer_tensors(one, {id(p): name for name, p in before.items()})
    after, two = made(("token",))
    restore_optimizer(two, after, kept)
    assert [len(group["params"]) for group in two.param_groups] == [2, 2]
    for name, parameter in after.items():
        state, wanted = two.state[parameter], one.state[before[name]]
        assert state.keys() == wanted.keys() and all(torch.equal(state[key], wanted[key]) for key in wanted)
