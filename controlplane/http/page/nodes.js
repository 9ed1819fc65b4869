// Nodes: what each is, how it is, and what its worker does now.

import { get } from "./api.js";
import { every } from "./app.js";
import { badge, bytes, h, idLink, renew, show, table, when } from "./dom.js";

const SILENT_SECONDS = 15, CLOCK_SECONDS = 5, LITTLE_SHARE = 0.05;

const lines = (found) => found.length ? found.map((line) => h("div", {}, line)) : null;
const status = (row) => row.now?.status ?? {};
const little = (disk) => disk && disk.free_bytes < LITTLE_SHARE * disk.total_bytes;

function health(row) {
  const { disk, self_test: test } = status(row), why = [];
  if (row.status === "lost") why.push(`silent for ${Math.round(row.silent_seconds ?? 0)} s before it was declared lost`);
  if (row.status !== "lost" && row.now && Date.now() - Date.parse(row.now.heard_at) > SILENT_SECONDS * 1000) why.push(["last heard ", when(row.now.heard_at)]);
  if (test?.failure) why.push("its self-test failed");
  if (Math.abs(row.clock_offset_seconds ?? 0) >= CLOCK_SECONDS) why.push(`its clock is ${Math.round(row.clock_offset_seconds)} s off`);
  if (little(disk)) why.push(`its disk is nearly full: ${bytes(disk.free_bytes)} free`);
  if (disk?.waiting_captures) why.push(`its store does not take ${disk.waiting_captures} ${disk.waiting_captures > 1 ? "captures" : "capture"}`);
  return lines(why);
}

function selfTest(row) {
  const test = status(row).self_test;
  if (!test) return null;
  if (!test.failure) return [badge("passed"), " ", when(test.at)];
  return [badge("failed"), " ", when(test.at), `, at the step ${test.step}: ${test.failure.cause} (${test.failure.code})`,
    test.failure.advice ? h("span", { className: "advice" }, `→ ${test.failure.advice}`) : null];
}

function disk(row) {
  const space = status(row).disk;
  if (!space) return null;
  const used = [`${bytes(space.free_bytes)} free of ${bytes(space.total_bytes)}`];
  if (space.reserved_bytes) used.push(`${bytes(space.reserved_bytes)} of it reserved`);
  if (space.waiting_captures) used.push(`${bytes(space.waiting_bytes)} wait for the store`);
  return lines(used);
}

function work(row, open) {
  const { work: items = [], more_work: more } = status(row);
  const doing = items.map((each) => [`${each.kind} `, idLink(each.key), " ", h("span", { className: "soft" }, `${each.key.namespace}, since `, when(each.since)),
    each.doing ? `: ${each.doing}` : ""]);
  if (more) doing.push(h("span", { className: "soft" }, `and ${more} more`));
  if (open) doing.push(`open commands: ${open.join(", ")}`);
  return lines(doing);
}

function machine(row) {
  const found = [];
  if (row.kernel_release) found.push(`Linux ${row.kernel_release}`);
  if (row.runc_version) found.push(`runc ${row.runc_version}, cgroup v${row.cgroup_version ?? "?"}`);
  if (row.criu_version) found.push(`CRIU ${row.criu_version}`);
  if (row.cpu_model) found.push(row.cpu_model);
  if (row.gpu_count) found.push(`${row.gpu_count} × ${row.gpu_models ?? "?"}, ${bytes(row.gpu_memory_bytes)}, driver ${row.gpu_driver ?? "?"}`);
  if (row.store) found.push(`store ${row.store}`);
  if (row.registered_at) found.push(h("span", { className: "soft" }, "registered ", when(row.registered_at)));
  return lines(found);
}

export async function nodes({ place, me, search, signal, go }) {
  const after = search.get("after") ?? "", body = h("div", {});
  show(place, h("h1", {}, "Nodes"), body);
  if (!me.everything) { show(body, h("p", { className: "soft" }, "Nodes are shown to those who see every namespace.")); return; }
  await every(5000, signal, async () => {
    const [page, open] = await Promise.all([
      get("nodes", { after, limit: 100 }, signal), get("views/commands", { status: "open", limit: 500 }, signal)]);
    const waiting = new Map();
    for (const command of open.items) waiting.set(command.node, [...(waiting.get(command.node) ?? []), command.kind]);
    renew(body, table("Nodes", [
      ["Node", (row) => [h("a", { href: `#/log?node=${encodeURIComponent(row.node)}` }, row.node), " ", badge(row.status)]], ["Health", health, true],
      ["Self-test", selfTest, true], ["Disk", disk], ["Does now", (row) => work(row, waiting.get(row.node)), true], ["Machine", machine, true],
    ], page.items, "No worker has registered."),
    h("p", { className: "pages" },
      after ? h("button", { type: "button", onclick: () => go("nodes", {}) }, "First page") : null,
      page.next ? h("button", { type: "button", onclick: () => go("nodes", { after: page.next }) }, "Next page") : null));
  });
}
