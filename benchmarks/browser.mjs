/**
 * Print how long an app of `libkd-sdk web` needs for an image, in milliseconds, as the page shows it: the median.
 *
 *     CHROMIUM=/usr/bin/chromium node benchmarks/browser.mjs APP IMAGE.png
 *
 * The server sends the headers that allow threads. The packages of bindings/js have to be installed.
 */

import { readFileSync } from "node:fs";

import { browser, give, open, serve, state } from "../bindings/js/test/pages.mjs";

const WARM_UP = 10;
const COUNT = 40;
const [app, image] = process.argv.slice(2);
const site = await serve(app, { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" });
const chromium = await browser();
try {
  const { page } = await open(await chromium.newContext(), site.address);
  await state(page);
  const content = readFileSync(image);
  const times = [];
  for (let index = 0; index < WARM_UP + COUNT; index++) {
    await give(page, "drop", [[`image-${index}.png`, content]]);
    const card = page.locator("#answers li", { hasText: `image-${index}.png`, has: page.locator(".bars") });
    times.push(Number((await card.locator("small").textContent()).match(/, ([\d.]+) ms/)[1]));
  }
  console.log(times.slice(WARM_UP).sort((one, other) => one - other)[COUNT / 2]);
} finally {
  await chromium.close();
  await site.close();
}
