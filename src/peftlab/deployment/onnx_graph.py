"""From a torch model to an ONNX file that says by itself what it expects and what its outputs mean."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from peftlab.deployment import onnx_parts
from peftlab.deployment.onnx_layers import Activations, with_operators
from peftlab.errors import MissingExtra, OptionError, TrainingError, install

OUTPUT = "logits"
_LARGEST = 2**31 - 2**20  #: a file is one protocol-buffer message, of at most 2 GiB


def require_onnx() -> None:
    """Raises MissingExtra unless everything that writing and running ONNX takes can be imported."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MissingExtra(f"{name} cannot be imported: {error}", where="--onnx", remedy=install("onnx")) from error


class _Graph(nn.Module):
    def __init__(
        self, module: nn.Module, outputs: Callable[[nn.Module, Mapping[str, torch.Tensor]], Any], names: list[str]
    ) -> None:
        super().__init__()
        self.module, self.outputs, self.names = module, outputs, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.outputs(self.module, dict(zip(self.names, inputs, strict=True)))


def write_onnx(
    module: nn.Module,
    outputs: Callable[[nn.Module, Mapping[str, torch.Tensor]], Any],
    inputs: Mapping[str, torch.Tensor],
    path: Path,
    *,
    activations: Activations = "float",
    longest: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write ``inputs -> logits`` of a model as one file; ``module`` is consumed. Packed layers stay packed (onnx_layers.py).

    Args:
        outputs: (module, inputs) -> logits [B, K] (of questions [B, T, 2]).
        inputs: an example of at least two rows; the first axis of every input is any number of rows in the file.
        longest: of texts: the second axis of every input is any number of tokens up to this, T.
        activations: ``int8`` rounds the inputs of packed layers to 8 bits inside the product: faster, not exact.
        metadata: kept in the file as JSON, a text per key.

    Raises:
        MissingExtra: the extra ``onnx`` is not installed.
        OptionError: a layer has no operator, or the file would be too large.
        TrainingError: the model cannot be recorded as a graph.
    """
    require_onnx()
    graph = _Graph(with_operators(module, activations), outputs, list(inputs)).eval()
    size = sum(t.nbytes for t in (*graph.parameters(), *graph.buffers()))
    if size > _LARGEST:
        raise OptionError(f"{size / 1e9:.2g} GB do not fit into one ONNX file", where="--onnx", remedy="use --packed or --merged")
    axes = {0: torch.export.Dim("batch")}
    if longest is not None:
        axes[1] = torch.export.Dim("tokens", max=longest)
    try:
        with _quietly(), torch.inference_mode(False), torch.no_grad():
            program: Any = torch.onnx.export(
                graph,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=[OUTPUT],
                dynamic_shapes=[tuple(dict(axes) for _ in inputs)],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises anything
        what = f"cannot be recorded as a graph: {str(error).strip().splitlines()[0][:200]}"
        raise TrainingError(what, where=type(module).__name__, remedy="use --packed or --merged") from error
    proto = program.model_proto
    _strip(proto.graph)
    onnx_parts.define(proto)
    proto.producer_name, proto.producer_version, proto.doc_string = "peftlab", "", ""
    for key, value in (metadata or {}).items():
        proto.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False, sort_keys=True))
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _strip(graph: Any) -> None:
    """Remove what the exporter notes of the code that it followed: a quarter of a small file, with paths of this machine."""
    for entry in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del entry.metadata_props[:]
        entry.doc_string = ""
    del graph.value_info[:]
    graph.doc_string = ""


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks on its own workings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
