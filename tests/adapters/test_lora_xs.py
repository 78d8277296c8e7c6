"""LoRA-XS: directions against numpy's decomposition, the gradient of R by hand, published counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file
from torch import nn

from peftlab.adapters.lora_xs import BetweenDirections, LoraXs
from peftlab.backbones.hub import TransformersBackbone
from peftlab.errors import OptionError
from peftlab.nn.quantized import dense_weight
from peftlab.registry import create
from tests.adapters import models
from tests.contracts.conftest import perturb

SHAPES = [(12, 7), (7, 12), (9, 9)]


def layer(shape: tuple[int, int], rank: int, scale: float = 1.0, seed: int = 0) -> BetweenDirections:
    base = nn.Linear(shape[1], shape[0]).requires_grad_(False)
    base.weight.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
    return BetweenDirections(base, rank, scale, 0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_with_an_identity_between_them_the_factors_are_numpys_truncated_decomposition(shape: tuple[int, int]) -> None:
    made = layer(shape, 3)
    with torch.no_grad():
        made.R.copy_(torch.eye(3))
    left, values, right = np.linalg.svd(dense_weight(made.base_layer).double().numpy())
    down, up = made.exported()
    np.testing.assert_allclose((up @ down).numpy(), (left[:, :3] * values[:3]) @ right[:3], atol=1e-5)
    np.testing.assert_allclose(made.A.norm(dim=1).numpy(), values[:3], rtol=1e-5)  # the singular values are on A's side
    np.testing.assert_allclose((made.B.T @ made.B).numpy(), np.eye(3), atol=1e-6)


def test_signs_are_fixed_whatever_the_decomposition_says() -> None:
    """A weight and its negative have the same V^T; only U turns."""
    made = layer((12, 7), 4)
    negative = nn.Linear(7, 12).requires_grad_(False)
    negative.weight.copy_(-dense_weight(made.base_layer))
    turned = BetweenDirections(negative, 4, 1.0, 0.0)
    torch.testing.assert_close(turned.A, made.A)
    torch.testing.assert_close(turned.B, -made.B)
    largest = made.A.gather(1, made.A.abs().argmax(dim=1, keepdim=True))
    assert bool((largest > 0).all())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_of_r_is_not_zero_at_the_start_and_is_the_formula(shape: tuple[int, int]) -> None:
    made = layer(shape, 3, scale=2.0)
    random = torch.Generator().manual_seed(1)
    x, wanted = torch.randn(5, shape[1], generator=random), torch.randn(5, shape[0], generator=random)
    (made(x) * wanted).sum().backward()
    by_hand = torch.zeros(3, 3)
    for row, gradient in zip(x, wanted, strict=True):  # d(s g^T B R A x)/dR = s (B^T g) (A x)^T, one example at a time
        by_hand += 2.0 * torch.outer(made.B.T @ gradient, made.A @ row)
    assert made.R.grad is not None
    torch.testing.assert_close(made.R.grad, by_hand, rtol=1e-4, atol=1e-5)
    assert float(made.R.grad.abs().min()) > 0
    assert [name for name, _ in made.named_parameters() if name not in ("base_layer.weight", "base_layer.bias")] == ["R"]


@pytest.mark.parametrize("kind", ["timm", "vit", "gpt2"])
def test_what_is_saved_stays_within_the_leading_directions(kind: str, tmp_path: Path) -> None:
    """Of every slice and of GPT-2's transposed layers too: B spans the leading left singular vectors."""
    adapter = LoraXs(rank=3, targets="q")
    adapted = adapter.attach(models.backbone(kind), seed=0)
    perturb(adapted)
    adapter.save(adapted, tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    plain = models.backbone(kind)
    for site in adapter.sites(plain):
        weight = dense_weight(plain.module.get_submodule(site.parent or site.name))
        rows = slice(site.offset, site.offset + site.d_out)
        left = torch.linalg.svd(weight[rows].double())[0][:, :3]
        up = saved[f"base_model.model.{site.parent or site.name}.lora_B.weight"][rows].double()
        assert up.shape == (site.d_out, 3)
        torch.testing.assert_close(left @ (left.T @ up), up, rtol=1e-4, atol=1e-6)


ROBERTA: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
MISTRAL: dict[str, Any] = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 14336}


@pytest.mark.parametrize(
    ("config", "rank", "targets", "expected"),
    [
        (tf.RobertaConfig(**ROBERTA), 4, "q,v,o,down", 1_536),
        (tf.RobertaConfig(**ROBERTA), 16, "q,v,o,down", 24_576),
        (tf.RobertaConfig(**ROBERTA), 25, "q,v,o,down", 60_000),
        (tf.MistralConfig(**MISTRAL, num_key_value_heads=8), 64, "all-linear", 917_504),
    ],
)
def test_published_counts(config: tf.PretrainedConfig, rank: int, targets: str, expected: int, tmp_path: Path) -> None:
    """Balazy et al. 2024: RoBERTa-large on GLUE (1.5 K, 24.6 K, 60 K), Mistral-7B on mathematics (0.92 M)."""
    config.save_pretrained(str(tmp_path))
    head = "causal-lm" if isinstance(config, tf.MistralConfig) else "sequence-classification"
    backbone = TransformersBackbone.load(str(tmp_path), outputs=2, head=head, device="meta")
    adapter = LoraXs(rank=rank, targets=targets)
    assert adapter.count(backbone, adapter.sites(backbone)) == expected


def test_ranks_of_an_allocator_cost_their_squares() -> None:
    adapter, backbone = LoraXs(rank=4), models.backbone("vit")
    sites = adapter.sites(backbone)
    allocator = create("allocator", {"name": "linear-growth", "budget": {"parameters": 200}})
    ranks = allocator.initial(sites, adapter.rank, cost=adapter.cost)
    adapted = adapter.attach(backbone, seed=0, ranks=ranks)
    trained = sum(p.numel() for name, p in adapted.trainable().items() if not adapted.is_head(name))
    assert trained == sum(rank**2 for rank in ranks.values()) == adapter.count(backbone, sites, ranks)
    assert len(set(ranks.values())) > 1
    assert 200 - min(2 * rank + 1 for rank in ranks.values()) < trained <= 200


def test_a_rank_above_the_layers_is_an_error() -> None:
    with pytest.raises(OptionError, match="rank 33 is above"):
        LoraXs(rank=33).sites(models.backbone("timm"))
