"""What configurations say about texts, against the models themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.backbones._texts import pad_token, text_preprocessing
from peftlab.errors import BackboneError

SHAPE: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


@pytest.mark.parametrize("family", ["Bert", "Roberta", "GPT2", "Llama"])
def test_the_longest_text_is_the_longest_that_the_model_takes(family: str) -> None:
    import transformers

    positions = (
        {"n_positions": 20, "n_embd": 8, "n_layer": 1, "n_head": 2} if family == "GPT2" else {"max_position_embeddings": 20}
    )
    shape = {"vocab_size": 11} if family == "GPT2" else SHAPE
    config = getattr(transformers, f"{family}Config")(**shape, **positions)
    model = getattr(transformers, f"{family}Model")(config).eval()
    found = text_preprocessing("a/model", config.to_dict())
    assert found.vocabulary == 11 and found.max_length == (18 if family == "Roberta" else 20)
    with torch.inference_mode():
        model(input_ids=torch.full((1, found.max_length), 5))
        if family != "Llama":  # rotary positions have no table to run out of
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.full((1, found.max_length + 1), 5))


def test_padding_is_the_models_own_else_its_end_of_text() -> None:
    assert pad_token({"pad_token_id": 0, "eos_token_id": 7}) == 0
    assert pad_token({"pad_token_id": None, "eos_token_id": 50256}) == 50256
    assert pad_token({"pad_token_id": -1, "eos_token_id": [2, 3]}) == 2
    assert pad_token({}) == 0


def test_a_model_of_images_takes_no_texts(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="takes no texts"):
        text_preprocessing("a/vit", {"model_type": "vit", "hidden_size": 8})
