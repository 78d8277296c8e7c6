"""Which families predict the next token, and which keep several texts in one row apart."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from peftlab.backbones._causal import _small, logits, unpackable
from peftlab.backbones.resolve import source_of
from peftlab.errors import BackboneError
from tests.tasks.texts import shared_bert, shared_gpt2, shared_llama


@pytest.mark.parametrize(
    "kind", ["gpt2", "llama", "mistral", "qwen2", "qwen3", "opt", "gpt_neox", "gptj", "phi", "gemma", "gpt_neo"]
)
def test_families_that_keep_texts_apart(kind: str) -> None:
    assert unpackable(kind, AutoConfig.for_model(kind).to_dict()) == ""


@pytest.mark.parametrize("kind", ["bloom", "falcon"])
def test_families_that_do_not_say_why(kind: str) -> None:
    assert f"kind {kind!r}" in unpackable(kind, AutoConfig.for_model(kind).to_dict())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt", "gpt_neox", "gemma2", "cohere", "granite", "phi", "bloom"])
def test_logits_at_places_are_those_of_the_whole(kind: str) -> None:
    """Also where logits are scaled or capped after the last product, and where its weights are those of the embedding."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_small(AutoConfig.for_model(kind))).double().eval()
    ids, places = torch.randint(3, 48, (3, 7)), torch.tensor([2, 5, 6, 7, 13, 19])
    with torch.inference_mode():
        whole = logits(model, {"input_ids": ids})
        found = logits(model, {"input_ids": ids, "places": places})
        one = logits(model, {"input_ids": ids[:1, :1], "places": torch.tensor([0])})
    assert whole.shape == (3, 7, 48) and found.shape == (6, 48) and one.shape == (1, 48)
    torch.testing.assert_close(found, whole.flatten(0, 1)[places], rtol=1e-9, atol=1e-12)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoder_sees_what_it_should_predict(kind: str) -> None:
    with pytest.raises(BackboneError, match="does not predict the next token"):
        unpackable(kind, AutoConfig.for_model(kind).to_dict())


def test_a_decoder_made_of_an_encoder_is_causal() -> None:
    assert unpackable("a/bert", AutoConfig.for_model("bert", is_decoder=True).to_dict()) == ""


def test_what_is_unknown_is_left_unpacked() -> None:
    assert "no small model of the kind 'nothing'" in unpackable("a/model", {"model_type": "nothing", "vocab_size": 5})


def test_preprocessing_knows_of_it_where_the_next_token_is_predicted() -> None:
    for folder in (shared_gpt2(), shared_llama()):
        assert source_of(str(folder)).text_preprocessing(str(folder), "causal-lm").unpackable == ""
    source = source_of(str(shared_bert()))
    assert source.text_preprocessing(str(shared_bert())).unpackable == ""
    with pytest.raises(BackboneError, match="does not predict"):
        source.text_preprocessing(str(shared_bert()), "causal-lm")


def test_trying_draws_nothing_from_the_global_generator() -> None:
    state = torch.get_rng_state()
    unpackable("a/model", AutoConfig.for_model("gpt2", n_layer=3).to_dict())
    assert torch.equal(torch.get_rng_state(), state)
