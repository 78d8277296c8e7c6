"""How far quantizers are from a model's weights: ``python tools/quantizer_errors.py BACKBONE [--group 32] [QUANTIZER ...]``.

Prints, for every quantizer, bits stored per parameter and ||W - Q(W)|| / ||W|| over all converted layers and of the worst one.
A quantizer is written as in a study: ``hqq``, ``"{name: hqq, bits: 3}"``.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from peftlab import registry
from peftlab.backbones.resolve import source_of
from peftlab.nn.quantized import dense_weight
from peftlab.quantizers.contract import Quantizer
from peftlab.study.load import parse_yaml

PAIRS = tuple((f"int{bits}", {"name": "hqq", "bits": bits}) for bits in (2, 3, 4, 8))


def compared(group: int) -> list[dict[str, Any]]:
    """Minimum and maximum, and fitted zero points, at the same bits."""
    found: list[dict[str, Any]] = []
    for kind, fitted in PAIRS:
        found += [{"name": "groupwise", "type": kind, "group_size": group}, {**fitted, "group_size": group}]
    return found


def measure(backbone: str, spec: str | Mapping[str, Any]) -> tuple[str, float, float, float]:
    """(scheme, bits per parameter, error of all layers together, largest error of a layer)."""
    loaded = source_of(backbone).load(backbone, outputs=10, head="image-classification", seed=0)
    quantizer: Quantizer = registry.create("quantizer", spec)
    plain = {name: dense_weight(m).clone() for name, m in loaded.module.named_modules() if hasattr(m, "weight") and _linear(m)}
    layers = quantizer.convert(loaded).layers
    weight = {name: float(plain[name].norm()) for name in layers}
    error = {name: (layer.error or 0.0) * weight[name] for name, layer in layers.items()}
    together = math.sqrt(sum(e**2 for e in error.values()) / sum(w**2 for w in weight.values()))
    size = sum(math.prod(layer.shape) for layer in layers.values())
    bits = 8 * sum(layer.stored_bytes for layer in layers.values()) / size
    return quantizer.scheme, bits, together, max(layer.error or 0.0 for layer in layers.values())


def _linear(module: Any) -> bool:
    try:
        dense_weight(module)
    except TypeError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", help="as in a study: a folder, timm/NAME, bundled:vit-nano")
    parser.add_argument("quantizers", nargs="*", help="default: groupwise and hqq at 2, 3, 4 and 8 bits")
    parser.add_argument("--group", type=int, default=32, help="inputs that share a scale, of the default quantizers")
    chosen = parser.parse_args(arguments)
    specs = [parse_yaml(text) for text in chosen.quantizers] or compared(chosen.group)
    print(f"{'scheme':<20}{'bits':>7}{'error':>9}{'worst layer':>13}")
    for spec in specs:
        scheme, bits, together, worst = measure(chosen.backbone, spec)
        print(f"{scheme:<20}{bits:>7.3g}{together:>9.4f}{worst:>13.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
