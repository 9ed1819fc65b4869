// Everything in a few numbers, and the last hour.

import { get } from "./api.js";
import { every } from "./app.js";
import { bytes, h, renew, seconds, show, table } from "./dom.js";

const card = (number, about, href) => h("li", { className: "card" },
  h("span", { className: "number" }, String(number)),
  h("span", { className: "about" }, href ? h("a", { href }, about) : about));

const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0);

export async function overview({ place, signal }) {
  const body = h("div", {}, h("p", { className: "soft" }, "Counting …"));
  show(place, h("h1", {}, "Overview"), body);
  await every(5000, signal, async () => {
    const { ids, protected: safe, hour } = await get("overview", {}, signal);
    const spreads = [
      ["Frozen for a dump", hour.freeze_seconds, seconds], ["Size of a capture", hour.raw_bytes, bytes],
      ["Added to the store", hour.stored_bytes, bytes], ["Restore, from create to answer", hour.restore_seconds, seconds],
    ];
    renew(body,
      h("ul", { className: "cards", "aria-label": "Ids" },
        card(ids.running ?? 0, "running", "#/ids?state=running"), card(safe, "protected", "#/ids?state=protected"),
        card(ids.waiting ?? 0, "waiting", "#/ids?state=waiting"), card(ids.starting ?? 0, "starting", "#/ids?state=starting"),
        card(ids.ended ?? 0, "ended", "#/ids?state=ended")),
      h("h2", {}, "The last hour"),
      hour.complete ? null : h("p", { className: "soft" }, "There was too much for one count; this is the newest of it."),
      h("ul", { className: "cards", "aria-label": "The last hour" },
        card(sum(hour.dumps), "dumps"), card(hour.dumps.valid ?? 0, "of them valid now"), card(hour.restored, "restores"),
        card(hour.cold, "cold starts"), card(sum(hour.failures), "failures", "#/failures")),
      h("h3", {}, "Why starts were cold"),
      table("Reasons of cold starts", [["Times", (row) => String(row.count)], ["Reason", (row) => row.reason, true]], hour.cold_reasons, "No start was cold."),
      h("h3", {}, "How long and how large"),
      table("Percentiles", [
        ["Number", ([name]) => name], ["Half", ([, s, unit]) => unit(s.p50)], ["90 %", ([, s, unit]) => unit(s.p90)],
        ["99 %", ([, s, unit]) => unit(s.p99)], ["Most", ([, s, unit]) => unit(s.max)], ["Of", ([, s]) => String(s.count)],
      ], spreads, ""));
  });
}
