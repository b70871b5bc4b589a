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
if (form) {
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
  window.addEventListener("hashchange", () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.hidden) { words.value = status.value = ""; filter(); target.scrollIntoView(); }
  });
}
// The first column stays in sight when a table is scrolled; the second one too, beside it.
for (const table of document.querySelectorAll("table.pinned")) {
  const pin = () => table.style.setProperty("--first", `${table.rows[0].cells[0].getBoundingClientRect().width}px`);
  new ResizeObserver(pin).observe(table.rows[0].cells[0]);
  pin();
}
// Values of the points of a chart, by pointer or by arrow keys.
const tip = document.getElementById("tip");
for (const svg of document.querySelectorAll("figure svg")) {
  const points = [...svg.querySelectorAll(".tip")];
  if (!points.length) continue;
  let chosen = -1;
  const centre = (point) => {
    const box = point.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const hide = () => {
    points[chosen]?.classList.remove("chosen");
    tip.hidden = true;
    chosen = -1;
  };
  const show = (index) => {
    points[chosen]?.classList.remove("chosen");
    chosen = index;
    const [x, y] = centre(points[index]);
    points[index].classList.add("chosen");
    tip.textContent = points[index].dataset.tip;
    tip.hidden = false;
    const width = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(8, Math.min(x - tip.offsetWidth / 2, width - tip.offsetWidth - 8)) + window.scrollX}px`;
    tip.style.top = `${y + window.scrollY - tip.offsetHeight - 12}px`;
  };
  svg.tabIndex = 0;
  svg.addEventListener("pointermove", (event) => {
    let [best, index] = [24, -1];
    points.forEach((point, i) => {
      const [x, y] = centre(point);
      const distance = Math.hypot(x - event.clientX, y - event.clientY);
      if (distance < best) [best, index] = [distance, i];
    });
    if (index < 0) hide(); else if (index !== chosen) show(index);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const last = points.length - 1;
    const next = { ArrowRight: chosen + 1, ArrowDown: chosen + 1, ArrowLeft: chosen - 1, ArrowUp: chosen - 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") hide();
    if (next === undefined) return;
    event.preventDefault();
    show(Math.max(0, Math.min(next, last)));
  });
}
for (const moment of ["beforeprint", "afterprint"]) {
  window.addEventListener(moment, () => document.querySelectorAll("details").forEach((d) => (d.open = moment === "beforeprint")));
}
