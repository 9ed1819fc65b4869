// The API, which is all that this page knows. The token lives in this tab only.

const KEY = "woodfrog-token";

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => sessionStorage.setItem(KEY, text),
  forget: () => sessionStorage.removeItem(KEY),
};

export class Refused extends Error {
  constructor(status, problem) {
    super(`${problem.cause} (${problem.code}). ${problem.advice}`);
    this.status = status;
    this.code = problem.code;
  }
}

const AWAY = { code: "api-away", cause: "the API does not answer", advice: "See whether the control plane runs." };

function query(params) {
  const given = Object.entries(params ?? {}).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

async function asked(path, params, signal, headers, body) {
  const response = await fetch(`/api/v1/${path}${query(params)}`, {
    headers: { Authorization: `Bearer ${token.get()}`, ...headers }, signal, cache: "no-cache",
    ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(body) }),
  }).catch((failed) => { throw signal?.aborted ? failed : new Refused(503, AWAY); });
  if (response.ok) return response;
  let problem = { ...AWAY, code: String(response.status) };
  try { problem = await response.json(); } catch { /* not of the API */ }
  throw new Refused(response.status, problem);
}

export const get = async (path, params, signal) => (await asked(path, params, signal)).json();

export const post = async (path, body) => (await asked(path, {}, undefined, { "Content-Type": "application/json" }, body)).json();

// Server-sent events by fetch: EventSource cannot send a token. Goes on behind the last event after a break.
export async function follow(params, signal, onrows, onstate) {
  let last = params.after ?? null;
  while (!signal.aborted) {
    try {
      const response = await asked("log/tail", { ...params, after: null }, signal, last === null ? {} : { "Last-Event-ID": String(last) });
      onstate("live");
      let rest = "";
      for await (const part of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
        const blocks = (rest + part).split("\n\n");
        rest = blocks.pop();
        const rows = [];
        for (const block of blocks) {
          for (const line of block.split("\n")) {
            if (line.startsWith("data: ")) rows.push(JSON.parse(line.slice(6)));
            else if (line.startsWith(": ")) last = Number(line.slice(2));
          }
        }
        if (rows.length) { last = rows[rows.length - 1].position; onrows(rows); }
      }
    } catch (problem) {
      if (signal.aborted) return;
      if (problem instanceof Refused && problem.status < 500) throw problem;
      onstate("reconnecting");
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  while (true) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}
