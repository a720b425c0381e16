// The ring: a circle for each rank of owners, the first outside, an arc a virtual node.

import { coloured, count, drawn, time } from "./words.js";

const centre = 220;
const outermost = 196;
const width = 17;
const gap = 4;
const ranksMax = 3;
// More arcs than these cannot be told apart on any screen.
const arcsMax = 4096;

let known = null;

function at(turn, radius) {
  const angle = 2 * Math.PI * (turn - 0.25);
  return [centre + radius * Math.cos(angle), centre + radius * Math.sin(angle)].map((number) => number.toFixed(2));
}

function arc(from, to, radius) {
  // A whole circle has no end that differs from its beginning.
  if (to - from >= 1) return arc(0, 0.5, radius) + arc(0.5, 0.999999, radius);
  const [x, y] = at(from, radius);
  const [endX, endY] = at(to, radius);
  return `M${x} ${y}A${radius} ${radius} 0 ${to - from > 0.5 ? 1 : 0} 1 ${endX} ${endY}`;
}

// For each member the arcs that it owns in that rank, neighbours joined.
function pathsOf(ring, rank, radius) {
  const step = Math.max(1, Math.ceil(ring.owners.length / arcsMax));
  const owners = ring.owners.filter((_, vnode) => vnode % step === 0).map((list) => list[rank]);
  const paths = ring.members.map(() => "");
  let from = 0;
  for (let vnode = 1; vnode <= owners.length; vnode += 1) {
    if (vnode < owners.length && owners[vnode] === owners[from]) continue;
    if (owners[from] !== undefined) paths[owners[from]] += arc(from / owners.length, vnode / owners.length, radius);
    from = vnode;
  }
  return paths;
}

function build(svg, ring) {
  const ranks = Math.min(ranksMax, Math.max(...ring.owners.map((list) => list.length)));
  const paths = [];
  svg.replaceChildren();
  for (let rank = 0; rank < ranks; rank += 1) {
    const radius = outermost - rank * (width + gap) - width / 2;
    svg.append(drawn("circle", { class: "bed", cx: centre, cy: centre, r: radius, "stroke-width": width }));
    pathsOf(ring, rank, radius).forEach((path, member) => {
      const node = ring.members[member];
      const made = coloured(drawn("path", { d: path, "stroke-width": width, "data-node": node }), node);
      made.append(drawn("title", {}, `${node}, ${rank === 0 ? "first owner" : `owner ${rank + 1}`}`));
      svg.append(made);
      paths.push(made);
    });
  }
  const texts = [
    drawn("text", { class: "big", x: centre, y: centre + 4 }),
    drawn("text", { class: "small", x: centre, y: centre + 25 }),
    drawn("text", { class: "small", x: centre, y: centre + 43 }),
  ];
  const hot = drawn("g", {});
  svg.append(...texts, hot);
  return { epoch: ring.epoch, vnodes: ring.owners.length, paths, texts, hot };
}

// Draws the ring anew where it has changed, and what changes every second.
export function draw(svg, ring, picture, chosen) {
  if (ring && (known === null || known.epoch !== ring.epoch)) known = build(svg, ring);
  if (known === null) return;
  const away = new Set(picture.nodes.filter((node) => !node.up).map((node) => node.node));
  for (const path of known.paths) {
    const node = path.dataset.node;
    path.classList.toggle("faded", chosen !== null && chosen !== node);
    path.classList.toggle("away", away.has(node));
  }
  const total = picture.operations.reduce((sum, kind) => sum + kind.per_second, 0);
  const kinds = picture.operations.filter((kind) => kind.name === "get" || kind.name === "put");
  const slowest = Math.max(0, ...kinds.map((kind) => kind.p99_us));
  known.texts[0].textContent = count(total);
  known.texts[1].textContent = "requests a second";
  known.texts[2].textContent = slowest > 0 ? `p99 ${time(slowest)}` : "";
  const dots = picture.hot_keys.slice(0, 8).map((row, place) => {
    const [x, y] = at((row.vnode + 0.5) / known.vnodes, outermost + 9);
    const dot = drawn("circle", { class: "hot", cx: x, cy: y, r: place === 0 ? 5 : 3.5 });
    dot.append(drawn("title", {}, `hot key number ${place + 1}, ${count(row.per_second)} a second`));
    return dot;
  });
  known.hot.replaceChildren(...dots);
}

export function epoch() {
  return known === null ? null : known.epoch;
}
