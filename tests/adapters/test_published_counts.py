"""Published parameter counts, on the meta device: no weights.

Sources: Hugging Face PEFT's ViT example (ViT-B/16, 101 labels), PEFT's documentation and model cards (GPT-2, BERT, RoBERTa,
Llama), the DeiT and LLaMA configurations.
Two conventions for "all parameters" circulate:

* ``sum``: backbone with its head, plus the added parameters (head once);
* ``peft``: PEFT's ``print_trainable_parameters`` also counts the frozen copy that it keeps of a trained head (head twice).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers as tf

from peftlab.adapters.lora import Lora
from peftlab.backbones.contract import Backbone, Head
from peftlab.backbones.hub import TransformersBackbone
from peftlab.backbones.timm import TimmBackbone

IMAGE: Head = "image-classification"
TEXT: Head = "sequence-classification"
CAUSAL: Head = "causal-lm"


def deit(hidden: int, heads: int) -> tf.DeiTConfig:
    return tf.DeiTConfig(hidden_size=hidden, num_attention_heads=heads, intermediate_size=4 * hidden)


def llama(hidden: int, layers: int, heads: int, kv: int, feed_forward: int, vocabulary: int, tied: bool) -> tf.LlamaConfig:
    return tf.LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        intermediate_size=feed_forward,
        vocab_size=vocabulary,
        head_dim=hidden // heads,
        tie_word_embeddings=tied,
    )


VIT_S = tf.ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
#: name -> configuration (transformers) or architecture (timm)
MODELS: dict[str, tf.PretrainedConfig | str] = {
    "vit-b": tf.ViTConfig(),
    "vit-s": VIT_S,
    "deit-t": deit(192, 3),
    "deit-s": deit(384, 6),
    "deit-b": deit(768, 12),
    "timm-vit-t": "vit_tiny_patch16_224",
    "timm-deit-t": "deit_tiny_patch16_224",
    "timm-deit-s": "deit_small_patch16_224",
    "timm-deit-b": "deit_base_patch16_224",
    "gpt2": tf.GPT2Config(),
    "gpt2-medium": tf.GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "bert": tf.BertConfig(),
    "roberta": tf.RobertaConfig(**ROBERTA),
    "roberta-large": tf.RobertaConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, **ROBERTA
    ),
    "llama-7b": llama(4096, 32, 32, 32, 11008, 32000, False),
    "llama-3.2-1b": llama(2048, 16, 32, 8, 8192, 128256, True),
    "llama-3.2-3b": llama(3072, 28, 24, 8, 8192, 128256, True),
}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Backbone]:
    def _load(model: str, outputs: int, head: Head) -> Backbone:
        config = MODELS[model]
        if isinstance(config, str):
            return TimmBackbone.load(f"timm/{config}", outputs=outputs, head=head, device="meta")
        config.save_pretrained(str(tmp_path))
        return TransformersBackbone.load(str(tmp_path), outputs=outputs, head=head, device="meta")

    return _load


@dataclasses.dataclass(frozen=True)
class Published:
    """One row: LoRA's parameters, and both totals where they are published."""

    model: str
    options: dict[str, Any]
    trainable: int
    outputs: int = 2
    head: Head = IMAGE
    head_trains: bool = True  #: whether the published figure includes the head
    all_sum: int | None = None
    all_peft: int | None = None

    def __str__(self) -> str:
        return f"{self.model}-r{self.options['rank']}-{self.options.get('targets', 'standard')}-{self.trainable}"


ROWS = [
    Published("vit-b", {"rank": 16}, 667_493, 101, all_peft=86_543_818),
    Published("vit-b", {"rank": 4}, 225_125, 101),
    Published("vit-b", {"rank": 8}, 372_581, 101),
    Published("vit-b", {"rank": 32}, 1_257_317, 101),
    Published("vit-b", {"rank": 16}, 589_824, 101, head_trains=False, all_sum=86_466_149),
    *(
        Published(model, {"rank": 8}, count, 1000, head_trains=False)
        for size, count in (("t", 73_728), ("s", 147_456), ("b", 294_912))
        for model in (f"deit-{size}", f"timm-deit-{size}")
    ),
    Published("gpt2", {"rank": 8, "targets": "fused"}, 294_912, head=CAUSAL, all_sum=124_734_720),
    Published("gpt2-medium", {"rank": 8, "targets": "fused"}, 786_432, head=CAUSAL),
    Published("bert", {"rank": 8}, 296_450, head=TEXT, all_peft=109_780_228),
    Published("roberta", {"rank": 8}, 887_042, head=TEXT),
    Published("roberta-large", {"rank": 8}, 1_838_082, head=TEXT),
    Published("llama-7b", {"rank": 8}, 4_194_304, head=CAUSAL),
    Published("llama-7b", {"rank": 16, "targets": "all-linear"}, 39_976_960, head=CAUSAL),
    Published("llama-3.2-1b", {"rank": 8, "targets": "q"}, 524_288, head=CAUSAL, all_sum=1_236_338_688),
    Published("llama-3.2-3b", {"rank": 32}, 9_175_040, head=CAUSAL, all_sum=3_221_924_864),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_lora(row: Published, load: Callable[..., Backbone]) -> None:
    backbone = load(row.model, row.outputs, row.head)
    head = backbone.head_parameters if row.head_trains else 0
    lora = Lora(**row.options)
    count = lora.count(backbone, lora.sites(backbone))
    assert count + head == row.trainable
    total = backbone.parameters + count
    assert row.all_sum in (None, total)
    assert row.all_peft in (None, total + backbone.head_parameters)

    adapted = lora.attach(backbone, seed=0)
    attached = {name: p.numel() for name, p in adapted.trainable().items()}
    assert sum(n for name, n in attached.items() if row.head_trains or not adapted.is_head(name)) == row.trainable
    trainable, everything = adapted.module.get_nb_trainable_parameters()  # pyright: ignore  # PEFT's own count
    assert trainable == count + backbone_head(adapted)
    assert row.all_peft in (None, everything)


def backbone_head(adapted: Any) -> int:
    return sum(p.numel() for name, p in adapted.trainable().items() if adapted.is_head(name))


@pytest.mark.parametrize(
    ("model", "outputs", "expected"),
    [
        ("vit-b", 101, 85_876_325),
        ("deit-t", 1000, 5_717_416 + 2 * 192),  # transformers' DeiT has a distillation token and its position besides
        ("timm-deit-t", 1000, 5_717_416),
        ("timm-vit-t", 1000, 5_717_416),
        ("deit-s", 100, 21_704_932),
        ("vit-s", 100, 21_704_164),
        ("timm-deit-s", 100, 21_704_164),
    ],
)
def test_full(model: str, outputs: int, expected: int, load: Callable[..., Backbone]) -> None:
    from peftlab.adapters.full import Full

    backbone = load(model, outputs, IMAGE)
    assert backbone.parameters == expected
    assert Full().count(backbone) + backbone.head_parameters == expected
    assert sum(p.numel() for p in Full().attach(backbone, seed=0).trainable().values()) == expected


def test_llama_weights_are_tied_on_the_meta_device_too(load: Callable[..., Backbone]) -> None:
    module: Any = load("llama-3.2-1b", 0, CAUSAL).module
    assert module.lm_head.weight is module.model.embed_tokens.weight
