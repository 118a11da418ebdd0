/** Readers of JSON: each takes a value and its place, and returns it with a type, or throws `Misfit`. */

/** A value is not what belongs in its place. */
export class Misfit extends Error {}

export type Reader<T> = (value: unknown, place: string) => T;

type Fields = Record<string, Reader<unknown>>;
export type Read<R> = R extends Reader<infer T> ? T : never;

function refuse(expected: string, place: string): never {
  throw new Misfit(`expected ${expected} - at ${place}`);
}

export function string(most = Infinity, pattern?: RegExp): Reader<string> {
  return (value, place) => {
    if (typeof value !== "string" || /\p{Surrogate}/u.test(value)) return refuse("text", place);
    if (value.length > most && [...value].length > most) refuse(`text of at most ${most} characters`, place);
    if (pattern && !pattern.test(value)) refuse(`text like ${pattern.source}`, place);
    return value;
  };
}

export function number(accepts: (value: number) => boolean, range: string): Reader<number> {
  return (value, place) =>
    typeof value === "number" && Number.isFinite(value) && accepts(value) ? value : refuse(`a number ${range}`, place);
}

export function integer(least: number, most: number = Number.MAX_SAFE_INTEGER): Reader<number> {
  return (value, place) =>
    Number.isInteger(value) && (value as number) >= least && (value as number) <= most
      ? (value as number)
      : refuse(`an integer between ${least} and ${most}`, place);
}

export function oneOf<const T extends string>(...choices: readonly T[]): Reader<T> {
  return (value, place) =>
    choices.includes(value as T) ? (value as T) : refuse(`one of ${choices.join(", ")}`, place);
}

export function list<T>(item: Reader<T>, least = 0, most = Infinity): Reader<readonly T[]> {
  return (value, place) => {
    if (!Array.isArray(value) || value.length < least || value.length > most) return refuse("a list", place);
    return value.map((each, index) => item(each, `${place}[${index}]`));
  };
}

/** An object with any keys. The result is a map, in which a key such as `__proto__` is like any other. */
export function map<T>(item: Reader<T>): Reader<ReadonlyMap<string, T>> {
  return (value, place) =>
    new Map(entries(value, place).map(([key, each]) => [string()(key, place), item(each, `${place}[...]`)]));
}

/** Null, or no key at all, is null. */
export function nullable<T>(reader: Reader<T>): Reader<T | null> {
  return (value, place) => (value === null || value === undefined ? null : reader(value, place));
}

export function withDefault<T>(reader: Reader<T>, fallback: T): Reader<T> {
  return (value, place) => (value === undefined ? fallback : reader(value, place));
}

/** Null, which the key must say. */
export function required<T>(reader: Reader<T | null>): Reader<T | null> {
  return (value, place) => (value === undefined ? refuse("a value", place) : reader(value, place));
}

/** An object with exactly these keys. */
export function object<F extends Fields>(fields: F): Reader<{ readonly [K in keyof F]: Read<F[K]> }> {
  const allowed = new Set(Object.keys(fields));
  return (value, place) => {
    const given = new Map(entries(value, place));
    for (const key of given.keys()) {
      if (!allowed.has(key)) throw new Misfit(`unknown field \`${key}\` - at ${place}`);
    }
    const read = Object.entries(fields).map(([key, reader]) => [key, reader(given.get(key), `${place}.${key}`)]);
    return Object.fromEntries(read) as { readonly [K in keyof F]: Read<F[K]> };
  };
}

function entries(value: unknown, place: string): [string, unknown][] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return refuse("an object", place);
  return Object.entries(value);
}

/** Return the JSON value that UTF-8 text holds; throws an `Error` if it holds none. */
export function parse(text: Uint8Array): unknown {
  return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(text)) as unknown;
}
