"use strict";
/* Pointing at a trial's line marks its row, and dragging along an axis leaves out the others. The page is whole without. */
(() => {
  const drawing = document.getElementById("coordinates");
  if (!drawing) return;
  const lines = [...drawing.querySelectorAll("path[data-trial]")];
  const rows = new Map([...document.querySelectorAll("#trials tbody tr")].map((row) => [row.cells[0].textContent, row]));
  const top = Number(drawing.dataset.top), bottom = Number(drawing.dataset.bottom);
  const ranges = new Map();

  for (const line of lines) {
    const row = rows.get(line.dataset.trial);
    const mark = (on) => [line, row].forEach((one) => one?.classList.toggle("pointed", on));
    for (const one of [line, row]) {
      one?.addEventListener("pointerenter", () => mark(true));
      one?.addEventListener("pointerleave", () => mark(false));
    }
  }

  function show() {
    let kept = 0;
    for (const line of lines) {
      const heights = line.dataset.heights.split(" ").map(Number);
      const out = [...ranges].some(([axis, [low, high]]) => heights[axis] < low || heights[axis] > high);
      line.classList.toggle("out", out);
      rows.get(line.dataset.trial)?.classList.toggle("out", out);
      kept += out ? 0 : 1;
    }
    const state = document.getElementById("brush-state");
    state.textContent = ranges.size ? `${kept} of ${lines.length} trials are within the marked ranges.` : "";
  }

  function rectangle(parent, name, x, y, width, height) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    made.setAttribute("class", name);
    for (const [key, value] of Object.entries({ x, y, width, height })) made.setAttribute(key, value);
    parent.append(made);
    return made;
  }

  drawing.querySelectorAll(".axis").forEach((axis, index) => {
    const x = Number(axis.dataset.x);
    const grip = rectangle(axis, "grip", x - 14, top - 8, 28, drawing.viewBox.baseVal.height - top + 8);
    let from = null, brush = null;
    const height = (event) => (event.clientY - drawing.getBoundingClientRect().top);
    grip.addEventListener("pointerdown", (event) => {
      from = height(event);
      grip.setPointerCapture(event.pointerId);
      brush?.remove();
      brush = rectangle(axis, "brush", x - 7, from, 14, 0);
      ranges.delete(index);
      show();
    });
    grip.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const [low, high] = [from, height(event)].sort((a, b) => a - b);
      brush.setAttribute("y", low);
      brush.setAttribute("height", high - low);
      ranges.set(index, [low, high]);
      show();
    });
    const end = () => {
      if (from === null) return;
      const range = ranges.get(index);
      if (!range || range[1] - range[0] < 4) {
        ranges.delete(index);
        brush.remove();
      }
      from = null;
      show();
    };
    grip.addEventListener("pointerup", end);
    grip.addEventListener("pointercancel", end);
  });
  document.getElementById("brush-help").hidden = false;
})();
