// Every id: how it is now, and what its next container would have.

import { get } from "./api.js";
import { every } from "./app.js";
import { badge, bytes, choice, field, h, idLink, renew, show, table, when } from "./dom.js";

const STATES = [["", "any"], ["running", "running"], ["protected", "protected"], ["waiting", "waiting"], ["starting", "starting"], ["ended", "ended"], ["forgotten", "forgotten"]];

const outcome = (row) => {
  const dump = row.last_dump;
  if (!dump) return null;
  return h("span", { title: dump.failure_cause ?? "" }, badge(dump.status), dump.failure_code ? ` ${dump.failure_code}` : "");
};

export async function ids({ place, me, search, signal, go }) {
  const asked = { search: search.get("search") ?? "", namespace: search.get("namespace") ?? "", state: search.get("state") ?? "", after: search.get("after") ?? "" };
  const body = h("div", {});
  const filters = h("form", { className: "filters", role: "search", onsubmit: (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(event.target));
    go("ids", given);
  } },
    field("Id contains", h("input", { name: "search", value: asked.search, type: "search" })),
    field("Namespace", choice("namespace", [["", "all"], ...me.namespaces.map((name) => [name, name])], asked.namespace)),
    field("State", choice("state", STATES, asked.state)),
    h("button", { type: "submit" }, "Show"));
  show(place, h("h1", {}, "Ids"), filters, body);
  await every(5000, signal, async () => {
    const page = await get("ids", { ...asked, limit: 100 }, signal);
    renew(body, table("Ids", [
      ["Id", idLink], ["Namespace", (row) => row.namespace], ["State", (row) => badge(row.state)], ["Node", (row) => row.node],
      ["Latest snapshot", (row) => row.latest_snapshot ? when(row.latest_snapshot.captured_at) : row.state === "running" ? badge("none yet") : null],
      ["Size", (row) => row.latest_snapshot ? bytes(row.latest_snapshot.stored_bytes) : null],
      ["Next dump", (row) => row.next_dump_at ? when(row.next_dump_at) : null],
      ["Last dump", outcome], ["Start", (row) => badge(row.choice)],
    ], page.items, "There are no such ids."),
    h("p", { className: "pages" },
      asked.after ? h("button", { type: "button", onclick: () => go("ids", { ...asked, after: "" }) }, "First page") : null,
      page.next ? h("button", { type: "button", onclick: () => go("ids", { ...asked, after: page.next }) }, "Next page") : null));
  });
}
