"""A model that is cut trains as the whole one: losses, gradients, weights, metrics; and what cannot be cut is left as it is."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from peftlab.errors import Stopped
from peftlab.study.schema import Train
from peftlab.training.assemble import Ingredients
from peftlab.training.checkpoint import Checkpoints
from peftlab.training.loop import Cadence, Trainer
from peftlab.training.prefix import KEY, Uncut
from peftlab.training.prefix_search import find_cut
from peftlab.training.prefix_store import Store
from peftlab.training.prefix_task import Prefix, PrefixTask
from tests.contracts.tiny import make
from tests.tasks.texts import shared_bert, shared_gpt2, shared_instructions, shared_llama, shared_sst2
from tests.training.conftest import Lines

DIGITS = {"kind": "image-classification", "data": "digits", "train_size": 90, "validation_size": 30, "test_size": 30}
SST2 = {"kind": "text-classification", "data": {"name": "sst2", "path": str(shared_sst2())}, "train_size": 60, "test_size": 30}
TOP = {"name": "lora", "rank": 4, "targets": "all-linear,blocks:1"}
#: largest difference between a run that is cut and one that is not, relative to the largest value: rounding of other batches
ROUNDING = 2e-4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    found = {kind: str(make(kind, folder / kind)) for kind in ("vit", "timm")}
    for name, source in (("gpt2", shared_gpt2()), ("llama", shared_llama()), ("bert", shared_bert())):
        found[name] = str(source)
        found[f"{name} without dropout"] = _copied(source, folder / f"{name}-plain", dropout=0.0)
    found["vit with dropout"] = _copied(Path(found["vit"]), folder / "vit-dropout", dropout=0.1)
    return found


def _copied(source: Path, target: Path, *, dropout: float) -> str:
    target.mkdir()
    for file in source.iterdir():
        target.joinpath(file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text())
    config |= {key: dropout for key in config if "dropout" in key or key.endswith("pdrop")}
    config |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    (target / "config.json").write_text(json.dumps(config))
    return str(target)


def trainer(
    tmp_path: Path,
    backbone: str,
    adapter: Any,
    task: dict[str, Any] = DIGITS,
    *,
    train: dict[str, Any] | None = None,
    quantizer: Any = "none",
    precision: Any = "float32",
    folder: str = "whole",
    **options: Any,
) -> Trainer:
    parts = Ingredients.of(
        backbone=backbone,
        task=task,
        adapter={"name": adapter} if isinstance(adapter, str) else adapter,
        allocator=None,
        quantizer={"name": quantizer} if isinstance(quantizer, str) else quantizer,
    )
    prepared = parts.task.prepare(parts.preprocessing(), tmp_path / "cache")
    adapted = parts.build(prepared.info.outputs, 0)
    return Trainer(
        adapted=adapted,
        task=prepared,
        splits=prepared.splits(0),
        train=Train(**{"epochs": 2, "batch_size": 16, "learning_rate": 3e-3, **(train or {})}),
        seed=0,
        device=torch.device("cpu"),
        precision=precision,
        checkpoints=Checkpoints(tmp_path / folder),
        hooks=list(adapted.hooks),
        **{"cadence": Cadence(seconds=float("inf")), "listener": Lines(), **options},
    )


def cut(whole: Trainer, folder: Path, **options: Any) -> Prefix:
    about = {"about": {}, "store": Store(folder), "device": whole.device, "precision": whole.precision}
    return Prefix.of(whole.adapted, whole.task, whole.splits, **about, **options)


def shortened(whole: Trainer, folder: Path, **options: Any) -> tuple[Trainer, Prefix]:
    found = cut(whole, folder / "prefixes")
    options = {"listener": Lines(), "checkpoints": Checkpoints(folder / "cut"), **options}
    return dataclasses.replace(whole, adapted=found.adapted, task=PrefixTask(found), **options), found


def near(a: torch.Tensor, b: torch.Tensor, tolerance: float = ROUNDING) -> bool:
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max()) <= tolerance * max(1e-3, float(b.abs().max()))


IMAGES = [
    ("vit", "linear-probe", "head"),
    ("timm", "linear-probe", "head"),
    ("vit", TOP, "block 1"),
    ("timm", TOP, "block 1"),
    ("vit", {**TOP, "dropout": 0.2}, "block 1"),
    ("timm", {**TOP, "targets": "q,v,blocks:1", "dora": True}, "block 1"),
]


def _name(value: Any) -> str:
    """Of a case; folders of this process do not come into it, because several processes have to agree on it."""
    return "-".join(str(part) for name, part in value.items() if name != "data") if isinstance(value, dict) else str(value)


@pytest.mark.parametrize(("kind", "adapter", "place"), IMAGES, ids=_name)
def test_training_on_hidden_states_is_training_of_the_whole(
    models: dict[str, str], tmp_path: Path, kind: str, adapter: Any, place: str
) -> None:
    train = {"select": "best", "batch_size": 8, "effective_batch_size": 16}
    whole = trainer(tmp_path, models[kind], adapter, train=train)
    again, prefix = shortened(trainer(tmp_path, models[kind], adapter, train=train), tmp_path)
    assert prefix.cut.name == place
    wanted, found = whole.fit(), again.fit()
    assert found.steps == wanted.steps == 12
    losses: Any = (whole.listener, again.listener)
    assert losses[0].losses == pytest.approx(losses[1].losses, rel=ROUNDING)
    for name, parameter in again.trainable.items():
        assert near(parameter, whole.trainable[name]), name
    assert found.selected.step == wanted.selected.step
    for split in ("validation", "test"):
        metrics = whole.evaluate(split).compute()
        assert again.evaluate(split).compute() == pytest.approx(metrics, rel=ROUNDING)


@pytest.mark.parametrize(("kind", "adapter"), [("vit", TOP), ("timm", TOP), ("timm", "linear-probe")], ids=_name)
def test_gradients_of_a_step_are_the_same_and_nothing_trained_is_left_out(
    models: dict[str, str], tmp_path: Path, kind: str, adapter: Any
) -> None:
    whole = trainer(tmp_path, models[kind], adapter)
    prefix = cut(whole, tmp_path / "prefixes")
    task, examples = PrefixTask(prefix), whole.splits.train[:16]
    gradients = []
    for given, adapted in ((whole.task, whole.adapted), (task, prefix.adapted)):
        batch = given.batch(examples)
        given.loss(adapted.backbone.outputs(adapted.module, given.inputs(batch)), batch).backward()
        gradients.append({n: p.grad.clone() for n, p in adapted.trainable().items() if p.grad is not None})
        adapted.module.zero_grad()
    assert gradients[0].keys() == gradients[1].keys() == whole.trainable.keys()
    assert all(near(gradients[1][name], gradients[0][name]) for name in gradients[0])


TEXTS = [
    ("llama", {"name": "lora", "targets": "q,v,blocks:1"}, "block 1"),
    ("gpt2 without dropout", {"name": "lora", "targets": "q,v,blocks:1"}, "block 1"),
    ("bert without dropout", {"name": "lora", "targets": "q,v,blocks:1"}, "block 1"),
    ("llama", "linear-probe", "head"),
]


@pytest.mark.parametrize(("kind", "adapter", "place"), TEXTS, ids=_name)
@pytest.mark.parametrize("bucketing", [True, False])
def test_texts_of_any_length(
    models: dict[str, str], tmp_path: Path, kind: str, adapter: Any, place: str, bucketing: bool
) -> None:
    task, train = {**SST2, "bucketing": bucketing}, {"max_steps": 5, "batch_size": 8}
    whole = trainer(tmp_path, models[kind], adapter, task, train=train)
    again, prefix = shortened(trainer(tmp_path, models[kind], adapter, task, train=train), tmp_path)
    assert prefix.cut.name == place
    whole.fit()
    again.fit()
    lengths = {len(prefix.read(np.array([i]))[0]) for i in whole.splits.train}
    assert len(lengths) > 3, "no padding is kept"
    for name, parameter in again.trainable.items():
        assert near(parameter, whole.trainable[name]), name
    assert again.evaluate("test").compute() == pytest.approx(whole.evaluate("test").compute(), rel=ROUNDING)


def test_a_causal_model_with_a_text_a_row(models: dict[str, str], tmp_path: Path) -> None:
    task = {"kind": "instruction-tuning", "data": str(shared_instructions()), "packing": False}
    adapter = {"name": "lora", "targets": "q,v,blocks:1"}
    whole = trainer(tmp_path, models["llama"], adapter, task, train={"max_steps": 4, "batch_size": 8})
    again, _ = shortened(trainer(tmp_path, models["llama"], adapter, task, train={"max_steps": 4, "batch_size": 8}), tmp_path)
    whole.fit()
    again.fit()
    assert all(near(p, whole.trainable[name]) for name, p in again.trainable.items())


@pytest.mark.parametrize(
    "quantizer", [{"name": "groupwise", "type": "int4", "group_size": 16}, {"name": "bnb", "bits": 4}], ids=_name
)
def test_on_quantized_weights(models: dict[str, str], tmp_path: Path, quantizer: Any) -> None:
    adapter, train = {"name": "lora", "targets": "q,v,blocks:1"}, {"max_steps": 4}
    whole = trainer(tmp_path, models["vit"], adapter, quantizer=quantizer, train=train)
    again, _ = shortened(trainer(tmp_path, models["vit"], adapter, quantizer=quantizer, train=train), tmp_path)
    whole.fit()
    again.fit()
    assert all(near(p, whole.trainable[name], 1e-3) for name, p in again.trainable.items())


def test_in_half_precision_hidden_states_keep_their_type(models: dict[str, str], tmp_path: Path) -> None:
    whole = trainer(tmp_path, models["timm"], TOP, precision="bfloat16", train={"max_steps": 3})
    again, prefix = shortened(trainer(tmp_path, models["timm"], TOP, precision="bfloat16", train={"max_steps": 3}), tmp_path)
    whole.fit()
    again.fit()
    assert prefix.read(whole.splits.train[:2]).dtype == prefix.cut.dtype
    assert again.evaluate("test").compute()["loss"] == pytest.approx(whole.evaluate("test").compute()["loss"], rel=2e-2)


@pytest.mark.parametrize("kind", ["vit", "timm"])
def test_with_gradient_checkpointing(models: dict[str, str], tmp_path: Path, kind: str) -> None:
    train = {"max_steps": 4, "gradient_checkpointing": True}
    whole = trainer(tmp_path, models[kind], TOP, train=train)
    again, _ = shortened(trainer(tmp_path, models[kind], TOP, train=train), tmp_path)
    whole.fit()
    again.fit()
    assert all(near(p, whole.trainable[name]) for name, p in again.trainable.items())


def test_no_pixel_is_read_and_no_block_before_the_cut_runs(models: dict[str, str], tmp_path: Path) -> None:
    again, prefix = shortened(trainer(tmp_path, models["timm"], TOP), tmp_path)
    prefix.ready(again.splits.train)
    images: Any = prefix.task
    images._images = None  # decoding would fail
    module = prefix.adapted.backbone.module
    ran: list[str] = []
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.LayerNorm):
            part.register_forward_hook(lambda *_, name=name: ran.append(name))
    batch = again.task.batch(again.splits.train[:4])
    assert batch.keys() == {"labels", KEY}
    prefix.adapted.backbone.outputs(prefix.adapted.module, again.task.inputs(batch))
    assert ran and not [name for name in ran if "blocks.0." in name or "patch_embed" in name]


def test_the_model_is_whole_again_after_every_call(models: dict[str, str], tmp_path: Path) -> None:
    whole = trainer(tmp_path, models["vit"], TOP)
    names = [(name, type(part)) for name, part in whole.adapted.module.named_modules()]
    batch = whole.task.batch(whole.splits.train[:4])
    before = whole.adapted.backbone.outputs(whole.adapted.module, whole.task.inputs(batch)).detach()
    again, prefix = shortened(whole, tmp_path)
    part = again.task.batch(again.splits.train[:4])
    prefix.adapted.backbone.outputs(prefix.adapted.module, again.task.inputs(part))
    assert [(name, type(part)) for name, part in whole.adapted.module.named_modules()] == names
    assert not [name for name, part in whole.adapted.module.named_modules() if "forward" in vars(part)]
    after = whole.adapted.backbone.outputs(whole.adapted.module, whole.task.inputs(batch)).detach()
    assert torch.equal(before, after)


def test_test_data_are_left_alone_until_they_are_tested(models: dict[str, str], tmp_path: Path) -> None:
    again, prefix = shortened(trainer(tmp_path, models["vit"], "linear-probe"), tmp_path)
    again.fit()
    assert [len(part.examples) for part in prefix.parts if part.rows is not None] == [120]
    again.evaluate("test")
    assert [len(part.examples) for part in prefix.parts if part.rows is not None] == [120, 30]


def test_runs_of_other_seeds_and_ranks_share_one_file(models: dict[str, str], tmp_path: Path) -> None:
    for adapter in (TOP, {**TOP, "rank": 8}):
        for seed in (0, 1):
            whole = trainer(tmp_path, models["vit"], adapter)
            whole.splits = whole.task.splits(seed)
            cut(whole, tmp_path / "prefixes").ready(whole.splits.train)
    assert len(list((tmp_path / "prefixes").glob("*.rows"))) == 1
    other = trainer(tmp_path, str(make("vit", tmp_path / "other", seed=1)), TOP)
    cut(other, tmp_path / "prefixes").ready(other.splits.train)
    assert len(list((tmp_path / "prefixes").glob("*.rows"))) == 2


@pytest.mark.parametrize("adapter", ["linear-probe", TOP], ids=_name)
def test_interrupted_and_resumed_after_the_file_was_lost_equals_uninterrupted(
    models: dict[str, str], tmp_path: Path, adapter: Any
) -> None:
    quiet, _ = shortened(trainer(tmp_path, models["vit"], adapter), tmp_path / "quiet")
    quiet.fit()
    asked = iter(range(100))
    begun, _ = shortened(trainer(tmp_path, models["vit"], adapter), tmp_path, should_stop=lambda: next(asked) >= 4)
    with pytest.raises(Stopped):
        begun.fit()
    for file in (tmp_path / "prefixes").glob("*.rows"):
        file.unlink()
    resumed, _ = shortened(trainer(tmp_path, models["vit"], adapter), tmp_path)
    assert resumed.fit().resumed == 1
    assert all(torch.equal(p, quiet.trainable[name]) for name, p in resumed.trainable.items())
    assert resumed.evaluate("test").compute() == quiet.evaluate("test").compute()


REFUSED = [
    ("vit", "full", DIGITS, "is trained"),
    ("vit", "lora", DIGITS, "is trained"),
    ("timm", "bitfit", DIGITS, "is trained"),
    ("vit", "vpt", DIGITS, "is trained"),
    ("vit with dropout", TOP, DIGITS, "dropout"),
    ("bert", {"name": "lora", "targets": "q,v,blocks:1"}, SST2, "dropout"),
    ("gpt2", {"name": "lora", "targets": "q,v,blocks:1"}, SST2, "dropout"),
    (
        "llama",
        {"name": "lora", "targets": "q,v,blocks:1"},
        {"kind": "instruction-tuning", "data": str(shared_instructions()), "packing": True},
        "rows of a batch are not its examples|more than one text",
    ),
]


@pytest.mark.parametrize(("kind", "adapter", "task", "why"), REFUSED, ids=_name)
def test_what_cannot_be_cut_is_refused(
    models: dict[str, str], tmp_path: Path, kind: str, adapter: Any, task: Any, why: str
) -> None:
    with pytest.raises(Uncut, match=why):
        cut(trainer(tmp_path, models[kind], adapter, task), tmp_path / "prefixes")


def test_an_allocator_that_may_act_on_a_block_keeps_it(models: dict[str, str], tmp_path: Path) -> None:
    whole = trainer(tmp_path, models["vit"], "linear-probe")
    with pytest.raises(Uncut, match="allocator"):
        cut(whole, tmp_path, most=0)
    assert cut(whole, tmp_path, most=1).cut.name == "block 1"


def test_blocks_that_somebody_looks_at_run(models: dict[str, str], tmp_path: Path) -> None:
    whole = trainer(tmp_path, models["vit"], TOP)
    block = whole.adapted.backbone.module.get_submodule(whole.adapted.backbone.roles.names[0])
    block.register_forward_hook(lambda *_: None)
    with pytest.raises(Uncut, match="looks at"):
        cut(whole, tmp_path)


def test_a_model_whose_head_sees_the_image_is_found_out(models: dict[str, str], tmp_path: Path) -> None:
    whole = trainer(tmp_path, models["vit"], TOP)
    plain = whole.adapted.backbone.outputs
    whole.adapted.backbone.outputs = lambda module, inputs: plain(module, inputs) + inputs["pixel_values"].mean()
    with pytest.raises(Uncut, match="outputs would differ"):
        cut(whole, tmp_path)


def test_a_model_that_fails_without_its_first_blocks_is_left_whole(models: dict[str, str], tmp_path: Path) -> None:
    whole = trainer(tmp_path, models["vit"], TOP)
    plain = whole.adapted.backbone.outputs

    def picky(module: nn.Module, inputs: Any) -> torch.Tensor:
        assert float(inputs["pixel_values"].abs().max()) > 0, "no image"
        return plain(module, inputs)

    whole.adapted.backbone.outputs = picky
    with pytest.raises(Uncut, match="cannot begin at block 1: AssertionError"):
        cut(whole, tmp_path)


class _Statistics(nn.Module):
    """A block with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(2)])
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class _Counting(nn.Linear):
    """Counts its passes, and computes with that."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return super().forward(input) + self.passes


@pytest.mark.parametrize("counting", [False, True])
def test_what_a_pass_changes_is_noticed_and_put_back_and_frozen_statistics_stay(counting: bool) -> None:
    from peftlab.adapters.contract import Adapted
    from peftlab.backbones.contract import Backbone
    from peftlab.registry import create

    module = _Statistics()
    if counting:
        module.layers[1] = _Counting()
    for parameter in module.layers.parameters():
        parameter.requires_grad_(False)
    backbone = Backbone(
        name="", family="", library="", module=module, head="head", outputs=lambda m, i: m(i["x"]), save=lambda *_: None
    )
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    adapted = Adapted(module=module, backbone=backbone, adapter=create("adapter", {"name": "linear-probe"}, where=""))
    with pytest.raises(Uncut, match=r"changes what later ones compute \(layers.1.passes\)") if counting else nullcontext():
        assert find_cut(adapted, {"x": torch.randn(5, 4)}).head
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())


def test_with_folds_all_examples_lie_in_one_file(models: dict[str, str], tmp_path: Path) -> None:
    task = {"kind": "image-classification", "data": "digits", "folds": 3}
    whole = trainer(tmp_path, models["vit"], "linear-probe", task)
    (part,) = cut(whole, tmp_path).parts
    assert len(part.examples) == sum(len(whole.splits[split]) for split in ("train", "validation", "test"))
