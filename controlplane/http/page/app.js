// Which page is shown, and for whom.

import { get, Refused, token } from "./api.js";
import { field, h, show } from "./dom.js";
import { failures } from "./failures.js";
import { ids } from "./ids.js";
import { life } from "./life.js";
import { log } from "./log.js";
import { nodes } from "./nodes.js";
import { overview } from "./overview.js";

const PAGES = { overview, ids, nodes, failures, log };
const AGAIN_MILLISECONDS = 1000;
const main = document.getElementById("main");
const news = document.getElementById("news");
const who = document.getElementById("who");
const nav = document.getElementById("nav");
let leaving = null;
let me = null;

export function report(problem) {
  if (problem?.name === "AbortError") return;
  if (problem instanceof Refused && problem.status === 401) { token.forget(); me = null; signIn(String(problem.message)); return; }
  show(news, problem ? String(problem.message ?? problem) : "");
}

function signIn(why) {
  leaving?.abort();
  nav.hidden = true;
  show(who, "");
  const input = h("input", { type: "password", name: "token", autocomplete: "off", required: true, size: 40 });
  show(main, h("h1", { tabIndex: -1 }, "Sign in"),
    h("form", { className: "filters", onsubmit: (event) => { event.preventDefault(); token.set(input.value.trim()); route(); } },
      field("Token", input), h("button", { type: "submit" }, "Sign in")),
    h("p", { className: "soft" }, "A token of the control plane's file, or of Kubernetes: kubectl create token SERVICEACCOUNT --audience woodfrog-api"),
    why ? h("p", { className: "bad box", role: "alert" }, why) : null);
  input.focus();
}

function signOut() {
  token.forget();
  me = null;
  signIn("");
}

function pathOf() {
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  return { words: path.split("/").map(decodeURIComponent), search: new URLSearchParams(search) };
}

async function route() {
  if (location.hash.startsWith("#token=")) {  // how `woodfrog dev` hands one over; it is taken out of the address at once
    token.set(decodeURIComponent(location.hash.slice(7)));
    history.replaceState(null, "", "#/overview");
  }
  leaving?.abort();
  const here = leaving = new AbortController();
  report(null);
  if (!token.get()) { signIn(""); return; }
  try {
    me ??= await get("me", {}, here.signal);
    if (here.signal.aborted) return;
    nav.hidden = false;
    show(who, `${me.name} `, h("button", { type: "button", onclick: signOut }, "Sign out"));
    let { words, search } = pathOf();
    if (!(words[0] in PAGES)) { words = ["overview"]; }
    for (const link of nav.children) {
      if (link.getAttribute("href") === `#/${words[0]}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const page = words[0] === "ids" && words.length === 3 ? life : PAGES[words[0]];
    const place = h("div", {});
    show(main, place);
    const context = { place, me, words, search, signal: here.signal, report, go, again: route };
    await page(context);
    if (here.signal.aborted) return;
    const title = place.querySelector("h1");
    document.title = `${title?.textContent ?? "Woodfrog"} – Woodfrog`;
    if (document.activeElement === document.body || nav.contains(document.activeElement)) { title?.setAttribute("tabindex", "-1"); title?.focus({ preventScroll: true }); }
  } catch (problem) {
    reportAndRetry(problem, here.signal, route);
  }
}

// Say what went wrong. What the API may answer in a moment, since it was busy or away, is asked again then.
export function reportAndRetry(problem, signal, act) {
  if (signal.aborted) return;
  report(problem);
  if (!(problem instanceof Refused && problem.status >= 500)) return;
  setTimeout(() => { if (!signal.aborted) { report(null); act(); } }, AGAIN_MILLISECONDS);
}

// Change what the page's own address says, and show it.
function go(path, params) {
  const given = Object.entries(params).filter(([, value]) => value);
  location.hash = `#/${path}${given.length ? `?${new URLSearchParams(given)}` : ""}`;
}

// Do it now, and again every so often while the page is shown.
export async function every(milliseconds, signal, act) {
  await act();
  let acting = false;
  const timer = setInterval(async () => {
    if (document.hidden || acting) return;
    acting = true;
    try { await act(); report(null); } catch (problem) { if (!signal.aborted) report(problem); }
    acting = false;
  }, milliseconds);
  signal.addEventListener("abort", () => clearInterval(timer));
}

const themes = ["", "light", "dark"];
function theme(name) {
  if (name) document.documentElement.dataset.theme = name; else delete document.documentElement.dataset.theme;
  localStorage.setItem("woodfrog-theme", name);
}
theme(localStorage.getItem("woodfrog-theme") ?? "");
document.getElementById("theme").addEventListener("click", () =>
  theme(themes[(themes.indexOf(document.documentElement.dataset.theme ?? "") + 1) % themes.length]));
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
addEventListener("hashchange", route);
addEventListener("unhandledrejection", (event) => report(event.reason));
route();
