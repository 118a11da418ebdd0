/**
 * Predict what images show, with a bundle for ONNX Runtime:
 *
 *     node predict.mjs BUNDLE IMAGE...
 *
 * Each line is JSON as `libkd-sdk predict --json` prints it. The exit code is 2 if an image can't be read.
 */

import { Classifier, LibkdError } from "libkd";

const [bundle, ...images] = process.argv.slice(2);

/** Print a value on one line, with escapes for what some programs take for the end of a line. */
function show(value) {
  const escape = (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`;
  console.log(JSON.stringify(value).replace(/[\x7f-\x9f\u2028\u2029]/g, escape));
}

async function main() {
  if (images.length === 0) throw new LibkdError("usage", "usage: node predict.mjs BUNDLE IMAGE...");
  const classifier = await Classifier.open(bundle, { topK: 3 });
  for (const image of images) {
    try {
      show(await classifier.predict(image));
    } catch (fault) {
      if (fault.code !== "image-unreadable") throw fault;
      show({ source: image, error: fault.message, code: fault.code });
      process.exitCode = fault.exitCode;
    }
  }
  await classifier.close();
}

try {
  await main();
} catch (fault) {
  if (!(fault instanceof LibkdError)) throw fault;
  console.error(`predict: ${fault.message} [${fault.code}]`);
  process.exitCode = fault.exitCode;
}
