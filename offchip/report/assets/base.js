"use strict";
// What every page uses: elements, formats, theme, hint beside the pointer, tables. Text is only ever written
// as text nodes, so that a name from a user's file cannot become markup.

const DATA = JSON.parse(document.getElementById("data").textContent);

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.setAttribute("class", value);
    else if (key === "value" || key === "checked" || key === "disabled") node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// Formats ----------------------------------------------------------------------------------------------
function figures(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e7) return String(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(digits - 1).replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}
function scaled(value, steps, unit, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 " + unit;
  const size = Math.abs(value);
  let [factor, prefix] = steps[steps.length - 1];
  for (const [bound, name] of steps) if (size >= bound * 0.99999) { factor = bound; prefix = name; break; }
  return `${figures(value / factor, digits)} ${prefix}${unit}`;
}
const DECIMAL = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
const SMALL = [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"], [1e-12, "p"]];
const BINARY = [[2 ** 50, "Pi"], [2 ** 40, "Ti"], [2 ** 30, "Gi"], [2 ** 20, "Mi"], [2 ** 10, "Ki"], [1, ""]];
const seconds = (value, digits) => scaled(value, SMALL, "s", digits);
const ps = (value, digits) => seconds(value / 1e12, digits);
const bytes = (value, digits) => scaled(value, BINARY, "B", digits);
const joules = (value) => scaled(value, [[1e6, "M"], [1e3, "k"], ...SMALL], "J");
const amount = (value, unit) => scaled(value, DECIMAL, unit);
const many = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const percent = (value) => `${figures(value * 100, 3)} %`;

// Theme ------------------------------------------------------------------------------------------------
const themed = [];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const palette = () => Array.from({ length: 8 }, (_, index) => colour(`c${index}`));
function inkOn(background) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(background.slice(at, at + 2), 16) / 255);
  const light = [r, g, b].map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] > 0.2 ? "#101418" : "#ffffff";
}
function remembered(key, value) {
  try {
    if (value === undefined) return localStorage.getItem(key);
    localStorage.setItem(key, value);
  } catch { /* a browser may keep nothing for files */ }
  return null;
}
function repaint() { for (const draw of themed) draw(); }
function themeSwitch() {
  const root = document.documentElement;
  const choice = el("select", { id: "theme" }, ...["system", "light", "dark"].map((name) => el("option", { value: name }, name)));
  const apply = () => {
    if (choice.value === "system") root.removeAttribute("data-theme");
    else root.dataset.theme = choice.value;
    repaint();
  };
  const saved = remembered("offchip-theme");
  if (saved && [...choice.options].some((option) => option.value === saved)) choice.value = saved;
  choice.addEventListener("change", () => { remembered("offchip-theme", choice.value); apply(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  apply();
  return el("label", { class: "theme" }, "Theme ", choice);
}

// The colour of each of many names: the first seven by weight have one, the rest share grey.
function coloursOf(names, weights) {
  const ranked = names.map((_, index) => index).sort((a, b) => (weights[b] || 0) - (weights[a] || 0) || a - b);
  const slot = new Uint8Array(names.length).fill(7);
  ranked.slice(0, names.length <= 8 ? 8 : 7).forEach((index, place) => { slot[index] = place; });
  return slot;
}
const SHAPES = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  (r) => `M${-r},${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (r) => `M0,${-1.2 * r}L${1.15 * r},${0.9 * r}H${-1.15 * r}z`,
  (r) => `M0,${-1.35 * r}L${1.35 * r},0L0,${1.35 * r}L${-1.35 * r},0z`,
  (r) => `M0,${1.2 * r}L${1.15 * r},${-0.9 * r}H${-1.15 * r}z`,
  (r) => `M${-1.3 * r},${-r / 2}h${0.8 * r}v${-0.8 * r}h${r}v${0.8 * r}h${0.8 * r}v${r}h${-0.8 * r}v${0.8 * r}h${-r}v${-0.8 * r}h${-0.8 * r}z`,
  (r) => `M${-1.3 * r},${-r / 2}h${2.6 * r}v${r}h${-2.6 * r}z`,
  (r) => `M${-r / 2},${-1.3 * r}h${r}v${2.6 * r}h${-r}z`,
];
function legend(names, slots, shapes = false) {
  const grey = names.filter((_, index) => slots[index] === 7);
  const many = grey.length > 1;
  const entries = names.map((name, index) => [name, slots[index]]).filter(([, slot]) => slot !== 7 || !many);
  entries.sort((a, b) => a[1] - b[1]);
  if (many) entries.push([`${grey.length} more`, 7]);
  return el("ul", { class: "legend" }, entries.map(([name, slot]) => {
    const mark = shapes
      ? svg("path", { d: SHAPES[slot](5), transform: "translate(7 7)", fill: `var(--c${slot})` })
      : svg("rect", { width: 14, height: 14, rx: 2, fill: `var(--c${slot})` });
    return el("li", {}, svg("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, mark), name);
  }));
}

// A hint beside the pointer ----------------------------------------------------------------------------
const tip = el("div", { class: "tip", "aria-hidden": "true", hidden: true });
function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${y + 18 + box.height > innerHeight ? Math.max(4, y - box.height - 12) : y + 18}px`;
}
function hideTip() { tip.hidden = true; }

// Sections ---------------------------------------------------------------------------------------------
const sections = [];
function section(id, title, hint, ...content) {
  const node = el("section", { id, "aria-labelledby": `${id}-title` },
    el("h2", { id: `${id}-title` }, title), hint && el("p", { class: "hint" }, hint), content);
  sections.push([id, title, node]);
  return node;
}
function mount(title, subtitle) {
  const head = el("header", {}, el("h1", {}, title), themeSwitch(), el("p", {}, subtitle));
  const nav = el("nav", { "aria-label": "Sections" },
    el("ul", {}, sections.map(([id, name]) => el("li", {}, el("a", { href: `#${id}` }, name)))));
  const main = el("main", { id: "main", tabindex: "-1" }, sections.map(([, , node]) => node));
  document.body.append(el("a", { class: "skip", href: "#main" }, "Skip to the content"), head, nav, main, tip);
}
// A figure that scrolls sideways where the window is narrow, rather than shrink its text.
function wide(figure, label) { return el("div", { class: "wide", role: "group", "aria-label": label }, figure); }
function cards(entries) {
  return el("dl", { class: "cards" }, entries.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}
function asTable(label, build) {
  // The table is made when it is first opened.
  const details = el("details", { class: "alternative" }, el("summary", {}, label));
  details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(build()); });
  return details;
}

// Tables -----------------------------------------------------------------------------------------------
// columns: [{label, value(i), text(i)?, number?, bar(i)?}]; rows are numbers 0..count-1.
function makeTable({ caption, count, columns, filters = [], search = null, pageSize = 25, sortBy = null, onRow = null, accept = null }) {
  let order = [], page = 0, sorted = sortBy, chosen = -1;
  const body = el("tbody"), state = el("span", { role: "status" });
  const heads = columns.map((column, index) => {
    const mark = el("span", { "aria-hidden": "true" }, "");
    const button = el("button", { type: "button", onclick: () => sort(index) }, column.label, mark);
    return el("th", { scope: "col", class: column.number && "number" }, button);
  });
  const find = search && el("input", { type: "search", oninput: () => refresh(0) });
  const picks = filters.map((filter) => {
    const select = el("select", { onchange: () => refresh(0) }, el("option", { value: "" }, "all"),
      filter.names.map((name) => el("option", { value: name }, name)));
    return { ...filter, select };
  });
  const back = el("button", { type: "button", onclick: () => turn(-1) }, "Previous");
  const next = el("button", { type: "button", onclick: () => turn(1) }, "Next");
  const node = el("div", { class: "table" },
    el("div", { class: "tools" },
      find && el("label", {}, "Filter ", find),
      picks.map((pick) => el("label", {}, `${pick.label} `, pick.select)), state, back, next),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads)), body)));

  const shown = (column, row) => (column.text ? column.text(row) : figures(column.value(row)));
  function refresh(toPage) {
    const wanted = find ? find.value.trim().toLowerCase() : "";
    order = [];
    for (let row = 0; row < count; row++) {
      if (accept && !accept(row)) continue;
      if (wanted && !search(row).toLowerCase().includes(wanted)) continue;
      if (picks.some((pick) => pick.select.value && pick.value(row) !== pick.select.value)) continue;
      order.push(row);
    }
    if (sorted) {
      const [index, falling] = sorted, value = columns[index].value;
      const rank = (a) => (a === null || a === undefined || Number.isNaN(a) ? 1 : 0);
      order.sort((a, b) => {
        const [left, right] = [value(a), value(b)];
        if (rank(left) !== rank(right)) return rank(left) - rank(right);
        const by = typeof left === "number" && typeof right === "number" ? left - right : left === right ? 0 : String(left) < String(right) ? -1 : 1;
        return (falling ? -by : by) || a - b;
      });
    }
    page = Math.max(0, Math.min(toPage, Math.ceil(order.length / pageSize) - 1));
    draw();
  }
  function draw() {
    const from = page * pageSize, part = order.slice(from, from + pageSize);
    body.replaceChildren(...part.map((row) => {
      const cells = columns.map((column, index) => {
        const content = [shown(column, row)];
        if (column.bar) {
          const inner = el("i");
          inner.style.width = `${Math.min(100, 100 * column.bar(row))}%`;
          content.push(el("span", { class: "bar", "aria-hidden": "true" }, inner));
        }
        if (index === 0 && onRow) return el("th", { scope: "row" }, el("button", { type: "button", onclick: () => pick(row) }, content));
        return el("td", { class: column.number ? "number" : String(content[0]).length < 32 && "short" }, content);
      });
      return el("tr", { class: row === chosen && "chosen", "data-row": row }, cells);
    }));
    heads.forEach((head, index) => {
      const on = sorted && sorted[0] === index;
      if (on) head.setAttribute("aria-sort", sorted[1] ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      head.querySelector("span").textContent = on ? (sorted[1] ? " ▼" : " ▲") : "";
    });
    state.textContent = order.length ? `${from + 1}–${from + part.length} of ${order.length}${order.length < count ? ` (${count} in all)` : ""}` : "no row matches";
    back.disabled = page === 0;
    next.disabled = from + pageSize >= order.length;
    back.hidden = next.hidden = order.length <= pageSize;
  }
  function sort(index) {
    sorted = sorted && sorted[0] === index ? [index, !sorted[1]] : [index, Boolean(columns[index].number)];
    refresh(0);
  }
  function turn(by) { page += by; draw(); }
  function pick(row) { chosen = row; draw(); onRow(row); }
  refresh(0);
  node.refresh = () => refresh(page);
  node.choose = (row) => {
    chosen = row;
    const at = order.indexOf(row);
    if (at >= 0) page = Math.floor(at / pageSize);
    draw();
  };
  return node;
}
