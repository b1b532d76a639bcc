// What a row of the tree says beside its name.

const SNIPPET = 160;

/** How far a fan-out is. */
export function progressOf(tally, total) {
  const done = (tally.completed ?? 0) + (tally.failed ?? 0) + (tally.cancelled ?? 0) + (tally.skipped ?? 0);
  return `${done} of ${total}${tally.failed ? `, ${tally.failed} failed` : ""}`;
}

/** One line of a node's text: its end while it streams, its beginning once it is there. */
export function snippet(node, said) {
  if (node.error) return node.error.message || node.error.code;
  const flat = (node.status === "running" ? said.slice(-SNIPPET) : said.slice(0, SNIPPET)).replaceAll(/\s+/g, " ");
  return node.status === "running" && said.length > SNIPPET ? `…${flat}` : flat;
}
