"""Where running statistics move, and what is as it was afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from peftlab.nn.modes import moving, same_modes, train_mode, unmoved


def model(**options: bool) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, **options), nn.Dropout(0.5), nn.LayerNorm(4))


@pytest.mark.parametrize(
    ("trained", "moves"),
    [
        (["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"], True),
        (["1.weight", "1.bias"], True),
        (["1.bias"], False),
        (["0.weight", "3.bias"], False),
        ([], False),
    ],
)
def test_statistics_move_where_the_layers_own_weights_train(trained: list[str], moves: bool) -> None:
    module = model()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trained)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    train_mode(module)
    outputs = module[1](torch.randn(8, 4) + 3)
    changed = {name for name, buffer in module.named_buffers() if not torch.equal(buffer, before[name])}
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert changed == set(moving(module)) == (statistics if moves else set())
    assert (abs(outputs.mean()) < 0.1) == moves, "a frozen layer computes what it computes in evaluation"
    assert module.training and module[2].training, "dropout beside a frozen layer goes on"


def test_a_layer_without_weights_goes_with_the_model() -> None:
    module = model(affine=False)
    assert set(moving(module)) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    module[0].requires_grad_(False)
    assert not moving(module)


def test_layers_without_running_statistics_are_in_training_mode() -> None:
    module = model(track_running_stats=False).requires_grad_(False)
    train_mode(module)
    assert all(part.training for part in module.modules()) and not moving(module)


def test_what_holds_dropout_beside_its_statistics_still_drops() -> None:
    module = nn.Sequential(nn.BatchNorm1d(4)).requires_grad_(False)
    module[0].add_module("drop", nn.Dropout(0.5))
    train_mode(module)
    assert not module[0].training and module[0].get_submodule("drop").training


def test_every_part_gets_its_mode_back() -> None:
    module = model().requires_grad_(False)
    train_mode(module)
    modes = [part.training for part in module.modules()]
    assert not all(modes)
    with pytest.raises(ValueError, match="stop"), same_modes(module):
        module.eval()
        raise ValueError("stop")
    assert [part.training for part in module.modules()] == modes


def test_changed_tensors_are_named_and_put_back() -> None:
    tensors = {"a": torch.ones(2), "b": torch.ones(2), "shapes": torch.ones(2, device="meta")}
    with unmoved(tensors) as changed:
        tensors["b"].add_(1)
    assert changed == ["b"] and torch.equal(tensors["b"], torch.ones(2))
