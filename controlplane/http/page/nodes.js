// Nodes: what each is, how it is, and what its worker does now.

import { get } from "./api.js";
import { every } from "./app.js";
import { badge, bytes, h, idLink, renew, show, table, when } from "./dom.js";

const SILENT_SECONDS = 15, CLOCK_SECONDS = 5, LITTLE_SHARE = 0.05;

const gpus = (row) => row.gpu_count ? `${row.gpu_count} × ${row.gpu_models ?? "?"}, ${bytes(row.gpu_memory_bytes)}, driver ${row.gpu_driver ?? "?"}` : null;
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
  return why.length ? why.map((reason) => h("div", {}, reason)) : null;
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
  return [h("div", {}, `${bytes(space.free_bytes)} free of ${bytes(space.total_bytes)}`),
    space.reserved_bytes ? h("div", {}, `${bytes(space.reserved_bytes)} of it reserved`) : null,
    space.waiting_captures ? h("div", {}, `${bytes(space.waiting_bytes)} wait for the store`) : null];
}

function work(row) {
  const { work: items, more_work: more } = status(row);
  if (!items?.length) return null;
  return [items.map((each) => h("div", {}, `${each.kind} `, idLink(each.key), " ", h("span", { className: "soft" }, `${each.key.namespace}, since `, when(each.since)),
    each.doing ? `: ${each.doing}` : "")), more ? h("div", { className: "soft" }, `and ${more} more`) : null];
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
      ["Node", (row) => h("a", { href: `#/log?node=${encodeURIComponent(row.node)}` }, row.node)],
      ["Status", (row) => badge(row.status)], ["Health", health, true], ["Self-test", selfTest, true], ["Disk", disk, true], ["Does now", work, true],
      ["Open commands", (row) => waiting.get(row.node)?.join(", ")], ["Registered", (row) => row.registered_at ? when(row.registered_at) : null],
      ["Kernel", (row) => row.kernel_release], ["CRIU", (row) => row.criu_version], ["runc", (row) => row.runc_version],
      ["cgroup", (row) => row.cgroup_version ? `v${row.cgroup_version}` : null], ["CPU", (row) => row.cpu_model],
      ["GPUs", gpus], ["Store", (row) => row.store],
    ], page.items, "No worker has registered."),
    h("p", { className: "pages" },
      after ? h("button", { type: "button", onclick: () => go("nodes", {}) }, "First page") : null,
      page.next ? h("button", { type: "button", onclick: () => go("nodes", { after: page.next }) }, "Next page") : null));
  });
}
