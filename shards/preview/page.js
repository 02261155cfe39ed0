"use strict";
// Draws what is in view of the data in the page. Every text of the set goes through textContent, never into markup.

const data = JSON.parse(document.getElementById("data").textContent);
const IGNORED = data.classes.length; // the index of ignored pixels in masks and counts
const [KEY, NAME, SPLIT, SIZE, SHOWN, ATTRIBUTES, FINDINGS, PIXELS, IMAGE, MASK] = Array(10).keys();
const CAPTION = 42; // height below a thumbnail, pixels
const GAP = 12;
const MAX_LINES = 2000; // of a table
const OVERSCAN = 2; // rows drawn above and below what is in view

const $ = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en-US");
const percent = (share) => (share === 0 ? "0 %" : share < 0.0005 ? "< 0.1 %" : (100 * share).toFixed(1) + " %");

/** Return a new element with a class name and children (elements or texts). */
function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function swatch(index) {
  const made = element("i", "swatch");
  made.style.background = colorOf(index);
  return made;
}

const nameOf = (index) => (index === IGNORED ? "ignored" : data.classes[index].name);
const colorOf = (index) =>
  index === IGNORED ? data.ignoredColor : data.classes[index].tinted ? data.classes[index].color : data.darkColor;

/** What is known of each sample besides the data: the share of each class, and what the search looks through. */
const samples = data.samples.map((sample) => {
  const shares = new Map();
  let all = 0;
  for (let at = 0; at < sample[PIXELS].length; at += 2) all += sample[PIXELS][at + 1];
  for (let at = 0; at < sample[PIXELS].length; at += 2) shares.set(sample[PIXELS][at], sample[PIXELS][at + 1] / all);
  const words = [sample[KEY], sample[NAME], ...sample[ATTRIBUTES].filter((value) => value !== null)];
  return { data: sample, shares, text: words.join("\n").toLowerCase() };
});

const state = {
  query: "", split: "", finding: "", contains: -1, attributes: data.attributes.map(() => ""), order: "set",
  masks: true, opacity: 0.5, width: 190,
  drawn: data.classes.map((each) => each.tinted).concat([true]), // which classes the masks show
};
let shown = samples.map((_, position) => position); // positions of the samples that pass the filters
let viewed = -1; // position within `shown` of the sample in the large view

// Masks: the file of a PNG is put together around its compressed lines, with a palette of the classes' colours.

const crcTable = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

function chunk(type, body) {
  const made = new Uint8Array(12 + body.length);
  const view = new DataView(made.buffer);
  view.setUint32(0, body.length);
  for (let at = 0; at < 4; at++) made[4 + at] = type.charCodeAt(at);
  made.set(body, 8);
  let crc = ~0;
  for (let at = 4; at < made.length - 4; at++) crc = crcTable[(crc ^ made[at]) & 255] ^ (crc >>> 8);
  view.setUint32(made.length - 4, ~crc >>> 0);
  return made;
}

const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const textOf = (bytes) => bytes.reduce((text, byte) => text + String.fromCharCode(byte), "");
let palette = "";

function updatePalette() {
  const colors = new Uint8Array(3 * (IGNORED + 1));
  const alphas = new Uint8Array(IGNORED + 1);
  for (let index = 0; index <= IGNORED; index++) {
    const packed = parseInt(colorOf(index).slice(1), 16);
    colors.set([packed >> 16, (packed >> 8) & 255, packed & 255], 3 * index);
    alphas[index] = state.drawn[index] ? Math.round(255 * state.opacity) : 0;
  }
  palette = textOf(chunk("PLTE", colors)) + textOf(chunk("tRNS", alphas));
}

function maskUrl(sample) {
  const head = new Uint8Array(13);
  const view = new DataView(head.buffer);
  view.setUint32(0, sample[SHOWN][0]);
  view.setUint32(4, sample[SHOWN][1]);
  head.set([8, 3], 8); // 8 bits, a palette
  const lines = textOf(chunk("IDAT", bytesOf(sample[MASK])));
  const end = textOf(chunk("IEND", new Uint8Array(0)));
  return "data:image/png;base64," + btoa("\x89PNG\r\n\x1a\n" + textOf(chunk("IHDR", head)) + palette + lines + end);
}

/** Fill an element of class "photo" with a sample's thumbnail and mask, as large as a box allows, in its middle. */
function place(photo, sample, boxWidth, boxHeight) {
  const [width, height] = sample[SHOWN];
  const scale = Math.min(boxWidth / width, boxHeight / height);
  const style = photo.style;
  style.width = Math.max(1, Math.round(width * scale)) + "px";
  style.height = Math.max(1, Math.round(height * scale)) + "px";
  style.left = Math.round((boxWidth - width * scale) / 2) + "px";
  style.top = Math.round((boxHeight - height * scale) / 2) + "px";
}

function newPhoto(sample) {
  const image = element("img");
  const mask = element("img");
  image.alt = mask.alt = "";
  image.decoding = mask.decoding = "async";
  image.src = "data:image/webp;base64," + sample[IMAGE];
  const photo = element("div", "photo", image, mask);
  dress(photo, sample);
  return photo;
}

/** Bring the mask of a photo up to date. */
function dress(photo, sample) {
  const mask = photo.lastChild;
  mask.hidden = !state.masks;
  if (state.masks) mask.src = maskUrl(sample);
}

// The grid: only the rows in view are elements.

const tiles = new Map(); // element by position within `shown`
const shape = (() => {
  const shapes = samples.map((each) => each.data[SHOWN][1] / each.data[SHOWN][0]).sort((a, b) => a - b);
  return Math.min(1.4, Math.max(0.35, shapes[Math.floor(0.5 * (shapes.length - 1))]));
})();
let layout = { columns: 1, width: 190, photo: 190, height: 232 };

function measure() {
  const space = $("scroll").clientWidth - 2 * GAP;
  const columns = Math.max(1, Math.floor((space + GAP) / (state.width + GAP)));
  const width = Math.floor((space - (columns - 1) * GAP) / columns);
  const photo = Math.round(width * shape);
  layout = { columns, width, photo, height: photo + CAPTION };
  $("grid").style.height = Math.ceil(shown.length / columns) * (layout.height + GAP) + GAP + "px";
}

function newTile(position) {
  const sample = samples[shown[position]].data;
  const [width, height] = sample[SIZE];
  const photo = newPhoto(sample);
  place(photo, sample, layout.width - 2, layout.photo);
  const known = sample[ATTRIBUTES].filter((value) => value !== null).slice(0, 2);
  const line = [data.splits[sample[SPLIT]].name, ...known, height + " × " + width].join(" · ");
  const caption = element("div", "caption", element("b", "", sample[KEY]), element("span", "", line));
  const tile = element("button", "tile", photo, caption);
  if (sample[FINDINGS].length) tile.append(element("span", "flag", "!"));
  tile.title = [sample[NAME], ...sample[FINDINGS].map((each) => data.findings[each][1])].join("\n");
  tile.dataset.position = position;
  const style = tile.style;
  style.width = layout.width + "px";
  style.height = layout.height + "px";
  const left = (position % layout.columns) * (layout.width + GAP);
  const top = GAP + Math.floor(position / layout.columns) * (layout.height + GAP);
  style.transform = "translate(" + left + "px," + top + "px)";
  return tile;
}

function draw() {
  const scroll = $("scroll");
  const row = layout.height + GAP;
  const first = Math.max(0, Math.floor(scroll.scrollTop / row) - OVERSCAN) * layout.columns;
  const last = Math.min(shown.length, (Math.ceil((scroll.scrollTop + scroll.clientHeight) / row) + OVERSCAN) * layout.columns);
  for (const [position, tile] of tiles) {
    if (position < first || position >= last) {
      tile.remove();
      tiles.delete(position);
    }
  }
  for (let position = first; position < last; position++) {
    if (tiles.has(position)) continue;
    const tile = newTile(position);
    tiles.set(position, tile);
    $("grid").append(tile);
  }
}

function redraw() {
  tiles.clear();
  $("grid").replaceChildren();
  measure();
  draw();
  if (!shown.length) $("grid").append(element("p", "empty", "No sample passes the filters."));
}

/** Masks changed: colours, opacity or visibility. */
function redress() {
  updatePalette();
  for (const [position, tile] of tiles) dress(tile.firstChild, samples[shown[position]].data);
  const photo = $("viewer").open && $("viewer").querySelector(".photo");
  if (photo) dress(photo, samples[shown[viewed]].data);
}

let waiting = false;
function drawSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

// Filters.

function passes(sample) {
  const found = sample.data[FINDINGS];
  return (
    (state.split === "" || data.splits[sample.data[SPLIT]].name === state.split) &&
    (state.contains < 0 || sample.shares.has(state.contains)) &&
    (state.finding === "" || (state.finding === "*" ? found.length > 0 : state.finding === "-" ? !found.length
      : found.some((each) => data.findings[each][1] === state.finding))) &&
    state.attributes.every((value, at) => value === "" || sample.data[ATTRIBUTES][at] === value) &&
    sample.text.includes(state.query)
  );
}

function filter() {
  shown = [];
  samples.forEach((sample, position) => {
    if (passes(sample)) shown.push(position);
  });
  const share = (position) => samples[position].shares.get(state.contains) || 0;
  const pixels = (position) => samples[position].data[SIZE][0] * samples[position].data[SIZE][1];
  if (state.order === "key") shown.sort((a, b) => (samples[a].data[KEY] < samples[b].data[KEY] ? -1 : 1));
  if (state.order === "size") shown.sort((a, b) => pixels(b) - pixels(a) || a - b);
  if (state.order === "most" && state.contains >= 0) shown.sort((a, b) => share(b) - share(a) || a - b);
  if (state.order === "least" && state.contains >= 0) shown.sort((a, b) => share(a) - share(b) || a - b);
  const filtered = state.query || state.split || state.finding || state.contains >= 0 || state.attributes.some(Boolean);
  const of = shown.length === samples.length ? "" : " of " + number(samples.length);
  const set = samples.length < data.samplesInSet ? " (the set has " + number(data.samplesInSet) + ")" : "";
  $("count").textContent = number(shown.length) + of + " samples" + set;
  $("reset").hidden = !filtered;
  for (const name of $("classes-list").querySelectorAll(".name"))
    name.setAttribute("aria-pressed", String(Number(name.dataset.index) === state.contains));
  $("scroll").scrollTop = 0;
  redraw();
}

/** A labelled choice among [value, text] pairs. */
function choice(label, options, changed) {
  const select = element("select");
  for (const [value, text] of options) {
    const option = element("option", "", text);
    option.value = value;
    select.append(option);
  }
  select.addEventListener("change", () => {
    changed(select.value);
    filter();
  });
  const name = element("span", "", label);
  name.title = label;
  return element("label", "", name, select);
}

/** [value, "value (count)"] for each value that some samples have. */
function counted(values) {
  const counts = new Map();
  for (const value of values) if (value !== null) counts.set(value, (counts.get(value) || 0) + 1);
  const names = [...counts.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  return names.map((value) => [value, value + " (" + number(counts.get(value)) + ")"]);
}

function buildFilters() {
  const filters = $("filters");
  const splits = counted(samples.map((each) => data.splits[each.data[SPLIT]].name));
  filters.append(choice("Split", [["", "all"], ...splits], (value) => (state.split = value)));
  const held = (position) => samples.filter((each) => each.shares.has(position)).length;
  const indices = data.classes.map((_, index) => index).concat([IGNORED]).filter(held);
  const classes = indices.map((index) => [String(index), nameOf(index) + " (" + number(held(index)) + ")"]);
  const contains = choice("Contains", [["-1", "any class"], ...classes], (value) => (state.contains = Number(value)));
  contains.querySelector("select").id = "contains";
  filters.append(contains);
  const reasons = counted(samples.flatMap((each) => [...new Set(each.data[FINDINGS].map((f) => data.findings[f][1]))]));
  if (reasons.length) {
    const options = [["", "all"], ["*", "any finding"], ["-", "no finding"], ...reasons];
    filters.append(choice("Audit", options, (value) => (state.finding = value)));
  }
  data.attributes.forEach((name, at) => {
    const values = counted(samples.map((each) => each.data[ATTRIBUTES][at]));
    if (values.length < 2 || values.length > 200) return; // the search finds these
    filters.append(choice(name, [["", "all"], ...values], (value) => (state.attributes[at] = value)));
  });
  for (const [value, text] of [["set", "as in the set"], ["key", "by key"], ["size", "largest first"],
    ["most", "most of the class"], ["least", "least of the class"]]) {
    const option = element("option", "", text);
    option.value = value;
    $("order").append(option);
  }
}

function buildClassList() {
  const pixels = data.classes.map((_, index) => data.splits.reduce((sum, split) => sum + split.pixels[index], 0));
  pixels.push(data.splits.reduce((sum, split) => sum + split.ignored, 0));
  const all = pixels.reduce((a, b) => a + b, 0);
  pixels.forEach((count, index) => {
    if (index === IGNORED && !count) return;
    const box = element("input");
    box.type = "checkbox";
    box.checked = state.drawn[index];
    box.dataset.index = index;
    box.setAttribute("aria-label", "Show the masks of " + nameOf(index));
    box.addEventListener("change", () => {
      state.drawn[index] = box.checked;
      redress();
    });
    const name = element("button", "name", nameOf(index));
    name.dataset.index = index;
    name.title = nameOf(index) + ": show the images that contain it";
    name.addEventListener("click", () => {
      state.contains = state.contains === index ? -1 : index;
      $("contains").value = String(state.contains);
      filter();
    });
    $("classes-list").append(element("li", "", box, swatch(index), name, element("small", "", percent(count / all))));
  });
}

function setAll(visible) {
  state.drawn.fill(visible);
  for (const box of $("classes-list").querySelectorAll("input")) box.checked = visible;
  redress();
}

function reset() {
  Object.assign(state, { query: "", split: "", finding: "", contains: -1, attributes: data.attributes.map(() => "") });
  $("query").value = "";
  for (const select of $("filters").querySelectorAll("select")) select.selectedIndex = 0;
  filter();
}

// The large view.

function view(position) {
  if (position < 0 || position >= shown.length) return;
  viewed = position;
  const sample = samples[shown[position]];
  const viewer = $("viewer");
  if (!viewer.open) viewer.showModal();
  const frame = viewer.querySelector(".frame");
  const photo = newPhoto(sample.data);
  place(photo, sample.data, frame.clientWidth, frame.clientHeight);
  frame.replaceChildren(photo);
  const list = element("dl");
  const [width, height] = sample.data[SIZE];
  const facts = [["name", sample.data[NAME]], ["split", data.splits[sample.data[SPLIT]].name], ["height × width", height + " × " + width]];
  data.attributes.forEach((name, at) => {
    if (sample.data[ATTRIBUTES][at] !== null) facts.push([name, sample.data[ATTRIBUTES][at]]);
  });
  for (const [name, value] of facts) list.append(element("dt", "", name), element("dd", "", value));
  const classes = element("ul");
  for (const [index, share] of [...sample.shares].sort((a, b) => b[1] - a[1]))
    classes.append(element("li", "", swatch(index), element("span", "", nameOf(index)), element("span", "faint", percent(share))));
  const findings = sample.data[FINDINGS].map((each) => {
    const [action, reason, detail] = data.findings[each];
    return element("p", "finding", action + ": " + reason + " (" + (detail || data.reasons[reason] || "") + ")");
  });
  const help = element("p", "faint", number(position + 1) + " of " + number(shown.length) + ". Arrow keys: next, previous; M: masks; Esc: close.");
  viewer.querySelector(".details").replaceChildren(element("h2", "", sample.data[KEY]), list, ...findings, classes, help);
}

function closed() {
  if (viewed < 0) return;
  const row = Math.floor(viewed / layout.columns) * (layout.height + GAP); // come back to where the view ended
  const scroll = $("scroll");
  if (row < scroll.scrollTop || row + layout.height > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = row;
  draw();
  if (tiles.has(viewed)) tiles.get(viewed).focus();
  viewed = -1;
}

// Tables: class statistics, and what the audit found.

function table(heads, rows) {
  const head = element("tr", "", ...heads.map(([text, className]) => element("th", className, text)));
  const body = rows.map((cells) => element("tr", "", ...cells.map((cell, at) => element("td", heads[at][1], ...[cell].flat()))));
  return element("div", "scroll", element("table", "", element("thead", "", head), element("tbody", "", ...body)));
}

function bar(share) {
  const inner = element("i");
  inner.style.width = (100 * share).toFixed(2) + "%";
  return element("span", "bar", inner);
}

function buildStatistics() {
  const heads = [["class", "text"], ["in the source", "text"], ["share of pixels", ""]];
  for (const split of data.splits) heads.push([split.name + ": pixels", ""], ["share", ""], ["images here", ""]);
  const counts = [...data.classes.keys(), IGNORED].map((index) => data.splits.map((split, at) => ({
    pixels: index === IGNORED ? split.ignored : split.pixels[index],
    images: samples.filter((each) => each.data[SPLIT] === at && each.shares.has(index)).length,
  })));
  const totals = data.splits.map((_, at) => counts.reduce((sum, each) => sum + each[at].pixels, 0));
  const all = totals.reduce((a, b) => a + b, 0) || 1;
  const shares = counts.map((each) => each.reduce((sum, split) => sum + split.pixels, 0) / all);
  const most = Math.max(...shares) || 1;
  const rows = counts.map((each, index) => [
    [swatch(index), nameOf(index)],
    index === IGNORED ? "" : data.classes[index].source,
    [percent(shares[index]), bar(shares[index] / most)],
    ...each.flatMap((split, at) => [number(split.pixels), percent(split.pixels / (totals[at] || 1)), number(split.images)]),
  ]);
  const here = data.splits.map((split, at) => split.name + " " + number(samples.filter((each) => each.data[SPLIT] === at).length) + " of " + number(split.samples));
  const note = "Pixels are those of the whole set's masks; images are those on this page that contain the class (" + here.join(", ") + ").";
  $("classes").append(element("p", "faint", note), table(heads, rows));
}

function buildAudit() {
  const audit = $("audit");
  const packed = samples.filter((each) => each.data[FINDINGS].length);
  const lines = packed.flatMap((each) => each.data[FINDINGS].map((f) => [each.data[NAME], ...data.findings[f]]));
  const heads = [["sample", "text"], ["action", "text"], ["reason", "text"], ["detail", "text wide"]];
  audit.append(element("h2", "", "Repaired, or packed with a warning (on this page): " + number(lines.length)
    + (lines.length > MAX_LINES ? ", the first " + number(MAX_LINES) + " of them" : "")));
  if (lines.length) audit.append(table(heads, lines.slice(0, MAX_LINES).map(([n, a, r, d]) => [n, a, r, d || data.reasons[r] || ""])));
  const listed = data.rejected.length < data.rejectedInAll ? ", the first " + number(data.rejected.length) + " of them" : "";
  audit.append(element("h2", "", "Rejected, not in the set: " + number(data.rejectedInAll) + listed));
  const rejected = data.rejected.map(([n, r, d]) => [n, r, d || data.reasons[r] || ""]);
  if (rejected.length) audit.append(table([heads[0], heads[2], heads[3]], rejected));
}

// Events.

$("facts").textContent = data.facts;
$("query").addEventListener("input", () => {
  state.query = $("query").value.trim().toLowerCase();
  filter();
});
$("masks").addEventListener("change", () => {
  state.masks = $("masks").checked;
  redress();
});
$("opacity").addEventListener("input", () => {
  state.opacity = Number($("opacity").value) / 100;
  redress();
});
$("size").addEventListener("input", () => {
  const first = Math.floor($("scroll").scrollTop / (layout.height + GAP)) * layout.columns;
  state.width = Number($("size").value);
  measure();
  $("scroll").scrollTop = Math.floor(first / layout.columns) * (layout.height + GAP); // the same samples stay in view
  redraw();
});
$("order").addEventListener("change", () => {
  state.order = $("order").value;
  filter();
});
$("all").addEventListener("click", () => setAll(true));
$("none").addEventListener("click", () => setAll(false));
$("reset").addEventListener("click", reset);
$("scroll").addEventListener("scroll", drawSoon, { passive: true });
$("grid").addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (tile) view(Number(tile.dataset.position));
});
$("previous").addEventListener("click", () => view(viewed - 1));
$("next").addEventListener("click", () => view(viewed + 1));
$("viewer").addEventListener("close", closed);
$("viewer").addEventListener("click", (event) => {
  if (event.target === $("viewer")) $("viewer").close(); // beside the dialog
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=search], select");
  if (event.key.toLowerCase() === "m" && !typing && !event.ctrlKey && !event.metaKey) $("masks").click();
  if (!$("viewer").open) return;
  if (event.key === "ArrowLeft") view(viewed - 1);
  if (event.key === "ArrowRight") view(viewed + 1);
});
for (const tab of document.querySelectorAll("nav button"))
  tab.addEventListener("click", () => {
    for (const other of document.querySelectorAll("nav button")) {
      other.setAttribute("aria-selected", String(other === tab));
      $(other.dataset.view).hidden = other !== tab;
    }
    if (tab.dataset.view === "images") redraw();
  });
new ResizeObserver(() => {
  if ($("images").hidden) return;
  redraw();
  if ($("viewer").open) view(viewed);
}).observe($("scroll"));

updatePalette();
buildFilters();
buildClassList();
buildStatistics();
buildAudit();
filter();
