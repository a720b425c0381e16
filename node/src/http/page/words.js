// Figures and elements. Whatever comes from the cluster becomes text, never markup.

const plain = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const nothing = "\u2013";

export function count(number) {
  if (number === null || number === undefined) return nothing;
  return number < 100_000 ? plain.format(number) : short.format(number);
}

export function bytes(number) {
  if (number === null || number === undefined) return nothing;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (number >= 1023.95 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? number : number.toFixed(1)} ${units[unit]}`;
}

// From microseconds.
export function time(micros) {
  if (!micros) return nothing;
  if (micros < 1_000) return `${micros}\u00a0\u00b5s`;
  if (micros < 10_000) return `${(micros / 1_000).toFixed(2)}\u00a0ms`;
  if (micros < 1_000_000) return `${Math.round(micros / 1_000)}\u00a0ms`;
  return `${(micros / 1_000_000).toFixed(1)}\u00a0s`;
}

export function age(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return nothing;
  const seconds = Math.floor(milliseconds / 1_000);
  const [days, hours, minutes] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3_600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  if (minutes) return `${minutes} min ${seconds % 60} s`;
  return `${seconds} s`;
}

export function percent(part, whole) {
  return part === null || part === undefined ? nothing : `${((100 * part) / whole).toFixed(whole > 100 ? 1 : 0)} %`;
}

// A key's bytes: text where they are text, else their hexadecimal digits.
export function key(row) {
  const part = (name) => {
    if (row[name] !== undefined) return row[name];
    if (row[`${name}_base64`] === undefined) return null;
    const raw = atob(row[`${name}_base64`]);
    return "0x" + Array.from(raw, (letter) => letter.charCodeAt(0).toString(16).padStart(2, "0")).join("");
  };
  const sort = part("sort");
  const whole = sort === null ? part("key") : `${part("key")} / ${sort}`;
  // What turns text round, or is not seen, is shown as what it is.
  const seen = whole.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (letter) => `\\u{${letter.codePointAt(0).toString(16)}}`);
  return row.is_cut ? `${seen}\u2026` : seen;
}

// An element with a class and children: elements, or texts.
export function element(tag, name, ...children) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

export function drawn(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Hues that are told apart, also next to each other; after the first ones by the golden angle.
const hues = [255, 152, 45, 325, 205, 95, 288, 15];
const hueOf = new Map();

export function learn(nodes) {
  nodes.forEach((node, at) => hueOf.set(node, at < hues.length ? hues[at] : Math.round((at * 137.508 + 30) % 360)));
}

// Gives an element its node's hue.
export function coloured(made, node) {
  made.classList.add("of-node");
  made.style.setProperty("--hue", hueOf.get(node) ?? 0);
  return made;
}

export function chip(node) {
  const made = coloured(element("span", "chip"), node);
  made.title = node;
  return made;
}

// A table: columns are [heading, class, cell of a row].
export function table(columns, rows, empty) {
  if (rows.length === 0) return element("p", "quiet", empty);
  const head = element("tr", "", ...columns.map(([heading, name]) => element("th", name, heading)));
  const body = rows.map((row) =>
    element("tr", "", ...columns.map(([, name, cell]) => element("td", name, cell(row)))),
  );
  return element("table", "", element("thead", "", head), element("tbody", "", ...body));
}
