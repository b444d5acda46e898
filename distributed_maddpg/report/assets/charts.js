// The curves: a card per chart, drawn by Plotly, with a legend of buttons above it.
const SECTIONS = [
  ["results", "Results", "Greedy episodes, played without exploration from fresh start states."],
  ["learning", "Learning", "What the learner and the training episodes report."],
  ["speed", "Speed", "Rates, and where the time went."],
];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const chosen = { smoothing: 1, raw: true, touched: false, hidden: new Set(), linear: new Set() };
let chartData = null;
let plotlyReady = null;

function renderCharts(data) {
  chartData = data;
  const longest = Math.max(1, ...Object.values(data.xs).map((x) => x.length));
  if (!chosen.touched) chosen.smoothing = longest >= 60 ? 5 : 1;
  for (const [name, title, text] of SECTIONS) {
    const charts = data.charts.filter((chart) => chart.section === name);
    let section = byId(name);
    if (!section && charts.length) {
      section = el("section", { id: name, "aria-labelledby": `${name}-title` },
        el("div", { class: "head" }, el("div", {}, el("h2", { id: `${name}-title` }, title), el("p", {}, text)), name !== "speed" && tools()),
        el("div", { class: "before" }), el("div", { class: "charts" }), el("div", { class: "after" }));
      byId("curves").append(section);
    }
    if (!section) continue;
    for (const chart of charts) chartCard(section.querySelector(".charts"), chart);
    if (name === "speed") renderSpeed(section, data);
  }
  loadPlotly().then(() => drawCharts());
}

// Smoothing and raw values apply to all charts; the controls of both sections are kept alike.
function tools() {
  const change = (update) => (event) => {
    chosen.touched = true;
    update(event.target);
    for (const own of document.querySelectorAll(".smoothing")) own.value = chosen.smoothing;
    for (const own of document.querySelectorAll(".raw")) own.checked = chosen.raw;
    showWidth();
    drawCharts();
  };
  return el("div", { class: "tools" },
    el("label", { class: "field" }, "Smoothing",
      el("input", { class: "smoothing", type: "range", min: 1, max: 25, step: 1, value: chosen.smoothing, oninput: change((input) => { chosen.smoothing = Number(input.value); }) }),
      el("output", { class: "width" }, widthText())),
    el("label", { class: "field" }, el("input", { class: "raw", type: "checkbox", checked: chosen.raw, onchange: change((input) => { chosen.raw = input.checked; }) }), "Unsmoothed too"));
}

const widthText = () => (chosen.smoothing > 1 ? `mean of ${chosen.smoothing}` : "off");
function showWidth() {
  for (const own of document.querySelectorAll(".width")) own.textContent = widthText();
}

function chartCard(parent, chart) {
  let card = [...parent.children].find((own) => own.dataset.chart === chart.name);
  if (!card) {
    card = el("article", { class: "panel chart", data: { chart: chart.name } },
      el("header", {}, el("div", {}, el("h3", {}, chart.title), el("p", {})), chart.log && logToggle(chart)),
      el("div", { class: "keys" }), el("div", { class: "plot", role: "img", "aria-label": `Curves: ${chart.title}` }));
    parent.append(card);
    nearby.observe(card);
  }
  card.querySelector("header p").textContent = chart.note || chart.unit;
  refresh(card.querySelector(".keys"), [chart.series.map((own) => [own.name, own.role, own.index, own.group]), groupNames()], () => (chart.series.length > 1 ? chart.series.map((series) => keyOf(chart, series)) : []));
}

function logToggle(chart) {
  return el("button", { class: "toggle log", type: "button", "aria-pressed": "true", title: "Logarithmic or linear axis",
    onclick: (event) => {
      const linear = chosen.linear.has(chart.name);
      chosen.linear[linear ? "delete" : "add"](chart.name);
      event.currentTarget.setAttribute("aria-pressed", String(linear));
      drawCharts();
    } }, "log");
}

const groupNames = () => chartData.groups.map((group) => group.name);
const compared = () => chartData.groups.length > 1;
const seriesKey = (chart, series) => `${chart.name}\n${series.group}\n${series.name}`;
const seriesName = (chart, series) => (compared() && !chart.stacked ? chartData.groups[series.group].name : series.name);

function seriesColour(chart, series) {
  if (chart.stacked) return stackColour(series);
  return compared() ? runColour(series.group) : roleColour(series.role, series.index);
}

// Time that was used is blue; each kind of waiting has a shade of amber or grey.
function stackColour(series) {
  if (series.role === "busy") return cssColour("busy");
  return { "waiting for the next call": cssColour("idle"), "fetching weights": cssColour("second") }[series.name] || cssColour("blocked");
}

function keyOf(chart, series) {
  const key = seriesKey(chart, series);
  const kind = chart.stacked ? "fill" : DASHES[compared() ? 0 : series.index % 4];
  const tinted = chart.stacked ? null : compared() ? `var(--run-${series.group % 8})` : tint(series.role, series.index);
  return el("button", { type: "button", "aria-pressed": String(!chosen.hidden.has(key)),
    onclick: (event) => {
      const hidden = chosen.hidden.has(key);
      chosen.hidden[hidden ? "delete" : "add"](key);
      event.currentTarget.setAttribute("aria-pressed", String(hidden));
      drawCharts();
    } }, el("i", { class: `stroke ${kind}`, style: { "--tint": tinted || stackColour(series) } }), seriesName(chart, series));
}

// Mean of each value and those before it, as many as are asked for; gaps stay gaps.
function movingAverage(values, width) {
  if (width <= 1) return values;
  return values.map((value, i) => {
    if (value === null) return null;
    const near = values.slice(Math.max(0, i - width + 1), i + 1).filter((own) => own !== null);
    return near.reduce((sum, own) => sum + own, 0) / near.length;
  });
}

function tracesOf(chart, series) {
  const x = chartData.xs[series.x];
  const colour = seriesColour(chart, series);
  if (chart.stacked) {
    return [{ x, y: series.y, name: series.name, stackgroup: "one", mode: "lines", line: { width: 0, color: colour }, fillcolor: colour, hovertemplate: "%{y:.0f} %" }];
  }
  const smoothed = chosen.smoothing > 1;
  const y = movingAverage(series.y, chosen.smoothing);
  const traces = [];
  if (series.low) {
    const edge = { x, mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
    traces.push({ ...edge, y: movingAverage(series.high, chosen.smoothing) }, { ...edge, y: movingAverage(series.low, chosen.smoothing), fill: "tonexty", fillcolor: translucent(colour, 0.18) });
  }
  if (smoothed && chosen.raw) traces.push({ x, y: series.y, mode: "lines", line: { color: translucent(colour, 0.3), width: 1.25 }, hoverinfo: "skip" });
  const points = y.filter((value) => value !== null).length;
  traces.push({
    x, y, name: seriesName(chart, series), mode: points > 1 ? "lines" : "markers",
    line: { color: colour, width: 2.25, dash: DASHES[compared() ? 0 : series.index % 4] }, marker: { color: colour, size: 8 },
    hovertemplate: `%{y:.4~g}`,
  });
  return traces;
}

function layoutOf(chart, narrow) {
  const ink = cssColour("muted");
  const axis = { gridcolor: cssColour("grid"), zerolinecolor: cssColour("line"), linecolor: cssColour("line"), tickfont: { color: ink, size: 11.5 }, automargin: true };
  const events = chartData.events.filter((event) => event.x !== null);
  return {
    margin: { l: 46, r: 12, t: 8, b: 36 }, height: narrow ? 230 : 270, showlegend: false, hovermode: "x unified",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: "ui-sans-serif, system-ui, sans-serif", color: ink, size: 12 },
    hoverlabel: { bgcolor: cssColour("panel"), bordercolor: cssColour("line"), font: { color: cssColour("ink"), size: 12 } },
    xaxis: { ...axis, title: { text: "env steps", font: { size: 11.5, color: ink }, standoff: 4 }, tickformat: "~s", hoverformat: ",.0f", showspikes: false },
    yaxis: { ...axis, title: { text: chart.unit, font: { size: 11.5, color: ink }, standoff: 6 }, type: chart.log && !chosen.linear.has(chart.name) ? "log" : "linear", ...(chart.percent ? { range: [0, 100.5] } : {}), ...logTicks(chart) },
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    shapes: events.map((event) => ({ type: "line", x0: event.x, x1: event.x, yref: "paper", y0: 0, y1: 1, line: { color: markColour(event), width: 1.25, dash: "dot" } })),
    // With a finger the page must scroll; a mouse selects a part to zoom into, a double click shows all.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
  };
}

// Of more than most of a decade, 1, 2 and 5 times powers of ten are named in full; of several, the powers alone.
function logTicks(chart) {
  if (!chart.log || chosen.linear.has(chart.name)) return {};
  const values = chart.series.flatMap((series) => series.y).filter((value) => value > 0);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  if (!(most > 8 * least)) return {};
  const leading = most > 1000 * least ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(Math.log10(least)); power <= Math.log10(most); power += 1) ticks.push(...leading.map((digit) => Number(`${digit}e${power}`)));
  return { tickvals: ticks, ticktext: ticks.map((tick) => (tick >= 1e-4 && tick < 1e6 ? String(tick) : tick.toExponential())) };
}

const markColour = (event) => cssColour(event.kind === "lost" ? "adversary" : event.kind === "resumed" ? "third" : "goal");

// Marks of resumes, losses and recoveries, whose texts appear under the pointer.
function eventTrace() {
  const events = chartData.events.filter((event) => event.x !== null);
  if (!events.length) return [];
  return [{
    x: events.map((event) => event.x), y: events.map(() => 0.97), yaxis: "y2", mode: "markers", name: "event",
    marker: { size: 9, symbol: "triangle-down", color: events.map(markColour) },
    text: events.map((event) => escapeText(event.text)), hovertemplate: "%{text}<extra></extra>",
  }];
}

// Plotly reads a little HTML in hover texts.
const escapeText = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").slice(0, 160);

// A chart is drawn when it comes near the window: a page of many runs has dozens.
const nearby = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    nearby.unobserve(entry.target);
    entry.target.dataset.near = "true";
    drawChart(entry.target);
  }
}, { rootMargin: "400px" });

function drawCharts(all = false) {
  for (const card of document.querySelectorAll(".chart")) {
    if (all === true || card.dataset.near) drawChart(card);
  }
}

function drawChart(card) {
  if (!window.Plotly) return;
  const chart = chartData.charts.find((own) => own.name === card.dataset.chart);
  const shown = chart.series.filter((series) => !chosen.hidden.has(seriesKey(chart, series)));
  const traces = [...shown.flatMap((series) => tracesOf(chart, series)), ...eventTrace()];
  window.Plotly.react(card.querySelector(".plot"), traces, layoutOf(chart, innerWidth <= 620), { displayModeBar: false, responsive: true });
}

addEventListener("beforeprint", () => drawCharts(true));

// Inflates Plotly, 4.8 MB of script, after the page is shown.
function loadPlotly() {
  plotlyReady ??= (async () => {
    await new Promise(requestAnimationFrame);
    const text = byId("plotly").textContent;
    const packed = Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  })();
  return plotlyReady;
}

function renderSpeed(section, data) {
  refresh(section.querySelector(".before"), data.groups.map((group) => group.bottleneck), () => data.groups.filter((group) => group.bottleneck).map((group) =>
    el("div", { class: "panel callout", style: { margin: "0 0 14px" } }, icon("M6 3h12M6 21h12M7 3v3c0 3 5 4 5 6s-5 3-5 6v3M17 3v3c0 3-5 4-5 6s5 3 5 6v3"),
      el("div", {},
        el("p", {}, compared() && `${group.name}: `, "The bottleneck was ", el("b", {}, bottleneckName(group.bottleneck.name)), ". What would help: ", group.bottleneck.remedy, "."),
        el("p", { class: "small" }, group.bottleneck.text)))));
  refresh(section.querySelector(".after"), data.events, () => [data.events.length > 0 && el("details", { class: "panel events" },
    el("summary", {}, `Events: ${data.events.length}`),
    el("ol", {}, data.events.map((event) => el("li", {}, new Date(1000 * event.time).toLocaleString(), event.x === null ? "" : `, at ${count(Math.round(event.x))} env steps`, `: ${event.text}`))))]);
}

const bottleneckName = (name) => ({ "worker CPU": "the rollout workers' CPU", push: "pushing rows to the replay buffer", replay: "the replay buffer", "sample transfer": "the transfer of minibatches", weights: "fetching weights", learner: "the learner", pacing: "pacing" })[name] || name;
