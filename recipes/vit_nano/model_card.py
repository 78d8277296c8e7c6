"""Model card of the embedded backbone, written beside the weights."""

from __future__ import annotations

from pathlib import Path

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-classification
tags: [vit, formula-driven, synthetic-data]
---

# vit-nano, the embedded backbone of peftlab (`bundled:vit-nano`)

A vision transformer small enough to ship with the package, so that a study runs without a network: 32 px RGB
images, patch 8, 17 tokens, hidden size 96, 4 layers, 3 heads, feed-forward 384; {parameters:,} float32
parameters with the pretraining head, {size_bytes:,} bytes.

* **Load** `AutoModelForImageClassification.from_pretrained(F, num_labels=10, ignore_mismatched_sizes=True)`.
  The saved head is the pretraining head; adaptation replaces it.
* **Input** RGB (repeat a grey channel three times), 32 x 32, scaled to [-1, 1]: `preprocessor_config.json`.
* **Data** no photographs, no handwriting, no downloaded images. Distorted letters and symbols of the DejaVu
  fonts that ship with matplotlib, and radial contours after Takashima et al. (CVPR 2023). The
  glyph classes contain no digit and no character that could pass for one. 70 % of the images pass through an
  8-pixel bottleneck.
* **Recipe** `python -m recipes.vit_nano.pretrain --output FOLDER --seed 0`, in the source repository. Same
  seed, same images; the weights agree bit by bit only on the same machine, thread count and library versions.
* **Results** `docs/bundled-backbone.md`.
* **Limits** it knows strokes, not objects. It is for demonstrations, tests and studies of method behaviour on
  a small scale; conclusions about large backbones need large backbones. Colours were never seen.
* **Licence** Apache-2.0.

| pretraining | |
|---|---|
{rows}

sha256 of `model.safetensors`: `{sha256}`
"""


def write_model_card(path: Path, *, sha256: str, size_bytes: int, parameters: int, facts: dict[str, object]) -> None:
    """Writes the model card; `facts` become the rows of its table."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    path.write_text(CARD.format(sha256=sha256, size_bytes=size_bytes, parameters=parameters, rows=rows))
