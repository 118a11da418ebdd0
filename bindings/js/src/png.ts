/** PNG files as pixels. No browser gives them to the bit: 16 bits, alpha and gamma change on the way to a canvas. */

import type { Raster } from "./pixels.js";
import type { Bytes } from "./source.js";

interface Header {
  readonly width: number;
  readonly height: number;
  readonly depth: number;
  readonly colours: number;
  readonly isInterlaced: boolean;
}

const PALETTE = 3;
/** The channels of each kind of colours: grey, RGB, palette, grey with alpha, RGB with alpha. */
const CHANNELS = new Map([[0, 1], [2, 3], [PALETTE, 1], [4, 2], [6, 4]]);
const DEPTHS = new Map([[0, [1, 2, 4, 8, 16]], [2, [8, 16]], [PALETTE, [1, 2, 4, 8]], [4, [8, 16]], [6, [8, 16]]]);
/** Adam7: first column and row of each pass, and the steps to the next. */
const PASSES = [
  [0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2],
] as const;

/** Return the image in a PNG file, as RGBA if it has transparency, else as RGB. Throws an `Error` if it is damaged. */
export async function decodePng(file: Bytes): Promise<Raster> {
  const chunks = new Map<string, Bytes>();
  const data: Bytes[] = [];
  for (const [kind, body] of chunksOf(file)) {
    if (kind === "IDAT") data.push(body);
    else if (kind === "IHDR" || kind === "PLTE" || kind === "tRNS") chunks.set(kind, body);
  }
  const header = headerOf(chunks.get("IHDR"));
  const passes = passesOf(header);
  const lines = await inflated(data, passes.reduce((sum, { rows, bytes }) => sum + rows * (1 + bytes), 0));
  const palette = paletteOf(header, chunks.get("PLTE"), chunks.get("tRNS"));
  const channels = palette.isClear ? 4 : 3;
  const image = { width: header.width, height: header.height, data: new Uint8Array(header.width * header.height * channels) };
  let position = 0;
  for (const pass of passes) {
    unfilter(lines, position, pass.rows, pass.bytes, header);
    for (let row = 0; row < pass.rows; row++, position += 1 + pass.bytes) {
      const samples = samplesOf(lines, position + 1, pass.columns * CHANNELS.get(header.colours)!, header.depth);
      const to = (pass.top + row * pass.stepY) * header.width + pass.left;
      palette.paint(samples, image.data, channels * to, channels * pass.stepX);
    }
  }
  return image;
}

/** Yield the kind and the body of each chunk, up to the end of the image. */
function* chunksOf(file: Bytes): Generator<[string, Bytes]> {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  for (let position = 8; position + 12 <= file.length; ) {
    const length = view.getUint32(position);
    const kind = String.fromCharCode(...file.subarray(position + 4, position + 8));
    const end = position + 8 + length;
    if (end + 4 > file.length) break;
    const isRead = kind === "IHDR" || kind === "PLTE" || kind === "tRNS" || kind === "IDAT";
    if (isRead && crc(file.subarray(position + 4, end)) !== view.getUint32(end)) {
      throw new Error("a PNG with a wrong checksum");
    }
    if (kind === "IEND") return;
    yield [kind, file.subarray(position + 8, end)];
    position = end + 4;
  }
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

export function crc(bytes: Uint8Array): number {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC_TABLE[(value ^ byte) & 255]! ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

function headerOf(body: Bytes | undefined): Header {
  if (body?.length !== 13) throw new Error("a PNG without a header");
  const view = new DataView(body.buffer, body.byteOffset);
  const [depth = 0, colours = 0, compression, filter, interlace = 0] = body.subarray(8);
  if (!DEPTHS.get(colours)?.includes(depth) || compression || filter || interlace > 1) {
    throw new Error("a PNG of an unknown kind");
  }
  return { width: view.getUint32(0), height: view.getUint32(4), depth, colours, isInterlaced: interlace === 1 };
}

interface Pass {
  readonly left: number;
  readonly top: number;
  readonly stepX: number;
  readonly stepY: number;
  readonly columns: number;
  readonly rows: number;
  /** The length of a row. */
  readonly bytes: number;
}

function passesOf({ width, height, depth, colours, isInterlaced }: Header): Pass[] {
  const passes = isInterlaced ? PASSES : ([[0, 0, 1, 1]] as const);
  return passes
    .map(([left, top, stepX, stepY]) => {
      const columns = Math.ceil((width - left) / stepX);
      const bytes = Math.ceil((columns * depth * CHANNELS.get(colours)!) / 8);
      return { left, top, stepX, stepY, columns, rows: Math.ceil((height - top) / stepY), bytes };
    })
    .filter(({ columns, rows }) => columns > 0 && rows > 0);
}

/** Return exactly so many bytes. What would follow is not unpacked. */
async function inflated(parts: Bytes[], length: number): Promise<Uint8Array> {
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  const result = new Uint8Array(length);
  let filled = 0;
  while (filled < length) {
    const { done, value } = await reader.read();
    if (done) throw new Error("a PNG that is cut off");
    result.set(value.subarray(0, length - filled), filled);
    filled += Math.min(value.length, length - filled);
  }
  reader.cancel().catch(() => undefined);
  return result;
}

/** Undo the filters of rows, in place. Each row begins with a byte that names its filter. */
function unfilter(lines: Uint8Array, start: number, rows: number, bytes: number, { depth, colours }: Header): void {
  const before = Math.max(1, (depth * CHANNELS.get(colours)!) >> 3); // from a byte to that of the pixel at its left
  let above: Uint8Array = new Uint8Array(bytes);
  for (let row = 0; row < rows; row++) {
    const begin = start + row * (1 + bytes) + 1;
    const line = lines.subarray(begin, begin + bytes);
    unfilterRow(lines[begin - 1]!, line, above, before);
    above = line;
  }
}

function unfilterRow(filter: number, line: Uint8Array, above: Uint8Array, before: number): void {
  if (filter > 4) throw new Error("a PNG with an unknown filter");
  if (filter === 1) {
    for (let at = before; at < line.length; at++) line[at]! += line[at - before]!;
  } else if (filter === 2) {
    for (let at = 0; at < line.length; at++) line[at]! += above[at]!;
  } else if (filter === 3) {
    for (let at = 0; at < line.length; at++) line[at]! += ((at < before ? 0 : line[at - before]!) + above[at]!) >> 1;
  } else if (filter === 4) {
    for (let at = 0; at < before; at++) line[at]! += above[at]!;
    for (let at = before; at < line.length; at++) line[at]! += paeth(line[at - before]!, above[at]!, above[at - before]!);
  }
}

function paeth(left: number, up: number, corner: number): number {
  const byLeft = Math.abs(up - corner);
  const byUp = Math.abs(left - corner);
  const byCorner = Math.abs(left + up - 2 * corner);
  if (byLeft <= byUp && byLeft <= byCorner) return left;
  return byUp <= byCorner ? up : corner;
}

/** Return samples of one row, each with all of its bits. */
function samplesOf(lines: Uint8Array, begin: number, count: number, depth: number): Uint8Array | Uint16Array {
  if (depth === 8) return lines.subarray(begin, begin + count);
  const most = (1 << depth) - 1;
  return Uint16Array.from({ length: count }, (_, index) => {
    if (depth === 16) return (lines[begin + 2 * index]! << 8) | lines[begin + 2 * index + 1]!;
    const bit = index * depth;
    return (lines[begin + (bit >> 3)]! >> (8 - depth - (bit & 7))) & most;
  });
}

/** How samples become colours of 8 bits, with alpha if something of the image is clear. */
interface Palette {
  readonly isClear: boolean;
  /** Write the pixels of a row from `to` on, one every `step` bytes. */
  paint(samples: Uint8Array | Uint16Array, data: Uint8Array, to: number, step: number): void;
}

function paletteOf({ depth, colours }: Header, table?: Bytes, clear?: Bytes): Palette {
  if (colours === PALETTE) return tablePalette(table, clear);
  const channels = CHANNELS.get(colours)!;
  const [green, blue] = channels < 3 ? [0, 0] : [1, 2];
  const hasAlpha = channels === 2 || channels === 4;
  const hidden = clear && !hasAlpha ? clearSamples(clear, channels) : null;
  const isReady = depth === 8 && channels >= 3 && !hidden;
  const eight = depth === 16 ? (sample: number) => sample >> 8 : (sample: number) => (sample * 255) / ((1 << depth) - 1);
  return {
    isClear: hasAlpha || hidden !== null,
    paint(samples, data, to, step) {
      if (isReady && step === channels) return data.set(samples, to);
      for (let from = 0; from < samples.length; from += channels, to += step) {
        data[to] = eight(samples[from]!);
        data[to + 1] = eight(samples[from + green]!);
        data[to + 2] = eight(samples[from + blue]!);
        if (hasAlpha) data[to + 3] = eight(samples[from + channels - 1]!);
        else if (hidden) data[to + 3] = hidden.every((sample, channel) => samples[from + channel] === sample) ? 0 : 255;
      }
    },
  };
}

function tablePalette(table?: Bytes, clear?: Bytes): Palette {
  if (!table) throw new Error("a PNG without its palette");
  return {
    isClear: clear !== undefined,
    paint(samples, data, to, step) {
      for (let from = 0; from < samples.length; from++, to += step) {
        const place = samples[from]!;
        for (let channel = 0; channel < 3; channel++) data[to + channel] = table[3 * place + channel] ?? 0;
        if (clear) data[to + 3] = clear[place] ?? 255;
      }
    },
  };
}

/** Return the samples of the one transparent colour. */
function clearSamples(body: Bytes, channels: number): number[] {
  if (body.length < 2 * channels) throw new Error("a PNG whose transparent colour is cut off");
  return Array.from({ length: channels }, (_, channel) => (body[2 * channel]! << 8) | body[2 * channel + 1]!);
}
