// Light or dark: what the system prefers, until the reader chooses. Canvas and Plotly need colours as values.
const THEME_KEY = "distributed-maddpg-theme";
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const themeListeners = [];

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : prefersDark.matches;
}

// Kept until the theme changes: the replay asks hundreds of times a frame.
const knownColours = new Map();

function cssColour(name) {
  if (!knownColours.has(name)) knownColours.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  return knownColours.get(name);
}

// Shades of a colour for several agents of a team: the first has the colour itself.
const shadeAmount = (index) => Math.min(0.55, 0.3 + 0.12 * Math.floor((index - 1) / 2));

function shade(hex, index) {
  if (!index || !/^#[0-9a-f]{6}$/i.test(hex)) return hex;
  const towards = index % 2 ? (isDark() ? 0 : 255) : (isDark() ? 255 : 0);
  const amount = shadeAmount(index);
  const part = (at) => parseInt(hex.slice(at, at + 2), 16);
  const mixed = [1, 3, 5].map((at) => Math.round(part(at) + (towards - part(at)) * amount));
  return `#${mixed.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}

// The same shade as CSS, which follows the theme by itself.
function tint(kind, index = 0) {
  if (!index) return `var(--${kind})`;
  return `color-mix(in srgb, var(--${kind}) ${Math.round(100 - 100 * shadeAmount(index))}%, var(--${index % 2 ? "lift" : "sink"}))`;
}

const roleColour = (kind, index = 0) => shade(cssColour(kind), index);
const runColour = (group) => cssColour(`run-${group % 8}`);

function translucent(hex, alpha) {
  const part = (at) => parseInt(hex.slice(at, at + 2), 16);
  return `rgba(${part(1)},${part(3)},${part(5)},${alpha})`;
}

function showTheme() {
  const button = byId("theme");
  const next = isDark() ? "light" : "dark";
  button.setAttribute("aria-label", `Change to the ${next} theme`);
  button.title = `Change to the ${next} theme`;
  const sun = ["M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8Z", "M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6 19 19M5 19l1.4-1.4M17.6 6.4 19 5"];
  button.replaceChildren(isDark() ? icon(...sun) : icon("M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5Z"));
}

function startTheme() {
  byId("theme").addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem(THEME_KEY, next);
    } catch (error) { /* remembered for this page alone */ }
    themeChanged();
  });
  prefersDark.addEventListener("change", themeChanged);
  showTheme();
}

function themeChanged() {
  knownColours.clear();
  showTheme();
  for (const listener of themeListeners) listener();
}
