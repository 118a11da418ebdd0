/** The app that `libkd-sdk web` writes, in a real browser. The folders of apps come from the caller; see tests/bindings. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";

import sharp from "sharp";

import { decodePng } from "../dist/png.js";
import { answers, browser, give, kept, open, serve, state } from "./pages.mjs";
import { image, IMAGES, imagePath, tensors } from "./vectors.mjs";

const { APP_FP32, APP_INT8, APP_DAMAGED } = process.env;
const EXPECTED = tensors("probabilities.safetensors");
const LABELS = JSON.parse(readFileSync(`${APP_FP32}/bundle/bundle.json`)).labels;
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const ISOLATION = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
const GREY = ["grey.png", image("grey.png")];

let chromium;
before(async () => (chromium = await browser()));
after(() => chromium.close());

/** Run a test with a page of an app, which may complain about nothing. */
async function withApp(folder, action, { headers, ...options } = {}) {
  const site = await serve(folder, headers);
  const context = await chromium.newContext({ viewport: { width: 390, height: 844 }, ...options });
  try {
    const { page, complaints } = await open(context, site.address);
    await action(page, site);
    assert.deepEqual(complaints, []);
  } finally {
    await context.close();
    await site.close();
  }
}

function check(found, name, tolerance) {
  const expected = EXPECTED.get(name);
  for (const [label, score] of found) {
    const difference = Math.abs(score - expected[LABELS.indexOf(label)]);
    assert.ok(difference <= tolerance, `${name}, ${label}: ${difference}`);
  }
}

/** What axe finds wrong for people who do not see, or see colours badly. */
async function violations(page) {
  await page.evaluate(AXE);
  const found = await page.evaluate(() => globalThis.axe.run());
  return found.violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]);
}

/** A WebP with the pixels of turn-6.png, and its orientation. */
async function turnedWebp() {
  const { width, height, data } = await decodePng(image("turn-6.png"));
  const webp = sharp(data, { raw: { width, height, channels: 3 } }).webp({ lossless: true });
  return webp.withMetadata({ orientation: 6 }).toBuffer();
}

function fits(page) {
  return page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
}

test("images that are dropped get the expected probabilities, on a light phone", () =>
  withApp(APP_FP32, async (page) => {
    assert.equal(await state(page), "wasm");
    assert.match(await page.innerText("#facts"), /(\d+) of \1 as at export/);
    const chosen = IMAGES.filter((name) => name.endsWith(".png") || /cmyk|turn|odd|whole/.test(name));
    const webp = ["turned.webp", await turnedWebp()];
    await give(page, "drop", [...chosen.map((name) => [name, image(name)]), webp, ["text.png", "no image"]]);
    const found = await answers(page, chosen.length + 2);
    check(found.get("turned.webp"), "onnx-fp32/turn-6.png", 1e-3);
    for (const name of chosen) {
      assert.equal(found.get(name).length, 5);
      check(found.get(name), `onnx-fp32/${name}`, name.endsWith(".png") ? 1e-3 : 0.03);
    }
    assert.match(found.get("text.png"), /^text.png: .*no supported image format.*\[image-unreadable\]$/);
    assert.deepEqual(await violations(page), []);
    assert.ok(await fits(page));
  }));

test("once loaded it has threads and works offline, and a new version replaces it", () =>
  withApp(APP_FP32, async (page, site) => {
    await state(page);
    assert.match(await page.innerText("#threads"), /computes with one thread/);
    await kept(page);
    site.folder = "/nowhere";
    await page.context().setOffline(true);
    await Promise.all([page.waitForEvent("load"), page.click("#reload")]);
    assert.equal(await state(page), "wasm");
    assert.match(await page.innerText("#facts"), /WASM, [2-4] threads/);
    assert.ok(!(await page.isVisible("#threads")));
    await give(page, "drop", [GREY]);
    check((await answers(page, 1)).get("grey.png"), "onnx-fp32/grey.png", 1e-3);
    await page.context().setOffline(false);

    site.folder = APP_INT8;
    const versions = () => page.evaluate(async () => (await caches.keys()).join());
    const old = await versions();
    await page.evaluate(async () => (await navigator.serviceWorker.ready).update()); // as a browser does at each load
    while ((await versions()) === old || (await versions()).includes(",")) await page.waitForTimeout(50);
    await page.reload();
    assert.equal(await state(page), "wasm");
    assert.match(await page.innerText("#facts"), /int8/);
  }));

test("it works by keyboard, by paste and with a camera, says its answers, and has threads where a server gives them", () =>
  withApp(
    APP_FP32,
    async (page) => {
      const chosen = page.waitForEvent("filechooser");
      await state(page);
      assert.match(await page.innerText("#facts"), /WASM, [2-4] threads/);
      await page.keyboard.press("Tab");
      await page.keyboard.press("Enter");
      await (await chosen).setFiles(imagePath("rgba.png"));
      check((await answers(page, 1)).get("rgba.png"), "onnx-fp32/rgba.png", 1e-3);
      assert.match(await page.getByRole("status").innerText(), /^rgba.png: \S+, \d+\.\d %$/);
      await give(page, "paste", [GREY]);
      check((await answers(page, 2)).get("grey.png"), "onnx-fp32/grey.png", 1e-3);
      await page.keyboard.press("Tab");
      await page.keyboard.press("Enter");
      await page.locator("#take:focus").waitFor();
      await page.keyboard.press("Enter");
      assert.equal((await answers(page, 3)).get("camera").length, 5);
      await page.click("#stop");
      assert.ok(await page.isHidden("#live"));
    },
    { headers: ISOLATION, permissions: ["camera"] },
  ));

test("at int8 it answers as expected, and stays with WASM where there is no WebGPU, on a dark phone", () =>
  withApp(
    APP_INT8,
    async (page) => {
      assert.equal(await state(page), "wasm");
      assert.match(await page.innerText("#facts"), /(\d+) of \1 as at export/);
      assert.ok(await page.isHidden("#gpu")); // this browser has none
      await page.evaluate(() => (document.getElementById("gpu").hidden = false));
      await give(page, "drop", [GREY]);
      check((await answers(page, 1)).get("grey.png"), "onnx-int8/grey.png", 0.1);
      assert.deepEqual(await violations(page), []);
      await page.click("#use-gpu");
      await page.getByText("WASM stays in use").waitFor();
      await give(page, "drop", [GREY]);
      check((await answers(page, 2)).get("grey.png"), "onnx-int8/grey.png", 0.1);
    },
    { colorScheme: "dark" },
  ));

test("as a file, the page says that it has to be served", async () => {
  const page = await chromium.newPage();
  await page.goto(pathToFileURL(`${APP_FP32}/index.html`).href);
  assert.equal(await state(page), "failed");
  assert.match(await page.getByRole("alert").innerText(), /only from a server: .*\[usage\]$/);
  await page.close();
});

test("a damaged bundle shows its error, and takes no images", () =>
  withApp(APP_DAMAGED, async (page) => {
    assert.equal(await state(page), "failed");
    const shown = await page.getByRole("alert").innerText();
    assert.match(shown, /model.onnx was changed since its export \(SHA-256 differs\).*\[bundle-invalid\]$/);
    assert.ok(await page.isDisabled("#choose"));
    assert.deepEqual(await violations(page), []);
  }));
