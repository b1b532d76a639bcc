// Elements, made without markup: what a model or a person wrote can only ever become text.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `props`: `on…` listeners, properties of inputs, attributes; false and null are left out. */
export function h(tag, props, ...children) {
  const el = document.createElement(tag);
  set(el, props);
  el.append(...flat(children));
  return el;
}

/** Set properties of an element as `h` does. */
export function set(el, props) {
  for (const [name, value] of Object.entries(props || {})) {
    if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "open") el[name] = value;
    else if (value === false || value === null || value === undefined) el.removeAttribute(name);
    else el.setAttribute(name, value === true ? "" : value);
  }
  return el;
}

/** Replace what is in `el`. */
export function fill(el, ...children) {
  el.replaceChildren(...flat(children));
  return el;
}

/** Set the text of `el`, if it is another one: what has not changed is not touched. */
export function text(el, value) {
  if (el.textContent !== value) el.textContent = value;
}

/** Let `parent` hold one element for each item, in order, keeping those that are there: `make(item)`, `update(el, item)`. */
export function keyed(parent, items, key, make, update) {
  const known = new Map([...parent.children].map((el) => [el.dataset.key, el]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const id = String(key(item));
    let el = known.get(id);
    if (el) known.delete(id);
    else {
      el = make(item);
      el.dataset.key = id;
    }
    update(el, item);
    if (el === at) at = at.nextElementSibling;
    else parent.insertBefore(el, at);
  }
  for (const el of known.values()) el.remove();
}

function flat(children) {
  return children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false && one !== "");
}

/** An icon of 16 by 16 from path data; decoration only, so text must say the same. */
export function icon(path, kind = "icon") {
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, value] of [
    ["viewBox", "0 0 16 16"],
    ["class", kind],
    ["aria-hidden", "true"],
  ]) {
    svg.setAttribute(name, value);
  }
  const shape = document.createElementNS(SVG, "path");
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
}

/** A text that is read once by a screen reader, at a calm moment. */
export function announce(message) {
  let region = document.getElementById("announcements");
  if (!region) {
    region = h("div", { id: "announcements", class: "hidden-text", role: "status", "aria-live": "polite" });
    document.body.append(region);
  }
  if (region.textContent !== message) region.textContent = message;
}

/** Call `work` at most once a frame, however often the function that this answers is called. */
export function batched(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      work();
    });
  };
}
