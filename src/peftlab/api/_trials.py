"""What the doctor tries, in a process of its own, because a broken library may crash or hang: each prints one line of JSON.

``python -m peftlab.api._trials NAME...`` tries these in order; whoever started it knows by the last line how far it came.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REINSTALL = "install it again: pip install --force-reinstall {name}"
UNNEEDED = "peftlab does not need it: mend it, or pip uninstall {name}"
#: not needed, but a broken installation of them breaks what is: name to import -> what to uninstall
CLASHING = {
    "tensorflow": "tensorflow", "jax": "jax jaxlib", "flax": "flax", "keras": "keras", "torch_xla": "torch_xla", "apex": "apex",
    "xformers": "xformers", "flash_attn": "flash-attn", "deepspeed": "deepspeed", "torchao": "torchao",
}  # fmt: skip


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torch() -> str:
    import torch

    values = torch.ones(4, 4, requires_grad=True)
    (values @ values).sum().backward()
    if values.grad is None or not bool((values.grad == 8).all()):
        raise ArithmeticError("a matrix product has a wrong gradient")
    return f"{version('torch')} works"


def _torchvision() -> str:
    import torch
    from torchvision.ops import nms  # native code, which is built for one version of torch
    from torchvision.transforms import functional

    if tuple(functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape) != (3, 4, 4):
        raise ArithmeticError("an image was resized to another size than asked")
    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    return f"{version('torchvision')} works"


def _transformers() -> str:
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    sizes: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4))(pixel_values=torch.zeros(1, 3, 8, 8))
    return f"{version('transformers')} works"


def _peft() -> str:
    import peft
    import torch

    layers = torch.nn.Sequential(torch.nn.Linear(4, 4))
    model: Any = peft.get_peft_model(layers, peft.LoraConfig(r=1, target_modules=["0"]))  # pyright: ignore[reportArgumentType]
    model.merge_and_unload()(torch.zeros(1, 4))
    return f"{version('peft')} works"


def _timm() -> str:
    import timm
    import torch

    timm.create_model("vit_tiny_patch16_224", img_size=16, depth=1, num_classes=2)(torch.zeros(1, 3, 16, 16))
    return f"{version('timm')} works"


def _datasets() -> str:
    from datasets import Dataset

    if list(Dataset.from_dict({"a": [1, 2]})["a"]) != [1, 2]:
        raise ArithmeticError("a table was read back differently")
    return f"{version('datasets')} works"


def _bitsandbytes() -> str:
    """A product with 4-bit weights on the processor, against the same in float, as QLoRA computes it; then with 8 bits."""
    import torch

    bitsandbytes: Any = importlib.import_module("bitsandbytes")
    torch.manual_seed(0)
    weight, x = torch.randn(64, 64), torch.randn(8, 64)
    layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    error = (layer.to("cpu")(x) - x @ weight.T).norm() / (x @ weight.T).norm()
    if not float(error) < 0.2:
        raise ArithmeticError(f"a product with 4-bit weights is off by {float(error):.0%}")
    eight = bitsandbytes.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)
    eight.weight = bitsandbytes.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    off = (eight.to("cpu").eval()(x) - x @ weight.T).norm() / (x @ weight.T).norm()
    if not float(off) < 0.1:
        raise ArithmeticError(f"a product with 8-bit weights is off by {float(off):.0%}")
    return f"{version('bitsandbytes')}: products with 4 and 8 bits work on the processor"


def _compile() -> str:
    import torch

    began = time.perf_counter()
    x = torch.randn(16, 16)
    compiled = torch.compile(lambda value: torch.nn.functional.gelu(value @ value).sum(dim=1))
    if not torch.allclose(compiled(x), torch.nn.functional.gelu(x @ x).sum(dim=1), atol=1e-4):
        raise ArithmeticError("the compiled function gives other numbers")
    return f"compiles and agrees, {time.perf_counter() - began:.0f} s"


def _onnx() -> str:
    import numpy as np
    import onnxruntime
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 2)).eval()
    x = torch.randn(2, 8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    if not np.allclose(np.asarray(found), model(x).detach().numpy(), atol=1e-5):
        raise ArithmeticError("the exported model gives other numbers")
    return f"onnx {version('onnx')}, onnxruntime {version('onnxruntime')}: a model exported here runs and agrees"


def _onnxruntime() -> str:
    importlib.import_module("onnxruntime")
    return f"{version('onnxruntime')} can be imported; --full exports a model and runs it"


def _ray() -> str:
    importlib.import_module("ray")
    return f"{version('ray')} can be imported"


#: name -> trial
TRIALS: dict[str, Callable[[], str]] = {
    "torch": _torch,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "peft": _peft,
    "timm": _timm,
    "datasets": _datasets,
    "bitsandbytes": _bitsandbytes,
    "onnxruntime": _onnxruntime,
    "ONNX": _onnx,
    "torch.compile": _compile,
    "ray": _ray,
}
#: trial -> what must be installed for it
NEEDS = {"bitsandbytes": "bitsandbytes", "onnxruntime": "onnxruntime", "ONNX": "onnxruntime", "ray": "ray"}


def tried(name: str) -> dict[str, str]:
    """``{name, state, found, remedy}``; state: ok, broken, absent."""
    if name in CLASHING:
        return _beside_torch(name)
    if (needed := NEEDS.get(name)) and find_spec(needed) is None:
        return {"name": name, "state": "absent", "found": "", "remedy": ""}
    try:
        return {"name": name, "state": "ok", "found": TRIALS[name](), "remedy": ""}
    except Exception as error:  # whatever a broken installation raises
        return {"name": name, "state": "broken", "found": _words(error), "remedy": ""}


def _beside_torch(name: str) -> dict[str, str]:
    if find_spec(name) is None:
        return {"name": name, "state": "absent", "found": "", "remedy": ""}
    try:
        import torch

        importlib.import_module(name)
        torch.ones(2, 2).sum().item()
    except Exception as error:  # as above
        return {"name": name, "state": "broken", "found": f"breaks: {_words(error)}", "remedy": ""}
    return {"name": name, "state": "ok", "found": "installed; works beside torch", "remedy": ""}


def devices() -> list[dict[str, str]]:
    """Every accelerator, with a product computed on it."""
    import torch

    names = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    names += ["mps"] if torch.backends.mps.is_available() else []
    found = []
    for name in names:
        try:
            (torch.ones(8, 8, device=name) @ torch.ones(8, 8, device=name)).sum().item()
            found.append({"name": name, "state": "ok", "found": _device(name), "remedy": ""})
        except Exception as error:  # drivers raise anything
            remedy = "check the driver; peftlab can use the processor instead"
            found.append({"name": name, "state": "broken", "found": _words(error), "remedy": remedy})
    return found


def _device(name: str) -> str:
    import torch

    if not name.startswith("cuda"):
        return "works; memory is shared with the processor"
    about = torch.cuda.get_device_properties(name)
    free, total = torch.cuda.mem_get_info(name)
    bfloat16 = "with" if torch.cuda.is_bf16_supported() else "without"
    return f"{about.name}, {free / 1e9:.3g} GB free of {total / 1e9:.3g} GB, {bfloat16} bfloat16"


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:200]


def main(names: list[str]) -> None:
    for name in names:
        try:
            lines = devices() if name == "devices" else [tried(name)]
        except Exception as error:  # torch itself, told by its own trial
            lines = [{"name": name, "state": "broken", "found": _words(error), "remedy": ""}]
        print(json.dumps({"trial": name, "lines": lines}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
