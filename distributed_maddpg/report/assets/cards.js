// The overview: how each run stands, its results and totals.
function renderOverview(data) {
  refresh(byId("overview"), [data.groups, data.title], () =>
    data.groups.length === 1 ? oneRun(data.groups[0]) : severalRuns(data),
  );
}

const swatch = (kind, index = 0) => el("i", { class: "swatch", style: { "--tint": tint(kind, index) } });
const pill = (group) => el("span", { class: "pill", data: { state: group.state } }, group.state_name);

function oneRun(group) {
  const seeds = group.seeds.length > 1 ? `seeds ${group.seeds.join(", ")}` : group.seeds.length ? `seed ${group.seeds[0]}` : "";
  return [
    el("div", { class: "title" }, el("h1", {}, group.name), pill(group)),
    el("p", { class: "sub" }, el("b", {}, group.env_id || "unknown environment"), seeds ? ` · ${seeds}` : "", ` · ${group.ending}`),
    group.progress !== null && el("div", { class: "progress", role: "progressbar", "aria-label": "Progress", "aria-valuenow": Math.round(100 * group.progress), "aria-valuemin": 0, "aria-valuemax": 100 },
      el("i", { style: { width: `${100 * group.progress}%` } })),
    group.problem && el("p", { class: "panel problem" }, el("b", {}, "A problem: "), group.problem),
    el("div", { class: "results" }, group.results.map(resultCard), returnsCard(group)),
    el("p", { class: "small muted", style: { "margin-top": "10px" } }, group.results_of),
    el("dl", { class: "panel facts" }, group.facts.map((fact) =>
      el("div", {}, el("dt", {}, fact.label), el("dd", {}, fact.value, fact.note && el("small", {}, fact.note))))),
  ];
}

const meter = (share, tint) =>
  el("div", { class: "meter", style: { "--tint": tint } }, el("i", { style: { width: `${Math.max(0, Math.min(100, 100 * share))}%` } }));

function resultCard(result) {
  return el("article", { class: "panel result" },
    el("h3", {}, swatch(result.role), result.label),
    el("p", { class: "value" }, result.value, result.unit && el("small", {}, result.unit)),
    result.note && el("p", { class: "note" }, result.note),
    "share" in result && meter(result.share, `var(--${result.role})`));
}

function returnsCard(group) {
  if (!group.returns.length) return null;
  return el("article", { class: "panel result wide" },
    el("h3", {}, "Return per greedy episode"),
    el("div", { class: "rows" }, group.returns.map((row) =>
      el("div", {}, swatch(row.role, row.index), el("span", {}, row.label, row.note && el("span", { class: "note" }, row.note)), el("b", {}, row.value)))));
}

function severalRuns(data) {
  const differing = data.settings.rows.filter((row) => row.differs);
  return [
    el("div", { class: "title" }, el("h1", {}, `${data.groups.length} runs compared`)),
    el("p", { class: "sub" }, data.title),
    el("div", { class: "runs" }, data.groups.map(runCard)),
    el("section", { class: "panel", style: { "margin-top": "14px" } },
      el("h2", {}, differing.length ? "Settings that differ" : "All settings are equal"),
      differing.length > 0 && el("div", { class: "tablewrap" }, settingsTable(data, differing))),
  ];
}

function runCard(group, index) {
  const facts = group.facts.slice(0, 5).map((fact) => `${fact.value} ${fact.label.toLowerCase()}`).join(" · ");
  const line = (label, note, value, share, tint) => el("div", { class: "line" }, el("span", {}, `${label} `, note && el("span", { class: "note" }, note)), el("b", {}, value), share !== undefined && meter(share, tint));
  return el("article", { class: "panel run" },
    el("h3", {}, el("i", { class: "swatch square", style: { "--tint": `var(--run-${index % 8})` } }), group.name, pill(group)),
    el("p", { class: "small muted" }, [group.env_id, group.seeds.length > 1 ? `${group.seeds.length} seeds` : ""].filter(Boolean).join(" · ")),
    group.results.map((result) => line(result.label, result.note, `${result.value} ${result.unit}`.trim(), result.share, `var(--${result.role})`)),
    group.returns.map((row) => line(`Return of ${row.label}`, row.note, row.value)),
    el("p", { class: "foot" }, group.results_of, " ", facts, "."));
}
