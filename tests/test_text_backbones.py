"""Folders of real models of texts: the tokenizer against llama2.c's own algorithm, the weights against published figures."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.tasks._tokens import load_tokenizer
from tests.tasks.texts import shared_minilm, shared_stories, stories_pieces, text_data

STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
TEXTS = st.text(
    st.one_of(st.sampled_from(" \n\t  lopeath<>0xA▁éñ’🎉€"), st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    max_size=40,
)


@functools.cache
def pieces() -> tuple[dict[str, int], list[float]]:
    return {piece: i for i, (piece, _) in enumerate(stories_pieces())}, [score for _, score in stories_pieces()]


def llama2c(text: str) -> list[int]:
    """Begin, a space, then characters (or their bytes); the pair with the best score is merged until none is left."""
    number, scores = pieces()
    names = {i: piece for piece, i in number.items()}
    ids = [1]
    for character in " " + text if text else "":
        ids += [number[character]] if character in number else [3 + byte for byte in character.encode()]
    while True:
        joint = [
            (scores[n], -i, n) for i in range(len(ids) - 1) if (n := number.get(names[ids[i]] + names[ids[i + 1]])) is not None
        ]
        if not joint:
            return ids
        _, at, merged = max(joint)
        ids[-at : -at + 2] = [merged]


def decoded(ids: list[int]) -> str:
    """Bytes and pieces one after the other, the space behind the begin left out."""
    names = {i: piece for piece, i in pieces()[0].items()}
    raw = b"".join(bytes([i - 3]) if 3 <= i < 259 else names[i].encode() for i in ids[1:])
    return raw.decode(errors="replace").removeprefix(" ")


def check(text: str) -> None:
    tokenizer: Any = load_tokenizer(str(shared_stories()))
    ids = tokenizer(text)["input_ids"]
    assert ids == llama2c(text)
    assert tokenizer.decode(ids, skip_special_tokens=True) == decoded(ids) == text


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_any_text_has_the_ids_of_llama2c(text: str) -> None:
    check(text)


def test_real_texts_have_the_ids_of_llama2c() -> None:
    for story in (text_data("tinystories") / "sample.txt").read_text().split("<|endoftext|>"):
        check(story[:400])
    wiki = (text_data("wikitext2") / "valid.txt").read_text(encoding="utf-8")
    for start in range(0, 4000, 400):
        check(wiki[start : start + 400])
    assert "<unk>" in wiki[:4000]
    for example in json.loads((text_data("alpaca") / "alpaca.json").read_text(encoding="utf-8"))[:25]:
        check(example["instruction"] + "\n" + example["output"][:400])


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(shared_stories()).eval()


def test_it_tells_the_story_that_llama2c_prints(model: Any) -> None:
    assert sum(p.numel() for p in model.parameters()) == 260_032
    ids = model.generate(torch.tensor([[1]]), max_new_tokens=40, do_sample=False)[0]
    assert load_tokenizer(str(shared_stories())).decode(ids, skip_special_tokens=True).startswith(STORY)


def nats(model: Any, texts: list[str]) -> float:
    """Mean over all tokens, in blocks of 256 behind one begin each."""
    tokenizer: Any = load_tokenizer(str(shared_stories()))
    losses = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids), 256):
            block = torch.tensor([[1, *ids[start : start + 256]]])
            with torch.inference_mode():
                losses.append(torch.nn.functional.cross_entropy(model(block).logits[0, :-1], block[0, 1:], reduction="none"))
    return float(torch.cat(losses).mean())


def test_it_has_the_losses_of_its_description(model: Any) -> None:
    stories = (text_data("tinystories") / "sample.txt").read_text().removesuffix("<|endoftext|>\n").split("<|endoftext|>\n")
    assert len(stories) == 5
    assert nats(model, [story.lstrip() for story in stories]) == pytest.approx(1.41, abs=0.005)
    for name, published in (("tinyshakespeare", 4.84), ("wikitext2", 5.44)):
        text = (text_data(name) / "valid.txt").read_text(encoding="utf-8")[:6000]
        assert nats(model, [text]) == pytest.approx(published, abs=0.005)


def test_the_encoder_knows_what_is_alike() -> None:
    """Mean of the last states, as its description has it: paraphrases are nearer than other sentences."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(shared_minilm()).eval()
    texts = ["A man plays the guitar.", "Someone is playing a guitar.", "The stock market fell sharply today."]
    batch = load_tokenizer(str(shared_minilm()))(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    assert means[0] @ means[1] > 0.7 > 0.3 > means[0] @ means[2]
