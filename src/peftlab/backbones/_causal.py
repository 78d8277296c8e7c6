"""Whether a family of models is causal, and whether one row can hold several texts: tried out on a small model of its kind."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from peftlab.errors import BackboneError
from peftlab.nn.seeding import seeded
from peftlab.tasks._packing import block_causal_mask

#: what makes a model small, under the names that configurations of most families know
_SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 32,
    "ffn_dim": 32,
    "word_embed_proj_dim": 32,
    "rotary_dim": 16,
    "vocab_size": 48,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_LENGTHS = (5, 7)
_TOLERANCE = 2e-5  #: relative, float32


def logits(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Logits [R, T, V] of a transformers model, or [N, V] at the ``places`` int64 [N] of R T tokens, where they are given.

    Elsewhere the last product, hidden state times vocabulary, is not computed then. The ``attention_mask`` may be bool
    [R, 1, T, T]: transformers hands a mask of four axes on as it is, one implementation of attention would add True as 1, another
    reads a mask of another precision than its input wrongly. So it becomes what is added to the scores, in the model's precision.
    """
    inputs = dict(inputs)
    places = inputs.pop("places", None)
    mask = inputs.get("attention_mask")
    if mask is not None and mask.ndim == 4:
        dtype = next(p.dtype for p in module.parameters() if p.is_floating_point())
        added = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        inputs["attention_mask"] = added
    if places is None:
        return module(**inputs, return_dict=True).logits
    with _only_at(module, places):
        found = module(**inputs, return_dict=True).logits
    return found.squeeze(0) if found.shape[:2] == (1, len(places)) else found.flatten(0, 1).index_select(0, places)


@contextlib.contextmanager
def _only_at(module: Any, places: torch.Tensor) -> Iterator[None]:
    """The output layer gets the hidden states [1, N, H] of these places in place of all, [R, T, H]."""
    head = module.get_output_embeddings()
    if head is None:
        yield
        return

    def chosen(_head: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *rest = given
        return (hidden.flatten(0, -2).index_select(0, places)[None], *rest)

    handle = head.register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        handle.remove()


def unpackable(name: str, config: Mapping[str, Any]) -> str:
    """Why rows of the model ``name`` cannot hold several texts; empty where they can.

    Two texts in one row, with a mask of blocks and positions that begin anew, must give what each gives alone.

    Raises:
        BackboneError: it is not causal: what comes later changes what was said before.
    """
    found = _tried(json.dumps(dict(config), sort_keys=True, default=str))
    if found is None:
        raise BackboneError(
            f"a model of the kind {config.get('model_type')!r} does not predict the next token: it sees it",
            where=name,
            remedy="name a causal model (GPT-2, Llama, ...), or use a task for encoders",
        )
    return found


@cache
def _tried(config: str) -> str | None:
    """As :func:`unpackable`; None where the model is not causal."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    raw = json.loads(config)
    kind = raw.pop("model_type", "")
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # what it warns of is what is tried here
    try:
        small = _small(AutoConfig.for_model(kind, **raw))
        with seeded(0, "small"):
            model = AutoModelForCausalLM.from_config(small).float().eval()
        first, second = (torch.arange(3, 3 + n)[None] * 3 % 48 for n in _LENGTHS)
        with torch.inference_mode():
            alone = [model(input_ids=ids).logits for ids in (first, second)]
            longer = model(input_ids=torch.cat([first, second], 1)).logits[:, : first.shape[1]]
    except Exception as error:  # a family may ask for anything
        return f"no small model of the kind {kind!r} could be tried ({type(error).__name__})"
    finally:
        logging.set_verbosity(level)
    if not _same(longer, alone[0]):
        return None
    texts = torch.tensor([[1] * _LENGTHS[0] + [2] * _LENGTHS[1] + [0]])
    ids = torch.cat([first, second, torch.zeros(1, 1, dtype=torch.int64)], 1)
    positions = torch.cat([torch.arange(n) for n in (*_LENGTHS, 1)])[None]
    try:
        with torch.inference_mode():
            packed = logits(model, {"input_ids": ids, "attention_mask": block_causal_mask(texts), "position_ids": positions})
    except Exception as error:
        return f"models of the kind {kind!r} take no mask of blocks ({type(error).__name__})"
    if not _same(packed[:, :-1], torch.cat(alone, 1)):
        return f"models of the kind {kind!r} look from one text of a row into another"
    return ""


def _small(config: Any) -> Any:
    small = copy.deepcopy(config)
    for key, value in _SMALL.items():
        if getattr(small, key, None) is not None:
            setattr(small, key, value)
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[: _SMALL["num_hidden_layers"]]
    return small


def _same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())
