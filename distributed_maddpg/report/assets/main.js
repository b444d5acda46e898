// Renders the page from its data, now and whenever new data arrives.
function render(data) {
  document.title = `${data.title} · distributed-maddpg`;
  renderOverview(data);
  chartData = data;
  renderReplay(data);
  renderCharts(data);
  renderSettings(data);
  refresh(byId("written"), data.written, () => [`Written ${new Date(1000 * data.written).toLocaleString()} by distributed-maddpg ${data.version}. This page needs no network.`]);
  const places = [["replay", "Replay"], ["results", "Results"], ["learning", "Learning"], ["speed", "Speed"], ["settings", "Configuration"]];
  refresh(byId("contents"), places.filter(([id]) => byId(id)?.childElementCount).map(([id]) => id), () =>
    places.filter(([id]) => byId(id)?.childElementCount).map(([id, text]) => el("a", { href: `#${id}` }, text)));
}

function start() {
  if (!document.documentElement.classList.contains("js")) return;
  const data = JSON.parse(byId("data").textContent);
  try {
    startTheme();
    render(data);
    startReplay();
    startLive(data, render);
    themeListeners.push(() => drawCharts());
    let width = innerWidth;
    addEventListener("resize", () => {
      if (innerWidth !== width) drawCharts();
      width = innerWidth;
    });
  } catch (error) {
    document.documentElement.classList.remove("js"); // the plain summary is better than half a page
    throw error;
  }
}

start();
