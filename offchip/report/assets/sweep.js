// The page of a sweep. A point is a number from 0; parameters and figures are columns over the points.

const COUNT = DATA.shown;
const UNITS = { size: "B", bandwidth: "B/s", time: "s", frequency: "Hz", voltage: "V", current: "A", power: "W", energy: "J",
  energy_per_byte: "J/B", energy_per_operation: "J/FLOP", operation_rate: "FLOP/s", area: "m²", price: "USD", price_rate: "USD/s" };
function quantity(value, dimension) {
  if (value === null || value === undefined) return "–";
  if (dimension === "size") return bytes(value);
  if (dimension === "price") return `${figures(value)} USD`;
  if (dimension === "price_rate") return `${figures(value * 3600)} USD/h`;
  if (dimension === "area") return `${figures(value * 1e6)} mm²`;
  const unit = UNITS[dimension];
  if (!unit) return figures(value);
  return scaled(value, [...DECIMAL.slice(0, 5), ...SMALL, [1e-15, "f"]], unit);
}
// Axes: every parameter and every figure, with a place between 0 and 1 for each value.
function axisOf(column, role) {
  const axis = { ...column, role, text: (i) => (column.names ? column.names[column.values[i]] : quantity(column.values[i], column.dimension)) };
  if (column.names) {
    axis.low = 0; axis.high = Math.max(column.names.length - 1, 0);
    axis.at = (value) => (column.names.length > 1 ? value / axis.high : 0.5);
  } else {
    const known = column.values.filter((value) => value !== null);
    axis.low = known.reduce((a, b) => Math.min(a, b), Infinity); axis.high = known.reduce((a, b) => Math.max(a, b), -Infinity);
    if (!known.length) { axis.low = 0; axis.high = 1; }
    axis.log = axis.low > 0 && axis.high / axis.low >= 30;
    axis.at = (value) => {
      if (axis.high === axis.low) return 0.5;
      return axis.log ? Math.log(value / axis.low) / Math.log(axis.high / axis.low) : (value - axis.low) / (axis.high - axis.low);
    };
  }
  axis.value = (place) => (axis.log ? axis.low * (axis.high / axis.low) ** place : axis.low + place * (axis.high - axis.low));
  axis.write = (value) => (column.names ? column.names[Math.round(value)] : quantity(value, column.dimension));
  axis.label = column.names || !column.dimension ? column.name : column.name.replace(/_(s|j|w|usd|m2)$|_bytes$/, "");
  return axis;
}
const PARAMETERS = DATA.parameters.map((column) => axisOf(column, "parameter"));
const FIGURES = DATA.figures.map((column) => axisOf(column, "figure"));
const OBJECTIVES = DATA.objectives.map((objective) => ({ ...FIGURES.find((figure) => figure.name === objective.name), ...objective })).filter((axis) => axis.values);
const PLANES = [...PARAMETERS, ...OBJECTIVES];
const FRONT = new Uint8Array(COUNT);
for (const index of DATA.front) FRONT[index] = 1;
const OK = DATA.statuses.indexOf("ok");
const status = (i) => DATA.statuses[DATA.status[i]];

// What is shown: ranges (or chosen names) by plane, and the front alone if asked. All views follow.
const CUTS = new Map();
const VIEWS = [];
const VISIBLE = new Uint8Array(COUNT).fill(1);
let ONLY_FRONT = false, CHOSEN = -1;
function follow() {
  for (let i = 0; i < COUNT; i++) {
    let keep = !ONLY_FRONT || FRONT[i] === 1;
    for (const [plane, cut] of CUTS) {
      const value = PLANES[plane].values[i];
      if (cut instanceof Set ? !cut.has(value) : value === null || value < cut[0] || value > cut[1]) { keep = false; break; }
    }
    VISIBLE[i] = keep ? 1 : 0;
  }
  for (const view of VIEWS) view();
}
function choose(index) {
  CHOSEN = index;
  const rest = [...PARAMETERS, ...OBJECTIVES].map((axis) => `${axis.name} ${axis.text(index)}`);
  DETAIL.replaceChildren(el("strong", {}, `Point ${DATA.number[index]}`), ` · ${status(index)}${FRONT[index] ? ", on the Pareto front" : ""} · `, rest.join(" · "),
    DATA.reasons[DATA.reason[index]] ? ` · ${DATA.reasons[DATA.reason[index]]}` : "");
  for (const view of VIEWS) view();
}
const DETAIL = el("div", { class: "detail", id: "point-detail", role: "status", "aria-live": "polite" }, "Point at a mark, or focus a figure and use the arrow keys; the point's figures appear here.");
const about = (i) => [`Point ${DATA.number[i]}${FRONT[i] ? ", on the Pareto front" : ""}`, ...PARAMETERS.map((axis) => `${axis.name}: ${axis.text(i)}`), ...OBJECTIVES.map((axis) => `${axis.name}: ${axis.text(i)}`)].join("\n");

// Colours of points by one axis: names have a colour each, numbers a ramp from blue over grey to orange, which can be told from either ground.
const RAMP = [[0, 96, 190], [88, 122, 165], [140, 136, 124], [192, 128, 66], [222, 100, 10]];
function ramp(place) {
  const at = Math.max(0, Math.min(0.9999, place)) * (RAMP.length - 1), low = Math.floor(at), part = at - low;
  return `rgb(${RAMP[low].map((c, k) => Math.round(c + (RAMP[low + 1][k] - c) * part)).join(",")})`;
}
const COLOUR_AXES = [...PARAMETERS, ...OBJECTIVES];
let TINT = PARAMETERS.find((axis) => axis.names && axis.names.length > 1) || COLOUR_AXES[0];
function tint() {
  if (TINT && TINT.names) {
    const slots = coloursOf(TINT.names, TINT.names.map((_, i) => -i)), colours = palette();
    return { slots, of: (i) => colours[slots[TINT.values[i]]], shape: (i) => slots[TINT.values[i]] };
  }
  return { of: (i) => (!TINT || TINT.values[i] === null ? colour("c7") : ramp(TINT.at(TINT.values[i]))), shape: () => 0 };
}
const TINT_KEY = el("div");
function tintKey() {
  if (TINT && TINT.names) TINT_KEY.replaceChildren(legend(TINT.names, coloursOf(TINT.names, TINT.names.map((_, i) => -i)), true));
  else if (TINT) {
    const stops = [0, 0.25, 0.5, 0.75, 1].map((place) => svg("stop", { offset: place, "stop-color": ramp(place) }));
    TINT_KEY.replaceChildren(el("ul", { class: "legend" }, el("li", {}, `${TINT.name}: ${TINT.write(TINT.low)} `,
      (() => { const bar = svg("svg", { viewBox: "0 0 90 14", "aria-hidden": "true", class: "ramp" }, svg("defs", {}, svg("linearGradient", { id: "ramp" }, stops)), svg("rect", { width: 90, height: 14, fill: "url(#ramp)" })); return bar; })(), ` ${TINT.write(TINT.high)}`)));
  }
}

// Scatter ----------------------------------------------------------------------------------------------
function scatter() {
  const axes = [...OBJECTIVES, ...FIGURES.filter((f) => !OBJECTIVES.some((o) => o.name === f.name)), ...PARAMETERS];
  const options = () => axes.map((axis, index) => el("option", { value: index }, axis.name));
  const across = el("select", { id: "scatter-x" }, options()), up = el("select", { id: "scatter-y" }, options());
  if (OBJECTIVES.length > 1) up.value = "1";
  else if (PARAMETERS.length) { up.value = "0"; across.value = String(axes.indexOf(PARAMETERS.find((p) => !p.names) || PARAMETERS[0])); }
  const canvas = el("canvas", { id: "scatter-chart", tabindex: "0", role: "application", "aria-roledescription": "interactive chart", "aria-label": "Points by two figures, Pareto front marked", "aria-describedby": "scatter-help" });
  const box = el("div", { class: "chart" }, canvas);
  const H = 420, edge = { top: 14, bottom: 40, left: 92, right: 20 };
  let spots = [], order = [];
  const view = new Canvas(canvas, H, (context, width, height) => {
    const X = axes[across.value], Y = axes[up.value], paint = tint(), ink = colour("ink"), ground = colour("ground");
    const x = (v) => edge.left + 8 + X.at(v) * (width - edge.left - edge.right - 16), y = (v) => height - edge.bottom - 8 - Y.at(v) * (height - edge.top - edge.bottom - 16);
    context.strokeStyle = colour("grid"); context.fillStyle = colour("soft"); context.lineWidth = 1;
    const marks = (axis, wanted) => {
      if (axis.names) return axis.names.map((_, i) => i);
      if (axis.high === axis.low) return [axis.low];
      if (axis.log) {
        const out = [];
        for (let e = Math.floor(Math.log10(axis.low)); e <= Math.ceil(Math.log10(axis.high)); e++) for (const m of [1, 2, 5]) { const v = m * 10 ** e; if (v >= axis.low * 0.999 && v <= axis.high * 1.001) out.push(v); }
        return out.length > wanted * 1.6 ? out.filter((v) => Math.abs(Math.log10(v) % 1) < 1e-9) : out;
      }
      return axis.dimension === "size" ? binaryTicks(axis.low, axis.high, wanted).map(([v]) => v) : ticks(axis.low, axis.high, wanted);
    };
    context.textAlign = "center"; context.textBaseline = "top";
    for (const v of marks(X, width / 110)) { context.beginPath(); context.moveTo(x(v), edge.top); context.lineTo(x(v), height - edge.bottom); context.stroke(); context.fillText(X.write(v), x(v), height - edge.bottom + 4); }
    context.fillStyle = ink; context.fillText(`${X.name}${X.log ? " (log)" : ""}`, (edge.left + width) / 2, height - 18);
    context.fillStyle = colour("soft"); context.textAlign = "right"; context.textBaseline = "middle";
    for (const v of marks(Y, 7)) { context.beginPath(); context.moveTo(edge.left, y(v)); context.lineTo(width - edge.right, y(v)); context.stroke(); context.fillText(Y.write(v), edge.left - 6, y(v)); }
    context.save(); context.translate(12, height / 2); context.rotate(-Math.PI / 2); context.textAlign = "center"; context.fillStyle = ink; context.fillText(`${Y.name}${Y.log ? " (log)" : ""}`, 0, 0); context.restore();
    spots = [];
    const put = (i, radius) => {
      context.save(); context.translate(x(X.values[i]), y(Y.values[i]));
      const path = new Path2D(SHAPES[paint.shape(i)](radius));
      context.fillStyle = paint.of(i); context.fill(path);
      if (radius > 3) { context.strokeStyle = i === CHOSEN ? ink : FRONT[i] ? ink : ground; context.lineWidth = FRONT[i] || i === CHOSEN ? 1.6 : 0.6; context.stroke(path); }
      context.restore();
    };
    const ready = (i) => DATA.status[i] === OK && X.values[i] !== null && Y.values[i] !== null;
    const small = COUNT > 3000 ? 2 : 3.6;
    context.globalAlpha = 0.1;
    for (let i = 0; i < COUNT; i++) if (!VISIBLE[i] && ready(i)) put(i, small);
    context.globalAlpha = 0.75;
    for (let i = 0; i < COUNT; i++) if (VISIBLE[i] && ready(i)) { spots.push([x(X.values[i]), y(Y.values[i]), i]); if (!FRONT[i]) put(i, small); }
    context.globalAlpha = 1;
    // With two objectives on the axes the front is a staircase.
    if (OBJECTIVES.length === 2 && X.direction && Y.direction && X !== Y) {
      const steps = DATA.front.filter(ready).map((i) => [x(X.values[i]), y(Y.values[i])]).sort((a, b) => a[0] - b[0]);
      context.strokeStyle = ink; context.lineWidth = 1.2; context.beginPath();
      steps.forEach(([px, py], k) => {
        if (!k) context.moveTo(px, py);
        else { if (X.direction === "minimise") context.lineTo(px, steps[k - 1][1]); else context.lineTo(steps[k - 1][0], py); context.lineTo(px, py); }
      });
      context.stroke();
    }
    for (const i of DATA.front) if (VISIBLE[i] && ready(i)) put(i, 6);
    if (CHOSEN >= 0 && ready(CHOSEN)) { put(CHOSEN, 8); context.strokeStyle = colour("focus"); context.lineWidth = 2.5; context.beginPath(); context.arc(x(X.values[CHOSEN]), y(Y.values[CHOSEN]), 12, 0, 7); context.stroke(); }
    order = spots.slice().sort((a, b) => a[0] - b[0] || a[1] - b[1]).map((spot) => spot[2]);
  });
  const near = (event) => {
    const frame = canvas.getBoundingClientRect(), px = event.clientX - frame.left, py = event.clientY - frame.top;
    let best = -1, away = 144;
    for (const [x, y, i] of spots) { const d = (x - px) ** 2 + (y - py) ** 2 - (FRONT[i] ? 4 : 0); if (d < away) { away = d; best = i; } }
    return best;
  };
  canvas.addEventListener("pointermove", (event) => { const i = near(event); if (i >= 0) showTip(about(i), event.clientX, event.clientY); else hideTip(); });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (event) => { const i = near(event); if (i >= 0) choose(i); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const front = order.filter((i) => FRONT[i]);
    if (step && order.length) choose(order[(order.indexOf(CHOSEN) + step + order.length) % order.length]);
    else if (event.key === "Home" && order.length) choose(order[0]);
    else if (event.key === "End" && order.length) choose(order[order.length - 1]);
    else if (event.key === "f" && front.length) choose(front[(front.indexOf(CHOSEN) + 1) % front.length]);
    else return;
    event.preventDefault();
  });
  for (const select of [across, up]) select.addEventListener("change", () => view.draw());
  VIEWS.push(() => view.draw());
  const by = el("select", { id: "tint" }, COLOUR_AXES.map((axis, index) => el("option", { value: index }, axis.name)));
  by.value = String(COLOUR_AXES.indexOf(TINT));
  by.addEventListener("change", () => { TINT = COLOUR_AXES[by.value]; tintKey(); for (const draw of VIEWS) draw(); });
  const only = el("input", { type: "checkbox", id: "only-front", onchange: () => { ONLY_FRONT = only.checked; follow(); } });
  tintKey();
  const told = OBJECTIVES.map((o) => `${o.direction} ${o.name}`).join(", ");
  section("pareto", "Pareto front", told ? `Objectives: ${told}. An outlined mark is on the front: no other point beats it in every objective.` : "This sweep has no objectives, and so no front.",
    DATA.status.includes(OK) ? null : el("p", { role: "note" }, "No point of this sweep ran to its end within the constraints, so the figures are empty; the table of points has the reasons."),
    el("p", { class: "quiet", id: "scatter-help" }, "Arrow keys go from point to point, f to the next on the front."),
    el("div", { class: "tools" }, el("label", {}, "Across ", across), el("label", {}, "Up ", up), el("label", {}, "Colour by ", by), el("label", {}, only, " only the front")),
    box, TINT_KEY, DETAIL,
    asTable("Pareto front as a table", () => makeTable({ caption: "Pareto front", count: DATA.front.length, onRow: (k) => choose(DATA.front[k]),
      columns: [{ label: "point", value: (k) => DATA.number[DATA.front[k]] }, ...[...PARAMETERS, ...OBJECTIVES].map((axis) => column(axis, (k) => DATA.front[k]))] })));
}
function column(axis, of = (i) => i) {
  return { label: axis.name, number: !axis.names, value: (i) => (axis.names ? axis.names[axis.values[of(i)]] : axis.values[of(i)]), text: (i) => axis.text(of(i)) };
}

// Parallel coordinates ---------------------------------------------------------------------------------
function parallel() {
  const canvas = el("canvas", { id: "parallel-chart", tabindex: "0", role: "application", "aria-roledescription": "interactive chart", "aria-label": `Parallel coordinates of ${PLANES.length} parameters and objectives`, "aria-describedby": "parallel-help" });
  const box = el("div", { class: "chart" }, canvas);
  const H = 380, top = 44, bottom = 26;
  const planeX = (plane, width) => 70 + (PLANES.length > 1 ? (plane / (PLANES.length - 1)) * (width - 140) : (width - 140) / 2);
  const y = (place, height) => height - bottom - place * (height - top - bottom);
  let drag = null;
  const view = new Canvas(canvas, H, (context, width, height) => {
    const paint = tint(), line = (i) => {
      context.beginPath();
      let open = false;
      PLANES.forEach((axis, plane) => {
        const value = axis.values[i];
        if (value === null) { open = false; return; }
        const px = planeX(plane, width), py = y(axis.at(value), height);
        if (open) context.lineTo(px, py); else context.moveTo(px, py);
        open = true;
      });
      context.stroke();
    };
    const every = Math.max(1, Math.ceil(COUNT / 20000));
    context.lineWidth = 1; context.strokeStyle = colour("grid");
    for (let i = 0; i < COUNT; i += every) if (!VISIBLE[i] && DATA.status[i] === OK) line(i);
    context.globalAlpha = Math.max(0.12, Math.min(0.7, 150 / COUNT));
    for (let i = 0; i < COUNT; i += every) if (VISIBLE[i] && DATA.status[i] === OK && !FRONT[i]) { context.strokeStyle = paint.of(i); line(i); }
    context.globalAlpha = 1; context.lineWidth = 2.2;
    for (const i of DATA.front) if (VISIBLE[i]) { context.strokeStyle = paint.of(i); line(i); }
    if (CHOSEN >= 0) { context.lineWidth = 6; context.strokeStyle = colour("ground"); line(CHOSEN); context.lineWidth = 3.5; context.strokeStyle = colour("focus"); line(CHOSEN); }
    PLANES.forEach((axis, plane) => {
      const px = planeX(plane, width);
      context.strokeStyle = colour("soft"); context.lineWidth = 1;
      context.beginPath(); context.moveTo(px, y(0, height)); context.lineTo(px, y(1, height)); context.stroke();
      context.textAlign = "center"; context.textBaseline = "middle"; context.fillStyle = colour("ink");
      context.fillText(clip(context, axis.name, (width - 140) / Math.max(1, PLANES.length - 1) - 6), px, plane % 2 ? 10 : 24);
      const ends = axis.names ? axis.names.map((_, k) => k).filter((k) => axis.names.length <= 14 || k % Math.ceil(axis.names.length / 14) === 0) : [axis.low, axis.high];
      for (const v of ends) {
        const text = axis.write(v), half = context.measureText(text).width / 2, py = y(axis.at(v), height) + (axis.names ? 0 : v === axis.low ? 12 : -9);
        context.fillStyle = colour("ground"); context.globalAlpha = 0.8; context.fillRect(px - half - 2, py - 7, 2 * half + 4, 14); context.globalAlpha = 1;
        context.fillStyle = colour("ink"); context.fillText(text, px, py);
      }
      const cut = CUTS.get(plane);
      if (cut && !(cut instanceof Set)) {
        const a = y(axis.at(Math.min(axis.high, cut[1])), height), b = y(axis.at(Math.max(axis.low, cut[0])), height);
        context.globalAlpha = 0.25; context.fillStyle = colour("focus"); context.fillRect(px - 8, a, 16, b - a); context.globalAlpha = 1;
        context.strokeStyle = colour("focus"); context.lineWidth = 2; context.strokeRect(px - 8, a, 16, b - a);
      }
    });
  }, PLANES.length * 88);
  function clip(context, text, room) {
    room = Math.max(room * 2, 60);
    if (context.measureText(text).width <= room) return text;
    while (text.length > 3 && context.measureText(`${text}…`).width > room) text = text.slice(0, -1);
    return `${text}…`;
  }
  const place = (event) => { const frame = canvas.getBoundingClientRect(); return [event.clientX - frame.left, event.clientY - frame.top]; };
  const share = (py) => Math.max(0, Math.min(1, (H - bottom - py) / (H - top - bottom)));
  canvas.addEventListener("pointerdown", (event) => {
    const [px, py] = place(event);
    const plane = PLANES.findIndex((_, k) => Math.abs(planeX(k, view.width) - px) < 16);
    if (plane < 0) return;
    canvas.setPointerCapture(event.pointerId);
    drag = { plane, from: share(py), moved: false };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const to = share(place(event)[1]), axis = PLANES[drag.plane];
    if (Math.abs(to - drag.from) > 0.01) drag.moved = true;
    if (!drag.moved) return;
    const [a, b] = [Math.min(drag.from, to), Math.max(drag.from, to)];
    if (axis.names) CUTS.set(drag.plane, new Set(axis.names.map((_, k) => k).filter((k) => axis.at(k) >= a - 1e-9 && axis.at(k) <= b + 1e-9)));
    else CUTS.set(drag.plane, [axis.value(a), axis.value(b)]);
    follow();
  });
  canvas.addEventListener("pointerup", () => { if (drag && !drag.moved) { CUTS.delete(drag.plane); follow(); } drag = null; });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const order = [];
    for (let i = 0; i < COUNT; i++) if (VISIBLE[i] && DATA.status[i] === OK) order.push(i);
    if (order.length) choose(order[(order.indexOf(CHOSEN) + step + order.length) % order.length]);
    event.preventDefault();
  });
  VIEWS.push(() => view.draw());
  section("parameters", "Parameters and objectives together", "A line is a point; the front is thick. Drag along an axis to keep a range, click the axis to let go; or use the fields below.",
    el("p", { class: "quiet", id: "parallel-help" }, "Arrow keys go from point to point. The fields after the figure filter by range."),
    box, cuts());
}
// The same filters as fields, for keyboards and exact values (in SI units).
function cuts() {
  const state = el("p", { role: "status", class: "hint" });
  const fields = PLANES.map((axis, plane) => {
    if (axis.names) {
      if (axis.names.length > 24) return null;
      const boxes = axis.names.map((name, k) => el("input", { type: "checkbox", checked: true, "aria-label": `${axis.name}: ${name}`, onchange: () => {
        const kept = new Set(boxes.map((box, j) => (box.checked ? j : -1)).filter((j) => j >= 0));
        if (kept.size === boxes.length) CUTS.delete(plane); else CUTS.set(plane, kept);
        follow();
      } }));
      return { node: el("fieldset", {}, el("legend", {}, axis.name), axis.names.map((name, k) => el("label", {}, boxes[k], name))),
        show: () => { const cut = CUTS.get(plane); boxes.forEach((box, k) => { box.checked = !cut || cut.has(k); }); } };
    }
    const change = () => {
      const low = least.value === "" ? -Infinity : Number(least.value), high = most.value === "" ? Infinity : Number(most.value);
      if (least.value === "" && most.value === "") CUTS.delete(plane); else CUTS.set(plane, [low, high]);
      follow();
    };
    const unit = UNITS[axis.dimension] ? ` (${UNITS[axis.dimension]})` : "";
    const least = el("input", { type: "number", step: "any", placeholder: figures(axis.low), "aria-label": `${axis.name}, at least${unit}`, onchange: change });
    const most = el("input", { type: "number", step: "any", placeholder: figures(axis.high), "aria-label": `${axis.name}, at most${unit}`, onchange: change });
    return { node: el("fieldset", {}, el("legend", {}, `${axis.name}${unit}`), el("label", {}, "at least", least), el("label", {}, "at most", most)),
      show: () => {
        const cut = CUTS.get(plane);
        if (document.activeElement !== least) least.value = cut && Number.isFinite(cut[0]) ? Number(cut[0].toPrecision(5)) : "";
        if (document.activeElement !== most) most.value = cut && Number.isFinite(cut[1]) ? Number(cut[1].toPrecision(5)) : "";
      } };
  }).filter(Boolean);
  VIEWS.push(() => {
    for (const field of fields) field.show();
    let kept = 0;
    for (let i = 0; i < COUNT; i++) kept += VISIBLE[i];
    state.textContent = kept === COUNT ? "Every point is shown." : `${kept} of ${COUNT} points pass the filter.`;
  });
  return el("div", {}, state, el("button", { type: "button", id: "clear", onclick: () => { CUTS.clear(); follow(); } }, "Clear every filter"),
    el("details", { open: true }, el("summary", {}, "Filter fields"), el("div", { class: "cuts" }, fields.map((field) => field.node))));
}

// Sensitivities, table, provenance ---------------------------------------------------------------------
function sensitivity() {
  const tables = Object.entries(DATA.effects).map(([name, rows]) => {
    const axis = OBJECTIVES.find((o) => o.name === name);
    return makeTable({ caption: name, count: rows.length, columns: [
      { label: "parameter", value: (i) => rows[i].parameter },
      { label: "explains alone", number: true, value: (i) => rows[i].share, text: (i) => percent(rows[i].share), bar: (i) => rows[i].share },
      { label: "one at a time", number: true, value: (i) => rows[i].span, text: (i) => quantity(rows[i].span, axis && axis.dimension) },
      { label: "most over least", number: true, value: (i) => rows[i].relative, text: (i) => (rows[i].relative === null ? "–" : `${figures(rows[i].relative)}×`) }] });
  });
  section("sensitivities", "Which parameter explains what", "The share of an objective's variance that a parameter explains by itself (the first-order Sobol index on a full grid), and the largest change when it alone moves.", el("div", { class: "two" }, tables));
}
function points() {
  const table = makeTable({ caption: "Points", count: COUNT, accept: (i) => VISIBLE[i] === 1, onRow: choose,
    search: (i) => `${DATA.reasons[DATA.reason[i]]} ${PARAMETERS.map((axis) => axis.text(i)).join(" ")}`,
    filters: [{ label: "Outcome", names: DATA.statuses, value: status }],
    columns: [{ label: "point", value: (i) => DATA.number[i], text: (i) => String(DATA.number[i]) }, { label: "outcome", value: status }, ...PARAMETERS.map((axis) => column(axis)), ...OBJECTIVES.map((axis) => column(axis)),
      { label: "front", value: (i) => (FRONT[i] ? "yes" : "no") }, { label: "reason", value: (i) => DATA.reasons[DATA.reason[i]] }] });
  let last = -1;
  VIEWS.push(() => { table.refresh(); if (CHOSEN >= 0 && CHOSEN !== last) { last = CHOSEN; table.choose(CHOSEN); } });
  const refused = DATA.refused.length ? el("details", {}, el("summary", {}, "Why points were refused"), el("ul", { class: "notes" }, DATA.refused.map(([text, count]) => el("li", {}, `${count} × ${text}`)))) : null;
  section("points", "Points", "Only points that pass the filters are listed. Press a point's number to mark it in the figures.", refused, table);
}
function overview() {
  const counts = DATA.counts.map(([stage, state, count]) => [`${state}${DATA.stages.length > 1 ? `, ${stage}` : ""}`, String(count)]);
  const best = DATA.best.map((entry) => { const axis = OBJECTIVES.find((o) => o.name === entry.objective); return [`best ${entry.objective}`, `${quantity(entry.value, axis && axis.dimension)} (point ${entry.number})`]; });
  const cut = DATA.shown < DATA.rows ? ` The page carries the first ${DATA.shown} of ${DATA.rows} points.` : "";
  const stage = DATA.stages.length > 1 ? ` Points below are those of the last stage that has any, at ${DATA.stages[DATA.stage]} fidelity.` : "";
  section("overview", "Overview", `Every figure on this page is simulated.${stage}${cut}`, cards([["points expected", String(DATA.expected)], ...counts, ["on the Pareto front", String(DATA.front.length)], ...best]));
}
function provenance() {
  const rows = Object.entries(DATA.provenance).map(([key, value]) => el("tr", {}, el("th", { scope: "row" }, key), el("td", {}, typeof value === "string" ? value : JSON.stringify(value))));
  section("provenance", "Provenance", "What made these figures. The same sweep gives the same page, byte for byte.", el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Provenance" }, el("table", {}, el("caption", {}, "Provenance"), el("tbody", {}, rows))));
}

overview();
scatter();
parallel();
sensitivity();
points();
provenance();
mount(DATA.title, `${many(DATA.rows, "point")} over ${many(PARAMETERS.length, "parameter")}, ${many(OBJECTIVES.length, "objective")}, at ${DATA.stages[DATA.stage]} fidelity.`);
follow();
