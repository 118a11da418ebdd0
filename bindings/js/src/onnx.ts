/** The manifest inside an ONNX file. ONNX Runtime's JavaScript does not give it, so the protobuf is read here. */

import type { Bytes } from "./source.js";

const METADATA_KEY = "libkd_bundle";
const METADATA_PROPS = 14; // of ModelProto, a repeated StringStringEntryProto
const KEY = 1;
const VALUE = 2;

/** Return the JSON that a model file carries, or "" if there is none. */
export function carriedText(model: Bytes): string {
  const text = new TextDecoder();
  for (const [field, entry] of fields(model)) {
    if (field !== METADATA_PROPS) continue;
    const parts = new Map([...fields(entry)].map(([part, content]) => [part, text.decode(content)]));
    if (parts.get(KEY) === METADATA_KEY) return parts.get(VALUE) ?? "";
  }
  return "";
}

/** Yield the number and the content of each field of a message that has a length; numbers are passed over. */
function* fields(message: Bytes): Generator<[number, Bytes]> {
  let position = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; position < message.length; scale *= 128) {
      const byte = message[position++]!;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new RangeError("a message that is cut off");
  };
  while (position < message.length) {
    const tag = varint();
    const kind = tag % 8;
    if (kind === 0) varint();
    else if (kind === 1) position += 8;
    else if (kind === 5) position += 4;
    else if (kind === 2) {
      const length = varint();
      if (position + length > message.length) throw new RangeError("a message that is cut off");
      yield [Math.floor(tag / 8), message.subarray(position, position + length)];
      position += length;
    } else throw new RangeError("a message of another kind");
  }
}
