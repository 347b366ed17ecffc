// Canvases that follow size and theme, axes, and charts over a shared span of time.

function ticks(low, high, wanted) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / Math.max(1, wanted), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const out = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) out.push(k * step);
  return out;
}
function binaryTicks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted);
  if (!(rough > 0)) return [low];
  const unit = 1024 ** Math.max(0, Math.floor(Math.log(rough) / Math.log(1024) + 1e-9));
  // All labels of an axis are in the unit of its step.
  const prefix = BINARY.find(([size]) => size <= unit)[1];
  return ticks(low / unit, high / unit, wanted).map((value) => [value * unit, `${Number(value.toFixed(3))} ${prefix}B`]);
}
// First index of sorted[index[...]] at or above a value.
function lowerBound(count, at, value) {
  let low = 0, high = count;
  while (low < high) { const mid = (low + high) >> 1; if (at(mid) < value) low = mid + 1; else high = mid; }
  return low;
}

class Canvas {
  constructor(node, height, paint, least = 0) {
    // ``least`` is the width below which the box scrolls sideways.
    this.node = node; this.least = least; this.height = height; this.paint = paint; this.waiting = false;
    this.context = node.getContext("2d");
    new ResizeObserver(() => this.draw()).observe(node.parentElement);
    themed.push(() => this.draw());
  }
  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.drawNow(); });
  }
  drawNow() {
    const ratio = Math.min(devicePixelRatio || 1, 2), room = this.node.parentElement.clientWidth;
    if (!room) return;
    const width = Math.max(room, this.least);
    const height = typeof this.height === "function" ? this.height() : this.height;
    if (this.node.width !== Math.round(width * ratio) || this.node.height !== Math.round(height * ratio)) {
      this.node.width = Math.round(width * ratio);
      this.node.height = Math.round(height * ratio);
      this.node.style.height = `${height}px`;
      this.node.style.width = `${width}px`;
    }
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.context.clearRect(0, 0, width, height);
    this.context.font = "12px system-ui, sans-serif";
    this.width = width;
    this.paint(this.context, width, height);
  }
}

// A span of time that several charts show together.
class Span {
  constructor(end) { this.whole = Math.max(end, 1); this.start = 0; this.end = this.whole; this.followers = []; }
  set(start, end) {
    const length = Math.min(this.whole, Math.max(end - start, Math.max(100, this.whole * 1e-9)));
    this.start = Math.min(Math.max(0, start), this.whole - length);
    this.end = this.start + length;
    for (const follow of this.followers) follow();
  }
  zoom(at, factor) { this.set(at - (at - this.start) * factor, at + (this.end - at) * factor); }
  pan(by) { this.set(this.start + by, this.end + by); }
  fit() { this.set(0, this.whole); }
}

// A canvas over a Span: wheel, drag, buttons and keys zoom and pan.
class TimeChart {
  constructor({ span, id, label, help, height, paint, hover, click, keys }) {
    this.span = span;
    this.hover = hover; this.click = click; this.keys = keys;
    const canvas = el("canvas", { id, tabindex: "0", role: "application", "aria-roledescription": "interactive chart", "aria-label": label, "aria-describedby": `${id}-help` });
    this.box = el("div", { class: "chart" }, canvas);
    this.node = el("div", {}, el("p", { class: "quiet", id: `${id}-help` }, help), this.tools(), this.box);
    this.canvas = new Canvas(canvas, height, (context, width, tall) => {
      this.left = Math.min(130, Math.max(96, width * 0.12));
      this.right = width - 8;
      paint(context, this, width, tall);
    });
    span.followers.push(() => this.canvas.draw());
    this.listen(canvas);
  }
  tools() {
    const span = this.span, middle = () => (span.start + span.end) / 2;
    const button = (name, text, act) => el("button", { type: "button", "aria-label": name, onclick: act }, text);
    this.extra = el("span", { class: "tools" });
    return el("div", { class: "tools" },
      button("Zoom in", "+", () => span.zoom(middle(), 0.5)), button("Zoom out", "−", () => span.zoom(middle(), 2)),
      button("Earlier", "◀", () => span.pan(-(span.end - span.start) / 4)), button("Later", "▶", () => span.pan((span.end - span.start) / 4)),
      button("Show the whole run", "Fit", () => span.fit()), this.extra);
  }
  x(time) { return this.left + ((time - this.span.start) / (this.span.end - this.span.start)) * (this.right - this.left); }
  time(x) { return this.span.start + ((x - this.left) / (this.right - this.left)) * (this.span.end - this.span.start); }
  axis(context, y) {
    context.fillStyle = colour("soft"); context.strokeStyle = colour("grid"); context.lineWidth = 1;
    context.textAlign = "center"; context.textBaseline = "top";
    const length = this.span.end - this.span.start;
    const digits = Math.max(3, Math.ceil(Math.log10(this.span.end / length)) + 3);
    for (const tick of ticks(this.span.start, this.span.end, (this.right - this.left) / 110)) {
      const x = this.x(tick);
      context.beginPath(); context.moveTo(x, 0); context.lineTo(x, y); context.stroke();
      const text = ps(tick, Math.min(digits, 12)), half = context.measureText(text).width / 2;
      context.fillText(text, Math.min(Math.max(x, this.left + half), this.right - half), y + 4);
    }
  }
  listen(canvas) {
    let grabbed = null;
    const place = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    canvas.addEventListener("wheel", (event) => {
      // Plain scrolling moves the page unless the chart has the focus.
      if (!(event.ctrlKey || event.metaKey || event.shiftKey || document.activeElement === canvas)) return;
      event.preventDefault();
      this.span.zoom(this.time(place(event)[0]), Math.exp(Math.max(-100, Math.min(100, event.deltaY || event.deltaX)) * 0.005));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      grabbed = { x: event.clientX, start: this.span.start, moved: false };
      canvas.setPointerCapture(event.pointerId);
      canvas.focus({ preventScroll: true });
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = place(event);
      if (grabbed) {
        const by = event.clientX - grabbed.x;
        if (Math.abs(by) > 3) grabbed.moved = true;
        if (grabbed.moved) {
          const length = this.span.end - this.span.start, start = grabbed.start - (by / (this.right - this.left)) * length;
          this.span.set(start, start + length);
          hideTip();
          return;
        }
      }
      const text = x >= this.left ? this.hover(this.time(x), y, x) : null;
      if (text) showTip(text, event.clientX, event.clientY); else hideTip();
    });
    canvas.addEventListener("pointerup", (event) => {
      const [x, y] = place(event);
      if (grabbed && !grabbed.moved && this.click) this.click(this.time(x), y, x);
      grabbed = null;
    });
    canvas.addEventListener("pointercancel", () => { grabbed = null; });
    canvas.addEventListener("pointerleave", hideTip);
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const span = this.span, length = span.end - span.start, middle = span.start + length / 2;
      const acts = {
        "+": () => span.zoom(middle, 0.5), "=": () => span.zoom(middle, 0.5), "-": () => span.zoom(middle, 2), "0": () => span.fit(),
        PageUp: () => span.pan(-length * 0.8), PageDown: () => span.pan(length * 0.8),
      };
      if (event.shiftKey) { acts.ArrowLeft = () => span.pan(-length / 5); acts.ArrowRight = () => span.pan(length / 5); }
      const act = acts[event.key];
      if (act) act();
      else if (!(this.keys && this.keys(event.key))) {
        if (event.key === "ArrowLeft") span.pan(-length / 5);
        else if (event.key === "ArrowRight") span.pan(length / 5);
        else return;
      }
      event.preventDefault();
    });
  }
}
