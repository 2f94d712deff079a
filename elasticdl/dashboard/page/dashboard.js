// The page of one job: it shows what docs/decisions/watching.md calls the values, live or of a report.
"use strict";

const MOST_EVENTS = 20000, EVENTS_AT_ONCE = 5000, EVENTS_SHOWN = 300, MOST_ROWS = 2500, MOST_PARTS = 120, SILENT_AFTER_S = 5, TRY_AGAIN_S = 12, LOG_BYTES = 65536;
const ROLES = { worker: "worker", ps: "PS", master: "master" };
const $ = (id) => document.getElementById(id);
const inlined = $("values") ? JSON.parse($("values").textContent) : null;
const job = { about: null, state: null, rows: [], columns: [], interval: 1, evaluations: [], events: [], last: 0 };
const view = { span: 0, filter: "all", chosen: null, find: "", log: null, heard: null, isKnown: false, announced: {} };
const charts = new Charts($("charts"), chooseEvent);

/** Set text only where it changes: what is selected, focused or read aloud stays. */
function say(where, text) { if (where.textContent !== text) where.textContent = text; }
function setAttribute(where, name, value) { if (where.getAttribute(name) !== value) where.setAttribute(name, value); }
function hasEnded() { return job.state !== null && job.state.state !== "running"; }
function secondsSilent() { return view.heard === null ? 0 : (performance.now() - view.heard) / 1000; }
function now() { return job.state.at + (hasEnded() ? 0 : secondsSilent()); }
function ago(at) { const s = now() - at; return hasEnded() || s > 86400 ? clock(at, true, !isToday(at)) : `${duration(s)} ago (${clock(at)})`; }
function nameOf(one) { return one.role === "master" ? "master" : `${ROLES[one.role] ?? one.role} ${one.index}`; }

/** Keep one child for each item, in order, made once and filled each time. */
function keep(parent, items, keyOf, create, fill) {
  const there = new Map([...parent.children].map((one) => [one.dataset.key, one]));
  items.forEach((item, i) => {
    const key = String(keyOf(item, i));
    let one = there.get(key);
    if (one) there.delete(key);
    else { one = create(item); one.dataset.key = key; }
    if (parent.children[i] !== one) parent.insertBefore(one, parent.children[i] ?? null);
    fill(one, item);
  });
  for (const one of there.values()) one.remove();
}

function row(labels, wide) {
  return make("tr", {}, ...labels.map((label) => make("td", { "data-label": label, ...(label === wide ? { class: "wide" } : {}) })));
}

function fillPairs(where, pairs) {
  keep(where, pairs.flatMap(([name, value, style]) => [["dt", name, name], ["dd", value, name, style]]), ([tag, , name]) => `${tag} ${name}`,
    ([tag]) => make(tag), (one, [, text, , style]) => { say(one, text); setAttribute(one, "class", style ?? ""); });
}

function fillTiles(where, tiles) {
  keep(where, tiles, ([name]) => name, ([name]) => make("div", {}, make("dt", { title: name }, name), make("dd")), (one, [, text, style]) => { say(one.lastChild, text); setAttribute(one.lastChild, "class", style ?? ""); });
}

// --- The verdict -------------------------------------------------------------------------------

function verdict() {
  const { state, health, progress, error } = job.state;
  const errors = health.filter((one) => one.level === "error").length, left = progress.seconds_left;
  const where = progress.num_epochs > 1 ? `epoch ${progress.epoch} of ${progress.num_epochs}` : `${percent(progress)} done`;
  const first = (error || "").split("\n")[0];
  if (state === "succeeded") return ["good", `Succeeded, after ${duration(now() - job.about.began)}.`];
  if (state === "failed") return ["bad", `Failed: ${first || "no reason is known"}`];
  if (state === "lost") return ["bad", `Lost: it ended without a result. “elasticdl jobs resume ${job.about.name}” goes on with it.`];
  if (state === "stopped") return ["care", `Stopped${first ? `: ${first}` : ""}.`];
  const going = `${job.state.phase}, ${where}${isNumber(left) ? `, ${roughly(left)} to go` : ""}`;
  if (errors) return ["bad", `Running, but not well: ${going}.`];
  if (health.length) return ["care", `Running, with ${health.length === 1 ? "a warning" : `${health.length} warnings`}: ${going}.`];
  return ["good", `Healthy: ${going}.`];
}

function percent({ records_done: done, records_expected: all }) { return all ? `${Math.floor(100 * done / all)} %` : "0 %"; }

function lastDeath() {
  const deaths = job.events.filter((one) => one.mark === "death");
  if (!deaths.length) return "nothing has died";
  const instanceOf = (death) => job.state.instances.find((one) => one.role === death.role && one.index === death.index);
  const death = deaths.findLast((one) => !hasEnded() && instanceOf(one)?.state === "launching") ?? deaths.at(-1); // What is not replaced yet comes first.
  const instance = instanceOf(death);
  const next = instance && instance.incarnation > death.incarnation && !hasEnded()
    ? instance.state === "running" ? `; incarnation ${instance.incarnation} runs` : `; incarnation ${instance.incarnation} is ${instance.state}` : "";
  return `${death.text.split("\n")[0]}, ${ago(death.time)}${next}${deaths.length > 1 ? `; ${deaths.length} deaths in all` : ""}`;
}

function showVerdict() {
  const { state, health, bottleneck, traceback, output, metrics } = job.state, [level, text] = verdict();
  setAttribute($("verdict"), "data-level", level);
  say($("verdict-text"), text);
  const lines = [["Limits it", bottleneck || "nothing is known of that so far"], ["Died last", lastDeath()]];
  if (state !== "running") {
    const found = Object.entries(metrics);
    if (found.length) lines.unshift(["Found", found.map(([name, value]) => `${name} ${figure(value)}`).join(", ")]);
    if (output) lines.push(["Output", output]);
  }
  fillPairs($("verdict-lines"), lines);
  keep($("health"), health, (one) => `${one.level} ${one.text}`, (one) => make("li", { "data-level": one.level }), (li, one) => say(li, `${one.level === "error" ? "✕" : "!"} ${one.text}`));
  $("traceback").hidden = !traceback;
  say($("traceback"), traceback || "");
  document.title = `${state === "running" ? percent(job.state.progress) : state}${level === "bad" ? " ✕" : ""} · ${job.about.name} · ElasticDL`;
  announce("state", `${job.about.name}: ${state}${health.map((one) => `; ${one.text}`).join("")}`);
}

function announce(what, text) {
  const gist = text.replace(/\d+/g, "");  // That a number has changed is not read aloud each second.
  if (view.announced[what] !== gist && view.announced[what] !== undefined) $("announcement").textContent = text;
  view.announced[what] = gist;
}

// --- Progress ----------------------------------------------------------------------------------

function showProgress() {
  const { state, progress, loss, learning_rate: rate, metrics, training_seconds: seconds, instances } = job.state;
  const { epochs } = progress, bar = $("progress-bar");
  const done = Math.floor(100 * progress.records_done / (progress.records_expected || 1));
  const whole = { epoch: "all", records_done: progress.records_done, records_expected: progress.records_expected }, total = progress.num_epochs;
  const toCome = Array.from({ length: Math.max(0, Math.min(total, MOST_PARTS) - epochs.length) }, (_, i) => ({ epoch: epochs.length + i + 1, records_done: 0, records_expected: 0 }));
  const parts = total > 1 && total <= MOST_PARTS ? [...epochs, ...toCome] : [whole];
  bar.classList.toggle("many", parts.length > 60);
  keep(bar, parts, (one) => one.epoch, () => make("span", {}, make("span")), (span, one) => {
    const share = Math.min(1, one.records_done / (one.records_expected || 1));
    span.classList.toggle("over", share === 1);
    span.title = `epoch ${one.epoch}: ${percent(one)}`;
    span.firstChild.style.width = `${100 * share}%`;
  });
  setAttribute(bar, "aria-valuenow", String(Math.min(100, done)));
  const here = epochs.find((one) => one.epoch === progress.epoch), said = [];
  if (progress.num_epochs > 1 || here) said.push(`epoch ${progress.epoch} of ${progress.num_epochs}${here ? `, ${percent(here)} of it` : ""}`);
  if (state === "running" && isNumber(here?.seconds_left)) said.push(`${roughly(here.seconds_left)} to the end of the epoch`);
  if (state === "running" && isNumber(progress.seconds_left)) said.push(`${roughly(progress.seconds_left)} to the end of training`);
  said.push(`${figure(progress.records_done)} of ${figure(progress.records_expected)} records (${percent(progress)})`);
  say($("progress-text"), said.join(" · "));
  setAttribute(bar, "aria-valuetext", said.join(", "));
  const up = (role) => instances.filter((one) => one.role === role && one.state === "running").length;
  const upOf = (role, wanted, name) => [name, hasEnded() ? String(wanted) : `${up(role)} of ${wanted}`, !hasEnded() && up(role) < wanted ? "care" : ""];
  const tiles = [["samples/s", figure(progress.records_per_s)], ["loss", figure(loss)]];
  for (const [name, value] of Object.entries(metrics).slice(0, 4)) tiles.push([`val ${name}`, figure(value)]);
  if (isNumber(rate)) tiles.push(["learning rate", figure(rate)]);
  tiles.push(upOf("worker", job.state.workers_wanted, "workers up"), upOf("ps", job.state.ps_wanted, "PS up"), ["in training for", roughly(seconds)]);
  fillTiles($("tiles"), tiles);
  $("epochs-part").hidden = epochs.length < 2;
  keep($("epochs"), epochs, (one) => one.epoch, () => row(["epoch", "records", "time", "left"]), (tr, one) => {
    [String(one.epoch), `${figure(one.records_done)} of ${figure(one.records_expected)}`, duration(one.seconds), roughly(one.seconds_left)].forEach((text, i) => say(tr.children[i], text));
  });
}

// --- Course ------------------------------------------------------------------------------------

function metricSeries() {
  const names = [...new Set(job.evaluations.flatMap((one) => Object.keys(one.metrics)))].filter((name) => name !== "loss");
  return names.map((name, i) => ({ name, style: `s${i % 5 + 1}`, points: job.evaluations.filter((one) => isNumber(one.metrics[name])).map((one) => [one.at, one.metrics[name]]) }));
}

function panels() {
  const column = (name) => job.columns.indexOf(name), shown = [];
  const validation = { name: "validation", style: "s4", points: job.evaluations.filter((one) => isNumber(one.metrics.loss)).map((one) => [one.at, one.metrics.loss]) };
  shown.push({ title: "samples/s", height: 84, fromZero: true, format: figure, series: [{ name: "samples/s", column: column("records_per_s"), style: "s1", hasArea: true }] });
  shown.push({ title: "loss", height: 84, mayLog: true, format: figure, series: [{ name: "training", column: column("loss"), style: "s2" }, ...(validation.points.length ? [validation] : [])] });
  const metrics = metricSeries(), isShare = (one) => one.points.every(([, value]) => value >= 0 && value <= 1);
  const shares = metrics.filter(isShare), others = metrics.filter((one) => !isShare(one));
  if (shares.length) shown.push({ title: shares.length === 1 ? shares[0].name : "metrics", height: 84, format: figure, series: shares.slice(0, 6) });
  for (const one of others.slice(0, 4)) shown.push({ title: one.name, height: 64, format: figure, series: [one] });
  const rates = column("learning_rate"), seen = job.rows.map((one) => one[rates]).filter(isNumber);
  if (seen.some((one) => one !== seen[0])) shown.push({ title: "learning rate", height: 44, fromZero: true, format: figure, series: [{ name: "learning rate", column: rates, style: "s6", isStepped: true }] });
  shown.push({ title: "instances up", height: 44, fromZero: true, format: figure, series: [{ name: "workers", column: column("workers"), style: "s3", isStepped: true }, { name: "PS", column: column("ps"), style: "s4", isStepped: true }] });
  shown.push({ title: "CPU, cores", height: 44, fromZero: true, format: figure, series: [{ name: "CPU", column: column("cpu"), style: "s5" }] });
  shown.push({ title: "memory", height: 44, fromZero: true, format: bytes, series: [{ name: "memory", column: column("memory_bytes"), style: "s6" }] });
  return shown;
}

function showCourse() {
  const to = hasEnded() ? Math.max(job.rows.at(-1)?.[0] ?? 0, job.events.at(-1)?.time ?? 0, job.about.began + 1) : now();
  const began = Math.min(job.about.began, job.rows[0]?.[0] ?? Infinity);
  const from = view.span ? Math.max(began, to - view.span) : began;
  charts.show({ from: Math.min(from, to - 1), to, rows: job.rows, interval: job.interval, panels: panels(), events: job.events });
}

// --- Instances, tasks, time, partitions --------------------------------------------------------

function showInstances() {
  const { instances } = job.state, relaunches = instances.reduce((sum, one) => sum + one.relaunches, 0);
  const late = instances.filter((one) => one.heard_s > 5 && one.state === "running").length;
  say($("instances-text"), [relaunches ? `${relaunches} launched again so far` : "none was launched again", ...(late ? [`${late} not heard lately`] : [])].join(" · "));
  const labels = ["instance", "incarnation", "state", "heard", "age", "CPU", "memory", "doing"];
  keep($("instance-rows"), instances, (one) => `${one.role}/${one.index}`, (one) => {
    const tr = row(labels, "doing"), button = make("button", { type: "button" });
    tr.children[0].append(button);
    tr.children[2].append(make("span", { class: "state" }));
    tr.addEventListener("click", () => openLog(one.role, one.index));
    return tr;
  }, (tr, one) => {
    const level = one.state === "running" ? (one.heard_s > 5 ? "care" : "good") : one.state === "gone" && !hasEnded() ? "bad" : one.state === "gone" ? "none" : "care";
    say(tr.children[0].firstChild, nameOf(one));
    setAttribute(tr.children[0].firstChild, "aria-label", `${nameOf(one)}: open its log`);
    setAttribute(tr.children[2].firstChild, "data-level", level);
    say(tr.children[2].firstChild, one.state);
    const heard = isNumber(one.heard_s) ? (one.heard_s < 2 ? "now" : `${duration(one.heard_s)} ago`) : "–";
    const texts = [null, String(one.incarnation), null, heard, duration(one.age_s), isNumber(one.cpu) ? one.cpu.toFixed(2) : "–", bytes(one.memory_bytes), [one.doing, one.state === "running" ? "" : one.reason].filter(Boolean).join(" · ")];
    texts.forEach((text, i) => { if (text !== null) say(tr.children[i], text); });
  });
}

function showTasks() {
  const { tasks } = job.state, total = tasks.strip.reduce((sum, [, number]) => sum + number, 0);
  const legend = ["done", "leased", "todo", "replayed"].map((name) => [name, tasks[name]]);
  keep($("task-legend"), legend, ([name]) => name, ([name]) => make("li", {}, make("span", { class: `swatch ${name}` }), make("span")),
    (li, [name, number]) => say(li.lastChild, `${figure(number)} ${name === "todo" ? "to do" : name === "replayed" ? "trained again" : name}`));
  let x = 0;
  const runs = tasks.strip.map(([state, number]) => { const rect = draw("rect", { x, y: 0, width: number, height: 1, class: state }); x += number; return rect; });
  $("strip").replaceChildren(draw("svg", { viewBox: `0 0 ${total || 1} 1`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...runs));
  setAttribute($("strip"), "aria-label", `Tasks of this epoch, in order: ${legend.map(([name, number]) => `${number} ${name}`).join(", ")}`);
}

function showPhases() {
  const roles = [...new Set(job.state.phases.map((one) => one.role))], titles = { worker: "of a minibatch, what training waits for", ps: "of parameter servers’ time", master: "of the master’s time" };
  const most = job.state.phases.filter((one) => one.role === "worker").reduce((a, b) => (a && a.share >= b.share ? a : b), null);
  const lines = roles.flatMap((role) => [{ role, title: titles[role] ?? role }, ...job.state.phases.filter((one) => one.role === role && (one.share > 0 || one.ms > 0))]);
  keep($("phases"), lines, (one) => `${one.role} ${one.phase ?? "title"}`, (one) => one.title ? make("h3", {}, one.title)
    : make("div", { class: "phase" }, make("span"), make("span", { class: "track" }, make("span")), make("span", { class: "number" }), make("span", { class: "number said" })),
  (div, one) => {
    if (one.title) return;
    div.classList.toggle("most", one === most && one.share > 0);
    say(div.children[0], one.phase.replaceAll("_", " "));
    div.children[1].firstChild.style.width = `${Math.min(100, 100 * one.share)}%`;
    say(div.children[2], `${Math.round(100 * one.share)} %`);
    say(div.children[3], isNumber(one.ms) ? `${figure(one.ms < 1 ? Number(one.ms.toPrecision(2)) : one.ms)} ms` : "");
  });
  if (!lines.length) say($("phases"), "Nothing was counted so far.");
}

function staleness(cell, pushes) {
  const total = pushes.reduce((a, b) => a + b, 0), most = Math.max(1, ...pushes), shown = pushes.slice(0, 20), key = pushes.join();
  if (cell.dataset.drawn === key) return;
  cell.dataset.drawn = key;
  const width = 100 / Math.max(6, shown.length);
  const bars = shown.map((number, age) => draw("rect", { x: age * width, width: width * 0.86, y: 20 - 20 * number / most, height: 20 * number / most }, draw("title", {}, `${age} old: ${figure(number)}`)));
  const mean = total ? pushes.reduce((sum, number, age) => sum + number * age, 0) / total : null;
  const text = total ? `mean ${mean.toFixed(1)}, at most ${pushes.findLastIndex((one) => one > 0)}` : "none so far";
  const svg = draw("svg", { class: "stale", viewBox: "0 0 100 21", preserveAspectRatio: "none", role: "img", "aria-label": `pushes by how many minibatches old: ${text}` }, ...bars, draw("line", { x1: 0, x2: 100, y1: 20.5, y2: 20.5 }));
  cell.replaceChildren(svg, make("span", { class: "stale-text" }, text));
}

function showPartitions() {
  const { partitions, imbalance } = job.state;
  say($("partitions-text"), isNumber(imbalance) && partitions.length > 1 ? `the busiest has ${imbalance.toFixed(2)} × the mean traffic` : "");
  keep($("partition-rows"), partitions, (one) => one.index, () => row(["partition", "rows", "bytes", "pulls/s", "pushes/s", "traffic", "pushes, by minibatches old"], "pushes, by minibatches old"), (tr, one) => {
    [`${one.index} (incarnation ${one.incarnation})`, figure(one.rows), bytes(one.bytes), figure(one.pulls_per_s), figure(one.pushes_per_s), `${bytes(one.bytes_per_s)}/s`].forEach((text, i) => say(tr.children[i], text));
    staleness(tr.children[6], one.staleness);
  });
}

// --- Events and options ------------------------------------------------------------------------

function showEvents() {
  const kinds = ["all", ...Object.keys(MARKS).filter((kind) => job.events.some((one) => one.mark === kind))];
  keep($("event-filter"), kinds, (kind) => kind, (kind) => make("option", { value: kind }, kind === "all" ? "all" : `${MARKS[kind].word}s`), () => {});
  $("event-filter").value = view.filter;
  const some = view.filter === "all" ? job.events : job.events.filter((one) => one.mark === view.filter);
  const place = some.indexOf(view.chosen), end = place >= 0 && place < some.length - EVENTS_SHOWN ? place + EVENTS_SHOWN / 2 : some.length;
  keep($("events"), some.slice(Math.max(0, end - EVENTS_SHOWN), end).reverse(), (one) => one.number, (one) => make("li", {},
    one.mark in MARKS ? markShape(one.mark) : make("span"), make("time", { datetime: new Date(one.time * 1000).toISOString(), title: clock(one.time, true, true) }, clock(one.time)),
    make("span", { class: "text" }, ...(one.text.startsWith(one.kind) ? [] : [make("span", { class: "kind" }, `${one.kind.replaceAll("_", " ")}  `)]), one.text)),
  (li, one) => li.classList.toggle("chosen", one === view.chosen));
}

function chooseEvent(event) {
  view.chosen = event;
  if (view.filter !== "all" && view.filter !== event.mark) view.filter = "all";
  showEvents();
  const list = $("events"), li = list.querySelector(".chosen");
  if (li) list.scrollTop = li.offsetTop - list.offsetTop - 40;
  list.parentElement.scrollIntoView({ block: "nearest" });
}

function showOptions() {
  const { name, directory, command, began, version, options } = job.about;
  say($("name"), name);
  say($("job-facts"), `${command}, begun ${clock(began, true, true)}, in ${directory}`);
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value)), find = view.find.toLowerCase();
  fillPairs($("options"), Object.entries(options).map(([option, value]) => [option, text(value)]).filter((pair) => pair.join(" ").toLowerCase().includes(find)));
  say($("footer"), `ElasticDL ${version} · ${directory}${inlined ? ` · a report of ${clock(inlined.made, true, true)}` : ""}`);
}

function showAudit() {
  const { audit } = job.state;
  $("audit-part").hidden = !audit;
  if (audit) fillPairs($("audit"), Object.entries(audit).map(([name, value]) => [name.replaceAll("_", " "), typeof value === "string" ? value : JSON.stringify(value)]));
}

// --- Logs --------------------------------------------------------------------------------------

function openLog(role, index) {
  const one = job.state.instances.find((other) => other.role === role && other.index === index);
  if (!one) return;
  const kept = Array.from({ length: Math.min(50, Math.max(1, one.incarnation)) }, (_, i) => Math.max(1, one.incarnation) - i);
  $("log-incarnation").replaceChildren(...kept.map((number) => make("option", { value: number }, String(number))));
  view.log = { role, index, incarnation: kept[0], isNew: true };
  say($("log-title"), `Log of ${nameOf(one)}`);
  for (const id of ["log-tail", "log-error", "log-path"]) say($(id), "");
  $("log-error-part").hidden = true;
  $("log").showModal();
  readLog();
}

async function readLog() {
  const log = view.log;
  if (!log) return;
  let read;
  try {
    if (inlined) read = inlined.logs[`${log.role}/${log.index}/${log.incarnation}`] ?? { path: "", tail: "(not in this report)", first_error: null };
    else read = await fetched(`api/logs/${log.role}/${log.index}?incarnation=${log.incarnation}&bytes=${LOG_BYTES}`);
  } catch (error) {
    read = { path: "", tail: error.message.startsWith("404") ? "There is no such log." : `The log could not be read: ${error.message}`, first_error: null };
  }
  if (view.log !== log) return;
  const tail = $("log-tail"), isAtEnd = log.isNew || tail.scrollTop + tail.clientHeight >= tail.scrollHeight - 8;
  log.isNew = false;
  say($("log-path"), read.path);
  $("log-error-part").hidden = !read.first_error;
  say($("log-error"), read.first_error || "");
  say(tail, read.tail || "(empty)");
  if (isAtEnd) tail.scrollTop = tail.scrollHeight;
}

// --- What comes from the master ----------------------------------------------------------------

async function fetched(path) {
  const reply = await fetch(path, { cache: "no-store" });
  if (!reply.ok) throw new Error(`${reply.status} ${reply.statusText}`);
  return reply.json();
}

function takeHistory({ interval_s: interval, columns, rows, evaluations }, isWhole) {
  if (isWhole) Object.assign(job, { rows: [], evaluations: [], interval, columns });
  const last = job.rows.at(-1)?.[0] ?? -Infinity;
  job.rows.push(...rows.filter((one) => one[0] > last));
  const known = new Set(job.evaluations.map((one) => one.at));
  job.evaluations.push(...evaluations.filter((one) => !known.has(one.at)));
  if (!isWhole && (interval !== job.interval || job.rows.length > MOST_ROWS)) isStale = true;  // The master keeps fewer.
}

function takeEvents(events) {
  for (const one of events) {
    if (one.number <= job.last) continue;
    job.last = one.number;
    job.events.push(one);
    if (one.mark === "death" && view.isKnown) $("announcement").textContent = one.text.split("\n")[0];
  }
  if (job.events.length > MOST_EVENTS) job.events.splice(0, job.events.length - MOST_EVENTS);
}

function show() {
  if (!job.about || !job.state) return;
  for (const part of [showVerdict, showProgress, showCourse, showInstances, showTasks, showPhases, showPartitions, showEvents, showOptions, showAudit, showLink]) part();
}

/** Most states of the stream have only the epochs that have changed; the others are as they were. */
function takeState(state) {
  const { epochs_changed: changed = [], ...progress } = state.progress;
  const epochs = new Map((progress.epochs ?? job.state?.progress.epochs ?? []).map((one) => [one.epoch, one]));
  for (const one of changed) epochs.set(one.epoch, one);
  job.state = { ...state, progress: { ...progress, epochs: [...epochs.values()].sort((a, b) => a.epoch - b.epoch) } };
}

let refreshing = null;
let isStale = true;
const waiting = [];  // What came by the stream while what was before it was not read.

/**
 * Read everything anew: at the start, when a stream has begun, and when the master's history was thinned.
 *
 * A stream tells what is new since it began, which is no earlier than "open" and no later than its first state: what is read
 * after that state leaves nothing out. What is read before it is shown meanwhile.
 */
function refresh() {
  if (refreshing) return;
  isStale = false;
  refreshing = readAll().catch(() => { isStale = true; }).finally(() => {
    refreshing = null;
    if (!isStale || hasEnded()) takeWaiting();
    show();
  });
}

/** Take what comes by the stream at once, or when what was before it has been read. */
function inTurn(take) {
  if (refreshing || isStale) waiting.push(take);
  else take();
}

function takeWaiting() {
  for (const take of waiting.splice(0)) take();
}

async function readAll() {
  let [about, state, history] = await Promise.all(["api/job", "api/state", "api/history"].map(fetched));
  job.about = about;
  for (let more = 3; more && job.state?.at > state.at; more--) state = await fetched("api/state");  // The stream was faster, and has not all epochs.
  if (!(job.state?.at > state.at)) takeState(state);
  view.heard = performance.now();
  takeHistory(history, true);
  for (let after = job.last, reply; ; after = reply.events.at(-1).number) {
    reply = await fetched(`api/events?after=${after}&limit=${EVENTS_AT_ONCE}`);
    takeEvents(reply.events);
    if (reply.events.length < EVENTS_AT_ONCE) break;
  }
  view.isKnown = true;
}

let stream = null;
let triedAt = 0;

function connect() {
  stream?.close();
  triedAt = performance.now();
  stream = new EventSource("api/stream");
  const on = (kind, take) => stream.addEventListener(kind, (event) => { take(JSON.parse(event.data)); });
  stream.addEventListener("open", () => { isStale = true; });
  on("state", (state) => {
    takeState(state);
    view.heard = performance.now();
    if (isStale) refresh();
    show();
  });
  on("history", (history) => inTurn(() => takeHistory(history, false)));
  on("events", ({ events }) => inTurn(() => takeEvents(events)));
}

function showLink() {
  const silent = secondsSilent(), isSilent = !inlined && !hasEnded() && (view.heard === null ? performance.now() > SILENT_AFTER_S * 1000 : silent > SILENT_AFTER_S);
  const link = inlined ? "report" : hasEnded() ? "ended" : isSilent ? "silent" : view.heard === null ? "waiting" : "live";
  setAttribute($("link"), "data-link", link);
  const since = view.heard === null ? "" : ` since ${clock(job.state.at)}, for ${duration(silent)}`;
  say($("link-text"), { report: "report", ended: `ended; as of ${job.state ? clock(job.state.at, true, !isToday(job.state.at)) : ""}`, silent: `not heard${since}`, waiting: "waiting for the master", live: "live" }[link]);
  if (isSilent && $("silence").hidden) {
    say($("silence"), view.heard === null ? "The master does not answer so far." : `The master is not heard since ${clock(job.state.at)}: what is below is of then. The page goes on by itself when the master is back; “elasticdl jobs status ${job.about?.name ?? "JOB"}” says whether the job still runs.`);
  }
  $("silence").hidden = !isSilent;
}

/** Look whether the master is silent, and call it again where the browser has given up or waits in vain. */
function watch() {
  if (job.state) showLink();
  else if (performance.now() > SILENT_AFTER_S * 1000) showLink();
  const tried = (performance.now() - triedAt) / 1000;
  const isGivenUp = stream.readyState === EventSource.CLOSED, isMute = secondsSilent() > TRY_AGAIN_S && tried > TRY_AGAIN_S;
  if (!hasEnded() && (isGivenUp ? tried > 2 : isMute)) {
    if (isGivenUp) refresh();  // Too many pages are open: this one asks instead of listening.
    connect();
  }
  if (hasEnded() && stream.readyState !== EventSource.OPEN) stream.close();
  if (view.log && $("log").open && !hasEnded()) readLog();
}

// --- What people do ----------------------------------------------------------------------------

keep($("mark-legend"), Object.keys(MARKS), (kind) => kind, (kind) => make("li", {}, markShape(kind), MARKS[kind].word), () => {});
for (const button of $("spans").children) {
  button.setAttribute("aria-pressed", String(button.dataset.span === "0"));
  button.addEventListener("click", () => {
    view.span = Number(button.dataset.span);
    for (const one of $("spans").children) one.setAttribute("aria-pressed", String(one === button));
    show();
  });
}
$("event-filter").addEventListener("change", (event) => { view.filter = event.target.value; show(); });
$("option-filter").addEventListener("input", (event) => { view.find = event.target.value; show(); });
$("log-incarnation").addEventListener("change", (event) => { view.log = { ...view.log, incarnation: Number(event.target.value), isNew: true }; readLog(); });
$("log-close").addEventListener("click", () => $("log").close());
$("log").addEventListener("close", () => { view.log = null; });
$("log").addEventListener("click", (event) => { if (event.target === $("log")) $("log").close(); });

if (inlined) {
  Object.assign(job, { about: inlined.job, state: inlined.state });
  takeHistory(inlined.history, true);
  takeEvents(inlined.events);
  show();
} else {
  connect();
  refresh();
  setInterval(watch, 1000);
}
