"""A documentation page from a study's records: nothing in it is typed by hand.

    python tools/study_page.py results/digits docs/studies

writes ``docs/studies/digits.md`` and copies the report's figures (PNG) beside it. Analysis and report are made anew first.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from peftlab.analysis.analyze import read_findings
from peftlab.analysis.findings import Finding, Findings
from peftlab.analysis.layers import AdaptiveRow, Layers, ModuleMap
from peftlab.analysis.tuned import arm_names, arm_of, extent, folded, named_once, values_text
from peftlab.analysis.words import (
    is_exponential,
    listed,
    show,
    show_count,
    show_difference,
    show_interval,
    show_p,
    show_share,
    show_share_interval,
)
from peftlab.records.times import took_s
from peftlab.registry import components
from peftlab.report.build import build_report
from peftlab.report.tables import Row, rows
from peftlab.study.load import load_study


def page(folder: Path, figures: Iterable[str]) -> str:
    """The page as markdown."""
    findings = read_findings(folder)
    records = [(json.loads(p.read_text()), p.parent) for p in sorted(folder.glob("runs/*/*/results.json"))]
    environment = json.loads((records[0][1] / "environment.json").read_text())
    parts = [
        f"# Study: {findings.study}",
        f"*{findings.question}*",
        _about(folder.name),
        "\n".join(f"- {line}" for line in findings.verdict),
        *(_table(findings, task, backbone) for task, backbone in _settings(findings)),
        "Intervals are t intervals over seeds; differences are paired by seed; p is adjusted after Holm; *within margin* is the "
        "verdict of the one-sided non-inferiority test declared in the study.",
        _kept(findings),
        _not_found(findings),
        _layers(folder, findings.plan.metric),
        _sentences(folder, "quantization", "Quantized against float"),
        _sentences(folder, "gradient_flow", "Gradients"),
        _tuning(folder),
        _figures(folder.name, figures),
        "## To keep in mind",
        "\n".join(f"- {line}" for line in (*findings.notes, *findings.warnings)),
        "## How it was made",
        _provenance(folder, environment, records),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _figures(study: str, stems: Iterable[str]) -> str:
    """Each below its title; what a figure shows and what its intervals are of stands in the gallery, once for all studies."""
    titles = {name: str(getattr(made, "title", name)) for name, made in components("figure").items()}
    parts = ["## Figures", "What each shows, and what its intervals are: [Gallery](../gallery.md)."]
    for stem in stems:
        title = titles.get(stem.split("-")[0], stem.replace("_", " "))
        parts.append(f"**{title}**\n\n![{title}]({study}/{stem}.png)")
    return "\n\n".join(parts) if len(parts) > 2 else ""


def _settings(findings: Findings) -> list[tuple[str, str]]:
    return list(dict.fromkeys((arm.task, arm.backbone) for arm in findings.arms))


def _table(findings: Findings, task: str, backbone: str) -> str:
    metric = findings.plan.metric
    head = f"| arm | n | {metric} | difference | p | within margin | trainable | peak memory (predicted) | training | flags |"
    lines = [head, "|---|--:|--:|--:|--:|---|--:|--:|--:|---|"]
    for row in rows(findings, task, backbone):
        lines.append("| " + " | ".join(_cells(row, metric)) + " |")
    return "\n".join(lines)


def _cells(row: Row, metric: str) -> list[str]:
    arm, difference, margin = row.arm, row.difference, row.margin
    mean = (
        "-" if arm.mean is None else show(arm.mean, metric) + (f" {show_interval(arm.interval, metric)}" if arm.interval else "")
    )
    gap = "baseline" if arm.baseline else "-"
    if difference is not None and difference.estimate is not None:
        gap = show_difference(difference.estimate, metric)
    measured, predicted = (f"{v:,.0f}" if v is not None else "-" for v in (arm.measured_peak_mb, arm.predicted_peak_mb))
    return [
        arm.label,
        str(arm.n),
        mean,
        gap,
        show_p(difference.p_adjusted) if difference and difference.p_adjusted is not None else "",
        _within(margin),
        f"{arm.trainable:,.0f}" if arm.trainable is not None else "",
        f"{measured} MB ({predicted})",
        f"{arm.train_s:.0f} s" if arm.train_s is not None else "",
        "; ".join(row.flags),
    ]


def _kept(findings: Findings) -> str:
    """Shares of the baseline's gain, for shares of its parameters."""
    arms = [arm for arm in findings.arms if arm.efficiency is not None]
    if not arms or arms[0].efficiency is None:
        return ""
    baseline, plan = next(arm.label for arm in arms if arm.baseline), findings.plan
    lines = ["| arm | gain kept | trainable | saved | efficiency ratio |", "|---|--:|--:|--:|--:|"]
    for arm in arms:
        if (e := arm.efficiency) is None:
            continue
        kept = f"{show_share(e.kept)} {show_share_interval(e.interval)}"
        cells = (
            kept,
            show_count(arm.trainable),
            show_share(e.saved_percent / 100),
            f"{show(e.ratio)} {show_interval(e.ratio_interval)}",
        )
        lines.append(f"| {arm.label} | " + " | ".join(cells) + " |")
    unit = ", in nats per token" if is_exponential(plan.metric) else ""
    words = (
        f"Gain kept: share of the gain of {baseline} over {arms[0].efficiency.reference} on test data that an arm has too{unit}; "
        f"saved: trainable parameters that it has less than {baseline}; efficiency ratio: gain kept over share of the parameters."
    )
    return "\n\n".join(("## Gain kept for parameters saved", "\n".join(lines), words))


def _within(margin: Finding | None) -> str:
    """The p of the non-inferiority test stands beside that verdict only; "inferior" comes from a test of its own."""
    if margin is None:
        return ""
    shown = margin.verdict == "non-inferior" and margin.p_adjusted is not None
    return f"{margin.verdict} (p {show_p(margin.p_adjusted)})" if shown else margin.verdict


def _about(name: str) -> str:
    """Source and cost, as the shipped study file says them."""
    path = Path("studies") / f"{name}.yaml"
    if not path.exists():
        return ""
    study = load_study(path)
    return "\n\n".join(f"{word}: {text}." for word, text in (("Source", study.source), ("Cost", study.cost)) if text)


def _not_found(findings: Findings) -> str:
    """Differences that the data leave open, and how large one would have had to be."""
    metric = findings.plan.metric
    opened = [f for f in findings.of("difference") if f.verdict == "no difference shown"]
    if not opened:
        return ""
    several = len(_settings(findings)) > 1
    lines = [f"| arm | against | difference in {metric} | interval | p |", "|---|---|--:|--:|--:|"]
    for f in opened:
        where = f" ({f.task}, {f.backbone})" if several else ""
        interval = show_interval(f.interval, metric, difference=True)
        lines.append(
            f"| {f.arms[0]}{where} | {f.arms[1]} | {show_difference(f.estimate, metric)} | {interval} | {show_p(f.p_adjusted)} |"
        )
    intro = (
        "No difference is shown for these arms. That is not evidence of equality: the interval, not adjusted for "
        "the number of arms, says what is still possible."
    )
    return "\n\n".join(("## What was not found", intro, "\n".join(lines), *(f.sentence for f in findings.of("power"))))


def _layers(folder: Path, metric: str) -> str:
    """Adaptive against fixed ranks, who got the rank, and which layers matter."""
    path = folder / "analysis" / "importance.json"
    if not path.exists():
        return ""
    layers = Layers.model_validate_json(path.read_text())
    parts = []
    if layers.adaptive:
        parts += ["## Adaptive against fixed ranks", _adaptive(layers.adaptive, metric)]
        parts.append(
            "Difference: adaptive minus fixed, paired by seed, with its interval; p Holm-adjusted over this table. Parameters: "
            "with the head, at the end of training. Allocator: its share of the training time."
        )
    if layers.ranks:
        parts += ["## Who got the rank", _ranks(layers.ranks)]
    if layers.sentences:
        parts += ["## Which layers matter", "\n".join(f"- {line}" for line in layers.sentences)]
    return "\n\n".join(parts)


def _sentences(folder: Path, name: str, heading: str) -> str:
    """What a part of the analysis says in words; nothing where nothing was recorded for it."""
    path = folder / "analysis" / f"{name}.json"
    said = json.loads(path.read_text())["sentences"] if path.exists() else []
    return f"## {heading}\n\n" + "\n".join(f"- {line}" for line in said) if said else ""


def _adaptive(rows_: Iterable[AdaptiveRow], metric: str) -> str:
    head = "| adaptive | fixed | difference | p | parameters | fixed | ranks | fixed | equal in | allocator | memory | fixed |"
    lines = [head, "|---|---|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|"]
    for r in rows_:
        equal = [word for word, so in (("parameters", r.equal_parameters), ("ranks", r.equal_ranks)) if so]
        most = r.parameters_at_most
        before = f" ({show_count(most)} at most)" if most != r.parameters_at_end else ""
        cells = (
            r.adaptive,
            r.fixed,
            f"{show_difference(r.difference, metric)} {show_interval(r.interval, metric, difference=True)}",
            show_p(r.p_adjusted),
            show_count(r.parameters_at_end) + before,
            show_count(r.parameters_fixed),
            show_count(r.ranks_at_end),
            show_count(r.ranks_fixed),
            ", ".join(equal) or "neither",
            "-" if r.allocator_share is None else f"{100 * r.allocator_share:.1f} %",
            f"{show_count(r.memory_mb)} MB",
            f"{show_count(r.memory_fixed_mb)} MB",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ranks(maps: Iterable[ModuleMap]) -> str:
    """Mean final rank per kind of layer, and the layers with the most."""
    maps = list(maps)
    roles = list(dict.fromkeys(m.role for found in maps for m in found.modules))
    several = len({(m.task, m.backbone) for m in maps}) > 1
    lines = ["| arm | " + " | ".join(roles) + " | most | least |", "|---|" + "--:|" * len(roles) + "---|---|"]
    for found in maps:
        named = {m.site: f"{m.site if m.block is None else f'{m.role} {m.block}'}: {m.mean:.3g}" for m in found.modules}
        means = [[m.mean for m in found.modules if m.role == role] for role in roles]
        cells = [f"{statistics.mean(values):.1f}" if values else "-" for values in means]
        most, least = (", ".join(named[site] for site in sites[:3]) for sites in (found.most, found.least))
        where = f" ({found.task}, {found.backbone})" if several else ""
        lines.append(f"| {found.arm}{where} | {' | '.join(cells)} | {most} | {least} |")
    intro = "Final ranks, mean over seeds and the layers of a kind; the layers with most and least are named by kind and block:"
    return "\n".join([intro, "", *lines])


def _tuning(folder: Path) -> str:
    path = folder / "tuning.json"
    if not path.exists():
        return ""
    raw: dict[str, Any] = json.loads(path.read_text())
    drawn = raw.get("sampler", "grid") != "grid"
    searched = "; ".join(f"{key}: {extent(values)}" for key, values in raw.get("space", raw["grid"]).items())
    given = f"got {raw['chosen'][0]['trials']} trials ({raw['sampler']}" if drawn else "was tuned on the same grid ("
    over = "what was searched" if drawn else "the grid"
    arms = [arm_of(choice) for choice in raw["chosen"]]
    names = arm_names(arms)
    every = "Every arm, in each fold by itself," if folded(names) else "Every arm"
    lines = [f"{every} {given}{'; ' if drawn else ''}{searched}), tuning seeds {raw['seeds']}, on validation data:", ""]
    lines += [f"| arm | chosen | validation | at the edge of {over} |", "|---|---|--:|---|"]
    for choice in raw["chosen"]:
        values = values_text(choice["values"]).replace(" = ", " ")
        lines.append(f"| {names[arm_of(choice)]} | {values} | {choice['mean']:.4g} | {', '.join(choice['at_edge'])} |")
    if tied := named_once([arm_of(choice) for choice in raw["chosen"] if choice.get("tied", 1) > 1], arms):
        lines += [
            "",
            f"Of {listed(tied)} several values share the best mean, and the first was taken: the data did not tell them apart.",
        ]
    if edge := named_once([arm_of(choice) for choice in raw["chosen"] if choice["at_edge"]], arms):
        lines += [
            "",
            f"A {'value' if drawn else 'rate'} beyond {over} might have suited {listed(edge)} better: what counts against them "
            "is not sure, nor, where one of them is the baseline, what counts for the others.",
        ]
    return "\n".join(lines)


def _provenance(folder: Path, environment: dict[str, Any], records: list[tuple[dict[str, Any], Path]]) -> str:
    seconds = [seconds for record, _ in records if (seconds := took_s(record["time"])) is not None]
    packages = environment["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "peft", "timm") if name in packages)
    memory_gb = environment["memory_mb"] / 1000
    name, taken = folder.name, f"median {statistics.median(seconds or [0]):.0f} s, {sum(seconds) / 60:.0f} core-minutes"
    lines = [
        f"`peftlab run studies/{name}.yaml`, then `python tools/study_page.py results/{name} docs/studies`",
        *_from_elsewhere(name),
        _seeds(folder),
        f"machine: {environment['cpu']}, {environment['cores_logical']} cores, {memory_gb:.0f} GB; one thread a run, no GPU",
        f"Python {environment['python']}, {versions}",
        f"{len(records)} evaluation runs, " + (taken if seconds else "of none of which it is on record how long it took"),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _from_elsewhere(name: str) -> list[str]:
    """A word to who wants to run it, where it names a folder that no clone has."""
    path = Path("studies") / f"{name}.yaml"
    if not path.exists() or "../shared/" not in path.read_text(encoding="utf-8"):
        return []
    return ["with data, or weights, that do not come with peftlab: [name yours](../experiments.md#studies-that-want-your-data)"]


def _seeds(folder: Path) -> str:
    """As the configurations of the runs have them."""
    told = []
    for purpose, runs in (("evaluation", "runs"), ("tuning", "tuning")):
        seeds = sorted({json.loads(path.read_text())["seed"] for path in folder.glob(f"{runs}/*/*/config.json")})
        if seeds:
            told.append(f"{purpose} seeds {', '.join(map(str, seeds))}")
    return "; ".join(told)


def _shrink(source: Path, target: Path) -> None:
    """For a screen: half of the 300 dots per inch, 256 colours; a tenth of the bytes."""
    with Image.open(source) as picture:
        small = picture.convert("RGB").resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
    small.quantize(256).save(target, optimize=True)


def main() -> None:
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    build_report(folder)
    (target / folder.name).mkdir(parents=True, exist_ok=True)
    pictures = sorted((folder / "report" / "figures").glob("*.png"))
    for picture in pictures:
        _shrink(picture, target / folder.name / picture.name)
    (target / f"{folder.name}.md").write_text(page(folder, [p.stem for p in pictures]), encoding="utf-8")
    print(target / f"{folder.name}.md")


if __name__ == "__main__":
    main()
