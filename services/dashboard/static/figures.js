// Numbers that go on growing old in the browser, by the limits that came with them.

import { h } from "./dom.js";

const RANK = { ok: 0, stale: 1, unknown: 2 };

/** A figure, or a whole section, `elapsed` seconds after it came: its state can only get worse. */
export function live(figure, elapsed) {
  if (!figure || figure.state === "absent") return figure;
  const age = figure.age_seconds === null ? null : figure.age_seconds + elapsed;
  let state = figure.state;
  if (age !== null) {
    const byAge = age > figure.unknown_after_seconds ? "unknown" : age > figure.stale_after_seconds ? "stale" : "ok";
    if (RANK[byAge] > RANK[state]) state = byAge;
  }
  return { ...figure, age_seconds: age, state, value: state === "unknown" ? null : figure.value };
}

export function number(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "percent") return (value < 10 || value % 1 ? value.toFixed(1) : value.toFixed(0)) + " %";
  if (unit === "score") return value.toFixed(1);
  if (unit === "pp") return (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(1) + " pp";
  return Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(1);
}

/** 12 s, 3 min, 2 h 5 min, 4 d: one glance long. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const s = Math.max(0, seconds);
  if (s < 99.5) return `${Math.round(s)} s`;
  const minutes = Math.round(s / 60);
  if (minutes < 100) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  const days = Math.floor(hours / 24);
  return `${days} d${hours % 24 ? ` ${hours % 24} h` : ""}`;
}

export const ago = (seconds) => (seconds === null || seconds === undefined ? "never" : seconds < 1 ? "now" : `${span(seconds)} ago`);

export function bytes(size) {
  if (size === null || size === undefined) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  let value = Number(size);
  while (value >= 1000 && at < units.length - 1) [value, at] = [value / 1024, at + 1];
  return `${value >= 100 || at === 0 ? Math.round(value) : value.toFixed(1)} ${units[at]}`;
}

export const clockTime = (iso) =>
  new Date(iso).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

/** The figure as text: greyed when stale, a dash when unknown, and why. */
export function shown(figure, elapsed, more = "") {
  const now = live(figure, elapsed);
  if (!now) return h("span", { class: `fig unknown ${more}` }, "–");
  const said = now.state === "absent" ? "none" : number(now.value, now.unit);
  const why = [
    now.state === "ok" ? "" : now.state,
    now.note,
    now.age_seconds === null ? "" : `measured ${ago(now.age_seconds)}`,
    now.coverage === null || now.coverage === undefined || now.state === "absent"
      ? ""
      : `${Math.round(now.coverage * 100)} % of the expected samples`,
  ];
  const text = why.filter(Boolean).join(" · ");
  const state = now.state === "ok" ? "" : h("span", { class: "vh" }, ` (${now.state})`);
  return h("span", { class: `fig ${now.state} ${more}`, title: text }, said, state);
}

/** Its age, in words for the eye: "2 s ago", "stale · 14 s", "unknown". */
export function aged(figure, elapsed) {
  const now = live(figure, elapsed);
  if (!now || now.state === "absent") return "";
  if (now.state === "unknown") return "unknown";
  return now.state === "stale" ? `stale · ${span(now.age_seconds)}` : ago(now.age_seconds);
}
