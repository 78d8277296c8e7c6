"""Backbones, adapters to import, outside numbers, and what is exported and predicted."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

from tests.bad_input.case import Case, Content, line, study
from tests.bad_input.changes import Change, cut, drop, keys, put
from tests.bad_input.world import copy


def backbone(
    name: str, named: str, words: tuple[str, ...] = (), code: int = 4, files: Mapping[str, Content] | None = None
) -> Case:
    return study(name, ("bundled:vit-nano", named), words=words, code=code, files=files)


def changed(name: str, *changes: Change, words: tuple[str, ...] = (), code: int = 4, source: str = "vit") -> Case:
    folder = name.replace(" ", "-")  # what is known of a backbone is kept in the process by its name
    return backbone(name, f"./{folder}", words=words, code=code, files={folder: copy(source, *changes)})


def imported(name: str, *changes: Change, words: tuple[str, ...] = (), code: int = 3) -> Case:
    """Import of a changed copy of an exported adapter."""
    files = {"mine": copy("adapter", *changes), "results": copy("tiny")}
    return Case(name=name, command="import mine results --label theirs", words=words, code=code, files=files)


def numbers(
    name: str, text: Content, words: tuple[str, ...] = (), code: int = 3, file: str = "mine.csv", label: str = "theirs"
) -> Case:
    files = {file: text, "results": copy("tiny")}
    return Case(name=name, command=f"import {file} results --label {label}", words=words, code=code, files=files)


UNREACHED = ("cannot be loaded", "check the name and the connection, or give a local folder")
UNFIT = ("mine", "the adapter does not fit this backbone", "load it on its own backbone")
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"

BACKBONES = [
    backbone("a bundled backbone misspelt", "bundled:vit-nanno"),
    backbone("a bundled backbone that is not there", "bundled:vit-huge"),
    backbone("an unknown scheme", "torchvision:resnet50"),
    backbone("a timm backbone misspelt", "timm/vit_tiny_patch16_244", words=("timm/vit_tiny_patch16_244", *UNREACHED)),
    backbone("a hub id without connection", "facebook/dino-vitzz16", words=("facebook/dino-vitzz16", *UNREACHED)),
    backbone("a folder misspelt", "./wrld/vit"),
    backbone("a folder misspelt at its end", "./world/vti"),
    backbone("a file for a backbone", "./good.yaml"),
    backbone("a results folder for a backbone", "./world/tiny"),
    backbone("an adapter for a backbone", "./world/adapter"),
    backbone("an empty folder for a backbone", "./empty", files={"empty/.keep": ""}),
    backbone("a web address", "https://huggingface.co/facebook/deit-tiny-patch16-224"),
    backbone("a backbone with a space", "my model"),
    backbone("an empty name", '""'),
    study("a backbone that is a number", ("bundled:vit-nano", "224")),
    study("a backbone that is a list", ("bundled:vit-nano", "[a, b]")),
    backbone("a backbone of texts for images", "./world/bert"),
    backbone("a causal backbone for images", "./world/gpt2"),
    changed("weights that are missing", drop(WEIGHTS)),
    changed("weights that are pickled", drop(WEIGHTS), put("pytorch_model.bin", pickle.dumps({"a": 1}))),
    changed("weights that are cut", cut(WEIGHTS)),
    changed("weights of zero bytes", put(WEIGHTS, b"")),
    changed("weights that are text", put(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")),
    changed("config.json that is cut", cut("config.json")),
    changed("config.json that is empty", put("config.json", "")),
    changed("config.json that is a list", put("config.json", "[]")),
    changed("config.json without model_type", keys("config.json", model_type=...)),
    changed("config.json of an unknown model", keys("config.json", model_type="vitt")),
    changed("config.json with a wrong type", keys("config.json", hidden_size="wide")),
    changed(
        "config.json that asks for code",
        keys("config.json", model_type="mine", auto_map={"AutoConfig": "mine.Mine"}),
        words=("config.json", "custom code"),
    ),
]
IMPORTS = [
    line("import of what is not there", "import nowhere world/tiny --label theirs", code=3),
    line("import of a file of another kind", "import good.yaml world/tiny --label theirs", code=3),
    line("import into what is no results", "import world/adapter world/vit --label theirs", code=6),
    line("import without a label", "import world/adapter world/tiny"),
    line("import under a name that is none", "import world/adapter world/tiny --label 'Their arm'"),
    line("import under a name that is taken", "import world/adapter world/tiny --label probe"),
    line("import of a backbone", "import world/vit world/tiny --label theirs", code=3),
    imported("an adapter without weights", drop(ADAPTER)),
    imported("an adapter without config", drop("adapter_config.json")),
    imported("an adapter that is pickled", drop(ADAPTER), put("adapter_model.bin", pickle.dumps({"a": 1}))),
    imported("an adapter that is cut", cut(ADAPTER), words=("mine", "not readable as a PEFT adapter", "save_pretrained")),
    imported("an adapter of no JSON", put("adapter_config.json", "{"), code=6),
    imported("an adapter of an unknown type", keys("adapter_config.json", peft_type="LORRA"), code=6),
    imported("an adapter of another rank", keys("adapter_config.json", r=16), code=6, words=UNFIT),
    imported(
        "an adapter for another backbone", keys("adapter_config.json", target_modules=["query", "value"]), code=6, words=UNFIT
    ),
    imported(
        "an adapter without its type",
        keys("adapter_config.json", peft_type=...),
        code=6,
        words=("no readable adapter", "peft_type", "adapter_config.json"),
    ),
    numbers("numbers without rows", "seed,accuracy\n"),
    numbers("numbers of an empty file", ""),
    numbers("numbers without the metric", "seed,loss\n0,0.5\n"),
    numbers("numbers of an unknown column", "seed,accuracy,acuracy\n0,0.5,0.5\n"),
    numbers("numbers without seed", "accuracy\n0.5\n"),
    numbers("a seed that is not the study's", "seed,accuracy\n7,0.5\n"),
    numbers("a seed that comes twice", "seed,accuracy\n0,0.5\n0,0.6\n"),
    numbers("an accuracy in percent", "seed,accuracy\n0,93.5\n"),
    numbers("an accuracy in words", "seed,accuracy\n0,high\n"),
    numbers("an accuracy that is nan", "seed,accuracy\n0,nan\n"),
    numbers("a ragged row of numbers", "seed,accuracy\n0,0.5,3\n"),
    numbers("numbers with semicolons", "seed;accuracy\n0;0,5\n"),
    numbers("numbers in latin-1", "seed,accuracy,trainablé\n0,0.5,1\n".encode("latin-1")),
    numbers("numbers of broken JSON", "[{", file="mine.json"),
    numbers("numbers of JSON in another shape", '{"seed": [0]}', file="mine.json"),
    numbers("numbers that are negative", "seed,accuracy,trainable\n0,0.5,-4\n"),
]
EXPORTS = [
    line("export of an unknown arm", "export world/tiny lorra out", code=6),
    line("export of a grid's arm", "export world/tiny lora out", code=6),
    line("export of an unknown run", "export world/tiny 0123456789 out", code=6),
    line("export of a folder that is none", "export world/vit lora out", code=6),
    line("export without destination", "export world/tiny lora"),
    line("export onto a file", "export world/tiny lora[rank=4] good.yaml", code=6),
    line("export onto a folder that is full", "export world/tiny lora[rank=4] world/vit", code=6),
    line("export of two forms", "export world/tiny lora[rank=4] out --merged --packed"),
    line("export quantized again, of an adapter", "export world/tiny lora[rank=4] out --requantize"),
    line("export merged, quantized again, of floats", "export world/tiny lora[rank=4] out --merged --requantize"),
    line("export packed, of floats", "export world/tiny lora[rank=4] out --packed"),
    line("export with whole activations, of an adapter", "export world/tiny lora[rank=4] out --activations int8"),
    line("export with unknown activations", "export world/tiny lora[rank=4] out --onnx --activations int4"),
    line("predict with no model", "predict nowhere x.png", code=6),
    line("predict with a backbone", "predict world/vit x.png", code=6),
    line("predict with results", "predict world/tiny x.png", code=6),
    line("predict with a study", "predict good.yaml x.png", code=6),
    line("predict without inputs", "predict world/merged"),
    line("predict on what is not there", "predict world/merged x.png", code=3),
    line("predict on an empty folder", "predict world/merged empty", code=3, files={"empty/.keep": ""}),
    line("predict on a text", "predict world/merged good.yaml", code=3, words=("good.yaml", "cannot identify image")),
    line("predict with weights that are cut", "predict mine x.png", code=6, files={"mine": copy("merged", cut(WEIGHTS))}),
    line(
        "predict with a description that is cut",
        "predict mine x.png",
        code=6,
        files={"mine": copy("merged", cut("peftlab.json"))},
        words=("mine/peftlab.json", "damaged: line"),
    ),
    line(
        "predict with a description of another shape",
        "predict mine x.png",
        code=6,
        files={"mine": copy("merged", put("peftlab.json", "[]"))},
    ),
]
CASES = [*BACKBONES, *IMPORTS, *EXPORTS]
