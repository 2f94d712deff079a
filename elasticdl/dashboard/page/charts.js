// The course of a job over time: panels that share one time axis, and the marks of what happened on it.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const MARKS = {
  death: { lane: 0, word: "death", path: "M-4-4L4 4M4-4L-4 4", hair: "full" },
  master: { lane: 0, word: "master", path: "M0-5L5 0L0 5L-5 0Z", hair: "full" },
  rescale: { lane: 0, word: "rescale", path: "M-4-1L0-5L4-1ZM-4 1L0 5L4 1Z", hair: "full" },
  join: { lane: 1, word: "join", path: "M0-4L4.5 4L-4.5 4Z", hair: "faint" },
  evaluation: { lane: 2, word: "evaluation", path: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z", hair: "none" },
  checkpoint: { lane: 3, word: "checkpoint", path: "M-3-3H3V3H-3Z", hair: "none" },
};
const LANE = 16, LANES = 4, GUTTER = 46, RIGHT = 10, TITLE = 24, GAP = 10, TOGETHER = 10, NARROW = 480;
const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 1209600, 2592000, 7776000, 31536000];

/** Make an element; what is no attribute is text or a child, never markup. */
function make(name, attributes = {}, ...children) {
  const one = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  one.append(...children);
  return one;
}

function draw(name, attributes = {}, ...children) {
  const one = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  one.append(...children);
  return one;
}

function markShape(kind) {
  return draw("svg", { viewBox: "-6 -6 12 12", class: kind, "aria-hidden": "true" }, draw("path", { d: MARKS[kind].path, class: "shape" }));
}

function isNumber(value) { return typeof value === "number" && Number.isFinite(value); }

/** 12,345 · 1.23 M · 0.0312 */
function figure(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toPrecision(3)} G`;
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3)} M`;
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en-US");
  if (size >= 0.0001 || value === 0) return String(Number(value.toPrecision(size >= 1 ? 3 : 4)));
  return value.toExponential(1);
}

function bytes(value) {
  if (!isNumber(value)) return "–";
  for (const [unit, size] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))} ${unit}`;
  }
  return `${Math.round(value)} B`;
}

/** 4 s · 2 min 40 s · 3 h 05 min · 2 d 4 h */
function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor(s / 60) % 60).padStart(2, "0")} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

/** What is estimated is not said to the second. */
function roughly(seconds) { return seconds >= 600 && seconds < 3600 ? `${Math.round(seconds / 60)} min` : duration(seconds); }

function clock(at, withSeconds = true, withDate = false) {
  const when = new Date(at * 1000), two = (number) => String(number).padStart(2, "0");
  const time = `${two(when.getHours())}:${two(when.getMinutes())}${withSeconds ? `:${two(when.getSeconds())}` : ""}`;
  return withDate ? `${when.getFullYear()}-${two(when.getMonth() + 1)}-${two(when.getDate())} ${time}` : time;
}

function isToday(at) { return new Date(at * 1000).toDateString() === new Date().toDateString(); }

function timeTicks(from, to, most) {
  const step = TIME_STEPS.find((one) => (to - from) / one <= most) ?? TIME_STEPS.at(-1);
  const shift = step >= 3600 ? new Date(from * 1000).getTimezoneOffset() * 60 : 0;
  const ticks = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) ticks.push(at);
  return { step, ticks };
}

function niceRange(low, high, most) {
  if (low === high) { const room = Math.abs(low) * 0.1 || 1; low = low >= 0 && low - room < 0 ? 0 : low - room; high += room; }
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const first = Math.floor(low / step + 1e-9) * step, ticks = [];
  for (let tick = first; ; tick += step) { ticks.push(Math.abs(tick) < step * 1e-6 ? 0 : tick); if (tick >= high - step * 1e-6) break; }
  return ticks;
}

/** How values are laid out upwards: by their logarithms where they span much, as a loss does. */
function upwards(values, fromZero, mayLog, top, height) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  if (low > high) return null;
  if (fromZero) low = Math.min(0, low);
  if (mayLog && low > 0 && high / low > 20) {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high)), ticks = [];
    const every = Math.max(1, Math.ceil((last - first) / 3));
    for (let power = first; power <= last; power += every) ticks.push(10 ** power);
    const a = Math.log10(Math.min(low, ticks[0])), b = Math.log10(Math.max(high, ticks.at(-1)));
    return { ticks, y: (value) => top + height * (1 - (Math.log10(value) - a) / (b - a)), isLog: true };
  }
  const ticks = niceRange(low, high, height < 60 ? 2 : 3), a = ticks[0], b = ticks.at(-1);
  return { ticks, y: (value) => top + height * (1 - (value - a) / (b - a)), isLog: false };
}

/** The index of the last row at or before a time; -1 where there is none. */
function rowAt(rows, at) {
  let low = 0, high = rows.length;
  while (low < high) { const middle = (low + high) >> 1; if (rows[middle][0] <= at) low = middle + 1; else high = middle; }
  return low - 1;
}

class Charts {
  /** Draw into `host`; `onChoose(event)` is told which mark somebody has chosen. */
  constructor(host, onChoose) {
    this.onChoose = onChoose;
    this.back = draw("g"); this.front = draw("g"); this.cursor = draw("g", { "aria-hidden": "true" });
    this.markGroup = draw("g", { role: "group", "aria-label": "What happened, on the time axis; the arrow keys go from mark to mark" });
    this.svg = draw("svg", { role: "group", "aria-label": "Course of the job" }, this.back, this.front, this.cursor, this.markGroup);
    this.tip = make("p", { class: "tip", role: "tooltip", id: "mark-tip" });
    this.tip.hidden = true;
    host.append(this.svg, this.tip);
    this.host = host; this.marks = new Map(); this.given = null; this.pointed = null; this.drawnWidth = 0;
    new ResizeObserver(() => { if (this.given && Math.abs(host.clientWidth - this.drawnWidth) > 1) this.show(this.given); }).observe(host);
    this.svg.addEventListener("pointermove", (event) => this.point(event.clientX - this.svg.getBoundingClientRect().left));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.markGroup.addEventListener("keydown", (event) => this.walk(event));
  }

  /** Show panels from one time to another: `given` is {from, to, rows, panels, events}. */
  show(given) {
    this.given = given;
    const width = this.drawnWidth = Math.max(240, this.host.clientWidth), plot = width - GUTTER - RIGHT;
    const { from, to } = given;
    this.x = (at) => GUTTER + plot * (at - from) / (to - from);
    this.at = (x) => from + (to - from) * (x - GUTTER) / plot;
    const first = Math.max(0, rowAt(given.rows, from)), rows = given.rows.slice(first, rowAt(given.rows, to) + 1);
    let top = LANES * LANE + 6;
    const back = [], front = [];
    this.readouts = [];
    for (const panel of given.panels) {
      const drawn = this.panel(panel, rows, top, width);
      if (!drawn) continue;
      back.push(...drawn.back); front.push(...drawn.front);
      top += TITLE + panel.height + GAP;
    }
    this.bottom = top - GAP;
    const { step, ticks } = timeTicks(from, to, plot / 84);
    for (const at of ticks) {
      const x = this.x(at);
      back.push(draw("line", { class: "grid", x1: x, x2: x, y1: LANES * LANE, y2: this.bottom }));
      const text = step >= 86400 ? clock(at, false, true).slice(0, 10) : clock(at, step < 60);
      back.push(draw("text", { x, y: this.bottom + 14, "text-anchor": x < GUTTER + 24 ? "start" : x > width - 30 ? "end" : "middle" }, text));
    }
    back.push(draw("line", { class: "axis", x1: GUTTER, x2: width - RIGHT, y1: this.bottom, y2: this.bottom }));
    this.height = this.bottom + 20;
    this.svg.setAttribute("height", this.height);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    const hairs = this.placeMarks(given.events.filter((one) => one.mark in MARKS && one.time >= from && one.time <= to), width);
    this.back.replaceChildren(...back, ...hairs);
    this.front.replaceChildren(...front);
    this.point(this.pointed);
  }

  panel(panel, rows, top, width) {
    const plotTop = top + TITLE, values = [], back = [], front = [];
    for (const series of panel.series) {
      if (series.points) values.push(...series.points.filter(([at]) => at >= this.given.from && at <= this.given.to).map((one) => one[1]));
      else for (const row of rows) { const value = row[series.column]; if (isNumber(value)) values.push(value); }
    }
    if (!values.length) return null;
    const scale = upwards(values, panel.fromZero, panel.mayLog, plotTop, panel.height);
    for (const tick of scale.ticks) {
      const y = Math.round(scale.y(tick));
      back.push(draw("line", { class: "grid", x1: GUTTER, x2: width - RIGHT, y1: y, y2: y }));
      back.push(draw("text", { x: GUTTER - 6, y: y + 4, "text-anchor": "end" }, panel.format(tick)));
    }
    const title = draw("text", { class: "title", x: 0, y: top + 12 }, panel.title + (!scale.isLog ? "" : width < NARROW ? ", log" : ", logarithmic"));
    const said = [], spans = [];
    for (const series of panel.series) {
      const curve = series.points ? this.dots(series, scale) : this.curve(series, rows, scale, plotTop + panel.height);
      front.push(...curve);
      const span = draw("tspan", { class: series.style, dx: spans.length ? 12 : 0 });
      spans.push(span);
      this.readouts.push({ span, series, panel });
      const last = series.points ? series.points.at(-1)?.[1] : rows.at(-1)?.[series.column];
      said.push(`${series.name} ${panel.format(last)}`);
    }
    front.push(title, draw("text", { class: "value", x: width - RIGHT, y: top + 12, "text-anchor": "end" }, ...spans));
    const name = `${panel.title}: now ${said.join(", ")}; between ${panel.format(Math.min(...scale.ticks))} and ${panel.format(Math.max(...scale.ticks))}`;
    return { back, front: [draw("g", { role: "img", "aria-label": name }, ...front)] };
  }

  curve(series, rows, scale, floor) {
    const gap = 3.5 * this.given.interval, lines = [];
    let line = null, before = null;
    for (const row of rows) {
      const value = row[series.column];
      if (!isNumber(value)) { continue; }
      const x = this.x(row[0]), y = scale.y(value);
      if (before === null || row[0] - before.at > gap) { line = []; lines.push(line); } else if (series.isStepped) line.push(`L${x.toFixed(1)} ${before.y.toFixed(1)}`);
      line.push(`${line.length ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`);
      before = { at: row[0], y, x };
      line.first ??= x; line.last = x;
    }
    const clipped = lines.map((one) => (one.length === 1 ? one[0] + "h1" : one.join("")));
    const drawn = [draw("path", { class: `curve ${series.style}`, d: clipped.join(""), "clip-path": "none" })];
    if (series.hasArea) {
      const area = lines.filter((one) => one.length > 1).map((one) => `${one.join("")}L${one.last.toFixed(1)} ${floor}L${one.first.toFixed(1)} ${floor}Z`);
      drawn.unshift(draw("path", { class: `area ${series.style}`, d: area.join("") }));
    }
    return drawn;
  }

  dots(series, scale) {
    const seen = series.points.filter(([at]) => at >= this.given.from && at <= this.given.to), drawn = [];
    const places = seen.map(([at, value]) => [this.x(at), scale.y(value)]);
    if (places.length > 1) drawn.push(draw("path", { class: `curve ${series.style}`, d: "M" + places.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L") }));
    if (places.length <= 60) drawn.push(...places.map(([cx, cy]) => draw("circle", { class: `point ${series.style}`, cx, cy, r: 3 })));
    return drawn;
  }

  /** Place the marks, near ones of a kind as one; keep the elements, so that the focus stays. */
  placeMarks(events, width) {
    const groups = [], latest = {};
    for (const event of events) {
      const x = this.x(event.time), last = latest[event.mark];
      if (last && x - last.x < TOGETHER) last.events.push(event);
      else groups.push(latest[event.mark] = { x, kind: event.mark, events: [event] });
    }
    const kept = new Map(), hairs = [];
    for (const group of groups) {
      const key = `${group.kind} ${group.events[0].number}`, kind = MARKS[group.kind], y = kind.lane * LANE + LANE / 2 + 1;
      const mark = this.marks.get(key) ?? this.newMark(group.kind);
      mark.group = group; mark.y = y;
      const text = this.textOf(group);
      if (mark.text !== text) { mark.text = text; mark.element.setAttribute("aria-label", text); }
      mark.element.setAttribute("transform", `translate(${group.x.toFixed(1)} ${y})`);
      kept.set(key, mark);
      if (kind.hair !== "none") hairs.push(draw("line", { class: `hair ${kind.hair} ${group.kind}`, x1: group.x, x2: group.x, y1: y + 6, y2: this.bottom }));
    }
    const focused = [...this.marks.values()].find((one) => one.element === document.activeElement);
    for (const [key, mark] of this.marks) if (!kept.has(key)) mark.element.remove();
    this.marks = kept;
    this.order = [...kept.values()].sort((a, b) => a.group.x - b.group.x || a.y - b.y);
    this.order.forEach((mark, i) => {  // In the order of time, but none is moved that is in its place.
      if (this.markGroup.children[i] !== mark.element) this.markGroup.insertBefore(mark.element, this.markGroup.children[i] ?? null);
    });
    if (focused && document.activeElement !== focused.element && this.order.length) {
      const near = this.order.reduce((a, b) => (Math.abs(b.group.x - focused.group.x) < Math.abs(a.group.x - focused.group.x) ? b : a));
      near.element.focus({ preventScroll: true });
    }
    const stop = this.order.find((one) => one.element === document.activeElement) ?? this.order.find((one) => one.element.getAttribute("tabindex") === "0") ?? this.order.at(-1);
    for (const mark of this.order) mark.element.setAttribute("tabindex", mark === stop ? "0" : "-1");
    return hairs;
  }

  newMark(kind) {
    const element = draw("g", { class: `mark ${kind}`, role: "button", "data-mark": kind },
      draw("rect", { class: "ring", x: -8.5, y: -8.5, width: 17, height: 17, rx: 4 }),
      draw("rect", { x: -10, y: -10, width: 20, height: 20, fill: "transparent" }),
      draw("path", { class: "shape", d: MARKS[kind].path }));
    const mark = { element, kind };
    element.addEventListener("pointerenter", () => this.tell(mark));
    element.addEventListener("pointerleave", () => this.tell(null));
    element.addEventListener("focus", () => this.tell(mark));
    element.addEventListener("blur", () => this.tell(null));
    element.addEventListener("click", () => this.onChoose(mark.group.events.at(-1)));
    return mark;
  }

  textOf(group) {
    const { events } = group, shown = events.slice(-4);
    const lines = shown.map((one) => `${clock(one.time, true, !isToday(one.time))} ${one.text}`);
    if (events.length > shown.length) lines.unshift(`${events.length} times ${MARKS[group.kind].word}; the last:`);
    return `${MARKS[group.kind].word}: ${lines.join("\n")}`;
  }

  tell(mark) {
    this.tip.hidden = mark === null;
    if (mark === null) return;
    this.tip.textContent = mark.text;
    const room = this.host.clientWidth - this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, Math.min(room, mark.group.x - this.tip.offsetWidth / 2))}px`;
    this.tip.style.top = `${mark.y + 14}px`;
  }

  walk(event) {
    const here = this.order.findIndex((one) => one.element === document.activeElement);
    const to = { ArrowLeft: here - 1, ArrowUp: here - 1, ArrowRight: here + 1, ArrowDown: here + 1, Home: 0, End: this.order.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") this.onChoose(this.order[here].group.events.at(-1));
    else if (event.key === "Escape") this.tell(null);
    else if (to === undefined) return;
    else if (this.order[to]) {
      this.order[here]?.element.setAttribute("tabindex", "-1");
      this.order[to].element.setAttribute("tabindex", "0");
      this.order[to].element.focus({ preventScroll: true });
    }
    event.preventDefault();
  }

  /** Read the values at a place of the time axis, or the latest. */
  point(x) {
    this.pointed = x;
    if (!this.given) return;
    const { rows, from, to } = this.given;
    const isInside = x !== null && x >= GUTTER && x <= this.drawnWidth - RIGHT;
    const at = isInside ? this.at(x) : to, row = rows[rowAt(rows, at)];
    for (const { span, series, panel } of this.readouts) {
      const value = series.points ? series.points.filter((one) => one[0] <= at).at(-1)?.[1] : row?.[series.column];
      span.textContent = panel.series.length > 1 || series.points ? `${series.name} ${panel.format(value)}` : panel.format(value);
    }
    this.cursor.replaceChildren();
    if (!isInside || at < from) return;
    this.cursor.append(draw("line", { class: "cursor", x1: x, x2: x, y1: LANES * LANE, y2: this.bottom }));
    const anchor = x < GUTTER + 40 ? "start" : x > this.drawnWidth - 50 ? "end" : "middle";
    this.cursor.append(draw("text", { class: "at", x, y: this.bottom + 14, "text-anchor": anchor }, clock(at)));
  }
}
