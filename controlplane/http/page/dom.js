// Elements and words. Ids, messages and names are other people's text: everything is set as text, never as markup.

export function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && key !== "list" && key !== "form") element[key] = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return element;
}

export const show = (place, ...children) => place.replaceChildren(...children.flat().filter((child) => child != null));

// Show something newer in the same place: the keyboard stays where it was, and so does a table that was scrolled.
export function renew(place, ...children) {
  const reachable = () => [...place.querySelectorAll("a, button, input, select, [tabindex]")];
  const tables = () => [...place.querySelectorAll(".scroll")];
  const focused = document.activeElement, index = reachable().indexOf(focused), link = focused?.getAttribute("href");
  const offsets = tables().map((table) => table.scrollLeft);
  show(place, ...children);
  tables().forEach((table, number) => { table.scrollLeft = offsets[number] ?? 0; });
  if (index < 0) return;
  const again = reachable();
  (again.find((each) => link && each.getAttribute("href") === link) ?? again[index])?.focus({ preventScroll: true });
}

const NONE = "–";

export function bytes(count) {
  if (count === null || count === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  while (count >= 1024 && place < units.length - 1) { count /= 1024; place += 1; }
  return `${place ? count.toFixed(1) : count} ${units[place]}`;
}

export function seconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  return value < 120 ? `${value.toFixed(2)} s` : `${Math.round(value / 60)} min`;
}

export function moment(text) {
  return text ? `${text.slice(0, 10)} ${text.slice(11, 19)}` : NONE;
}

export function ago(text) {
  if (!text) return NONE;
  const passed = (Date.now() - Date.parse(text)) / 1000;
  const size = Math.abs(passed);
  const [count, unit] = size < 90 ? [size, "s"] : size < 5400 ? [size / 60, "min"] : size < 129600 ? [size / 3600, "h"] : [size / 86400, "d"];
  return passed < 0 ? `in ${Math.round(count)} ${unit}` : `${Math.round(count)} ${unit} ago`;
}

export const when = (text) => h("time", { dateTime: text ?? "", title: text ? `${moment(text)} UTC` : "" }, ago(text));

const GOOD = new Set(["running", "valid", "ready", "succeeded", "restore", "restored", "protected", "passed"]);
const BAD = new Set(["failed", "lost", "invalidated", "refused"]);
const WARN = new Set(["waiting", "wait", "cold", "superseded", "dumping", "captured", "expired", "starting", "open", "unregistered"]);

export function badge(word) {
  if (!word) return NONE;
  const kind = GOOD.has(word) ? "good" : BAD.has(word) ? "bad" : WARN.has(word) ? "warn" : "";
  return h("span", { className: `badge ${kind}` }, word);
}

export function table(about, columns, rows, nothing) {
  if (!rows.length) return h("p", { className: "soft" }, nothing);
  return h("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": about },
    h("table", {},
      h("thead", {}, h("tr", {}, columns.map(([name]) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map(([, cell, wide]) => {
        const shown = cell(row);
        return h("td", { className: wide ? "wide" : "" }, shown === null || shown === undefined || shown === "" ? NONE : shown);
      }))))));
}

export const idLink = (row) =>
  h("a", { href: `#/ids/${encodeURIComponent(row.namespace)}/${encodeURIComponent(row.id)}` }, row.id);

export function field(name, control) {
  return h("label", {}, name, control);
}

export function choice(name, values, chosen, onchange) {
  return h("select", { name, onchange }, values.map(([value, text]) =>
    h("option", { value, selected: value === chosen }, text)));
}
