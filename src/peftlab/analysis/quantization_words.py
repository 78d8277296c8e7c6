"""What ``quantization.json`` says in words."""

from __future__ import annotations

from collections.abc import Sequence

from peftlab.analysis.quantization import Cell, Course, QuantizationFindings
from peftlab.analysis.words import equation_p, is_share, listed, plural, show_difference, show_interval, show_p

METHOD = [
    "Quantized against float: arms that differ in the quantizer only (a tuned learning rate may differ, and is then named), "
    "paired t tests over seeds, Holm over all quantized arms of a setting.",
    "Stored bytes are those of the whole model, scales, zero points and tables included; the training peak is the measured one "
    "less the process (interpreter, libraries, freed blocks), and its saving is one minus the geometric mean of the ratios over "
    "seeds. A quantizer's libraries and what it frees make the process larger, and with a small model they take more than its "
    "weights save: the peaks of whole processes stand beside the arms.",
    "Quantizer x rank: within arms that differ in rank and quantizer only, the slope of (quantized minus float) over log2 rank "
    "of each seed, Student's t over the slopes, Holm over schemes; and over all schemes at once the interaction term of a "
    "repeated-measures analysis of variance (statsmodels, seeds as subjects), which assumes sphericity where there are more "
    "than two ranks or schemes.",
    "Convergence: mean height of the validation curve over steps, by trapezoids (of an arm each run's over all its steps, of a "
    "pair over the steps at which both were evaluated, so that one that stopped early is not set against what the other did "
    "later); and the first evaluation at or beyond the goal, 95 % of the way from chance to the mean over seeds of the float "
    "arm's best; where lower is better, that best / 0.95.",
    "Error and update: of E = W - Q(W) and the trained update dW, cancelled is 1 - ||E - dW||^2 / ||E||^2, aligned the squared "
    "cosine, bound the energy of the singular values that an update of that rank could reach (constant in groups for pooled "
    "adapters; not known of ranks above 64 and of layers whose smaller side is above 2,048), all over adapted layers together.",
    "Balance: ||dW|| / ||W - Q(W)|| of an adapted layer, recorded by group-wise quantizers over training; of an arm the median "
    "over layers, mean over seeds. rho: share of the quantized weights in those that a step used.",
    "Frozen weights in MB are counted from the tensors that hold them. Process: resident size of the whole process (on a GPU: "
    "memory allocated there) right before and after converting, freed blocks given back to the system; libraries that converting "
    "loads are in it.",
]
#: of a race
RACED = [
    METHOD[0].replace("paired t tests", "anytime-valid paired t tests"),
    "The arms were raced: interactions of quantizer and rank are not tested, values have no interval here, and intervals of "
    "costs and curves take the number of seeds as fixed.",
    *[line for line in METHOD[1:] if not line.startswith("Quantizer x rank")],
]


def sentences(said: QuantizationFindings) -> list[str]:
    """Most important first."""
    several = len({(c.task, c.backbone) for c in said.cells}) > 1

    def prefix(entry) -> str:
        return f"{entry.task}, {entry.backbone}: " if several else ""

    found = []
    unit = " points" if is_share(said.metric) else ""
    for e in (e for e in said.effects if e.shown):
        rates = "" if e.same_learning_rate else "; their learning rates differ"
        found.append(
            f"{prefix(e)}{e.arm}: {show_difference(e.change, said.metric)}{unit} of {said.metric} "
            f"{show_interval(e.interval, said.metric, True)} against {e.float_arm} "
            f"(adjusted p {show_p(e.p_adjusted)}{rates}){_saving(e.stored_saved)}."
        )
    if quiet := [e for e in said.effects if not e.shown]:
        verb = "shows" if len(quiet) == 1 else "show"
        found.append(
            f"{plural(len(quiet), 'quantized arm')} {verb} no difference to the same arm in float: "
            f"{listed([prefix(e) + e.arm for e in quiet], 4)}. That is not evidence of equality."
        )
    for i in (i for i in said.interactions if i.shown):
        found.append(
            f"{prefix(i)}{i.method}: what {i.scheme} costs changes by {show_difference(i.slope, said.metric)}{unit} "
            f"{show_interval(i.interval, said.metric, True)} with every doubling of the rank (adjusted p {show_p(i.p_adjusted)})."
        )
    if quiet := [i for i in said.interactions if not i.shown]:
        slopes = listed(
            [
                f"{prefix(i)}{i.scheme} {show_difference(i.slope, said.metric)} {show_interval(i.interval, said.metric, True)}"
                for i in quiet
            ],
            4,
        )
        found.append(
            f"That what quantization costs depends on the rank is not shown; change of {said.metric} with every doubling of the "
            f"rank: {slopes}. That is not evidence that it does not."
        )
    for t in said.two_way:
        degrees = f"F({t.degrees[0]:g}, {t.degrees[1]:g}) = {t.f:.3g}"
        found.append(f"{prefix(t)}{t.method}: rank x quantizer {degrees}, {equation_p(t.p)} ({plural(t.n, 'seed')}).")
    found += [line for line in (_cancelled(said.cells), _balanced(said.courses), _predicted(said.cells)) if line]
    return found


def _saving(saved: float | None) -> str:
    return "" if saved is None else f", with {100 * saved:.0f} % fewer bytes stored"


def _cancelled(cells: Sequence[Cell]) -> str:
    known = [c for c in cells if c.aligned is not None and c.bound is not None]
    if not known:
        return ""
    aligned, bound = max(c.aligned.mean for c in known if c.aligned), max(c.bound.mean for c in known if c.bound)
    unknown = sum(c.aligned is not None and c.bound is None for c in cells)
    without = f" (not counting {plural(unknown, 'arm')} with a layer whose bound is not known)" if unknown else ""
    return (
        "Of the energy of the adapted layers' quantization error, updates of these ranks could take back at most "
        f"{100 * bound:.2g} %; "
        f"the trained ones point along at most {100 * aligned:.2g} % of it{without}."
    )


def _balanced(courses: Sequence[Course]) -> str:
    known = [c.balance_end.mean for c in courses if c.balance_end is not None]
    if not known:
        return ""
    largest = f" to {max(known):.2g}" if len(known) > 1 else ""
    return (
        f"At the end of training the update of the median layer is {min(known):.2g}{largest} times as large as what quantization "
        "did to its weights."
    )


def _predicted(cells: Sequence[Cell]) -> str:
    errors = [c.prediction_error for c in cells if c.prediction_error is not None and c.bits_per_parameter is not None]
    if not errors:
        return ""
    return f"Predicted peak memory of quantized runs was off by at most {100 * max(errors):.1f} % of the measured one."
