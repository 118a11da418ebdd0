/** A server of files without any header of its own, and a browser, for the tests of the app. */

import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

import { chromium } from "playwright-core";

const TYPES = {
  ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".mjs": "text/javascript",
  ".json": "application/json", ".wasm": "application/wasm",
};

/** Serve the folder `site.folder`, which may change, with `headers`. */
export async function serve(folder, headers = {}) {
  const site = { folder, address: "", close };
  const server = createServer((request, answer) => {
    const path = join(site.folder, normalize(decodeURIComponent(new URL(request.url, "http://x").pathname)));
    const file = existsSync(path) && statSync(path).isDirectory() ? join(path, "index.html") : path;
    if (!existsSync(file)) {
      answer.writeHead(404).end();
      return;
    }
    answer.writeHead(200, { "Content-Type": TYPES[extname(file)] ?? "application/octet-stream", ...headers });
    createReadStream(file).pipe(answer);
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  site.address = `http://localhost:${server.address().port}/`;
  function close() {
    server.closeAllConnections();
    return new Promise((done) => server.close(done));
  }
  return site;
}

export function browser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ["--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"],
  });
}

/** Open a page, and collect what it complains about. */
export async function open(context, address) {
  const page = await context.newPage();
  page.setDefaultTimeout(120_000);
  const complaints = [];
  page.on("console", (message) => {
    if (message.type() === "error") complaints.push(message.text());
  });
  page.on("pageerror", (fault) => complaints.push(String(fault)));
  await page.goto(address);
  return { page, complaints };
}

/** Return whether the model is in use with `wasm` or `webgpu`, or has `failed`. */
export async function state(page) {
  await page.waitForFunction(() => document.documentElement.dataset.state);
  return page.evaluate(() => document.documentElement.dataset.state);
}

/** Wait until all files are kept, so that the page works offline. */
export function kept(page) {
  return page.waitForFunction(() => document.documentElement.dataset.offline);
}

/** Drop or paste files, as a user does. `files` are pairs of a name and content. */
export async function give(page, kind, files) {
  const coded = files.map(([name, content]) => [name, Buffer.from(content).toString("base64")]);
  await page.evaluate(
    ([event, given]) => {
      const data = new DataTransfer();
      for (const [name, base64] of given) {
        data.items.add(new File([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], name));
      }
      const options = { bubbles: true, cancelable: true };
      const made = {
        drop: () => new DragEvent("drop", { ...options, dataTransfer: data }),
        paste: () => new ClipboardEvent("paste", { ...options, clipboardData: data }),
      };
      document.getElementById("drop").dispatchEvent(made[event]());
    },
    [kind, coded],
  );
}

/** Return the answers on the page when so many are there, by the name of the image: label to score, or the error. */
export async function answers(page, count) {
  await page.waitForFunction((wanted) => document.querySelectorAll(".bars, .refused").length >= wanted, count);
  const cards = await page.$$eval("#answers > li", (found) =>
    found.map((card) => [
      card.querySelector("small").textContent.split(",")[0],
      card.querySelector(".wrong")?.textContent ??
        [...card.querySelectorAll(".bars li")].map((row) => [row.querySelector("span").textContent, Number(row.dataset.score)]),
    ]),
  );
  return new Map(cards);
}
