/** Elements, made of names, attributes and text. Nothing here, or anywhere on the page, is parsed as HTML. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element.
 * @param {string} name its tag
 * @param {object} props attributes; `text`; `on: {event: listener}`; `data: {name: value}`; `css: {"--name": value}`.
 *   False, null and undefined leave an attribute out; true is an empty one.
 * @param {...(Node|string|null|false)} children what is in it
 */
export function el(name, props = {}, ...children) {
  return filled(document.createElement(name), props, children);
}

/** Make an SVG element; as {@link el}. */
export function svg(name, props = {}, ...children) {
  return filled(document.createElementNS(SVG, name), props, children);
}

function filled(node, { text, on, data, css, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
  for (const [name, listener] of Object.entries(on ?? {})) node.addEventListener(name, listener);
  if (data) setData(node, data);
  if (css) setCss(node, css);
  if (text !== undefined) node.textContent = text;
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Set an attribute where it differs; false, null and undefined take it away. */
export function setAttribute(node, name, value) {
  if (value === false || value === null || value === undefined) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
    return;
  }
  const said = value === true ? "" : String(value);
  if (node.getAttribute(name) !== said) node.setAttribute(name, said);
}

/** Set a node's text where it differs, so that nothing is laid out or read out anew for nothing. */
export function setText(node, text) {
  const said = text === null || text === undefined ? "" : String(text);
  if (node.textContent !== said) node.textContent = said;
}

/** Set `data-…` attributes where they differ. */
export function setData(node, data) {
  for (const [name, value] of Object.entries(data)) setAttribute(node, `data-${name}`, value);
}

/** Set custom properties of a node's style (by the object model: the policy allows no style attribute). */
export function setCss(node, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (node.style.getPropertyValue(name) !== String(value)) node.style.setProperty(name, String(value));
  }
}

/** Put these nodes into a parent instead of what is there, unless they are there already. */
export function fill(parent, ...children) {
  const wanted = children.flat().filter(Boolean);
  const same = wanted.length === parent.childNodes.length && wanted.every((node, at) => parent.childNodes[at] === node);
  if (!same) parent.replaceChildren(...wanted);
}

/**
 * A list whose items keep their nodes: those that stay are updated in place, so that focus stays where it was.
 * @param {Element} parent where they go
 * @param {(item: any) => string} keyOf an item's name
 * @param {(item: any) => {node: Element, update: (item: any) => void}} make a part for a new item
 * @returns {(items: any[]) => void} to be called with all items, in order
 */
export function keyed(parent, keyOf, make) {
  let parts = new Map();
  return (items) => {
    const wanted = new Set(items.map(keyOf));
    for (const [key, part] of parts) {
      if (wanted.has(key)) continue;
      part.node.remove(); // first, so that those that stay need not be moved: moved, they would lose the focus
      part.gone?.();
    }
    const next = new Map();
    for (const item of items) {
      const key = keyOf(item);
      if (next.has(key)) continue;
      const part = parts.get(key) ?? make(item);
      part.update(item);
      next.set(key, part);
      const there = parent.children[next.size - 1];
      if (there !== part.node) parent.insertBefore(part.node, there ?? null);
    }
    parts = next;
  };
}
