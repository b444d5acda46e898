// While a run goes on, asks its server for new data and shows it in place.
const POLL_MS = 3000;
const LATE_MS = 20000;

function startLive(data, show) {
  if (!data.live_url) return;
  let received = Date.now();
  let timer = 0;
  const label = byId("live");
  const tell = (state, text) => { label.dataset.state = state; label.textContent = text; };
  const ask = async () => {
    try {
      const answer = await fetch(data.live_url, { cache: "no-store", signal: AbortSignal.timeout(LATE_MS) });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const newer = await answer.json();
      received = Date.now();
      show({ ...newer, live_url: data.live_url });
      if (!newer.live) return tell("ended", "ended");
      tell("live", "live");
    } catch (error) {
      const seconds = Math.round((Date.now() - received) / 1000);
      tell("lost", `connection lost ${seconds} s ago`);
    }
    timer = setTimeout(ask, POLL_MS);
  };
  if (!data.live) return tell("ended", "ended");
  tell("live", "live");
  timer = setTimeout(ask, POLL_MS);
  // A tab in the background is slowed down by the browser; ask at once when it is looked at again.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && label.dataset.state !== "ended") {
      clearTimeout(timer);
      ask();
    }
  });
}
