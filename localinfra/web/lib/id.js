/** A new name for something kept. (`crypto.randomUUID` is missing where a page comes by plain HTTP.) */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}
