// Numbers over time, drawn by uPlot, which is loaded only where something is drawn.

import { h } from "./dom.js";

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export async function chart(place, title, times, lines, signal) {
  const { default: uPlot } = await import("./vendor/uplot-1.6.32.js");
  if (signal.aborted) return;
  if (!document.querySelector("link[data-uplot]")) {
    document.head.append(h("link", { rel: "stylesheet", href: "/page/vendor/uplot-1.6.32.css", "data-uplot": "1" }));
  }
  const box = h("div", { className: "chart" });
  place.append(box);
  const axis = { stroke: color("--soft"), grid: { stroke: color("--line") }, ticks: { stroke: color("--line") } };
  const colors = ["--good", "--warn", "--bad"];
  const size = () => ({ width: Math.max(box.clientWidth - 16, 240), height: 190 });
  const plot = new uPlot({
    title, ...size(), tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
    axes: [axis, { ...axis, size: 80, values: (_, ticks) => ticks.map((tick) => lines[0].unit(tick)) }],
    series: [{}, ...lines.map(({ name, unit }, place) => ({
      label: name, stroke: color(colors[place]), width: 2, points: { show: true, size: 6 }, value: (_, value) => value === null ? "–" : unit(value),
    }))],
  }, [times, ...lines.map((line) => line.values)], box);
  box.querySelector("canvas").setAttribute("role", "img");
  box.querySelector("canvas").setAttribute("aria-label", `${title}; the table of snapshots has the numbers`);
  const watch = new ResizeObserver(() => plot.setSize(size()));
  watch.observe(box);
  signal.addEventListener("abort", () => { watch.disconnect(); plot.destroy(); });
}
