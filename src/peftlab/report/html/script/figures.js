// The main figure and the Pareto figures of every setting.
const runsOf = new Map();
for (const run of data.runs) if (run.s >= 0 && run.a >= 0) runsOf.set(`${run.s} ${run.a}`, [...(runsOf.get(`${run.s} ${run.a}`) || []), run]);
const named = (run) => `seed ${run.seed}${data.runs.some((r) => r.fold) ? `, fold ${run.fold}` : ""}`;
const metricName = data.metric.replaceAll("_", " ");
const metricAxis = `${metricName} on ${data.split}${data.share ? " (%)" : ""}`;
const tickMetric = data.share ? (v) => significant(100 * v, 4) : short;

function meanLines(arm, cost) {
  const lines = [arm.label, `${metricName} ${show(arm.mean)}${known(arm.low) ? `, ${percent} interval ${showInterval(arm.low, arm.high)}` : ", no interval"}`];
  lines.push(`mean of ${arm.n} ${arm.n === 1 ? "run" : "runs"}${arm.imputed ? `, ${arm.imputed} diverged` : ""}${arm.failed ? `, ${arm.failed} more failed` : ""}`);
  lines.push(`${data.costs.find((c) => c.key === cost).name} ${showCost(cost, arm[cost])}`);
  if (known(arm.front[cost])) lines.push(`on this front in ${(100 * arm.front[cost]).toFixed(0)} % of resamples`);
  return lines.concat(arm.flags);
}

// within three margins of the baseline: where one arm lies far off, all others share a line without it
function closeUp(setting) {
  const reach = 3 * Math.abs(setting.margin - setting.base), [low, high] = setting.limits;
  if (!known(setting.base) || !known(setting.margin) || !reach || high - low < 4 * reach) return null;
  return [setting.base - reach, setting.base + reach];
}

// pixels by which arms of equal cost stand beside one another
function sideways(arms, key, room) {
  const groups = new Map(), found = new Map();
  for (const [arm, a] of arms) groups.set(arm[key], [...(groups.get(arm[key]) || []), a]);
  for (const members of groups.values()) {
    const step = Math.min(room, 84 / members.length);
    members.forEach((a, i) => found.set(a, (i - (members.length - 1) / 2) * step));
  }
  return found;
}

function costSpec(setting, s, cost, singles, limits) {
  const arms = setting.arms.map((arm, a) => [arm, a]).filter(([arm]) => known(arm.mean) && known(arm[cost.key]));
  const aside = sideways(arms, cost.key, singles ? 24 : 13);
  const marks = arms.map(([arm, a]) => ({
    shift: aside.get(a),
    x: arm[cost.key], y: arm.mean, low: singles === null ? null : arm.low, high: singles === null ? null : arm.high, color: arm.color, shape: arm.shape,
    hollow: singles === null && !(arm.front[cost.key] >= 0.5), lines: meanLines(arm, cost.key), legend: arm.legend,
  }));
  if (singles) {
    for (const [arm, a] of arms) {
      for (const run of runsOf.get(`${s} ${a}`) || []) {
        if (!known(run.value)) continue;
        const lines = [`${arm.label}, ${named(run)}`, `${metricName} ${show(run.value)}${run.imputed ? `: diverged, counted at ${data.imputed_at}` : ""}`];
        lines.push(`${cost.name} ${showCost(cost.key, arm[cost.key])}`, "Enter or click: the run");
        marks.push({ x: arm[cost.key], y: run.value, color: arm.color, shape: arm.shape, small: true, shift: aside.get(a) - 9, lines, href: `#run-${run.id}`, legend: arm.legend });
      }
    }
  }
  const rules = [{ y: setting.base, text: data.baseline }, { y: setting.margin, dashed: true, text: singles === null ? "" : "margin" }];
  return {
    title: `${metricName} against ${cost.name}`, marks, rules, x: { label: cost.unit ? `${cost.name} (${cost.unit})` : cost.name, log: cost.key === "trainable", values: arms.map(([arm]) => arm[cost.key]) },
    y: { label: metricAxis, limits, format: tickMetric },
    steps: singles === null ? setting.fronts[cost.key].map((a) => [setting.arms[a][cost.key], setting.arms[a].mean]) : [],
  };
}

function figuresOf(host) {
  const s = Number(host.dataset.setting), setting = data.settings[s];
  const hidden = new Set(), few = setting.arms.length <= 12;
  const plots = [...host.querySelectorAll("[data-plot]")];
  const [box, near] = ["singles", "close"].map((name) => host.querySelector(`input[name=${name}]`));
  function drawAll() {
    for (const area of plots) {
      const main = area.dataset.plot === "main";
      const cost = data.costs.find((c) => c.key === (main ? "trainable" : area.dataset.plot));
      const spec = costSpec(setting, s, cost, main ? Boolean(box && box.checked) : null, (near && near.checked && closeUp(setting)) || setting.limits);
      if (!spec.x.values.length) {
        area.replaceChildren(el("p", {}, `Not drawn: no run recorded ${cost.name}.`));
        continue;
      }
      spec.marks = spec.marks.filter((m) => !hidden.has(m.legend));
      if (!main) spec.height = 300;
      const inner = el("div", {});
      area.replaceChildren(inner);
      plot(inner, spec);
    }
  }
  const legend = host.querySelector(".keys");
  const entries = new Map(setting.arms.map((arm) => [arm.legend, arm]));
  for (const [text, arm] of entries) {
    const button = el("button", { type: "button", "aria-pressed": "true", title: "Show or hide" }, key(arm.shape, arm.color), el("span", {}, text));
    button.addEventListener("click", () => {
      const off = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!off));
      if (off) hidden.add(text);
      else hidden.delete(text);
      drawAll();
    });
    legend.append(el("li", {}, button));
  }
  if (box) {
    box.checked = few;
    near.parentElement.hidden = !closeUp(setting);
    for (const option of [box, near]) option.addEventListener("change", drawAll);
  }
  drawAll();
}
