"""Every figure, drawn from the records of shipped studies, as a documentation page: nothing on it is typed by hand.

    python tools/gallery.py docs results/vision-baselines results/qa-lora ... [pareto=results/qa-lora ...]

writes ``docs/gallery.md`` and ``docs/gallery/NAME.png``. A figure is drawn from the folder named for it, else, of those that can
show it, from the one that shows the fewest others so far.

    python tools/gallery.py docs --add pareto=results/qa-lora [...]

draws these figures, anew or for the first time, and leaves the rest of the page as it is: a figure needs one study's records.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from peftlab.analysis.assess import assess
from peftlab.analysis.frame import load_frame
from peftlab.registry import components
from peftlab.report.bundle import bundles
from peftlab.report.figures.contract import Bundle, Figure
from peftlab.report.style import settle, style
from peftlab.study.expand import cells
from peftlab.study.load import load_study

DPI = 110  #: enough for a screen; the report has 300
SECTIONS = {
    "figures": "Results",
    "layers": "Which layers matter, and who got the rank",
    "gradients": "Gradients",
    "quantization": "Quantization",
    "diagnostics": "What training changed",
}
INTRO = """# Gallery

Every figure that `peftlab report DIR` draws, each from the records of a study that comes with peftlab. The report has them
where the records hold something to show, as PDF and PNG (300 dpi) in `report/figures/`, with EPS beside them after `peftlab
report DIR --eps`, and says of every other figure why it is not there. Captions are those of the report and the paper: what is
shown, how many runs stand behind it, and what an interval is. Colours are told apart with every common colour blindness;
markers and dashes say the same once more.
"""


def main() -> None:
    target = Path(sys.argv[1])
    if sys.argv[2] == "--add":
        for word in sys.argv[3:]:
            add(target, *word.split("=", 1))
        return
    named = dict(word.split("=", 1) for word in sys.argv[2:] if "=" in word)
    folders = [Path(word) for word in sys.argv[2:] if "=" not in word]
    gathered = {folder: gather(folder) for folder in dict.fromkeys([*folders, *map(Path, named.values())])}
    chosen = choose(gathered, {name: Path(folder) for name, folder in named.items()})
    (target / "gallery").mkdir(parents=True, exist_ok=True)
    for figure, folder in chosen.items():
        picture(figure, gathered[folder], target / "gallery" / f"{figure.name}.png")
    words = [f"results/{folder.name}" for folder in folders] + [f"{name}=results/{Path(at).name}" for name, at in named.items()]
    (target / "gallery.md").write_text(page(chosen, gathered, target, words), encoding="utf-8")
    print(target / "gallery.md")


def add(target: Path, name: str, at: str) -> None:
    """One figure: its picture, and its entry in the page."""
    figure, bundle, path = components("figure")[name](), gather(Path(at)), target / "gallery.md"
    assert isinstance(figure, Figure)
    if reason := figure.absent(bundle):
        raise SystemExit(f"{at} does not show {name}: {reason}")
    picture(figure, bundle, target / "gallery" / f"{name}.png")
    text = entry(figure, bundle, Path(at), target)
    path.write_text(placed(path.read_text(encoding="utf-8"), figure, text, f"{name}=results/{Path(at).name}"), encoding="utf-8")


def placed(whole: str, figure: Figure, text: str, word: str) -> str:
    """The page with this entry at its place, instead of the one that is there, and this word in the command at the end."""
    above, below = whole.split("## How it was made\n", 1)
    before, here = above.split(f"## {SECTIONS[figure.section]}\n", 1)
    here, following, after = here.partition("\n## ")
    after = after if following else "\n"  # what stands between the last section and the end
    order = {cls.title: (cls.place, cls.name) for cls in components("figure").values() if issubclass(cls, Figure)}
    entries = {words.splitlines()[0]: words for words in here.split("\n### ") if words.strip()}
    entries[figure.title] = text.removeprefix("### ")
    here = "\n".join(f"\n### {entries[title].rstrip()}" for title in sorted(entries, key=lambda title: order[title])) + "\n"
    words = [old for old in below.split("docs", 1)[1].split("```")[0].split() if old != "\\"]
    key = word.split("=")[0] + "="
    words = [word if old.startswith(key) else old for old in words] + [word] * (not any(old.startswith(key) for old in words))
    return f"{before}## {SECTIONS[figure.section]}\n{here}{following}{after}## How it was made\n\n{how(words)}"


@functools.cache
def gather(folder: Path) -> Bundle:
    """The first task and backbone of a results folder."""
    frame = load_frame(folder)
    return bundles(frame, assess(frame))[0]


def choose(gathered: Mapping[Path, Bundle], named: Mapping[str, Path]) -> dict[Figure, Path]:
    """Figure -> the folder that it is drawn from; one that no folder can show is left out."""
    figures = sorted((cls() for cls in components("figure").values() if issubclass(cls, Figure)), key=lambda f: (f.place, f.name))
    used: Counter[Path] = Counter()
    chosen: dict[Figure, Path] = {}
    for figure in figures:
        able = [folder for folder, bundle in gathered.items() if not figure.absent(bundle)]
        if not able:
            print(f"{figure.name}: no folder shows it", file=sys.stderr)
            continue
        chosen[figure] = named.get(figure.name) or min(able, key=lambda folder: used[folder])
        used[chosen[figure]] += 1
    return chosen


def picture(figure: Figure, bundle: Bundle, path: Path) -> None:
    """A tenth of the report's bytes: fewer dots, 256 colours."""
    with style():
        settle(figure.draw(bundle)).savefig(path, dpi=DPI, metadata={"Software": None})
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256)
    small.save(path, optimize=True)


def page(chosen: Mapping[Figure, Path], gathered: Mapping[Path, Bundle], docs: Path, words: Sequence[str]) -> str:
    parts = [INTRO]
    for section, heading in SECTIONS.items():
        here = [figure for figure in chosen if figure.section == section]
        parts += [f"## {heading}\n", *(entry(f, gathered[chosen[f]], chosen[f], docs) for f in here)] if here else []
    parts += ["## How it was made\n", how(words)]
    return "\n".join(parts)


def overridden(folder: Path) -> str:
    """What the study was run with instead of what its file says (study/load.py writes it there)."""
    first = (folder / "study.yaml").read_text(encoding="utf-8").partition("\n")[0]
    return first.partition("# overridden on the command line: ")[2]


def entry(figure: Figure, bundle: Bundle, folder: Path, docs: Path) -> str:
    study, changed = folder.name, overridden(folder)
    arms = {cell.label for cell in cells(load_study(folder / "study.yaml"))}
    part = ", some of its arms" if arms - {arm.label for arm in bundle.arms} else ""
    linked = f"[{study}](studies/{study}.md)" if (docs / "studies" / f"{study}.md").exists() else f"`studies/{study}.yaml`"
    text = figure.caption(bundle).replace("<", "&lt;")
    return (
        f"### {figure.title}\n\n**{figure.asks}**\n\n![{figure.title}](gallery/{figure.name}.png)\n\n{text}\n\n"
        f"Study: {linked}{f', run with `{changed}`' if changed else ''}{part}. File: `report/figures/{figure.name}.pdf`.\n"
    )


def how(words: Sequence[str]) -> str:
    command = " \\\n    ".join(["python tools/gallery.py docs", *words])
    text = "`peftlab run studies/NAME.yaml` and `peftlab report results/NAME` give the figures of one study; this page:"
    return f"{text}\n\n```bash\n{command}\n```\n"


if __name__ == "__main__":
    main()
