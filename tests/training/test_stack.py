"""Runs computed together: each gets the numbers that it gets alone, whatever the others are and whatever becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.nn import stacked
from peftlab.nn.last_block import LastBlock
from peftlab.training.loop import Fitted, Trainer
from peftlab.training.stack import Member, Stack, StackBroken
from tests.contracts.tiny import make
from tests.training.conftest import Lab, Lines

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def together(trainers: list[Trainer], device: torch.device = CPU) -> tuple[list[Any], list[Member]]:
    """What became of each: what it fitted, or what it raised."""
    found: list[Any] = [None] * len(trainers)

    def work(number: int) -> Any:
        def run(member: Member) -> None:
            trainers[number].passes = member
            try:
                found[number] = trainers[number].fit()
            except StackBroken:
                raise
            except Exception as error:
                found[number] = error

        return run

    stack = Stack([work(number) for number in range(len(trainers))], device, "float32")
    stack.run()
    return found, stack.members


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.trainable.items()}


ARMS: list[Any] = [
    ({"name": "lora", "rank": 4}, {}, 0),
    ({"name": "lora", "rank": 2, "dropout": 0.1, "targets": "all-linear"}, {"batch_size": 8, "effective_batch_size": 16}, 1),
    ({"name": "lora", "rank": 8, "alpha": 4, "targets": "extended"}, {"epochs": 1}, 2),
    ("linear-probe", {"clip_norm": 0.1}, 3),
    ("bitfit", {"batch_size": 8, "effective_batch_size": 24}, 0),
    ({"name": "svd", "rank": 3}, {"weight_decay": 0.1}, 5),
]


def test_every_run_gets_the_bits_it_gets_alone(lab: Lab, tmp_path: Path) -> None:

    def trainers(where: str) -> list[Trainer]:
        return [
            lab.trainer(tmp_path / where / str(i), adapter, seed=seed, train={"batch_size": 16, **train}, listener=Lines())
            for i, (adapter, train, seed) in enumerate(ARMS)
        ]

    alone, joint = trainers("alone"), trainers("joint")
    expected = [trainer.fit() for trainer in alone]
    found, members = together(joint)
    for number, (one, other) in enumerate(zip(alone, joint, strict=True)):
        assert isinstance(found[number], Fitted), found[number]
        assert members[number].joint >= 6 and not members[number].alone, members[number].alone
        assert one.listener.lines == other.listener.lines, ARMS[number]  # pyright: ignore
        a, b = weights(one), weights(other)
        assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a), ARMS[number]
        assert found[number].selected.metrics == expected[number].selected.metrics
    shared = {p.data_ptr() for p in joint[0].adapted.module.parameters() if not p.requires_grad}
    assert all(
        p.data_ptr() in shared for n, p in joint[3].adapted.module.named_parameters() if not p.requires_grad and "norm" in n
    )


def test_only_what_is_not_alike_is_computed_apart(lab: Lab, tmp_path: Path) -> None:
    """Quantized in the same way, and in another; a schedule that changes the base; a run that begins again."""
    nf4 = {"name": "groupwise", "type": "nf4", "group_size": 8}
    arms: list[dict[str, Any]] = [
        {"adapter": {"name": "pooled", "rank": 3}, "quantizer": nf4},
        {"adapter": {"name": "lora", "rank": 2}, "quantizer": nf4},
        {"adapter": "lora", "quantizer": "none"},
        {"adapter": {"name": "pooled", "rank": 3}, "quantizer": {**nf4, "schedule": "linear", "end": 0.8}},
    ]

    def trainers(where: str) -> list[Trainer]:
        return [lab.trainer(tmp_path / where / str(i), seed=i, **arm) for i, arm in enumerate(arms)]

    alone, joint = trainers("alone"), trainers("joint")
    for trainer in alone:
        trainer.fit()
    found, members = together(joint)
    assert all(isinstance(fitted, Fitted) for fitted in found), found
    for one, other in zip(alone, joint, strict=True):
        a, b = weights(one), weights(other)
        assert all(torch.equal(a[n], b[n]) for n in a)
    assert [member.joint > 0 for member in members] == [True, True, False, False]
    assert "frozen weights differ" in members[2].alone and "changes frozen weights" in members[3].alone


def test_running_statistics_that_move_stay_with_their_run(tmp_path: Path, cache: Path) -> None:
    """Frozen ones are those of all; where they move, nothing is shared and the reason is told."""
    lab = Lab(str(make("resnet", tmp_path / "resnet")), cache)
    arms = [("linear-probe", 0), ("linear-probe", 1), ("ln-tuning", 0), ("ln-tuning", 1)]

    def trainers(where: str) -> list[Trainer]:
        return [lab.trainer(tmp_path / where / str(i), arm, seed=seed) for i, (arm, seed) in enumerate(arms)]

    alone, joint = trainers("alone"), trainers("joint")
    for trainer in alone:
        trainer.fit()
    before = [{b.data_ptr() for b in trainer.adapted.module.buffers()} for trainer in joint]
    found, members = together(joint)
    assert all(isinstance(fitted, Fitted) for fitted in found), found
    for number, (one, other) in enumerate(zip(alone, joint, strict=True)):
        for a, b in zip(one.adapted.module.state_dict().values(), other.adapted.module.state_dict().values(), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-6) if number < 2 else torch.equal(a, b)
        assert bool(members[number].joint) == (number < 2)
    assert "changes what later ones compute" in members[2].alone and "running_mean" in members[3].alone
    assert [{b.data_ptr() for b in joint[i].adapted.module.buffers()} for i in (2, 3)] == before[2:]


def test_random_numbers_within_kernels_are_noticed(lab: Lab, tmp_path: Path) -> None:
    """Attention that drops within its kernel draws for all rows at once: nobody would get the masks that it gets alone."""
    joint = [lab.trainer(tmp_path / str(seed), seed=seed) for seed in range(2)]
    for trainer in joint:
        for part in trainer.adapted.module.modules():
            if hasattr(part, "attention_dropout"):
                part.attention_dropout = 0.5
    dropped = [getattr(part, "attention_dropout", None) for part in joint[0].adapted.module.modules()]
    assert 0.5 in dropped
    found, members = together(joint)
    assert all(isinstance(fitted, Fitted) for fitted in found)
    assert all("random numbers" in member.alone and not member.joint for member in members)


def as_alone(alone: list[Trainer], joint: list[Trainer], within: float = 0.0) -> None:
    """The same losses and weights to ``within``."""
    for one, other in zip(alone, joint, strict=True):
        torch.testing.assert_close(weights(other), weights(one), rtol=0, atol=within)


PEFT_LORA = {"name": "peft", "type": "LORA", "targets": "o", "config_options": {"r": 4}}


@pytest.mark.parametrize("option", [{"lora_alpha": 64}, {"lora_dropout": 0.3}, {"use_dora": True}, {"use_rslora": True}])
def test_what_starts_at_zero_hides_nothing(lab: Lab, tmp_path: Path, option: dict[str, Any]) -> None:
    """Layers that are not fused, of equal factors, of which B is zero: nothing tells them apart before the first update."""
    arms = [PEFT_LORA, {**PEFT_LORA, "config_options": {"r": 4, **option}}]
    alone, joint = ([lab.trainer(tmp_path / where / str(i), arm) for i, arm in enumerate(arms)] for where in ("alone", "joint"))
    for trainer in alone:
        trainer.fit()
    _, members = together(joint)
    assert all(member.joint for member in members)
    as_alone(alone, joint, within=1e-6)


def test_the_proof_sees_what_starts_at_zero(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A joint module that takes the first member's adapter for everybody's is found out before anything is trained."""

    def careless(mine: Any, modules: Any, _name: str, heads: Any, seats: Any) -> Any:
        for head in heads:
            mine.set_submodule(head, stacked.OneByOne([module.get_submodule(head) for module in modules], seats))
        return mine

    monkeypatch.setattr(stacked, "_joined", careless)
    arms = [{"name": "lora", "rank": 4, "alpha": alpha} for alpha in (4, 64)]
    alone, joint = ([lab.trainer(tmp_path / where / str(i), arm) for i, arm in enumerate(arms)] for where in ("alone", "joint"))
    for trainer in alone:
        trainer.fit()
    _, members = together(joint)
    assert all("not the same for all" in member.alone and not member.joint for member in members)
    as_alone(alone, joint)


def test_a_pass_is_proved_for_every_number_of_rows(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a tensor for one with a row for every example may do so by their number."""
    rows, prove = [], Stack._prove

    def counting(self: Stack, group: Any) -> None:
        rows.append(sum(request.rows for request in group.values()))
        prove(self, group)

    monkeypatch.setattr(Stack, "_prove", counting)
    epochs = (1, 2, 2)  # one ends, and two go on
    _, members = together([lab.trainer(tmp_path / str(i), seed=i, train={"epochs": n}) for i, n in enumerate(epochs)])
    assert not any(member.alone for member in members)
    assert len(rows) == len(set(rows)) >= 2


def test_rows_of_the_last_block_are_left_out_of_all_or_none(lab: Lab, tmp_path: Path) -> None:
    joint = [lab.trainer(tmp_path / str(seed), seed=seed) for seed in range(2)]
    read = joint[0].adapted.last
    assert isinstance(read, LastBlock)
    joint[1].adapted.last = "somebody looks at every row"
    found, members = together(joint)
    assert all(isinstance(fitted, Fitted) for fitted in found)
    assert [member.joint for member in members] == [0, 0]


def test_an_error_in_one_is_its_own(lab: Lab, tmp_path: Path) -> None:
    joint = [lab.trainer(tmp_path / str(seed), seed=seed) for seed in range(3)]
    asked = iter(range(100))

    def stop() -> bool:
        if next(asked) == 3:
            raise ValueError("of its own")
        return False

    joint[1].should_stop = stop
    alone = [lab.trainer(tmp_path / f"alone{seed}", seed=seed) for seed in (0, 2)]
    for trainer in alone:
        trainer.fit()
    found, _ = together(joint)
    assert isinstance(found[1], ValueError)
    for one, other in zip(alone, (joint[0], joint[2]), strict=True):
        a, b = weights(one), weights(other)
        assert all(torch.equal(a[n], b[n]) for n in a)


def test_a_joint_pass_that_fails_is_told_to_everybody(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joint = [lab.trainer(tmp_path / str(seed), seed=seed) for seed in range(2)]
    told: list[int] = []
    compute = Stack._compute

    def failing(self: Stack, group: Any) -> Any:
        if joint[0].step == 2:
            raise RuntimeError("no memory")
        return compute(self, group)

    monkeypatch.setattr(Stack, "_compute", failing)

    def work(trainer: Trainer, number: int) -> Any:
        def run(member: Member) -> None:
            trainer.passes = member
            try:
                trainer.fit()
            except StackBroken:
                told.append(number)
                raise

        return run

    with pytest.raises(StackBroken, match="no memory"):
        Stack([work(trainer, number) for number, trainer in enumerate(joint)], CPU, "float32").run()
    assert told == [0, 1]
