// DOM nodes made from plain values. Text only ever becomes text nodes, so nothing that a model or a
// user writes can turn into markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. Properties: `class`, `style` (an object of CSS properties), `on…` (listeners), `data`
 * (an object), anything else is an attribute; true gives an empty one, null and false none.
 * @param {string} tag
 * @param {Object<string, any>} [props]
 * @param {...any} children nodes, texts, numbers, arrays of them; null and false are left out
 */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

/** Children come first: a select takes its value from them, and `dir="auto"` would look at all of
 * them again with each one. */
function fill(element, props, children) {
  append(element, children);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2).toLowerCase(), value);
    else if (name === "style")
      for (const [key, css] of Object.entries(value)) element.style.setProperty(key, css);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  return element;
}

/** Adds children. Not as arguments of one call: a long text has more nodes than a call can have arguments. */
export function append(element, children) {
  const all = document.createDocumentFragment();
  for (const child of children.flat(Infinity))
    if (child !== null && child !== undefined && child !== false) all.append(child);
  element.append(all);
}

/** Replaces an element's children. */
export function put(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** An icon of the sprite in index.html. */
export function icon(name) {
  return s("svg", { class: "icon", "aria-hidden": "true" }, s("use", { href: `#i-${name}` }));
}

/** A button with an icon; `label` is what a screen reader says, and the tooltip. */
export function iconButton(name, label, onclick, props = {}) {
  return h(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...props },
    icon(name),
  );
}

/** A labelled control of a form. `hint` is shown when one points at it, and read by screen readers. */
export function field(label, control, hint = "") {
  control.id ||= `field-${++numFields}`;
  if (hint) control.setAttribute("aria-description", hint);
  return h(
    "div",
    { class: "field", title: hint || null },
    h("label", { class: "field-name", for: control.id }, label),
    control,
  );
}

let numFields = 0;

/** Runs `work` once in the next frame, however often it is called before. */
export function oncePerFrame(work) {
  let frame = 0;
  return () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      work();
    });
  };
}
