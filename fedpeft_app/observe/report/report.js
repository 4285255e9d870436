// Reads what is in the page, fetches nothing. Without it all charts and tables are there, too.
"use strict";

const make = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};

// A chart is one stop of the Tab key; arrow keys, Home and End walk along it.
function follow(figure) {
  const plot = figure.querySelector(".plot");
  const stops = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
  const groups = [...plot.querySelectorAll("g[data-series]")];
  const names = [...figure.querySelectorAll(".legend li span")].map((one) => one.textContent);
  const quantity = figure.querySelector(".axis").textContent;
  const title = figure.querySelector("figcaption").textContent;
  const free = plot.hasAttribute("data-free");
  const cursor = make("div", { class: "cursor", hidden: "" });
  const tip = make("div", { class: "tip", hidden: "" });
  let at = -1;
  plot.append(cursor, tip);
  const isOn = (series) => !groups[series].classList.contains("off");
  const nameOf = (series) => names[series] || title;
  const visible = (index) => stops[index][2].filter(([series]) => isOn(series));

  function show(index) {
    const [across, where] = stops[index];
    const items = visible(index);
    at = index;
    cursor.style.left = `${100 * across}%`;
    const heading = `${quantity}: ${where}`;
    const rows = items.map(([series, , text]) => {
      const row = make("div", { class: groups[series].getAttribute("class") });
      row.append(make("i"), make("span", {}, nameOf(series)), make("b", {}, text));
      return row;
    });
    tip.replaceChildren(make("strong", {}, heading), ...rows);
    const isRight = across > 0.5;
    tip.style.left = isRight ? "auto" : `calc(${100 * across}% + 12px)`;
    tip.style.right = isRight ? `calc(${100 * (1 - across)}% + 12px)` : "auto";
    cursor.hidden = tip.hidden = false;
    plot.setAttribute("aria-valuenow", index);
    const said = items.map(([series, , text]) => `${nameOf(series)} ${text}`).join(", ");
    plot.setAttribute("aria-valuetext", `${heading}; ${said}`);
  }
  function hide() {
    cursor.hidden = tip.hidden = true;
  }
  function nearest(event) {
    const box = plot.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, least = Infinity;
    stops.forEach(([across, , items], index) => {
      if (!visible(index).length) return;
      const dx = across * box.width - x;
      const dy = free ? items[0][1] * box.height - y : 0;
      if (dx * dx + dy * dy < least) [best, least] = [index, dx * dx + dy * dy];
    });
    return best;
  }
  function move(event) {
    const index = nearest(event);
    if (index >= 0) show(index); else hide();
  }
  function walk(step) {
    for (let index = at + step; index >= 0 && index < stops.length; index += step)
      if (visible(index).length) return show(index);
  }
  if (!stops.length) return;
  for (const [key, value] of Object.entries({
    tabindex: 0, role: "slider", "aria-label": `${title}, by ${quantity}`,
    "aria-valuemin": 0, "aria-valuemax": stops.length - 1, "aria-valuenow": 0,
    "aria-valuetext": "arrow keys tell the values",
  })) plot.setAttribute(key, value);
  plot.addEventListener("pointermove", move);
  plot.addEventListener("pointerdown", move);
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const backward = ["ArrowLeft", "ArrowDown"], forward = ["ArrowRight", "ArrowUp"];
    if (event.key === "Escape") return hide();
    if (event.key === "Home") at = -1;
    if (event.key === "End") at = stops.length;
    if (backward.includes(event.key) || event.key === "End") walk(-1);
    else if (forward.includes(event.key) || event.key === "Home") walk(1);
    else return;
    event.preventDefault();
  });
  for (const item of figure.querySelectorAll(".legend li")) {
    const button = make("button", { type: "button", "aria-pressed": "true" });
    button.append(...item.childNodes);
    item.append(button);
    button.addEventListener("click", () => {
      const isOff = groups[item.dataset.series].classList.toggle("off");
      button.setAttribute("aria-pressed", String(!isOff));
      hide();
    });
  }
}

// Charts in one place: one at a time, chosen by tabs.
function tabbed(panel, number) {
  const figures = [...panel.querySelectorAll("figure")];
  if (figures.length < 2) return;
  const list = make("div", { class: "tabs", role: "tablist", "aria-label": "Which chart" });
  const tabs = figures.map((figure, index) => {
    figure.id = `chart-${number}-${index}`;
    figure.setAttribute("role", "tabpanel");
    const tab = make("button", { type: "button", role: "tab", "aria-controls": figure.id }, figure.dataset.tab);
    tab.addEventListener("click", () => choose(index));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const next = (index + step + tabs.length) % tabs.length;
      choose(next);
      tabs[next].focus();
      event.preventDefault();
    });
    return tab;
  });
  function choose(chosen) {
    figures.forEach((figure, index) => {
      figure.hidden = index !== chosen;
      tabs[index].setAttribute("aria-selected", String(index === chosen));
      tabs[index].tabIndex = index === chosen ? 0 : -1;
    });
  }
  list.append(...tabs);
  panel.prepend(list);
  panel.classList.add("tabbed");
  choose(0);
}

function copied(pre) {
  if (!navigator.clipboard) return;
  const button = make("button", { type: "button", class: "copier" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(pre.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it by hand";
    }
  });
  const box = make("div", { class: "copying" });
  pre.replaceWith(box);
  box.append(pre, button);
}

document.querySelectorAll("figure.chart").forEach(follow);
document.querySelectorAll(".panel").forEach(tabbed);
document.querySelectorAll("pre.copy").forEach(copied);
