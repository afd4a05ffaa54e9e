// The page's life: it listens, falls back to asking, shows when it has lost the station, and sends a person's answers.

import { h, show } from "./dom.js";
import { ago } from "./figures.js";
import { ORDER, shortPulse } from "./panels.js";
import { report } from "./report.js";

const SILENT_AFTER_SECONDS = 7;
const POLL_EVERY_MS = 3000;
const state = { doc: null, came: 0, session: null, how: "connecting", source: null, polling: 0 };
const byId = (id) => document.getElementById(id);

const elapsed = () => Math.max(0, (Date.now() - state.came) / 1000);

// ---- what comes in

function took(doc, how) {
  state.doc = doc;
  state.came = Date.now();
  state.how = how;
  draw();
}

function listen() {
  if (state.source) state.source.close();
  const source = new EventSource("/api/events");
  state.source = source;
  source.addEventListener("overview", (event) => {
    clearInterval(state.polling);
    state.polling = 0;
    took(JSON.parse(event.data), "live");
  });
  source.addEventListener("error", () => {
    // The browser reconnects by itself unless it gave up; meanwhile ask the plain way.
    if (!state.polling) state.polling = setInterval(poll, POLL_EVERY_MS);
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
    draw();
  });
}

async function poll() {
  try {
    took(await call("GET", "/api/overview"), "asking");
  } catch {
    draw(); // its growing age says the rest
  }
}

async function call(method, path, body) {
  const sent = { method, headers: { Accept: "application/json" } };
  if (body !== undefined) {
    sent.headers["Content-Type"] = "application/json";
    sent.body = JSON.stringify(body);
  }
  const answer = await fetch(path, sent);
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(value.reason || `the station answered ${answer.status}`), value);
  return value;
}

async function whoAmI() {
  state.session = await call("GET", "/api/session").catch(() => null);
  draw();
}

// ---- what is shown

function draw() {
  const { doc } = state;
  const past = elapsed();
  const silent = doc !== null && past > SILENT_AFTER_SECONDS;
  drawLive(past, silent);
  if (!doc) return;
  const lost = silent && past > 20;
  const said = lost
    ? { tone: "bad", text: "This page has lost the station.", detail: "What you see grows old. It goes on by itself when the station is back." }
    : doc.status;
  const status = byId("status");
  if (status.dataset.said !== said.text + said.detail) {
    status.dataset.said = said.text + said.detail; // set only when it changed: it is read aloud
    show(status, h("i", { class: "lamp" }), h("span", {}, said.text, said.detail ? h("small", {}, said.detail) : null));
  }
  document.body.dataset.tone = said.tone;
  drawTools(doc);
  drawBanner(doc, lost);
  show(byId("main"), ORDER.map((panel) => panel(doc, past, state.session)));
  document.title = `${doc.kill_switch.engaged ? "Stopped · " : doc.alerts.open.length ? "Fault · " : doc.inbox.items.length ? `(${doc.inbox.items.length}) ` : ""}Station Calyx`;
}

function drawLive(past, silent) {
  const node = byId("live");
  const how = !state.doc ? "connecting" : silent ? "lost" : state.how;
  const words = { connecting: "connecting", live: "live", asking: "asking", lost: "no connection" };
  node.className = `live ${how}`;
  show(node, h("i", { class: "lamp" }), words[how], h("span", { class: "live-age" }, state.doc ? ` · last update ${ago(Math.floor(past))}` : ""));
}

function drawTools(doc) {
  const stopped = doc.kill_switch.engaged;
  show(byId("tools"),
    h("button", { type: "button", class: "button quiet", "data-act": "export", title: "logs, pulses, figures and versions as a zip, secrets removed" }, "Save diagnostics"),
    state.session && !state.session.logged_in ? h("a", { class: "button quiet", href: "/login" }, "Log in") : null,
    stopped ? null : h("button", { type: "button", class: "button stop", "data-act": "stop" }, "Stop"));
}

function drawBanner(doc, lost) {
  const box = byId("banner");
  if (!doc.kill_switch.engaged) return show(box);
  const { why } = doc.kill_switch;
  return show(box, h("div", { class: "stopped-banner" },
    h("div", { class: "stripes", "aria-hidden": "true" }),
    h("div", { class: "stopped-text" },
      h("strong", {}, "STOPPED"),
      h("span", {}, "Nothing new takes effect. Healing, checks and undo go on. ", h("code", {}, "manual_shutdown.flag"), " is set",
        why ? [": ", h("q", {}, why)] : ".", lost ? " (as last heard)" : "")),
    h("button", { type: "button", class: "button resume", "data-act": "resume" }, "Resume")));
}

// ---- what a person does

function say(text) {
  const node = byId("said");
  show(node, text);
  node.classList.toggle("visible", Boolean(text));
  clearTimeout(say.later);
  if (text) say.later = setTimeout(() => say(""), 9000);
}

async function attempt(what, done) {
  try {
    const value = await what();
    say(done(value));
    await poll();
  } catch (error) {
    say(`${error.message}${error.hint ? ` — ${error.hint}` : ""}`);
  }
}

/** Ask for a reason; resolves to null when the person turns back. */
function ask(title, text, { label, required, go, tone = "primary" }) {
  const sheet = byId("sheet");
  const field = h("input", { id: "why", type: "text", maxlength: 500, autocomplete: "off", required, autofocus: true });
  const form = h("form", { method: "dialog", class: "ask" },
    h("h2", { id: "sheet-title" }, title), h("p", {}, text),
    h("label", { for: "why" }, label), field,
    h("p", { class: "answer" },
      h("button", { type: "submit", class: `button ${tone}` }, go),
      h("button", { type: "button", class: "button", "data-act": "close" }, "Back")));
  sheet.replaceChildren(form);
  sheet.showModal();
  return new Promise((resolve) => {
    let said = null;
    form.addEventListener("submit", () => (said = field.value.trim()));
    sheet.addEventListener("close", () => resolve(said), { once: true });
  });
}

async function openPulse(id) {
  const sheet = byId("sheet");
  const head = (kids) => h("header", { class: "sheet-head" }, h("h2", { id: "sheet-title" }, `Check-in: ${shortPulse(id)}`), kids,
    h("button", { type: "button", class: "button", "data-act": "close", "aria-label": "Close" }, "Close"));
  sheet.replaceChildren(head(null), h("p", {}, "Reading the record…"));
  sheet.showModal();
  try {
    const pulse = await call("GET", `/api/pulses/${encodeURIComponent(id)}`);
    const text = h("article", { class: "report" }, pulse.report_markdown ? report(pulse.report_markdown) : h("p", {}, "There is no report."));
    const record = h("pre", { class: "record", hidden: true, tabindex: "0" }, JSON.stringify(pulse.record, null, 2));
    sheet.replaceChildren(head(h("button", { type: "button", class: "button quiet", "data-act": "flip", "aria-pressed": "false" }, "Record (JSON)")), text, record);
  } catch (error) {
    sheet.replaceChildren(head(null), h("p", {}, error.message));
  }
}

const ACTS = {
  pulse: ({ id }) => openPulse(id),
  close: () => byId("sheet").close(),
  flip: (_data, button) => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    byId("sheet").querySelector(".record").hidden = !on;
    byId("sheet").querySelector(".report").hidden = on;
  },
  async stop() {
    const why = await ask("Stop the station?", "From now on nothing new takes effect. What runs is told to stop, the services stay up, and nothing expires meanwhile.",
      { label: "Why?", required: true, go: "Stop", tone: "stop" });
    if (why) await attempt(() => call("POST", "/api/kill-switch", { engaged: true, why }), (answer) => answer.note || "Stopped.");
  },
  async resume() {
    const why = await ask("Resume?", "What was held goes on with the next check-in.", { label: "Why? (if you like)", required: false, go: "Resume" });
    if (why !== null) await attempt(() => call("POST", "/api/kill-switch", { engaged: false, why }), () => "Resumed.");
  },
  approve: ({ id, digest }) =>
    attempt(() => call("POST", `/api/tasks/${encodeURIComponent(id)}/approve`, { plan_digest: digest }), () => (digest ? "Approved: it runs if the world still matches the plan." : "Approved: it runs now.")),
  async reject({ id }) {
    const why = await ask("Reject this plan?", "It is not an override: the station learns from your answer.", { label: "Why? (if you like)", required: false, go: "Reject" });
    if (why !== null) await attempt(() => call("POST", `/api/tasks/${encodeURIComponent(id)}/reject`, { why }), () => "Rejected.");
  },
  async export() {
    say("Collecting…");
    try {
      const answer = await fetch("/api/export");
      if (!answer.ok) throw Object.assign(new Error(), await answer.json());
      const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") || "");
      const link = h("a", { href: URL.createObjectURL(await answer.blob()), download: name ? name[1] : "calyx-diagnostics.zip" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
      say("Saved. Secrets were removed; look through it before you give it away.");
    } catch (error) {
      say(`${error.reason || "The station did not answer."}${error.hint ? ` — ${error.hint}` : ""}`);
    }
  },
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button) ACTS[button.dataset.act](button.dataset, button);
});
document.addEventListener("visibilitychange", () => {
  // A page nobody sees asks nothing of the station.
  if (document.hidden) {
    state.source?.close();
    clearInterval(state.polling);
    state.polling = 0;
  } else {
    listen();
    whoAmI();
  }
});

setInterval(draw, 1000);
listen();
whoAmI();
