// Sorting and filtering of tables that are there already. A missing value stays last, however one sorts.
function sortable(table) {
  const status = document.getElementById("table-status");
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const value = (row) => {
        const cell = row.cells[column];
        return cell.hasAttribute("data-sort") ? cell.getAttribute("data-sort") : cell.textContent.trim();
      };
      const keyed = [...table.tBodies[0].rows].map((row, i) => ({ row, i, text: value(row), number: Number(value(row)) }));
      const numbers = keyed.every((k) => k.text === "" || !Number.isNaN(k.number));
      keyed.sort((a, b) => {
        if ((a.text === "") !== (b.text === "")) return a.text === "" ? 1 : -1;
        const order = numbers ? a.number - b.number : a.text.localeCompare(b.text, "en", { numeric: true });
        return (down ? -order : order) || a.i - b.i;
      });
      table.tBodies[0].append(...keyed.map((k) => k.row));
      heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      status.textContent = `Sorted by ${button.textContent.trim()}, ${down ? "descending" : "ascending"}.`;
    });
  });
}

// <form data-filter="id of a table">: a search field, and selects that match the row's attribute of their name
function filterable(form) {
  const table = document.getElementById(form.dataset.filter), count = form.querySelector("output");
  const rows = [...table.tBodies[0].rows];
  const search = form.querySelector("input[type=search]"), selects = [...form.querySelectorAll("select")];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  function apply() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const fits = words.every((word) => texts.get(row).includes(word)) && selects.every((s) => !s.value || row.getAttribute(`data-${s.name}`) === s.value);
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = shown === rows.length ? `${shown} shown` : `${shown} of ${rows.length} shown`;
  }
  for (const event of ["input", "change"]) form.addEventListener(event, apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  form.hidden = false;
  form.filterNow = apply;
  apply();
}

function savable(button) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const link = el("a", { href: URL.createObjectURL(new Blob([data.tables[Number(button.dataset.table)]], { type: "text/csv" })), download: `${data.study}.csv` });
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
