// Filters and folds. Without it every row and every number is still there.
(() => {
  const rows = [...document.querySelectorAll("details.row")];
  const form = document.querySelector(".filter");
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const row = target && target.closest("details.row");
    if (!row) return;
    row.hidden = false;
    row.open = true;
    row.scrollIntoView();
    row.querySelector("summary").focus({ preventScroll: true });
  };
  addEventListener("hashchange", reveal);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#row-"]');
    if (link && link.hash === location.hash) reveal();
  });
  reveal();
  if (!form) return;
  form.hidden = false;
  const text = form.querySelector("input[type=search]");
  const boxes = [...form.querySelectorAll("input[type=checkbox]")];
  const said = form.querySelector("output");
  const filter = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const known = boxes.map((box) => box.value);
    const wanted = boxes.filter((box) => box.checked).map((box) => box.value);
    let shown = 0;
    for (const row of rows) {
      const outcome = known.includes(row.dataset.outcome) ? row.dataset.outcome : "other";
      row.hidden = !(wanted.includes(outcome) && words.every((word) => row.dataset.text.includes(word)));
      shown += !row.hidden;
    }
    said.textContent = `${shown} of ${rows.length} rows`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of form.querySelectorAll("button"))
    button.addEventListener("click", () => rows.forEach((row) => row.hidden || (row.open = button.value === "open")));
  filter();
})();
