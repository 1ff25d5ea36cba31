// Nodes from plain values. Text only becomes text nodes, so nothing in it can turn into markup.

/**
 * An element. Properties: `on…` are listeners, anything else an attribute; true gives an empty one,
 * null and false none. Children that are null or false are left out.
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Text with `code`, **bold**, paragraphs and lists of "- ". */
export function prose(text) {
  return text.split("\n\n").map((block) => {
    if (!block.startsWith("- ")) return h("p", {}, inline(block));
    return h("ul", {}, block.slice(2).split("\n- ").map((item) => h("li", {}, inline(item))));
  });
}

export function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (part.length > 2 && part.startsWith("`")) return h("code", {}, part.slice(1, -1));
    return part.startsWith("**") ? h("strong", {}, part.slice(2, -2)) : part;
  });
}

/** Shows `summary`, and what `content` makes once it is opened. */
export function folded(summary, content, isOpen = false) {
  const details = h("details", {}, h("summary", {}, summary));
  const fill = () => details.childElementCount === 1 && details.append(...[content()].flat());
  details.addEventListener("toggle", fill);
  if (isOpen) {
    fill();
    details.open = true;
  }
  return details;
}

/** A button that copies what `text` returns. */
export function copyButton(text) {
  const button = h("button", { type: "button", class: "small" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it to copy"; // pages that come by plain HTTP may not
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  return button;
}
