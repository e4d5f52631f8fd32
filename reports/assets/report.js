// Tables sort by a click on a header: numbers, durations and intervals by size, what has no value last.
"use strict";

function size(text) {
  const time = /^(?:(\d+) h ?)?(?:(\d+) min ?)?(?:([\d.]+) s)?$/.exec(text);
  if (text && time) return 3600 * (time[1] || 0) + 60 * (time[2] || 0) + Number(time[3] || 0);
  if (/^[[+]?-?inf\b/.test(text)) return text.includes("-") ? -Infinity : Infinity;
  return parseFloat(text.replace(/^[[+]+/, "").replace(/(\d) (?=\d{3}\b)/g, "$1"));
}

function compare(a, b) {
  const empty = (text) => text === "" || text === "—" || text === "NaN" || text.startsWith("not measured");
  if (empty(a.text) || empty(b.text)) return [empty(a.text) - empty(b.text), 1];
  const [x, y] = [size(a.text), size(b.text)];
  if (isNaN(x) || isNaN(y)) return [isNaN(x) - isNaN(y) || a.text.localeCompare(b.text), 0];
  return [x === y ? 0 : x - y, 0];
}

function sortBy(header) {
  const falling = header.getAttribute("aria-sort") === "ascending";
  for (const other of header.parentNode.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const body = header.closest("table").tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, text: row.cells[header.cellIndex].textContent.trim() }));
  rows.sort((a, b) => {
    const [order, fixed] = compare(a, b);
    return falling && !fixed ? -order : order;
  });
  body.append(...rows.map(({ row }) => row));
}

for (const table of document.querySelectorAll("table")) {
  const headers = table.tHead.rows[0].cells;
  if (headers.length > 2 && table.tBodies[0] && table.tBodies[0].rows.length > 1) {
    for (const header of headers) {
      const button = document.createElement("button");
      button.append(...header.childNodes);
      button.addEventListener("click", () => sortBy(header));
      header.append(button);
    }
  }
}

let closed = [];
addEventListener("beforeprint", () => {
  closed = Array.from(document.querySelectorAll("details:not([open])"));
  for (const fold of closed.slice(0, 1)) fold.open = true; // the config once, it is the same on every page
});
addEventListener("afterprint", () => {
  for (const fold of closed) fold.open = false;
});
