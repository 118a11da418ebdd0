/** Predictions in Node: bundles are folders, onnxruntime-node computes, and sharp decodes what is no PNG. */

import { constants } from "node:fs";
import { open, readdir } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";

import { Bundle } from "./bundle.js";
import { Classifier as Base, type ClassifierOptions, load } from "./classifier.js";
import type { Format } from "./containers.js";
import { firstLine, invalid, LibkdError } from "./errors.js";
import { type ImageSource, MAX_BYTES, MAX_PIXELS } from "./image.js";
import { openOrt, type OnnxRuntime } from "./ort.js";
import type { Raster } from "./pixels.js";
import type { Prediction } from "./prediction.js";
import type { Session } from "./session.js";
import type { Bytes, Source } from "./source.js";

export { Bundle } from "./bundle.js";
export type { ClassifierOptions } from "./classifier.js";
export { type ErrorCode, LibkdError } from "./errors.js";
export type { ImageSource } from "./image.js";
export type { Filter, Input, Manifest, Precision } from "./manifest.js";
export { pixels, type Raster } from "./pixels.js";
export { Prediction, type PredictionJson } from "./prediction.js";

/** A loaded bundle: `const classifier = await Classifier.open("run/bundles/onnx")`. */
export class Classifier extends Base {
  /** Load the bundle in a folder. By default, as many threads compute as this process may use. */
  static async open(folder: string, options: ClassifierOptions = {}): Promise<Classifier> {
    return new Classifier(await load(await Bundle.open(new Folder(folder)), { engine, decode }, options));
  }

  /** Classify one image: a path, the bytes of a file, or its pixels. */
  override async predict(image: ImageSource | string): Promise<Prediction> {
    return typeof image === "string" ? super.predict(await imageFile(image), image) : super.predict(image);
  }
}

/** The folder of a bundle. Links are not followed. */
export class Folder implements Source {
  constructor(readonly place: string) {}

  async names(): Promise<string[]> {
    try {
      return await readdir(this.place);
    } catch (fault) {
      throw invalid(this.place, `can't be read (${reason(fault)})`, fault);
    }
  }

  async read(name: string, most: number): Promise<Bytes | "missing" | "larger"> {
    try {
      return await regularFile(join(this.place, name), most, constants.O_NOFOLLOW);
    } catch (fault) {
      const code = reason(fault);
      if (code === "ENOENT" || code === "ENOTDIR") return "missing";
      throw invalid(this.place, `${name} is ${code === "ELOOP" ? "a link; copy the file itself" : `unreadable (${code})`}`, fault);
    }
  }
}

async function imageFile(path: string): Promise<Bytes> {
  try {
    const content = await regularFile(path, MAX_BYTES, 0);
    if (content === "larger") throw unreadable(`${path}: larger than ${MAX_BYTES / 2 ** 20} MB; scale it down`);
    return content;
  } catch (fault) {
    if (fault instanceof LibkdError) throw fault;
    const code = reason(fault);
    if (code === "ENOENT") throw unreadable(`${path}: no such file; check the path`, fault);
    throw unreadable(`${path}: can't be read (${code}); check the path and its permissions`, fault);
  }
}

/** Return the content of a regular file; a pipe, a socket or a device is never waited for. */
async function regularFile(path: string, most: number, flags: number): Promise<Bytes | "larger"> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | flags);
  try {
    const status = await file.stat();
    if (!status.isFile()) throw new Error(status.isDirectory() ? "a folder" : "a pipe, a socket or a device");
    return status.size > most ? "larger" : new Uint8Array(await file.readFile());
  } finally {
    await file.close();
  }
}

function reason(fault: unknown): string {
  return (fault as NodeJS.ErrnoException).code ?? firstLine(fault);
}

function unreadable(message: string, cause?: unknown): LibkdError {
  return new LibkdError("image-unreadable", message, cause);
}

/** Settings of a session, which are those of the Python SDK. */
const SESSION = {
  intra_op: { spin_duration_us: "50" }, // waiting threads do not take the cores from the app
  x64quantprecision: "1", // CPUs without VNNI would cut off sums of two products in 8 bits at 16 bits
  model_external_initializers_file_folder_path: "/dev/null", // a model names no other file
};

async function engine(model: Bytes, threads?: number): Promise<Session> {
  process.env.ORT_DISABLE_TELEMETRY ??= "1";
  const ort = await optional("onnxruntime-node", () => import("onnxruntime-node"));
  return openOrt(ort as OnnxRuntime, model, {
    executionProviders: ["cpu"],
    intraOpNumThreads: threads ?? availableParallelism(),
    interOpNumThreads: 1,
    extra: { session: SESSION },
  });
}

/** Decode a file that is no PNG by sharp; it is neither turned nor are its colours changed. */
export async function decode(file: Bytes, format: Format): Promise<Raster> {
  const { default: sharp } = await optional("sharp", () => import("sharp"));
  const image = sharp(file, { ignoreIcc: true, failOn: "truncated", limitInputPixels: MAX_PIXELS });
  const isCmyk = format === "JPEG" && (await image.metadata()).space === "cmyk";
  const raw = isCmyk ? image.pipelineColourspace("cmyk").toColourspace("cmyk") : image.toColourspace("srgb");
  const { data, info } = await raw.raw().toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, data: isCmyk ? rgbOfCmyk(data) : data };
}

function rgbOfCmyk(inks: Uint8Array): Uint8Array {
  const result = new Uint8Array((inks.length / 4) * 3);
  for (let from = 0, to = 0; from < inks.length; from += 4) {
    const light = 255 - inks[from + 3]!;
    for (let ink = 0; ink < 3; ink++) {
      const product = inks[from + ink]! * light + 128;
      result[to++] = light - ((product + (product >> 8)) >> 8);
    }
  }
  return result;
}

async function optional<T>(name: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (fault) {
    const isMissing = reason(fault) === "ERR_MODULE_NOT_FOUND";
    if (isMissing) throw new LibkdError("engine-missing", `${name} is not installed; npm install ${name}`, fault);
    throw new LibkdError("engine-failed", `${name} is installed, but can't be loaded (${firstLine(fault)})`, fault);
  }
}
