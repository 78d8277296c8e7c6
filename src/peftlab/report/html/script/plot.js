// Plots of points and of lines, drawn for the width there is; points are reached by pointer and by keyboard alike.
const SHAPES = [
  (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (r) => `M0 ${-1.2 * r}L${1.15 * r} ${0.9 * r}H${-1.15 * r}z`,
  (r) => `M0 ${-1.3 * r}L${1.3 * r} 0L0 ${1.3 * r}L${-1.3 * r} 0z`,
  (r) => `M0 ${1.2 * r}L${1.15 * r} ${-0.9 * r}H${-1.15 * r}z`,
  (r) => `M${-0.4 * r} ${-1.2 * r}h${0.8 * r}v${0.8 * r}h${0.8 * r}v${0.8 * r}h${-0.8 * r}v${0.8 * r}h${-0.8 * r}v${-0.8 * r}h${-0.8 * r}v${-0.8 * r}h${0.8 * r}z`,
  (r) => `M${-r} ${-0.45 * r}L${-0.45 * r} ${-r}L0 ${-0.55 * r}L${0.45 * r} ${-r}L${r} ${-0.45 * r}L${0.55 * r} 0L${r} ${0.45 * r}L${0.45 * r} ${r}L0 ${0.55 * r}L${-0.45 * r} ${r}L${-r} ${0.45 * r}L${-0.55 * r} 0z`,
  (r) => `M0 ${-1.15 * r}L${1.1 * r} ${-0.35 * r}L${0.7 * r} ${r}H${-0.7 * r}L${-1.1 * r} ${-0.35 * r}z`,
  (r) => `M${-1.2 * r} 0L${0.9 * r} ${-1.15 * r}V${1.15 * r}z`,
  (r) => `M${1.2 * r} 0L${-0.9 * r} ${-1.15 * r}V${1.15 * r}z`,
];
const DASHES = ["", "7 3", "2 3", "7 3 2 3", "11 4"];

function shape(index, color, { radius = 5, hollow = false, faint = false } = {}) {
  return draw("path", { d: SHAPES[index % SHAPES.length](radius), class: `mark c${color}${hollow ? " hollow" : ""}${faint ? " faint" : ""}` });
}
function key(index, color) {
  return draw("svg", { class: "key", viewBox: "-8 -8 16 16", width: 16, height: 16, "aria-hidden": "true" }, shape(index, color));
}

function linearTicks(low, high, most) {
  const raw = (high - low) / Math.max(most, 1), size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * size).find((s) => s >= raw) || raw;
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}
function logTicks(low, high, most) {
  const found = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const m of [1, 2, 5]) if (m * 10 ** e >= low * 0.999 && m * 10 ** e <= high * 1.001) found.push([m * 10 ** e, m]);
  }
  for (const allowed of [[1, 2, 5], [1, 3], [1]]) {
    const ticks = found.filter(([, m]) => allowed.includes(m)).map(([v]) => v);
    if (ticks.length <= most) return ticks;
  }
  const tens = found.filter(([, m]) => m === 1).map(([v]) => v);
  return tens.filter((_, i) => i % Math.ceil(tens.length / most) === 0);
}
function scale(low, high, from, to, log) {
  const [a, b] = log ? [Math.log10(low), Math.log10(high)] : [low, high];
  return (v) => from + (((log ? Math.log10(v) : v) - a) / (b - a || 1)) * (to - from);
}
function range(values, room, log) {
  let low = Math.min(...values), high = Math.max(...values);
  if (log) {
    const factor = Math.max(high / low, 1.6) ** room;
    return [low / factor, high * factor];
  }
  const width = high - low || Math.abs(high) * 0.1 || 1;
  return [low - room * width, high + room * width];
}

// spec: title, x {label, log, values, ticks [[value, text]]}, y {label, limits, format}, rules [{y, text, dashed}], steps [[x, y]],
// lines [{points, color, dash}], marks [{x, y, low, high, color, shape, hollow, small, shift, lines, href}], height
const drawn = new Map(); // host -> what draws it anew where its width has changed
function plot(host, spec) {
  let width = 0, chosen = 0;
  const marks = (spec.marks || []).filter((m) => known(m.x) && known(m.y)).sort((a, b) => a.x - b.x || b.y - a.y);
  function redraw() {
    const now = Math.max(240, Math.round(host.clientWidth));
    if (!host.clientWidth || now === width) return;
    width = now;
    host.replaceChildren(picture(width, spec, marks, () => chosen, (k) => (chosen = k)));
  }
  host.classList.add("drawn");
  drawn.set(host, redraw);
  new ResizeObserver(redraw).observe(host);
  redraw();
}
// figures as wide as paper: those of a wide screen, made small, would have letters of two millimetres
function fitPaper(on) {
  document.documentElement.classList.toggle("on-paper", on);
  for (const [host, redraw] of drawn) host.isConnected ? redraw() : drawn.delete(host);
}

function picture(width, spec, marks, chosen, choose) {
  const height = spec.height || Math.round(Math.min(460, Math.max(250, 0.55 * width)));
  const log = spec.x.log && spec.x.values.every((v) => v > 0);
  const [x0, x1] = range(spec.x.values, 0.07, log), [y0, y1] = spec.y.limits;
  const yTicks = linearTicks(y0, y1, height / 55), format = spec.y.format || short;
  const left = 18 + 7.2 * Math.max(...yTicks.map((t) => format(t).length), 2) + 12, bottom = height - 44;
  const sx = scale(x0, x1, left + 6, width - 14, log), sy = scale(y0, y1, bottom, 12, false);
  const root = draw("svg", {
    viewBox: `0 0 ${width} ${height}`, class: "plot-svg", role: "group", "aria-label": spec.title, "aria-roledescription": "figure",
  });
  const grid = draw("g", { class: "axis", "aria-hidden": "true" });
  for (const t of yTicks) {
    grid.append(draw("line", { x1: left, x2: width - 6, y1: sy(t), y2: sy(t), class: "grid" }));
    grid.append(draw("text", { x: left - 8, y: sy(t) + 4, "text-anchor": "end" }, format(t)));
  }
  const most = (width - left) / 72, named = spec.x.ticks, every = named && Math.ceil(named.length / most);
  const xTicks = named ? named.filter((_, i) => i % every === 0) : (log ? logTicks : linearTicks)(x0, x1, most).map((t) => [t, short(t)]);
  for (const [t, text] of xTicks) {
    grid.append(draw("line", { x1: sx(t), x2: sx(t), y1: 12, y2: bottom, class: "grid" }));
    grid.append(draw("text", { x: sx(t), y: bottom + 18, "text-anchor": "middle" }, text));
  }
  grid.append(draw("path", { d: `M${left} 12V${bottom}H${width - 6}`, class: "frame" }));
  grid.append(draw("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle", class: "name" }, spec.x.label));
  grid.append(draw("text", { transform: `translate(13 ${(12 + bottom) / 2}) rotate(-90)`, "text-anchor": "middle", class: "name" }, spec.y.label));
  const inside = (y) => Math.min(Math.max(y, y0), y1);
  for (const rule of spec.rules || []) {
    if (!known(rule.y) || rule.y < y0 || rule.y > y1) continue;
    grid.append(draw("line", { x1: left, x2: width - 6, y1: sy(rule.y), y2: sy(rule.y), class: rule.dashed ? "rule dashed" : "rule" }));
    if (rule.text) grid.append(nameOfLine(rule, left, width, sx, sy, marks));
  }
  if (spec.steps && spec.steps.length) {
    const path = spec.steps.map(([x, y], i) => (i ? `H${sx(x)}V${sy(inside(y))}` : `M${sx(x)} ${sy(inside(y))}`)).join("");
    grid.append(draw("path", { d: path, class: "steps" }));
  }
  for (const line of spec.lines || []) {
    let pen = "";
    const path = line.points.map(([x, y]) => {
      if (!known(y)) return (pen = "");
      const part = `${pen || "M"}${sx(x).toFixed(1)} ${sy(inside(y)).toFixed(1)}`;
      pen = "L";
      return part;
    });
    grid.append(draw("path", { d: path.join(""), class: `line c${line.color}`, "stroke-dasharray": DASHES[line.dash || 0] }));
  }
  root.append(grid);
  const nodes = marks.map((m, k) => markNode(m, k === chosen(), sx, sy, [y0, y1]));
  root.append(...nodes);
  if (nodes.length) reachable(root, nodes, marks, chosen, choose);
  return root;
}

// what a line across stands for: above or below one of its ends, else along it, where no mark is
function nameOfLine(rule, left, width, sx, sy, marks) {
  const long = 7 * rule.text.length, y = sy(rule.y);
  const free = ({ x, end, base }) => {
    const from = end ? x - long : x;
    return marks.every((m) => {
      const at = sx(m.x) + (m.shift || 0), top = sy(known(m.high) ? m.high : m.y) - 7, low = sy(known(m.low) ? m.low : m.y) + 7;
      return at < from - 8 || at > from + long + 8 || low < base - 12 || top > base + 3;
    });
  };
  const ends = [{ x: width - 10, end: true }, { x: left + 6 }], along = [1, 2, 3, 4, 5].map((k) => ({ x: left + (k / 6) * (width - left) }));
  const spots = [...ends, ...along].flatMap((spot) => [y - 5, y + 15].map((base) => ({ ...spot, base })));
  const spot = spots.find(free) || spots[0];
  return draw("text", { x: spot.x, y: spot.base, "text-anchor": spot.end ? "end" : "start", class: "note" }, rule.text);
}

function markNode(m, first, sx, sy, [y0, y1]) {
  const out = m.y < y0 ? -1 : m.y > y1 ? 1 : 0, y = out ? sy(out < 0 ? y0 : y1) : sy(m.y);
  const node = draw("g", {
    class: `point${m.small ? " small" : ""}`, transform: `translate(${(sx(m.x) + (m.shift || 0)).toFixed(1)} ${y.toFixed(1)})`,
    tabindex: first ? 0 : -1, role: m.href ? "link" : "img", "aria-label": m.lines.join(", "),
  });
  if (out) {
    const tall = 22 * out;
    node.append(draw("path", { d: `M0 ${tall}V${0.3 * tall}M-5 ${0.45 * tall}L0 0L5 ${0.45 * tall}`, class: `arrow c${m.color}` }));
  } else {
    if (known(m.low) && known(m.high)) {
      const [a, b] = [sy(Math.min(m.high, y1)) - y, sy(Math.max(m.low, y0)) - y];
      node.append(draw("path", { d: `M0 ${a}V${b}M-4 ${a}H4M-4 ${b}H4`, class: `bar c${m.color}` }));
    }
    node.append(shape(m.shape, m.color, { radius: m.small ? 3 : 5.5, hollow: m.hollow, faint: m.small }));
  }
  node.append(draw("circle", { r: 11, class: "ring" }));
  return node;
}

// one tab stop per figure; arrow keys move between points, Enter opens what a point stands for
function reachable(root, nodes, marks, chosen, choose) {
  const visible = (k) => nodes[k].style.display !== "none";
  const tell = (k) => showTip(marks[k].lines, nodes[k].querySelector(".mark, .arrow"));
  const open = (k) => marks[k].href && (location.hash = marks[k].href);
  let hovered = -1;
  function hover(k) {
    if (hovered >= 0) nodes[hovered].classList.remove("hover");
    hovered = k;
    if (k < 0) return hideTip();
    nodes[k].classList.add("hover");
    tell(k);
  }
  function nearest(event) {
    let best = -1, least = 26 ** 2;
    nodes.forEach((node, k) => {
      if (!visible(k)) return;
      const box = node.querySelector(".mark, .arrow").getBoundingClientRect();
      const d = (box.left + box.width / 2 - event.clientX) ** 2 + (box.top + box.height / 2 - event.clientY) ** 2;
      if (d < least) [best, least] = [k, d];
    });
    return best;
  }
  root.addEventListener("pointermove", (event) => event.pointerType !== "touch" && hover(nearest(event)));
  root.addEventListener("pointerleave", () => hover(-1));
  root.addEventListener("click", (event) => {
    const k = nearest(event);
    if (k >= 0 && k === hovered) open(k);
    else hover(k);
  });
  nodes.forEach((node, k) => {
    node.addEventListener("focus", () => {
      nodes[chosen()].setAttribute("tabindex", -1);
      choose(k);
      node.setAttribute("tabindex", 0);
      tell(k);
    });
    node.addEventListener("blur", hideTip);
  });
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    let k = chosen();
    if (event.key === "Enter") return void open(k);
    if (event.key === "Home") k = 0;
    else if (event.key === "End") k = nodes.length - 1;
    else if (step) do k = (k + step + nodes.length) % nodes.length; while (!visible(k) && k !== chosen());
    else return;
    event.preventDefault();
    nodes[k].focus({ preventScroll: true });
  });
}
