/** From a decoded image to the pixels that a model takes, to the bit as spec/preprocessing.md says. */

import type { Filter, Input, Resize } from "./manifest.js";

/** A decoded image: uint8 [height, width, channels], channels being 1 (grey), 3 (RGB) or 4 (RGBA). */
export interface Raster {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array | Uint8ClampedArray;
}

type Rgb = Raster & { readonly data: Uint8Array };

/** The part of an axis that is kept once the axis has a new length. */
interface Kept {
  readonly length: number;
  readonly start: number;
  readonly count: number;
}

/** Return the pixels [height, width, 3] that a model with this `input` takes. `orientation` is EXIF's, from 1 to 8. */
export function pixels(image: Raster, input: Input, orientation = 1): Uint8Array {
  const { isSideways, isMirrored, isFlipped } = turning(orientation);
  const [width, height] = isSideways ? [image.height, image.width] : [image.width, image.height];
  const [newWidth, newHeight] = scaledSize(width, height, input.resize);
  const columns = middle(newWidth, input.width);
  const rows = middle(newHeight, input.height);
  const across = mirroredIf(isMirrored, isSideways ? rows : columns);
  const down = mirroredIf(isFlipped, isSideways ? columns : rows);
  return turn(scale(rgb(image), across, down, input.resize.filter), orientation);
}

function middle(length: number, count: number): Kept {
  return { length, start: halfToEven((length - count) / 2), count };
}

function mirroredIf(isMirrored: boolean, { length, start, count }: Kept): Kept {
  return { length, start: isMirrored ? length - start - count : start, count };
}

function halfToEven(half: number): number {
  const below = Math.floor(half);
  return half === below || below % 2 === 0 ? below : below + 1;
}

/** Return an image as RGB, with transparency on white. */
export function rgb(image: Raster): Rgb {
  const { width, height, data } = image;
  const places = width * height;
  const channels = data.length / places;
  if (channels === 3) return { width, height, data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
  const result = new Uint8Array(3 * places);
  for (let from = 0, to = 0; to < result.length; from += channels, to += 3) {
    const alpha = channels === 4 ? data[from + 3]! : 255;
    for (let channel = 0; channel < 3; channel++) {
      const colour = data[from + (channels === 1 ? 0 : channel)]!;
      result[to + channel] = alpha === 255 ? colour : onWhite(colour, alpha);
    }
  }
  return { width, height, data: result };
}

function onWhite(colour: number, alpha: number): number {
  const mixed = 128 * (colour * alpha + 255 * (255 - alpha)) + 16384;
  return (((mixed >> 8) + mixed) >> 8) >> 7;
}

function scaledSize(width: number, height: number, { mode, size }: Resize): [number, number] {
  const [sizeHeight, sizeWidth] = size;
  if (mode === "squash") return [sizeWidth, sizeHeight];
  if (sizeWidth * height >= sizeHeight * width) return [sizeWidth, Math.trunc((sizeWidth * height) / width)];
  return [Math.trunc((sizeHeight * width) / height), sizeHeight];
}

/** Scale an image, only where it is kept. The width comes first, unless the height shrinks by far more. */
function scale(image: Rgb, across: Kept, down: Kept, filter: Filter): Rgb {
  const columns = sharesOf(image.width, across, filter);
  const rows = sharesOf(image.height, down, filter);
  if (image.height > down.length && image.height - down.length > 2 * (image.width - across.length)) {
    return alongWidth(alongHeight(image, rows), columns);
  }
  const top = rows[0]!.first; // the rows before are not seen
  const { first, weights } = rows.at(-1)!;
  const seen = rowsOf(image, top, first + weights.length);
  return alongHeight(alongWidth(seen, columns), rows, top);
}

function rowsOf(image: Rgb, top: number, bottom: number): Rgb {
  const line = 3 * image.width;
  return { width: image.width, height: bottom - top, data: image.data.subarray(top * line, bottom * line) };
}

/** The places of the old axis that a place of the new one sums up, and their weights, in 22 bits after the point. */
interface Share {
  readonly first: number;
  readonly weights: Int32Array;
}

function alongWidth(image: Rgb, shares: readonly Share[]): Rgb {
  const { height, data: old } = image;
  const data = new Uint8Array(3 * shares.length * height);
  for (let row = 0, to = 0; row < height; row++) {
    for (const { first, weights } of shares) {
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      let from = 3 * (row * image.width + first);
      for (let index = 0; index < weights.length; index++) {
        const weight = weights[index]!;
        red += weight * old[from++]!;
        green += weight * old[from++]!;
        blue += weight * old[from++]!;
      }
      data[to++] = clipped(red >> 22);
      data[to++] = clipped(green >> 22);
      data[to++] = clipped(blue >> 22);
    }
  }
  return { width: shares.length, height, data };
}

/** The image begins with the row `top` of the whole one. */
function alongHeight(image: Rgb, shares: readonly Share[], top = 0): Rgb {
  const { width, data: old } = image;
  const line = 3 * width;
  const data = new Uint8Array(line * shares.length);
  const sums = new Int32Array(line);
  for (const [row, { first, weights }] of shares.entries()) {
    sums.fill(HALF);
    let from = (first - top) * line;
    for (const weight of weights) {
      for (let at = 0; at < line; at++) sums[at]! += weight * old[from++]!;
    }
    for (let at = 0; at < line; at++) data[row * line + at] = clipped(sums[at]! >> 22);
  }
  return { width, height: shares.length, data };
}

const HALF = 1 << 21;

function clipped(value: number): number {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

const KERNELS: Record<Exclude<Filter, "nearest">, { support: number; kernel: (x: number) => number }> = {
  box: { support: 0.5, kernel: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bilinear: { support: 1, kernel: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, kernel: (x) => bicubic(Math.abs(x)) },
  lanczos: { support: 3, kernel: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

function bicubic(x: number): number {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

function sinc(x: number): number {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

function sharesOf(length: number, kept: Kept, filter: Filter): Share[] {
  const step = length / kept.length;
  if (filter === "nearest" || length === kept.length) return copies(step, kept);
  const { support, kernel } = KERNELS[filter];
  const stretch = Math.max(step, 1);
  return Array.from({ length: kept.count }, (_, index) => {
    const centre = (kept.start + index + 0.5) * step;
    const first = Math.max(0, Math.trunc(centre - support * stretch + 0.5));
    const last = Math.min(length, Math.trunc(centre + support * stretch + 0.5));
    const raw = Array.from({ length: last - first }, (_, at) => kernel((first + at - centre + 0.5) * (1 / stretch)));
    const whole = raw.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: Int32Array.from(raw, (weight) => rounded(weight / whole)) };
  });
}

function rounded(weight: number): number {
  return Math.trunc(weight * 2 ** 22 + (weight < 0 ? -0.5 : 0.5));
}

/** The place to copy is added up and not multiplied, which rounds differently. */
function copies(step: number, { start, count }: Kept): Share[] {
  const weights = Int32Array.of(1 << 22);
  const shares: Share[] = [];
  for (let place = 0, at = 0.5 * step; place < start + count; place++, at += step) {
    if (place >= start) shares.push({ first: Math.trunc(at), weights });
  }
  return shares;
}

/** Return how an image becomes upright: its axes are exchanged, and the stored ones mirrored before that. */
function turning(orientation: number): { isSideways: boolean; isMirrored: boolean; isFlipped: boolean } {
  return {
    isSideways: [5, 6, 7, 8].includes(orientation),
    isMirrored: [2, 3, 7, 8].includes(orientation),
    isFlipped: [3, 4, 6, 7].includes(orientation),
  };
}

function turn(image: Rgb, orientation: number): Uint8Array {
  const { isSideways, isMirrored, isFlipped } = turning(orientation);
  const [width, height] = isSideways ? [image.height, image.width] : [image.width, image.height];
  const data = new Uint8Array(image.data.length);
  for (let row = 0, to = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const [x, y] = isSideways ? [row, column] : [column, row];
      const storedX = isMirrored ? image.width - 1 - x : x;
      const storedY = isFlipped ? image.height - 1 - y : y;
      const from = 3 * (storedY * image.width + storedX);
      data[to++] = image.data[from]!;
      data[to++] = image.data[from + 1]!;
      data[to++] = image.data[from + 2]!;
    }
  }
  return data;
}
