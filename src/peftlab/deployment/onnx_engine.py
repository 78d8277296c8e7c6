"""Running an exported ONNX file. Needs numpy and onnxruntime, not torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from peftlab.errors import MissingExtra, RecordError, install

FILE = "model.onnx"


class OnnxModel:
    """A file that ``peftlab export --onnx`` wrote."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        """``threads``: of one product; 0 leaves it to onnxruntime.

        Raises:
            MissingExtra: onnxruntime is not installed.
            RecordError: no such file, or not one that onnxruntime can run.
        """
        try:
            import onnxruntime
        except ImportError as error:
            what = f"onnxruntime cannot be imported: {error}"
            raise MissingExtra(what, where=str(path), remedy=install("onnx")) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # errors come as exceptions
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a class of its own for every kind of failure
            what = f"onnxruntime cannot load it: {str(error).strip().splitlines()[0][:200]}"
            raise RecordError(what, where=str(path), remedy="export it again with `peftlab export --onnx`") from error
        found = self.session.get_modelmeta().custom_metadata_map
        self.metadata: dict[str, Any] = {key: json.loads(text) for key, text in found.items()}

    def logits(self, **inputs: np.ndarray) -> np.ndarray:
        """[B, K] float32."""
        return np.asarray(self.session.run(None, inputs)[0])
