// One id's life: what happened, why, what would be chosen now, and all of it as of an earlier position.

import { forId, forSnapshot } from "./actions.js";
import { get } from "./api.js";
import { reportAndRetry } from "./app.js";
import { chart } from "./chart.js";
import { badge, bytes, h, moment, seconds, show, table, when } from "./dom.js";
import { kind } from "./log.js";

const HISTORY = 500;

const failureOf = (row) => row.data.failure ?? row.data.command?.failure ?? null;

const by = (row) => row.metadata?.actor?.startsWith("user/") ? h("span", { className: "soft" }, ` by ${row.metadata.actor.slice(5)}`) : null;

function grouped(rows) {
  const groups = new Map();
  for (const row of rows) {
    const number = row.data.incarnation ?? 0;
    groups.set(number, [...(groups.get(number) ?? []), row]);
  }
  return [...groups].sort(([one], [two]) => two - one);
}

function timeline(rows) {
  return grouped(rows).map(([number, events]) => {
    const starts = events.find((row) => row.type === "container.started");
    const how = starts ? badge(starts.data.restored_from ? "restored" : "cold") : null;
    return h("section", {},
      h("h3", {}, number ? `Incarnation ${number} ` : "Before any start ", how),
      h("ol", { className: "events" }, events.map((row) => {
        const failure = failureOf(row), advice = failure?.advice ?? "";
        const said = advice && row.what.endsWith(advice) ? row.what.slice(0, -advice.length).trimEnd() : row.what;
        return h("li", { className: failure && row.type === "command.finished" ? "is-bad" : kind(row.type), "data-position": row.position },
          h("span", { className: "soft" }, h("time", { dateTime: row.occurred_at }, moment(row.occurred_at))),
          h("span", {}, h("strong", {}, row.type), ` ${said}`, by(row), advice ? h("span", { className: "advice" }, `→ ${advice}`) : null));
      })));
  });
}

const snapshots = (rows, allowed, newest, done) => table("Snapshots", [
  ["Snapshot", (row) => [row.snapshot_id, row.pinned ? " (pinned)" : ""]], ["Status", (row) => badge(row.status)],
  ["Incarnation", (row) => String(row.incarnation)], ["Node", (row) => row.node], ["Why", (row) => row.trigger],
  ["Captured", (row) => when(row.captured_at)], ["Frozen", (row) => seconds(row.freeze_seconds)],
  ["Size", (row) => bytes(row.raw_bytes)], ["Stored", (row) => bytes(row.stored_bytes)],
  ["Failure", (row) => row.failure_code ? [row.failure_code, h("span", { className: "advice" }, `${row.failure_cause} → ${row.failure_advice}`)] : row.invalidated_reason ?? row.expired_reason, true],
  ...(allowed.length ? [["Do", (row) => forSnapshot(allowed, row, newest, done)]] : []),
], rows, "No snapshot was ever begun.");

const starts = (rows) => table("Starts", [
  ["Incarnation", (row) => String(row.incarnation)], ["Node", (row) => row.node], ["How", (row) => badge(row.choice)],
  ["From", (row) => row.restored_from], ["Waited for", (row) => row.waited_for],
  ["Started", (row) => row.started_at ? [when(row.started_at), row.create_seconds === null ? "" : `, took ${seconds(row.create_seconds)}`] : null],
  ["Ended", (row) => row.ended_at ? [when(row.ended_at), row.exit_code === null ? "" : `, exit code ${row.exit_code}`] : null],
  ["Reason", (row) => row.failed_restores ? [row.reason, h("div", {}, `failed restores: ${row.failed_restores}`)] : row.reason, true],
], rows, "No container was ever started.");

const choices = (found) => table("What would be chosen", [
  ["Node", (row) => [row.node, row.lost ? " (lost)" : ""]], ["Answer", (row) => badge(row.answer)],
  ["Snapshot", (row) => row.snapshot_id], ["Why", (row) => row.until ? `${row.reason}, until ${moment(row.until)}` : row.reason, true],
], found.items, "No node was known then that you may see.");

export async function life({ place, words, signal, report, again }) {
  const [, namespace, id] = words;
  const of = { namespace, id };
  const path = `ids/${encodeURIComponent(namespace)}/${encodeURIComponent(id)}`;
  const [now, page, taken, begun] = await Promise.all([
    get(path, {}, signal), get("log", { ...of, limit: HISTORY }, signal), get("views/checkpoint_history", { ...of, limit: HISTORY }, signal),
    get("views/restore_history", { ...of, limit: HISTORY }, signal)]);
  const rows = page.items.reverse();
  const told = h("div", {}), chosen = h("div", {}, h("p", { className: "soft" }, "Deciding for each node …")), charts = h("div", { className: "two" });
  const at = h("output", {}, "");
  const slider = h("input", { type: "range", min: 0, max: Math.max(rows.length - 1, 0), value: Math.max(rows.length - 1, 0), "aria-label": "As of which event" });
  let timer = 0;
  function look(pause = 200) {
    const place = Number(slider.value), last = rows[place], newest = place === rows.length - 1;
    show(told, timeline(rows.slice(0, place + 1)));
    show(at, last ? `position ${last.position}, ${moment(last.recorded_at)} UTC${newest ? " (newest)" : ""}` : "nothing was recorded");
    slider.setAttribute("aria-valuetext", at.textContent);
    clearTimeout(timer);
    timer = setTimeout(async () => {
      try { show(chosen, choices(await get(`${path}/choices`, newest ? {} : { position: last.position }, signal))); } catch (problem) { reportAndRetry(problem, signal, () => look(0)); }
    }, pause);
  }
  slider.addEventListener("input", () => look());
  const state = now.now;
  const done = async (said) => { await again(); report(said); };
  show(place,
    h("h1", {}, `${namespace} / ${id}`),
    h("p", {}, badge(state.state), ` ${state.node ? `on ${state.node}` : ""} · incarnation ${state.incarnation} · latest valid snapshot: `,
      state.latest_snapshot ? `${state.latest_snapshot.snapshot_id}, ` : "none",
      state.latest_snapshot ? when(state.latest_snapshot.captured_at) : null,
      state.latest_snapshot ? `, ${bytes(state.latest_snapshot.stored_bytes)}` : null,
      state.next_dump_at ? [" · next dump ", when(state.next_dump_at)] : null),
    forId(now.actions, state, path, done),
    now.archived || page.next ? h("p", { className: "soft" }, "Older events are not shown here: woodfrog history shows them.") : null,
    h("h2", {}, "Why"),
    now.explanation ? h("div", { className: "box" }, now.explanation.sentences.map((sentence) => h("div", {}, sentence)),
      now.explanation.advice.map((advice) => h("div", { className: "advice" }, `→ ${advice}`))) : h("p", { className: "soft" }, state.opened_at ? "Its last start is archived." : "No container of it was started here: its snapshot was imported."),
    h("h2", {}, "As of"), h("div", { className: "box" }, slider, at),
    h("h2", {}, "What a new container would start from"), chosen,
    h("h2", {}, "Timeline"), told,
    h("h2", {}, "Snapshots"), charts, snapshots(taken.items, now.actions, state.latest_snapshot?.snapshot_id, done),
    h("h2", {}, "Starts"), starts(begun.items));
  look(0);  // with many nodes it takes longer than all the rest, which need not wait for it
  const drawn = taken.items.filter((row) => row.captured_at).reverse();
  if (drawn.length > 1) {
    const times = drawn.map((row) => Date.parse(row.captured_at) / 1000);
    const values = (name) => drawn.map((row) => row[name] ?? null);
    await chart(charts, "Frozen", times, [{ name: "frozen", unit: seconds, values: values("freeze_seconds") }, { name: "to store it", unit: seconds, values: values("store_seconds") }], signal);
    await chart(charts, "Size", times, [{ name: "captured", unit: bytes, values: values("raw_bytes") }, { name: "added to the store", unit: bytes, values: values("stored_bytes") }], signal);
  }
}
