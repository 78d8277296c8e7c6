// The page's own doing: what the address names, light and dark, and paper.
const report = [document.querySelector("header"), document.getElementById("report")], view = document.getElementById("run-view");
const section = document.getElementById("compare"), compareArms = section && comparable(section);
const runFilter = document.querySelector("form[data-filter=run-table]"), title = document.title;

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("form[data-filter]").forEach(filterable);
document.querySelectorAll("button[data-table]").forEach(savable);
document.querySelectorAll("[data-setting].explore").forEach(figuresOf);

let opener = null; // the link to the run that is shown
function route() {
  hideTip();
  const address = decodeURIComponent(location.hash.slice(1)), run = byId.get(address.replace(/^run-/, ""));
  const opened = address.startsWith("run-") && run !== undefined;
  const was = !view.hidden;
  if (opened && !was) opener = document.activeElement.closest("a, .point");
  report.forEach((part) => (part.hidden = opened));
  view.hidden = !opened;
  if (opened) {
    const page = runPage(run);
    view.replaceChildren(...page.parts);
    page.ready();
    document.title = `${page.title} · ${data.study}`;
    scrollTo({ top: 0, behavior: "instant" });
    view.querySelector("h1").focus({ preventScroll: true });
    return;
  }
  view.replaceChildren();
  document.title = title;
  const pair = /^compare-(\d+)-(\d+)-(\d+)$/.exec(address), arm = /^runs-(\d+)-(\d+)$/.exec(address);
  if (pair && compareArms) compareArms(...pair.slice(1).map(Number));
  if (arm && runFilter && data.settings[arm[1]] && data.settings[arm[1]].arms[arm[2]]) {
    runFilter.reset();
    runFilter.querySelector("select[name=arm]").value = `${arm[1]}-${arm[2]}`;
    setTimeout(runFilter.filterNow);
  }
  const target = document.getElementById(pair ? "compare" : arm ? "runs" : address);
  const back = was && opener && (target || document.body).contains(opener) ? opener : null;
  if (!(was || pair || arm) || !(back || target)) return;
  const show = () => (back ? back.scrollIntoView({ block: "center" }) : target.scrollIntoView());
  land(back || target.querySelector("h2") || target);
  show();
  if (was) setTimeout(show, 60); // figures that were hidden may have been drawn anew, higher or lower
}
// the focus follows the view, so that Tab goes on from what is seen
function land(place) {
  if (place.tabIndex < 0) place.setAttribute("tabindex", -1);
  place.focus({ preventScroll: true });
}
addEventListener("hashchange", route);

const dark = matchMedia("(prefers-color-scheme: dark)"), theme = document.getElementById("theme");
function paint() {
  const chosen = theme.value === "auto" ? (dark.matches ? "dark" : "light") : theme.value;
  document.documentElement.dataset.theme = chosen;
}
theme.parentElement.hidden = false;
theme.addEventListener("change", paint);
dark.addEventListener("change", paint);
paint();
document.querySelectorAll(".swatch[data-shape]").forEach((spot) => spot.append(key(Number(spot.dataset.shape), spot.dataset.color)));

// a figure that fits is no stop of the keyboard; one that scrolls sideways is, so that the arrow keys move it
const fitting = new ResizeObserver((entries) => entries.forEach(({ target }) => {
  if (target.scrollWidth > target.clientWidth) target.setAttribute("tabindex", 0);
  else target.removeAttribute("tabindex");
}));
document.querySelectorAll(".plot").forEach((area) => fitting.observe(area));

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("header details, #factors details, #statements details, #reproduce details, #run-view details")];
  opened.forEach((part) => (part.open = true));
  fitPaper(true);
});
addEventListener("afterprint", () => {
  opened.forEach((part) => (part.open = false));
  fitPaper(false);
});

if ("IntersectionObserver" in window) {
  const links = new Map([...document.querySelectorAll("#contents a")].map((a) => [a.hash.slice(1), a]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((a) => a.removeAttribute("aria-current"));
      const link = links.get(entry.target.id);
      if (link) link.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  document.querySelectorAll("main > section[id]").forEach((part) => watch.observe(part));
}
route();
