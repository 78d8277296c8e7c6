"""A figure in hard cases, to be looked at: thin data, many arms, a diverged run; the last column as a greyscale printer has it.

    python -m tests.report.look paired_seeds /tmp/look

writes a picture per case and ``sheet.png``. Figures of layers, gradients and quantization are drawn where the fixture has them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from peftlab.analysis.assess import assess
from peftlab.analysis.frame import load_frame
from peftlab.registry import components
from peftlab.report.bundle import bundles
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import settle, style
from tests.report.fixtures import STUDY, Options, write_results


def crowded(arms: int, seeds: int, folds: int = 1) -> Options:
    """That many arms beside the baseline, with long names among them; one seed of one arm diverged, one of another failed."""
    names = ["full", *(f"an-arm-with-a-long-name-{i}" if i % 3 else f"arm-{i}" for i in range(1, arms + 1))]
    levels = {name: (0.97 - 0.003 * i, 0.004, 1000 * (i + 1), 40.0 + i, 5.0 + i) for i, name in enumerate(names)}
    forms: dict[str, Any] = {name: {"adapter": "bitfit", "learning_rate": 1e-3 * i} for i, name in enumerate(names) if i}
    study = {key: value for key, value in STUDY.items() if key != "tune"}
    study |= {"seeds": list(range(seeds)), "arms": {"full": {"adapter": "full", "learning_rate": 3e-4}, **forms}}
    last = seeds - 1
    return Options(study=study, levels=levels, diverged=((names[1], last),), failed=((names[-1], last),), folds=folds)


def cases() -> dict[str, Options]:
    two = {key: STUDY["arms"][key] for key in ("full", "bitfit")}
    whole: dict[str, Any] = {"failed": (), "diverged": ()}
    return {
        "plain": Options(),
        "one-seed": Options(study={**STUDY, "seeds": [0]}, **whole),
        "two-seeds-of-two-arms": Options(study={**STUDY, "seeds": [0, 1], "arms": two}, **whole),
        "baseline-diverged-once": Options(failed=(), diverged=(("full", 2),)),
        "many": crowded(12, 15),
        "too-many": crowded(45, 3),
    }


def bundle_of(options: Options, folder: Path) -> Bundle:
    frame = load_frame(write_results(folder, options))
    return bundles(frame, assess(frame))[0]


def main(name: str, target: Path) -> None:
    figure = components("figure")[name]()
    assert isinstance(figure, Figure)
    target.mkdir(parents=True, exist_ok=True)
    pictures = []
    for case, options in cases().items():
        with tempfile.TemporaryDirectory() as folder:
            bundle = bundle_of(options, Path(folder))
        print(f"{case}: {figure.absent(bundle) or figure.caption(bundle)}")
        if not figure.absent(bundle):
            with style():
                settle(figure.draw(bundle)).savefig(target / f"{case}.png", dpi=110)
            pictures.append(Image.open(target / f"{case}.png").convert("RGB"))
    grey = [picture.convert("L").convert("RGB") for picture in pictures[-2:-1]]
    sheet = Image.new("RGB", (sum(p.width for p in pictures + grey), max(p.height for p in pictures)), "white")
    across = 0
    for picture in pictures + grey:
        sheet.paste(picture, (across, 0))
        across += picture.width
    sheet.save(target / "sheet.png")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
