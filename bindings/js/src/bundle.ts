/** A bundle: its files, read once, and used only if every byte is as it was written. */

import { Misfit, parse } from "./checked.js";
import { firstLine, invalid, LibkdError } from "./errors.js";
import { type Golden, GOLDEN, readGolden } from "./golden.js";
import {
  FORMAT, type Input, type Manifest, MANIFEST, MAX_MANIFEST_BYTES, readManifest, SIGNATURE,
} from "./manifest.js";
import type { Bytes, Source } from "./source.js";

const MODEL = "model.onnx";
const ONNX_BEGINS = 0x08;
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u;

/** A bundle whose files have exactly the content that its manifest lists. */
export class Bundle {
  private constructor(
    readonly place: string,
    readonly manifest: Manifest,
    private readonly contents: ReadonlyMap<string, Bytes>,
  ) {}

  /** Read and check a bundle. No engine is loaded, and no signature is checked. */
  static async open(source: Source): Promise<Bundle> {
    const manifest = await manifestOf(source);
    checkTarget(source.place, manifest);
    await checkNames(source, manifest);
    const contents = new Map<string, Bytes>();
    for (const name of manifest.files.keys()) contents.set(name, await contentOf(source, name, manifest));
    if (contents.get(MODEL)?.[0] !== ONNX_BEGINS) {
      throw invalid(source.place, `${MODEL} is not a file of ONNX Runtime; copy or export the bundle again`);
    }
    return new Bundle(source.place, manifest, contents);
  }

  get labels(): readonly string[] {
    return this.manifest.labels;
  }

  get input(): Input {
    return this.manifest.input;
  }

  get precision(): Manifest["precision"] {
    return this.manifest.precision;
  }

  /** The content of the model file. */
  get model(): Bytes {
    return this.contents.get(MODEL) as Bytes;
  }

  /** The golden images, or null if the bundle was made without. */
  golden(): Golden | null {
    const content = this.contents.get(GOLDEN);
    return content ? readGolden(content, this.place, this.manifest) : null;
  }
}

async function manifestOf(source: Source): Promise<Manifest> {
  const text = await source.read(MANIFEST, MAX_MANIFEST_BYTES);
  if (text === "missing") {
    throw invalid(source.place, `not a bundle (it has no ${MANIFEST}); give the folder that export wrote`);
  }
  if (text === "larger") {
    throw invalid(source.place, `${MANIFEST} is larger than ${MAX_MANIFEST_BYTES / 2 ** 20} MB; this is not a manifest`);
  }
  try {
    const value = parse(text);
    const format = (value as { format?: unknown } | null)?.format;
    if (typeof format === "string" && format !== FORMAT && format.startsWith("libkd-bundle/")) {
      throw invalid(source.place, `written in format ${format}, this version reads ${FORMAT}; upgrade libkd`);
    }
    return readManifest(value);
  } catch (fault) {
    if (fault instanceof LibkdError) throw fault;
    const why = fault instanceof Misfit ? fault.message : firstLine(fault);
    throw invalid(source.place, `${MANIFEST} is not understood (${why}); copy or export the bundle again`, fault);
  }
}

function checkTarget(place: string, manifest: Manifest): void {
  if (manifest.target !== "onnx") {
    const message = `unsupported target ${manifest.target}: JavaScript runs ONNX bundles only; export with --target onnx`;
    throw new LibkdError("engine-missing", `${place}: ${message}`);
  }
}

async function checkNames(source: Source, manifest: Manifest): Promise<void> {
  if (!manifest.files.has(MODEL)) throw invalid(source.place, `${MANIFEST} does not list ${MODEL}; export again`);
  for (const name of manifest.files.keys()) {
    const plain = name !== "" && !name.startsWith(".") && !/[/\\]/.test(name) && !UNPRINTABLE.test(name);
    if (!plain || name === MANIFEST || name === SIGNATURE) {
      const shown = JSON.stringify(name);
      throw invalid(source.place, `${MANIFEST} lists ${shown}, which is not a valid name for a file in a bundle`);
    }
  }
  for (const name of (await source.names()) ?? []) {
    if (name !== MANIFEST && name !== SIGNATURE && !manifest.files.has(name)) {
      throw invalid(source.place, `holds ${JSON.stringify(name)}, which ${MANIFEST} does not list; remove it`);
    }
  }
}

async function contentOf(source: Source, name: string, manifest: Manifest): Promise<Bytes> {
  const entry = manifest.files.get(name)!;
  const content = await source.read(name, entry.bytes);
  if (content === "missing") throw invalid(source.place, `${name} is missing; copy or export the bundle again`);
  if (content === "larger" || content.length !== entry.bytes) {
    const found = content === "larger" ? `over ${entry.bytes}` : content.length;
    throw invalid(source.place, `${name} has ${found} bytes, not ${entry.bytes}; copy or export the bundle again`);
  }
  if ((await sha256(content)) !== entry.sha256) {
    throw invalid(source.place, `${name} was changed since its export (SHA-256 differs); copy or export it again`);
  }
  return content;
}

async function sha256(content: Bytes): Promise<string> {
  if (!globalThis.crypto?.subtle) {
    throw new LibkdError("usage", "a browser computes SHA-256 only for pages from https or localhost; serve it so");
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
