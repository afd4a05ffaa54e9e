// Small drawings: the run-score line with its gaps, the uptime strip, the pulse ring, bars. SVG only.

import { h } from "./dom.js";
import { number } from "./figures.js";

const W = 620;
const H = 205;
const PAD = { left: 30, right: 10, top: 8, bottom: 16 };
const BREAK = 90; // what decides happens above it: the axis gives 0–90 a fifth of the height, and shades it
const BREAK_SHARE = 0.2;

/** Run scores by pulse. A pulse without a known score is a gap; a lone one is a dot. */
export function scoreLine(series, marks) {
  const known = series.filter((each) => each.value !== null).map((each) => each.value);
  const deep = known.some((value) => value < BREAK);
  const high = H - PAD.top - PAD.bottom;
  const upper = deep ? high * (1 - BREAK_SHARE) : high;
  const x = (n) => PAD.left + ((W - PAD.left - PAD.right) * (n + 0.5)) / Math.max(series.length, 12);
  const y = (value) =>
    value >= BREAK
      ? PAD.top + (upper * (100 - value)) / (100 - BREAK)
      : PAD.top + upper + ((high - upper) * (BREAK - value)) / BREAK;
  const runs = [[]];
  series.forEach((each, n) => {
    if (each.value === null) runs.push([]);
    else runs.at(-1).push([x(n), y(each.value)]);
  });
  const path = (run) => run.map(([px, py], n) => `${n ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
  const dense = series.length > 60;
  const ticks = deep ? [0, BREAK, 95, 100] : [BREAK, 95, 100];
  const label = known.length
    ? `Run scores of the last ${series.length} pulses: ${known.length} known, latest ${number(known.at(-1), "score")}, lowest ${number(Math.min(...known), "score")}`
    : "No run scores yet";
  return h(
    "svg",
    { class: "score-line", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label },
    deep ? h("rect", { class: "deep", x: PAD.left, width: W - PAD.left - PAD.right, y: y(BREAK), height: high - upper }) : null,
    ticks.map((tick) => [
      h("line", { class: "grid", x1: PAD.left, x2: W - PAD.right, y1: y(tick), y2: y(tick) }),
      h("text", { class: "tick", x: PAD.left - 6, y: y(tick) + 3.5, "text-anchor": "end" }, tick),
    ]),
    marks.map(({ at, name }) => h("line", { class: `mark ${name}`, x1: PAD.left, x2: W - PAD.right, y1: y(at), y2: y(at) })),
    series.map((each, n) =>
      each.value === null
        ? h("line", { class: "gap", x1: x(n), x2: x(n), y1: H - PAD.bottom + 3, y2: H - PAD.bottom + 7 })
        : null,
    ),
    runs.filter((run) => run.length > 1).map((run) => h("path", { class: "run", d: path(run) })),
    series.map((each, n) =>
      each.value === null
        ? null
        : h("circle", { class: n === series.length - 1 ? "dot last" : "dot", cx: x(n), cy: y(each.value), r: dense ? 1.6 : 2.6 },
            h("title", {}, `${each.id}: ${number(each.value, "score")}`)),
    ),
  );
}

/** One bar a minute, newest right: up full and green, down full and red, unknown a stub. */
export function slotStrip(slots, shownSlots = 60) {
  const bars = slots.padStart(shownSlots, " ").slice(-shownSlots);
  const names = { u: "up", d: "down", m: "maintenance", "?": "unknown", " ": "before" };
  const down = [...bars].filter((mark) => mark === "d").length;
  const known = [...bars].filter((mark) => mark !== " ").length;
  return h(
    "svg",
    { class: "slots", viewBox: "0 0 600 40", role: "img", preserveAspectRatio: "none", "aria-label": `Last ${known} minutes: ${down} down` },
    [...bars].map((mark, n) => {
      const tall = mark === "u" || mark === "d" ? 40 : mark === " " ? 4 : 16;
      return h("rect", { class: `slot ${names[mark] || "unknown"}`, x: n * 10 + 1.5, width: 7, y: 40 - tall, height: tall, rx: 1.5 });
    }),
  );
}

/** The time to the next check-in as a ring that empties. */
export function pulseRing(left, interval, tone) {
  const r = 52;
  const round = 2 * Math.PI * r;
  const share = left === null ? 0 : Math.max(0, Math.min(1, left / interval));
  return h(
    "svg",
    { class: `ring ${tone}`, viewBox: "0 0 120 120", "aria-hidden": "true" },
    h("circle", { class: "track", cx: 60, cy: 60, r }),
    h("circle", {
      class: "left", cx: 60, cy: 60, r, transform: "rotate(-90 60 60)",
      "stroke-dasharray": `${(share * round).toFixed(1)} ${round.toFixed(1)}`,
    }),
  );
}

/** What was predicted (across) against how often it came about (up), each with its 95 % interval; on the line is right. */
export function reliability(bins) {
  const side = 200;
  const pad = { left: 34, right: 8, top: 8, bottom: 22 };
  const span = side - pad.left - pad.right;
  const x = (share) => pad.left + span * share;
  const y = (share) => pad.top + span * (1 - share);
  const most = Math.max(...bins.map((each) => each.count), 1);
  const percent = (share) => `${Math.round(share * 100)} %`;
  const total = bins.reduce((sum, each) => sum + each.count, 0);
  return h(
    "svg",
    { class: "reliability", viewBox: `0 0 ${side} ${side - 8}`, role: "img", "aria-label": `Of ${total} predictions: ` + bins.map((each) => `said ${percent(each.predicted)}, came ${percent(each.came)}`).join("; ") },
    [0, 0.5, 1].map((tick) => [
      h("line", { class: "grid", x1: x(0), x2: x(1), y1: y(tick), y2: y(tick) }),
      h("line", { class: "grid", x1: x(tick), x2: x(tick), y1: y(0), y2: y(1) }),
      h("text", { class: "tick", x: pad.left - 5, y: y(tick) + 3.5, "text-anchor": "end" }, percent(tick)),
      h("text", { class: "tick", x: x(tick), y: y(0) + 14, "text-anchor": tick === 0 ? "start" : tick === 1 ? "end" : "middle" }, percent(tick)),
    ]),
    h("line", { class: "right", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
    bins.map((each) => [
      h("line", { class: "interval", x1: x(each.predicted), x2: x(each.predicted), y1: y(each.low), y2: y(each.high) }),
      h("circle", { class: each.low <= each.predicted && each.predicted <= each.high ? "dot" : "dot off", cx: x(each.predicted), cy: y(each.came), r: (2 + 2.5 * Math.sqrt(each.count / most)).toFixed(1) },
        h("title", {}, `said ${percent(each.predicted)}, came ${percent(each.came)} of ${each.count} (95 %: ${percent(each.low)} to ${percent(each.high)})`)),
    ]),
  );
}

/** 0–100 as a bar; no bar for what is unknown. `warn` and `bad` are percentages. */
export function bar(value, warn, bad) {
  const tone = value === null ? "blank" : value >= bad ? "bad" : value >= warn ? "warn" : "fine";
  return h(
    "svg",
    { class: `bar ${tone}`, viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    h("rect", { class: "track", width: 100, height: 6 }),
    value === null ? null : h("rect", { class: "fill", width: Math.max(0.6, Math.min(100, value)), height: 6 }),
    h("rect", { class: "limit", x: warn, width: 0.5, height: 6 }),
  );
}
