"""What a run may do when it cannot go on as it is: only what its study declared, never silently.

=========================  ==========================  =====================================================================
key of ``train``           value                       answer
=========================  ==========================  =====================================================================
``on_out_of_memory``       ``accumulate``              half the micro-batch, twice the accumulation, same effective batch
``on_non_finite``          ``higher-precision``        the run again in float32, products of quantized layers included
``on_device_failure``      ``cpu``                     the run again on the CPU
=========================  ==========================  =====================================================================

``fail``, the default of all three, ends the run with a typed error (a loss that is not finite, in training or in an evaluation,
with the outcome "diverged"). Every answer
starts the run afresh and leaves a flag that each table shows. Times of training are those of the last attempt; ``total_s`` and
``cpu_s`` are all that the run took, ``given_up`` what of them went into the attempts before, wherever they were made.
"""

from __future__ import annotations

import dataclasses

import torch

from peftlab.quantizers.contract import Quantizer
from peftlab.study.schema import Train
from peftlab.training.precision import Precision, higher

#: the last is what oneDNN says when its allocation fails
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "could not create a primitive")
_DEVICE = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "NCCL error", "MPS backend", "device-side assert")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How a run is tried: device, precision, micro-batch, and the quantizer of weights that are quantized while it trains."""

    device: torch.device
    precision: Precision
    train: Train
    quantizer: Quantizer | None = None
    again: bool = False  #: with another quantizer than the run's

    @property
    def name(self) -> str:
        """Folder of this attempt's checkpoints: those of another attempt are never continued."""
        return f"{self.device.type}-{self.precision}-{self.train.batch_size}{'-exact' if self.again else ''}"

    def after_divergence(self, step: int) -> tuple[Attempt, str] | None:
        """The next attempt and its flag, or None: divergence is the outcome."""
        safer = higher(self.precision)
        exact = self.quantizer.exact if self.quantizer is not None else None
        if self.train.on_non_finite != "higher-precision" or (safer is None and exact is None):
            return None
        low = "" if exact is None else " with quantized layers in lower precision"
        flag = f"not finite in {self.precision}{low} in step {step + 1}: run again in float32"
        changes = {} if exact is None else {"quantizer": exact, "again": True}
        return dataclasses.replace(self, precision=safer or self.precision, **changes), flag

    def after_error(self, error: BaseException) -> tuple[Attempt, str] | None:
        """The next attempt and its flag, or None: the error stands."""
        batch = self.train.batch_size
        assert isinstance(batch, int)
        if is_out_of_memory(error) and self.train.on_out_of_memory == "accumulate" and batch % 2 == 0:
            effective = self.train.effective_batch_size or batch
            train = self.train.model_copy(update={"batch_size": batch // 2, "effective_batch_size": effective})
            flag = (
                f"out of memory at {batch} examples: run again with {batch // 2}, {effective // (batch // 2)} times accumulated"
            )
            return dataclasses.replace(self, train=train), flag
        if is_device_failure(error) and self.train.on_device_failure == "cpu" and self.device.type != "cpu":
            flag = f"{self.device.type} failed ({str(error).splitlines()[0][:80]}): run again on the CPU"
            return dataclasses.replace(self, device=torch.device("cpu"), precision="float32"), flag
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator said no; torch raises a plain RuntimeError on the CPU and on MPS."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _OUT_OF_MEMORY)


def is_device_failure(error: BaseException) -> bool:
    """Whether an accelerator gave up for another reason than memory."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and any(mark in str(error) for mark in _DEVICE)
    )
