// Pictures in the chat: files → data URLs that are small enough to send and keep; thumbnails, and a larger view.

import { h, iconButton } from "../lib/dom.js";
import { openDialog } from "../lib/dialog.js";
import { bytes, plain } from "../lib/format.js";
import { newId } from "../lib/id.js";
import { sees, whoIsBlind } from "../lib/models.js";

// Before anything is drawn, or a photo would fill the page for a moment.
await new Promise((resolve) => {
  const href = new URL("../style/pictures.css", import.meta.url).href;
  document.head.append(h("link", { rel: "stylesheet", href, onload: resolve, onerror: resolve }));
});

const MAX_FILE_BYTES = 32 * 2 ** 20; // as the server's
const MAX_SENT_BYTES = 12 * 2 ** 20; // of data URLs; a request may have 16 MiB
const MAX_RATIO = 200; // of the sides, as the server's
const MAX_SIDE = 1568; // pixels; models see no more of a picture, or less
const SMALL_BYTES = 400_000; // stays as it is, or PNG
const QUALITY = 0.87; // of a JPEG: text in a photo can be read
const TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif"]; // that the server reads

/**
 * A file as a message has it, at most MAX_SIDE pixels wide and high. What the browser knows and the server
 * doesn't becomes a JPEG; of an animation that is too large the first frame stays.
 * @param {File} file @returns {Promise<import("./tray.js").Picture>} @throws {Error} in words for the user
 */
export async function readPicture(file) {
  const name = plain(file.name || "picture");
  if (file.size > MAX_FILE_BYTES)
    throw new Error(`${name} has ${bytes(file.size)}: pictures may have ${bytes(MAX_FILE_BYTES)} at most.`);
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error(`${name} can't be read as a picture: send a complete PNG, JPEG, WebP or GIF.`);
  });
  try {
    const [short, long] = [bitmap.width, bitmap.height].sort((a, b) => a - b);
    if (long > MAX_RATIO * short)
      throw new Error(`${name} is too narrow: one side may be at most ${MAX_RATIO} times the other.`);
    const staysAsItIs = long <= MAX_SIDE && file.size <= SMALL_BYTES && TYPES.includes(file.type);
    return { id: newId(), name, url: await urlOf(staysAsItIs ? file : await smaller(file, bitmap, long)) };
  } finally {
    bitmap.close();
  }
}

/** PNG keeps the edges of a screenshot, if it is small as such. @returns {Promise<Blob>} */
async function smaller(file, bitmap, long) {
  const by = Math.min(1, MAX_SIDE / long);
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * by)));
  const canvas = h("canvas", { width, height });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = "white"; // behind what is transparent, as models see it
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0, width, height);
  const encoded = (type) => new Promise((resolve) => canvas.toBlob(resolve, type, QUALITY));
  const exact = file.type === "image/png" ? await encoded("image/png") : null;
  const made = exact && exact.size <= SMALL_BYTES ? exact : await encoded("image/jpeg");
  if (!made) throw new Error(`${plain(file.name)} could not be made smaller: there is not enough memory.`);
  return made;
}

/**
 * @param {import("./tree.js").Tree} tree of the conversation that the pictures would join
 * @param {string[]} names of the models that are asked @param {number} maxKeptBytes of one conversation
 * @throws {Error} in words for the user, if no model sees, or they are too many
 */
export function checkPictures(pictures, tree, names, maxKeptBytes = MAX_SENT_BYTES) {
  if (!names.some(sees)) throw new Error(whoIsBlind(names));
  const kept = new Map([...picturesOf(tree.turns.values()), ...pictures].map((one) => [one.id, one]));
  for (const [size, most, what] of [
    [sizeOf([...kept.values()]), maxKeptBytes, "kept in one"],
    [sizeOf([...picturesOf(tree.path()), ...pictures]), MAX_SENT_BYTES, "sent at once"],
  ])
    if (size > most)
      throw new Error(
        `The pictures of this conversation would take ${bytes(size)}, and ${bytes(most)} can be ${what}: ` +
          "remove some, or begin a new chat.",
      );
}

const picturesOf = (turns) => [...turns].flatMap((turn) => turn.pictures ?? []);
const sizeOf = (pictures) => pictures.reduce((sum, { url }) => sum + url.length, 0);

/** @returns {Promise<string>} */
function urlOf(blob) {
  const reader = new FileReader();
  return new Promise((resolve, reject) => {
    reader.onload = () => resolve(/** @type {string} */ (reader.result));
    reader.onerror = () => reject(new Error("The picture's file can't be read, or no longer."));
    reader.readAsDataURL(blob);
  });
}

/**
 * Pictures in a row, each a button that enlarges it; with their names and buttons to remove them, if they can be.
 * @param {import("./tray.js").Picture[]} pictures
 * @param {((picture: import("./tray.js").Picture) => void) | null} remove
 */
export function thumbnails(pictures, remove = null) {
  return h(
    "ul",
    { class: "thumbnails" },
    pictures.map((picture) => {
      const name = plain(picture.name);
      return h(
        "li",
        {},
        h(
          "button",
          { type: "button", class: "thumbnail", title: `Enlarge ${name}`, onclick: () => enlarge(picture) },
          h("img", { src: picture.url, alt: `Picture ${name}` }),
        ),
        remove && h("span", { class: "file-name", dir: "auto", title: name }, name),
        remove && iconButton("close", `Remove ${name}`, () => remove(picture), { class: "icon-button remove" }),
      );
    }),
  );
}

const enlarge = ({ name, url }) =>
  openDialog(plain(name), h("img", { class: "enlarged", src: url, alt: `Picture ${plain(name)}` }), "wide");
