/** Bundles answer as expected, and what is not right is refused with the code of Python's error. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Bundle, Classifier, decode, LibkdError, pixels, Prediction } from "libkd";
import sharp from "sharp";

import { checkGolden } from "../dist/golden.js";
import { decodeFile } from "../dist/image.js";
import { Choice } from "../dist/prediction.js";
import { CheckedSession } from "../dist/session.js";
import { bundle, image, IMAGES, imagePath, tensors } from "./vectors.mjs";

const EXPECTED = tensors("probabilities.safetensors");
const GIVEN = tensors("pixels.safetensors");
const TOLERANCE = { "onnx-fp32": 1e-3, "onnx-int8": 0.1 };

let folder;
before(() => (folder = mkdtempSync(join(tmpdir(), "libkd-"))));
after(() => rmSync(folder, { recursive: true }));

function refused(code, message) {
  return (fault) => {
    assert.ok(fault instanceof LibkdError, String(fault));
    assert.equal(fault.code, code);
    assert.match(fault.message, message);
    assert.doesNotMatch(fault.message, /\n/);
    return true;
  };
}

function best(probabilities) {
  return probabilities.indexOf(Math.max(...probabilities));
}

function margin(probabilities) {
  const [first, second] = [...probabilities].sort((one, other) => other - one);
  return first - second;
}

for (const [name, tolerance] of Object.entries(TOLERANCE)) {
  test(`${name} answers as expected to all images`, async () => {
    const classifier = await Classifier.open(bundle(name), { threads: 1, selfTest: true });
    for (const file of IMAGES) {
      const expected = EXPECTED.get(`${name}/${file}`);
      const given = { width: 32, height: 32, data: GIVEN.get(`cover/${file}`) };
      const { probabilities } = await classifier.predict(given);
      const difference = Math.max(...probabilities.map((share, index) => Math.abs(share - expected[index])));
      assert.ok(difference <= tolerance, `${file}: ${difference}`);
      const { probabilities: decoded, label } = await classifier.predict(image(file));
      if (file.endsWith(".png")) assert.deepEqual(decoded, probabilities);
      if (margin(expected) > tolerance) assert.equal(label, classifier.labels[best(expected)], file);
    }
    await classifier.close();
    await assert.rejects(classifier.predict(image("grey.png")), refused("usage", /closed/));
  });
}

test("calls may overlap", async () => {
  const classifier = await Classifier.open(bundle("onnx-fp32"));
  const found = await Promise.all(IMAGES.slice(0, 8).map((file) => classifier.predict(imagePath(file))));
  for (const [index, prediction] of found.entries()) {
    const alone = await classifier.predict(imagePath(IMAGES[index]));
    assert.deepEqual(JSON.stringify(prediction), JSON.stringify(alone));
    assert.equal(prediction.source, imagePath(IMAGES[index]));
  }
  await classifier.close();
});

test("pixels of exactly the model's size are used as they are, and others are scaled", async () => {
  const classifier = await Classifier.open(bundle("onnx-fp32"));
  const given = { width: 36, height: 36, data: new Uint8Array(36 * 36).map((_, index) => index) };
  const scaled = { width: 32, height: 32, data: pixels(given, classifier.input) };
  assert.deepEqual((await classifier.predict(given)).probabilities, (await classifier.predict(scaled)).probabilities);
  assert.equal((await classifier.predict(scaled)).source, "<array 32x32x3>");
  await classifier.close();
});

const LABELS = ["a", "b", "c", "b"];
const SCORES = Float32Array.of(0.1, 0.4, 0.1, 0.4);

test("the labels of a prediction are chosen as in Python", () => {
  const chosen = (options) => new Choice(LABELS, options).prediction(SCORES, "x").toJSON().top.map(({ label }) => label);
  assert.deepEqual(chosen({}), ["b", "b", "a", "c"]);
  assert.deepEqual(chosen({ topK: 3 }), ["b", "b", "a"]);
  assert.deepEqual(chosen({ scoreThreshold: 0.2 }), ["b", "b"]);
  assert.deepEqual(chosen({ allow: ["c", "a"] }), ["a", "c"]);
  assert.deepEqual(chosen({ deny: ["b"] }), ["a", "c"]);
  const nothing = new Choice(LABELS, { scoreThreshold: 1 }).prediction(SCORES, "x");
  assert.ok(nothing instanceof Prediction);
  assert.deepEqual(nothing.toJSON(), { source: "x", label: null, score: 0, top: [] });
});

for (const [options, message] of [
  [{ topK: 0 }, /topK: 0; at least 1/],
  [{ scoreThreshold: 1.5 }, /between 0 and 1/],
  [{ scoreThreshold: NaN }, /between 0 and 1/],
  [{ allow: ["a"], deny: ["b"] }, /both given/],
  [{ allow: ["z"] }, /'z' is none of the 4 labels; known: a, b, c, b/],
  [{ allow: [] }, /no label/],
  [{ deny: LABELS }, /no label/],
]) {
  test(`options: ${JSON.stringify(options)} make no sense`, () =>
    assert.throws(() => new Choice(LABELS, options), refused("usage", message)));
}

test("a number of threads that makes no sense is refused", () =>
  assert.rejects(Classifier.open(bundle("onnx-fp32"), { threads: 0 }), refused("usage", /threads: 0; at least 1/)));

// ------------------------------------------------------------------------------------------------------------- bundles

for (const name of ["openvino-fp32", "executorch-int8"]) {
  test(`${name} is an unsupported target`, () =>
    assert.rejects(Classifier.open(bundle(name)), refused("engine-missing", /unsupported target .*ONNX bundles only/)));
}

test("a folder that is no bundle is named", async () => {
  await assert.rejects(Classifier.open(join(folder, "nowhere")), refused("bundle-invalid", /nowhere: not a bundle/));
  await assert.rejects(Classifier.open(imagePath("grey.png")), refused("bundle-invalid", /grey.png: not a bundle/));
});

/** Return a copy of a bundle with another manifest. `change` gets the manifest and the copy's folder. */
function changed(change) {
  const copy = mkdtempSync(join(folder, "bundle-"));
  cpSync(bundle("onnx-fp32"), copy, { recursive: true });
  const manifest = JSON.parse(readFileSync(join(copy, "bundle.json")));
  change(manifest, copy);
  writeFileSync(join(copy, "bundle.json"), JSON.stringify(manifest));
  return copy;
}

for (const [what, change, message] of [
  ["other labels", (manifest) => (manifest.labels[0] = "other"), /was made for another bundle.json/],
  ["another version", (manifest) => (manifest.versions.torch = "1"), /was made for another bundle.json/],
  ["fewer classes", (manifest) => manifest.labels.pop(), /output is probabilities: float32 \[n, 10\], and not .*9\]/],
  ["another size", (manifest) => (manifest.input.width = 31), /input is pixels: uint8 \[n, 32, 32, 3\], and not/],
]) {
  test(`a model with ${what} belongs to another bundle`, () =>
    assert.rejects(Classifier.open(changed(change)), refused("bundle-invalid", message)));
}

test("a model that is cut off is refused by the engine, if its hash was made right", async () => {
  const copy = changed((manifest, place) => {
    const content = readFileSync(join(place, "model.onnx")).subarray(0, -2000);
    writeFileSync(join(place, "model.onnx"), content);
    manifest.files["model.onnx"] = { bytes: content.length, sha256: createHash("sha256").update(content).digest("hex") };
  });
  await assert.rejects(Classifier.open(copy), refused("engine-failed", /loading model.onnx failed: /));
});

test("golden images that the model does not reproduce are an error", async () => {
  const opened = await Bundle.open(files(changed(() => {})));
  const golden = opened.golden();
  golden.probabilities[0][3] += 0.5;
  const session = await CheckedSession.open(opened, fakeEngine(opened, () => golden.probabilities[1]));
  await assert.rejects(checkGolden(golden, session, "here", "fp32"), refused("proof-failed", /here: golden answers are off by/));
});

for (const [answer, message] of [
  [new Float32Array(10).fill(NaN), /NaN or infinity/],
  [new Float32Array(10).fill(0.5), /no probabilities/],
  [Float32Array.of(-1, 2, 0, 0, 0, 0, 0, 0, 0, 0), /no probabilities/],
  [new Float32Array(9), /something other than 10 numbers/],
  [new Float64Array(10).fill(0.1), /something other than 10 numbers in float32/],
]) {
  test(`an answer is no probabilities: ${answer.constructor.name} ${answer[0]}`, async () => {
    const opened = await Bundle.open(files(bundle("onnx-fp32")));
    const session = await CheckedSession.open(opened, fakeEngine(opened, () => answer));
    await assert.rejects(session.run(new Uint8Array(3072)), refused("engine-failed", message));
  });
}

test("an engine that fails is named, and does not block later calls", async () => {
  const opened = await Bundle.open(files(bundle("onnx-fp32")));
  let calls = 0;
  const engine = fakeEngine(opened, () => {
    calls += 1;
    if (calls === 1) throw new Error("out of order\nat line 3");
    return new Float32Array(10).fill(0.1);
  });
  const session = await CheckedSession.open(opened, engine);
  await assert.rejects(session.run(new Uint8Array(3072)), refused("engine-failed", /ONNX Runtime failed: out of order$/));
  assert.equal((await session.run(new Uint8Array(3072))).length, 10);
});

function files(place) {
  return { place, names: async () => null, read: async (name) => new Uint8Array(readFileSync(join(place, name))) };
}

function fakeEngine({ input, labels }, answer) {
  const inputs = [{ name: "pixels", dtype: "uint8", shape: [null, input.height, input.width, 3] }];
  const outputs = [{ name: "probabilities", dtype: "float32", shape: [null, labels.length] }];
  return async () => ({ inputs, outputs, run: async () => answer(), close: async () => {} });
}

// -------------------------------------------------------------------------------------------------------------- images

/** Return a PNG whose header says another size. */
function sized(width, height) {
  const file = image("grey.png");
  const view = new DataView(file.buffer);
  view.setUint32(16, width);
  view.setUint32(20, height);
  return file;
}

/** Return a JPEG that passes over its pixels so many times more. */
function scanned(times) {
  const file = image("progressive.jpg");
  const scan = Uint8Array.of(0xff, 0xda, 0, 8, 1, 1, 0, 0, 0, 0, 1);
  return new Uint8Array(Buffer.concat([file.subarray(0, -2), ...Array(times).fill(scan), file.subarray(-2)]));
}

for (const [what, given, message] of [
  ["empty", new Uint8Array(), /<0 bytes>: empty/],
  ["text", new TextEncoder().encode("no image"), /no supported image format/],
  ["a PNG that is cut off", image("rgba.png").slice(0, 900), /not a readable image/],
  ["a JPEG that is cut off", image("odd.jpg").slice(0, 2500), /not a readable image/],
  ["a JPEG of many scans", scanned(300), /a JPEG of more than 200 scans/],
  ["a JPEG without pixels", image("odd.jpg").slice(0, 60), /a JPEG whose header is damaged/],
  ["a PNG of too many pixels", sized(50_000, 50_000), /50000x50000 pixels, 80000000 are allowed/],
  ["a PNG with a long side", sized(70_000, 1), /a side may have 65535/],
  ["pixels in float", { width: 1, height: 1, data: new Float32Array(3) }, /not an image/],
  ["two channels", { width: 1, height: 1, data: new Uint8Array(2) }, /\[height, width, 1, 3 or 4\]/],
  ["no pixels", { width: 0, height: 1, data: new Uint8Array(0) }, /nothing to see/],
  ["a missing file", "nowhere.png", /nowhere.png: no such file/],
  ["a folder", ".", /can't be read \(a folder\)/],
  ["a device", "/dev/zero", /a pipe, a socket or a device/],
  ["null", null, /not an image/],
]) {
  test(`an image is ${what}`, async () => {
    const classifier = await Classifier.open(bundle("onnx-fp32"));
    await assert.rejects(classifier.predict(given), refused("image-unreadable", message));
    await classifier.close();
  });
}

test("a WebP is decoded without its EXIF and its profile, which only say how it is turned", async () => {
  const data = Uint8Array.from({ length: 59 * 42 * 3 }, (_, index) => (index * 7) & 255);
  const webp = sharp(data, { raw: { width: 59, height: 42, channels: 3 } }).webp({ lossless: true });
  const file = await webp.withMetadata({ orientation: 6 }).withIccProfile("p3", { attach: true }).toBuffer();
  const { raster, orientation } = await decodeFile(new Uint8Array(file), "turned", (stripped, format) => {
    assert.equal(format, "WEBP");
    assert.ok(!/EXIF|ICCP/.test(Buffer.from(stripped).toString("latin1")));
    return decode(stripped, format);
  });
  assert.equal(orientation, 6);
  assert.deepEqual([raster.width, raster.height], [59, 42]);
});

test("a JPEG is decoded without its EXIF", async () => {
  const { orientation } = await decodeFile(image("turn-8.jpg"), "turned", async (stripped) => {
    assert.ok(!Buffer.from(stripped).toString("latin1").includes("Exif"));
    return decode(stripped, "JPEG");
  });
  assert.equal(orientation, 8);
});
