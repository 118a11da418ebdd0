/** Golden images: a few images as pixels with the probabilities that they should get, carried inside a bundle. */

import { integer, list, object, oneOf, parse, string, withDefault } from "./checked.js";
import { invalid, LibkdError } from "./errors.js";
import { type Manifest, MANIFEST, type Precision } from "./manifest.js";
import type { CheckedSession } from "./session.js";
import type { Bytes } from "./source.js";

export const GOLDEN = "golden.safetensors";

/** The largest allowed distance of a probability from the golden one, on any machine. */
export const TOLERANCE: Record<Precision, number> = { fp32: 1e-4, fp16: 0.05, int8: 0.1 };

/** Images, each as pixels [height, width, 3], and the probabilities [classes] that each should get. */
export interface Golden {
  readonly pixels: readonly Uint8Array[];
  readonly probabilities: readonly Float32Array[];
}

const lengths = list(integer(0));
const tensor = (dtype: "U8" | "F32") => object({ dtype: oneOf(dtype), shape: lengths, data_offsets: list(integer(0), 2, 2) });
const header = object({
  pixels: tensor("U8"),
  probabilities: tensor("F32"),
  __metadata__: withDefault((value, place) => (void string()(place, place), value), null),
});

/** Return the golden images that a file of safetensors holds, or throw `bundle-invalid`. */
export function readGolden(content: Bytes, place: string, manifest: Manifest): Golden {
  const { height, width } = manifest.input;
  const classes = manifest.labels.length;
  try {
    const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
    const start = 8 + Number(view.getBigUint64(0, true));
    const { pixels, probabilities } = header(parse(content.subarray(8, start)), "$");
    const count = pixels.shape[0] ?? 0;
    const expected = JSON.stringify([[count, height, width, 3], [count, classes]]);
    if (count < 1 || JSON.stringify([pixels.shape, probabilities.shape]) !== expected) throw new Error("shapes");
    const image = slices(content, start, pixels.data_offsets, count, height * width * 3);
    const answers = slices(content, start, probabilities.data_offsets, count, classes * 4);
    return { pixels: image, probabilities: answers.map((bytes) => new Float32Array(bytes.slice().buffer)) };
  } catch (fault) {
    throw invalid(place, `${GOLDEN} does not fit ${MANIFEST}; export again`, fault);
  }
}

function slices(content: Bytes, start: number, offsets: readonly number[], count: number, each: number): Bytes[] {
  const [begin = 0, end = 0] = offsets;
  if (end - begin !== count * each || start + end > content.length) throw new Error("offsets");
  return Array.from({ length: count }, (_, index) => content.subarray(start + begin + index * each).subarray(0, each));
}

/** Return the largest difference from the golden probabilities on this machine, or throw `proof-failed`. */
export async function checkGolden(golden: Golden, session: CheckedSession, place: string, precision: Precision): Promise<number> {
  let difference = 0;
  for (const [index, pixels] of golden.pixels.entries()) {
    const answer = await session.run(pixels);
    golden.probabilities[index]!.forEach((expected, label) => {
      difference = Math.max(difference, Math.abs(answer[label]! - expected));
    });
  }
  if (!(difference <= TOLERANCE[precision])) {
    throw new LibkdError(
      "proof-failed",
      `${place}: golden answers are off by ${difference.toPrecision(2)} on this machine, more than ` +
        `${TOLERANCE[precision]}; export again with this engine's version, or choose another target`,
    );
  }
  return difference;
}
