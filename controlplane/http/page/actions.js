// What can be done about an id, by those who may: each asks first, in a dialog that says what it means.

import { post } from "./api.js";
import { field, h } from "./dom.js";

const MEANS = {
  checkpoint: ["Checkpoint now", "A snapshot is taken of the running container, which stands still for a moment and then runs on."],
  pin: ["Pin", "It is kept, and every start resumes from it, until it is unpinned."],
  unpin: ["Unpin", "The next start resumes from the newest snapshot again, and retention may delete this one."],
  retry: ["Retry", "It may be chosen again: failed restores and short lives until now do not count, nor that it was invalidated or superseded. A capture that waits for its store is stored now."],
  invalidate: ["Invalidate", "It is never chosen again. The next start resumes from an older one, or starts cold."],
  delete: ["Delete", "It is removed from the store, and nothing brings it back."],
  forget: ["Forget", "Every snapshot of the id is removed from the store, and nothing brings them back; then the id is known no more. Its history stays in the log."],
};
const DESTROYING = new Set(["invalidate", "delete", "forget"]);

// Which of the actions make sense for a snapshot as it is.
const fits = {
  pin: (row) => row.status === "superseded" || (row.status === "valid" && !row.pinned),
  unpin: (row) => row.pinned,
  retry: (row) => ["captured", "invalidated", "superseded", "valid"].includes(row.status),
  invalidate: (row) => row.status === "valid",
  delete: (row) => ["valid", "superseded", "invalidated", "expired"].includes(row.status) && !row.pinned,
};

let names = 0;

function ask(name, about, path, latest, done) {
  const [word, means] = MEANS[name];
  const because = h("input", { name: "because", maxLength: 500, autocomplete: "off", required: name === "invalidate" });
  const force = h("input", { name: "force", type: "checkbox", required: true });
  const problem = h("p", { className: "bad", role: "alert", hidden: true });
  const go = h("button", { type: "submit", className: DESTROYING.has(name) ? "danger" : "" }, word);
  const id = `dialog-${names += 1}`;
  const form = h("form", { onsubmit: send },
    h("h2", { id }, `${word}: ${about}`), h("p", {}, means),
    latest ? h("label", { className: "check" }, force, name === "forget" ? " The next start would resume from a snapshot. Forget the id nevertheless: the next start is cold."
      : " It is the latest valid snapshot. Delete it nevertheless: the next start steps back.") : null,
    name === "checkpoint" ? null : field(name === "invalidate" ? "Because (shown wherever it is passed over)" : "Because (for the history)", because),
    problem,
    h("p", { className: "actions" }, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), " ", go));
  const dialog = h("dialog", { "aria-labelledby": id, onclose: () => dialog.remove() }, form);
  async function send(event) {
    event.preventDefault();
    go.disabled = true;
    try {
      const body = name === "checkpoint" ? {} : { because: because.value.trim(), ...(latest ? { force: force.checked } : {}) };
      let said = await post(path, body);
      while (said.left) {
        go.textContent = `${said.left} to be deleted`;
        await new Promise((after) => setTimeout(after, 1000));
        if (!dialog.open) return;
        said = await post(path, body).catch(unlessForgotten);
      }
      dialog.close();
      done(said.left === 0 ? `${said.id} is forgotten` : said.command_id ? `${word}: command ${said.command_id} is recorded` : `${word}: recorded for ${said.snapshot_id}`);
    } catch (failed) {
      problem.textContent = String(failed.message ?? failed);
      problem.hidden = false;
      go.disabled = false;
    }
  }
  const unlessForgotten = (failed) => { if (failed.code === "unknown-id") return { id: about, left: 0 }; throw failed; };
  document.body.append(dialog);
  dialog.showModal();
}

const button = (name, about, path, latest, done) =>
  h("button", { type: "button", className: "small", "aria-label": `${MEANS[name][0]} ${about}`, onclick: () => ask(name, about, path, latest, done) }, MEANS[name][0]);

export function forId(allowed, state, path, done) {
  const name = state.state === "running" ? "checkpoint" : "forget";
  return allowed.includes(name) ? h("p", { className: "actions" }, button(name, state.id, `${path}/${name}`, name === "forget" && Boolean(state.latest_snapshot), done)) : null;
}

export function forSnapshot(allowed, row, newest, done) {
  const path = `snapshots/${encodeURIComponent(row.namespace)}/${encodeURIComponent(row.snapshot_id)}`;
  return Object.keys(fits).filter((name) => allowed.includes(name) && fits[name](row))
    .map((name) => [button(name, row.snapshot_id, `${path}/${name}`, name === "delete" && row.snapshot_id === newest, done), " "]);
}
