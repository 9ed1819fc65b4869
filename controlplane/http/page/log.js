// The log: its tail as it grows, or from a position backwards.

import { follow, get } from "./api.js";
import { choice, field, h, moment, show } from "./dom.js";

const MOST = 500;

export const kind = (type) =>
  /failed|refused|lost|invalidated/.test(type) ? "is-bad" : /cold|deferred|superseded|expired|delayed|ending|terminating/.test(type) ? "is-warn"
    : /stored|restore-chosen|started$|returned/.test(type) ? "is-good" : "";

function idOf(row) {
  const words = row.stream.split("/");
  if (words[0] !== "checkpoint") return h("span", {}, row.stream);
  const [, , namespace, ...id] = words;
  return h("a", { href: `#/ids/${encodeURIComponent(namespace)}/${encodeURIComponent(id.join("/"))}` }, `${namespace}/${id.join("/")}`);
}

const line = (row) => h("li", { className: kind(row.type), "data-position": row.position },
  h("span", { className: "soft" }, `${row.position} · `, h("time", { dateTime: row.occurred_at }, moment(row.occurred_at))),
  h("span", {}, h("strong", {}, row.type), " ", idOf(row), ` ${row.what}`));

export async function log({ place, me, search, signal, go, report }) {
  const asked = Object.fromEntries(["namespace", "id", "node", "type", "before"].map((name) => [name, search.get(name) ?? ""]));
  const { before, ...filter } = asked;
  const list = h("ol", { className: "events", "aria-label": "Events, newest first" });
  const state = h("span", { className: "soft", role: "status" }, "");
  const older = h("p", { className: "pages" });
  let paused = Boolean(before), held = [];
  const pause = h("button", { type: "button", ariaPressed: "false", onclick: () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    if (!paused) { put(held); held = []; }
    say("live");
  } }, "Pause");
  const say = (word) => show(state, paused ? `paused, ${held.length} new` : word);
  const types = (await get("openapi.json", {}, signal)).paths["/api/v1/log"].get.parameters.find((each) => each.name === "type").schema.enum;
  show(place, h("h1", {}, "Log"),
    h("form", { className: "filters", onsubmit: (event) => { event.preventDefault(); go("log", Object.fromEntries(new FormData(event.target))); } },
      field("Namespace", choice("namespace", [["", "all"], ...me.namespaces.map((name) => [name, name])], asked.namespace)),
      field("Id", h("input", { name: "id", value: asked.id })), field("Node", h("input", { name: "node", value: asked.node })),
      field("Type", choice("type", [["", "all"], ...types.map((type) => [type, type])], asked.type)),
      field("Position", h("input", { name: "before", value: before, inputMode: "numeric", size: 10, placeholder: "newest" })),
      h("button", { type: "submit" }, "Show"), before ? null : pause, state),
    h("div", { className: "box" }, list), older);

  function put(rows) {
    list.prepend(...rows.slice(-MOST).reverse().map(line));
    while (list.childElementCount > MOST) list.lastElementChild.remove();
  }
  async function page(cursor) {
    const found = await get("log", { ...filter, before: cursor, limit: 100 }, signal);
    list.append(...found.items.map(line));
    show(older, found.next ? h("button", { type: "button", onclick: () => page(found.next).catch(report) }, "Older") : h("span", { className: "soft" }, "This is the beginning."));
    return found.items[0]?.position;
  }
  const head = (await get("me", {}, signal)).position;
  await page(before ? Number(before) + 1 : head + 1);
  if (before) { show(state, `up to position ${before}`); return; }
  let waiting = [], drawn = 0;
  follow({ ...filter, after: head }, signal, (rows) => {
    if (paused) { held = [...held, ...rows].slice(-MOST); say("live"); return; }
    waiting.push(...rows);
    drawn ||= requestAnimationFrame(() => { drawn = 0; put(waiting); waiting = []; });
  }, say).catch(report);
}
