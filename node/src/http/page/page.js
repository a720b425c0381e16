// Asks the node once a second what the cluster does, and shows it.

import * as ring from "./ring.js";
import { age, bytes, chip, coloured, count, drawn, element, key, learn, nothing, percent, table, time } from "./words.js";

const every = 1_000;
const patience = 6_000;
const historyMax = 120;
const $ = (id) => document.getElementById(id);

const history = [];
const rows = new Map();
let token = sessionStorage.getItem("quoit-token");
let chosen = decodeURIComponent(location.hash.slice(1)) || null;
let last = null;
let lastAt = 0;
let timer = null;

async function ask() {
  const known = ring.epoch();
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const address = known === null ? "ui/cluster.json" : `ui/cluster.json?ring=${known}`;
  const answer = await fetch(address, { headers, cache: "no-store", signal: AbortSignal.timeout(patience) });
  if (answer.status === 401) {
    const problem = await answer.json().catch(() => ({}));
    askForToken(problem.detail ?? "");
    return null;
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail ?? `the node answers ${answer.status}`);
  }
  return answer.json();
}

async function turn() {
  timer = null;
  try {
    const picture = await ask();
    if (picture === null) return;
    $("token-form").hidden = true;
    $("main").hidden = false;
    last = picture;
    lastAt = Date.now();
    show(picture);
    live("live", "live");
  } catch (error) {
    const since = lastAt ? `, as it was ${age(Date.now() - lastAt)} ago` : "";
    const why = error instanceof TypeError || error.name === "TimeoutError" ? "the node does not answer" : error.message;
    live("lost", why + since);
  }
  next();
}

function next() {
  if (timer === null && !document.hidden) timer = setTimeout(turn, every);
}

function live(state, words) {
  $("live").dataset.state = state;
  $("live").textContent = words;
}

function askForToken(detail) {
  $("main").hidden = true;
  $("token-form").hidden = false;
  $("token-detail").textContent = token ? "That token is not known here." : detail;
  live("waiting", "waiting for a token");
}

function show(picture) {
  learn(picture.nodes.map((node) => node.node));
  const up = picture.nodes.filter((node) => node.up).length;
  $("cluster").textContent = `cluster ${picture.cluster.slice(0, 8)}, record ${picture.epoch}`;
  $("asked").textContent = `Shown by ${picture.asked}, which asks all members once a second.`;
  document.title = picture.problems.length ? `(${picture.problems.length}) Quoit` : "Quoit";
  showProblems(picture.problems);
  showFigures(picture, up);
  showNodes(picture.nodes);
  ring.draw($("ring"), picture.ring, picture, chosen);
  showRingWords(picture);
  showDetails(picture);
  showKeys(picture);
  showRepair(picture);
}

function showProblems(problems) {
  const shown = problems.map((problem) => {
    const words = [element("p", "", problem.what)];
    if (problem.remedy) words.push(element("p", "", ...withCommands(problem.remedy)));
    return element("div", "problem", ...words);
  });
  // Those who listen are told only of what is new.
  if (JSON.stringify(problems) !== $("problems").dataset.shown) {
    $("problems").dataset.shown = JSON.stringify(problems);
    $("problems").replaceChildren(...shown);
  }
}

// What stands between backquotes is a command.
function withCommands(text) {
  return text.split("`").map((part, at) => (at % 2 ? element("code", "", part) : part));
}

function showFigures(picture, up) {
  const pair = (name, heading, figure, unit) => {
    const value = element("dd", "", figure);
    if (unit) value.append(" ", element("small", "", unit));
    return element("div", name, element("dt", "", heading), value);
  };
  const kinds = picture.operations.filter((kind) => kind.name === "get" || kind.name === "put" || kind.per_second > 0);
  const failed = picture.operations.reduce((sum, kind) => sum + kind.failed_per_second, 0);
  const figures = kinds.map((kind) => {
    const times = kind.p99_us ? `p50\u00a0${time(kind.p50_us)}, p99\u00a0${time(kind.p99_us)}` : "";
    const made = pair("", `${kind.name}s a second`, count(kind.per_second));
    made.append(element("small", "quiet", times || "\u00a0"));
    return made;
  });
  const nodes = pair(up < picture.nodes.length ? "failed" : "", "nodes up", `${up} of ${picture.nodes.length}`);
  nodes.append(element("small", "quiet", `${count(sum(picture.nodes, "live_keys"))} replicas of keys`));
  const lost = pair(failed ? "failed" : "", "not done a second", count(failed));
  lost.append(element("small", "quiet", `${count(sum(picture.nodes, "in_flight"))} in flight`));
  $("figures").replaceChildren(...figures, lost, nodes);
  history.push(picture.operations.reduce((all, kind) => all + kind.per_second, 0));
  if (history.length > historyMax) history.shift();
  drawHistory();
}

function sum(nodes, of) {
  return nodes.reduce((all, node) => all + (node[of] ?? 0), 0);
}

function drawHistory() {
  const [width, height] = [600, 64];
  const most = Math.max(1, ...history);
  const step = width / (historyMax - 1);
  const begin = width - (history.length - 1) * step;
  const points = history.map((rate, at) => `${(begin + at * step).toFixed(1)} ${(height - 2 - ((height - 6) * rate) / most).toFixed(1)}`);
  const line = `M${points.join("L")}`;
  $("history").replaceChildren(
    drawn("path", { class: "base", d: `M0 ${height - 1}H${width}` }),
    drawn("path", { class: "area", d: `${line}L${width} ${height}L${begin.toFixed(1)} ${height}Z` }),
    drawn("path", { class: "stroke", d: line }),
  );
}

function showNodes(nodes) {
  const busiest = Math.max(1, ...nodes.map(rateOf));
  for (const node of nodes) {
    let row = rows.get(node.node);
    if (row === undefined) {
      row = makeRow(node.node);
      rows.set(node.node, row);
      $("nodes").append(row.item);
    }
    row.button.classList.toggle("away", !node.up);
    row.button.setAttribute("aria-expanded", chosen === node.node);
    row.zone.textContent = `${node.datacenter}/${node.rack}`;
    row.state.textContent = node.state;
    row.state.className = `state ${node.state === "serving" ? "good" : node.up ? "warn" : "bad"}`;
    row.rate.replaceChildren(node.up ? count(rateOf(node)) : nothing, element("small", "", "requests/s"));
    row.slow.replaceChildren(time(slowestOf(node)), element("small", "", "p99"));
    row.disk.replaceChildren(bytes(node.disk_bytes), element("small", "", "on disk"));
    row.share.replaceChildren(`${node.share_percent.toFixed(1)} %`, element("small", "", "of the ring"));
    row.bar.style.width = `${(100 * rateOf(node)) / busiest}%`;
  }
  const here = new Set(nodes.map((node) => node.node));
  for (const [name, row] of rows) {
    if (!here.has(name)) {
      row.item.remove();
      rows.delete(name);
    }
  }
}

function makeRow(name) {
  const [zone, state] = [element("span", "quiet"), element("span", "state")];
  const [rate, share, bar] = [element("span", "figure rate"), element("span", "figure share"), element("i")];
  const [slow, disk] = [element("span", "figure optional"), element("span", "figure optional")];
  const label = element("span", "name", name, zone);
  const button = element("button", "node", element("span", "dot"), label, state, rate, slow, disk, share, element("span", "bar", bar));
  button.type = "button";
  button.dataset.node = name;
  button.setAttribute("aria-controls", "details");
  button.addEventListener("click", () => choose(chosen === name ? null : name));
  return { item: element("li", "", coloured(button, name)), button, zone, state, rate, slow, disk, share, bar };
}

function rateOf(node) {
  return (node.operations ?? []).reduce((all, kind) => all + kind.per_second, 0);
}

// The slowest of what is asked often enough to be told.
function slowestOf(node) {
  const kinds = (node.operations ?? []).filter((kind) => kind.name === "get" || kind.name === "put");
  return Math.max(0, ...kinds.map((kind) => kind.p99_us));
}

function choose(name) {
  const before = chosen;
  chosen = name;
  window.history.replaceState(null, "", name === null ? location.pathname : `#${encodeURIComponent(name)}`);
  if (last !== null) show(last);
  if (name !== null) $("details").scrollIntoView({ block: "nearest", behavior: "smooth" });
  else if (before !== null) rows.get(before)?.button.focus({ preventScroll: true });
}

function showRingWords(picture) {
  const shares = picture.nodes.map((node) => node.share_percent / node.capacity);
  const even = Math.max(...shares) / (shares.reduce((all, share) => all + share, 0) / shares.length);
  const words =
    chosen === null
      ? `${count(picture.vnode_count)} virtual nodes; the fullest member has ${even.toFixed(2)} times the mean`
      : `The arcs of ${chosen}: outside where it is the first owner`;
  $("ring-words").textContent = words;
}

function showDetails(picture) {
  const node = picture.nodes.find((node) => node.node === chosen);
  $("details").hidden = node === undefined;
  if (node === undefined) return;
  const close = element("button", "close", "Close");
  close.type = "button";
  close.addEventListener("click", () => choose(null));
  const keepsFocus = document.activeElement?.classList.contains("close");
  const head = element("header", "", chip(node.node), element("h2", "", node.node), element("span", "quiet", node.silence ?? node.state), close);
  const pairs = element("dl", "pairs");
  for (const [name, value] of pairsOf(node)) pairs.append(element("div", "", element("dt", "", name), element("dd", "", value)));
  const parts = [head, pairs];
  if (node.operations) {
    const tables = [operationsOf(node), peersOf(node)].map((made) => element("div", "scroll", made));
    parts.push(element("div", "beside", ...tables));
  }
  $("details").replaceChildren(...parts);
  if (keepsFocus) close.focus({ preventScroll: true });
}

function pairsOf(node) {
  const owned = [
    ["Address", node.address],
    ["Zone", `${node.datacenter}/${node.rack}`],
    ["First owner of", `${count(node.vnodes_first)} vnodes`],
    ["Other owner of", `${count(node.vnodes_other)} vnodes`],
  ];
  if (!node.up) return owned;
  const pairs = [
    ...owned,
    ["Up for", age(node.uptime_ms)],
    ["Version", node.version],
    ["Record", node.epoch],
    ["Live keys", count(node.live_keys)],
    ["Deleted, kept yet", count(node.tombstones)],
    ["Keys and values", bytes(node.data_bytes)],
    ["On disk", bytes(node.disk_bytes)],
    ["Not flushed yet", bytes(node.memory_bytes)],
    ["Memory", node.resident_bytes ? bytes(node.resident_bytes) : nothing],
    ["Clients", count(node.clients)],
    ["In flight", count(node.in_flight)],
    ["Waits to be sent", bytes(node.queued_bytes)],
    ["Event loop busy", percent(node.busy_permille, 1_000)],
    ["Log sync p50", time(node.sync_p50_us)],
    ["Log sync p99", time(node.sync_p99_us)],
    ["Verified", percent(node.scrub_permille, 1_000)],
  ];
  if (node.recovering_vnodes) pairs.push(["Recovering", `${count(node.recovering_vnodes)} vnodes`]);
  return pairs;
}

function operationsOf(node) {
  return table(
    [
      ["Coordinates", "", (kind) => `${kind.name}s`],
      ["Done/s", "number", (kind) => count(kind.per_second)],
      ["Not done/s", "number optional", (kind) => count(kind.failed_per_second)],
      ["p50", "number", (kind) => time(kind.p50_us)],
      ["p99", "number", (kind) => time(kind.p99_us)],
      ["Longest", "number optional", (kind) => time(kind.max_us)],
    ],
    node.operations,
    "Nothing was measured yet.",
  );
}

function peersOf(node) {
  const peers = Object.keys(node.clock_offsets_ms).filter((peer) => peer !== node.node);
  return table(
    [
      ["Peer", "", (peer) => element("span", "", chip(peer), peer)],
      ["There and back", "number", (peer) => time(node.round_trips_us[peer])],
      ["Its clock", "number", (peer) => `${node.clock_offsets_ms[peer] > 0 ? "+" : ""}${node.clock_offsets_ms[peer]} ms`],
    ],
    peers,
    "It has no peers.",
  );
}

function showKeys(picture) {
  const name = (row) => {
    const made = element("span", "key", key(row));
    made.title = key(row);
    return made;
  };
  $("hot-keys").replaceChildren(
    table(
      [
        ["Key", "wide-cell", name],
        ["Table", "", (row) => row.table],
        ["At least/s", "number", (row) => count(row.per_second)],
        ["Writes/s", "number optional", (row) => count(row.writes_per_second)],
        ["By", "chips", (row) => element("span", "", ...row.nodes.map(chip))],
      ],
      picture.hot_keys.slice(0, 10),
      "No key is asked for often.",
    ),
  );
  $("large-sets").replaceChildren(
    table(
      [
        ["Key", "wide-cell", name],
        ["Table", "", (row) => row.table],
        ["Values", "number", (row) => count(row.siblings)],
        ["Bytes", "number", (row) => bytes(row.bytes)],
        ["Met", "number optional", (row) => `${age(row.age_ms)} ago`],
      ],
      picture.large_sets.slice(0, 10),
      "No key that was met of late has several values.",
    ),
  );
  showSlowKeys(picture, name);
}

function showSlowKeys(picture, name) {
  $("slow-keys").replaceChildren(
    table(
      [
        ["Key", "wide-cell", name],
        ["Table", "", (row) => row.table],
        ["", "optional", (row) => row.operation],
        ["Took", "number", (row) => time(row.took_us)],
        ["Ended", "number optional", (row) => `${age(row.age_ms)} ago`],
        ["By", "chips", (row) => chip(row.node)],
      ],
      picture.slow_keys.slice(0, 10),
      "No request took 10 ms.",
    ),
  );
}

function showRepair(picture) {
  const named = (name) => element("span", "", chip(name), name);
  const hints = picture.hints.map((row) => ({
    what: row.as === "data" ? "writes taken in its place" : "hints",
    by: row.kept_by,
    with: row.for,
    keys: row.keys,
    bytes: row.bytes,
    progress: row.keys_per_second ? `${count(row.keys_per_second)}/s` : `waiting for ${age(row.oldest_ms)}`,
  }));
  const exchanges = picture.exchanges.map((row) => ({
    what: "comparison",
    by: row.node,
    with: row.peer,
    keys: row.keys,
    bytes: row.bytes,
    progress: row.vnodes === null ? row.failure : `${count(row.vnodes - row.left)} of ${count(row.vnodes)} vnodes`,
  }));
  $("repair").replaceChildren(
    table(
      [
        ["What", "", (row) => row.what],
        ["By", "", (row) => named(row.by)],
        ["With", "", (row) => named(row.with)],
        ["Keys", "number", (row) => count(row.keys)],
        ["Bytes", "number optional", (row) => bytes(row.bytes)],
        ["Progress", "number words", (row) => row.progress],
      ],
      [...hints, ...exchanges],
      "No hints wait, and no comparison is under way.",
    ),
  );
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  sessionStorage.setItem("quoit-token", token);
  turn();
});
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : turn()));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chosen !== null) choose(null);
});
turn();
