/** Bundle the scripts of the browser app into the Python package, where its page and its style lie. With --check, show that
 * what lies there is what the sources build. */

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const OUT = here("../../libkd_sdk/pages/web/");

const files = new Map();
for (const [name, format] of [["app", "iife"], ["worker", "esm"], ["service", "iife"]]) {
  const { outputFiles } = await build({
    entryPoints: [here(`app/${name}.ts`)],
    outdir: OUT,
    bundle: true,
    format,
    target: "es2022",
    minify: true,
    legalComments: "none",
    charset: "utf8",
    write: false,
  });
  for (const { path, text } of outputFiles) files.set(path, text);
}

const stale = [...files].filter(([path, text]) => read(path) !== text).map(([path]) => path);
if (process.argv.includes("--check")) {
  for (const path of stale) console.error(`${path} is not what the sources build; npm run app`);
  process.exitCode = stale.length ? 1 : 0;
} else {
  for (const path of stale) writeFileSync(path, files.get(path));
}

function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}
