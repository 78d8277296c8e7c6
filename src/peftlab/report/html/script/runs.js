// One run as a page of its own, at #run-<id>.
const byId = new Map(data.runs.map((run, i) => [run.id, i]));

function pairsList(entries) {
  return el("dl", { class: "pairs" }, entries.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}
function tableOf(caption, heads, rows) {
  const cells = (row) => row.map((cell, i) => el(i ? "td" : "th", i ? {} : { scope: "row" }, cell));
  return el("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": `${caption}, scrolls sideways` },
    el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads.map((h) => el("th", { scope: "col" }, h)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, cells(row))))));
}
function folded(title, ...content) {
  return el("details", {}, el("summary", {}, title), ...content);
}
const inWords = (value) => (typeof value === "number" ? (Number.isInteger(value) ? grouped(value) : significant(value, 4)) : value === true ? "yes" : value === false ? "no" : value);
const humane = (name) => name.replaceAll("_", " ").replaceAll(".", ": ");

function curveSpec(title, series, label, format) {
  const points = series.flatMap((one) => one.points).filter(([, y]) => known(y));
  if (!points.length) return null;
  const color = (one) => one.color;
  return {
    title, height: 250, x: { label: "optimizer step", values: points.map(([x]) => x) },
    y: { label, limits: range(points.map(([, y]) => y), 0.06), format },
    lines: series.filter((one) => !one.dotsOnly).map((one) => ({ points: one.points, color: color(one), dash: one.dash })),
    marks: series.filter((one) => one.dots).flatMap((one) => one.points.map(([x, y]) => ({
      x, y, color: color(one), shape: one.dots - 1, lines: [`${one.name} ${format ? show(y) : significant(y ?? 0, 4)}`, `step ${grouped(x)}`],
    }))),
    series,
  };
}
const zip = (columns, k) => data.steps[columns[0]].map((x, i) => [x, columns[k][i]]);

function curvesOf(run) {
  const { train, validation } = run.curves || {}, specs = [];
  const losses = [];
  if (train) losses.push({ name: "training loss", points: zip(train, 1), color: 0, dash: 0 });
  if (validation) losses.push({ name: "validation loss", points: zip(validation, 1), color: 1, dash: 1, dots: 2 });
  specs.push(curveSpec("Loss over training", losses, "loss"));
  if (validation && validation[2].length) {
    const values = [{ name: `validation ${metricName}`, points: zip(validation, 2), color: 2, dash: 0, dots: 1 }];
    specs.push(curveSpec(`Validation ${metricName} over training`, values, `${metricName}${data.share ? " (%)" : ""}`, tickMetric));
  }
  if (run.gradients) specs.push(curveSpec("Norm of the gradient", [{ name: "gradient norm", points: zip(run.gradients, 1), color: 6, dash: 0, dots: 4 }], "norm over all modules"));
  if (run.ranks) specs.push(curveSpec("Ranks in total", [{ name: "sum of ranks", points: zip(run.ranks, 1), color: 3, dash: 0, dots: 3 }], "sum of ranks"));
  return specs.filter(Boolean);
}

// the comparison of this run's arm with the baseline, or with the first other arm
function rival(run) {
  if (run.s < 0 || run.a < 0) return null;
  const arms = data.settings[run.s].arms, base = arms.findIndex((arm) => arm.label === data.baseline);
  const other = base >= 0 && base !== run.a ? base : arms.findIndex((_, a) => a !== run.a);
  return other >= 0 && el("a", { href: `#compare-${run.s}-${run.a}-${other}` }, `Compare with ${arms[other].label}`);
}

function factGroups(run) {
  const groups = new Map();
  const [place, ...own] = run.facts || [], told = data.facts[place] || { names: [], same: [] };
  told.names.forEach((full, i) => {
    const value = told.same[i] ?? own.shift(), [group, ...rest] = full.split(".");
    const name = rest.length ? group : "run";
    groups.set(name, [...(groups.get(name) || []), [rest.length ? rest.join(".") : group, value]]);
  });
  return groups;
}

function memoryTable(entries) {
  const parts = (prefix) => new Map(entries.filter(([k]) => k.startsWith(`${prefix}.`)).map(([k, v]) => [k.slice(prefix.length + 1), v]));
  const [measured, predicted] = [parts("measured"), parts("predicted")], peak = new Map(entries);
  const names = [...new Set([...measured.keys(), ...predicted.keys()])];
  if (!names.length) return null;
  const mb = (value) => (known(value) ? value.toFixed(1) : "–");
  const rows = names.map((name) => [name, mb(measured.get(name)), mb(predicted.get(name))]);
  rows.push(["peak", mb(peak.get("measured_peak_mb")), mb(peak.get("predicted_peak_mb"))]);
  return tableOf("Memory in MB, measured and predicted before the run", ["part", "measured", "predicted"], rows);
}

function runPage(index) {
  const run = data.runs[index], arm = run.s >= 0 && run.a >= 0 ? data.settings[run.s].arms[run.a] : null;
  const groups = factGroups(run), memory = groups.get("memory");
  const title = el("h1", { tabindex: -1, id: "run-title" }, arm && key(arm.shape, arm.color), `${run.arm}, ${named(run)}`);
  const step = (by, text) => {
    const other = data.runs[index + by];
    return other && el("a", { href: `#run-${other.id}`, rel: by < 0 ? "prev" : "next" }, text);
  };
  const parts = [
    el("nav", { class: "run-nav", "aria-label": "Runs" }, el("a", { href: "#runs" }, "← All runs"), step(-1, "Previous run"), step(1, "Next run"), rival(run)),
    el("p", { class: "kicker" }, `${run.task}, ${run.backbone}`), title,
    el("p", { class: "facts" }, el("span", { class: `tag ${run.status === "completed" ? "good" : "bad"}` }, run.status), ` run ${run.id}`),
  ];
  if (run.error) parts.push(errorOf(run));
  if (run.status === "diverged") parts.push(el("p", { class: "warn" }, `Training diverged. The run counts with its ${metricName} at ${known(run.value) ? show(run.value) : data.imputed_at}; it is not dropped.`));
  if (run.flags || run.notes) parts.push(el("section", { class: "warn", "aria-label": "Fallbacks and notes" }, el("ul", {}, [...(run.flags || []), ...(run.notes || [])].map((t) => el("li", {}, t)))));
  if (run.metrics) {
    const splits = Object.keys(run.metrics), names = [...new Set(splits.flatMap((s) => Object.keys(run.metrics[s])))];
    parts.push(el("h2", {}, "Result"), tableOf("Metrics by split", ["metric", ...splits], names.map((n) => [humane(n), ...splits.map((s) => (n === data.metric ? show(run.metrics[s][n]) : inWords(run.metrics[s][n] ?? "–")))])));
  }
  const specs = curvesOf(run), hosts = specs.map(() => el("div", {}));
  parts.push(el("h2", {}, "Curves"));
  if (!specs.length) parts.push(el("p", {}, "No curve was recorded."));
  parts.push(el("div", { class: "figures" }, specs.map((spec, i) => el("figure", { class: "half" }, el("h3", {}, spec.title), hosts[i],
    el("figcaption", {}, spec.series.map((one) => `${one.name}: ${one.dots ? "marks" : ""}${one.dots && !one.dotsOnly ? " and " : ""}${one.dash ? "dashed line" : "line"}`).join("; "))))));
  parts.push(el("h2", {}, "Diagnostics"));
  if (memory) parts.push(memoryTable(memory));
  if (known(run.modules)) parts.push(ranksOf(data.ranks[run.modules]));
  const told = [...groups].map(([name, entries]) => [name, name === "memory" ? entries.filter(([k]) => !/^(measured|predicted|tensors_mb)\./.test(k)) : entries]).filter(([, e]) => e.length);
  if (!told.length && !memory) parts.push(el("p", {}, "None was recorded."));
  parts.push(el("div", { class: "cards" }, told.map(([name, entries]) => el("section", { class: "card" }, el("h3", {}, humane(name)), pairsList(entries.map(([k, v]) => [humane(k), inWords(v)]))))));
  if (run.large) parts.push(el("p", { class: "legend" }, `Larger records lie in the run's folder: ${run.large.join(", ")}.`));
  const [settings, packages, environment] = [data.configs[run.config], data.packages[run.packages], data.environments[run.environment]].map((o) => Object.entries(o || {}));
  parts.push(el("h2", {}, "Configuration"), settings.length ? pairsList(settings) : el("p", {}, "Not readable."));
  parts.push(el("h2", {}, "Environment"), environment.length ? pairsList(environment) : el("p", {}, "Not recorded."));
  if (packages.length) parts.push(folded(`Packages (${packages.length})`, pairsList(packages)));
  parts.push(el("p", { class: "legend" }, "Folder: ", el("code", {}, run.where)));
  return { parts, ready: () => specs.forEach((spec, i) => plot(hosts[i], spec)), title: `${run.arm}, ${named(run)}` };
}

function errorOf(run) {
  const { type, what, where, remedy, step, traceback } = run.error;
  const entries = [["what", `${type || "Error"}: ${what || ""}`], ["where", where], ["step", known(step) ? grouped(step) : ""], ["what to do", remedy]];
  return el("section", { class: "error", "aria-label": "Error" }, el("h2", {}, "Why it ended"), pairsList(entries.filter(([, v]) => v)),
    traceback && folded("Traceback", el("pre", {}, el("code", {}, traceback))));
}

function ranksOf(ranks) {
  const entries = Object.entries(ranks), most = Math.max(1, ...entries.map(([, r]) => r));
  const bar = (r) => el("span", { class: "meter" }, el("span", { style: `width:${(100 * r) / most}%` }));
  return folded(`Ranks at the end (${entries.length} modules)`, tableOf("Rank of every module at the end", ["module", "rank", ""], entries.map(([name, r]) => [name, String(r), bar(r)])));
}
