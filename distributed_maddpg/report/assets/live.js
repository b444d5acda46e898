// Asks the page's server for new data, for as long as the page is open, and shows it in place.
const POLL_MS = 3000;
const LATE_MS = 20000;
const QUIET_MS = 120000;

function startLive(data, show) {
  if (!data.live_url) return;
  let [received, changed, version] = [Date.now(), Date.now(), null];
  let [running, ended] = [data.live, hasEnded(data)];
  let timer = 0;
  const label = byId("live");
  const tell = (state, text) => { label.dataset.state = state; label.textContent = text; };
  const tellAge = () => {
    const quiet = Date.now() - changed;
    if (!running && ended) return tell("ended", "ended");
    // Where this machine does not see the locks of a run, as on shared storage, only its news tell that it goes on.
    if (running || quiet < QUIET_MS) return tell("live", "live");
    tell("quiet", `no news for ${Math.round(quiet / 60000)} min`);
  };
  const ask = async () => {
    clearTimeout(timer);
    try {
      // The browser sends the version that it has; if that is the newest, its copy is the answer.
      const answer = await fetch(data.live_url, { cache: "no-cache", signal: AbortSignal.timeout(LATE_MS) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      received = Date.now();
      const newest = answer.headers.get("ETag");
      if (newest === null || newest !== version) {
        const newer = await answer.json();
        if (version !== null || newer.written !== data.written) changed = Date.now();
        [version, running, ended] = [newest, newer.live, hasEnded(newer)];
        show({ ...newer, live_url: data.live_url });
      }
      tellAge();
    } catch (error) {
      tell("lost", `connection lost ${Math.round((Date.now() - received) / 1000)} s ago`);
    }
    clearTimeout(timer); // of a question asked meanwhile
    timer = setTimeout(ask, POLL_MS);
  };
  tellAge();
  timer = setTimeout(ask, POLL_MS);
  // A tab in the background is slowed down by the browser; ask at once when it is looked at again.
  document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
}

function hasEnded(data) {
  return data.groups.every((group) => group.state === "finished" || group.state === "interrupted");
}
