"use strict";
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const headers = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const original = [...body.rows];
  const key = (row, column) => {
    const value = row.cells[column].dataset.value;
    return value === undefined ? null : isNaN(value) || value === "" ? value : Number(value);
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  headers.forEach((header, column) => {
    if (!original.some((row) => row.cells[column].dataset.value !== undefined)) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.replaceChildren(button);
    header.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const next = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of headers) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const rows = original.map((row) => [row, key(row, column)]);
      rows.sort(([, a], [, b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
      body.append(...rows.map(([row]) => row));
    });
  });
}
const form = document.querySelector("form.filter");
const rows = [...document.querySelectorAll("table.runs tbody tr")];
const texts = rows.map((row) => row.textContent.toLowerCase());
const [words, status, count] = [form.querySelector("input"), form.querySelector("select"), form.querySelector("output")];
const column = [...document.querySelectorAll("table.runs thead th")].findIndex((th) => th.textContent === "Status");
const filter = () => {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  rows.forEach((row, i) => {
    const fits = wanted.every((word) => texts[i].includes(word)) && (!status.value || row.cells[column].dataset.value === status.value);
    row.hidden = !fits;
    shown += fits;
  });
  count.textContent = shown === rows.length ? `${rows.length} runs` : `${shown} of ${rows.length} runs`;
};
form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
filter();
const reveal = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.hidden) { words.value = status.value = ""; filter(); target.scrollIntoView(); }
};
window.addEventListener("hashchange", reveal);
for (const moment of ["beforeprint", "afterprint"]) {
  window.addEventListener(moment, () => document.querySelectorAll("details").forEach((d) => (d.open = moment === "beforeprint")));
}
