/** The worker: it holds the model, so that the page stays quick while it computes. */

import { Bundle } from "../src/bundle.js";
import { Classifier, load, type Loaded } from "../src/classifier.js";
import { firstLine, LibkdError } from "../src/errors.js";
import { checkGolden, TOLERANCE } from "../src/golden.js";
import { Address, type OrtWeb, platform, type Provider } from "../src/web.js";
import type { Failure, Ready, Reply, Request } from "./messages.js";

const RUNTIMES: Record<Provider, string> = { wasm: "./runtime/ort.wasm.min.mjs", webgpu: "./runtime/ort.webgpu.min.mjs" };
const SHOWN = 5;
const MOST_THREADS = 4;

let bundle: Bundle;
let classifier: Classifier;
let last: Promise<void> = Promise.resolve();

function post(reply: Reply): void {
  self.postMessage(reply);
}

/** Load the model into an engine, and check its golden images before it answers to anything else. */
async function open(provider: Provider): Promise<Ready> {
  const golden = bundle.golden();
  if (provider === "webgpu" && bundle.precision !== "fp32" && !golden) {
    const why = `at ${bundle.precision}, WebGPU is used only if golden images prove it, and this bundle has none`;
    throw new LibkdError("proof-failed", `${why}; export again and include some`);
  }
  const ort = (await import(new URL(RUNTIMES[provider], self.location.href).href)) as OrtWeb;
  const threads = Math.min(MOST_THREADS, navigator.hardwareConcurrency);
  const loaded = await load(bundle, platform(ort, provider), { topK: SHOWN, threads });
  const difference = golden && (await proved(loaded));
  const before = classifier;
  classifier = new Classifier(loaded);
  await before?.close();
  return {
    name: bundle.manifest.name,
    precision: bundle.precision,
    labels: bundle.labels.length,
    provider,
    threads: ort.env.wasm.numThreads ?? 1,
    golden: golden && { images: golden.pixels.length, difference: difference ?? 0, tolerance: TOLERANCE[bundle.precision] },
  };
}

async function proved({ session }: Loaded): Promise<number> {
  try {
    return await checkGolden(bundle.golden()!, session, bundle.manifest.name, bundle.precision);
  } catch (fault) {
    await session.close();
    throw fault;
  }
}

async function answer(request: Request): Promise<void> {
  if (request.kind === "webgpu") {
    await open("webgpu").then(
      (ready) => post({ kind: "ready", ready }),
      (fault: unknown) => post({ kind: "kept", failure: failureOf(fault) }),
    );
    return;
  }
  const { id, image, name } = request;
  try {
    const started = performance.now();
    const prediction = await classifier.predict(image, name);
    post({ kind: "answer", id, prediction: prediction.toJSON(), milliseconds: performance.now() - started });
  } catch (fault) {
    post({ kind: "refused", id, failure: failureOf(fault) });
  }
}

function failureOf(fault: unknown): Failure {
  if (fault instanceof LibkdError) return { code: fault.code, message: fault.message };
  return { code: "engine-failed", message: firstLine(fault) };
}

async function start(): Promise<void> {
  try {
    bundle = await Bundle.open(new Address("bundle/"));
    post({ kind: "ready", ready: await open("wasm") });
  } catch (fault) {
    post({ kind: "failed", failure: failureOf(fault) });
    return;
  }
  // One image after the other: a decoded one may take hundreds of megabytes.
  self.onmessage = ({ data }: MessageEvent<Request>) => {
    last = last.then(() => answer(data));
  };
}

void start();
