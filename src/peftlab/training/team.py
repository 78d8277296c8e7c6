"""One run in several processes: synchronous data parallelism, exact up to the order of sums.

Every process holds the whole model and takes the same step. Of N processes the r-th takes every N-th example of a micro-batch,
from the r-th on. With W the weight of the whole step (``PreparedTask.weight``: the terms of its mean), w_r that of a process's
examples and l_r their mean loss,

    loss = sum_r (w_r / W) l_r        gradient = sum_r (w_r / W) dl_r

are those of one process over the same examples, whatever examples differ in length; a plain average of N means is not (each
counts 1/N, as in DistributedDataParallel of libraries). Gradients are summed before anybody looks at them, so that clipping,
allocators and probes see those of the whole step, and decide the same in every process. Dropout and augmentation are drawn anew
in each: another draw of the same distribution than in one process. Every process evaluates all examples by itself: that costs
what it costs in one.

Gradients are summed after the backward pass and not during it: adapters have few, and the ranks of some change on the way.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as distributed

from peftlab.errors import TrainingError
from peftlab.nn.tensors import tensor_hash

BUCKET_BYTES = 25 * 2**20  #: gradients that are sent together
#: for another process, which may be preparing data; between GPUs nobody notices sooner that one is gone
PATIENCE = datetime.timedelta(minutes=10)
T = TypeVar("T")


class Team:
    """The processes of a run that has one: nothing is shared. Rank 0 writes the record."""

    rank: int = 0
    size: int = 1
    together: bool = False  #: every process has to compute with every micro-batch, because others need its part of the weights

    @property
    def own(self) -> tuple[int, ...]:
        """What this process adds to the path of a seed; nothing for the first, which draws as one alone would."""
        return (self.rank,) if self.rank else ()

    def share(self, indices: np.ndarray, number: int) -> np.ndarray:
        """This process's examples of the micro-batch with this number; small ones go round."""
        return indices[(self.rank + number) % self.size :: self.size]

    def sum(self, parameters: Sequence[torch.Tensor], loss: float, should_stop: Callable[[], bool]) -> float:
        """Sum gradients in place, and losses; on the way all learn whether one of them is asked to stop."""
        return loss

    def stops(self, should_stop: Callable[[], bool]) -> bool:
        """Whether to stop after this step: the same answer in every process."""
        return should_stop()

    def in_turn(self, look: Callable[[], T]) -> T:
        """``look`` in rank 0, then in the others."""
        return look()

    def align(self, tensors: Mapping[str, torch.Tensor], frozen: str, step: int) -> None:
        """Give every process the tensors of rank 0.

        Raises:
            TrainingError: the processes do not hold the same model, or not at the same step.
        """

    def same(self, found: Mapping[str, float]) -> None:
        """Look whether all processes found this.

        Raises:
            TrainingError: they did not.
        """

    def agree(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Look whether all processes hold the same values.

        Raises:
            TrainingError: they do not.
        """


class Several(Team):
    """This process and ``size - 1`` others, through torch.distributed: NCCL between GPUs, gloo between CPUs."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device
        self.asked = False

    def sum(self, parameters: Sequence[torch.Tensor], loss: float, should_stop: Callable[[], bool]) -> float:
        flags = [float(p.grad is not None) for p in parameters]
        head = torch.tensor([loss, float(should_stop()), *flags], dtype=torch.float64, device=self.device)
        distributed.all_reduce(head)
        loss, asked, *known = head.tolist()
        self.asked = bool(asked)
        for parameter, holders in zip(parameters, known, strict=True):
            if holders and parameter.grad is None:  # it had no example of the step
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            distributed.all_reduce(flat)
            for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))
        return loss

    def stops(self, should_stop: Callable[[], bool]) -> bool:
        return self.asked

    def in_turn(self, look: Callable[[], T]) -> T:
        if self.rank == 0:
            found = look()
            distributed.barrier()
            return found
        distributed.barrier()
        return look()

    def same(self, found: Mapping[str, float]) -> None:
        self._compare(sorted(found.items()), "validate differently, and would not stop or select alike")

    def align(self, tensors: Mapping[str, torch.Tensor], frozen: str, step: int) -> None:
        shapes = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()}
        what = "do not begin with the same model: frozen weights, the adapter's shapes or checkpoints differ"
        self._compare((sorted(shapes.items()), frozen, step), what)
        with torch.no_grad():
            for tensor in tensors.values():
                whole = tensor.detach().contiguous()
                distributed.broadcast(whole, src=0)
                tensor.detach().copy_(whole)

    def agree(self, tensors: Mapping[str, torch.Tensor]) -> None:
        hashes = [(name, tensor_hash(tensor)) for name, tensor in sorted(tensors.items())]
        self._compare(hashes, "ended with different weights, though they summed the same gradients")

    def _compare(self, mine: Any, complaint: str) -> None:
        """By digests: what comes over a network is never unpickled."""
        digest = torch.frombuffer(bytearray(hashlib.sha256(repr(mine).encode()).digest()), dtype=torch.uint8).to(self.device)
        found = [torch.empty_like(digest) for _ in range(self.size)]
        distributed.all_gather(found, digest)
        if any(not torch.equal(other, digest) for other in found):
            remedy = "use devices of one kind, or --processes 1; if they are of one kind, report this fault"
            raise TrainingError(f"the processes of the run {complaint}", where=f"{self.size} processes", remedy=remedy)


@contextmanager
def joined(rank: int, size: int, store: Any, device: torch.device) -> Iterator[Several]:
    """Meet the others at ``store``, and leave them at the end."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Several(rank, size, device)
    except BaseException:
        if backend == "nccl":  # the others may never come to an end that all have to come to
            distributed.distributed_c10d._abort_process_group()  # pyright: ignore
        else:
            distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """In order, of one type each and of about :data:`BUCKET_BYTES`."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or sum(t.nbytes for t in bucket) + tensor.nbytes > BUCKET_BYTES):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
