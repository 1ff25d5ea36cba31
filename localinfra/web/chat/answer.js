// One request for answers: its stream of chunks → the state of each choice.

import { request, events } from "../lib/api.js";

export const ROUTE = "/v1/chat/completions";

/** An answer as far as it has come. */
export class Answer {
  constructor() {
    this.content = "";
    this.reasoning = "";
    this.calls = [];
    this.scores = [];
    this.finish = null;
    this.thoughtS = null; // how long the reasoning took
  }

  /** @param {any} choice of a chunk @param {number | null} now seconds since the request, if known */
  take(choice, now) {
    const { delta } = choice;
    if (delta.reasoning_content) {
      this.reasoning += delta.reasoning_content;
      this.thoughtFrom ??= now;
    }
    if (delta.content || delta.tool_calls) {
      if (this.thoughtFrom !== undefined) this.thoughtS ??= now - this.thoughtFrom;
      this.content += delta.content ?? "";
    }
    for (const call of delta.tool_calls ?? []) {
      const known = (this.calls[call.index] ??= { id: call.id, name: "", arguments: "" });
      known.name += call.function?.name ?? "";
      known.arguments += call.function?.arguments ?? "";
    }
    if (choice.logprobs?.content) this.scores.push(...choice.logprobs.content.map(slim));
    this.finish = choice.finish_reason ?? this.finish;
  }
}

/** A token's score without what is never shown. */
function slim({ token, logprob, top_logprobs }) {
  return {
    token,
    logprob,
    top_logprobs: top_logprobs.map((other) => ({ token: other.token, logprob: other.logprob })),
  };
}

/**
 * Sends a request, which the server answers to the end even if this page is left, and updates its answers as they
 * come.
 * @param {any} body with `n` and `stream`
 * @param {string} id a new one
 * @param {Answer[]} answers by choice; those that nobody wants any more are left out
 * @param {(stats: any) => void} onChange
 * @returns {Promise<any>} the stats: `firstTokenS`, `totalS`, and what the server's usage says
 */
export async function ask(body, id, answers, signal, onChange) {
  const start = performance.now();
  const reply = await request(ROUTE, { body: { ...body, background: true }, signal, id });
  return take(reply, answers, () => (performance.now() - start) / 1000, onChange);
}

/** The same for a request that was sent before: all of its answers again, then what is still to come, untimed. */
export async function askAgain(id, answers, signal, onChange) {
  return take(await request(`${placeOf(id)}/events`, { signal }), answers, () => null, onChange);
}

/** Ends a request; it may have ended. */
export const cancel = (id) => request(placeOf(id), { method: "DELETE", isQuiet: true }).catch(() => {});

const placeOf = (id) => `/v1/requests/${encodeURIComponent(id)}`;

async function take(reply, answers, now, onChange) {
  const choices = answers.filter(Boolean).length;
  const stats = { firstTokenS: null, totalS: now(), chunks: 0, choices, ignored: "" };
  stats.ignored = reply.headers.get("x-localinfra-ignored") ?? "";
  for await (const chunk of events(reply)) {
    for (const choice of chunk.choices) {
      const { delta } = choice;
      if (delta.content || delta.reasoning_content || delta.tool_calls) {
        stats.firstTokenS ??= now();
        stats.chunks++;
      }
      answers[choice.index]?.take(choice, now());
    }
    if (chunk.usage) stats.usage = chunk.usage;
    stats.totalS = now();
    onChange(stats);
  }
  return stats;
}

/** Tokens per second after the first one; of chunks while the usage is not known. */
export function speed({ usage, chunks, choices, firstTokenS, totalS }) {
  const tokens = usage ? usage.completion_tokens : chunks;
  const decodeS = totalS - (firstTokenS ?? totalS);
  return decodeS > 0 && tokens > choices ? (tokens - choices) / decodeS : null;
}
