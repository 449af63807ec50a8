// The cards of a page: what is asked for, what is in sight, the large view, keys.
//
// Everything here came from outside: it is put in with textContent and setAttribute, never as markup.

const $ = (id) => document.getElementById(id);
const IDENTICAL = Number(document.currentScript.dataset.identical);
const OUTCOMES = ["bought", "reused", "quarantined", "failed", "lost", "refused", "held", "rejected", "over_budget"];
const FAILURES = new Set(["quarantined", "failed", "lost", "refused", "held"]);
const CHOICES = ["catalogue", "vendor", "category", "verdict", "sort", "reason"];
const VERDICTS = { faithful: "Faithful", altered: "Altered", unchecked: "Not compared", none: "No picture" };
const NONE = "(none)"; // what a filter calls products without a vendor or category
const ROWS_AROUND = 2;

// Characters that are not seen but change what is.
const visible = (text) =>
  text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]/g, (it) =>
    `[U+${it.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
const words = (name) => name.replaceAll("_", " ");
const capital = (name) => name.charAt(0).toUpperCase() + words(name).slice(1);
const many = (count, one, more = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : more}`;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// ---- The cards ----------------------------------------------------------------------------------------------------

function judge(card) {
  const compared = card.images.filter((image) => "faithful" in image);
  const numbers = (name) => compared.map((image) => image[name]).filter((it) => it !== null);
  card.psnr = numbers("psnr").length ? Math.min(...numbers("psnr")) : null;
  card.delta_e = numbers("delta_e").length ? Math.max(...numbers("delta_e")) : null;
  if (compared.some((image) => !image.faithful)) return "altered";
  if (compared.length && compared.length === card.images.length) return "faithful";
  return card.images.length ? "unchecked" : "none";
}

// Where they come from, `report.js` says, or `gallery.js` in Airflow's pages: `pictures(card, then)` gives the thumbnails
// {before, afters}, or null and calls `then` once they are there; `full(card, chosen)` the address of a picture in full,
// `more(card)` what else the large view shows, and `around()` the theme of what is around the page.
const cards = [];
function take(said) {
  const card = { images: [], ...said };
  card.verdict = judge(card);
  card.trouble = card.error ?? card.images.flatMap((image) => image.reasons ?? [])[0];
  card.why = FAILURES.has(card.outcome) ? card.reason ?? card.outcome : null;
  card.text = [card.sku, card.category, card.vendor, card.model, card.reason, card.error, card.task, card.seed,
    ...card.warnings ?? [], ...card.images.flatMap((image) => image.reasons ?? [])].join("\n").toLowerCase();
  cards.push(card);
}
const bySku = new Intl.Collator("en", { numeric: true }).compare;

function show(frame, source, alt, missing) {
  if (!source) return frame.replaceChildren(make("span", "missing", missing));
  const image = make("img");
  image.decoding = "async";
  image.alt = alt;
  image.src = source;
  return frame.replaceChildren(image);
}

// What is too much outside the product, over a picture that lies in its frame as `object-fit: contain` puts it.
const SVG = "http://www.w3.org/2000/svg";
function outline(frame, image) {
  if (!image?.outlines || !frame.querySelector("img")) return;
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("class", "outlines");
  drawing.setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", "Where the picture shows too much");
  for (const corners of image.outlines) {
    const shape = document.createElementNS(SVG, "polygon");
    shape.setAttribute("points", corners.map(([x, y]) => `${x * image.width / 1000},${y * image.height / 1000}`).join(" "));
    drawing.append(shape);
  }
  frame.append(drawing);
}

const price = (card) => (card.price === undefined ? "price unknown" : `${card.price} ${card.currency}`);
const seconds = (card) => (card.seconds === undefined ? "" : `${card.seconds.toLocaleString("en", { maximumFractionDigits: 1 })} s`);
const psnr = (value) => (value === null ? null : value >= IDENTICAL ? "identical" : `PSNR ${value.toFixed(1)} dB`);
const delta = (value) => (value === null ? null : `ΔE ${value.toFixed(2)}`);
const numbers = (it) => [psnr(it.psnr), delta(it.delta_e)].filter(Boolean).join(" · ");

function badge(element, outcome, decided) {
  element.textContent = [words(outcome), decided].filter(Boolean).join(" · ");
  element.dataset.outcome = outcome;
}

function put_pictures(item, card) {
  const found = pictures(card, () => item.isConnected && put_pictures(item, card));
  badge(item.querySelector(".badge"), card.outcome, card.decided);
  if (!found) return;
  const { before, afters } = found;
  show(item.querySelector(".before"), before, "Before", "No source picture");
  show(item.querySelector(".after"), afters[0], "After", "No picture");
  outline(item.querySelector(".after"), card.images[0]);
  if (afters.length > 1) item.querySelector(".after").append(make("span", "more", `1 of ${afters.length}`));
}

function draw_card(card, position) {
  const item = $("card").content.firstElementChild.cloneNode(true);
  const put = (name, text) => { item.querySelector(`.${name}`).textContent = text; };
  put("sku", visible(card.sku));
  put("category", visible(card.category ?? "no category"));
  put("price", price(card));
  put("made", [card.vendor, card.model].filter(Boolean).map(visible).join(" · ") || "no vendor");
  put("seconds", seconds(card));
  put("verdict", VERDICTS[card.verdict]);
  put("numbers", numbers(card));
  put("trouble", visible([card.reason && words(card.reason), card.trouble].filter(Boolean).join(": ")));
  item.querySelector(".foot").classList.toggle("without", Boolean(card.trouble) && !card.images.length);
  item.querySelector(".verdict").dataset.verdict = card.verdict;
  put_pictures(item, card);
  item.setAttribute("aria-posinset", position + 1);
  item.setAttribute("aria-setsize", shown.length);
  item.firstElementChild.dataset.position = position;
  return item;
}

// ---- What is asked for: it lives in the address, so that a link or a reload shows the same --------------------------

let state = {};
let shown = cards;
let active = 0;

function read_address() {
  const given = new URLSearchParams(location.hash.slice(1));
  state = Object.fromEntries(["q", "outcome", "theme", ...CHOICES].map((name) => [name, given.get(name) ?? ""]));
}

function change(changes) {
  Object.assign(state, changes);
  const kept = Object.entries(state).filter(([, value]) => value);
  history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
  refresh();
}

const SORTS = {
  sku: (a, b) => bySku(a.sku, b.sku),
  price: (a, b) => (Number(b.price ?? -1)) - (Number(a.price ?? -1)),
  delta_e: (a, b) => (b.delta_e ?? -1) - (a.delta_e ?? -1),
  psnr: (a, b) => (a.psnr ?? Infinity) - (b.psnr ?? Infinity) || 0,
};

function matches(card) {
  const is = (name, value) => !state[name] || (value ?? NONE) === state[name];
  return is("outcome", card.outcome) && is("catalogue", card.catalogue) && is("vendor", card.vendor) && is("category", card.category)
    && is("verdict", card.verdict) && is("reason", card.why) && card.text.includes(state.q.toLowerCase());
}

function refresh() {
  document.documentElement.style.colorScheme = state.theme || around() || "light dark";
  $("theme").textContent = is_dark() ? "Light theme" : "Dark theme";
  $("q").value = state.q;
  for (const name of CHOICES) $(name).value = state[name];
  $("reason-field").hidden = !state.reason;
  for (const button of $("outcomes").children) button.setAttribute("aria-pressed", button.value === state.outcome);
  for (const button of $("failures").querySelectorAll("button")) button.setAttribute("aria-pressed", button.value === state.reason);

  shown = cards.filter(matches);
  if (Object.hasOwn(SORTS, state.sort)) shown.sort(SORTS[state.sort]);
  active = 0;
  const filtered = ["q", "outcome", "catalogue", "vendor", "category", "verdict", "reason"].some((name) => state[name]);
  $("count").textContent = filtered ? `${shown.length.toLocaleString("en")} of ${many(cards.length, "product")}` : many(cards.length, "product");
  $("clear").hidden = !filtered;
  $("nothing").hidden = shown.length > 0;
  $("nothing").textContent = cards.length
    ? "No product is like that. Clear the filters to see all."
    : "Nothing changed in this run: no product needed a picture.";
  $("list").replaceChildren();
  drawn.clear();
  measure();
  draw();
}

const is_dark = () => {
  const theme = state.theme || around();
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

// ---- The list: only what is in sight is in the document -----------------------------------------------------------

const drawn = new Map();
let columns = 1;
let height = 1;
let gap = 0;

function measure() {
  const list = $("list");
  const style = getComputedStyle(list);
  gap = parseFloat(style.columnGap);
  columns = Math.max(1, Math.floor((list.clientWidth + gap) / (parseFloat(style.getPropertyValue("--least")) * parseFloat(getComputedStyle(document.documentElement).fontSize) + gap)));
  const width = (list.clientWidth - gap * (columns - 1)) / columns;
  list.style.setProperty("--width", `${width}px`);
  if (!shown.length) {
    list.style.height = "0";
    return;
  }
  const sample = draw_card(shown[0], 0);
  list.append(sample);
  height = sample.offsetHeight + gap;
  sample.remove();
  list.style.height = `${Math.ceil(shown.length / columns) * height - gap}px`;
}

function draw() {
  const list = $("list");
  const top = -list.getBoundingClientRect().top;
  const first = Math.max(0, Math.floor(top / height) - ROWS_AROUND) * columns;
  const last = Math.min(shown.length, (Math.ceil((top + innerHeight) / height) + ROWS_AROUND) * columns);
  const wanted = new Set(shown.length ? [active] : []); // the card that has the focus must not vanish
  for (let position = first; position < last; position++) wanted.add(position);
  for (const [position, item] of drawn) {
    if (wanted.has(position)) continue;
    item.remove();
    drawn.delete(position);
  }
  for (const position of [...wanted].sort((a, b) => a - b)) {
    let item = drawn.get(position);
    if (!item) {
      item = draw_card(shown[position], position);
      const x = `calc((var(--width) + ${gap}px) * ${position % columns})`;
      item.style.transform = `translate(${x}, ${Math.floor(position / columns) * height}px)`;
      // In the document's order, as Tab and screen readers go.
      const after = [...drawn.keys()].filter((other) => other > position);
      list.insertBefore(item, after.length ? drawn.get(Math.min(...after)) : null);
      drawn.set(position, item);
    }
    item.firstElementChild.tabIndex = position === active ? 0 : -1;
  }
}

function go(position) {
  if (!shown.length) return;
  active = Math.min(Math.max(position, 0), shown.length - 1);
  draw();
  drawn.get(active).firstElementChild.focus();
}

// ---- The large view -----------------------------------------------------------------------------------------------

const view = $("view");
let viewed = 0;

function open(position) {
  viewed = position;
  const card = shown[position];
  $("view-sku").textContent = visible(card.sku);
  badge($("view-badge"), card.outcome, card.decided);
  $("view-place").textContent = `${(position + 1).toLocaleString("en")} of ${many(shown.length, "product")}`;
  $("previous").disabled = position === 0;
  $("next").disabled = position === shown.length - 1;

  const known = {
    Category: card.category, Reason: card.reason, Error: card.error, Vendor: card.vendor, Connection: card.connection,
    Model: card.model, Seed: card.seed, Price: price(card), Time: seconds(card),
    Warnings: card.warnings?.join("; "), Name: card.name, Task: card.task, Source: card.source,
    Prompt: card.prompt, Fingerprint: card.fingerprint,
  };
  $("view-facts").replaceChildren(...Object.entries(known).filter(([, text]) => text || text === 0).flatMap(([name, text]) => {
    const value = make("dd");
    value.append(make("bdi", "", visible(String(text))));
    return [make("dt", "", name), value];
  }));
  $("view-uris").replaceChildren(...(card.addresses ?? [...card.images, ...card.finished ?? []]).map(({ uri, width, height, bytes, type, rendition, notes }) => {
    const item = make("li");
    const copy = make("button", "quiet", "Copy");
    copy.type = "button";
    copy.setAttribute("aria-label", `Copy ${uri}`);
    copy.addEventListener("click", () => copy_text(copy, uri));
    const text = make("div");
    text.append(make("code", "", uri), make("span", "dim small",
      [rendition && visible(rendition), `${width} × ${height} px`, `${Math.ceil(bytes / 1000).toLocaleString("en")} kB`, type, ...(notes ?? []).map(visible)]
        .filter(Boolean).join(", ")));
    item.append(text, copy);
    return item;
  }));
  $("no-uris").hidden = card.images.length > 0;
  $("view-more").replaceChildren(...more(card));
  choose(card, 0);
  if (view.open) return;
  view.showModal();
  $("close").focus();
}

function choose(card, chosen) {
  const found = pictures(card, () => view.open && shown[viewed] === card && choose(card, chosen));
  const { before, afters } = found ?? { before: null, afters: [] };
  const name = visible(card.sku);
  const alt = `${name} after, picture ${chosen + 1} of ${afters.length}`;
  show($("view-before"), before, `${name} before`, found ? "No source picture" : "Being read");
  show($("view-after"), afters[chosen], alt, found ? "No picture" : "Being read");
  outline($("view-after"), card.images[chosen]);
  enlarge($("view-after").querySelector("img"), full(card, chosen), alt);
  const both = Boolean(before && afters.length);
  $("ways").hidden = !both;
  $("compare").dataset.way = both ? document.querySelector("input[name=way]:checked").value : "beside";

  $("choices").replaceChildren(...(afters.length < 2 ? [] : afters.map((source, position) => {
    const button = make("button", "choice");
    button.type = "button";
    button.setAttribute("aria-pressed", position === chosen);
    show(button, source, `Picture ${position + 1}`);
    button.addEventListener("click", () => {
      choose(card, position);
      $("choices").children[position].focus();
    });
    return button;
  })));

  const image = card.images[chosen];
  const verdict = !image ? "none" : !("faithful" in image) ? "unchecked" : image.faithful ? "faithful" : "altered";
  const compared = image && "faithful" in image;
  $("view-verdict").textContent = [VERDICTS[verdict], compared && numbers(image)].filter(Boolean).join(" · ");
  $("view-verdict").dataset.verdict = verdict;
  $("view-reasons").replaceChildren(...(compared ? image.reasons : []).map((reason) => make("li", "", visible(reason))));
  // The pictures' own shape; what is very tall or wide gets room around it.
  $("compare").style.setProperty("--shape", image ? Math.min(2, Math.max(0.6, image.width / image.height || 1)) : 1);
}

function enlarge(small, source, alt) {
  if (!small || !source) return;
  const large = make("img");
  large.alt = alt;
  large.addEventListener("load", () => small.replaceWith(large)); // one that cannot be had stays small
  large.src = source;
}

async function copy_text(button, text) {
  const code = button.parentElement.querySelector("code");
  getSelection().selectAllChildren(code);
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Selected"; // a browser that keeps the clipboard from files: Ctrl-C does the rest
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

const step = (by) => {
  const position = viewed + by;
  if (position >= 0 && position < shown.length) open(position);
};

// ---- Filters, summary, keys ---------------------------------------------------------------------------------------

function count(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}

function options(name, values, label) {
  $(name).replaceChildren($(name).options[0], ...values.map(([value, products]) => {
    const option = make("option", "", label(value, products));
    option.value = value;
    return option;
  }));
}

// What is there to be filtered; again when there are more cards.
function fill() {
  const outcomes = count(cards.map((card) => card.outcome));
  $("outcomes").replaceChildren();
  for (const [name, products] of [["", cards.length], ...[...OUTCOMES.filter((it) => outcomes.has(it)),
    ...[...outcomes.keys()].filter((it) => !OUTCOMES.includes(it))].map((it) => [it, outcomes.get(it)])]) {
    const button = make("button", "outcome");
    button.type = "button";
    button.value = name;
    button.dataset.outcome = name;
    button.append(make("span", "", name ? capital(name) : "All"), make("strong", "", products.toLocaleString("en")));
    button.addEventListener("click", () => change({ outcome: state.outcome === name ? "" : name }));
    $("outcomes").append(button);
  }
  for (const name of ["catalogue", "vendor", "category"]) {
    const values = [...count(cards.map((card) => card[name] ?? NONE))].sort(([a], [b]) => bySku(a, b));
    options(name, values, (value, products) => `${value === NONE ? "none" : visible(value)} (${products.toLocaleString("en")})`);
  }
  $("catalogue-field").hidden = $("catalogue").length < 3;
  const reasons = [...count(cards.map((card) => card.why).filter(Boolean))].sort(([, a], [, b]) => b - a);
  const failed = reasons.reduce((sum, [, products]) => sum + products, 0);
  $("failures").replaceChildren();
  options("reason", reasons, (reason) => visible(words(reason)));
  for (const [reason, products] of reasons) {
    const button = make("button", "failure");
    button.type = "button";
    button.value = reason;
    button.style.setProperty("--share", products / failed);
    const example = cards.find((card) => card.why === reason && card.trouble);
    button.append(make("bdi", "", visible(words(reason))), make("strong", "", products.toLocaleString("en")));
    if (example) button.append(make("bdi", "example", visible(example.trouble)));
    button.addEventListener("click", () => {
      change({ reason: state.reason === reason ? "" : reason, outcome: "" });
      if (state.reason) $("products").scrollIntoView();
    });
    const item = make("li");
    item.append(button);
    $("failures").append(item);
  }
  $("no-failures").hidden = reasons.length > 0;
}

const typing = (target) => target.matches("input[type=search], select");

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { key, target } = event;
  const does = () => {
    if (view.open) {
      if (typing(target)) return undefined;
      return { j: () => step(1), k: () => step(-1) }[key];
    }
    if (typing(target)) return target === $("q") && ["Escape", "Enter"].includes(key) ? () => go(active) : undefined;
    const moves = { j: 1, k: -1 };
    const arrows = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -Infinity, End: Infinity };
    const on_card = target.matches(".card");
    if (key === "/") return () => { $("q").focus(); $("q").select(); };
    // The first press takes the cursor to where it is, the next ones move it.
    if (Object.hasOwn(moves, key)) return () => go(on_card ? active + moves[key] : active);
    return on_card && Object.hasOwn(arrows, key) ? () => go(active + arrows[key]) : undefined;
  };
  const act = does();
  if (!act) return;
  event.preventDefault();
  act();
});

$("q").addEventListener("input", () => change({ q: $("q").value }));
for (const name of CHOICES) $(name).addEventListener("change", () => change({ [name]: $(name).value }));
$("clear").addEventListener("click", () => {
  change({ q: "", outcome: "", catalogue: "", vendor: "", category: "", verdict: "", reason: "" });
  $("q").focus();
});
$("theme").addEventListener("click", () => change({ theme: is_dark() ? "light" : "dark" }));
$("list").addEventListener("click", (event) => {
  const card = event.target.closest(".card");
  if (card) open(Number(card.dataset.position));
});
$("list").addEventListener("focusin", (event) => {
  active = Number(event.target.dataset.position);
  draw();
});
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => view.close());
$("ways").addEventListener("change", (event) => { $("compare").dataset.way = event.target.value; });
$("cut").addEventListener("input", () => $("compare").style.setProperty("--cut", `${$("cut").value}%`));
view.addEventListener("click", (event) => { if (event.target === view) view.close(); });
view.addEventListener("close", () => go(viewed));

let asked = false;
addEventListener("scroll", () => {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => { asked = false; draw(); });
}, { passive: true });
new ResizeObserver(() => {
  const focused = document.activeElement.matches(".card");
  $("list").replaceChildren();
  drawn.clear();
  measure();
  draw();
  if (focused) drawn.get(active).firstElementChild.focus({ preventScroll: true });
}).observe($("products"));
addEventListener("hashchange", () => { read_address(); refresh(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
addEventListener("theme", refresh);

read_address();
addEventListener("cards", () => { // there are cards, or more of them
  if (view.open) return view.addEventListener("close", () => dispatchEvent(new Event("cards")), { once: true });
  const at = document.activeElement.matches(".card") ? shown[active] : null;
  fill();
  refresh();
  if (at) go(shown.indexOf(at));
});
begin();
