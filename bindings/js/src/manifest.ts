/** The format of a bundle: `bundle.json` as types. spec/bundle.md describes it. */

import {
  integer, list, map, Misfit, nullable, number, object, oneOf, type Read, type Reader, required, string, withDefault,
} from "./checked.js";

export const FORMAT = "libkd-bundle/1";
export const MANIFEST = "bundle.json";
export const SIGNATURE = "bundle.sig";
export const MAX_MANIFEST_BYTES = 16 * 2 ** 20;
const MAX_FILE_BYTES = 2 * 2 ** 30;
const MAX_LENGTH = 8192;

/** The engines, each with the backends that it delegates to. */
export const TARGETS = {
  onnx: [],
  openvino: [],
  executorch: ["xnnpack", "vulkan", "coreml"],
  coreml: [],
} as const satisfies Record<string, readonly string[]>;

export type Target = keyof typeof TARGETS;

const text = string();
const label = string(500, /^[^\x00-\x1f\x7f-\x9f]+$/);
const count = integer(0);
const share = number((value) => value >= 0 && value <= 1, "between 0 and 1");

const resize = object({
  mode: oneOf("squash", "cover"),
  size: list(integer(1, MAX_LENGTH), 2, 2) as Reader<readonly [number, number]>,
  filter: withDefault(oneOf("nearest", "box", "bilinear", "bicubic", "lanczos"), "bicubic"),
});

const input = object({
  dtype: withDefault(oneOf("uint8"), "uint8"),
  layout: withDefault(oneOf("NHWC"), "NHWC"),
  channels: withDefault(oneOf("RGB"), "RGB"),
  height: integer(1, MAX_LENGTH),
  width: integer(1, MAX_LENGTH),
  resize,
  crop: withDefault(oneOf("center", "none"), "center"),
});

export type Resize = Read<typeof resize>;
export type Filter = Resize["filter"];
/** The pixels that a model takes, and how an image becomes these pixels. `resize.size` is (height, width). */
export type Input = Read<typeof input>;

/** An input whose lengths go together. */
const consistentInput: Reader<Input> = (value, place) => {
  const read = input(value, place);
  const [height, width] = read.resize.size;
  if (read.crop === "none" && (read.resize.mode !== "squash" || height !== read.height || width !== read.width)) {
    throw new Misfit(`without a crop, resize has to squash to exactly height x width - at ${place}`);
  }
  if (height < read.height || width < read.width) throw new Misfit(`resize.size is smaller than the crop - at ${place}`);
  return read;
};

/** What the model file carries as well. */
const descriptionFields = {
  format: oneOf(FORMAT),
  name: label,
  created: text,
  target: oneOf(...(Object.keys(TARGETS) as Target[])),
  backend: nullable(text),
  precision: oneOf("fp32", "fp16", "int8"),
  labels: list(label, 2),
  input: consistentInput,
  output: object({
    kind: withDefault(oneOf("probabilities"), "probabilities"),
    temperature: withDefault(number((value) => value > 0, "above 0"), 1),
  }),
  model: object({
    arch: text,
    parameters: count,
    teachers: withDefault(list(text), []),
    trained_on: nullable(text),
    calibrated_on: nullable(text),
  }),
  quantized: nullable(object({ calibration_images: integer(1), float_layers: withDefault(list(text), []) })),
  versions: map(text),
};

const manifestFields = {
  ...descriptionFields,
  files: map(object({ sha256: string(64, /^[0-9a-f]{64}$/), bytes: integer(1, MAX_FILE_BYTES) })),
  lowered: nullable(object({ delegates: count, outside: map(count) })),
  proof: required(
    nullable(
      object({
        images: integer(1),
        max_abs_difference: share,
        top1_agreement: share,
        top1: nullable(share),
        reference_top1: nullable(share),
      }),
    ),
  ),
};

const description = object(descriptionFields);
const manifest = object(manifestFields);

/** The part of a manifest that is known before the model file is made. */
export type Description = Read<typeof description>;
/** The content of `bundle.json`. */
export type Manifest = Read<typeof manifest>;
export type Precision = Description["precision"];

/** Return a manifest, or throw `Misfit`. */
export function readManifest(value: unknown): Manifest {
  return known(manifest(value, "$"));
}

/** Return the description that a model file carries, or null if the value is something else. */
export function readDescription(value: unknown): Description | null {
  try {
    return known(description(value, "$"));
  } catch {
    return null;
  }
}

/** Return whether two descriptions say the same. */
export function sameDescription(one: Description, other: Description): boolean {
  return JSON.stringify(comparable(one)) === JSON.stringify(comparable(other));
}

function comparable(given: Description): unknown[] {
  return (Object.keys(descriptionFields) as (keyof Description)[]).map((key) => {
    const value = given[key];
    return value instanceof Map ? [...value].sort(([one], [other]) => (one < other ? -1 : 1)) : value;
  });
}

function known<D extends Description>(read: D): D {
  const backends: readonly string[] = TARGETS[read.target];
  if (read.backend !== null && !backends.includes(read.backend)) {
    throw new Misfit(`backend ${JSON.stringify(read.backend)} is none of ${read.target}'s - at $.backend`);
  }
  return read;
}
