"use strict";
// Reads a chart out below the pointer, from the row of its table that is nearest. All else works without scripts.
for (const figure of document.querySelectorAll("figure")) {
  const chart = figure.querySelector("svg.chart");
  const rows = [...figure.querySelectorAll("tr[data-x]")];
  if (!chart || rows.length === 0) continue;
  const places = rows.map((row) => Number(row.dataset.x));
  const heads = [...figure.querySelectorAll("thead th")].map((head) => head.textContent);
  const cursor = document.createElementNS(chart.namespaceURI, "line");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y2", chart.getAttribute("height"));
  const readout = document.createElement("p");
  readout.className = "readout";
  readout.setAttribute("aria-hidden", "true"); // the table says the same
  chart.after(readout);

  const leave = () => {
    cursor.remove();
    readout.textContent = "";
  };
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect(), style = getComputedStyle(chart);
    const left = parseFloat(style.paddingLeft), width = box.width - left - parseFloat(style.paddingRight);
    const at = 100 * (event.clientX - box.left - left) / width;
    let nearest = 0;
    for (let i = 1; i < places.length; i++) {
      if (Math.abs(places[i] - at) < Math.abs(places[nearest] - at)) nearest = i;
    }
    cursor.setAttribute("x1", places[nearest] + "%");
    cursor.setAttribute("x2", places[nearest] + "%");
    chart.append(cursor);
    readout.textContent = [...rows[nearest].cells].map((cell, i) => heads[i] + " " + cell.textContent).join(" · ");
  });
}
