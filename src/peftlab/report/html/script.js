"use strict";
(function () {
  function value(cell) {
    const raw = cell.dataset.sort;
    if (raw === undefined || raw === "") return null;
    const number = Number(raw);
    return Number.isNaN(number) ? raw : number;
  }
  function compare(a, b, sign) {
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1; // what is missing stays at the end
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
  }
  document.querySelectorAll("table.sortable").forEach(function (table) {
    const heads = Array.from(table.tHead.rows[0].cells);
    const body = table.tBodies[0];
    const status = document.getElementById(table.dataset.status);
    heads.forEach(function (head, column) {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", function () {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = Array.from(body.rows);
        rows.sort(function (a, b) { return compare(value(a.cells[column]), value(b.cells[column]), down ? -1 : 1); });
        rows.forEach(function (row) { body.appendChild(row); });
        if (status) status.textContent = "Sorted by " + button.textContent.trim() + (down ? ", descending" : ", ascending");
      });
    });
  });
  const data = JSON.parse(document.getElementById("report-data").textContent);
  document.querySelectorAll("button[data-table]").forEach(function (button) {
    button.hidden = false;
    button.addEventListener("click", function () {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([data.tables[Number(button.dataset.table)]], { type: "text/csv" }));
      link.download = data.study + ".csv";
      link.click();
      URL.revokeObjectURL(link.href);
    });
  });
})();
