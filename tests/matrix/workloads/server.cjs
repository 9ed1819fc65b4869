// An HTTP server that counts, and a worker thread that counts into /out through shared memory.
const { Worker, isMainThread, workerData } = require("node:worker_threads");
const fs = require("node:fs");

if (isMainThread) {
  const shared = new Int32Array(new SharedArrayBuffer(4));
  new Worker(__filename, { workerData: shared });
  setInterval(() => fs.appendFileSync("/out", `${Atomics.add(shared, 0, 1) + 1}\n`), 50);
  let asked = 0;
  require("node:http").createServer((_, answer) => answer.end(`${++asked}\n`)).listen(8080);
} else {
  setInterval(() => fs.writeFileSync("/seen", `${Atomics.load(workerData, 0)}\n`), 100);
}
