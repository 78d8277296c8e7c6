// Elements, numbers in words, and the one tooltip. Text only ever becomes text nodes.
const data = JSON.parse(document.getElementById("report-data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(9)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const known = (value) => typeof value === "number" && Number.isFinite(value);
const minus = (text) => text.replaceAll("-", "−");
// As words.show and all of Python round: what lies exactly between two numbers goes to the even one; toFixed takes the larger.
function fixed(value, digits) {
  const size = Math.abs(value), up = size.toFixed(digits), tie = (size * 2 ** (digits + 1)) % 2 === 1;
  const text = tie && Number(up.at(-1)) % 2 ? (size - 0.5 * 10 ** -digits).toFixed(digits) : up;
  return value < 0 ? `-${text}` : text;
}
function rounded(value, digits) {
  const places = digits - 1 - Number(value.toExponential().split("e")[1]);
  return Number(places < 0 || places > 100 ? value.toPrecision(digits) : fixed(value, places));
}
const significant = (value, digits) => minus(String(rounded(value, digits)));
const grouped = (value) => fixed(value, 0).replace(/\B(?=(\d{3})+$)/g, ",");
const percent = `${+(100 * data.confidence).toPrecision(6)} %`;

const LARGE = 9999.5; // from here on four digits are a whole number (analysis/words.py)

function show(value, missing = "–") {
  if (!known(value)) return missing;
  if (data.share) return minus(`${fixed(100 * value, 2)} %`);
  return Math.abs(value) >= LARGE ? minus(grouped(value)) : significant(value, 4);
}
function showDifference(value, missing = "–") {
  if (!known(value)) return missing;
  const plain = Math.abs(value) >= 999.5 ? grouped(value) : String(rounded(value, 3));
  const text = data.share ? fixed(100 * value, 2) : plain;
  if (Number(text) === 0) return text.replace("-", ""); // what rounds to nothing has no sign
  return minus(value < 0 ? text : `+${text}`);
}
function showInterval(low, high, difference = false) {
  if (!known(low) || !known(high)) return "";
  const large = !data.share && Math.max(Math.abs(low), Math.abs(high)) >= LARGE; // as words.show_interval: both ends alike
  const one = difference ? showDifference : (v) => (large ? minus(grouped(v)) : show(v).replace(" %", ""));
  return `[${one(low)}, ${one(high)}]`;
}
const LEVELS = [0.1, 0.05, 0.025, 0.02, 0.01];
function showP(p) {
  if (!known(p)) return "–";
  if (p < 0.001) return "< 0.001";
  let text = fixed(p, 3); // as words.show_p: never rounded onto a level that it is not
  for (let digits = 4; digits < 10 && Number(text) !== p && LEVELS.includes(Number(text)); digits += 1) text = fixed(p, digits);
  return text;
}
const points = data.share ? " percentage points" : "";
function showCost(key, value) {
  if (!known(value)) return "not measured";
  const cost = data.costs.find((c) => c.key === key);
  const text = value >= 1000 || Number.isInteger(value) ? grouped(value) : significant(value, 3);
  return cost && cost.unit ? `${text} ${cost.unit}` : text;
}
function short(value) {
  for (const [size, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= size) return minus(String(Number((value / size).toPrecision(3)))) + letter;
  }
  return significant(value, 3);
}

const tip = el("div", { class: "tip", "aria-hidden": "true", hidden: true });
document.body.append(tip);
let anchor = null;
function showTip(lines, mark) {
  anchor = mark;
  tip.replaceChildren(...lines.map((line, i) => el(i ? "div" : "strong", {}, line)));
  tip.hidden = false;
  placeTip();
}
function placeTip() {
  const box = anchor.getBoundingClientRect(), room = tip.getBoundingClientRect(), above = box.top - room.height - 8;
  tip.style.left = `${Math.min(Math.max(8, box.left + box.width / 2 - room.width / 2), innerWidth - room.width - 8)}px`;
  tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
}
function hideTip() {
  tip.hidden = true;
  anchor = null;
}
// what the keyboard is on keeps its words while the page moves
addEventListener("scroll", () => anchor && (anchor.closest(":focus") ? placeTip() : hideTip()), { passive: true });
addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});
