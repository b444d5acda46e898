// Reads the flat arrays of a recorded episode. Positions are thousandths of the environment's unit of length.
const UNIT = 1000;

function framesOf(world, played) {
  return played.positions.length / (2 * world.agents.length);
}

// Position of agent i at a time between two frames.
function positionAt(world, played, time, agent) {
  const width = 2 * world.agents.length;
  const last = framesOf(world, played) - 1;
  const frame = Math.min(Math.floor(time), last);
  const next = Math.min(frame + 1, last);
  const part = time - frame;
  const at = (f, k) => played.positions[f * width + 2 * agent + k] / UNIT;
  return [0, 1].map((k) => at(frame, k) + (at(next, k) - at(frame, k)) * part);
}

// Landmarks stay where they are in most scenarios; then there is one frame of them.
function landmarkAt(world, played, time, index) {
  const width = 2 * world.landmarks.length;
  const frames = width ? played.landmarks.length / width : 1;
  const frame = Math.min(Math.floor(time), frames - 1);
  return [0, 1].map((k) => played.landmarks[frame * width + 2 * index + k] / UNIT);
}

const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);

// Reward of the step that led to a frame; the first frame has none.
function rewardAt(world, played, frame, agent) {
  return frame < 1 ? null : played.rewards[(frame - 1) * world.agents.length + agent] / UNIT;
}

function returnAt(world, played, frame, agent) {
  let sum = 0;
  for (let step = 1; step <= frame; step += 1) sum += rewardAt(world, played, step, agent);
  return sum;
}

// What an agent says: the numbers of its utterance, 0 to 1; null for one that is silent.
function saidAt(world, played, frame, agent) {
  const place = world.speakers.indexOf(agent);
  if (place < 0 || !played.said) return null;
  const start = (frame * world.speakers.length + place) * world.letters;
  return played.said.slice(start, start + world.letters).map((value) => value / 100);
}

const letter = (index) => String.fromCharCode(65 + index);

// The letter that is said loudest; empty if hardly anything is said.
function loudest(said) {
  if (!said) return "";
  const most = Math.max(...said);
  return most < 0.05 ? "" : letter(said.indexOf(most));
}

// Half the width of the square that is drawn: landmarks and what the newest policies do fit in; an agent that
// leaves it is drawn as an arrow at its edge.
function reachOf(world, episode) {
  let reach = 1;
  const newest = episode.played[episode.played.length - 1];
  for (const [values, far] of [[newest.landmarks, 3], [newest.positions, 2.2]]) {
    for (const value of values) {
      const size = Math.abs(value) / UNIT;
      if (size < far) reach = Math.max(reach, size);
    }
  }
  return reach + 0.22;
}

// Of physical deception: who is where it matters, as in the measures of success.
function verdictsAt(world, episode, played, frame) {
  if (world.near === null || !episode.goals.length) return [];
  const goal = landmarkAt(world, played, frame, episode.goals[0]);
  const agents = world.agents.map((agent, i) => ({ ...agent, place: positionAt(world, played, frame, i) }));
  const near = (agent, mark) => distance(agent.place, mark) < world.near;
  const good = agents.filter((agent) => agent.kind !== "adversary");
  const bad = agents.filter((agent) => agent.kind === "adversary");
  const marks = world.landmarks.map((_, i) => landmarkAt(world, played, frame, i));
  return [
    { text: "goal reached", kind: "agent", on: good.some((agent) => near(agent, goal)) },
    { text: "all covered", kind: "goal", on: marks.every((mark) => good.some((agent) => near(agent, mark))) },
    { text: "adversary at goal", kind: "adversary", on: bad.some((agent) => near(agent, goal)) },
  ];
}

// What happens at a frame, in words.
function sentenceAt(world, episode, played, frame) {
  const verdicts = verdictsAt(world, episode, played, frame);
  if (!verdicts.length) return "";
  const [reached, covered, found] = verdicts.map((verdict) => verdict.on);
  const good = covered ? "the good agents cover every landmark" : reached ? "a good agent is at the goal" : "no good agent is at the goal";
  const bad = found ? "the adversary is at the goal" : "the adversary is elsewhere";
  return `${good}, ${bad}`;
}
