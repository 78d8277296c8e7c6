"""What a transformers configuration says about texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftlab.errors import BackboneError
from peftlab.tasks.contract import TextPreprocessing

#: where families say how long a text may be
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length")
#: families that number positions from the padding id + 1 on (fairseq's)
_OFFSET_POSITIONS = frozenset({"roberta", "camembert", "xlm-roberta", "mpnet", "longformer"})


def text_preprocessing(name: str, config: Mapping[str, Any]) -> TextPreprocessing:
    """Of the model ``name``, whose ``config.json`` is given.

    Raises:
        BackboneError: it is no model of texts.
    """
    positions = next((config[key] for key in _POSITIONS if isinstance(config.get(key), int)), None)
    if not isinstance(config.get("vocab_size"), int) or positions is None:
        raise BackboneError("takes no texts", where=name, remedy="name a model of texts, or an image task")
    if config.get("model_type") in _OFFSET_POSITIONS:
        positions -= pad_token(config) + 1
    return TextPreprocessing(
        tokenizer=name, max_length=positions, pad_token=pad_token(config), vocabulary=int(config["vocab_size"])
    )


def pad_token(config: Mapping[str, Any]) -> int:
    """The id that fills texts up: the model's own, else its end of text (GPT-2 and Llama have none of their own)."""
    for key in ("pad_token_id", "eos_token_id"):
        found = config.get(key)
        found = found[0] if isinstance(found, list) and found else found
        if isinstance(found, int) and found >= 0:
            return found
    return 0
