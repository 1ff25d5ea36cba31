// Numbers as people read them.

/** Made once, when first needed: making a format takes longer than all else in a row of a list. */
function once(make) {
  let made;
  return () => (made ??= make());
}

const number = once(() => new Intl.NumberFormat("en"));
const time = once(() => new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", hour12: false }));
const date = once(() => new Intl.DateTimeFormat([], { day: "numeric", month: "short" }));

export const count = (value) => number().format(value);

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) {
    value /= 1000;
    at++;
  }
  return `${at && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

export function seconds(value) {
  if (value > 0 && value < 0.01) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  return `${Math.floor(value / 3600)} h ${Math.round((value % 3600) / 60)} min`;
}

/** US dollars: small prices keep two significant digits. */
export function dollars(value) {
  if (!value) return "$0";
  if (value >= 0.01) return `$${value.toFixed(2)}`;
  return `$${value.toFixed(Math.min(12, 1 - Math.floor(Math.log10(value))))}`;
}

export const rate = (value) => (value >= 100 ? Math.round(value) : value.toFixed(1)) + " tok/s";

export function percent(share) {
  const value = share * 100;
  if (value >= 99.95) return "100 %";
  return value >= 0.1 ? `${value.toFixed(1)} %` : value > 0 ? "< 0.1 %" : "0 %";
}

/** When something was, as in a list: the time today, else the date; nothing if that is no time. */
export function when(milliseconds) {
  const then = new Date(milliseconds);
  if (Number.isNaN(then.valueOf())) return "";
  const isToday = then.toDateString() === new Date().toDateString();
  return (isToday ? time() : date()).format(then);
}

// Control characters, signs of direction, and invisible letters that don't belong to an emoji's flag.
const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f]|[\u{e0000}-\u{e007f}](?<!\u{1f3f4}[\u{e0020}-\u{e007e}]{0,6}[^])/gu;

/** The text with characters shown that would turn the direction of what follows, or hide it. */
export function plain(text) {
  return text.replace(
    HIDDEN,
    (sign) => `⟨U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`,
  );
}
