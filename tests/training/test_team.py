"""One run in two real processes over gloo, against the same run in one."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as distributed

from peftlab.errors import Stopped, TrainingError, WorkerDied
from peftlab.execution.crew import _store, crew
from peftlab.study.schema import Train
from peftlab.training.assemble import Ingredients, base_probe
from peftlab.training.checkpoint import Checkpoints
from peftlab.training.loop import Cadence, Trainer
from peftlab.training.sharding import shard_frozen
from peftlab.training.team import Team, _buckets
from tests.contracts.tiny import make
from tests.tasks.texts import shared_gpt2
from tests.training.conftest import Lines

CPU = torch.device("cpu")
IMAGES = {"kind": "image-classification", "data": "digits", "train_size": 90, "validation_size": 30, "test_size": 30}
ADALORA = {"name": "adalora", "budget": {"ranks": 6}, "initial_rank": 4, "initial_steps": 2, "final_steps": 2, "every": 2}
#: steps of 16 examples, the last of an epoch of 10: batches that two processes cannot halve, and accumulation
CASES: dict[str, dict[str, Any]] = {
    "full": {"adapter": {"name": "full"}},
    "lora": {"adapter": {"name": "lora", "targets": "all-linear"}, "train": {"effective_batch_size": 14, "batch_size": 7}},
    "more processes than examples": {"adapter": {"name": "lora"}, "train": {"batch_size": 1, "effective_batch_size": 16}},
    "early stopping": {"adapter": {"name": "bitfit"}, "train": {"select": "best", "early_stopping": {"patience": 1}}},
    "adalora": {"adapter": {"name": "svd", "rank": 4}, "allocator": ADALORA},
    "threshold": {
        "adapter": {"name": "lora", "rank": 4},
        "allocator": {"name": "threshold", "importance": "gradient_norm", "quantile": 0.5},
    },
    "qa-lora": {"adapter": {"name": "pooled", "rank": 4}, "quantizer": {"name": "groupwise", "group_size": 8}},
    "texts of unequal length": {"adapter": {"name": "lora"}, "texts": True, "train": {"batch_size": 4}},
}
UNSHARDED = {"full": "no frozen weights", "qa-lora": "quantized weights cannot be sharded"}
STEPS = 8


def write_sources(folder: Path) -> None:
    make("vit", folder / "vit")
    shutil.copytree(shared_gpt2(), folder / "gpt2")
    config = folder / "gpt2" / "config.json"
    without = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)  # dropout draws other masks in two processes
    config.write_text(json.dumps({**json.loads(config.read_text()), **without}), encoding="utf-8")
    lines = [" ".join(["a story of the sea"] * (1 + 5 * (n % 4))) for n in range(40)]
    (folder / "book.txt").write_text("\n".join(lines), encoding="utf-8")


def trainer(case: dict[str, Any], folder: Path, checkpoints: str, team: Team, **given: Any) -> Trainer:
    backbone, task = str(folder / "vit"), IMAGES
    if case.get("texts"):
        data = {"name": "text-files", "path": str(folder), "train": "book.txt"}
        backbone = str(folder / "gpt2")
        task = {"kind": "language-modeling", "data": data, "join": "none", "context": 32, "train_size": 24}
    ingredients = Ingredients.of(
        backbone=backbone, task=task, adapter=case["adapter"], allocator=case.get("allocator"),
        quantizer=case.get("quantizer", {"name": "none"}),
    )  # fmt: skip
    prepared = ingredients.task.prepare(ingredients.preprocessing(), folder / "cache")
    train = Train(**{"max_steps": STEPS, "batch_size": 16, "learning_rate": 3e-3, **case.get("train", {})})
    splits = prepared.splits(0)
    adapted = ingredients.build(prepared.info.outputs, 0, CPU, look=lambda b: base_probe(b, prepared, splits, train, 0))
    return Trainer(
        adapted=adapted, task=prepared, splits=splits, train=train, seed=0, device=CPU, precision="float32",
        checkpoints=Checkpoints(folder / checkpoints), cadence=Cadence(seconds=float("inf")), hooks=adapted.hooks,
        team=team, **given,
    )  # fmt: skip


def all_cases(team: Team, folder: Path, *, shard: bool = False) -> dict[str, Any]:
    """Losses, weights and metrics of every case; of those that can be sharded, with ``shard``."""
    found = {}
    team.together = False
    for name, case in CASES.items():
        if shard and name in UNSHARDED:
            continue
        lines = Lines()
        made = trainer(case, folder, f"{name}-{team.size}-{shard}", team, listener=lines)
        share = shard_frozen(made.adapted, CPU, team)["share"] if shard else 1.0
        fitted = made.fit()
        weights = {n: p.detach().clone() for n, p in made.trainable.items()}
        metrics = {**fitted.selected.metrics, **{f"test {k}": v for k, v in made.evaluate("test").compute().items()}}
        found[name] = {"losses": lines.losses, "weights": weights, "metrics": metrics, "steps": fitted.steps, "share": share}
    return found


def in_two(team: Team, folder: Path) -> None:
    all_cases(team, folder)
    all_cases(team, folder, shard=True)
    for name in UNSHARDED:
        with pytest.raises(TrainingError):
            shard_frozen(trainer(CASES[name], folder, "refused", team).adapted, CPU, team)
    with pytest.raises(Stopped):
        trainer(CASES["lora"], folder, "stopped", team).fit()
    trainer(CASES["lora"], folder, "stopped", team).fit()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("team")
    write_sources(folder)
    with crew(2, CPU, "test", in_two, (folder,)) as team:
        two, sharded = all_cases(team, folder), all_cases(team, folder, shard=True)
        for name, words in UNSHARDED.items():
            with pytest.raises(TrainingError, match=words):
                shard_frozen(trainer(CASES[name], folder, "refused", team).adapted, CPU, team)
        asked = iter(range(100))
        lines = Lines()
        with pytest.raises(Stopped, match="after step 4 of 8"):
            trainer(CASES["lora"], folder, "stopped", team, should_stop=lambda: next(asked) >= 3, listener=lines).fit()
        again = trainer(CASES["lora"], folder, "stopped", team, listener=lines)
        again.fit()
        stopped = {"losses": lines.losses, "weights": {n: p.detach().clone() for n, p in again.trainable.items()}}
    return {"one": all_cases(Team(), folder), "two": two, "sharded": sharded, "stopped": stopped}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_at_the_same_batch(found: dict[str, Any], name: str) -> None:
    one, two = found["one"][name], found["two"][name]
    assert one["steps"] == two["steps"]
    torch.testing.assert_close(torch.tensor(one["losses"]), torch.tensor(two["losses"]), rtol=1e-5, atol=1e-6)
    assert one["weights"].keys() == two["weights"].keys()
    for key, weight in one["weights"].items():
        # rates are 3e-3; what has no gradient but rounding (biases of keys) moves by it after Adam's division
        torch.testing.assert_close(two["weights"][key], weight, rtol=1e-4, atol=2e-4)
    assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-4)


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNSHARDED])
def test_sharding_the_frozen_weights_changes_no_number(found: dict[str, Any], name: str) -> None:
    """To the bit where weights lie in memory as before; GPT-2's are transposed, and MKL sums those in another order."""
    two, sharded = found["two"][name], found["sharded"][name]
    exact = not CASES[name].get("texts")
    assert sharded["share"] < 0.75  # blocks are most of these models, heads and embeddings stay whole
    assert sharded["losses"] == (two["losses"] if exact else pytest.approx(two["losses"], rel=1e-6))
    assert sharded["metrics"] == (two["metrics"] if exact else pytest.approx(two["metrics"], rel=1e-5))
    for key, weight in two["weights"].items():
        torch.testing.assert_close(sharded["weights"][key], weight, rtol=0, atol=0 if exact else 1e-6)


def test_stopped_in_two_processes_and_continued_equals_uninterrupted_bit_for_bit(found: dict[str, Any]) -> None:
    quiet, stopped = found["two"]["lora"], found["stopped"]
    assert stopped["losses"] == quiet["losses"]
    assert all(torch.equal(stopped["weights"][key], weight) for key, weight in quiet["weights"].items())


def disagree(team: Team) -> None:
    with pytest.raises(TrainingError, match="same model"):
        team.align({"a": torch.zeros(3)}, "frozen", 0)
    with pytest.raises(TrainingError, match="different weights"):
        team.agree({"a": torch.zeros(2)})
    team.align({"a": torch.zeros(2)}, "frozen", 0)


def test_processes_that_differ_are_refused_and_begin_with_the_weights_of_the_first() -> None:
    ours = {"a": torch.ones(2)}
    with crew(2, CPU, "test", disagree, ()) as team:
        with pytest.raises(TrainingError, match="do not begin with the same model"):
            team.align(ours, "frozen", 0)
        with pytest.raises(TrainingError, match="ended with different weights"):
            team.agree(ours)
        team.align(ours, "frozen", 0)
    assert torch.equal(ours["a"], torch.ones(2))


def killed(team: Team) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def last_killed(team: Team) -> None:
    if team.rank == team.size - 1:
        killed(team)
    summing(team)


def summing(team: Team) -> None:
    team.sum([torch.nn.Parameter(torch.zeros(2))], 0.0, lambda: False)


class Unreadable:
    """Ends whoever makes it again."""

    def __reduce__(self) -> Any:
        return os._exit, (3,)


def short_of_memory(team: Team) -> None:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize(("size", "work", "words"), [(2, killed, "process 1 of 2"), (3, last_killed, "process 2 of 3")])
def test_a_lost_process_is_named(size: int, work: Any, words: str) -> None:
    named = pytest.raises(WorkerDied, match=f"{words} of the run was ended by SIGKILL")
    with named, crew(size, CPU, "test", work, ()) as team:
        summing(team)


def test_an_error_of_the_first_process_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="CUDA error"), crew(2, CPU, "test", summing, ()):
        raise RuntimeError("CUDA error: device-side assert triggered")


def test_a_process_that_never_comes_is_named_at_once() -> None:
    died = pytest.raises(WorkerDied, match="process 1 of 2 of the run ended with exit code 3")
    with died, crew(2, CPU, "test", summing, (Unreadable(),)):
        pytest.fail("they cannot have met")


def test_the_wait_for_the_others_can_be_stopped() -> None:
    asked = iter([False, True])

    def stop() -> None:
        if next(asked):
            raise Stopped("asked to")

    with pytest.raises(Stopped), crew(2, CPU, "test", summing, (), stop):
        pytest.fail("they cannot have met")


def test_they_meet_on_the_loopback_only() -> None:
    store = _store()
    ours = [c for c in psutil.Process().net_connections("tcp") if c.laddr.port == store.port and c.status == psutil.CONN_LISTEN]
    assert [c.laddr.ip for c in ours] == ["127.0.0.1"]


def test_memory_that_runs_out_in_another_process_lets_a_fallback_answer() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(RuntimeError, match="out of memory in process 1 of 2"), crew(2, CPU, "test", short_of_memory, ()) as team:
        team.sum([parameter], 0.0, lambda: False)


def test_a_process_alone_shares_nothing() -> None:
    with crew(1, CPU, "test", killed, ()) as team:
        assert team.size == 1 and team.own == ()
    assert not distributed.is_initialized()


def test_gradients_travel_in_buckets_of_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftlab.training.team.BUCKET_BYTES", 40)
    sizes = [torch.zeros(5), torch.zeros(5), torch.zeros(1), torch.zeros(30), torch.zeros(2, dtype=torch.float64)]
    assert [[t.numel() for t in bucket] for bucket in _buckets(sizes)] == [[5, 5], [1], [30], [2]]
