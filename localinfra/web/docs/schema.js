// JSON schemas → what people read: types in words, fields with their descriptions.

import { folded, h, inline } from "./dom.js";

let schemas = {};

export function readSchemas(document) {
  schemas = document.components.schemas;
}

const isNull = (schema) => schema.type === "null";
const nameOf = (schema) => schema.$ref.split("/").pop();

/** A schema's alternatives, without null. */
function alternatives(schema) {
  return schema.anyOf ? schema.anyOf.flatMap(alternatives) : [schema].filter((one) => !isNull(one));
}

const takesNull = (schema) => isNull(schema) || (schema.anyOf ?? []).some(takesNull);

/** A type in words: "list of Message", "number, 0 to 2". */
export function typeText(schema) {
  return alternatives(schema).map(oneType).join(" or ") || "null";
}

function oneType(schema) {
  if (schema.$ref) return nameOf(schema);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") return `list of ${schema.items ? grouped(schema.items) : "anything"}`;
  if (schema.type === "object")
    return schema.additionalProperties ? `map to ${grouped(schema.additionalProperties)}` : "object";
  if (schema.type === undefined) return "anything";
  return schema.type + limits(schema);
}

function grouped(schema) {
  const text = typeText(schema);
  return alternatives(schema).length > 1 ? `(${text})` : text;
}

function limits({ minimum, maximum, exclusiveMinimum, exclusiveMaximum, maxLength, format }) {
  if (format) return `, ${format}`;
  if (maxLength !== undefined) return `, up to ${maxLength} characters`;
  const least = minimum ?? exclusiveMinimum;
  const most = maximum ?? exclusiveMaximum;
  if (least === undefined && most === undefined) return "";
  const above = exclusiveMinimum === undefined ? "" : "above ";
  const below = exclusiveMaximum === undefined ? "" : "below ";
  if (most === undefined || most > 2 ** 53) return `, from ${above}${least} on`;
  return `, ${above}${least} to ${below}${most}`;
}

/** The names of the structs that a schema refers to itself. */
function references(schema) {
  if (schema.$ref) return [nameOf(schema)];
  const inner = [...(schema.anyOf ?? []), schema.items, schema.additionalProperties];
  return [...new Set(inner.filter((one) => one && typeof one === "object").flatMap(references))];
}

/** What a schema says: a single struct's fields, or each of several structs, folded. */
export function schemaView(schema, isAnswer) {
  const names = references(schema);
  if (schema.$ref) return structView(names[0], isAnswer);
  return [
    h("p", { class: "type" }, schema.anyOf && names.length > 1 ? "One of these:" : typeText(schema)),
    names.map((name) => folded(name, () => structView(name, isAnswer))),
  ];
}

function structView(name, isAnswer) {
  const schema = schemas[name];
  const required = new Set(schema.required);
  const fields = Object.entries(schema.properties).map(([field, value]) =>
    h(
      "li",
      {},
      h("code", { class: "field" }, field),
      " ",
      !isAnswer && required.has(field) && h("span", { class: "required" }, "required"),
      " ",
      h("span", { class: "type" }, typeText(value), isAnswer && takesNull(value) && " or null", defaultText(value, isAnswer)),
      value.description && h("p", {}, inline(value.description)),
      references(value).map((inner) => folded(inner, () => structView(inner, isAnswer))),
    ),
  );
  return [
    schema.description && h("p", { class: "about" }, inline(schema.description)),
    fields.length ? h("ul", { class: "fields" }, fields) : h("p", { class: "type" }, "no fields"),
  ].filter(Boolean);
}

function defaultText({ default: value }, isAnswer) {
  const says = value !== undefined && value !== "" && typeof value !== "object";
  return says && !isAnswer ? `, default ${JSON.stringify(value)}` : "";
}

/** The names of all fields that a schema has, for the search. */
export function fieldNames(schema) {
  return references(schema).flatMap((name) => Object.keys(schemas[name].properties));
}
