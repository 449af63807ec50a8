// What the catalogues have spent, and what waits for a decision: asked for once a catalogue comes into sight.

const SVG = "http://www.w3.org/2000/svg";

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

const amount = ({ paid, pictures }) => {
  const money = Object.entries(paid).map(([currency, sum]) => `${sum} ${currency}`).join(" + ") || "nothing";
  return `${money} for ${pictures.toLocaleString("en")} pictures`;
};

// Bars of one currency; what there is of others, and all numbers, the table says.
function chart(title, spent) {
  const figure = make("figure");
  const [currency] = spent.flatMap(({ paid }) => Object.keys(paid));
  const values = spent.map(({ paid }) => Number(paid[currency] ?? 0));
  const most = Math.max(...values);
  const at_most = currency ? `up to ${spent[values.indexOf(most)].paid[currency]} ${currency}` : "nothing yet";
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${spent.length * 10} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}: ${at_most}`);
  spent.forEach((each, place) => {
    const bar = document.createElementNS(SVG, "rect");
    const height = values[place] ? Math.max(2, (values[place] / most) * 100) : 1;
    for (const [name, value] of Object.entries({ x: place * 10 + 1, y: 100 - height, width: 8, height })) bar.setAttribute(name, value);
    if (!values[place]) bar.setAttribute("class", "none");
    const hint = document.createElementNS(SVG, "title");
    hint.textContent = `${each.name}: ${amount(each)}`;
    bar.append(hint);
    svg.append(bar);
  });
  const numbers = make("details");
  const table = make("table");
  for (const each of spent.filter(({ pictures }) => pictures)) {
    const row = make("tr");
    const head = make("th", "", each.name);
    head.scope = "row";
    row.append(head, make("td", "", amount(each)));
    table.append(row);
  }
  numbers.append(make("summary", "", "In numbers"), table.rows.length ? table : make("p", "empty", "Nothing was paid."));
  const heading = make("h3", "", `${title}, ${spent[0].name} to ${spent.at(-1).name}`);
  heading.append(make("small", "", at_most));
  figure.append(heading, svg, numbers);
  return figure;
}

async function show(section) {
  const waiting = section.querySelector(".waiting");
  try {
    const answer = await fetch(`${section.dataset.task}figures`);
    if (!answer.ok) throw new Error(await answer.text());
    const figures = await answer.json();
    section.querySelector(".charts").append(chart("Paid by day", figures.days), chart("Paid by month", figures.months));
    const links = Object.entries(figures.waiting).map(([outcome, products]) => {
      const link = make("a", "", `${products.toLocaleString("en")} ${outcome}`);
      link.href = `${section.dataset.gallery}#outcome=${outcome}`;
      return link;
    });
    waiting.replaceChildren(...links.flatMap((link) => [link, " "]), links.length ? "in the latest run, to be decided" : "Nothing waits for a decision.");
  } catch (error) {
    waiting.classList.add("trouble");
    waiting.textContent = error.message;
  }
}

const sight = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    sight.unobserve(target);
    show(target);
  }
});
document.querySelectorAll(".catalogue").forEach((section) => sight.observe(section));
