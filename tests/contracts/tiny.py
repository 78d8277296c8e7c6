"""Tiny random models in their library's own format: hidden size 32, two blocks, two heads."""

from __future__ import annotations

from pathlib import Path

import torch

CLASSES = 5
KINDS = ("timm", "vit", "gpt2")
TEXT = ("gpt2", "bert", "llama")  #: with a head for classes of a text


def make(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write the model of this kind into ``folder``; every weight, norms included, is random."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = {"timm": _timm, "vit": _vit, "gpt2": _gpt2, "bert": _bert, "llama": _llama, "resnet": _resnet}[kind]()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    if kind in ("timm", "resnet"):
        from timm.models import save_for_hf

        save_for_hf(module, str(folder), safe_serialization=True)
    else:
        module.save_pretrained(str(folder))  # pyright: ignore
    return folder


def _timm() -> torch.nn.Module:
    import timm

    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=7)


def _resnet() -> torch.nn.Module:
    """Batch normalisation with statistics of its own, and no blocks."""
    import timm

    size = {"input_size": (3, 32, 32), "pool_size": (1, 1)}
    module = timm.create_model("resnet10t", channels=(8, 8, 16, 16), stem_width=8, num_classes=7, pretrained_cfg_overlay=size)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(0.1 * torch.rand(buffer.shape))
    return module


def _vit() -> torch.nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=32,
            patch_size=8,
            num_labels=7,
        )
    )


def _gpt2() -> torch.nn.Module:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2, pad_token_id=0, num_labels=7)
    return GPT2ForSequenceClassification(config)


_TEXT = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_TEXT |= {"max_position_embeddings": 32, "pad_token_id": 0, "num_labels": 7}


def _bert() -> torch.nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(**_TEXT))  # pyright: ignore


def _llama() -> torch.nn.Module:
    """Keys and values have one head less than queries."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    return LlamaForSequenceClassification(LlamaConfig(**_TEXT, num_key_value_heads=1))  # pyright: ignore
