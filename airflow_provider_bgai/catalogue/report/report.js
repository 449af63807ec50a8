"use strict";

// Where the cards of a report are: in the page itself. The script of all cards, `page.js`, follows.

const BLOCKS_KEPT = 64;
const blocks = [];

function begin() {
  for (const block of document.querySelectorAll("script.cards")) {
    for (const [line, said] of JSON.parse(block.textContent).entries()) take({ ...said, block: blocks.length, line });
    blocks.push(block.nextElementSibling);
    block.nextElementSibling.remove();
    block.remove();
  }
  dispatchEvent(new Event("cards"));
}

// Thumbnails stay base64 text until their card is in sight; the blocks looked at last are kept split.
const split = new Map();
function pictures(card) {
  const lines = split.get(card.block) ?? blocks[card.block].textContent.split("\n");
  split.delete(card.block);
  split.set(card.block, lines);
  if (split.size > BLOCKS_KEPT) split.delete(split.keys().next().value);
  const [before, ...afters] = lines[card.line].split(" ")
    .map((data) => (data === "-" ? null : `data:image/webp;base64,${data}`));
  return { before, afters };
}

const full = () => null;

// A file decides nothing; it says how.
const { root, on } = JSON.parse(document.getElementById("decisions").textContent);
function more(card) {
  const fitting = Object.keys(on).filter((what) => card.fingerprint && on[what].includes(card.outcome));
  if (!fitting.length) return [];
  const commands = fitting.map((what) => `bgai-ledger ${what} ${visible(root)} ${card.fingerprint}`);
  return [make("h3", "", "Decide, by a command"), make("pre", "commands", commands.join("\n"))];
}
const around = () => "";
