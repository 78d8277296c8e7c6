"""Imported once by the fork server, so that the process of a run starts with everything loaded.

Nothing here may start threads: a forked child has only the thread that forked, and a pool without its threads waits for ever.
So numeric libraries are told to use one thread before they are loaded, and nothing is computed.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[_name] = "1"  # the child sets what the run asks for
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")  # the allocator inside pyarrow
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asking for a GPU here must not initialise CUDA before the fork

MODULES = (
    "torch",
    "torch._dynamo",  # otherwise loaded by the first optimizer step
    "torch.utils.checkpoint",
    "numpy",
    "sklearn.datasets",
    "sklearn.model_selection",
    "PIL.Image",
    "safetensors.torch",
    "psutil",
    "torchvision.transforms.v2",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.image_processing_auto",
    "transformers.models.vit.modeling_vit",
    "transformers.models.deit.modeling_deit",
    "timm",
    "peft",
    "peft.utils.transformers_weight_conversion",
    "peftlab.execution.worker",
)
KINDS = ("backbone", "task", "data", "adapter", "allocator", "importance", "quantizer", "probe", "tracker")


def _load(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:  # the run that needs it says so, with its own remedy
        logging.getLogger(__name__).debug("not preloaded: %s (%s)", name, error)


def _load_components() -> None:
    from peftlab.registry import components

    for kind in KINDS:
        try:
            components(kind)
        except Exception as error:
            logging.getLogger(__name__).debug("not preloaded: %s (%s)", kind, error)


def preload() -> None:
    """Load it all, and keep the collector from touching (and so copying) what children share."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the server ends with the last process that needs it, not before
    for name in MODULES:
        _load(name)
    _load_components()
    from peftlab.records.environment import warm

    warm()
    gc.collect()
    gc.freeze()


if os.environ.pop("PEFTLAB_FORK_SERVER", "") == "1":
    preload()
