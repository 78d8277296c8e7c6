"""Several runs in one process, whose training steps are computed in one forward and one backward pass.

Every run keeps its own loop: data order, random numbers, optimizer, schedule, clipping, losses, evaluations, checkpoints, record.
Each goes on until it wants the outputs of a batch; when all have come so far, the batches are computed as one (nn/stacked.py),
every run makes its loss of its rows, and the losses are differentiated together. A sum of losses gives each run's tensors the
gradients of its own loss alone, because no tensor of one run has anything to do with the rows of another: also if that loss is
not a number.

Whoever ends, for whatever reason, leaves; whoever cannot be computed with others computes by itself, and its record says why.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from peftlab.adapters.contract import Adapted
from peftlab.nn.last_block import LastBlock
from peftlab.nn.modes import unmoved
from peftlab.nn.quantized import plain_buffers
from peftlab.nn.seeding import default_generator
from peftlab.nn.stacked import Joint, Seat, Unstackable, join
from peftlab.training.noise import noised
from peftlab.training.passes import Passes, tensors_of
from peftlab.training.precision import Precision, autocast
from peftlab.training.strand import Ended, Strand

#: largest difference of outputs, in units of their largest, that a joint pass may have from each member's own
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class StackBroken(Exception):
    """A joint pass failed. Nobody can say whose fault it is: every run goes on by itself, in a process of its own."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Forward:
    adapted: Adapted
    inputs: Mapping[str, torch.Tensor]
    generator: torch.Generator

    @property
    def shape(self) -> Any:
        """What batches have to have in common to be computed as one, which rows of the last block are read among it."""
        last = self.adapted.last if isinstance(self.adapted.last, LastBlock) else None
        return last, *((name, tensor.shape[1:], tensor.dtype) for name, tensor in sorted(self.inputs.items()))

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclasses.dataclass(frozen=True, slots=True)
class _Backward:
    loss: torch.Tensor


class Member(Passes):
    """One run's place in a stack."""

    together = True

    def __init__(self, number: int, device: torch.device, size: int = 1) -> None:
        self.number, self.device, self.size = number, device, size
        self.strand: Strand | None = None
        self.alone = ""  #: why it is computed by itself
        self.passes = self.joint = 0
        self.companions = 0  #: of all joint passes together, itself included

    def leave(self, why: str) -> None:
        """Compute by itself from now on."""
        self.alone = self.alone or why

    def outputs(self, adapted: Adapted, inputs: Mapping[str, torch.Tensor]) -> Any:
        self.passes += 1
        if self.alone or self.strand is None:
            return super().outputs(adapted, inputs)
        default = default_generator(self.device)
        generator = torch.Generator(self.device)
        generator.set_state(default.get_state())
        found = self.strand.ask(_Forward(adapted, inputs, generator))
        default.set_state(generator.get_state())
        if found is None:  # nobody to be computed with, this time
            return super().outputs(adapted, inputs)
        return found

    def backward(self, loss: torch.Tensor) -> None:
        if self.alone or self.strand is None:
            super().backward(loss)
            return
        default = default_generator(self.device)
        mine = default.get_state()
        self.strand.ask(_Backward(loss))
        default.set_state(mine)  # others have drawn meanwhile

    def record(self) -> dict[str, Any]:
        if self.size == 1:
            return {}
        mean = self.companions / self.joint if self.joint else 1.0
        found: dict[str, Any] = {
            "runs": self.size,
            "passes": self.passes,
            "joint_passes": self.joint,
            "mean_runs": round(mean, 3),
        }
        return {**found, "why_alone": self.alone} if self.alone else found


class Stack:
    """Runs ``works`` together; each is called with its :class:`Member`, by whose means it computes.

    Args:
        works: what the runs do. What one of them raises ends that one alone and is its own affair, but for StackBroken.
        precision: of every member's forward pass.
    """

    def __init__(self, works: Sequence[Callable[[Member], None]], device: torch.device, precision: Precision) -> None:
        self.device = device
        self.precision: Precision = precision
        self.members = [Member(number, device, len(works)) for number in range(len(works))]
        self.works = works
        self.begun = False
        self.joint: Joint | None = None
        self.joined: dict[int, Adapted] = {}  #: member -> what of it is in the joint module
        self.place: dict[int, int] = {}  #: and where
        self.proved: set[tuple[int, int]] = set()  #: (member, rows of all) of whom it is known that it computes as alone

    def run(self) -> None:
        """Until all have ended.

        Raises:
            StackBroken: a joint pass failed; every member was told so first.
        """
        waiting: dict[Member, Any] = {}
        for member, work in zip(self.members, self.works, strict=True):
            member.strand = Strand(lambda strand, member=member, work=work: work(member), name=f"run {member.number}")
            self._go_on(waiting, member, None)
        while waiting:
            asked = {member: request for member, request in waiting.items() if isinstance(request, _Forward)}
            if asked:
                answers = self._attempt(waiting, lambda asked=asked: self._forward(asked))
            else:
                losses = [request.loss for request in waiting.values()]
                answers = self._attempt(waiting, lambda losses=losses: torch.autograd.backward(losses))
                asked = dict(waiting)
            for member in asked:
                self._go_on(waiting, member, (answers or {}).get(member))

    def _go_on(self, waiting: dict[Member, Any], member: Member, answer: Any) -> None:
        waiting.pop(member, None)
        assert member.strand is not None
        request = member.strand.resume(answer)
        if isinstance(request, Ended):
            member.strand = None
        else:
            waiting[member] = request

    def _attempt(self, waiting: dict[Member, Any], compute: Callable[[], Any]) -> Any:
        try:
            return compute()
        except Exception as error:  # of whatever kind: alone everyone has an error of their own, or none
            broken = StackBroken(str(error).split("\n")[0])
            for member in list(waiting):
                with contextlib.suppress(StackBroken):
                    self._go_on(waiting, member, broken)
            raise broken from error

    def _forward(self, asked: Mapping[Member, _Forward]) -> dict[Member, Any]:
        self._join(asked)
        able = {member: request for member, request in asked.items() if self.joined.get(member.number) is request.adapted}
        groups: dict[Any, dict[Member, _Forward]] = {}
        for member, request in able.items():
            groups.setdefault(request.shape, {})[member] = request
        answers: dict[Member, Any] = {}
        for group in groups.values():
            if len(group) > 1 and not any(member.alone for member in group):
                answers |= self._compute(group)
        return answers

    def _join(self, asked: Mapping[Member, _Forward]) -> None:
        """Make the joint module once, of all who begin together; who comes with another model later is not in it."""
        if not self.begun:
            self.begun = True
            together: dict[int, Adapted] = {}
            for member, request in asked.items():
                try:
                    self._check_buffers(request)
                    self.joint = _joint([*together.values(), request.adapted])
                    together[member.number] = request.adapted
                except Unstackable as reason:
                    member.leave(str(reason))
            if together:
                self.joint = _joint(list(together.values()))  # the last one tried may have been refused
            self.joined = together
            self.place = {number: place for place, number in enumerate(together)}
        for member, request in asked.items():
            if self.joined.get(member.number) is not request.adapted:
                member.leave("it began again with another model")

    def _check_buffers(self, request: _Forward) -> None:
        """Before anything is shared: a pass leaves nothing behind in the model.

        Raises:
            Unstackable: it does, and others would compute with it.
        """
        with unmoved(plain_buffers(request.adapted.module)) as changed:
            self._alone(request)
        if changed:
            raise Unstackable(f"its forward pass changes what later ones compute ({changed[0]})")

    @torch.no_grad()
    def _alone(self, request: _Forward) -> Any:
        """What a member computes by itself; its random numbers are not used up."""
        with Seat(0, 0, 0, _copy(request.generator)).random(), request.adapted.reading(), autocast(self.precision, self.device):
            return request.adapted.backbone.outputs(request.adapted.module, request.inputs)

    def _compute(self, group: Mapping[Member, _Forward]) -> dict[Member, Any]:
        rows = sum(request.rows for request in group.values())
        about = {(member.number, rows) for member in group}
        kept = [request.generator.get_state() for request in group.values()]
        try:
            if not about <= self.proved:
                self._prove(group)
                self.proved |= about
            answers = self._outputs(group, [request.generator for request in group.values()])
        except Unstackable as reason:
            for (member, request), state in zip(group.items(), kept, strict=True):
                request.generator.set_state(state)
                member.leave(str(reason))
            return {}
        for member in group:
            member.joint += 1
            member.companions += len(group)
        return answers

    def _outputs(self, group: Mapping[Member, _Forward], generators: Sequence[torch.Generator]) -> dict[Member, Any]:
        """Of the joint module; ``generators`` are moved on."""
        assert self.joint is not None
        first, seats = 0, []
        for (member, request), generator in zip(group.items(), generators, strict=True):
            seats.append(Seat(self.place[member.number], first, first + request.rows, generator))
            first += request.rows
        requests = list(group.values())
        together = {name: torch.cat([request.inputs[name] for request in requests]) for name in requests[0].inputs}
        self.joint.seats.taken = seats
        adapted = requests[0].adapted
        with adapted.reading(self.joint.module), autocast(self.precision, self.device):
            whole = adapted.backbone.outputs(self.joint.module, together)
        return {member: _rows(whole, seat.first, seat.last, first) for member, seat in zip(group, seats, strict=True)}

    @torch.no_grad()
    def _prove(self, group: Mapping[Member, _Forward]) -> None:
        """The joint module gives what everyone computes alone with the same random numbers.

        With noise on all that is trained, another for each: an update that starts at zero hides its scale and whatever else
        members may differ in. So it is known before anything is trained; and again for every new number of rows, by which
        a tensor may be taken for one that has a row for every example.

        Raises:
            Unstackable: it does not; a layer draws random numbers where nobody can see it, or is not the same for all.
        """
        with contextlib.ExitStack() as noise:
            for member, request in group.items():
                noise.enter_context(noised(request.adapted.trainable().values(), seed=member.number))
            answers = self._outputs(group, [_copy(request.generator) for request in group.values()])
            for member, request in group.items():
                for mine, joint in zip(tensors_of(self._alone(request)), tensors_of(answers[member]), strict=True):
                    limit = TOLERANCE.get(mine.dtype, 0.0) * float(mine.abs().max())
                    if mine.shape != joint.shape or not float((mine - joint).abs().max()) <= limit:
                        why = "a layer draws random numbers for all rows, or is not the same for all"
                        raise Unstackable(f"computed together the outputs differ from its own: {why}")


def _copy(generator: torch.Generator) -> torch.Generator:
    made = torch.Generator(generator.device)
    made.set_state(generator.get_state())
    return made


def _joint(members: Sequence[Adapted]) -> Joint:
    """Raises Unstackable."""
    changing = next((hook.name for adapted in members for hook in adapted.hooks if hook.changes_base), "")
    if changing:
        raise Unstackable(f"{changing} changes frozen weights during training")
    return join([adapted.backbone.module for adapted in members], members[0].backbone.heads)


def _rows(value: Any, first: int, last: int, size: int) -> Any:
    """A member's part of what the joint module says; libraries answer with tensors, tuples or dictionaries of them."""
    if torch.is_tensor(value):
        return value[first:last] if value.dim() and len(value) == size else value
    if isinstance(value, Mapping):
        parts = {key: _rows(part, first, last, size) for key, part in value.items()}
        return type(value)(parts)  # pyright: ignore
    if isinstance(value, tuple | list):
        return type(value)(_rows(part, first, last, size) for part in value)
    return value
