"use strict";
// The page reads well without this: it adds sorting by column, and hiding of strategies.
(() => {
  const units = { min: 60, h: 3600, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15 };
  const figure = /^[<>≥≤~ ]*([+−-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*([A-Za-zµ%]*)/;

  const value = (text) => {
    const found = figure.exec(text);
    if (!found) return null;
    return Number(found[1].replace("−", "-").replaceAll(",", "")) * (units[found[2]] ?? 1);
  };
  const absent = (text) => text === "" || text.startsWith("—");

  const compare = (a, b) => {
    const x = value(a), y = value(b);
    if (x !== null && y !== null) return x - y;
    if (x !== null || y !== null) return x !== null ? -1 : 1;
    return a.localeCompare(b, undefined, { numeric: true });
  };

  for (const table of document.querySelectorAll("main table")) {
    const body = table.tBodies[0], rows = [...body.rows], headings = [...table.tHead.rows[0].cells];
    if (rows.length < 2) continue;
    headings.forEach((heading, column) => {
      const button = document.createElement("span"); // real buttons are left out where print repeats headings
      button.role = "button";
      button.tabIndex = 0;
      button.append(...heading.childNodes);
      heading.append(button);
      heading.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        heading.click();
      });
      heading.addEventListener("click", () => {
        const next = { ascending: "descending", descending: null }[heading.ariaSort];
        const order = next === undefined ? "ascending" : next;
        for (const other of headings) other.removeAttribute("aria-sort");
        if (order) heading.ariaSort = order;
        const text = (row) => row.cells[column].textContent.trim();
        const sorted = order ? [...rows].sort((one, two) => {
          const a = text(one), b = text(two);
          if (absent(a) || absent(b)) return absent(a) - absent(b);
          return order === "ascending" ? compare(a, b) : compare(b, a);
        }) : rows;
        body.append(...sorted);
      });
    });
  }

  const chooser = document.getElementById("strategies");
  if (!chooser) return;
  const boxes = [...chooser.querySelectorAll("input")];
  const show = () => {
    const gone = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
    for (const box of boxes) {
      for (const mark of document.getElementsByClassName(box.value)) {
        mark.classList.toggle("gone", [...mark.classList].some((name) => gone.has(name)));
      }
    }
  };
  chooser.addEventListener("change", show);
  chooser.hidden = false;
  show();
})();
