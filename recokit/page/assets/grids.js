// Tables sort by a click on a column's head: numbers by their value, missing ones as the least, other cells by their text.
const numberOf = (key) => (Number.isFinite(Number.parseFloat(key)) ? Number.parseFloat(key) : -Infinity);
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => {
      const number = head.classList.contains("number");
      const now = head.getAttribute("aria-sort");
      const up = now ? now === "descending" : !number;
      const key = (row) => (number ? numberOf(row.cells[column].dataset.key) : row.cells[column].textContent);
      const collator = new Intl.Collator("en", { numeric: true });
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = up ? [key(a), key(b)] : [key(b), key(a)];
        return number ? (x === y ? 0 : x - y) : collator.compare(x, y);
      });
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      table.tBodies[0].append(...rows);
    });
  });
}
