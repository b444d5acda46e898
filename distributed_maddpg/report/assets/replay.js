// The player: which world, episode and policies are shown, at which time, and whether it runs.
const STEPS_PER_S = 7;
const HOLD_S = 1.4; // how long the last frame stays before the episode starts again
const SPEEDS = [0.25, 0.5, 1, 2, 4];
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

const player = { world: 0, episode: 0, view: "", time: 0, playing: false, speed: 1, loop: true, held: 0, seen: false };
let replayData = null;
let panels = []; // what is shown: { index of the player, canvas, rows }

function renderReplay(data) {
  replayData = data.replay;
  const section = byId("replay");
  if (!replayData.worlds.length) {
    refresh(section, replayData.reason, () => [replayHead(), el("p", { class: "panel none" }, replayData.reason)]);
    panels = [];
    return;
  }
  player.world = Math.min(player.world, replayData.worlds.length - 1);
  const world = currentWorld();
  player.episode = Math.min(player.episode, world.episodes.length - 1);
  if (!views(world).some((view) => view.key === player.view)) player.view = views(world)[0].key;
  refresh(section, [replayData], () => buildReplay(world));
  showPanels();
}

const currentWorld = () => replayData.worlds[player.world];
const lastFrame = () => framesOf(currentWorld(), currentWorld().episodes[player.episode].played[0]) - 1;

// What can be shown: all stages of a run, the newest of every run, or one of them alone.
function views(world) {
  const runs = [...new Set(world.players.map((own) => own.run))];
  const indices = (test) => world.players.map((_, i) => i).filter(test);
  const stages = runs.map((run) => ({
    key: `stages of ${run}`,
    label: runs.length > 1 ? `${run}: all stages side by side` : "All stages side by side",
    players: indices((i) => world.players[i].run === run),
  })).filter((view) => view.players.length > 1);
  const newest = indices((i) => world.players[i].run !== world.players[i + 1]?.run);
  const compared = runs.length > 1 ? [{ key: "newest", label: "The newest policies of every run", players: newest }] : [];
  const single = world.players.map((own, i) => ({
    key: `${own.run} ${own.env_steps}`,
    label: `${runs.length > 1 ? `${own.run}: ` : ""}${own.label} (${count(own.env_steps)} env steps)`,
    players: [i],
  }));
  // Several runs are there to be compared; of several seeds, one shows how it learned.
  const first = chartData.groups.length > 1 ? [...compared, ...stages] : [...stages, ...compared];
  return [...first, ...single.reverse()];
}

function replayHead(world) {
  const lines = world ? [el("p", {}, world.caption)] : [];
  if (world && replayData.reason) lines.push(el("p", { class: "small" }, replayData.reason));
  return el("div", { class: "head" }, el("div", {}, el("h2", { id: "replay-title" }, "Replay: what the policies do"), lines));
}

function buildReplay(world) {
  const stages = el("div", { id: "stages", class: "stages", role: "group", tabIndex: 0, "aria-label": "Replayed episodes; space plays and pauses, arrow keys go step by step" });
  return [replayHead(world), el("div", { class: "panel", id: "player", onkeydown: playerKey }, stages, controls(world), legend(world), el("p", { class: "said", id: "said" }))];
}

function controls(world) {
  const button = (id, label, paths, action, name = "icon") => el("button", { id, class: name, type: "button", "aria-label": label, title: label, onclick: action }, icon(...paths));
  const options = (list, chosen) => list.map(([value, text]) => el("option", { value, selected: String(value) === String(chosen) }, text));
  const field = (label, id, list, chosen, change) => el("label", { class: "field" }, label, el("select", { id, onchange: (event) => change(event.target.value) }, options(list, chosen)));
  const worlds = replayData.worlds.map((own, i) => [i, own.env_id]);
  return el("div", { class: "controls" },
    el("div", { class: "buttons" },
      button("back", "One step back", ["M15 6 9 12l6 6"], () => step(-1)),
      button("play", "Play", ["M7 4v16l13-8Z"], () => setPlaying(!player.playing), "icon play"),
      button("forward", "One step forward", ["m9 6 6 6-6 6"], () => step(1))),
    el("div", { class: "scrub" },
      el("input", { id: "scrub", type: "range", min: 0, max: lastFrame(), step: "any", value: player.time, "aria-label": "Step of the episode", oninput: (event) => seek(Number(event.target.value), true) }),
      el("output", { id: "step" })),
    worlds.length > 1 && field("Environment", "world", worlds, player.world, (value) => { player.world = Number(value); player.episode = 0; player.view = ""; player.time = 0; byId("replay").dataset.shown = ""; renderReplay({ replay: replayData }); }),
    field("Episode", "episode", world.episodes.map((_, i) => [i, i ? `${i + 1}, not chosen` : "1, chosen"]), player.episode, (value) => { player.episode = Number(value); player.time = 0; showPanels(); }),
    field("Policies", "view", views(world).map((view) => [view.key, view.label]), player.view, (value) => { player.view = value; showPanels(); }),
    field("Speed", "pace", SPEEDS.map((speed) => [speed, `${speed} ×`]), player.speed, (value) => { player.speed = Number(value); }),
    el("label", { class: "field" }, el("input", { id: "loop", type: "checkbox", checked: player.loop, onchange: (event) => { player.loop = event.target.checked; } }), "Loop"));
}

function legend(world) {
  const names = agentLetters(world);
  const item = (mark, text) => el("span", {}, mark, text);
  const dot = (text, tinted) => el("i", { style: { "--tint": tinted } }, text);
  const items = world.agents.length <= 10 ? world.agents.map((agent, i) => item(dot(names[i], tint(agent.kind, agent.index)), agent.name)) : [];
  if (world.near !== null) {
    items.push(item(el("i", { class: "star", style: { "--tint": "var(--goal)" } }, "★"), "the goal"), item(dot("", "var(--landmark)"), "a landmark that is not"),
      item(el("i", { class: "ring", style: { "--tint": "var(--landmark)" } }), `within ${world.near}, filled while a good agent is there`));
  } else {
    const kinds = { food: "third", forest: "goal", obstacle: "obstacle", treasure: "third", landmark: "landmark" };
    for (const kind of new Set(world.landmarks.map((mark) => mark.kind))) items.push(item(dot("", kind === "forest" ? "color-mix(in srgb, var(--goal) 22%, var(--world))" : `var(--${kinds[kind] || "landmark"})`), kind));
    if (world.episodes[0].goals.length) items.push(item(el("i", { class: "ring", style: { "--tint": "var(--goal)" } }), "a goal"));
  }
  return el("div", { class: "legend" }, items);
}

// Builds a panel for each player of the view.
function showPanels() {
  const world = currentWorld();
  const view = views(world).find((own) => own.key === player.view);
  const stages = byId("stages");
  const key = JSON.stringify([player.world, view.players, world.players.map((own) => own.label)]);
  if (stages.dataset.key !== key) {
    stages.dataset.key = key;
    stages.classList.toggle("single", view.players.length === 1);
    stages.style.setProperty("--columns", Math.min(4, view.players.length));
    panels = view.players.map((index) => panelOf(world, index));
    stages.replaceChildren(...panels.map((panel) => panel.figure));
  }
  byId("scrub").max = lastFrame();
  seek(Math.min(player.time, lastFrame()));
  setPlaying(player.playing);
}

function panelOf(world, index) {
  const own = world.players[index];
  const several = new Set(world.players.map((each) => each.run)).size > 1;
  const canvas = el("canvas", { role: "img", onclick: () => setPlaying(!player.playing) });
  const verdicts = el("div", { class: "verdicts" });
  const body = el("tbody");
  const hasGoal = world.episodes[0].goals.length > 0;
  const heads = ["", hasGoal && "to goal", "reward", "return"].filter((name) => name !== false);
  const table = el("table", { class: "numbers" },
    el("thead", {}, el("tr", {}, heads.map((name) => el("th", { scope: "col", class: name === "reward" ? "optional" : null }, name)))), body);
  const figure = el("figure", { class: "stage", data: { newest: index === world.players.length - 1 || world.players[index + 1].run !== own.run } },
    el("figcaption", {}, el("b", {}, several ? `${own.run}, ${own.label.toLowerCase()}` : own.label), el("span", {}, `${count(own.env_steps)} env steps`)),
    canvas, verdicts, table);
  return { index, figure, canvas, verdicts, body, label: own.label };
}

// Draws all panels at the present time.
function draw() {
  if (!replayData || !panels.length) return;
  const world = currentWorld();
  const episode = world.episodes[player.episode];
  const reach = reachOf(world, episode);
  const frame = Math.floor(player.time + 1e-6);
  for (const panel of panels) {
    const played = episode.played[panel.index];
    drawWorld(panel.canvas, world, episode, played, reducedMotion.matches ? frame : player.time, reach);
    panel.figure.dataset.frame = frame;
    if (panel.shown !== `${player.episode} ${frame}`) showNumbers(panel, world, episode, played, frame);
  }
  byId("scrub").value = player.time;
  byId("scrub").setAttribute("aria-valuetext", `step ${frame} of ${lastFrame()}`);
  byId("step").textContent = `step ${frame} / ${lastFrame()}`;
  const newest = panels[panels.length - 1];
  const sentence = sentenceAt(world, episode, episode.played[newest.index], frame);
  const which = player.episode === 0 ? `Episode 1 was ${world.chosen}. ` : "This episode was not chosen: it is one of the first. ";
  const all = `${which}All policies start from the same state.${sentence ? ` ${newest.label}, step ${frame}: ${sentence}.` : ""}`;
  if (byId("said").textContent !== all) byId("said").textContent = all;
}

function showNumbers(panel, world, episode, played, frame) {
  panel.shown = `${player.episode} ${frame}`;
  const verdicts = verdictsAt(world, episode, played, frame);
  panel.verdicts.replaceChildren(...verdicts.map((verdict) => el("span", { class: "verdict", style: { "--tint": `var(--${verdict.kind})` }, data: { on: verdict.on } }, verdict.text)));
  panel.canvas.setAttribute("aria-label", `${panel.label}, step ${frame}: ${sentenceAt(world, episode, played, frame) || "positions of agents and landmarks"}`);
  const agents = world.agents.length <= 8 ? world.agents : world.agents.slice(0, 8);
  panel.body.replaceChildren(...agents.map((agent, i) => {
    const reward = rewardAt(world, played, frame, i);
    const loud = loudest(saidAt(world, played, frame, i));
    const goal = goalOf(episode, i);
    const cells = [el("td", {}, swatch(agent.kind, agent.index), agent.name, loud && ` says ${loud}`)];
    if (episode.goals.length) cells.push(el("td", {}, goal === null ? "" : distance(positionAt(world, played, frame, i), landmarkAt(world, played, frame, goal)).toFixed(2)));
    cells.push(el("td", { class: "optional" }, reward === null ? "" : signed(reward, 2)), el("td", {}, signed(returnAt(world, played, frame, i), 1)));
    return el("tr", {}, cells);
  }));
}

// Where an agent should be: of two goals, each is where the other agent wants it.
function goalOf(episode, agent) {
  if (!episode.goals.length) return null;
  return episode.goals.length === 1 ? episode.goals[0] : episode.goals[(agent + 1) % episode.goals.length];
}

function seek(time, byHand = false) {
  player.time = Math.max(0, Math.min(lastFrame(), time));
  player.held = 0;
  if (byHand) setPlaying(false);
  draw();
}

function step(by) {
  setPlaying(false);
  seek(Math.round(player.time + (by > 0 ? -0.001 : 0.001)) + by === player.time ? player.time + by : Math.floor(player.time + 1e-6) + by);
}

function setPlaying(playing) {
  if (playing && !player.loop && player.time >= lastFrame()) player.time = 0;
  player.playing = playing;
  const button = byId("play");
  if (!button) return;
  const label = playing ? "Pause" : "Play";
  if (button.getAttribute("aria-label") === label) return;
  button.setAttribute("aria-label", label);
  button.title = label;
  button.replaceChildren(playing ? icon("M6 4h4v16H6ZM14 4h4v16h-4Z") : icon("M7 4v16l13-8Z"));
}

// Keys of the player; inside a select or a slider the browser's own keys stay.
function playerKey(event) {
  const inField = event.target.matches("select, input");
  const actions = { " ": () => setPlaying(!player.playing), ArrowLeft: () => step(-1), ArrowRight: () => step(1), Home: () => seek(0, true), End: () => seek(lastFrame(), true) };
  const action = actions[event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
  if (inField && !(event.target.id === "scrub")) return;
  if (event.key === " " && event.target.matches("button")) return; // the button's own key
  event.preventDefault();
  action();
}

function tick(now) {
  const seconds = Math.min(0.1, (now - (tick.before || now)) / 1000);
  tick.before = now;
  if (player.playing && player.seen && panels.length) {
    const end = lastFrame();
    if (player.time < end) {
      player.time = Math.min(end, player.time + seconds * STEPS_PER_S * player.speed);
      draw();
    } else if ((player.held += seconds) > HOLD_S) {
      if (player.loop) seek(0);
      else setPlaying(false);
    }
  }
  requestAnimationFrame(tick);
}

function startReplay() {
  player.playing = !reducedMotion.matches && panels.length > 0;
  if (panels.length) setPlaying(player.playing);
  // Plays only while it can be seen.
  new IntersectionObserver((entries) => { player.seen = entries[0].isIntersecting; }, { threshold: 0.15 }).observe(byId("replay"));
  new ResizeObserver(draw).observe(byId("replay"));
  themeListeners.push(draw);
  requestAnimationFrame(tick);
}
