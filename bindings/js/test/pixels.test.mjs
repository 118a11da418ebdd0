/** Images become the pixels of spec/vectors, and PNGs of every kind are read. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { deflateSync } from "node:zlib";

import { crc, decodePng } from "../dist/png.js";
import { decode, pixels } from "../dist/node.js";
import { decodeFile } from "../dist/image.js";
import { image, IMAGES, INPUTS, tensors } from "./vectors.mjs";

const EXPECTED = tensors("pixels.safetensors");

for (const name of IMAGES) {
  test(`${name} becomes the expected pixels`, async () => {
    const { raster, orientation } = await decodeFile(image(name), name, decode);
    for (const [input, description] of Object.entries(INPUTS)) {
      const found = pixels(raster, description, orientation);
      const expected = EXPECTED.get(`${input}/${name}`);
      assert.equal(found.length, expected.length);
      if (name.endsWith(".png")) assert.equal(Buffer.compare(found, expected), 0, input);
      else assert.ok(meanDifference(found, expected) <= 1, input);
    }
  });
}

function meanDifference(one, other) {
  return one.reduce((sum, value, index) => sum + Math.abs(value - other[index]), 0) / one.length;
}

test("a very long image is scaled only where it is kept", () => {
  const data = new Uint8Array(65_535 * 3).fill(77);
  const found = pixels({ width: 1, height: 65_535, data }, INPUTS.cover);
  assert.deepEqual(found, new Uint8Array(32 * 32 * 3).fill(77));
});

// ----------------------------------------------------------------------------------------------------------------- PNG

function chunk(kind, body) {
  const content = Buffer.concat([Buffer.from(kind, "latin1"), body]);
  const numbers = Buffer.alloc(8);
  numbers.writeUInt32BE(body.length, 0);
  numbers.writeUInt32BE(crc(content), 4);
  return Buffer.concat([numbers.subarray(0, 4), content, numbers.subarray(4)]);
}

function png({ width, height, depth = 8, colours = 2, interlace = 0 }, lines, { level = 9, before = [] } = {}) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([depth, colours, 0, 0, interlace], 8);
  const data = chunk("IDAT", deflateSync(lines, { level }));
  const parts = [chunk("IHDR", header), ...before, data, chunk("IEND", Buffer.alloc(0))];
  return new Uint8Array(Buffer.concat([Buffer.from("\x89PNG\r\n\x1a\n", "latin1"), ...parts]));
}

const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

for (const [width, height] of [[1, 1], [3, 2], [8, 8], [13, 21]]) {
  test(`an interlaced PNG of ${width}x${height} is read`, async () => {
    const raw = Uint8Array.from({ length: 3 * width * height }, (_, index) => (index * 37) & 255);
    const lines = PASSES.flatMap(([left, top, stepX, stepY]) => {
      const rows = [];
      for (let y = top; y < height && left < width; y += stepY) {
        const row = [0];
        for (let x = left; x < width; x += stepX) row.push(...raw.subarray(3 * (y * width + x), 3 * (y * width + x) + 3));
        rows.push(...row);
      }
      return rows;
    });
    const found = await decodePng(png({ width, height, interlace: 1 }, Buffer.from(lines)));
    assert.deepEqual({ ...found }, { width, height, data: raw });
  });
}

test("every filter of rows is undone", async () => {
  // The second row is 10, 20, 30 and 40, 50, 60 with each filter, below a row of 1, 2, 3 and 4, 5, 6.
  const rows = [
    [0, 10, 20, 30, 40, 50, 60],
    [1, 10, 20, 30, 30, 30, 30],
    [2, 9, 18, 27, 36, 45, 54],
    [3, 10, 19, 29, 33, 38, 42],
    [4, 9, 18, 27, 30, 30, 30],
  ];
  for (const row of rows) {
    const { data } = await decodePng(png({ width: 2, height: 2 }, Buffer.from([0, 1, 2, 3, 4, 5, 6, ...row])));
    assert.deepEqual([...data], [1, 2, 3, 4, 5, 6, 10, 20, 30, 40, 50, 60], `filter ${row[0]}`);
  }
});

const DAMAGED = {
  "is cut off": png({ width: 2, height: 2 }, Buffer.from([0, 1, 2, 3, 4, 5, 6])),
  "an unknown filter": png({ width: 2, height: 1 }, Buffer.from([9, 1, 2, 3, 4, 5, 6])),
  "an unknown kind": png({ width: 2, height: 1, depth: 3 }, Buffer.from([0, 1])),
  "without its palette": png({ width: 1, height: 1, colours: 3 }, Buffer.from([0, 0])),
  "colour is cut off": png({ width: 1, height: 1 }, Buffer.from([0, 1, 2, 3]), { before: [chunk("tRNS", Buffer.from([0]))] }),
};
for (const [message, file] of Object.entries(DAMAGED)) {
  test(`a PNG: ${message}`, () => assert.rejects(decodePng(file), (fault) => fault.message.includes(message)));
}

test("a PNG with a wrong checksum is refused", async () => {
  const file = png({ width: 1, height: 1 }, Buffer.from([0, 1, 2, 3]));
  file[17] ^= 1; // in the width
  await assert.rejects(decodePng(file), /a PNG with a wrong checksum/);
});

test("a PNG that unpacks to more than its size is unpacked no further", async () => {
  const file = png({ width: 1, height: 1 }, Buffer.alloc(2 ** 26));
  const before = process.memoryUsage().arrayBuffers;
  assert.deepEqual([...(await decodePng(file)).data], [0, 0, 0]);
  assert.ok(process.memoryUsage().arrayBuffers - before < 2 ** 24);
});
