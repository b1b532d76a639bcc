// What a row of the tree says beside its name.

const SNIPPET = 160;

/** How far a fan-out came, and what did not go well: what was stopped is not counted as done. */
export function progressOf(tally, total) {
  const done = (tally.completed ?? 0) + (tally.failed ?? 0);
  const others = ["failed", "cancelled"].filter((status) => tally[status]).map((status) => `, ${tally[status]} ${status}`);
  return `${done} of ${total}${others.join("")}`;
}

/** One line of a node's text: its end while it streams, its beginning once it is there. */
export function snippet(node, said) {
  if (node.error) return node.error.message || node.error.code;
  const flat = (node.status === "running" ? said.slice(-SNIPPET) : said.slice(0, SNIPPET)).replaceAll(/\s+/g, " ");
  return node.status === "running" && said.length > SNIPPET ? `…${flat}` : flat;
}
