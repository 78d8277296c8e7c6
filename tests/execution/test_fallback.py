"""Fallbacks: only what the study declared, recorded and flagged; checked with a process that really runs out of memory."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftlab.execution.fallback import Attempt, is_device_failure, is_out_of_memory
from peftlab.execution.protocol import WorkerOptions
from peftlab.execution.worker import main
from peftlab.records.record import RunConfig
from peftlab.records.run_folder import RunFolder
from peftlab.registry import create
from peftlab.study.schema import Train
from peftlab.training.loop import Trainer
from tests.contracts.tiny import make

CPU = torch.device("cpu")


def attempt(**train: Any) -> Attempt:
    return Attempt(device=CPU, precision="bfloat16", train=Train(**{"batch_size": 32, **train}))


def allocator_error() -> RuntimeError:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    return raised.value


def test_the_default_answer_to_everything_is_no() -> None:
    assert attempt().after_divergence(3) is None
    assert attempt().after_error(allocator_error()) is None
    assert attempt().after_error(RuntimeError("CUDA error: an illegal memory access was encountered")) is None


def test_accumulate_halves_the_micro_batch_and_keeps_the_effective_one() -> None:
    following = attempt(on_out_of_memory="accumulate").after_error(allocator_error())
    assert following is not None
    again, flag = following
    assert (again.train.batch_size, again.train.effective_batch_size) == (16, 32)
    assert "out of memory at 32" in flag
    once_more = again.after_error(allocator_error())
    assert once_more is not None and once_more[0].train.effective_batch_size == 32
    assert attempt(batch_size=1, on_out_of_memory="accumulate").after_error(allocator_error()) is None
    assert again.name != attempt().name  # checkpoints of another attempt are never continued


def test_higher_precision_ends_at_float32() -> None:
    following = attempt(on_non_finite="higher-precision").after_divergence(6)
    assert following is not None
    again, flag = following
    assert again.precision == "float32" and "step 7" in flag
    assert again.after_divergence(6) is None


def test_higher_precision_reaches_the_products_of_quantized_layers() -> None:
    half = create("quantizer", {"name": "bnb", "bits": 4, "compute_dtype": "float16"})
    start = Attempt(device=CPU, precision="float32", train=Train(batch_size=32, on_non_finite="higher-precision"), quantizer=half)
    following = start.after_divergence(2)
    assert following is not None
    again, flag = following
    assert again.quantizer is not None and again.quantizer.spec() == {**half.spec(), "compute_dtype": "float32"}
    assert "step 3" in flag and "quantized layers" in flag
    assert again.name != start.name
    assert again.after_divergence(2) is None
    for spec in ({"name": "bnb", "bits": 4}, {"name": "bnb", "bits": 8}, {"name": "groupwise"}):
        assert create("quantizer", spec).exact is None  # nothing to raise: divergence is the outcome


@pytest.fixture
def as_before() -> Iterator[None]:
    """A worker has a process for itself and sets what is the process's; here it is put back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    exact = torch.are_deterministic_algorithms_enabled()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.use_deterministic_algorithms(exact)


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("policy", ["fail", "higher-precision"])
@pytest.mark.parametrize(("quantize", "step"), [("before", 1), ("after", 2)])
def test_a_quantized_run_that_overflows_in_float16(tmp_path: Path, quantize: str, step: int, policy: str) -> None:
    """The weights of one layer in each block, two million times as large, pass float16's 65,504; float32 and norms cope.

    Quantized after training only its last evaluations are not finite, and that is no result either.
    """
    backbone = make("vit", tmp_path / "vit")
    weights = load_file(backbone / "model.safetensors")
    large = {n: t * 2e6 if n.endswith("intermediate.dense.weight") else t.clone() for n, t in weights.items()}
    save_file(large, backbone / "model.safetensors", metadata={"format": "pt"})
    config = RunConfig(
        study="overflow",
        arm="qlora",
        label="qlora",
        slug="qlora",
        backbone=str(backbone),
        backbone_fingerprint="large",
        task={"kind": "image-classification", "data": "digits", "train_size": 64, "test_size": 32},
        data_fingerprint="digits",
        adapter={"name": "lora", "rank": 2},
        quantizer={"name": "bnb", "bits": 4, "compute_dtype": "float16"},
        quantize=quantize,
        train=Train(max_steps=2, batch_size=8, learning_rate=1e-4, on_non_finite=policy).model_dump(mode="json"),  # pyright: ignore
        seed=0,
    )
    run = RunFolder(tmp_path / config.run_id).create(config)
    main(config.model_dump_json(), str(run.path), WorkerOptions(cache=tmp_path / "cache"))
    results = run.results()
    assert results is not None
    if policy == "fail":
        assert results.status == "diverged" and f"diverged in step {step}" in results.flags
        assert results.quantizer is None and results.metrics == {}
        assert any("is not finite" in note for note in results.notes)
        return
    assert results.status == "completed" and results.steps == 2
    assert results.flags == [
        f"not finite in float32 with quantized layers in lower precision in step {step}: run again in float32"
    ]
    assert results.metrics["test"]["loss"] is not None
    assert run.config().quantizer["compute_dtype"] == "float16"  # what was asked for stays what was asked for
    assert results.quantizer is not None and results.quantizer["compute_dtype"] == "float32"


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(
    ("policy", "broken", "status", "flags"),
    [
        ("fail", 1, "completed", ["float16 left out 5 % of the steps or more"]),
        ("fail", 3, "diverged", ["diverged in step 3", "float16 left out 5 % of the steps or more"]),
        ("higher-precision", 3, "completed", ["not finite in float16 in step 3: run again in float32"]),
    ],
    ids=["some steps", "all steps", "all steps, higher precision"],
)
def test_steps_that_float16_leaves_out_are_told_and_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Any, broken: int, status: str, flags: list[str]
) -> None:
    """A finite loss whose gradient is none in the first ``broken`` of three steps, in float16."""
    plain = Trainer._loss

    def loss(self: Trainer, batch: Any) -> torch.Tensor:
        bad = self.precision == "float16" and self.step < broken
        nothing = sum(((0 * p).abs().sum().sqrt() for p in self.trainable.values()), torch.zeros(()))
        return plain(self, batch) + 0 * nothing if bad else plain(self, batch)

    monkeypatch.setattr(Trainer, "_loss", loss)
    config = RunConfig(
        study="left-out",
        arm="probe",
        label="probe",
        slug="probe",
        backbone=str(make("vit", tmp_path / "vit")),
        backbone_fingerprint="tiny",
        task={"kind": "image-classification", "data": "digits", "train_size": 64, "test_size": 32},
        data_fingerprint="digits",
        adapter={"name": "linear-probe"},
        quantizer={"name": "none"},
        train=Train(max_steps=3, batch_size=8, precision="float16", on_non_finite=policy).model_dump(mode="json"),
        seed=0,
    )
    run = RunFolder(tmp_path / config.run_id).create(config)
    options = WorkerOptions(cache=tmp_path / "cache", prefix_cache_mb=0)
    main(config.model_dump_json(), str(run.path), options)
    results = run.results()
    assert results is not None and (results.status, results.flags) == (status, flags)
    told = [note for note in results.notes if "no updates" in note]
    assert [note[:11] for note in told] == {1: ["1 of 3 step"], 3: ["2 of 2 step"] if policy == "fail" else []}[broken]


def test_errors_are_told_apart() -> None:
    assert is_out_of_memory(allocator_error()) and not is_device_failure(allocator_error())
    assert is_device_failure(RuntimeError("CUDA error: unspecified launch failure"))
    shape = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(shape) and not is_device_failure(shape)
    gpu = Attempt(device=torch.device("cuda"), precision="bfloat16", train=Train(on_device_failure="cpu"))
    following = gpu.after_error(RuntimeError("CUDA error: unspecified launch failure"))
    assert following is not None and following[0].device.type == "cpu" and following[0].precision == "float32"


def _starved(path: str, text: str, cache: str, room_mb: int, outcome: Any) -> None:
    """Run the worker with little address space left beyond what this process has mapped already."""
    torch.set_num_threads(1)
    easy = RunConfig.model_validate_json(text).model_copy(
        update={"train": Train(max_steps=1, batch_size=8).model_dump(mode="json")}
    )
    folder = RunFolder(Path(path).parent / easy.run_id).create(easy)
    # maps libraries and data, which is not what is tested
    main(easy.model_dump_json(), str(folder.path), WorkerOptions(cache=Path(cache)))
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + room_mb * 2**20,) * 2)
    try:
        main(text, path, WorkerOptions(cache=Path(cache)))
        outcome.put("done")
    except Exception as error:
        outcome.put(f"{type(error).__name__}: {error}")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to limit memory")
@pytest.mark.parametrize("policy", ["fail", "accumulate"])
def test_a_worker_that_really_runs_out_of_memory(tmp_path: Path, policy: str) -> None:
    """A batch of 1,024 images of 96 px needs more activations than the 500 MB of address space that are given."""
    backbone = tmp_path / "vit"
    make("vit", backbone)
    config = RunConfig(
        study="starved",
        arm="full",
        label="full",
        slug="full",
        backbone=str(backbone),
        backbone_fingerprint="tiny",
        task={"kind": "image-classification", "data": "digits", "image_size": 96, "train_size": 1024},
        data_fingerprint="digits",
        adapter={"name": "full"},
        quantizer={"name": "none"},
        train=Train(max_steps=1, batch_size=1024, on_out_of_memory=policy).model_dump(mode="json"),  # pyright: ignore
        seed=0,
    )
    run = RunFolder(tmp_path / config.run_id).create(config)
    context = multiprocessing.get_context("spawn")
    outcome = context.Queue()
    arguments = (str(run.path), config.model_dump_json(), str(tmp_path / "cache"), 500, outcome)
    process = context.Process(target=_starved, args=arguments)
    process.start()
    said = outcome.get(timeout=120)
    process.join(60)
    results = run.results()
    if policy == "fail":
        assert said.startswith("OutOfMemory") and "batch_size" in said and results is None
        return
    assert said == "done"
    assert results is not None and results.flags and "out of memory at 1024" in results.flags[0]
