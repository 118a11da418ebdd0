/** Predictions in browsers: bundles come by HTTP, onnxruntime-web computes, and the browser decodes what is no PNG. */

import { Bundle } from "./bundle.js";
import { Classifier as Base, type ClassifierOptions as BaseOptions, load, type Platform } from "./classifier.js";
import type { Format } from "./containers.js";
import { firstLine, invalid } from "./errors.js";
import { openOrt, type OnnxRuntime } from "./ort.js";
import type { Raster } from "./pixels.js";
import type { Bytes, Source } from "./source.js";

export { Bundle } from "./bundle.js";
export { type ErrorCode, LibkdError } from "./errors.js";
export type { ImageSource } from "./image.js";
export type { Filter, Input, Manifest, Precision } from "./manifest.js";
export { pixels, type Raster } from "./pixels.js";
export { Prediction, type PredictionJson } from "./prediction.js";

/** The module `onnxruntime-web/wasm`, or `onnxruntime-web/webgpu`. */
export interface OrtWeb extends OnnxRuntime {
  readonly env: { readonly wasm: { numThreads?: number } };
}

export type Provider = "wasm" | "webgpu";

export interface ClassifierOptions extends BaseOptions {
  readonly ort: OrtWeb;
  /** The default is `wasm`. */
  readonly provider?: Provider;
}

/** A loaded bundle: `const classifier = await Classifier.open("bundle/", { ort })`. */
export class Classifier extends Base {
  /** Load the bundle at an address, under which its files are. Threads work only in pages that are cross-origin isolated. */
  static async open(address: string | URL, { ort, provider, ...options }: ClassifierOptions): Promise<Classifier> {
    return new Classifier(await load(await Bundle.open(new Address(address)), platform(ort, provider), options));
  }
}

/** The address of a bundle. Its files can't be listed there. */
export class Address implements Source {
  readonly place: string;
  private readonly base: URL;

  constructor(address: string | URL) {
    this.base = new URL(address, globalThis.location?.href);
    if (!this.base.pathname.endsWith("/")) this.base.pathname += "/";
    this.place = String(address);
  }

  names(): Promise<null> {
    return Promise.resolve(null);
  }

  async read(name: string, most: number): Promise<Bytes | "missing" | "larger"> {
    try {
      const answer = await fetch(new URL(encodeURIComponent(name), this.base));
      if (answer.status === 404) return "missing";
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      return await body(answer, most);
    } catch (fault) {
      throw invalid(this.place, `${name} can't be fetched (${firstLine(fault)}); check the connection and the address`, fault);
    }
  }
}

async function body(answer: Response, most: number): Promise<Bytes | "larger"> {
  const parts: Bytes[] = [];
  let length = 0;
  const reader = answer.body!.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    length += part.value.length;
    if (length > most) {
      await reader.cancel();
      return "larger";
    }
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

export function platform(ort: OrtWeb, provider: Provider = "wasm"): Platform {
  return {
    decode,
    engine(model, threads) {
      if (!globalThis.crossOriginIsolated) ort.env.wasm.numThreads = 1;
      else if (threads !== undefined) ort.env.wasm.numThreads = threads;
      return openOrt(ort, model, { executionProviders: [provider] });
    },
  };
}

/** A band of rows has about so many pixels. */
const BAND = 2 ** 20;

async function decode(file: Bytes, format: Format): Promise<Raster> {
  const type = `image/${format.toLowerCase()}`;
  const bitmap = await createImageBitmap(new Blob([file], { type }), { colorSpaceConversion: "none" });
  try {
    return rgba(bitmap);
  } finally {
    bitmap.close();
  }
}

/** Return the pixels of a bitmap on white, a band at a time, because a canvas may not be as large as an image. */
function rgba(bitmap: ImageBitmap): Raster {
  const { width, height } = bitmap;
  const rows = Math.min(height, Math.max(1, Math.floor(BAND / width)));
  const canvas = new OffscreenCanvas(width, rows);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  if (!context) throw new Error("larger than this browser can read");
  const data = new Uint8ClampedArray(4 * width * height);
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.fillStyle = "white";
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, 0, -top);
    data.set(context.getImageData(0, 0, width, count).data, 4 * width * top);
  }
  return { width, height, data };
}
