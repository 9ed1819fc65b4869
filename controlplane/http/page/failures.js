// What fails, by its cause, with what to do about it.

import { get } from "./api.js";
import { every } from "./app.js";
import { choice, field, h, idLink, renew, show, table, when } from "./dom.js";

const SPANS = [["1", "1 hour"], ["24", "24 hours"], ["168", "7 days"], ["8760", "1 year"]];

export async function failures({ place, search, signal, go }) {
  const hours = search.get("hours") ?? "24", code = search.get("failure_code") ?? "", before = search.get("before") ?? "";
  const body = h("div", {});
  show(place, h("h1", {}, code ? `Failures: ${code}` : "Failures"),
    h("form", { className: "filters", onsubmit: (event) => event.preventDefault() },
      field("Of the last", choice("hours", SPANS, hours, (event) => go("failures", { hours: event.target.value })))), body);
  await every(10000, signal, async () => {
    const [causes, page] = await Promise.all([
      get("causes", { hours }, signal), get("views/failures", { failure_code: code, before, limit: 50 }, signal)]);
    renew(body,
      table("Causes", [
        ["Code", (row) => h("a", { href: `#/failures?${new URLSearchParams({ hours, failure_code: row.failure_code })}` }, row.failure_code)],
        ["Times", (row) => String(row.count)], ["Ids", (row) => String(row.ids)], ["Last", (row) => when(row.newest.failed_at)],
        ["Newest", (row) => [row.newest.failure_cause, h("span", { className: "advice" }, `→ ${row.newest.failure_advice}`)], true],
      ], causes.items, "Nothing failed in that time."),
      h("h2", {}, "Newest first"),
      table("Failures", [
        ["When", (row) => when(row.failed_at)], ["Id", idLink], ["Namespace", (row) => row.namespace], ["Node", (row) => row.node],
        ["What", (row) => row.stage ? `${row.type} (${row.stage})` : row.type], ["Code", (row) => row.failure_code],
        ["Cause", (row) => [row.failure_cause, h("span", { className: "advice" }, `→ ${row.failure_advice}`)], true],
      ], page.items, "There are none."),
      page.next ? h("p", { className: "pages" }, h("button", { type: "button", onclick: () => go("failures", { hours, failure_code: code, before: String(page.next) }) }, "Older")) : null);
  });
}
