/** The contract between an engine and everything above it, and the checks around it. */

import type { Bundle } from "./bundle.js";
import { parse } from "./checked.js";
import { firstLine, invalid, LibkdError } from "./errors.js";
import { MANIFEST, readDescription, sameDescription } from "./manifest.js";
import { carriedText } from "./onnx.js";
import type { Bytes } from "./source.js";

/** An input or output of a graph. A length that may change is null. */
export interface Port {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly (number | null)[];
}

/** A loaded model. */
export interface Session {
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  /** Return the probabilities float32 [classes] of pixels uint8 [height, width, 3]. */
  run(pixels: Uint8Array): Promise<unknown>;
  close(): Promise<void>;
}

/** Loads a model file. `threads` is the number of threads that it computes with; undefined is its default. */
export type Engine = (model: Bytes, threads: number | undefined) => Promise<Session>;

/** The largest distance of the sum of an image's probabilities from 1. */
const SUM_TOLERANCE = 0.02;

/** A session that belongs to its bundle, runs one image at a time, and gives only probabilities. */
export class CheckedSession {
  private last: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly session: Session,
    private readonly bundle: Bundle,
  ) {}

  /** Load the model of a bundle, and check that the two belong together. */
  static async open(bundle: Bundle, engine: Engine, threads?: number): Promise<CheckedSession> {
    if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1)) {
      throw new LibkdError("usage", `threads: ${threads}; at least 1, or leave it out`);
    }
    const session = await failures(`${bundle.place}: loading model.onnx`, () => engine(bundle.model, threads));
    try {
      checkPorts(bundle, session);
      checkCarried(bundle);
    } catch (fault) {
      await session.close();
      throw fault;
    }
    return new CheckedSession(session, bundle);
  }

  /** Return the probabilities [classes] of pixels [height, width, 3]. Calls wait for those before them. */
  async run(pixels: Uint8Array): Promise<Float32Array> {
    const mine = this.last.then(() => failures(`${this.bundle.place}: ONNX Runtime`, () => this.session.run(pixels)));
    this.last = mine.catch(() => undefined);
    const answer = await mine;
    const classes = this.bundle.labels.length;
    if (!(answer instanceof Float32Array) || answer.length !== classes) {
      throw this.failure(`something other than ${classes} numbers in float32`);
    }
    const sum = answer.reduce((total, share) => total + share, 0);
    if (!(answer.every((share) => share >= 0) && Math.abs(sum - 1) <= SUM_TOLERANCE)) {
      throw this.failure(Number.isFinite(sum) ? "numbers that are no probabilities" : "NaN or infinity");
    }
    return answer;
  }

  /** Free the engine's memory when the running calls have their answers. */
  async close(): Promise<void> {
    await this.last;
    await this.session.close();
  }

  private failure(answer: string): LibkdError {
    const message = `the model answers with ${answer}; export it again, if need be at fp32`;
    return new LibkdError("engine-failed", `${this.bundle.place}: ${message}`);
  }
}

async function failures<T>(task: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (fault) {
    if (fault instanceof LibkdError) throw fault;
    throw new LibkdError("engine-failed", `${task} failed: ${firstLine(fault)}`, fault);
  }
}

function checkPorts({ place, input, labels }: Bundle, session: Session): void {
  const pixels: Port = { name: "pixels", dtype: "uint8", shape: [null, input.height, input.width, 3] };
  const probabilities: Port = { name: "probabilities", dtype: "float32", shape: [null, labels.length] };
  for (const [kind, ports, expected] of [
    ["input", session.inputs, pixels],
    ["output", session.outputs, probabilities],
  ] as const) {
    const [port] = ports;
    if (ports.length !== 1 || !port || !fits(port, expected)) {
      const found = ports.map(shown).join("; ") || "nothing";
      throw invalid(place, `the model's ${kind} is ${found}, and not ${shown(expected)}; copy or export the bundle again`);
    }
  }
}

function fits(port: Port, expected: Port): boolean {
  const [batch, ...lengths] = port.shape;
  return (
    port.name === expected.name &&
    port.dtype === expected.dtype &&
    (batch === null || batch === 1) &&
    JSON.stringify(lengths) === JSON.stringify(expected.shape.slice(1))
  );
}

function shown({ name, dtype, shape }: Port): string {
  return `${name}: ${dtype} [${shape.map((length) => length ?? "n").join(", ")}]`;
}

function checkCarried({ place, manifest, model }: Bundle): void {
  let carried = null;
  try {
    carried = readDescription(parse(new TextEncoder().encode(carriedText(model))));
  } catch {
    // A file that can't be read carries nothing.
  }
  if (!carried || !sameDescription(carried, manifest)) {
    throw invalid(place, `model.onnx was made for another ${MANIFEST}; copy the whole folder, or export again`);
  }
}
