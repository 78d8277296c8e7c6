// Any two arms over the same seeds. Only differences of recorded values are taken here; every statistic is of findings.json.
function declaredOf(setting, a, b) {
  for (const [arm, other, sign] of [[a, b, 1], [b, a, -1]]) {
    if (setting.arms[other].label === data.baseline && setting.declared[arm]) return { ...setting.declared[arm], sign, declared: true };
  }
  return null;
}
function exploratoryOf(setting, a, b) {
  const p = setting.pairs;
  if (!p) return null;
  const k = p.first.findIndex((first, i) => (first === a && p.second[i] === b) || (first === b && p.second[i] === a));
  if (k < 0) return null;
  const found = Object.fromEntries(["estimate", "low", "high", "p", "q", "n", "r"].map((name) => [name, p[name][k]]));
  return { ...found, verdict: p.verdicts[p.verdict[k]], sign: p.first[k] === a ? 1 : -1, declared: data.pairs_declared, raced: data.pairs_declared, sentences: [] };
}
const turned = { better: "worse", worse: "better" };

function conclusion(setting, a, b, found) {
  const [A, B] = [setting.arms[a].label, setting.arms[b].label];
  const verdict = found.sign < 0 ? turned[found.verdict] || found.verdict : found.verdict;
  return {
    better: `${A} is better than ${B}.`, worse: `${A} is worse than ${B}.`,
    "no difference shown": `The data do not show a difference between ${A} and ${B}; that is not evidence of equality.`,
  }[verdict] || `Whether ${A} and ${B} differ cannot be tested: ${found.n < 2 ? `there ${found.n ? "is one pair" : "is no pair"} of runs with the same seed` : "the difference was the same in every pair"}.`;
}

function comparison(s, a, b) {
  const setting = data.settings[s], [A, B] = [setting.arms[a], setting.arms[b]];
  const found = declaredOf(setting, a, b) || exploratoryOf(setting, a, b), parts = [];
  if (found) {
    const estimate = known(found.estimate) ? found.sign * found.estimate : null;
    const [low, high] = found.sign > 0 ? [found.low, found.high] : [known(found.high) ? -found.high : null, known(found.low) ? -found.low : null];
    parts.push(el("p", { class: "headline" }, conclusion(setting, a, b, found)));
    parts.push(el("p", {}, el("span", { class: `tag ${found.declared ? "base" : "open"}` }, found.declared ? "declared" : "exploratory"), " ",
      found.raced ? `The race for the best arm asks about every pair: the study declared it before it ran. ${data.exploratory}.` : found.declared ? `The study declared this comparison before it ran. ${data.adjustment}.` : `Nobody declared this comparison before the runs; it can suggest a hypothesis, not confirm one. Adjustment: ${data.exploratory}.`));
    parts.push(pairsList([
      [`${A.label} minus ${B.label}`, `${showDifference(estimate)}${known(estimate) ? points : ""} ${metricName}`], [`${percent} interval, not adjusted`, showInterval(low, high, true) || "none"],
      ["pairs of seeds", String(found.n)], [`p, ${data.test}`, showP(found.p)], ["p, Holm-adjusted", showP(found.q)], ["correlation over seeds", known(found.r) ? minus(fixed(found.r, 2).replace("-0.00", "0.00")) : "–"],
    ]));
  } else {
    parts.push(el("p", { class: "headline" }, a === b ? "Choose two different arms." : `These two arms were not compared. ${data.exploratory}.`));
  }
  if (a !== b) parts.push(...sideBySide(setting, s, A, B, a, b));
  if (found && found.sentences.length) parts.push(el("h3", {}, "What the findings say"), el("ul", { class: "sentences" }, found.sentences.map((t) => el("li", {}, t))));
  return parts;
}

function sideBySide(setting, s, A, B, a, b) {
  const folds = data.runs.some((r) => r.fold);
  const link = (arm, seed, fold, value) => {
    const run = (runsOf.get(`${s} ${arm}`) || []).find((r) => r.seed === seed && r.fold === fold);
    return run ? el("a", { href: `#run-${run.id}` }, known(value) ? show(value) : run.status) : show(value);
  };
  const unit = ([seed, fold]) => `${seed}${folds ? `, fold ${fold}` : ""}`;
  const rows = setting.units.map(([seed, fold], i) => {
    const [x, y] = [A.values[i], B.values[i]];
    return [unit([seed, fold]), link(a, seed, fold, x), link(b, seed, fold, y), known(x) && known(y) ? showDifference(x - y) : "no pair"];
  });
  const costs = data.costs.map(({ key: k, name }) => [name, showCost(k, A[k]), showCost(k, B[k]), ""]);
  const host = el("div", {}), all = [...A.values, ...B.values].filter(known);
  if (all.length) {
    const marks = [A, B].flatMap((arm, k) => arm.values.map((y, i) => ({
      x: i + 1, y, color: arm.color, shape: k ? (arm.shape === A.shape ? arm.shape + 1 : arm.shape) % SHAPES.length : arm.shape, hollow: Boolean(k), lines: [arm.label, `seed ${unit(setting.units[i])}`, `${metricName} ${show(y)}`],
    })));
    const lines = setting.units.map((_, i) => ({ points: [[i + 1, A.values[i]], [i + 1, B.values[i]]], color: "gray", dash: 0 }));
    const spec = { title: `${A.label} and ${B.label}, seed by seed`, height: 240, marks, lines, x: { label: "seed", values: setting.units.map((_, i) => i + 1), ticks: setting.units.map((u, i) => [i + 1, unit(u)]) }, y: { label: metricAxis, limits: range(all, 0.1), format: tickMetric } };
    setTimeout(() => plot(host, spec));
  }
  const caption = (k) => [el("b", {}, k ? B.label : A.label), k ? " hollow" : " filled"];
  return [
    el("figure", {}, el("h3", {}, "Seed by seed"), host, el("figcaption", {}, caption(0), ", ", caption(1), "; a line joins the two runs of one seed.")),
    tableOf(`Both arms, seed by seed: ${metricName}${points ? ", differences in percentage points" : ""}`, ["seed", A.label, B.label, "difference"], [...rows, ...costs]),
  ];
}

function comparable(section) {
  const [which, first, second] = ["setting", "first", "second"].map((name) => section.querySelector(`select[name=${name}]`));
  const answer = section.querySelector(".answer"), set = () => Number(which ? which.value : 0);
  function options() {
    const arms = data.settings[set()].arms;
    const base = Math.max(0, arms.findIndex((arm) => arm.label === data.baseline)), other = base ? 0 : Math.min(1, arms.length - 1);
    for (const [select, chosen] of [[first, other], [second, base]]) {
      select.replaceChildren(...arms.map((arm, i) => el("option", { value: i, selected: i === chosen }, arm.label)));
    }
  }
  const update = () => answer.replaceChildren(...comparison(set(), Number(first.value), Number(second.value)));
  section.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  section.querySelector("form").addEventListener("change", (event) => {
    if (event.target === which) options();
    update();
    history.replaceState(null, "", `#compare-${set()}-${first.value}-${second.value}`);
  });
  section.querySelector("button").addEventListener("click", () => {
    [first.value, second.value] = [second.value, first.value];
    first.dispatchEvent(new Event("change", { bubbles: true }));
  });
  options();
  update();
  return (s, a, b) => {
    if (!data.settings[s] || !data.settings[s].arms[a] || !data.settings[s].arms[b]) return;
    if (which) which.value = s;
    options();
    [first.value, second.value] = [a, b];
    update();
  };
}
