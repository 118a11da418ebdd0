/** The vectors of spec/, for the tests. */

import { readFileSync, readdirSync } from "node:fs";

const SPEC = new URL("../../../spec/vectors/", import.meta.url);

export const INPUTS = JSON.parse(readFileSync(new URL("vectors.json", SPEC), "utf8")).inputs;
export const IMAGES = readdirSync(new URL("images/", SPEC)).sort();

export function image(name) {
  return new Uint8Array(readFileSync(new URL(`images/${name}`, SPEC)));
}

/** Return the tensors of a file of safetensors, as `Uint8Array` or `Float32Array` by name. */
export function tensors(file) {
  const content = readFileSync(new URL(file, SPEC));
  const start = 8 + Number(content.readBigUInt64LE(0));
  const header = JSON.parse(content.subarray(8, start).toString());
  delete header.__metadata__;
  const read = ([name, { dtype, data_offsets: [begin, end] }]) => {
    const bytes = new Uint8Array(content.subarray(start + begin, start + end));
    return [name, dtype === "F32" ? new Float32Array(bytes.buffer) : bytes];
  };
  return new Map(Object.entries(header).map(read));
}

export function bundle(name) {
  return new URL(`bundles/${name}`, SPEC).pathname;
}

export function imagePath(name) {
  return new URL(`images/${name}`, SPEC).pathname;
}
