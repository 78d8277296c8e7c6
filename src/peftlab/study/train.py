"""The keys of ``train`` in a study file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Frame(BaseModel):
    """Strict: unknown keys are errors, ``"5"`` is not 5."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class EarlyStopping(Frame):
    """Stop when the selection metric on validation has not improved for ``patience`` evaluations."""

    patience: Annotated[int, Field(ge=1)] = 3
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0  #: a gain no larger is none for ``patience``; the best weights follow any


class Train(Frame):
    """How an arm is trained. Every key can be overridden per arm."""

    epochs: Annotated[float, Field(gt=0)] = 5
    max_steps: Annotated[int, Field(ge=0)] | None = None  #: optimizer steps; caps ``epochs``; 0: evaluated without training
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 64  #: examples per forward pass
    effective_batch_size: Annotated[int, Field(ge=1)] | None = None  #: examples per optimizer step; default batch_size
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    beta1: Share = 0.9
    beta2: Share = 0.999
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.06  #: share of all steps
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gradient_checkpointing: bool = False
    evaluate_every: Annotated[float, Field(gt=0)] = 1.0  #: epochs between two evaluations on validation
    early_stopping: EarlyStopping | None = None
    select: Literal["last", "best"] = "last"  #: weights that are tested: the last, or the best on validation
    on_out_of_memory: Literal["fail", "accumulate"] = "fail"
    on_non_finite: Literal["fail", "higher-precision"] = "fail"
    on_device_failure: Literal["fail", "cpu"] = "fail"
    on_hang: Literal["report", "fail"] = "report"  #: fail: a run that says nothing for ``hang_limit_s`` is ended, with an error
    hang_limit_s: Annotated[float, Field(gt=0)] = 1800.0  #: longer than the longest step and evaluation

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        whole = self.effective_batch_size
        if isinstance(self.batch_size, int) and whole is not None and whole % self.batch_size:
            raise ValueError(
                f"effective_batch_size {whole} is not a multiple of batch_size {self.batch_size}; "
                f"choose e.g. {max(whole // self.batch_size, 1) * self.batch_size}"
            )
        if self.early_stopping and self.select == "last":
            raise ValueError(
                "early_stopping needs select: best (the last weights are those that stopped improving); add select: best"
            )
        return self
