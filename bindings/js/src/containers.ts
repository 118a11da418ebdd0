/** Image files without their metadata, so that no decoder turns them or changes their colours; and their orientation. */

import { crc } from "./png.js";
import type { Bytes } from "./source.js";

export type Format = "JPEG" | "PNG" | "WEBP" | "GIF" | "BMP";

/** A file without its metadata. `orientation` is EXIF's, from 1 to 8; any other number says nothing. */
export interface Content {
  readonly format: Format;
  readonly data: Bytes;
  readonly width: number;
  readonly height: number;
  readonly orientation: number;
}

/** Return a file without its metadata. Throws an `Error` if it is in no known format, or damaged. */
export function strip(file: Bytes): Content {
  const format = formatOf(file);
  if (!format) throw new Error("its content is in no supported image format");
  try {
    return { format, orientation: 1, ...STRIP[format](file) };
  } catch (fault) {
    if (fault instanceof RangeError) throw new Error(`a ${format} whose header is cut off`);
    throw fault;
  }
}

function formatOf(file: Bytes): Format | null {
  const head = ascii(file.subarray(0, 16));
  if (head.startsWith("\xff\xd8\xff")) return "JPEG";
  if (head.startsWith("\x89PNG\r\n\x1a\n")) return "PNG";
  if (/^RIFF[^]{4}WEBPVP8[ LX]/.test(head)) return "WEBP";
  if (/^GIF8[79]a/.test(head)) return "GIF";
  return head.startsWith("BM") ? "BMP" : null;
}

type Stripped = Omit<Content, "format" | "orientation"> & { readonly orientation?: number };

const STRIP: Record<Format, (file: Bytes) => Stripped> = { JPEG: jpeg, PNG: png, WEBP: webp, GIF: gif, BMP: bmp };

function ascii(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}

function viewOf(bytes: Bytes): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function joined(parts: readonly Bytes[]): Bytes {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let position = 0;
  for (const part of parts) {
    result.set(part, position);
    position += part.length;
  }
  return result;
}

// ---------------------------------------------------------------------------------------------------------------- JPEG

const [START, END, SCAN] = [0xd8, 0xd9, 0xda];
const NO_FRAMES = [0xc4, 0xc8, 0xcc];
const PROGRESSIVE = [0xc2, 0xc6, 0xca, 0xce];
/** A JPEG may have so many passes over its pixels. Encoders write about 10, and each takes time. */
const MAX_SCANS = 200;
const EXIF = "Exif\0\0";
const XMP = "http://ns.adobe.com/xap/1.0/\0";

/** JFIF's marker and Adobe's say how colours are stored, so they stay. */
function isMetadata(marker: number): boolean {
  return (marker >= 0xe1 && marker <= 0xed) || marker === 0xef || marker === 0xfe;
}

function jpeg(file: Bytes): Stripped {
  const view = viewOf(file);
  const kept = [file.subarray(0, 2)];
  const exif: Bytes[] = [];
  let xmp = "";
  let [width, height, channels, frame] = [0, 0, 0, 0];
  for (const { marker, start, end } of segments(file, 2)) {
    if (marker === SCAN) {
      const inScans = PROGRESSIVE.includes(frame) || view.getUint8(start + 4) < channels;
      if (inScans && scans(file, start) > MAX_SCANS) throw new Error(`a JPEG of more than ${MAX_SCANS} scans`);
      kept.push(file.subarray(start));
      return { data: joined(kept), width, height, orientation: orientationOf(joined(exif), xmp) };
    }
    const body = file.subarray(start + 4, end);
    if (!isMetadata(marker)) kept.push(file.subarray(start, end));
    if (marker >= 0xc0 && marker <= 0xcf && !NO_FRAMES.includes(marker)) {
      [frame, height, width] = [marker, view.getUint16(start + 5), view.getUint16(start + 7)];
      channels = view.getUint8(start + 9);
    } else if (marker === 0xe1 && ascii(body.subarray(0, EXIF.length)) === EXIF) {
      exif.push(body.subarray(EXIF.length));
    } else if (marker === 0xe1 && ascii(body.subarray(0, XMP.length)) === XMP) {
      xmp = new TextDecoder().decode(body.subarray(XMP.length));
    }
  }
  throw new Error("a JPEG without pixels");
}

function scans(file: Bytes, position: number): number {
  let count = 0;
  for (const { marker } of segments(file, position)) count += marker === SCAN ? 1 : 0;
  return count;
}

/** Yield each segment of a JPEG, and where it starts and ends; coded pixels are passed over. */
function* segments(file: Bytes, position: number): Generator<{ marker: number; start: number; end: number }> {
  for (;;) {
    const start = file.indexOf(0xff, position);
    const marker = file[start + 1];
    if (start < 0 || marker === undefined || marker === END) return;
    if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd7) || marker === 0xff) {
      position = start + 1;
      continue;
    }
    position = start + 2 + (file[start + 2]! << 8) + file[start + 3]!;
    if (marker === START || !(position <= file.length)) throw new Error("a JPEG whose header is damaged");
    yield { marker, start, end: position };
  }
}

// ----------------------------------------------------------------------------------------------------------------- PNG

const XMP_KEY = "XML:com.adobe.xmp\0";

/** Only the orientation is read. Our own decoder takes no notice of the rest. */
function png(file: Bytes): Stripped {
  const view = viewOf(file);
  let exif = new Uint8Array();
  let xmp = "";
  for (let position = 8; position + 12 <= file.length; ) {
    const end = position + 8 + view.getUint32(position);
    const kind = ascii(file.subarray(position + 4, position + 8));
    if (end + 4 > file.length) break;
    if ((kind === "eXIf" || kind === "iTXt") && crc(file.subarray(position + 4, end)) !== view.getUint32(end)) {
      throw new Error("a PNG with a wrong checksum");
    }
    const body = file.subarray(position + 8, end);
    if (kind === "eXIf") exif = body;
    if (kind === "iTXt" && ascii(body.subarray(0, XMP_KEY.length)) === XMP_KEY) xmp = new TextDecoder().decode(body);
    position = end + 4;
  }
  return { data: file, width: view.getUint32(16), height: view.getUint32(20), orientation: orientationOf(exif, xmp) };
}

// ---------------------------------------------------------------------------------------------------------- the others

/** Flags of an extended WebP: colour profile, EXIF and XMP. */
const WEBP_METADATA = 0x20 | 0x08 | 0x04;

function webp(file: Bytes): Stripped {
  const view = viewOf(file);
  const kept: Bytes[] = [];
  let exif = new Uint8Array();
  let xmp = "";
  let size: [number, number] = [0, 0];
  for (let position = 12; position + 8 <= file.length; ) {
    const kind = ascii(file.subarray(position, position + 4));
    const length = view.getUint32(position + 4, true);
    const end = position + 8 + length + (length % 2);
    const body = file.subarray(position + 8, position + 8 + length);
    if (kind === "EXIF") exif = body;
    else if (kind === "XMP ") xmp = new TextDecoder().decode(body);
    else if (kind !== "ICCP") kept.push(file.slice(position, end));
    if (size[0] === 0) size = webpSize(kind, viewOf(body));
    position = end;
  }
  if (kept[0] && ascii(kept[0].subarray(0, 4)) === "VP8X") kept[0][8]! &= ~WEBP_METADATA;
  const head = file.slice(0, 12);
  viewOf(head).setUint32(4, 4 + kept.reduce((sum, chunk) => sum + chunk.length, 0), true);
  return { data: joined([head, ...kept]), width: size[0], height: size[1], orientation: orientationOf(exif, xmp) };
}

function webpSize(kind: string, body: DataView): [number, number] {
  if (kind === "VP8X") return [1 + triple(body, 4), 1 + triple(body, 7)];
  if (kind === "VP8L") {
    const bits = body.getUint32(1, true);
    return [1 + (bits & 0x3fff), 1 + ((bits >>> 14) & 0x3fff)];
  }
  return kind === "VP8 " ? [body.getUint16(6, true) & 0x3fff, body.getUint16(8, true) & 0x3fff] : [0, 0];
}

function triple(view: DataView, position: number): number {
  return view.getUint16(position, true) + 65536 * view.getUint8(position + 2);
}

function gif(file: Bytes): Stripped {
  const view = viewOf(file);
  return { data: file, width: view.getUint16(6, true), height: view.getUint16(8, true) };
}

function bmp(file: Bytes): Stripped {
  const view = viewOf(file);
  const isOld = view.getUint32(14, true) === 12; // OS/2's header
  const [width, height] = isOld
    ? [view.getUint16(18, true), view.getUint16(20, true)]
    : [view.getInt32(18, true), Math.abs(view.getInt32(22, true))];
  return { data: file, width, height };
}

// --------------------------------------------------------------------------------------------------------- orientation

const ORIENTATION = 0x0112;

/** Return the orientation in EXIF's block, else in XMP's; 1 if both are silent, empty, or damaged. */
function orientationOf(exif: Bytes, xmp: string): number {
  try {
    const found = inTiff(ascii(exif.subarray(0, EXIF.length)) === EXIF ? exif.subarray(EXIF.length) : exif);
    if (found !== null) return found;
  } catch {
    // Damaged EXIF says nothing.
  }
  return Number(/tiff:Orientation(?:="|>)([0-9])/.exec(xmp)?.[1] ?? 1);
}

function inTiff(block: Bytes): number | null {
  const view = viewOf(block);
  const isLittle = view.getUint16(0) === 0x4949;
  const first = view.getUint32(4, isLittle);
  const count = view.getUint16(first, isLittle);
  for (let entry = first + 2; entry < first + 2 + 12 * count; entry += 12) {
    if (view.getUint16(entry, isLittle) === ORIENTATION) return view.getUint16(entry + 8, isLittle);
  }
  return null;
}
