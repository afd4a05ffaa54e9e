// The panels of the page. Each takes the overview and the seconds since it came, and returns elements.

import { bar, pulseRing, reliability, scoreLine, slotStrip } from "./charts.js";
import { h } from "./dom.js";
import { aged, ago, bytes, clockTime, live, number, shown, span } from "./figures.js";

const seconds = (iso) => (Date.now() - new Date(iso).getTime()) / 1000;

/** A titled panel that says how old it is. `lasting`: its items are facts of the past and stay when it is unknown. */
function panel(name, title, standing, elapsed, body, { lasting = false, aside = null, extra = "" } = {}) {
  const now = live(standing, elapsed);
  const lost = now.state === "unknown";
  const age = lost && now.age_seconds === null ? "no answer yet" : now.state === "ok" ? ago(now.age_seconds) : `${now.state} · ${span(now.age_seconds)}`;
  return h(
    "section",
    { class: `panel ${name} is-${now.state} ${extra}`, "aria-labelledby": `${name}-title`, "data-key": name },
    h("header", { class: "panel-head" },
      h("h2", { id: `${name}-title` }, title),
      aside,
      h("span", { class: `age ${now.state}`, title: now.note || "" }, age)),
    lost && !lasting ? h("p", { class: "lost" }, `Unknown. ${now.note || "No answer yet."}`) : [
      now.state !== "ok" && now.note ? h("p", { class: "lost" }, now.note) : null,
      body(),
    ],
  );
}

const term = (word, name) => [word, " ", h("span", { class: "term" }, `(${name})`)];

const VERDICT = { met: "met", missed: "missed", "insufficient data": "too early to say", unknown: "unknown" };
/** A verdict goes with its figure: on what has become unknown there is none. */
const standing = (said, figure, elapsed) => (said !== "insufficient data" && live(figure, elapsed).state === "unknown" ? "unknown" : said);
const verdict = (said) => h("span", { class: `verdict v-${said.split(" ")[0]}`, title: said }, VERDICT[said] || said);

export function uptime(doc, elapsed) {
  const { figure, since_start: since, slots, note, verdict: said } = doc.uptime;
  return panel("uptime", "Uptime, 24 h", doc.uptime, elapsed, () => [
    h("p", { class: "big" }, shown(figure, elapsed), verdict(standing(said, figure, elapsed))),
    slotStrip(slots),
    h("p", { class: "fine" }, note.startsWith("since start") ? note
      : [since ? ["all six services up in ", h("b", {}, since), " (one a minute)"] : "the first minute is being counted", note && note !== since ? ` · ${note}` : ""]),
  ], { lasting: true });
}

export function tes(doc, elapsed) {
  const { latest, series, known, latest_id: id, latest_at: at } = doc.tes;
  const trend = doc.trends.items.find((each) => each.metric === "tes");
  const slope = trend && trend.slope_per_day !== null && trend.verdict !== "flat" ? ` ${trend.slope_per_day > 0 ? "+" : "−"}${Math.abs(trend.slope_per_day).toFixed(1)} a day` : "";
  return panel("tes", term("Run score", "TES"), doc.tes, elapsed, () => [
    h("div", { class: "tes-row" },
      h("div", {},
        h("p", { class: "big" }, shown(latest, elapsed)),
        h("p", { class: "fine" }, id ? [`${shortPulse(id)}, ${ago(seconds(at))}`] : "no finished work yet"),
        h("p", { class: "fine" }, trend ? [trend.verdict === "insufficient data" ? "no trend yet: too little data" : `${trend.verdict}${slope}`] : ""),
      ),
      h("div", { class: "chart" },
        scoreLine(series, [{ at: doc.tes.up_at, name: "up" }, { at: doc.tes.down_at, name: "down" }]),
        h("p", { class: "legend" },
          h("span", { class: "key up" }), "above 95 earns a level ",
          h("span", { class: "key down" }), "a mean below 92 loses it ",
          h("span", { class: "key gap" }), `no score (${series.length - known} of ${series.length})`)),
    ),
  ], { lasting: true });
}

export const shortPulse = (id) => `pulse ${Number(id.replace(/\D/g, ""))}`;

export function heartbeat(doc, elapsed) {
  const station = doc.station;
  const left = station.next_pulse_in_seconds === null ? null : station.next_pulse_in_seconds - elapsed;
  const late = left !== null && left < -Math.max(10, station.pulse_interval_seconds);
  const stopped = doc.kill_switch.engaged;
  const now = live(station, elapsed);
  const words = now.state === "unknown" ? "–" : left === null ? "–" : left > 0 ? span(Math.ceil(left)) : late ? "late" : "now";
  const last = doc.pulses.items[0];
  return panel("heartbeat", term("Check-in", "Bridge Pulse"), station, elapsed, () => [
    h("div", { class: "ring-box" },
      pulseRing(now.state === "unknown" ? null : left, station.pulse_interval_seconds, late ? "late" : stopped ? "stopped" : "fine"),
      h("p", { class: "ring-text" }, h("b", {}, words), h("span", {}, station.last_pulse ? "to the next" : "to the first"))),
    h("p", { class: "fine centre" }, last
      ? [h("span", {}, `${shortPulse(last.id)}, ${ago(seconds(last.started_at))}`), h("br", {}), last.mood]
      : [left !== null && left > 0 ? `first pulse in ${span(Math.ceil(left))}` : "first pulse any moment now", h("br", {}), "no tasks yet"]),
  ]);
}

export function kpis(doc, elapsed) {
  return panel("kpis", "How it does, by its five targets", doc.kpis, elapsed, () =>
    h("ul", { class: "kpi-row" }, doc.kpis.items.map((kpi) =>
      h("li", { class: `kpi v-${standing(kpi.verdict, kpi.figure, elapsed).split(" ")[0]}`, "data-key": kpi.name },
        h("span", { class: "kpi-name" }, kpi.word),
        h("span", { class: "kpi-value" }, shown(kpi.figure, elapsed)),
        h("span", { class: "kpi-foot" }, `target ${kpi.target}`),
        h("span", { class: "kpi-foot" }, verdict(standing(kpi.verdict, kpi.figure, elapsed)), live(kpi.figure, elapsed).state === "unknown" && kpi.verdict === "insufficient data" ? null : h("span", { class: "kpi-age" }, aged(kpi.figure, elapsed))),
        kpi.note ? h("span", { class: "kpi-note", title: kpi.note }, kpi.note) : null))),
    { lasting: true });
}

const RUNGS = [["Watch", "OBSERVE"], ["Suggest", "SUGGEST"], ["Rehearse and ask", "GUIDE"], ["Act", "EXECUTE"]];

function pips(item) {
  if (item.level !== "GUIDE" || !item.run_required || item.frozen) return null;
  if (item.run_required > 10) return null;
  const all = Array.from({ length: item.run_required }, (_, n) => h("i", { class: n < item.run ? "pip on" : "pip" }));
  return h("span", { class: "pips", "aria-hidden": "true" }, all);
}

export function autonomy(doc, elapsed) {
  return panel("autonomy", "What it may do by itself, by kind of work", doc.autonomy, elapsed, () =>
    doc.autonomy.items.length === 0 ? h("p", { class: "none" }, "No kinds of work are known yet.") :
    h("table", { class: "ladder" },
      h("thead", {}, h("tr", {},
        h("th", { scope: "col" }, term("Kind of work", "domain")),
        RUNGS.map(([word, name]) => h("th", { scope: "col", class: "rung-head" }, word, " ", h("span", { class: "term" }, `(${name})`))),
        h("th", { scope: "col" }, "On the way"))),
      h("tbody", {}, doc.autonomy.items.map((item) =>
        h("tr", { "data-key": item.domain },
          h("th", { scope: "row" }, item.domain.replaceAll("_", " "), h("span", { class: "level-word" }, item.word)),
          RUNGS.map(([word], n) => {
            const kind = n === item.rank ? (item.frozen ? "here frozen" : item.probation ? "here probation" : "here") : n < item.rank ? "below" : n <= item.max_rank ? "above" : "never";
            const said = n === item.rank ? `${word}: now` : "";
            return h("td", { class: `rung r${n} ${kind}`, title: kind === "never" ? `never above ${item.max_level}` : said },
              h("i", { class: "node" }), h("span", { class: "vh" }, said));
          }),
          h("td", { class: "way" },
            item.progress ? h("span", { class: "progress" }, pips(item), item.progress) : h("span", { class: "progress" }, item.reason),
            h("span", { class: "next" }, item.next)))))));
}

export function inbox(doc, elapsed, session) {
  const items = [...doc.inbox.items].reverse();
  const title = items.length ? `Waits for your answer: ${items.length}` : "Waits for your answer";
  return panel("inbox", title, doc.inbox, elapsed, () => [
    items.length === 0 ? h("p", { class: "none" }, doc.station.last_pulse ? "Nothing. It will ask here before it may act." : "No tasks yet. It will ask here before it may act.") : null,
    h("ul", { class: "cards" }, items.map((task) => h("li", { class: "card", "data-key": task.id, id: `task-${task.id}` },
      h("p", { class: "card-title" }, task.objective),
      h("p", { class: "fine" }, `${task.domain.replaceAll("_", " ")} by ${task.procedure}, done by ${task.owner} · ${ago(seconds(task.created_at))}`),
      task.changes.length
        ? h("ul", { class: "changes" }, task.changes.map((each) => h("li", {},
            h("span", { class: "op" }, each.op), h("code", { title: each.target }, each.target.split("/").slice(-2).join("/")),
            h("span", { class: "size" }, bytes(each.size_bytes)))),
            task.changes_total > task.changes.length ? h("li", { class: "fine" }, `and ${task.changes_total - task.changes.length} more`) : null)
        : h("p", { class: "fine" }, task.notes || (task.state === "proposed" ? "a proposal only: nothing was tried" : "no changes planned")),
      h("p", { class: "fine" },
        task.tes !== null ? `rehearsal scored ${number(task.tes, "score")}` : "",
        task.tes !== null && task.prediction !== null ? " · " : "",
        task.prediction !== null ? `${Math.round(task.prediction * 100)} % sure it will work` : ""),
      task.blocked.map((reason) => h("p", { class: "fine warn" }, reason)),
      h("p", { class: "answer" },
        task.plan_digest || (task.state === "proposed" && task.level === "GUIDE") ? h("button", { type: "button", class: "button primary", "data-act": "approve", "data-id": task.id, "data-digest": task.plan_digest }, "Approve") : null,
        h("button", { type: "button", class: "button", "data-act": "reject", "data-id": task.id }, "Reject"))))),
    doc.inbox.others.length ? [h("h3", {}, "For you at the terminal"),
      h("ul", { class: "changes" }, doc.inbox.others.map((each) => h("li", { "data-key": `${each.kind}-${each.id}` },
        each.title, each.since ? ` · ${ago(seconds(each.since))}` : "", " ", each.commands.map((command) => [h("code", {}, command), " "]))))] : null,
    doc.inbox.unknown.map((each) => h("p", { class: "fine warn" }, `Something may be missing: ${each}`)),
    Object.keys(doc.station.tasks).length ? [h("h3", {}, "All tasks, by state"),
      h("dl", { class: "facts tight" }, Object.entries(doc.station.tasks).map(([name, n]) => [h("dt", {}, name), h("dd", {}, n.toLocaleString("en"))]))] : null,
    items.length && session && !session.logged_in ? h("p", { class: "fine" }, "To answer here, run ", h("code", {}, "calyx login-link"), " and open its link.") : null,
  ], { extra: items.length ? "has-items" : "" });
}

export function alerts(doc, elapsed) {
  const { open, recoveries } = doc.alerts;
  const entry = (each) => h("li", { class: `incident ${each.class} ${each.closed_at ? "over" : "open"}`, "data-key": each.id },
    h("p", { class: "incident-head" },
      h("b", {}, each.target), " ",
      each.closed_at
        ? `recovered${each.action && each.action !== "none" ? ` by ${each.action}` : ""}${each.recovered_seconds !== null ? ` in ${each.recovered_seconds.toFixed(1)} s` : ""}`
        : each.symptom,
      h("span", { class: "when" }, ago(seconds(each.closed_at || each.opened_at)))),
    h("p", { class: "fine clamp", title: each.symptom },
      each.closed_at ? null : [h("span", { class: "class" }, each.class), each.action ? ` · trying: ${each.action}` : "", each.cause ? " · " : ""],
      each.cause ? `${each.cause.cause} (${Math.round(each.cause.confidence * 100)} % sure)` : "",
      each.closed_at ? [each.cause ? "; " : "", each.symptom] : null));
  return panel("alerts", open.length ? `Faults open: ${open.length}` : "Alerts", doc.alerts, elapsed, () => [
    open.length === 0 ? h("p", { class: "none good" }, "No fault is open.") : h("ul", { class: "incidents" }, open.map(entry)),
    recoveries.length ? [h("h3", {}, "Healed by itself"), h("ul", { class: "incidents" }, recoveries.map(entry))] : null,
  ], { lasting: false, extra: open.length ? "has-faults" : "" });
}

export function capacity(doc, elapsed) {
  const c = doc.capacity;
  const row = (name, figure, warn, bad) => {
    const now = live(figure, elapsed);
    return h("li", { class: "gauge", "data-key": name, "data-state": now.state },
      h("span", { class: "gauge-name" }, name), bar(now.value === undefined ? null : now.value, warn, bad),
      shown(figure, elapsed), h("span", { class: `gauge-age ${now.state}` }, aged(figure, elapsed)));
  };
  const psi = [["CPU", c.psi.cpu_some], ["memory", c.psi.memory_some], ["disk", c.psi.io_some]];
  const gpu = { absent: "none in this machine", unknown: "unknown", error: "its driver reports an error", unsupported: "present, reports no figures" };
  const cells = [
    h("ul", { class: "gauges" },
      row("CPU", c.cpu, 80, 95), row("Memory", c.ram, 80, 92), row("Swap", c.swap, 50, 80), row("Disk", c.disk, 85, 95),
      c.gpu.devices.map((gpu) => row(`GPU ${gpu.index}`, gpu.utilization_percent, 90, 99))),
    h("dl", { class: "facts" },
      h("dt", {}, term("Time spent waiting", "PSI")),
      h("dd", {}, psi.map(([name, figure], n) => [n ? " · " : "", `${name} `, shown(figure, elapsed)])),
      c.gpu.state === "ok" ? null : [h("dt", {}, "GPU"), h("dd", { class: c.gpu.state === "unknown" ? "fig unknown" : "" }, gpu[c.gpu.state] || c.gpu.state)],
      c.leases.length ? [h("dt", {}, "Slowed or asleep"), h("dd", {}, c.leases.map((each) => h("span", { class: "lease", title: each.reason }, `${each.target}: ${each.kind}`)))] : null,
      c.intents.length ? [h("dt", {}, "Asks for"), h("dd", {}, c.intents.map((each) => `${each.kind}: ${each.reason}`))] : null),
  ];
  return panel("capacity", "Capacity", c, elapsed, () => cells, { lasting: true }); // each gauge says for itself that it is unknown
}

export function services(doc, elapsed) {
  const lost = live(doc.services, elapsed).state === "unknown" && elapsed > 10; // the page itself has lost its server
  const state = (each) => (lost ? "unknown" : each.state);
  return panel("services", "Services", doc.services, elapsed, () =>
    h("ul", { class: "services-list" }, doc.services.items.map((each) =>
      h("li", { class: `service s-${state(each)}`, "data-key": each.service, title: each.detail || "" },
        h("i", { class: "lamp" }),
        h("span", { class: "service-name" }, each.word),
        h("span", { class: "service-state" }, state(each), each.by === "dashboard" ? "*" : ""),
        h("span", { class: "service-more" },
          each.uptime_seconds === null || lost ? "" : `for ${span(each.uptime_seconds + elapsed)}`,
          each.version ? ` · ${each.version}` : "",
          each.age_seconds === null || each.by === "itself" ? "" : `${each.uptime_seconds === null && !each.version ? "" : " · "}${each.state === "up" || each.by === "dashboard" ? "answered" : "asked"} ${ago(each.age_seconds + elapsed)}`)))), { lasting: true });
}

export function pulses(doc, elapsed) {
  return panel("pulses", "Last check-ins", doc.pulses, elapsed, () =>
    doc.pulses.items.length === 0 ? h("p", { class: "none" }, "None yet.") :
    h("ul", { class: "pulse-list" }, doc.pulses.items.slice(0, 10).map((each) =>
      h("li", { "data-key": each.id },
        h("button", { type: "button", class: "pulse-row", "data-act": "pulse", "data-id": each.id },
          h("time", { datetime: each.started_at, title: `${each.id}, ${ago(seconds(each.started_at))}` }, clockTime(each.started_at)),
          h("span", { class: `pulse-tes ${each.tes.value === null ? "unknown" : each.tes.value < 92 ? "low" : ""}`, title: each.tes.note || "run score" }, number(each.tes.value, "score")),
          h("span", { class: "mood" }, each.status === "interrupted" ? "Interrupted. " : "", each.mood),
          h("span", { class: "counts" },
            each.kill_switch ? "stopped " : "", each.incidents === null ? "faults unknown " : each.incidents ? `${each.incidents} fault${each.incidents > 1 ? "s" : ""} ` : "",
            each.ended ? `${each.ended} done` : ""))))), { lasting: true });
}

export function learned(doc, elapsed) {
  const m = doc.memory;
  const words = { tes: "run score", ram_percent: "memory use", uptime_percent: "uptime" };
  const line = (each) => each.slope_per_day === null
    ? h("span", { class: "fine" }, "too little data")
    : each.verdict === "flat" ? "flat" : `${each.verdict}, ${each.slope_per_day > 0 ? "+" : each.slope_per_day < 0 ? "−" : "±"}${Math.abs(each.slope_per_day).toFixed(2)} a day`;
  return panel("learned", "What it has learned", doc.trends, elapsed, () => [
    h("dl", { class: "facts" },
      h("dt", {}, "Experiences kept"), h("dd", {}, shown(m.experiences, elapsed)),
      h("dt", {}, "Remembered when asked"), h("dd", {}, shown(m.hits, elapsed), " of ", shown(m.recalls, elapsed), " since it started"),
      doc.trends.items.map((each) => [h("dt", {}, `Trend: ${words[each.metric] || each.metric}`), h("dd", {}, line(each))])),
    doc.trends.summary && !doc.trends.items.length && doc.trends.analysis_age_seconds !== null ? h("p", { class: "summary" }, doc.trends.summary) : null,
    doc.trends.analysis_age_seconds === null
      ? h("p", { class: "fine" }, "No analysis yet.")
      : h("p", { class: "fine" }, `over ${doc.trends.pulses} pulses, ${ago(doc.trends.analysis_age_seconds + elapsed)}`),
    h("ul", { class: "charts" }, picked(doc.trends.charts).map((each) => {
      const at = `/charts/${encodeURIComponent(each.name)}?at=${encodeURIComponent(each.written_at)}`;
      return h("li", { "data-key": each.name }, h("a", { href: at }, h("img", { src: at, alt: `Trend: ${words[each.metric] || each.metric}`, loading: "lazy" })));
    })),
  ], { lasting: false });
}

export function confidence(doc, elapsed) {
  const c = doc.confidence;
  const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : "±"}${Math.abs(value).toFixed(3)}`;
  return panel("confidence", "How sure it was, and how it came out, 24 h", c, elapsed, () => !c.predictions
    ? h("p", { class: "none" }, "No prediction has been scored yet. One is written down before each run and scored after it.")
    : h("div", { class: "sure" },
      c.brier === null ? h("p", { class: "none" }, `Unknown: ${c.note || "not measured"}.`) : h("div", {},
        reliability(c.bins),
        h("p", { class: "legend" }, "across: said · up: came · on the line: right")),
      h("div", {}, h("dl", { class: "facts" },
        h("dt", {}, "Predictions scored"), h("dd", {}, number(c.predictions)),
        c.brier === null ? null : [
          h("dt", {}, term("Off by, on average", "ECE")), h("dd", {}, `${(c.calibration_error * 100).toFixed(1)} pp`),
          h("dt", {}, "Brier score, 0 is best"), h("dd", {}, c.brier.toFixed(3)),
          h("dt", {}, "Better than the base rate"), h("dd", { class: c.skill === null ? "fig unknown" : "", title: c.skill === null ? "all ended alike, so the base rate alone is perfect" : "" }, c.skill === null ? "–" : `${(c.skill * 100).toFixed(0)} %`)],
        h("dt", {}, "What memory is worth"),
        h("dd", { class: c.uplift === null ? "fig unknown" : "", title: c.uplift_note }, c.uplift === null
          ? "–"
          : [signed(c.uplift), h("span", { class: "fine" }, ` (${signed(c.uplift_low)} to ${signed(c.uplift_high)}) utility a task`)])),
      c.uplift === null && c.uplift_note ? h("p", { class: "fine" }, `What memory is worth: so far, ${c.uplift_note}.`) : null)));
}

/** One picture: the run score's, a drawing rather than a bitmap. */
function picked(charts) {
  const pictures = charts.filter((each) => /\.(svg|png)$/.test(each.name));
  const scores = pictures.filter((each) => each.metric === "tes");
  return (scores.filter((each) => each.name.endsWith(".svg"))[0] ? scores.filter((each) => each.name.endsWith(".svg")) : scores).slice(0, 1);
}

export function agents(doc, elapsed) {
  const { items, total } = doc.agents;
  return panel("agents", total ? `Agents from outside: ${total}` : "Agents from outside", doc.agents, elapsed, () =>
    items.length === 0 ? h("p", { class: "none" }, "Nobody has joined. ", h("code", {}, "calyx agent invite NAME --domain D"), " lets a program take part, and ", h("code", {}, "calyx run --domain D -- COMMAND"), " governs one as it is.") : [
    h("ul", { class: "agent-list" }, items.map((each) =>
      h("li", { class: `agent ${each.revoked_at ? "revoked" : ""}`, "data-key": each.agent },
        h("i", { class: `lamp ${each.revoked_at ? "" : seenLately(each) ? "on" : ""}` }),
        h("b", { class: "agent-name", title: each.version ? `version ${each.version}` : "" }, each.agent),
        h("span", { class: "agent-domains" }, each.domains.map((domain) => domain.replaceAll("_", " ")).join(", ")),
        h("span", { class: "agent-report", title: each.last_report || "" }, each.last_report ? [h("q", {}, each.last_report), ` ${ago(seconds(each.reported_at))}`] : ""),
        h("span", { class: "agent-seen" }, each.revoked_at
          ? `revoked ${ago(seconds(each.revoked_at))}`
          : each.last_seen ? `seen ${ago(seconds(each.last_seen))}` : `invited ${ago(seconds(each.invited_at))}, not seen yet`)))),
    total > items.length ? h("p", { class: "fine" }, `and ${total - items.length} more: `, h("code", {}, "calyx agent list")) : null,
  ]);
}

/** A waiting agent asks at least twice a minute. */
const seenLately = (each) => each.last_seen !== null && seconds(each.last_seen) < 60;

export const ORDER = [uptime, tes, heartbeat, kpis, autonomy, inbox, capacity, alerts, services, pulses, learned, confidence, agents];
