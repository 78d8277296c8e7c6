"""Next-token prediction: documents in rows, the loss and its gradients packed and unpacked, perplexity, exact match."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from peftlab.backbones.contract import Backbone
from peftlab.backbones.resolve import source_of
from peftlab.errors import BackboneError
from peftlab.tasks._causal import CausalMeter, CausalTask, Documents, PreparedCausal, causal_info, text_ends
from peftlab.tasks.contract import PreparedTask, Splits
from peftlab.tasks.data._source import Source
from tests.tasks.texts import shared_gpt2, shared_llama

MODELS = pytest.mark.parametrize("folder", [shared_gpt2, shared_llama])
COUNT = 24


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Task(CausalTask):
    def columns(self) -> list[str]:
        return ["text"]

    def source(self) -> Source:
        raise NotImplementedError

    def info(self) -> Any: ...
    def batch_shapes(self, batch: int, preprocessing: Any, info: Any) -> Any: ...
    def prepare(self, preprocessing: Any, cache: Path) -> PreparedTask: ...  # pyright: ignore[reportReturnType]


class _Prepared(PreparedCausal):
    def splits(self, seed: int, fold: int = 0) -> Splits:
        third = np.arange(COUNT // 3)
        return Splits(train=third, validation=third + COUNT // 3, test=third + 2 * (COUNT // 3))


@functools.cache
def documents() -> Documents:
    """Documents of 2 to 20 tokens, some predicted as a whole."""
    draws = np.random.default_rng(0)
    lengths = draws.integers(2, 21, COUNT)
    return Documents(
        ids=draws.integers(5, 40, lengths.sum(), dtype=np.int32),
        starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]),
        lengths=lengths,
        predicted=np.array([draws.integers(1, n) for n in lengths]),
    )


def prepared(folder: Path, **options: Any) -> _Prepared:
    preprocessing = source_of(str(folder)).text_preprocessing(str(folder), "causal-lm")
    return _Prepared(
        task=_Task(data="none", **options),
        info=causal_info({"train": COUNT}),
        documents=documents(),
        used=np.arange(COUNT),
        preprocessing=preprocessing,
    )


def loaded(folder: Path, attention: str = "sdpa") -> Backbone:
    found = source_of(str(folder)).load(str(folder), outputs=0, head="causal-lm", seed=0)
    found.module.set_attn_implementation(attention)  # pyright: ignore[reportCallIssue]
    found.module.double().eval()
    return found


def loss_and_gradients(backbone: Backbone, task: PreparedTask, indices: np.ndarray) -> tuple[torch.Tensor, list[torch.Tensor]]:
    batch = task.batch(indices)
    loss = task.loss(backbone.outputs(backbone.module, task.inputs(batch)), batch)
    return loss.detach(), list(torch.autograd.grad(loss, list(backbone.module.parameters())))


def naive(module: nn.Module, number: int) -> torch.Tensor:
    """Negative log-likelihood of each predicted token of a document, by itself and without any mask."""
    d = documents()
    ids = torch.from_numpy(d.ids[d.starts[number] : d.starts[number] + d.lengths[number]].astype(np.int64))
    log_p = module(input_ids=ids[None]).logits[0].double().log_softmax(-1)
    return torch.stack([-log_p[i - 1, ids[i]] for i in range(len(ids) - int(d.predicted[number]), len(ids))])


@MODELS
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_loss_and_gradients_are_those_of_the_unpacked_batch(folder: Any, attention: str) -> None:
    backbone, chosen = loaded(folder(), attention), np.array([3, 0, 7, 11, 5, 21, 16, 2])
    packed, plain = prepared(folder()), prepared(folder(), packing=False)
    assert len(packed.batch(chosen)["input_ids"]) < len(chosen)
    loss, gradients = loss_and_gradients(backbone, packed, chosen)
    wanted, expected = loss_and_gradients(backbone, plain, chosen)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)
    largest = max(float(g.abs().max()) for g in expected)
    assert largest > 1e-3
    for found, right in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6 * largest)


@MODELS
def test_the_loss_is_the_mean_over_predicted_tokens(folder: Any) -> None:
    backbone, task, chosen = loaded(folder()), prepared(folder()), np.arange(9)
    batch = task.batch(chosen)
    with torch.inference_mode():
        loss = task.loss(backbone.outputs(backbone.module, task.inputs(batch)), batch)
        each = torch.cat([naive(backbone.module, int(i)) for i in chosen])
    assert float(loss) == pytest.approx(float(each.mean()), rel=1e-6)
    assert task.weight(chosen) == len(each) == documents().predicted[chosen].sum()


def test_label_smoothing_is_honoured() -> None:
    task = prepared(shared_gpt2())
    batch = task.batch(np.arange(5))
    logits = torch.randn(len(batch["labels"]), 40, generator=torch.Generator().manual_seed(0))
    log_p = logits.log_softmax(-1)
    wanted = -(0.9 * log_p.gather(1, batch["labels"][:, None])[:, 0] + 0.1 * log_p.mean(-1)).mean()
    assert float(task.loss(logits, batch, 0.1)) == pytest.approx(float(wanted), rel=1e-5)


@MODELS
def test_a_document_does_not_depend_on_its_neighbours(folder: Any) -> None:
    backbone, task = loaded(folder()), prepared(folder())
    numbers = np.argsort(documents().lengths, kind="stable")
    short, long = int(numbers[2]), int(numbers[-1])
    found = []
    for other in numbers[3:6]:
        batch = task.batch(np.array([long, short, other]))
        with torch.inference_mode():
            logits = backbone.outputs(backbone.module, task.inputs(batch))
        found.append(logits[batch["attention_mask"].flatten()[batch["places"]] == 2])
    assert {len(logits) for logits in found} == {int(documents().predicted[short])}
    for logits in found[1:]:
        torch.testing.assert_close(logits, found[0], rtol=1e-6, atol=1e-9)


@MODELS
def test_small_batches_add_up_to_the_large_one(folder: Any) -> None:
    """As the training loop accumulates: each part counts with its weight."""
    backbone, task, chosen = loaded(folder()), prepared(folder()), np.arange(10)
    _, whole = loss_and_gradients(backbone, task, chosen)
    total = [torch.zeros_like(g) for g in whole]
    for part in (chosen[:3], chosen[3:4], chosen[4:]):
        _, gradients = loss_and_gradients(backbone, task, part)
        for sum_, gradient in zip(total, gradients, strict=True):
            sum_ += gradient * task.weight(part) / task.weight(chosen)
    for found, right in zip(total, whole, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-6)


@MODELS
@pytest.mark.parametrize("packing", [True, False])
def test_logits_are_those_of_the_whole_rows_at_the_places(folder: Any, packing: bool) -> None:
    """With their gradients, weights that are shared with the embedding of words included."""
    backbone, task = loaded(folder()), prepared(folder(), packing=packing)
    batch = task.batch(np.array([4, 9, 1, 17, 12]))
    inputs = task.inputs(batch)
    found = backbone.outputs(backbone.module, inputs)
    rest = {name: value for name, value in inputs.items() if name != "places"}
    whole = backbone.outputs(backbone.module, rest).flatten(0, 1)
    assert found.shape == (len(batch["labels"]), whole.shape[1]) and len(found) < len(whole)
    torch.testing.assert_close(found, whole[batch["places"]], rtol=1e-9, atol=1e-12)
    parameters = list(backbone.module.parameters())
    wanted = torch.autograd.grad(whole[batch["places"]].square().sum(), parameters)
    for gradient, right in zip(torch.autograd.grad(found.square().sum(), parameters), wanted, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("packing", [True, False])
def test_rows_hold_the_documents(packing: bool) -> None:
    task, d, chosen = prepared(shared_gpt2(), packing=packing), documents(), np.array([4, 9, 1, 17, 12])
    batch = task.batch(chosen)
    for number, index in enumerate(chosen, start=1):
        here = batch["attention_mask"] == number
        tokens = torch.from_numpy(d.ids[d.starts[index] : d.starts[index] + d.lengths[index]].astype(np.int64))
        assert torch.equal(batch["input_ids"][here], tokens)
        mine = here.flatten()[batch["places"]]
        predicted = d.predicted[index]
        assert torch.equal(batch["labels"][mine], tokens[len(tokens) - predicted :])
        assert torch.equal(batch["places"][mine], here.flatten().nonzero()[-1 - predicted : -1, 0])
        assert not packing or torch.equal(batch["position_ids"][here], torch.arange(len(tokens)))
    filled = batch["attention_mask"] == 0
    assert len(batch["labels"]) == d.predicted[chosen].sum() and (batch["input_ids"][filled] == 3).all()
    assert (batch["places"].diff() > 0).all()
    assert ("position_ids" in task.inputs(batch)) == packing
    assert batch["input_ids"].shape[1] == d.lengths[chosen].max()


def test_no_batch_is_larger_than_the_plan_says() -> None:
    task = prepared(shared_gpt2())
    preprocessing = source_of(str(shared_gpt2())).text_preprocessing(str(shared_gpt2()), "causal-lm")
    for size in (1, 4, 9):
        shapes = task.task.shapes(size, 20, 19, preprocessing)  # pyright: ignore[reportAttributeAccessIssue]
        batch = task.batch(np.argsort(documents().lengths)[-size:])
        assert {n: t.dtype for n, t in batch.items()} == {n: dtype for n, (_, dtype) in shapes.items()}
        assert all(all(has <= most for has, most in zip(t.shape, shapes[n][0], strict=True)) for n, t in batch.items())


@pytest.mark.parametrize("packing", [True, False])
def test_metrics_are_those_of_each_document_by_itself(packing: bool) -> None:
    backbone, task = loaded(shared_llama()), prepared(shared_llama(), packing=packing)
    meter = task.meter()
    with torch.inference_mode():
        for part in (np.arange(5), np.arange(5, 6), np.arange(6, COUNT)):
            batch = task.batch(part)
            meter.update(backbone.outputs(backbone.module, task.inputs(batch)), batch)
        each = [naive(backbone.module, i) for i in range(COUNT)]
    together = torch.cat(each)
    found, items = meter.compute(), meter.predictions()
    assert found["loss"] == pytest.approx(float(together.mean()), rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(together.mean()), rel=1e-6)
    assert items["loss"].tolist() == pytest.approx([float(losses.sum()) for losses in each], rel=1e-6)
    assert items["tokens"].tolist() == documents().predicted.tolist()
    assert meter.details() == {"documents": COUNT, "tokens": len(together), "not_finite": 0}


@MODELS
def test_exact_match_is_what_greedy_generation_reproduces(folder: Any) -> None:
    """Documents of which half end as the model itself would go on, the others with one token changed."""
    backbone, (start, end) = loaded(folder()), text_ends(str(folder()))
    draws, texts, predicted, wanted = np.random.default_rng(1), [], [], []
    for number in range(16):
        prompt = [*start, *draws.integers(5, 40, int(draws.integers(2, 9))).tolist()]
        generated = generate(backbone.module, prompt, int(draws.integers(1, 8)), end)
        answer = list(generated)
        if number % 2:
            place = int(draws.integers(len(answer)))
            answer[place] = 5 + (answer[place] - 4) % 35
        texts.append([*prompt, *answer])
        predicted.append(len(answer))
        wanted.append(generate(backbone.module, prompt, len(answer), end) == answer)
    assert 0 < sum(wanted) < len(wanted)
    lengths = np.array([len(text) for text in texts])
    d = Documents(
        ids=np.concatenate(texts).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]),
        lengths=lengths,
        predicted=np.array(predicted),
    )
    meter, task = CausalMeter(), prepared(folder()).task
    batch = d.laid_out(np.arange(16), 0, packed=True)
    with torch.inference_mode():
        meter.update(backbone.outputs(backbone.module, task.inputs(batch)), batch)
    assert meter.predictions()["exact_match"].tolist() == wanted
    assert meter.compute()["exact_match"] == sum(wanted) / 16


def generate(module: Any, prompt: list[int], tokens: int, end: int) -> list[int]:
    ids = torch.tensor([prompt])
    found = module.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, eos_token_id=end, pad_token_id=end
    )
    return found[0, len(prompt) :].tolist()


def test_outputs_that_are_not_finite_are_said_to_be() -> None:
    task = prepared(shared_gpt2())
    batch = task.batch(np.arange(4))
    logits = functional.one_hot(batch["labels"], 40).double() * 5
    logits[batch["attention_mask"].flatten()[batch["places"]] == 2] = math.nan
    meter = task.meter()
    meter.update(logits, batch)
    found = meter.compute()
    assert math.isnan(found["perplexity"]) and math.isnan(found["loss"])
    assert found["exact_match"] == 0.75 and meter.details()["not_finite"] == 1
    assert meter.predictions()["exact_match"].tolist() == [True, False, True, True]


def test_a_perplexity_that_is_too_large_is_infinite() -> None:
    task = prepared(shared_gpt2())
    batch = task.batch(np.arange(4))
    meter = task.meter()
    meter.update(functional.one_hot((batch["labels"] + 1) % 40, 40) * 1e6, batch)
    assert meter.compute()["perplexity"] == math.inf and math.isfinite(meter.compute()["loss"])


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    import json
    import shutil

    folder = Path(shutil.copytree(shared_gpt2(), tmp_path / "endless"))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["eos_token"]
    path.write_text(json.dumps(config))
    for name in ("special_tokens_map.json",):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(BackboneError, match="no end-of-text token"):
        text_ends(str(folder))
    assert text_ends(str(shared_gpt2())) == ([], 3)
    assert text_ends(str(shared_llama())) == ([2], 3)
