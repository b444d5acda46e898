// All settings, by section; what differs from the nearest preset is marked.
const filters = { text: "", changed: false };

function renderSettings(data) {
  const section = byId("settings");
  if (!data.settings.rows.length) return refresh(section, "none", () => []);
  refresh(section, data.settings, () => [
    el("div", { class: "head" },
      el("div", {}, el("h2", { id: "settings-title" }, "Configuration"), el("p", {}, presetText(data))),
      el("div", { class: "tools" },
        el("input", { type: "search", id: "search", placeholder: "Search settings", "aria-label": "Search settings", value: filters.text, oninput: (event) => { filters.text = event.target.value; filterSettings(); } }),
        el("label", { class: "field" }, el("input", { type: "checkbox", id: "changed", checked: filters.changed, onchange: (event) => { filters.changed = event.target.checked; filterSettings(); } }), "Only what differs"))),
    el("div", { class: `groups ${data.groups.length > 1 ? "wide" : ""}` }, sectionsOf(data).map(([name, rows]) => settingsGroup(data, name, rows))),
    el("p", { class: "panel none", id: "nothing", hidden: true }, "No setting matches."),
  ]);
  filterSettings();
}

function presetText(data) {
  const names = [...new Set(data.settings.presets.filter(Boolean))];
  return names.length === 1
    ? `The nearest preset is ${names[0]}; a dot marks what differs from it in the run's environment.`
    : `The nearest presets are ${data.settings.presets.join(", ")}; a dot marks what differs from a run's own.`;
}

function sectionsOf(data) {
  const found = new Map();
  for (const row of data.settings.rows) {
    const name = row.name.includes(".") ? row.name.split(".")[0] : "run";
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(row);
  }
  return [...found];
}

const isChanged = (row) => row.differs || row.preset.some((value) => value !== null);

function settingsGroup(data, name, rows) {
  const changed = rows.filter(isChanged).length;
  return el("details", { class: "panel", open: changed > 0, data: { section: name } },
    el("summary", {}, name, el("span", { class: "small muted" }, `${rows.length} settings${changed ? `, ${changed} ${changed > 1 ? "differ" : "differs"}` : ""}`)),
    el("div", { class: "tablewrap" }, settingsTable(data, rows, name === "run" ? "" : `${name}.`)));
}

// A section's own table leaves the section out of the names.
function settingsTable(data, rows, prefix = "") {
  const several = data.groups.length > 1;
  return el("table", { class: "settings" },
    several && el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "setting"), data.groups.map((group) => el("th", { scope: "col" }, group.name)))),
    el("tbody", {}, rows.map((row) =>
      el("tr", { class: isChanged(row) ? "changed" : null, data: { name: row.name } },
        el("th", { scope: "row" }, el("code", {}, row.name.slice(prefix.length))),
        row.values.map((value, i) => el("td", {}, el("code", {}, value === "" ? "—" : value),
          row.preset[i] !== null && el("span", { class: "was" }, row.preset[i] === "" ? "not in the preset" : `preset: ${row.preset[i]}`)))))));
}

// Shows the settings that match, and opens the sections in which some do.
function filterSettings() {
  const words = filters.text.toLowerCase().split(/\s+/).filter(Boolean);
  let total = 0;
  for (const group of document.querySelectorAll("#settings details")) {
    let matches = 0;
    for (const row of group.querySelectorAll("tbody tr")) {
      const fits = words.every((word) => row.textContent.toLowerCase().includes(word)) && (!filters.changed || row.classList.contains("changed"));
      row.hidden = !fits;
      matches += fits;
    }
    group.hidden = matches === 0;
    if (words.length && matches) group.open = true;
    total += matches;
  }
  byId("nothing").hidden = total > 0;
}
