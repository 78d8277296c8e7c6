"""Which families predict the next token, and which keep several texts in one row apart."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from peftlab.backbones._causal import unpackable
from peftlab.backbones.resolve import source_of
from peftlab.errors import BackboneError
from tests.tasks.texts import shared_bert, shared_gpt2, shared_llama


@pytest.mark.parametrize(
    "kind", ["gpt2", "llama", "mistral", "qwen2", "qwen3", "opt", "gpt_neox", "gptj", "phi", "gemma", "gpt_neo"]
)
def test_families_that_keep_texts_apart(kind: str) -> None:
    assert unpackable(kind, AutoConfig.for_model(kind).to_dict()) == ""


@pytest.mark.parametrize("kind", ["bloom", "falcon", "mamba"])
def test_families_that_do_not_say_why(kind: str) -> None:
    assert f"kind {kind!r}" in unpackable(kind, AutoConfig.for_model(kind).to_dict())


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
