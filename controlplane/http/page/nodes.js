// Nodes: what each is, and how it is.

import { get } from "./api.js";
import { every } from "./app.js";
import { badge, bytes, h, renew, show, table, when } from "./dom.js";

const gpus = (row) => row.gpu_count ? `${row.gpu_count} × ${row.gpu_models ?? "?"}, ${bytes(row.gpu_memory_bytes)}, driver ${row.gpu_driver ?? "?"}` : null;
const health = (row) => {
  const why = [];
  if (row.status === "lost") why.push(`silent for ${Math.round(row.silent_seconds ?? 0)} s before it was declared lost`);
  if (Math.abs(row.clock_offset_seconds ?? 0) >= 5) why.push(`its clock is ${Math.round(row.clock_offset_seconds)} s off`);
  return why.join("; ") || null;
};

export async function nodes({ place, me, signal }) {
  const body = h("div", {});
  show(place, h("h1", {}, "Nodes"), body);
  if (!me.everything) { show(body, h("p", { className: "soft" }, "Nodes are shown to those who see every namespace.")); return; }
  await every(5000, signal, async () => {
    const [page, open] = await Promise.all([
      get("views/nodes", { limit: 500 }, signal), get("views/commands", { status: "open", limit: 500 }, signal)]);
    const waiting = new Map();
    for (const command of open.items) waiting.set(command.node, [...(waiting.get(command.node) ?? []), command.kind]);
    renew(body, table("Nodes", [
      ["Node", (row) => h("a", { href: `#/log?node=${encodeURIComponent(row.node)}` }, row.node)],
      ["Status", (row) => badge(row.status)], ["Health", health],
      ["Registered", (row) => when(row.registered_at)], ["Open commands", (row) => waiting.get(row.node)?.join(", ")],
      ["Kernel", (row) => row.kernel_release], ["CRIU", (row) => row.criu_version], ["runc", (row) => row.runc_version],
      ["cgroup", (row) => row.cgroup_version ? `v${row.cgroup_version}` : null], ["CPU", (row) => row.cpu_model],
      ["GPUs", gpus], ["Store", (row) => row.store],
    ], page.items.sort((one, two) => one.node < two.node ? -1 : 1), "No worker has registered."),
    page.next ? h("p", { className: "soft" }, "Only the newest 500 nodes are shown.") : null);
  });
}
