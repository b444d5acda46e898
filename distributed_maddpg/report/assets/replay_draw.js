// Draws one frame of an episode on a canvas, as sharp as the display can.
function drawWorld(canvas, world, episode, played, time, reach) {
  const size = canvas.clientWidth;
  if (!size) return;
  const ratio = window.devicePixelRatio || 1;
  const pixels = Math.round(size * ratio);
  if (canvas.width !== pixels) canvas.width = canvas.height = pixels;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, size, size);
  const scale = size / (2 * reach);
  const view = { context, size, scale, reach, place: ([x, y]) => [size / 2 + x * scale, size / 2 - y * scale] };
  drawGrid(view);
  const marks = world.landmarks.map((mark, i) => ({ ...mark, at: landmarkAt(world, played, time, i), goal: episode.goals.indexOf(i) }));
  for (const mark of marks) drawLandmark(view, world, episode, played, time, mark);
  world.agents.forEach((agent, i) => drawTrail(view, world, played, time, agent, i));
  const names = agentLetters(world);
  // Big ones first, so that none is hidden.
  const order = world.agents.map((_, i) => i).sort((a, b) => world.agents[b].size - world.agents[a].size);
  for (const i of order) drawAgent(view, world, played, time, i, names[i]);
  for (const i of world.speakers) drawSpeech(view, world, played, time, i);
}

function drawGrid({ context, size, reach, place }) {
  context.strokeStyle = cssColour("grid");
  context.lineWidth = 1;
  context.beginPath();
  for (let line = -Math.floor(reach * 2) / 2; line <= reach; line += 0.5) {
    const [x, y] = place([line, line]);
    context.moveTo(Math.round(x) + 0.5, 0);
    context.lineTo(Math.round(x) + 0.5, size);
    context.moveTo(0, Math.round(y) + 0.5);
    context.lineTo(size, Math.round(y) + 0.5);
  }
  context.stroke();
}

function circle(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, Math.max(0, radius), 0, 2 * Math.PI);
}

function drawLandmark(view, world, episode, played, time, mark) {
  const { context, scale, size } = view;
  const [x, y] = view.place(mark.at);
  if (x < -size || x > 2 * size || y < -size || y > 2 * size) return; // out of the game
  const isGoal = mark.goal >= 0;
  const colour = cssColour(isGoal ? "goal" : { obstacle: "obstacle", food: "third", forest: "goal", treasure: "third" }[mark.kind] || "landmark");
  const radius = Math.max(3, mark.size * scale);
  if (world.near !== null) drawReach(view, world, played, time, mark, colour, x, y);
  context.fillStyle = mark.kind === "forest" ? translucent(colour, 0.18) : colour;
  circle(context, x, y, radius);
  context.fill();
  if (isGoal && world.near !== null) return drawStar(context, x, y, radius * 0.62);
  if (isGoal) {
    // Of several goals, each has the colour of the agent that should go there.
    const who = world.agents.findIndex((_, i) => episode.goals.length > 1 && goalOf(episode, i) === episode.goals[mark.goal]);
    context.strokeStyle = who < 0 ? colour : roleColour(world.agents[who].kind, world.agents[who].index);
    context.lineWidth = 2.5;
    circle(context, x, y, radius + 4);
    context.stroke();
  }
}

// The distance that counts as being there, filled while a good agent is.
function drawReach({ context, scale }, world, played, time, mark, colour, x, y) {
  const covered = world.agents.some((agent, i) => agent.kind !== "adversary" && distance(positionAt(world, played, time, i), mark.at) < world.near);
  circle(context, x, y, world.near * scale);
  if (covered) {
    context.fillStyle = translucent(cssColour("agent"), isDark() ? 0.16 : 0.1);
    context.fill();
  }
  context.strokeStyle = translucent(colour, covered ? 0.9 : 0.55);
  context.lineWidth = 1.25;
  context.setLineDash([4, 4]);
  context.stroke();
  context.setLineDash([]);
}

function drawStar(context, x, y, radius) {
  context.fillStyle = cssColour("world");
  context.beginPath();
  for (let k = 0; k < 10; k += 1) {
    const length = k % 2 ? radius * 0.45 : radius;
    const angle = -Math.PI / 2 + (k * Math.PI) / 5;
    context.lineTo(x + length * Math.cos(angle), y + length * Math.sin(angle));
  }
  context.closePath();
  context.fill();
}

function drawTrail({ context, place }, world, played, time, agent, i) {
  if (!agent.moves) return;
  const colour = roleColour(agent.kind, agent.index);
  context.lineWidth = 2.25;
  context.lineCap = "butt"; // round ends of two segments would show where they overlap
  const frames = Math.ceil(time);
  for (let frame = 0; frame < frames; frame += 1) {
    const [x, y] = place(positionAt(world, played, frame, i));
    const [nextX, nextY] = place(positionAt(world, played, Math.min(frame + 1, time), i));
    context.strokeStyle = translucent(colour, 0.12 + 0.5 * ((frame + 1) / frames) ** 2);
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(nextX, nextY);
    context.stroke();
  }
}

// What is written on an agent: its number in its team, with the team's letter where teams could be confused.
function agentLetters(world) {
  return world.agents.map((agent) => (agent.kind === "adversary" ? "A" : agent.kind === "agent" ? "" : agent.name[0].toUpperCase()) + (world.agents.filter((own) => own.kind === agent.kind).length > 1 ? agent.index + 1 : ""));
}

function drawAgent(view, world, played, time, i, name) {
  const { context, scale, size, reach } = view;
  const agent = world.agents[i];
  const at = positionAt(world, played, time, i);
  const [x, y] = view.place(at);
  const colour = roleColour(agent.kind, agent.index);
  if (Math.max(Math.abs(at[0]), Math.abs(at[1])) > reach) return drawArrow(context, size, x, y, colour);
  const radius = Math.max(4, agent.size * scale);
  drawVelocity(view, world, played, time, i, colour, radius);
  circle(context, x, y, radius);
  context.fillStyle = translucent(colour, 0.92);
  context.fill();
  context.lineWidth = 1.75;
  context.strokeStyle = cssColour("world");
  context.stroke();
  if (radius > 7 && name) {
    context.fillStyle = cssColour("world");
    context.font = `700 ${Math.min(15, radius * 0.95)}px ui-sans-serif, system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(name, x, y + 0.5);
  }
}

// Where the agent will be in two steps if it goes on as now.
function drawVelocity({ context, place }, world, played, time, i, colour, radius) {
  const now = positionAt(world, played, time, i);
  const before = positionAt(world, played, Math.max(0, time - 1), i);
  const [x, y] = place(now);
  const [toX, toY] = place([now[0] + 2 * (now[0] - before[0]), now[1] + 2 * (now[1] - before[1])]);
  const length = Math.hypot(toX - x, toY - y);
  if (length < 2) return;
  const part = (radius + Math.min(length, 40)) / length;
  context.strokeStyle = colour;
  context.lineWidth = 2.5;
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x + (toX - x) * part, y + (toY - y) * part);
  context.stroke();
}

// An agent outside of what is drawn: an arrow at the edge that points to it.
function drawArrow(context, size, x, y, colour) {
  const margin = 11;
  const atX = Math.min(size - margin, Math.max(margin, x));
  const atY = Math.min(size - margin, Math.max(margin, y));
  context.save();
  context.translate(atX, atY);
  context.rotate(Math.atan2(y - atY, x - atX));
  context.fillStyle = colour;
  context.beginPath();
  context.moveTo(8, 0);
  context.lineTo(-5, -6);
  context.lineTo(-5, 6);
  context.closePath();
  context.fill();
  context.restore();
}

// A bubble with the letter that is said loudest and, of few letters, a bar for each.
function drawSpeech({ context, size, place, scale }, world, played, time, i) {
  const said = saidAt(world, played, Math.floor(time), i);
  const loud = loudest(said);
  if (!loud) return;
  const bars = said.length <= 6;
  const width = bars ? Math.max(26, 5 * said.length + 8) : 22;
  const height = bars ? 34 : 22;
  const [x, y] = place(positionAt(world, played, time, i));
  const radius = Math.max(4, world.agents[i].size * scale);
  // Several speakers near each other: one bubble to the left, the next to the right.
  const aside = world.speakers.length < 2 ? 0 : (world.speakers.indexOf(i) % 2 ? 1 : -1) * (width / 2 + 3);
  const left = Math.min(size - width - 3, Math.max(3, x - width / 2 + aside));
  const top = Math.max(3, Math.min(size - height - 3, y - radius - height - 7));
  context.fillStyle = cssColour("panel");
  context.strokeStyle = roleColour(world.agents[i].kind, world.agents[i].index);
  context.lineWidth = 1.5;
  context.beginPath();
  context.roundRect(left, top, width, height, 7);
  context.fill();
  context.stroke();
  context.fillStyle = cssColour("ink");
  context.font = "700 13px ui-sans-serif, system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(loud, left + width / 2, top + 11);
  if (!bars) return;
  const each = (width - 8) / said.length;
  said.forEach((value, k) => {
    context.fillStyle = letter(k) === loud ? cssColour("accent") : cssColour("faint");
    context.fillRect(left + 4 + k * each, top + 31 - 11 * value, Math.max(1, each - 1), 11 * value + 0.5);
  });
}
