"""Published figures that can be reproduced exactly here, beside ours: nothing on the page is typed by hand.

    python tools/literature_page.py            writes docs/literature.md
    python tools/literature_page.py bits       prints one table: bits, errors, memory, parameters, studies, results or sources

Needs no weights: architectures are built on the meta device, Gaussian weights are drawn from one seed.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import DebertaV2Config

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from peftlab.adapters.contract import Adapter  # noqa: E402
from peftlab.adapters.lora import Lora  # noqa: E402
from peftlab.adapters.pooled import PooledLora  # noqa: E402
from peftlab.analysis.literature import literature  # noqa: E402
from peftlab.backbones.contract import Backbone  # noqa: E402
from peftlab.backbones.hub import TransformersBackbone  # noqa: E402
from peftlab.backbones.timm import TimmBackbone  # noqa: E402
from peftlab.quantizers.bnb import BitsAndBytes  # noqa: E402
from peftlab.quantizers.contract import Quantizer  # noqa: E402
from peftlab.quantizers.groupwise import Groupwise  # noqa: E402
from peftlab.report.paper.bibliography import entries  # noqa: E402

PAGE = ROOT / "docs" / "literature.md"
DEBERTA = DebertaV2Config(
    vocab_size=128_100, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
)  #: v3-base
LARGE = 4096  #: side of the weight that stands for a large layer
QUANTIZERS: dict[str, Quantizer] = {
    "8-bit": BitsAndBytes(bits=8),
    "4-bit NF4": BitsAndBytes(type="nf4"),
    "4-bit NF4, double": BitsAndBytes(type="nf4", double=True),
    "4-bit FP4": BitsAndBytes(type="fp4"),
    "group-wise INT8, g = 32": Groupwise(type="int8"),
    "group-wise INT4, g = 32": Groupwise(type="int4"),
    "group-wise NF4, g = 64": Groupwise(type="nf4", group_size=64),
}


def table(head: str, rows: Iterable[Iterable[Any]]) -> str:
    columns = [column.strip() for column in head.split("|")]
    aligned = "|".join("--:" if c.endswith(":") else "---" for c in columns)
    lines = ["| " + " | ".join(c.removesuffix(":") for c in columns) + " |", f"|{aligned}|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def published(place: str, method: str) -> float:
    return next(row.value for row in literature()[0] if row.place.startswith(place) and row.method == method)


def bits() -> str:
    """Statistics (scales, absmaxes, tables) of a large layer, in bits per weight."""
    known = {"4-bit NF4": "4-bit", "4-bit NF4, double": "4-bit with double quantization"}
    rows = []
    for name, quantizer in QUANTIZERS.items():
        whole = quantizer.bits_per_parameter(LARGE, LARGE)
        stored = 8 if "8" in name.split(",")[0] else 4
        told = f"{published('section 3', known[name]):g}" if name in known else ""
        rows.append((name, f"{whole:.4f}", f"{whole - stored:.4f}", told))
    return table(f"storage | bits per weight ({LARGE} x {LARGE}): | of which statistics: | published:", rows)


def errors() -> str:
    """||W - Q(W)|| / ||W|| of Gaussian weights, quantized by what trains."""
    weight = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    rows = []
    for name, quantizer in QUANTIZERS.items():
        layer = nn.Linear(1024, 1024, bias=False)
        layer.weight.data = weight.clone()
        stored = quantizer.quantize(layer).dequantize()
        rows.append((name, f"{float((weight - stored).norm() / weight.norm()):.3f}"))
    return table("storage | relative error:", rows)


def memory() -> str:
    """Weights of ViT-B/16: its quantized layers alone, and the whole model, embeddings, norms and head in the base's type."""
    backbone = load("vit-b", 1000, "image-classification")
    known = {"8-bit": "8-bit", "4-bit NF4": "4-bit"}
    shapes, inside = _quantized(backbone)
    rows = []
    for name, quantizer in QUANTIZERS.items():
        stored = sum(quantizer.stored_bytes(*shape) for shape in shapes)
        shares = [_saved(stored, inside, backbone.parameters, itemsize) for itemsize in (2, 4)]
        told = f"about {published('expected reduction', known[name]):g} % of a 16-bit base" if name in known else ""
        rows.append((name, *(f"{100 * s:.1f} %" for pair in shares for s in pair), told))
    head = "storage | layers, of 16 bits: | model, of 16 bits: | layers, of float32: | model, of float32: | published"
    return table(head, rows) + "\n\n" + _seven_billion()


def _quantized(backbone: Backbone) -> tuple[list[tuple[int, int]], int]:
    """Shapes of the layers that a quantizer converts, and their parameters."""
    shapes = [(s.d_out, s.d_in) for s in backbone.roles.sites if s.block is not None and s.parent is None]
    return shapes, sum(d_out * d_in for d_out, d_in in shapes)


def _seven_billion() -> str:
    backbone = load("llama-7b", 2, "causal-lm")
    shapes, inside = _quantized(backbone)
    told, rows = published("section 2, memory of a 7B model", "4-bit base"), []
    for name in ("4-bit NF4", "4-bit NF4, double"):
        stored = sum(QUANTIZERS[name].stored_bytes(*shape) for shape in shapes) + 2 * (backbone.parameters - inside)
        rows.append((name, f"{stored / 1e6:,.0f}", f"{told:,.0f}", f"{stored / 1e6 / told:.2f}"))
    return (
        "LLaMA-7B with embeddings, norms and output layer in 16 bits. How the published figure was taken and of what storage is "
        "not stated here: a ratio below 1 is no saving.\n\n"
        + table("storage | weights, MB: | published, MB: | ours / published:", rows)
    )


def _saved(stored: int, inside: int, parameters: int, itemsize: int) -> tuple[float, float]:
    """Reduction for the quantized layers and for the whole model."""
    outside = (parameters - inside) * itemsize
    return 1 - stored / (inside * itemsize), 1 - (stored + outside) / (parameters * itemsize)


def load(model: str, outputs: int, head: Any) -> Backbone:
    """The architecture on the meta device."""
    from tests.adapters.test_published_counts import MODELS

    config = DEBERTA if model == "deberta-v3-base" else MODELS[model]
    if isinstance(config, str):
        return TimmBackbone.load(f"timm/{config}", outputs=outputs, head=head, device="meta")
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return TransformersBackbone.load(folder, outputs=outputs, head=head, device="meta")


def parameters() -> str:
    """LoRA's trainable parameters against published ones; and what adapting one kind of layer saves."""
    from tests.adapters.test_published_counts import ROWS

    rows = []
    for row in ROWS:
        backbone, lora = load(row.model, row.outputs, row.head), Lora(**row.options)
        head = backbone.head_parameters if row.head_trains else 0
        ours = lora.count(backbone, lora.sites(backbone)) + head
        what = f"{row.model}, LoRA r{row.options['rank']} on {row.options.get('targets', 'standard')}"
        what += f", {row.outputs} labels, with the head" if head else ""
        rows.append((what, f"{row.trainable:,}", f"{ours:,}", "equal" if ours == row.trainable else "DIFFERS"))
    return "\n\n".join([table("configuration | published: | ours: | ", rows), _rounded(), _one_kind()])


def _rounded() -> str:
    """Counts that the results below carry, as their sources round them."""
    llama, deberta = load("llama-7b", 2, "causal-lm"), load("deberta-v3-base", 2, "sequence-classification")
    cases: list[tuple[str, str, str, Backbone, Adapter]] = [
        ("xu2024qalora", "QLoRA + GPTQ, 4 bits", "llama-7b, LoRA r64", llama, Lora(rank=64, targets="all-linear")),
        ("xu2024qalora", "QA-LoRA, 4 bits", "llama-7b, QA-LoRA r64, g = 32", llama,
         PooledLora(rank=64, targets="all-linear", group_size=32)),
        ("zhang2023adalora", "LoRA r8", "deberta-v3-base, LoRA r8", deberta, Lora(rank=8, targets="all-linear")),
        ("zhang2023adalora", "LoRA r2", "deberta-v3-base, LoRA r2", deberta, Lora(rank=2, targets="all-linear")),
    ]  # fmt: skip
    rows = []
    for source, method, what, backbone, adapter in cases:
        told = next(r.parameters for r in literature()[0] if (r.source, r.method) == (source, method))
        rows.append((f"`{source}`, {method}", what, f"{told:,}", f"{adapter.count(backbone, adapter.sites(backbone)):,}"))
    return "Published in millions, on all linear layers:\n\n" + table("source | configuration | published: | ours:", rows)


def _one_kind() -> str:
    rows = []
    for model in ("deit-t", "vit-b", "gpt2"):
        backbone = load(model, 10, "image-classification" if model != "gpt2" else "causal-lm")
        counts = {t: Lora(rank=8, targets=t) for t in ("all-linear", "attention", "feed-forward")}
        sizes = {t: lora.count(backbone, lora.sites(backbone)) for t, lora in counts.items()}
        saved = [f"{100 * (1 - sizes[t] / sizes['all-linear']):.1f} %" for t in ("attention", "feed-forward")]
        rows.append((model, *saved))
    place = "an earlier study"
    rows.append(("published", *(f"{published(place, m):g} %" for m in ("attention only", "feed-forward only"))))
    return (
        "Parameters of LoRA r8 saved against all linear layers, where only one kind of layer is adapted. The published figures "
        "were counted on another set of modules, and do not fit:\n\n"
        + table("model | attention only: | feed-forward only:", rows)
    )


def studies() -> str:
    """Studies of a GPU's size that measure published results, and what to expect of them. Protocols stand below, once each."""
    found = [r for r in literature()[0] if r.study]
    protocols = list(dict.fromkeys((r.source, r.protocol) for r in found))
    rows = [
        (
            f"`studies/{r.study}.yaml`", r.arm, r.model, r.data, r.metric, f"{r.value:g} %",
            f"P{1 + protocols.index((r.source, r.protocol))}", r.note,
        )
        for r in found
    ]  # fmt: skip
    told = [f"- P{number}, `{source}`: {protocol}" for number, (source, protocol) in enumerate(protocols, 1)]
    return table("study | arm | model | data | metric | published: | protocol | note", rows) + "\n\n" + "\n".join(told)


def results() -> str:
    """Every published figure that is shipped."""
    rows = [
        (
            f"`{r.source}`, {r.place}",
            r.method,
            r.model,
            r.data,
            r.metric.replace("_", " "),
            f"{r.value:g}" + (f" ± {r.spread:g}" if r.spread is not None else ""),
            r.seeds if r.seeds is not None else "",
            f"{r.parameters:,}" if r.parameters is not None else "",
            r.note,
        )
        for r in literature()[0]
    ]
    return table("source | method | model | data | metric | value: | seeds: | parameters: | note", rows)


def sources() -> str:
    """What the keys of the tables stand for."""
    rows = []
    for key, text in literature()[1].items():
        told = " ".join(text.split())
        for entry in entries(text):
            fields = {name: re.sub(r"[{}\\]", "", value) for name, value in entry.fields.items()}
            where = fields.get("booktitle") or fields.get("howpublished") or ""
            authors = fields["author"].replace(" and others", " et al").replace(" and ", "; ")
            told = ". ".join(part for part in (authors, fields["title"], where, fields["year"]) if part) + (
                f". arXiv:{fields['eprint']}" if "eprint" in fields else ""
            )
        rows.append((f"`{key}`", told))
    return table("key | source", rows)


TABLES: dict[str, Callable[[], str]] = {
    "bits": bits,
    "errors": errors,
    "memory": memory,
    "parameters": parameters,
    "studies": studies,
    "results": results,
    "sources": sources,
}
TITLES = {
    "bits": "Bits per weight",
    "errors": "Rounding error of Gaussian weights",
    "memory": "Reduction of weight memory, ViT-B/16",
    "parameters": "Parameter counts",
    "studies": "Studies that measure published results",
    "results": "Published results that are shipped as data",
    "sources": "Sources",
}
ABOUT = {
    "results": "A report shows them beside an arm of the same method family, with the ratio and with what differs. They count as "
    "comparable only where backbone, data, split and protocol all agree. Shares are in percent. No figure of LoRA on DeiT was "
    "found whose source could be trusted.",
    "studies": "For a GPU; not run yet. Of the ViTs the sources state neither pretraining nor protocol; of GLUE the figures are "
    "the best on the development sets that they are reported on, where ours are chosen on a part of the training set. A "
    "difference of tenths of a point is no failure to reproduce. `published-qlora-gpu.yaml` and "
    "`published-qa-lora-gpu.yaml` train what Dettmers et al. and Xu et al. trained, LLaMA-7B on Stanford Alpaca. Trainable "
    "parameters and memory to expect of them stand above; their published accuracies, below, are of MMLU, which is no task here, "
    "so that no row of theirs is in this table. The other results below (GSM8K, perplexity by data type, the 19 data sets of "
    "VTAB-1k) have no study.",
    "memory": "Reductions are of the base that the column names. What stays in float (embeddings, norms, head) is the difference "
    "between the layers and the model.",
    "parameters": "With the head, where the published figure includes it.",
}


def section(name: str) -> str:
    about = f"{ABOUT[name]}\n\n" if name in ABOUT else ""
    return f"## {TITLES[name]}\n\n{about}{TABLES[name]()}\n\nMade by `python tools/literature_page.py {name}`.\n"


def page() -> str:
    intro = (
        "# Published figures and ours\n\nWhat the literature states and what can be reproduced exactly on any machine. "
        "`python tools/literature_page.py` writes this page.\n"
    )
    return "\n".join([intro, *map(section, TABLES)])


def main() -> None:
    if len(sys.argv) > 1:
        print(TABLES[sys.argv[1]]())
    else:
        PAGE.write_text(page(), encoding="utf-8")
        print(PAGE)


if __name__ == "__main__":
    main()
