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


def deberta(hidden: int, layers: int, heads: int, feed_forward: int, vocabulary: int, **options: Any) -> tf.DebertaV2Config:
    return tf.DebertaV2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=feed_forward,
        vocab_size=vocabulary,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        **options,
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
    "dialogpt-medium": tf.GPT2Config(n_embd=1024, n_layer=24, n_head=16),  # GPT-2 medium, trained on dialogues
    "bert": tf.BertConfig(),
    "minilm": tf.BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "roberta": tf.RobertaConfig(**ROBERTA),
    "roberta-large": tf.RobertaConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, **ROBERTA
    ),
    "deberta-v2-xlarge": deberta(1536, 24, 24, 6144, 128100, conv_kernel_size=3, conv_act="gelu"),
    "deberta-v3-base": deberta(768, 12, 12, 3072, 128100),
    "opt-1.3b": tf.OPTConfig(
        hidden_size=2048, num_hidden_layers=24, num_attention_heads=32, ffn_dim=8192, vocab_size=50272, word_embed_proj_dim=2048
    ),
    "pythia-160m": tf.GPTNeoXConfig(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, vocab_size=50304
    ),
    "sheared-llama-1.3b": llama(2048, 24, 16, 16, 5504, 32000, False),
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
    Published("dialogpt-medium", {"rank": 8, "targets": "fused"}, 786_432, head=CAUSAL),
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


#: parameters of the published weights, without a head of a task
SIZES = {
    "gpt2": 124_439_808,
    "dialogpt-medium": 354_823_168,
    "sheared-llama-1.3b": 1_345_423_360,
    "llama-7b": 6_738_415_616,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "pythia-160m": 162_322_944,
    "opt-1.3b": 1_315_758_080,
}


@pytest.mark.parametrize("model", SIZES)
def test_whole_models(model: str, load: Callable[..., Backbone]) -> None:
    assert load(model, 0, CAUSAL).parameters == SIZES[model]


@dataclasses.dataclass(frozen=True)
class Layers:
    """One block: (inputs, outputs) of its linear maps by role, and the number of blocks."""

    blocks: int
    attention: dict[str, tuple[int, int]]
    feed_forward: dict[str, tuple[int, int]]
    fused: bool = False  #: q, k, v in one layer that has no slices


def block(blocks: int, hidden: int, wide: int, *, kv: int | None = None, gate: bool = False, fused: bool = False) -> Layers:
    """As the architectures' papers draw them."""
    key = kv or hidden
    attention = {"qkv": (hidden, 3 * hidden)} if fused else {"q": (hidden, hidden), "k": (hidden, key), "v": (hidden, key)}
    up = {"up": (hidden, wide), **({"gate": (hidden, wide)} if gate else {}), "down": (wide, hidden)}
    return Layers(blocks, {**attention, "o": (hidden, hidden)}, up, fused)


FAMILIES = {
    "bert": (TEXT, block(12, 768, 3072)),
    "minilm": (TEXT, block(6, 384, 1536)),
    "roberta-large": (TEXT, block(24, 1024, 4096)),
    "deberta-v2-xlarge": (TEXT, block(24, 1536, 6144)),
    "deberta-v3-base": (TEXT, block(12, 768, 3072)),
    "gpt2": (CAUSAL, block(12, 768, 3072)),
    "dialogpt-medium": (CAUSAL, block(24, 1024, 4096)),
    "opt-1.3b": (CAUSAL, block(24, 2048, 8192)),
    "pythia-160m": (CAUSAL, block(12, 768, 3072, fused=True)),
    "llama-7b": (CAUSAL, block(32, 4096, 11008, gate=True)),
    "llama-3.2-1b": (CAUSAL, block(16, 2048, 8192, kv=512, gate=True)),
    "sheared-llama-1.3b": (CAUSAL, block(24, 2048, 5504, gate=True)),
}


@pytest.mark.parametrize("model", FAMILIES)
def test_target_sets_of_texts(model: str, load: Callable[..., Backbone]) -> None:
    """r (inputs + outputs) for every linear map of the set: a rank of 8 adds that, and PEFT counts the same."""
    head, layers = FAMILIES[model]
    both = {**layers.attention, **layers.feed_forward}
    sets = {"attention": layers.attention, "feed-forward": layers.feed_forward, "all-linear": both}
    if layers.fused:
        sets["fused"] = {"qkv": both["qkv"]}
    else:
        sets |= {"extended": layers.attention, "standard": {role: both[role] for role in ("q", "v")}}
    backbone = load(model, 2, head)
    for targets, roles in sets.items():
        lora = Lora(rank=8, targets=targets)
        expected = layers.blocks * 8 * sum(d_in + d_out for d_in, d_out in roles.values())
        assert lora.count(backbone, lora.sites(backbone)) == expected, targets
    adapted = Lora(rank=8, targets="all-linear").attach(backbone, seed=0)
    trainable, _ = adapted.module.get_nb_trainable_parameters()  # pyright: ignore
    assert trainable - backbone_head(adapted) == layers.blocks * 8 * sum(d_in + d_out for d_in, d_out in both.values())


def test_llama_weights_are_tied_on_the_meta_device_too(load: Callable[..., Backbone]) -> None:
    module: Any = load("llama-3.2-1b", 0, CAUSAL).module
    assert module.lm_head.weight is module.model.embed_tokens.weight
