"""A program that has never heard of peftlab: loads what was exported with other libraries, and writes the logits.

Run by test_exported.py as a process of its own: `python stranger.py FOLDER`, whose `asked.json` says what is where.
"""

import json
import sys
from pathlib import Path

sys.modules["peftlab"] = None  # pyright: ignore  # from here on an import of it is an error

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)


def main(folder: Path) -> None:
    asked = json.loads((folder / "asked.json").read_text())
    pixels = torch.from_numpy(np.load(folder / "pixels.npy"))
    found: dict[str, list] = {}
    with torch.inference_mode():
        plain = AutoModelForImageClassification.from_pretrained(asked["vit"], num_labels=10, ignore_mismatched_sizes=True)
        found["vit in peft"] = PeftModel.from_pretrained(plain, asked["vit adapter"]).eval()(pixel_values=pixels).logits.tolist()
        plain = timm.create_model(f"local-dir:{asked['timm']}", pretrained=True, img_size=32, num_classes=10)
        found["timm in peft"] = PeftModel.from_pretrained(plain, asked["timm adapter"]).eval()(pixels).tolist()

        about = json.loads((Path(asked["timm merged"]) / "config.json").read_text())
        plain = timm.create_model(about["architecture"], **{"num_classes": about["num_classes"], **about["model_args"]})
        plain.load_state_dict(load_file(Path(asked["timm merged"]) / "model.safetensors"), strict=True)
        found["timm merged"] = plain.eval()(pixels).tolist()

        images = pipeline("image-classification", model=asked["vit merged"], device="cpu", top_k=10)
        found["images"] = [[images(file)[0][key] for key in ("label", "score")] for file in asked["files"]]
        texts = pipeline("text-classification", model=asked["text merged"], device="cpu")
        found["texts"] = [[texts(text)[0][key] for key in ("label", "score")] for text in asked["texts"]]
        plain = AutoModelForSequenceClassification.from_pretrained(asked["text"], num_labels=2)
        model, tokenizer = (
            PeftModel.from_pretrained(plain, asked["text adapter"]).eval(),
            AutoTokenizer.from_pretrained(asked["text"]),
        )
        found["texts in peft"] = [
            float(model(**tokenizer(text, return_tensors="pt")).logits.softmax(1).max()) for text in asked["texts"]
        ]
    assert not [name for name in sys.modules if name.startswith("peftlab.")]
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
