/** The page: it takes images, gives them to the worker, and shows the answers. */

import type { Failure, Ready, Reply, Request } from "./messages.js";

/** So many answers stay on the page. */
const KEPT = 50;

function element<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

const [choose, camera, file, drop] = [
  element<HTMLButtonElement>("choose"),
  element<HTMLButtonElement>("camera"),
  element<HTMLInputElement>("file"),
  element("drop"),
];
const [video, answers] = [element<HTMLVideoElement>("video"), element("answers")];

const cards = new Map<number, HTMLElement>();
let worker: Worker;
let isReady = false;
let asked = 0;

function send(request: Request): void {
  worker.postMessage(request);
}

function receive(reply: Reply): void {
  if (reply.kind === "ready") showReady(reply.ready);
  else if (reply.kind === "failed") showFailure(reply.failure);
  else if (reply.kind === "kept") showKept(reply.failure);
  else if (reply.kind === "answer") showAnswer(reply.id, reply.prediction.top, reply.milliseconds);
  else showRefused(reply.id, reply.failure);
}

function start(): void {
  if (location.protocol === "file:") {
    const message = "a browser runs this page only from a server: python -m http.server in this folder is one";
    showFailure({ code: "usage", message });
    return;
  }
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }: MessageEvent<Reply>) => receive(data);
  worker.onerror = () => showFailure({ code: "engine-failed", message: "the worker could not be started; reload the page" });
}

// --------------------------------------------------------------------------------------------------------------- model

function showReady(ready: Ready): void {
  const { name, precision, labels, golden, provider, threads } = ready;
  document.title = name;
  element("title").textContent = name;
  element("about").textContent = `This model tells ${labels} classes of images apart, in this browser.`;
  showFacts([
    golden
      ? {
          name: "Golden images",
          value: `${golden.images} of ${golden.images} as at export`,
          note: `off by at most ${golden.difference.toExponential(1).replace("-", "\u2212")}; ${golden.tolerance} is allowed`,
          isGood: true,
        }
      : { name: "Golden images", value: "none", note: "so its answers were not checked here" },
    { name: "Engine", value: "ONNX Runtime", note: provider === "webgpu" ? "WebGPU" : `WASM, ${plural(threads, "thread")}` },
    { name: "Precision", value: precision },
  ]);
  isReady = true;
  choose.disabled = camera.disabled = false;
  if (provider === "webgpu") {
    showGpuNote("WebGPU is in use.");
    element("threads").hidden = true;
  } else {
    showThreads();
    void offerGpu();
  }
  document.documentElement.dataset.state = provider;
  void workOffline();
}

interface Fact {
  readonly name: string;
  readonly value: string;
  readonly note?: string;
  readonly isGood?: boolean;
}

function showFacts(facts: readonly Fact[]): void {
  element("facts").replaceChildren(
    ...facts.map(({ name, value, note, isGood }) => {
      const row = document.createElement("div");
      const shown = textElement("dd", value);
      if (isGood) shown.className = "right";
      if (note) shown.append(textElement("small", note));
      row.append(textElement("dt", name), shown);
      return row;
    }),
  );
}

function showFailure({ code, message }: Failure): void {
  element("about").textContent = "The model can't be used.";
  const failure = element("failure");
  failure.textContent = `${message} [${code}]`;
  failure.hidden = false;
  document.documentElement.dataset.state = "failed";
}

/** Say why the model computes with one thread, and what to do, if the device has more. */
function showThreads(): void {
  const cores = navigator.hardwareConcurrency ?? 1;
  const isAlone = !crossOriginIsolated && cores > 1;
  element("threads").hidden = !isAlone;
  if (!isAlone) return;
  const canReload = Boolean(navigator.serviceWorker) && !navigator.serviceWorker.controller;
  element("reload").hidden = !canReload;
  element("threads").querySelector("p")!.textContent = canReload
    ? "This page computes with one thread. Once it is loaded again, it may use several."
    : "This page computes with one thread: it is not cross-origin isolated. Its server has to send the headers " +
      "Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp.";
}

/** TypeScript's types of pages do not have this part of WebGPU yet. */
interface Gpu {
  requestAdapter(): Promise<object | null>;
}

async function offerGpu(): Promise<void> {
  const { gpu } = navigator as { gpu?: Gpu };
  element("gpu").hidden = !(await gpu?.requestAdapter());
}

async function workOffline(): Promise<void> {
  try {
    await navigator.serviceWorker.register("service.js");
    await navigator.serviceWorker.ready;
    document.documentElement.dataset.offline = "ready";
  } catch {
    // Some private windows have no service workers. Everything else works there.
  }
}

element("reload").onclick = () => location.reload();

element("use-gpu").onclick = () => {
  element<HTMLButtonElement>("use-gpu").disabled = true;
  element("gpu-note").textContent = "Loading and checking ...";
  send({ kind: "webgpu" });
};

function showKept({ code, message }: Failure): void {
  showGpuNote(`WASM stays in use: ${message} [${code}]`);
}

function showGpuNote(text: string): void {
  element("use-gpu").hidden = true;
  element("gpu").hidden = false;
  element("gpu-note").textContent = text;
}

// -------------------------------------------------------------------------------------------------------------- images

function predict(images: Iterable<File>): void {
  if (!isReady) return;
  for (const image of images) {
    const id = ++asked;
    const card = cardOf(image);
    cards.set(id, card);
    answers.prepend(card);
    send({ kind: "predict", id, image, name: image.name });
  }
  element("none").hidden = answers.children.length > 0;
  while (answers.children.length > KEPT) answers.lastElementChild!.remove();
}

choose.onclick = () => file.click();
file.onchange = () => {
  predict([...(file.files ?? [])]);
  file.value = ""; // or the same file could not be chosen again
};

document.addEventListener("dragover", (event) => {
  event.preventDefault(); // or the browser would leave the page for the image
  drop.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  predict(event.dataTransfer?.files ?? []);
});
document.addEventListener("paste", (event) => predict(event.clipboardData?.files ?? []));

// -------------------------------------------------------------------------------------------------------------- camera

camera.hidden = !navigator.mediaDevices;

camera.onclick = async () => {
  try {
    const ideal = { facingMode: "environment", width: { ideal: 1280 } };
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: ideal });
    await video.play();
    showCamera(true);
    element("trouble").hidden = true;
  } catch (fault) {
    const why = fault instanceof Error ? fault.message : String(fault);
    element("trouble").textContent = `The camera can't be used (${why}). Choose an image instead.`;
    element("trouble").hidden = false;
  }
};
element("stop").onclick = () => {
  for (const track of (video.srcObject as MediaStream | null)?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  showCamera(false);
};
element("take").onclick = async () => {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d")!.drawImage(video, 0, 0);
  predict([new File([await canvas.convertToBlob({ type: "image/png" })], "camera")]);
};

function showCamera(isOn: boolean): void {
  element("live").hidden = !isOn;
  camera.hidden = isOn;
  (isOn ? element("take") : camera).focus();
}

// ------------------------------------------------------------------------------------------------------------- answers

function cardOf(image: File): HTMLElement {
  const card = document.createElement("li");
  const head = document.createElement("div");
  head.className = "image";
  const shown = document.createElement("img");
  shown.alt = "";
  shown.src = URL.createObjectURL(image);
  shown.onload = () => URL.revokeObjectURL(shown.src);
  shown.onerror = () => {
    URL.revokeObjectURL(shown.src);
    shown.remove();
  };
  const words = document.createElement("div");
  words.append(textElement("h3", "..."), textElement("small", image.name));
  head.append(shown, words);
  card.append(head);
  return card;
}

type Top = readonly { readonly label: string; readonly score: number }[];

function showAnswer(id: number, top: Top, milliseconds: number): void {
  const card = cards.get(id)!;
  const [best] = top;
  const small = card.querySelector("small")!;
  card.querySelector("h3")!.textContent = best!.label;
  say(`${small.textContent}: ${best!.label}, ${percent(best!.score)}`);
  small.textContent += `, ${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;
  const bars = document.createElement("ol");
  bars.className = "bars";
  bars.append(...top.map(({ label, score }) => bar(label, score)));
  card.append(bars);
  cards.delete(id);
}

function bar(label: string, score: number): HTMLElement {
  const row = document.createElement("li");
  const [frame, fill] = [document.createElement("i"), document.createElement("i")];
  fill.style.width = `${100 * score}%`;
  frame.append(fill);
  frame.setAttribute("aria-hidden", "true");
  row.append(textElement("span", label), textElement("span", percent(score)), frame);
  row.dataset.score = String(score);
  return row;
}

function showRefused(id: number, { code, message }: Failure): void {
  const card = cards.get(id)!;
  card.querySelector("h3")!.textContent = "Not readable";
  card.classList.add("refused");
  const why = textElement("p", `${message} [${code}]`);
  why.className = "note wrong";
  card.append(why);
  say(message);
  cards.delete(id);
}

/** Say something to those who do not see the page. */
function say(text: string): void {
  element("status").textContent = text;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function textElement(kind: string, text: string): HTMLElement {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

start();
