// Builds elements. Text is always set as text, never parsed: names of runs and agents may hold anything.
function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "style") for (const [key, own] of Object.entries(value)) node.style.setProperty(key, own);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Icons of 24 x 24, from paths.
function icon(...paths) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  for (const d of paths) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

const byId = (id) => document.getElementById(id);
const count = (value) => Number(value).toLocaleString("en-US");
const signed = (value, digits) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);

// Replaces the content of a node unless it would be the same: focus, selection and open details stay.
function refresh(node, key, build) {
  const text = JSON.stringify(key);
  if (node.dataset.shown === text) return;
  node.dataset.shown = text;
  node.replaceChildren(...build().filter(Boolean));
}
