/** Images from what an app has, decoded to 8 bits in each channel. */

import { type Format, strip } from "./containers.js";
import { firstLine, LibkdError } from "./errors.js";
import type { Input } from "./manifest.js";
import { pixels, type Raster } from "./pixels.js";
import { decodePng } from "./png.js";
import type { Bytes } from "./source.js";

export const MAX_BYTES = 256 * 2 ** 20;
export const MAX_PIXELS = 80_000_000;
export const MAX_SIDE = 65_535;

/** The bytes of a file, or pixels uint8 [height, width, 1, 3 or 4]. */
export type ImageSource = Uint8Array | ArrayBuffer | Blob | Raster;

/** Decodes a file that is no PNG. It neither turns the image nor applies a colour profile. */
export type Decode = (file: Bytes, format: Format) => Promise<Raster>;

/** Return the name of an image for errors and predictions. */
export function sourceName(image: ImageSource): string {
  if (image instanceof Blob) return "name" in image ? String(image.name) : `<${image.size} bytes>`;
  if (image instanceof Uint8Array || image instanceof ArrayBuffer) return `<${image.byteLength} bytes>`;
  return `<array ${image?.height}x${image?.width}x${channels(image)}>`;
}

/** Return the pixels [height, width, 3] that a model takes. RGB of exactly this size is used as it is. */
export async function imagePixels(image: ImageSource, input: Input, decode: Decode, name: string): Promise<Uint8Array> {
  try {
    if (isRaster(image)) {
      checkRaster(image, name);
      const isReady = channels(image) === 3 && image.width === input.width && image.height === input.height;
      return isReady ? Uint8Array.from(image.data) : pixels(image, input);
    }
    const { raster, orientation } = await decodeFile(await bytesOf(image, name), name, decode);
    return pixels(raster, input, orientation);
  } catch (fault) {
    if (fault instanceof LibkdError) throw fault;
    const why = firstLine(fault);
    throw new LibkdError("image-unreadable", `${name}: not a readable image (${why}); check or remove the file`, fault);
  }
}

function isRaster(image: ImageSource): image is Raster {
  return !(image instanceof Uint8Array || image instanceof ArrayBuffer || image instanceof Blob);
}

/** Return the image in a file as it is stored, and the orientation that makes it upright. */
export async function decodeFile(
  file: Bytes,
  name: string,
  decode: Decode,
): Promise<{ readonly raster: Raster; readonly orientation: number }> {
  const { data, format, width, height, orientation } = strip(file);
  checkSize(width, height, name);
  const raster = format === "PNG" ? await decodePng(data) : await decode(data, format);
  if (raster.width !== width || raster.height !== height) {
    throw new Error(`its header says ${width}x${height} pixels, and it has ${raster.width}x${raster.height}`);
  }
  return { raster, orientation };
}

async function bytesOf(image: Uint8Array | ArrayBuffer | Blob, name: string): Promise<Bytes> {
  const size = image instanceof Blob ? image.size : image.byteLength;
  if (size > MAX_BYTES) throw unreadable(`${name}: larger than ${MAX_BYTES / 2 ** 20} MB; scale it down`);
  if (size === 0) throw unreadable(`${name}: empty; check or remove the file`);
  if (image instanceof Uint8Array) return image.buffer instanceof ArrayBuffer ? (image as Bytes) : image.slice();
  return new Uint8Array(image instanceof Blob ? await image.arrayBuffer() : image);
}

function checkRaster(image: Raster, name: string): void {
  const isBytes = image?.data instanceof Uint8Array || image?.data instanceof Uint8ClampedArray;
  if (!isBytes) throw unreadable("not an image; give the bytes of a file, or its pixels as uint8");
  checkSize(image.width, image.height, name);
  if (![1, 3, 4].includes(channels(image))) {
    throw unreadable(`${name}: pixels have the shape [height, width, 1, 3 or 4]`);
  }
}

function channels(image: Raster): number {
  return image?.data?.length / (image?.width * image?.height);
}

function checkSize(width: number, height: number, name: string): void {
  if (!(width > 0 && height > 0)) {
    throw unreadable(`${name}: ${width}x${height} pixels, so there is nothing to see; check where it comes from`);
  }
  if (width * height > MAX_PIXELS) {
    throw unreadable(`${name}: ${width}x${height} pixels, ${MAX_PIXELS} are allowed; scale it down`);
  }
  if (Math.max(width, height) > MAX_SIDE) {
    throw unreadable(`${name}: ${width}x${height} pixels, a side may have ${MAX_SIDE}; cut it into parts`);
  }
}

function unreadable(message: string): LibkdError {
  return new LibkdError("image-unreadable", message);
}
