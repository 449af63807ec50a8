// Where the cards of a run are in Airflow's pages: the server sends them while it reads them, and thumbnails for those in
// sight. The script of all cards, `page.js`, follows.

const { catalogues, decisions } = JSON.parse(document.getElementById("known").textContent);
const AT_ONCE = 25; // cards whose thumbnails are asked for together
const KEPT = 600; // cards whose thumbnails are remembered

// ---- The cards ----------------------------------------------------------------------------------------------------

async function begin() {
  for (const catalogue of catalogues) {
    catalogue.item = make("li");
    catalogue.item.append(make("bdi", "name", visible(catalogue.name)), make("bdi", "mono dim", visible(catalogue.destination)),
      make("span", "fact dim", "is being read"));
    $("catalogues").append(catalogue.item);
  }
  for (const catalogue of catalogues) await read(catalogue);
  dispatchEvent(new Event("cards"));
  $("failures-panel").hidden = false;
  if (!catalogues.length) $("nothing").textContent = "No catalogue has been planned here.";
}

// One of a thousand lines is in hand at a time; the page shows the first ones before the last have come.
async function read(catalogue) {
  const fact = catalogue.item.lastElementChild;
  let drawn = cards.length > 0;
  let products = 0;
  const hear = (said) => {
    if ("sku" in said) {
      take({ ...said, home: catalogue.task, catalogue: catalogue.name });
      products += 1;
    } else Object.assign(catalogue, said);
  };
  try {
    const answer = await fetch(`${catalogue.task}cards`);
    if (!answer.ok) throw new Error(await answer.text());
    let rest = "";
    for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      lines.forEach((line) => hear(JSON.parse(line)));
      if (!drawn && cards.length) {
        drawn = true;
        dispatchEvent(new Event("cards"));
      }
    }
  } catch (error) {
    catalogue.error = error.message;
  }
  const state = catalogue.published ? "published" : "not published";
  fact.textContent = visible(catalogue.error ?? `${state}, ${many(products, "product")}, ${catalogue.unchanged.toLocaleString("en")} unchanged and not shown`);
  fact.classList.toggle("trouble", Boolean(catalogue.error));
}

// ---- Thumbnails, and what was decided -----------------------------------------------------------------------------

const known = new Map(); // by card, the ones looked at last
const wanted = new Map(); // card -> what is to be done then
let asking = false;

function pictures(card, then) {
  const found = known.get(card);
  if (found) return found;
  wanted.set(card, [...wanted.get(card) ?? [], then]);
  if (!asking) setTimeout(ask, 30);
  asking = true;
  return null;
}

async function ask() {
  const in_sight = new Set([...drawn.keys()].map((position) => shown[position]));
  if (view.open) in_sight.add(shown[viewed]);
  for (const card of wanted.keys()) if (!in_sight.has(card)) wanted.delete(card); // scrolled past
  const [first] = wanted.keys();
  const block = [...wanted.keys()].filter((card) => card.home === first?.home).slice(0, AT_ONCE);
  if (block.length) {
    const answer = await details(first.home, block);
    for (const card of block) {
      known.set(card, pictured(card, answer[card.at]));
      if (known.size > KEPT) known.delete(known.keys().next().value);
      wanted.get(card)?.forEach((then) => then());
      wanted.delete(card);
    }
  }
  asking = wanted.size > 0;
  if (asking) setTimeout(ask);
}

async function details(home, block) {
  try {
    const answer = await fetch(`${home}details?${new URLSearchParams(block.map((card) => ["at", card.at]))}`);
    return answer.ok ? await answer.json() : {};
  } catch {
    return {}; // the line dropped: the cards say that there are no pictures, and are asked for again later
  }
}

function pictured(card, found) {
  const source = (data) => data && `data:image/webp;base64,${data}`;
  card.decided = found?.decided?.words;
  card.note = found?.decided;
  return { before: source(found?.before), afters: (found?.afters ?? []).map(source) };
}

const full = (card, chosen) => `${card.home}full?${new URLSearchParams({ at: card.at, index: chosen + 1 })}`;

// ---- In the large view: the prompt, and the decision --------------------------------------------------------------

function more(card) {
  const prompt = make("div");
  if (card.vendor || card.fingerprint) show_prompt(card, prompt);
  const box = make("div", "decide");
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Decide");
  const said = make("p", "small");
  said.setAttribute("role", "status");
  for (const what of card.buttons ?? []) {
    if (!decisions[what]) continue;
    const button = make("button", "quiet", decisions[what]);
    button.type = "button";
    button.addEventListener("click", () => decide(card, what, box, said));
    box.append(button);
    if (what === "buy") box.append(choice("seed", "number", "with seed"), choice("conn_id", "text", "from connection"));
  }
  const tell = () => {
    if (card.note) said.textContent = `${card.note.words}: decided by ${visible(card.note.by || "somebody")}, ${card.note.at}. The next run goes by it.`;
  };
  if (pictures(card, tell)) tell();
  return [prompt, box, said];
}

function choice(name, type, words) {
  const label = make("label", "how", words);
  const field = make("input");
  Object.assign(field, { name, type });
  if (type === "number") field.min = 0;
  field.placeholder = "the same";
  label.append(field);
  return label;
}

async function show_prompt(card, place) {
  try {
    const answer = await fetch(`${card.home}prompt?${new URLSearchParams({ at: card.at })}`);
    const { prompt } = answer.ok ? await answer.json() : {};
    if (prompt) place.append(make("h3", "", "Prompt"), make("p", "prompt", visible(prompt)));
  } catch {
    // without it the view is still of use
  }
}

async function decide(card, what, box, said) {
  const buttons = box.querySelectorAll("button");
  const chosen = {};
  for (const { name, type, value } of what === "buy" ? box.querySelectorAll("input") : []) {
    if (value.trim()) chosen[name] = type === "number" ? Number(value) : value.trim();
  }
  buttons.forEach((button) => { button.disabled = true; });
  said.classList.remove("trouble");
  said.textContent = "Being written down";
  try {
    const answer = await fetch(`${card.home}decisions`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ at: card.at, what, ...chosen }),
    });
    if (!answer.ok) throw new Error(await answer.text());
    card.note = await answer.json();
    card.decided = card.note.words;
    badge($("view-badge"), card.outcome, card.decided);
    drawn.forEach((item, position) => shown[position] === card && put_pictures(item, card));
    said.textContent = `${card.note.words}: written down. The next run goes by it.`;
  } catch (error) {
    said.classList.add("trouble");
    said.textContent = visible(error.message);
  }
  buttons.forEach((button) => { button.disabled = false; });
}
