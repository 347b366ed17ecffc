// The page of a service. Times of charts are picoseconds, as in the pages of runs.

const PS = 1e12, TIME = DATA.time, EDGES = TIME.edges.map((t) => t * PS), BINS = TIME.arrived.length;
const SPAN = new Span(EDGES[BINS]);
const rate = (value) => `${figures(value, 3)} /s`;
const count = (value) => figures(value, 3);

// A chart over time: each series is {label, values, text}; all share one axis from zero.
function overTime(id, label, series, { top = null, text }) {
  const slots = series.map((_, k) => k);
  let chart = null;
  const ceiling = () => top ?? Math.max(...series.flatMap((s) => s.values.filter((v) => v !== null)), 1e-12) * 1.05;
  chart = new TimeChart({
    span: SPAN, id, label, help: "Plus and minus zoom, the arrow keys with Shift pan, 0 shows the whole run.", height: 220,
    paint: (context, view, width, tall) => {
      const low = tall - 24, high = 10, most = ceiling(), colours = palette();
      const y = (value) => low - (value / most) * (low - high);
      view.axis(context, low);
      context.fillStyle = colour("soft"); context.strokeStyle = colour("grid"); context.textAlign = "right"; context.textBaseline = "middle";
      for (const tick of ticks(0, most, 5)) {
        context.beginPath(); context.moveTo(view.left, y(tick)); context.lineTo(view.right, y(tick)); context.stroke();
        context.fillText(text(tick), view.left - 6, y(tick));
      }
      context.save(); context.beginPath(); context.rect(view.left, 0, view.right - view.left, tall); context.clip();
      series.forEach((one, k) => {
        context.strokeStyle = colours[slots[k]]; context.lineWidth = 1.6; context.setLineDash(k % 2 ? [6, 3] : []); context.beginPath();
        let drawn = false;
        for (let i = 0; i < BINS; i++) {
          const value = one.values[i];
          if (value === null) { drawn = false; continue; }
          const a = view.x(EDGES[i]), b = view.x(EDGES[i + 1]);
          if (drawn) context.lineTo(a, y(value)); else context.moveTo(a, y(value));
          context.lineTo(b, y(value)); drawn = true;
        }
        context.stroke();
      });
      context.restore();
    },
    hover: (time) => {
      const i = Math.min(BINS - 1, Math.max(0, lowerBound(BINS, (k) => EDGES[k + 1], time)));
      return [`${ps(EDGES[i], 4)} to ${ps(EDGES[i + 1], 4)}`, ...series.map((s) => `${s.label}: ${s.values[i] === null ? "–" : text(s.values[i])}`)].join("\n");
    },
  });
  const table = asTable("As a table", () => makeTable({ caption: label, count: BINS, columns: [
    { label: "from", number: true, value: (i) => EDGES[i], text: (i) => ps(EDGES[i], 4) },
    ...series.map((s) => ({ label: s.label, number: true, value: (i) => s.values[i], text: (i) => (s.values[i] === null ? "–" : text(s.values[i])) }))] }));
  return [legend(series.map((s) => s.label), slots), chart.node, table];
}

// Curves of points in the plane: {label, points: [[x, y]...]}; marks are vertical lines [x, text].
function plane(label, curves, { x, y, across, up, marks = [], log = false, level = null, dots = false }) {
  const W = 760, H = 300, edge = { left: 70, right: 16, top: 14, bottom: 44 };
  const all = curves.flatMap((c) => c.points.map((p) => p[0])).filter((v) => !log || v > 0);
  let low = Math.min(...all), high = Math.max(...all);
  if (!(high > low)) { low = log ? low / 2 : 0; high = high * 1.5 || 1; }
  const place = (v) => (log ? Math.log(Math.max(v, low) / low) / Math.log(high / low) : (v - low) / (high - low));
  const X = (v) => edge.left + place(v) * (W - edge.left - edge.right), Y = (v) => H - edge.bottom - v * (H - edge.top - edge.bottom);
  const axis = [];
  const steps = log ? [1, 2, 5].flatMap((m) => Array.from({ length: 24 }, (_, e) => m * 10 ** (e - 9))).filter((v) => v >= low && v <= high).sort((a, b) => a - b) : ticks(low, high, 7);
  const thin = steps.length > 8 ? steps.filter((v) => /^1(e|$|0*$)/.test(String(v.toExponential(0)))) : steps;
  for (const v of thin) axis.push(svg("line", { x1: X(v), x2: X(v), y1: edge.top, y2: H - edge.bottom, stroke: "var(--grid)" }), svg("text", { x: X(v), y: H - edge.bottom + 16, "text-anchor": "middle", class: "soft" }, x(v)));
  for (const v of [0, 0.25, 0.5, 0.75, 0.9, 1]) axis.push(svg("line", { x1: edge.left, x2: W - edge.right, y1: Y(v), y2: Y(v), stroke: "var(--grid)" }), svg("text", { x: edge.left - 6, y: Y(v) + 4, "text-anchor": "end", class: "soft" }, y(v)));
  const lines = curves.map((c, k) => [
    svg("polyline", { points: c.points.map(([a, b]) => `${X(a).toFixed(1)},${Y(b).toFixed(1)}`).join(" "), fill: "none", stroke: `var(--c${k})`, "stroke-width": 2, "stroke-dasharray": k % 2 ? "6 3" : null }),
    dots && c.points.map(([a, b]) => svg("circle", { cx: X(a), cy: Y(b), r: 4, fill: `var(--c${k})` }))]);
  const shown = marks.filter(([v]) => v >= low && v <= high).map(([v, text, k]) => [
    svg("line", { x1: X(v), x2: X(v), y1: edge.top, y2: H - edge.bottom, stroke: `var(--c${k})`, "stroke-dasharray": "2 3", "stroke-width": 1.5 }),
    svg("text", { x: X(v) + 4, y: edge.top + 10 + 14 * k, fill: "var(--ink)" }, text)]);
  const bar = level === null ? null : svg("line", { x1: edge.left, x2: W - edge.right, y1: Y(level), y2: Y(level), stroke: "var(--ink)", "stroke-dasharray": "4 4" });
  const names = [svg("text", { x: (edge.left + W) / 2, y: H - 8, "text-anchor": "middle" }, across), svg("text", { x: 14, y: H / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${H / 2})` }, up)];
  return [legend(curves.map((c) => c.label), curves.map((_, k) => k)),
    wide(svg("svg", { class: "figure", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label }, axis, bar, lines, shown, names), label)];
}

const S = DATA.summary, L = S.latency_s;
const dollars = S.cost.dollars_per_million_tokens, energy = S.cost.energy_j_per_million_tokens;
section("summary", "Summary", `Limits: ${DATA.slo}.`, cards([
  ["answered", `${S.counts.finished} of ${S.counts.requests}`], ["time", seconds(S.duration_s)],
  ["requests", rate(S.throughput.requests_per_s)], ["tokens out", rate(S.throughput.output_tokens_per_s)],
  ["within the limits", percent(S.attainment)], ["goodput", rate(S.throughput.goodput_requests_per_s)],
  ["first token, median", seconds(L.ttft.p50)], ["first token, p99", seconds(L.ttft.p99)],
  ["a token, median", seconds(L.tpot.p50)], ["a token, p99", seconds(L.tpot.p99)],
  ["devices busy", percent(S.utilisation.device_busy)], ["host, of step time", percent(S.utilisation.host_share)],
  ["KV cache, mean", percent(S.utilisation.cache)], ["prompt found in caches", percent(S.cache_hit_share)],
  ["preemptions", figures(S.counts.preemptions)],
  ["energy, a million tokens", energy === null ? "–" : joules(energy)],
  ["cost, a million tokens", dollars === null ? "no price stated" : `${figures(dollars)} USD`],
]), DATA.notes.length ? el("ul", { class: "notes" }, DATA.notes.map((note) => el("li", {}, note))) : null,
  DATA.unanswered ? el("p", { role: "note" }, `${many(DATA.unanswered, "request")} without a whole answer.`) : null);
if (DATA.probes.length) {
  const points = DATA.probes.map((p) => [p.rate, p.attainment]).sort((a, b) => a[0] - b[0]);
  section("rates", "Load curve", "Every rate that the search tried, and the share of requests within the limits there. The line is the share wanted.",
    plane("Share of requests within the limits by rate", [{ label: "within the limits", points }], { x: (v) => figures(v, 3), y: percent, across: "requests per second", up: "within the limits", level: DATA.wanted, dots: true }),
    asTable("As a table", () => makeTable({ caption: "Rates tried", count: points.length, columns: [
      { label: "requests per second", number: true, value: (i) => points[i][0] }, { label: "within the limits", number: true, value: (i) => points[i][1], text: (i) => percent(points[i][1]) }] })));
}
section("load", "Load over time", "Requests that come and requests that are answered, a second. Where the first stays above the second, a queue grows.",
  overTime("load-chart", "Requests per second over time", [{ label: "arrived", values: TIME.arrived }, { label: "answered", values: TIME.answered }], { text: rate }));
section("queue", "Queue and batch over time", "Requests that wait, and sequences in a step, over all workers.",
  overTime("queue-chart", "Queue and batch over time", [{ label: "running", values: TIME.running }, { label: "waiting", values: TIME.waiting }], { text: count }));
section("cache", "KV cache and devices over time", "Share of blocks that requests hold, and share of the time in which devices compute.",
  overTime("cache-chart", "Cache and devices over time", [{ label: "cache held", values: TIME.cache }, { label: "devices busy", values: TIME.busy }], { top: 1, text: percent }));
section("tokens", "Tokens over time", "Tokens of answers a second.", overTime("tokens-chart", "Tokens per second over time", [{ label: "tokens out", values: TIME.tokens }], { text: rate }));
const NAMES = { ttft: "first token", tpot: "a token, mean of a request", itl: "gap between tokens", e2e: "whole answer", queue: "queue" };
const curves = Object.entries(DATA.distributions).map(([name, values]) => ({ name, label: NAMES[name], points: values.map((v, i) => [v, i / (values.length - 1)]) }));
if (curves.length) {
  const marks = curves.map((c, k) => [DATA.limits[c.name], `${c.label}: limit`, k]).filter(([v]) => v !== null && v !== undefined);
  section("latency", "Times", "Share of requests (of gaps: of tokens) that took no longer. Dotted: limits.",
    plane("Distribution of times", curves, { x: (v) => seconds(v, 3), y: percent, across: "time (log)", up: "share no slower", marks, log: true }),
    makeTable({ caption: "Times", count: Object.keys(L).length, pageSize: 10, columns: [{ label: "", value: (i) => Object.keys(L)[i] },
      ...["mean", "p50", "p90", "p95", "p99", "p99.9"].map((key) => ({ label: key, number: true, value: (i) => Object.values(L)[i][key], text: (i) => seconds(Object.values(L)[i][key]) }))] }));
}
section("limits", "Limits over time", "Of the requests that came in each span, the share that was answered within the limits.",
  overTime("kept-chart", "Share within the limits over time", [{ label: "within the limits", values: TIME.kept }], { top: 1, text: percent }));
section("slowest", "Slowest requests", "What took longest in each, and what stands out.", makeTable({
  caption: "Slowest requests", count: DATA.slowest.length, search: (i) => DATA.slowest[i].why, columns: [
    { label: "request", value: (i) => DATA.slowest[i].request }, { label: "came", number: true, value: (i) => DATA.slowest[i].arrival_s, text: (i) => seconds(DATA.slowest[i].arrival_s) },
    { label: "took", number: true, value: (i) => DATA.slowest[i].e2e_s, text: (i) => seconds(DATA.slowest[i].e2e_s) },
    { label: "first token", number: true, value: (i) => DATA.slowest[i].ttft_s, text: (i) => seconds(DATA.slowest[i].ttft_s) },
    { label: "prompt", number: true, value: (i) => DATA.slowest[i].prompt }, { label: "answer", number: true, value: (i) => DATA.slowest[i].output },
    { label: "why", value: (i) => DATA.slowest[i].why }] }));
const PAIRS = [["engine", S.engine], ["layout", S.layout], ["routing", S.routing], ["seed", S.seed], ...Object.entries(DATA.settings)];
section("provenance", "Settings", null, makeTable({ caption: "Settings of the engine", count: PAIRS.length, pageSize: 50, columns: [
  { label: "setting", value: (i) => PAIRS[i][0] }, { label: "value", value: (i) => String(PAIRS[i][1]) }] }));
mount(DATA.title, DATA.subtitle);
