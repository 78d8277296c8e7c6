"""Which layer is what, in the families people use; and what ``targets`` selects."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
import transformers as tf
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from peftlab.errors import OptionError
from peftlab.nn.roles import ATTENTION, FEED_FORWARD, Roles, Site, find_roles, select

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SEPARATE = {"q": 1, "k": 1, "v": 1, "o": 1, "up": 1, "down": 1}
SLICED = {**SEPARATE, "qkv": 1}
FUSED = {"qkv": 1, "o": 1, "up": 1, "down": 1}


def timm(name: str, **options: object) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=3, **options)


#: family -> (model, roles in every block, blocks)
FAMILIES: dict[str, tuple[Callable[[], nn.Module], dict[str, int], int]] = {
    "vit": (lambda: tf.ViTForImageClassification(tf.ViTConfig(**SMALL)), SEPARATE, 2),
    "deit": (lambda: tf.DeiTForImageClassification(tf.DeiTConfig(**SMALL)), SEPARATE, 2),
    "dinov2": (
        lambda: tf.Dinov2ForImageClassification(tf.Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)),
        SEPARATE,
        2,
    ),
    "swin": (
        lambda: tf.SwinForImageClassification(tf.SwinConfig(embed_dim=8, depths=[2, 3], num_heads=[1, 2])),
        SEPARATE,
        5,
    ),
    "bert": (lambda: tf.BertForSequenceClassification(tf.BertConfig(**SMALL)), SEPARATE, 2),
    "roberta": (lambda: tf.RobertaForSequenceClassification(tf.RobertaConfig(**SMALL)), SEPARATE, 2),
    "deberta-v2": (lambda: tf.DebertaV2ForSequenceClassification(tf.DebertaV2Config(**SMALL)), SEPARATE, 2),
    "deberta-v1": (lambda: tf.DebertaForSequenceClassification(tf.DebertaConfig(**SMALL)), FUSED, 2),
    "distilbert": (
        lambda: tf.DistilBertForSequenceClassification(tf.DistilBertConfig(dim=32, hidden_dim=64, n_layers=2, n_heads=2)),
        SEPARATE,
        2,
    ),
    "gpt2": (lambda: tf.GPT2ForSequenceClassification(tf.GPT2Config(n_embd=32, n_layer=2, n_head=2)), SLICED, 2),
    "gpt-bigcode": (  # the same name c_attn, but rows interleaved per head
        lambda: tf.GPTBigCodeForSequenceClassification(tf.GPTBigCodeConfig(n_embd=32, n_layer=2, n_head=2, multi_query=False)),
        FUSED,
        2,
    ),
    "gpt-neox": (lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**SMALL)), FUSED, 2),
    "bloom": (lambda: tf.BloomForCausalLM(tf.BloomConfig(hidden_size=32, n_layer=2, n_head=2)), FUSED, 2),
    "llama": (lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL)), {**SEPARATE, "gate": 1}, 2),
    "opt": (
        lambda: tf.OPTForCausalLM(
            tf.OPTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64, word_embed_proj_dim=32)
        ),
        SEPARATE,
        2,
    ),
    "timm-vit": (lambda: timm("vit_tiny_patch16_224", depth=2), SLICED, 2),
    "timm-deit": (lambda: timm("deit_tiny_patch16_224", depth=2), SLICED, 2),
    "timm-swin": (lambda: timm("swin_tiny_patch4_window7_224", depths=(2, 3), num_heads=(1, 2), embed_dim=8), SLICED, 5),
}


@cache
def roles_of(family: str) -> Roles:
    with torch.device("meta"):
        model = FAMILIES[family][0]()
    head = next(h for h in ("classifier", "score", "head", "lm_head") if hasattr(model, h))
    return find_roles(model, head)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_has_its_roles(family: str) -> None:
    roles = roles_of(family)
    _, expected, blocks = FAMILIES[family]
    assert roles.blocks == blocks
    for block in range(blocks):
        here = [site.role for site in roles.sites if site.block == block]
        assert {role: here.count(role) for role in here} == expected
    assert roles.notes == ()


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("bert", {"q": "bert.encoder.layer.1.attention.self.query", "o": "bert.encoder.layer.1.attention.output.dense"}),
        ("bert", {"up": "bert.encoder.layer.1.intermediate.dense", "down": "bert.encoder.layer.1.output.dense"}),
        (
            "gpt2",
            {"k": "transformer.h.1.attn.c_attn.k", "o": "transformer.h.1.attn.c_proj", "down": "transformer.h.1.mlp.c_proj"},
        ),
        ("timm-vit", {"v": "blocks.1.attn.qkv.v", "o": "blocks.1.attn.proj", "up": "blocks.1.mlp.fc1"}),
        ("llama", {"gate": "model.layers.1.mlp.gate_proj", "o": "model.layers.1.self_attn.o_proj"}),
        ("distilbert", {"q": "distilbert.transformer.layer.1.attention.q_lin"}),
        ("deberta-v2", {"k": "deberta.encoder.layer.1.attention.self.key_proj"}),
    ],
)
def test_names(family: str, names: dict[str, str]) -> None:
    found = {site.role: site.name for site in roles_of(family).sites if site.block == 1}
    assert {role: found[role] for role in names} == names


def test_slices_are_the_rows_of_the_fused_layer() -> None:
    sites = [site for site in roles_of("gpt2").sites if site.parent == "transformer.h.0.attn.c_attn"]
    assert [(s.role, s.offset, s.d_in, s.d_out) for s in sites] == [("q", 0, 32, 32), ("k", 32, 32, 32), ("v", 64, 32, 32)]


@pytest.mark.parametrize("family", ["swin", "timm-swin"])
def test_patch_merging_is_no_block(family: str) -> None:
    outside = [site.name for site in roles_of(family).sites if site.block is None]
    assert [name for name in outside if "downsample" in name]


def test_key_outside_attention_is_no_key() -> None:
    """RWKV's channel mixing has a layer ``feed_forward.key``."""
    with torch.device("meta"):
        model = tf.RwkvForCausalLM(tf.RwkvConfig(hidden_size=32, num_hidden_layers=2, attention_hidden_size=32))
    found = {site.name: site.role for site in find_roles(model).sites}
    assert found["rwkv.blocks.0.attention.key"] == "k"
    assert found["rwkv.blocks.0.feed_forward.key"] == "up"


def test_t5_sublayers_are_parts_of_one_block() -> None:
    with torch.device("meta"):
        model = tf.T5EncoderModel(tf.T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2))
    roles = find_roles(model)
    assert roles.blocks == 2
    assert {site.role for site in roles.sites if site.block == 1} == set(SEPARATE)


class Odd(nn.Module):
    """A family nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.ModuleDict({"widen": nn.Linear(8, 24), "narrow": nn.Linear(24, 8), "mix": nn.Linear(8, 8)}) for _ in range(3)
        )


def test_an_unknown_family_is_read_by_shape_and_says_so() -> None:
    roles = find_roles(Odd())
    assert roles.blocks == 3
    assert [site.role for site in roles.sites if site.block == 2] == ["up", "down", "other"]
    assert any("unknown family" in note for note in roles.notes)
    assert any("guessed from shapes" in note for note in roles.notes)
    assert len(select(roles, "all-linear")) == 9


def test_a_fused_layer_that_is_only_read_cannot_be_adapted() -> None:
    """timm's BEiT hands ``qkv.weight`` to a functional call: PEFT's layer there would never be called."""
    with torch.device("meta"):
        model = timm("beit_base_patch16_224", depth=1)
    roles = find_roles(model, "head")
    assert not [site for site in roles.sites if site.role in ("q", "k", "v", "qkv")]
    assert any("cannot be adapted" in note for note in roles.notes)


# --- targets ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_named_targets(family: str) -> None:
    roles = roles_of(family)
    everything = select(roles, "all-linear")
    assert {s.name for s in select(roles, "attention")} | {s.name for s in select(roles, "feed-forward")} == {
        s.name for s in everything
    }
    if "q" in FAMILIES[family][1]:
        assert {s.role for s in select(roles, "standard")} == {"q", "v"}
        assert {s.role for s in select(roles, "extended")} == set(ATTENTION)
    else:
        assert {s.role for s in select(roles, "attention")} == {"qkv", "o"}
        with pytest.raises(OptionError, match="qkv"):
            select(roles, "standard")


def test_fused_adapts_the_whole_layer() -> None:
    assert [s.name for s in select(roles_of("timm-vit"), "fused")] == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]
    with pytest.raises(OptionError, match="whole and in slices"):
        select(roles_of("timm-vit"), ["fused", "q"])


def test_block_ranges_restrict() -> None:
    roles = roles_of("swin")
    assert {s.block for s in select(roles, "q,blocks:1-3")} == {1, 2, 3}
    assert {s.block for s in select(roles, ["blocks:0", "block:4"])} == {0, 4}
    assert select(roles, "blocks:0-4") == select(roles, "all-linear")


def test_patterns_on_names() -> None:
    assert [s.name for s in select(roles_of("bert"), [r"layer\.0\..*query$"])] == ["bert.encoder.layer.0.attention.self.query"]
    assert [s.name for s in select(roles_of("bert"), [r"pooler"])] == ["bert.pooler.dense"]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("standrad", "Did you mean 'standard'"),
        ("gate", "roles down, k, o, q, up, v"),  # a role that this family lacks
        ("fused", "roles down, k, o, q, up, v"),
        ("q,", "empty target"),
        ("", "empty target"),
        ((), "empty target"),
        ("blocks:1-7", "not within blocks 0-1"),
        ("blocks:1-0", "not within"),
        (["pooler", "blocks:0"], "leaves no layer"),
        (["(q"], "no regular expression"),
    ],
)
def test_what_matches_nothing_is_an_error(targets: str | list[str], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        select(roles_of("bert"), targets, where="adapter.targets")
    assert message in str(caught.value)
    assert caught.value.where == "adapter.targets"


def test_a_role_is_never_read_as_a_pattern() -> None:
    """``v`` as a regular expression would match every layer of ``vit...``; GPT-NeoX has no ``v``."""
    for word in ("q", "k", "v", "gate"):
        with pytest.raises(OptionError, match="matches no linear layer"):
            select(roles_of("gpt-neox"), word)


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    words=st.lists(st.sampled_from(["attention", "feed-forward", "all-linear", "up", "down", "o"]), min_size=1, max_size=4),
    first=st.integers(0, 1),
    last=st.integers(0, 1),
)
def test_targets_add_up_and_ranges_cut(family: str, words: list[str], first: int, last: int) -> None:
    roles = roles_of(family)
    chosen = select(roles, words)
    assert chosen == select(roles, [*words, *words]) == select(roles, list(reversed(words)))
    union: set[Site] = set()
    for word in words:
        union |= set(select(roles, word))
    assert set(chosen) == union
    assert [s for s in roles.sites if s in union] == chosen  # in the model's order
    if first <= last:
        cut = select(roles, [*words, f"blocks:{first}-{last}"])
        assert cut == [s for s in chosen if s.block is not None and first <= s.block <= last]


@given(st.text(max_size=20))
def test_any_text_selects_something_or_says_why_not(targets: str) -> None:
    try:
        assert select(roles_of("bert"), targets)
    except OptionError as error:
        assert error.what
        assert error.remedy


def test_feed_forward_has_no_attention() -> None:
    assert {s.role for s in select(roles_of("llama"), "feed-forward")} == set(FEED_FORWARD)
