// The page of a run.

const LINE = DATA.timeline, SPAN = new Span(DATA.end);
const KEYS = "Plus and minus zoom, 0 shows everything, Page Up and Page Down or Shift with an arrow pan. ";

// Timeline ---------------------------------------------------------------------------------------------
const LANE = 24, BLOCK = 17;
const CRITICAL = new Uint8Array(LINE.shown), WAITED = new Uint8Array(LINE.shown);
for (const index of LINE.critical) CRITICAL[index] = 1;
for (const index of LINE.waited) WAITED[index] = 1;

function describeTask(index) {
  const start = LINE.start[index], length = LINE.length[index], lane = LINE.lanes[LINE.lane[index]];
  const notes = [
    LINE.tasks[LINE.task[index]],
    `${LINE.kinds[LINE.kind[index]]} on ${lane.device}, stream ${lane.stream}, ${DATA.phases[LINE.phase[index]].name}`,
    `${ps(start, 6)} to ${ps(start + length, 6)}, takes ${ps(length)}`,
    `bound by ${LINE.bounds[LINE.bound[index]]}`,
  ];
  if (LINE.flops[index]) notes.push(`${amount(LINE.flops[index], "FLOP")}, ${amount(LINE.flops[index] / (length / 1e12), "FLOP/s")}`);
  if (LINE.bytes[index]) notes.push(`${bytes(LINE.bytes[index])} moved`);
  if (LINE.energy[index]) notes.push(joules(LINE.energy[index]));
  if (CRITICAL[index]) notes.push(WAITED[index] ? "on the critical path; waited for room or first bytes" : "on the critical path");
  return notes;
}

function timeline() {
  const lanes = LINE.lanes.map(() => []);
  for (let index = 0; index < LINE.shown; index++) lanes[LINE.lane[index]].push(index);
  const before = lanes.map((events) => {
    events.sort((a, b) => LINE.start[a] - LINE.start[b] || a - b);
    const sums = new Uint32Array(events.length + 1);
    events.forEach((event, place) => { sums[place + 1] = sums[place] + CRITICAL[event]; });
    return sums;
  });
  const weights = (codes, names) => { const out = new Float64Array(names.length); for (let i = 0; i < LINE.shown; i++) out[codes[i]] += LINE.length[i]; return out; };
  const modes = {
    kind: { names: LINE.kinds, codes: LINE.kind }, "bound by": { names: LINE.bounds, codes: LINE.bound },
    phase: { names: DATA.phases.map((phase) => phase.name), codes: LINE.phase },
  };
  for (const mode of Object.values(modes)) mode.slots = coloursOf(mode.names, weights(mode.codes, mode.names));
  let mode = modes.kind, selected = -1, lit = -1;
  const legends = el("div");
  const detail = el("div", { class: "detail", id: "timeline-detail", role: "status", "aria-live": "polite" },
    "Point at a task, or focus the timeline and use the arrow keys; its figures appear here.");
  const marked = el("input", { type: "checkbox", id: "critical", checked: LINE.critical.length > 0, disabled: !LINE.critical.length, onchange: () => chart.canvas.draw() });
  const dimmed = el("input", { type: "checkbox", id: "dim", disabled: !LINE.critical.length, onchange: () => chart.canvas.draw() });

  function paint(context, view, width, height) {
    const colours = palette(), inks = colours.map(inkOn), floor = height - 22;
    view.axis(context, floor);
    const ink = colour("ink"), span = view.span, perPixel = (span.end - span.start) / (view.right - view.left);
    context.textBaseline = "middle";
    lanes.forEach((events, lane) => {
      const y = lane * LANE + 4, count = events.length;
      let place = Math.max(0, lowerBound(count, (i) => LINE.start[events[i]], span.start) - 1);
      while (place < count) {
        const event = events[place], start = LINE.start[event];
        if (start > span.end) break;
        const end = start + LINE.length[event];
        if (end < span.start) { place++; continue; }
        const x0 = Math.max(view.left, view.x(start)), x1 = Math.min(view.right, view.x(end));
        let next = place + 1, wide = x1 - x0;
        if (wide < 1) {
          // Tasks that share a pixel are drawn once, in the colour of the first.
          while (next < count && LINE.length[events[next]] < perPixel && LINE.start[events[next]] < start + perPixel) next++;
          wide = 1;
        }
        const critical = before[lane][next] > before[lane][place], slot = mode.slots[mode.codes[event]];
        const faint = (lit >= 0 && LINE.group[event] !== lit) || (dimmed.checked && !critical);
        context.globalAlpha = faint ? 0.2 : 1;
        context.fillStyle = colours[slot];
        context.fillRect(x0, y, wide > 3 ? wide - 0.5 : wide, BLOCK);
        if (wide > 46) {
          context.save();
          context.beginPath(); context.rect(x0, y, wide - 4, BLOCK); context.clip();
          context.fillStyle = inks[slot]; context.textAlign = "left";
          context.fillText(LINE.tasks[LINE.task[event]], x0 + 4, y + BLOCK / 2 + 0.5);
          context.restore();
        }
        context.globalAlpha = 1;
        if (critical && marked.checked) { context.fillStyle = ink; context.fillRect(x0, y + BLOCK, wide, 3); }
        if (event === selected) { context.strokeStyle = ink; context.lineWidth = 2; context.strokeRect(x0 - 1, y - 1, Math.max(wide, 3) + 2, BLOCK + 2); }
        place = next;
      }
      context.textAlign = "left"; context.textBaseline = "middle";
      context.clearRect(0, y - 4, view.left - 2, LANE);
      context.save();
      context.beginPath(); context.rect(0, y - 4, view.left - 6, LANE); context.clip();
      context.fillStyle = ink;
      const { device, stream } = LINE.lanes[lane];
      context.fillText(stream.startsWith(device) ? stream : `${device} ${stream}`, 6, y + BLOCK / 2);
      context.restore();
    });
    if (marked.checked) arrows(context, view, ink);
  }
  // Where the critical path goes from one lane to another.
  function arrows(context, view, ink) {
    context.strokeStyle = ink; context.lineWidth = 1;
    const path = LINE.critical, first = lowerBound(path.length, (i) => LINE.start[path[i]], view.span.start);
    context.beginPath();
    for (let i = Math.max(1, first), drawn = 0; i < path.length && drawn < 1000; i++) {
      const here = path[i], from = path[i - 1];
      if (LINE.start[here] > view.span.end) break;
      if (LINE.lane[here] === LINE.lane[from]) continue;
      const x = view.x(LINE.start[here]);
      if (x < view.left) continue;
      const up = LINE.lane[here] < LINE.lane[from];
      context.moveTo(x, LINE.lane[from] * LANE + (up ? 4 : 4 + BLOCK + 3));
      context.lineTo(x, LINE.lane[here] * LANE + (up ? 4 + BLOCK + 3 : 4));
      drawn++;
    }
    context.stroke();
  }
  function at(time, y) {
    const lane = Math.floor(y / LANE), events = lanes[lane];
    if (!events) return -1;
    const place = lowerBound(events.length, (i) => LINE.start[events[i]], time);
    const reach = (chart.span.end - chart.span.start) / (chart.right - chart.left) * 3;
    const away = (i) => { const s = LINE.start[events[i]]; return time < s ? s - time : Math.max(0, time - s - LINE.length[events[i]]); };
    const near = [place - 1, place].filter((i) => i >= 0 && i < events.length && away(i) <= reach);
    near.sort((a, b) => away(a) - away(b));
    return near.length ? events[near[0]] : -1;
  }
  function select(index, follow = true) {
    selected = index;
    const [name, ...rest] = describeTask(index);
    detail.replaceChildren(el("strong", {}, name), " · ", rest.join(" · "));
    const { span } = chart, start = LINE.start[index], end = start + LINE.length[index], length = span.end - span.start;
    if (follow && (start < span.start || end > span.end)) span.set((start + end) / 2 - length / 2, (start + end) / 2 + length / 2);
    chart.canvas.draw();
  }
  function keys(key) {
    const lane = selected >= 0 ? LINE.lane[selected] : 0, events = lanes[lane];
    if (!events || !events.length) return false;
    const place = selected >= 0 ? events.indexOf(selected) : -1;
    const nearest = (other) => {
      if (!lanes[other] || !lanes[other].length) return;
      const time = selected >= 0 ? LINE.start[selected] : chart.span.start;
      const index = lowerBound(lanes[other].length, (i) => LINE.start[lanes[other][i]], time);
      select(lanes[other][Math.min(index, lanes[other].length - 1)]);
    };
    if (key === "ArrowRight") {
      const first = lowerBound(events.length, (i) => LINE.start[events[i]], chart.span.start);
      select(events[Math.min(events.length - 1, selected < 0 ? first : place + 1)]);
    } else if (key === "ArrowLeft") select(events[Math.max(0, place - 1)]);
    else if (key === "ArrowDown") nearest(selected < 0 ? 0 : lane + 1);
    else if (key === "ArrowUp") nearest(lane - 1);
    else if (key === "Home") select(events[0]);
    else if (key === "End") select(events[events.length - 1]);
    else if (key === "c" && LINE.critical.length) {
      const time = selected >= 0 ? LINE.start[selected] : chart.span.start - 1;
      const next = LINE.critical.find((i) => LINE.start[i] > time);
      select(next === undefined ? LINE.critical[0] : next);
    } else if (key === "Enter" && selected >= 0) {
      const start = LINE.start[selected], length = Math.max(LINE.length[selected], 100);
      chart.span.set(start - length, start + 2 * length);
    } else if (key === "Escape") { lit = -1; selected = -1; chart.canvas.draw(); }
    else return false;
    return true;
  }
  const chart = new TimeChart({
    span: SPAN, id: "timeline-chart", label: `Timeline of ${LINE.shown} tasks in ${lanes.length} streams`,
    help: `${KEYS}Left and right go from task to task, up and down between streams, Home and End to the first and last, c to the next task of the critical path, Enter zooms to the task.`,
    height: () => lanes.length * LANE + 26, paint, keys,
    hover: (time, y) => { const index = at(time, y); return index < 0 ? null : describeTask(index).join("\n"); },
    click: (time, y) => { const index = at(time, y); if (index >= 0) select(index, false); },
  });
  const by = el("select", { id: "colour-by" }, Object.keys(modes).map((name) => el("option", { value: name }, name)));
  const recolour = () => { mode = modes[by.value]; legends.replaceChildren(legend(mode.names, mode.slots)); chart.canvas.draw(); };
  by.addEventListener("change", recolour);
  recolour();
  chart.extra.append(el("label", {}, "Colour by ", by), el("label", {}, marked, " mark the critical path"), el("label", {}, dimmed, " dim the rest"));
  const cut = LINE.shown < LINE.events && `The page carries the first ${LINE.shown} of ${LINE.events} tasks; trace.json.gz and timeline.parquet have all. `;
  const path = LINE.critical.reduce((sum, index) => sum + LINE.length[index], 0);
  const says = LINE.critical.length
    ? `A line under a task marks the critical path: ${LINE.critical.length} tasks, ${ps(path)} of ${ps(DATA.end)}.`
    : "The critical path was not recorded.";
  section("timeline", "Timeline", `${cut || ""}${says} Drag to pan; the wheel zooms when the chart has the focus or Ctrl is held. Memory below follows the same span.`,
    chart.node, legends, detail, asTable("Tasks as a table", () => makeTable({
      caption: "Tasks of the timeline", count: LINE.shown, search: (i) => LINE.tasks[LINE.task[i]], sortBy: [3, false],
      filters: [{ label: "Kind", names: LINE.kinds, value: (i) => LINE.kinds[LINE.kind[i]] },
        { label: "Phase", names: DATA.phases.map((p) => p.name), value: (i) => DATA.phases[LINE.phase[i]].name }],
      onRow: (i) => select(i),
      columns: [
        { label: "task", value: (i) => LINE.tasks[LINE.task[i]], text: (i) => LINE.tasks[LINE.task[i]] },
        { label: "kind", value: (i) => LINE.kinds[LINE.kind[i]] },
        { label: "stream", value: (i) => LINE.lanes[LINE.lane[i]].device + " " + LINE.lanes[LINE.lane[i]].stream },
        { label: "start", number: true, value: (i) => LINE.start[i], text: (i) => ps(LINE.start[i], 6) },
        { label: "time", number: true, value: (i) => LINE.length[i], text: (i) => ps(LINE.length[i]) },
        { label: "bound by", value: (i) => LINE.bounds[LINE.bound[i]] },
        { label: "bytes", number: true, value: (i) => LINE.bytes[i], text: (i) => bytes(LINE.bytes[i]) },
        { label: "critical", value: (i) => (CRITICAL[i] ? "yes" : "no") },
      ],
    })));
  return { light(name) { const group = LINE.groups.indexOf(name); lit = lit === group ? -1 : group; chart.canvas.draw(); return lit >= 0; } };
}

// Memory -----------------------------------------------------------------------------------------------
function memory() {
  const names = DATA.memories.map((use) => use.name);
  if (!names.length) { section("memory", "Memory", "Nothing was held in any memory."); return; }
  const pick = el("select", { id: "memory-pick" }, names.map((name) => el("option", { value: name }, name)));
  const whole = el("input", { type: "checkbox", id: "memory-capacity" });
  const changing = el("input", { type: "checkbox", id: "memory-changing", checked: true });
  const chosen = () => DATA.memories[names.indexOf(pick.value)];
  const packed = () => DATA.packing.find((map) => map.memory === pick.value);
  const facts = el("div"), note = el("p", { class: "hint" }), legends = el("div"), table = el("div");

  function yAxis(context, view, low, high, y) {
    context.textAlign = "right"; context.textBaseline = "middle"; context.strokeStyle = colour("grid"); context.fillStyle = colour("soft");
    for (const [tick, text] of binaryTicks(low, high, 5)) {
      context.beginPath(); context.moveTo(view.left, y(tick)); context.lineTo(view.right, y(tick)); context.stroke();
      context.fillText(text, view.left - 6, Math.max(8, y(tick)));
    }
  }
  function curve(context, view, width, height) {
    const use = chosen(), floor = height - 22, count = use.time.length;
    const first = Math.max(0, lowerBound(count, (i) => use.time[i], view.span.start) - 1);
    const last = Math.min(count, lowerBound(count, (i) => use.time[i], view.span.end) + 1);
    let low = Infinity, high = 0;
    for (const value of use.bytes) { if (value < low) low = value; if (value > high) high = value; }
    if (whole.checked) { low = 0; high = use.usable_bytes; }
    else { const pad = (high - low) * 0.08 || high * 0.05 || 1; low = Math.max(0, low - pad); high += pad; }
    const y = (value) => 6 + (floor - 6) * (1 - (value - low) / (high - low || 1));
    view.axis(context, floor);
    yAxis(context, view, low, high, y);
    context.save();
    context.beginPath(); context.rect(view.left, 0, view.right - view.left, floor); context.clip();
    context.beginPath();
    context.moveTo(view.x(use.time[first]), floor);
    for (let i = first; i < last; i++) {
      const x = view.x(use.time[i]), next = i + 1 < count ? view.x(use.time[i + 1]) : view.right;
      context.lineTo(x, y(use.bytes[i])); context.lineTo(next, y(use.bytes[i]));
    }
    context.lineTo(view.right, floor); context.closePath();
    context.globalAlpha = 0.25; context.fillStyle = colour("c0"); context.fill();
    context.globalAlpha = 1; context.strokeStyle = colour("c0"); context.lineWidth = 1.5; context.stroke();
    context.setLineDash([6, 4]); context.strokeStyle = colour("c5");
    context.beginPath(); context.moveTo(view.left, y(use.usable_bytes)); context.lineTo(view.right, y(use.usable_bytes)); context.stroke();
    context.setLineDash([]);
    const peak = view.x(use.peak_time_s * 1e12);
    context.fillStyle = colour("ink");
    context.beginPath(); context.arc(peak, y(use.peak_bytes), 4, 0, 7); context.fill();
    context.textAlign = peak > (view.left + view.right) / 2 ? "right" : "left"; context.textBaseline = "top";
    const label = `peak ${bytes(use.peak_bytes)}`, beside = peak + (context.textAlign === "left" ? 8 : -8);
    context.strokeStyle = colour("ground"); context.lineWidth = 4; context.lineJoin = "round";
    context.strokeText(label, beside, y(use.peak_bytes) + 2);
    context.fillText(label, beside, y(use.peak_bytes) + 2);
    context.restore();
  }
  const curveChart = new TimeChart({
    span: SPAN, id: "memory-chart", label: "Bytes held over time", help: KEYS, height: 190, paint: curve,
    hover: (time) => {
      const use = chosen(), place = lowerBound(use.time.length, (i) => use.time[i], time) - 1;
      return place < 0 ? null : `${bytes(use.bytes[place], 5)} in ${use.name}\nfrom ${ps(use.time[place], 6)}`;
    },
  });
  // The stays that the map shows, and the bytes its axis spans.
  let shown = [], range = [0, 1];
  function choose() {
    const map = packed(), use = chosen();
    shown = []; range = [0, Math.max(use.peak_bytes, 1)];
    if (map) {
      let low = Infinity, high = 0;
      for (let i = 0; i < map.size.length; i++) {
        if (changing.checked && map.start[i] <= 0 && map.start[i] + map.length[i] >= SPAN.whole) continue;
        shown.push(i);
        low = Math.min(low, map.offset[i]); high = Math.max(high, map.offset[i] + map.size[i]);
      }
      if (shown.length) range = [low, high];
    }
    const slots = map ? coloursOf(map.roles, map.roles.map((_, r) => -r)) : [];
    legends.replaceChildren(map ? legend(map.roles, slots) : "");
    note.textContent = !map ? "Where tensors stand was not recorded."
      : (map.planned ? `Addresses are those the plan fixes${map.unplanned ? `; ${map.unplanned} stays without a planned address are not in the map` : ""}.`
        : "The plan fixes no addresses: tensors are stacked in order of birth, to show how much lives for how long.")
      + (DATA.packing_left_out ? ` ${DATA.packing_left_out} stays were too many to record.` : "");
    facts.replaceChildren(cards([
      ["technology", use.technology], ["at its fullest", `${bytes(use.peak_bytes)} (${percent(use.peak_bytes / use.usable_bytes)})`],
      ["usable of nominal", `${bytes(use.usable_bytes)} of ${bytes(use.capacity_bytes)}`],
      ["read", bytes(use.read_bytes)], ["written", bytes(use.written_bytes)]]));
    table.replaceChildren(
      asTable("Largest tensors at the fullest moment", () => makeTable({
        caption: `The ${use.live.length} largest of ${use.live_count} tensors in ${use.name} at ${seconds(use.peak_time_s)}`, count: use.live.length,
        columns: [{ label: "tensor", value: (i) => use.live[i].tensor }, { label: "role", value: (i) => use.live[i].role },
          { label: "bytes", number: true, value: (i) => use.live[i].bytes, text: (i) => bytes(use.live[i].bytes) }],
      })),
      map ? asTable("Packing map as a table", () => makeTable({
        caption: `Stays of tensors in ${map.memory}`, count: map.size.length, search: (i) => map.tensors[map.tensor[i]],
        filters: [{ label: "Role", names: map.roles, value: (i) => map.roles[map.role[i]] }],
        columns: [
          { label: "tensor", value: (i) => map.tensors[map.tensor[i]] }, { label: "role", value: (i) => map.roles[map.role[i]] },
          { label: "bytes", number: true, value: (i) => map.size[i], text: (i) => bytes(map.size[i]) },
          { label: map.planned ? "address" : "place in the picture", number: true, value: (i) => map.offset[i], text: (i) => String(map.offset[i]) },
          { label: "from", number: true, value: (i) => map.start[i], text: (i) => ps(map.start[i], 6) },
          { label: "for", number: true, value: (i) => map.length[i], text: (i) => ps(map.length[i]) }],
      })) : "");
    curveChart.canvas.draw(); mapChart.canvas.draw();
  }
  function paintMap(context, view, width, height) {
    const map = packed(), floor = height - 22, [low, high] = range, y = (value) => 4 + (floor - 4) * (1 - (value - low) / (high - low || 1));
    view.axis(context, floor);
    yAxis(context, view, low, high, y);
    if (!map) return;
    const colours = palette(), edge = colour("ground"), slots = coloursOf(map.roles, map.roles.map((_, r) => -r));
    context.save();
    context.beginPath(); context.rect(view.left, 0, view.right - view.left, floor); context.clip();
    context.lineWidth = 0.5; context.strokeStyle = edge;
    for (const i of shown) {
      const start = map.start[i], end = start + map.length[i];
      if (end < view.span.start || start > view.span.end) continue;
      const x0 = view.x(start), wide = Math.max(view.x(end) - x0, 1), top = y(map.offset[i] + map.size[i]), tall = Math.max(y(map.offset[i]) - top, 1);
      context.fillStyle = colours[slots[map.role[i]]];
      context.fillRect(x0, top, wide, tall);
      if (wide > 3 && tall > 3) context.strokeRect(x0, top, wide, tall);
    }
    context.restore();
  }
  const mapChart = new TimeChart({
    span: SPAN, id: "packing-chart", label: "Packing map: time across, bytes upwards", help: KEYS, height: 300, paint: paintMap,
    hover: (time, y) => {
      const map = packed(), floor = 300 - 22, [low, high] = range, value = low + (1 - (y - 4) / (floor - 4)) * (high - low);
      if (!map) return null;
      for (let k = shown.length - 1; k >= 0; k--) {
        const i = shown[k];
        if (map.start[i] <= time && time < map.start[i] + map.length[i] && map.offset[i] <= value && value < map.offset[i] + map.size[i])
          return `${map.tensors[map.tensor[i]]}\n${map.roles[map.role[i]]}, ${bytes(map.size[i])}${map.planned ? ` at address ${map.offset[i]}` : ""}\n${ps(map.start[i], 6)} to ${ps(map.start[i] + map.length[i], 6)}`;
      }
      return null;
    },
  });
  curveChart.extra.append(el("label", {}, "Memory ", pick), el("label", {}, whole, " scale to what is usable"));
  mapChart.extra.append(el("label", {}, changing, " leave out what stays for the whole run"));
  pick.addEventListener("change", choose); whole.addEventListener("change", () => curveChart.canvas.draw()); changing.addEventListener("change", choose);
  section("memory", "Memory over time", "The dot is the fullest moment; the dashed line is what is usable, when it is in sight.", facts, curveChart.node,
    el("h3", {}, "Packing map"), note, mapChart.node, legends, table);
  choose();
}

// Flows ------------------------------------------------------------------------------------------------
function sankey(id, title, hint, flow, format, heads) {
  const W = 900, top = 26, bar = 14;
  const x = (column) => 8 + (W - 16 - bar) * (column / Math.max(1, flow.columns - 1));
  const figure = svg("svg", { class: "figure", viewBox: `0 0 ${W} ${flow.height + top}`, role: "img", "aria-label": `${title}. The same figures are in the table below.` });
  heads.forEach((head, column) => figure.append(svg("text", { class: "soft", x: column === 0 ? 8 : column === flow.columns - 1 ? W - 8 : x(column) + bar / 2, y: 16,
    "text-anchor": column === 0 ? "start" : column === flow.columns - 1 ? "end" : "middle" }, head)));
  // One colour for each box of the middle column; a ribbon has that of the box it belongs to.
  const slot = flow.nodes.map(() => 7);
  flow.nodes.map((node, i) => [node, i]).filter(([node]) => node.column === 1).forEach(([, i], place) => { slot[i] = Math.min(place, 7); });
  for (const link of flow.links) {
    const from = flow.nodes[link.source], to = flow.nodes[link.target], xa = x(from.column) + bar, xb = x(to.column), mid = (xa + xb) / 2;
    const [a, b, h] = [top + link.y0, top + link.y1, Math.max(link.height, 0.6)];
    const own = from.column === 1 ? slot[link.source] : slot[link.target];
    const path = svg("path", { d: `M${xa},${a}C${mid},${a} ${mid},${b} ${xb},${b}V${b + h}C${mid},${b + h} ${mid},${a + h} ${xa},${a + h}Z`, fill: `var(--c${own})`, "fill-opacity": 0.4 });
    const text = `${from.name.trim()} → ${to.name.trim()}\n${format(link.amount)}`;
    path.addEventListener("pointermove", (event) => { path.setAttribute("fill-opacity", 0.75); showTip(text, event.clientX, event.clientY); });
    path.addEventListener("pointerleave", () => { path.setAttribute("fill-opacity", 0.4); hideTip(); });
    figure.append(path);
  }
  flow.nodes.forEach((node, i) => {
    const y = top + node.y, last = node.column === flow.columns - 1, left = x(node.column), tall = Math.max(node.height, 1.5);
    figure.append(svg("rect", { x: left, y, width: bar, height: tall, fill: node.column === 1 ? `var(--c${slot[i]})` : "var(--soft)" }));
    const at = y + tall / 2 + 4;
    figure.append(svg("text", { x: last ? left - 6 : left + bar + 6, y: at, "text-anchor": last ? "end" : "start" }, `${node.name.trim()} `,
      svg("tspan", { fill: "var(--soft)" }, format(node.amount))));
  });
  return el("div", {}, el("h3", {}, title), el("p", { class: "hint" }, hint), wide(figure, title),
    asTable(`${title} as a table`, () => makeTable({ caption: title, count: flow.links.length, columns: [
      { label: "from", value: (i) => flow.nodes[flow.links[i].source].name.trim() }, { label: "to", value: (i) => flow.nodes[flow.links[i].target].name.trim() },
      { label: "amount", number: true, value: (i) => flow.links[i].amount, text: (i) => format(flow.links[i].amount) }] })));
}
function flows() {
  section("flows", "Where bytes and energy go", null,
    sankey("bytes", "Bytes", "Read from memories, by what, and written to which. Traffic of transfers and collectives goes over links.", DATA.flows.bytes, bytes, ["read from", "moved by", "written to"]),
    sankey("energy", "Energy", `The run spends ${joules(DATA.summary.energy_j)}: by component, and by what it is spent on.`, DATA.flows.energy, joules, ["total", "component", "spent on"]),
    DATA.links.length ? asTable("Links as a table", () => makeTable({ caption: "Links", count: DATA.links.length, columns: [
      { label: "link", value: (i) => DATA.links[i].wire },
      { label: "forward", number: true, value: (i) => DATA.links[i].bytes_forward, text: (i) => bytes(DATA.links[i].bytes_forward) },
      { label: "backward", number: true, value: (i) => DATA.links[i].bytes_backward, text: (i) => bytes(DATA.links[i].bytes_backward) },
      { label: "busy", number: true, value: (i) => DATA.links[i].utilisation, text: (i) => percent(DATA.links[i].utilisation) },
      { label: "energy", number: true, value: (i) => DATA.links[i].energy_j, text: (i) => joules(DATA.links[i].energy_j) }] })) : null);
}

// Roofline ---------------------------------------------------------------------------------------------
function roofline() {
  const roof = DATA.roofline, names = [...new Set(roof.points.map((point) => point.device))];
  const kinds = [...new Set(roof.points.map((point) => point.kind))];
  if (!roof.points.length) { section("roofline", "Roofline", "No operator both computes and moves bytes."); return; }
  const slots = coloursOf(kinds, kinds.map((kind) => roof.points.filter((p) => p.kind === kind).reduce((s, p) => s + p.seconds, 0)));
  const device = el("select", { id: "roofline-device" }, names.map((name) => el("option", { value: name }, name)));
  const place = el("div"), W = 900, H = 430, box = { left: 78, right: W - 16, top: 14, bottom: H - 46 };
  const detail = el("div", { class: "detail", id: "roofline-detail", role: "status" }, "Point at an operator, or focus the figure and use the arrow keys.");
  const text = (p) => [p.group, `${p.kind}, ${p.calls} ${p.calls === 1 ? "call" : "calls"}, ${seconds(p.seconds)} in all`, `${figures(p.intensity)} FLOP/byte, ${amount(p.rate, "FLOP/s")}`];
  function draw() {
    const points = roof.points.filter((p) => p.device === device.value).sort((a, b) => a.intensity - b.intensity || a.rate - b.rate);
    const sheet = roof.devices.find((d) => d.name === device.value);
    const rates = sheet ? Object.values(sheet.rates) : [];
    const floor10 = (v) => Math.floor(Math.log10(v) + 1e-12), ceil10 = (v) => Math.ceil(Math.log10(v) - 1e-12);
    const xs = points.map((p) => p.intensity).concat(sheet ? rates.map((rate) => rate / sheet.bandwidth) : []), ys = points.map((p) => p.rate).concat(rates);
    const [x0, x1] = [floor10(Math.min(...xs)), ceil10(Math.max(...xs) * 1.5)], [y0, y1] = [floor10(Math.min(...ys)), ceil10(Math.max(...ys) * 1.3)];
    const x = (v) => box.left + ((Math.log10(v) - x0) / (x1 - x0)) * (box.right - box.left), y = (v) => box.bottom - ((Math.log10(v) - y0) / (y1 - y0)) * (box.bottom - box.top);
    const figure = svg("svg", { class: "figure", id: "roofline-chart", viewBox: `0 0 ${W} ${H}`, tabindex: "0", role: "application", "aria-roledescription": "interactive chart",
      "aria-label": `Roofline of ${device.value}: ${points.length} distinct operators. Arrow keys go through them.` });
    for (let e = x0; e <= x1; e++) figure.append(svg("line", { x1: x(10 ** e), x2: x(10 ** e), y1: box.top, y2: box.bottom, stroke: "var(--grid)" }), svg("text", { class: "soft", x: x(10 ** e), y: box.bottom + 16, "text-anchor": "middle" }, figures(10 ** e)));
    for (let e = y0; e <= y1; e++) figure.append(svg("line", { x1: box.left, x2: box.right, y1: y(10 ** e), y2: y(10 ** e), stroke: "var(--grid)" }), svg("text", { class: "soft", x: box.left - 6, y: y(10 ** e) + 4, "text-anchor": "end" }, amount(10 ** e, "")));
    figure.append(svg("text", { class: "soft", x: (box.left + box.right) / 2, y: H - 10, "text-anchor": "middle" }, "arithmetic intensity (FLOP/byte)"),
      svg("text", { class: "soft", transform: `translate(16 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "FLOP/s"));
    if (sheet) for (const [name, rate] of Object.entries(sheet.rates)) {
      const ridge = Math.min(Math.max(rate / sheet.bandwidth, 10 ** x0), 10 ** x1), first = Math.max(10 ** x0, (10 ** y0) / sheet.bandwidth);
      figure.append(svg("path", { d: `M${x(first)},${y(first * sheet.bandwidth)}L${x(ridge)},${y(Math.min(rate, ridge * sheet.bandwidth))}L${box.right},${y(rate)}`, fill: "none", stroke: "var(--ink)", "stroke-width": 1.3 }),
        svg("text", { x: box.right - 4, y: y(rate) - 5, "text-anchor": "end" }, `${name} ${amount(rate, "FLOP/s")}`));
    }
    if (sheet) {
      const at = 10 ** (x0 + 0.12), low = Math.max(at, (10 ** y0) / sheet.bandwidth * 1.3);
      const angle = (Math.atan2((box.bottom - box.top) / (y1 - y0), (box.right - box.left) / (x1 - x0)) * -180) / Math.PI;
      figure.append(svg("text", { transform: `translate(${x(low)} ${y(low * sheet.bandwidth) - 6}) rotate(${angle})` }, `${sheet.memory} ${amount(sheet.bandwidth, "B/s")}`));
    }
    const most = Math.max(...points.map((p) => p.seconds));
    const marks = points.map((p) => {
      const slot = slots[kinds.indexOf(p.kind)];
      const mark = svg("path", { d: SHAPES[slot](3.5 + 5 * Math.sqrt(p.seconds / most)), transform: `translate(${x(p.intensity).toFixed(2)} ${y(p.rate).toFixed(2)})`, fill: `var(--c${slot})`, "fill-opacity": 0.8, stroke: "var(--ground)", "stroke-width": 0.6 });
      figure.append(mark);
      return mark;
    });
    let at = -1;
    const choose = (index) => {
      if (at >= 0) { marks[at].setAttribute("stroke", "var(--ground)"); marks[at].setAttribute("stroke-width", 0.6); }
      at = index;
      marks[at].setAttribute("stroke", "var(--ink)"); marks[at].setAttribute("stroke-width", 2.5);
      const [name, ...rest] = text(points[at]);
      detail.replaceChildren(el("strong", {}, name), " · ", rest.join(" · "));
    };
    figure.addEventListener("pointermove", (event) => {
      const frame = figure.getBoundingClientRect(), scale = W / frame.width, px = (event.clientX - frame.left) * scale, py = (event.clientY - frame.top) * scale;
      let best = -1, away = 14 * scale;
      points.forEach((p, i) => { const d = Math.hypot(x(p.intensity) - px, y(p.rate) - py); if (d < away) { away = d; best = i; } });
      if (best >= 0) { choose(best); showTip(text(points[best]).join("\n"), event.clientX, event.clientY); } else hideTip();
    });
    figure.addEventListener("pointerleave", hideTip);
    figure.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (step) choose((at + step + points.length) % points.length);
      else if (event.key === "Home") choose(0);
      else if (event.key === "End") choose(points.length - 1);
      else return;
      event.preventDefault();
    });
    place.replaceChildren(wide(figure, "Roofline"));
  }
  device.addEventListener("change", draw);
  draw();
  const cut = roof.distinct > roof.points.length ? ` The ${roof.points.length} of them that take most time are shown.` : "";
  section("roofline", "Roofline", `${roof.operators} operator runs with arithmetic; those that coincide to three digits are one mark (${roof.distinct} marks), larger where they take more time.${cut} The rate leaves launch time out.`,
    el("div", { class: "tools" }, el("label", {}, "Device ", device)), place, legend(kinds, slots, true), detail,
    asTable("Roofline as a table", () => makeTable({ caption: "Operators under the roofline", count: roof.points.length, search: (i) => roof.points[i].group, columns: [
      { label: "operator", value: (i) => roof.points[i].group }, { label: "kind", value: (i) => roof.points[i].kind }, { label: "device", value: (i) => roof.points[i].device },
      { label: "calls", number: true, value: (i) => roof.points[i].calls }, { label: "FLOP/byte", number: true, value: (i) => roof.points[i].intensity },
      { label: "FLOP/s", number: true, value: (i) => roof.points[i].rate, text: (i) => amount(roof.points[i].rate, "FLOP/s") },
      { label: "time", number: true, value: (i) => roof.points[i].seconds, text: (i) => seconds(roof.points[i].seconds) }] })));
}

// Operators, devices, provenance -----------------------------------------------------------------------
function operators(lines) {
  const rows = DATA.operators, kinds = [...new Set(rows.map((row) => row.kind))], bounds = [...new Set(rows.map((row) => row.bound))];
  const note = el("p", { class: "hint", role: "status" });
  section("operators", "Operators", "Summed over layers, devices and phases. Press an operator's name to light it up in the timeline, again to let go.", note, makeTable({
    caption: "Operators", count: rows.length, search: (i) => rows[i].operator, sortBy: [3, true],
    filters: [{ label: "Kind", names: kinds, value: (i) => rows[i].kind }, { label: "Bound by", names: bounds, value: (i) => rows[i].bound }],
    onRow: (i) => { note.textContent = lines.light(rows[i].operator) ? `${rows[i].operator} is lit up in the timeline.` : ""; },
    columns: [
      { label: "operator", value: (i) => rows[i].operator }, { label: "kind", value: (i) => rows[i].kind }, { label: "calls", number: true, value: (i) => rows[i].calls },
      { label: "time", number: true, value: (i) => rows[i].seconds, text: (i) => seconds(rows[i].seconds) },
      { label: "share", number: true, value: (i) => rows[i].share, text: (i) => percent(rows[i].share), bar: (i) => rows[i].share },
      { label: "bound by", value: (i) => rows[i].bound },
      { label: "FLOP", number: true, value: (i) => rows[i].flops, text: (i) => amount(rows[i].flops, "") },
      { label: "FLOP/s", number: true, value: (i) => rows[i].rate, text: (i) => amount(rows[i].rate, "") },
      { label: "bytes", number: true, value: (i) => rows[i].bytes, text: (i) => bytes(rows[i].bytes) },
      { label: "FLOP/byte", number: true, value: (i) => rows[i].intensity },
      { label: "energy", number: true, value: (i) => rows[i].energy, text: (i) => joules(rows[i].energy) }],
  }));
}
const LABELS = {
  makespan_s: ["total time", seconds], time_to_first_token_s: ["time to first token", seconds], time_per_token_s: ["time per token", seconds],
  decode_tokens_per_s: ["decode tokens/s", figures], decode_steps: ["decode steps", figures], tokens: ["tokens", figures], tokens_per_s: ["tokens/s", figures],
  flops: ["work", (v) => amount(v, "FLOP")], energy_j: ["energy", joules], energy_per_token_j: ["energy per token", joules], bottleneck: ["bottleneck", String],
};
function overview() {
  const summary = Object.entries(DATA.summary).map(([key, value]) => (LABELS[key] ? [LABELS[key][0], LABELS[key][1](value)] : [key, figures(value)]));
  const uses = DATA.devices;
  section("overview", "Overview", "Every figure on this page is simulated; the provenance says with what.", cards(summary),
    DATA.warnings.length ? el("ul", { class: "notes" }, DATA.warnings.map((warning) => el("li", {}, warning))) : null,
    uses.length ? makeTable({ caption: "Devices", count: uses.length, columns: [
      { label: "device", value: (i) => uses[i].device },
      { label: "busy", number: true, value: (i) => uses[i].utilisation, text: (i) => percent(uses[i].utilisation), bar: (i) => uses[i].utilisation },
      { label: "of peak FLOPs", number: true, value: (i) => uses[i].compute_utilisation, text: (i) => percent(uses[i].compute_utilisation), bar: (i) => uses[i].compute_utilisation },
      { label: "launching", number: true, value: (i) => uses[i].launch_s, text: (i) => seconds(uses[i].launch_s) },
      { label: "work", number: true, value: (i) => uses[i].flops, text: (i) => amount(uses[i].flops, "FLOP") }] }) : null,
    asTable("Phases as a table", () => makeTable({ caption: "Phases", count: DATA.phases.length, columns: [
      { label: "phase", value: (i) => DATA.phases[i].name }, { label: "kind", value: (i) => DATA.phases[i].kind },
      { label: "start", number: true, value: (i) => DATA.phases[i].start, text: (i) => ps(DATA.phases[i].start, 6) },
      { label: "time", number: true, value: (i) => DATA.phases[i].end - DATA.phases[i].start, text: (i) => ps(DATA.phases[i].end - DATA.phases[i].start) },
      { label: "tokens", number: true, value: (i) => DATA.phases[i].tokens }, { label: "FLOP", number: true, value: (i) => DATA.phases[i].flops, text: (i) => amount(DATA.phases[i].flops, "") }] })));
}
function provenance() {
  const flat = [];
  const walk = (prefix, value) => {
    if (value !== null && typeof value === "object") for (const [key, inner] of Object.entries(value)) walk(prefix ? `${prefix}.${key}` : key, inner);
    else flat.push([prefix, value === null ? "none" : String(value)]);
  };
  walk("", DATA.provenance);
  section("provenance", "Provenance", "What made these figures. The same input gives the same page, byte for byte.", el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Provenance" },
    el("table", {}, el("caption", {}, "Provenance"), el("tbody", {}, [["model", DATA.model], ["system", DATA.system], ["plan by", DATA.mapper || "a file"], ...flat].map(([key, value]) =>
      el("tr", {}, el("th", { scope: "row" }, key), el("td", {}, value)))))));
}

overview();
const LINES = timeline();
memory();
flows();
roofline();
operators(LINES);
provenance();
mount(DATA.title, `Simulated with ${DATA.provenance.cost_model} costs at ${DATA.provenance.fidelity} fidelity; plan by ${DATA.mapper || "a file"}.`);
