/** The classifier: images in, predictions out. `node.ts` and `web.ts` give it an engine and a decoder. */

import type { Bundle } from "./bundle.js";
import { LibkdError } from "./errors.js";
import { checkGolden } from "./golden.js";
import { type Decode, imagePixels, type ImageSource, sourceName } from "./image.js";
import type { Input } from "./manifest.js";
import { Choice, type ChoiceOptions, type Prediction } from "./prediction.js";
import { CheckedSession, type Engine } from "./session.js";

export interface ClassifierOptions extends ChoiceOptions {
  /** The number of threads that the engine computes with. */
  readonly threads?: number;
  /** Check the golden answers on this machine first. */
  readonly selfTest?: boolean;
}

/** What the surroundings give: an engine, and a decoder of images that are no PNG. */
export interface Platform {
  readonly engine: Engine;
  readonly decode: Decode;
}

/** A bundle whose model is in its engine. */
export interface Loaded {
  readonly bundle: Bundle;
  readonly session: CheckedSession;
  readonly choice: Choice;
  readonly decode: Decode;
}

/** Load a bundle that was read. A bundle is trusted like code: its model runs in this process. */
export async function load(bundle: Bundle, platform: Platform, options: ClassifierOptions): Promise<Loaded> {
  const choice = new Choice(bundle.labels, options);
  const golden = options.selfTest ? bundle.golden() : null;
  if (options.selfTest && !golden) {
    throw new LibkdError("usage", `${bundle.place}: has no golden images for a self-test; export again and include some`);
  }
  const session = await CheckedSession.open(bundle, platform.engine, options.threads);
  try {
    if (golden) await checkGolden(golden, session, bundle.place, bundle.precision);
  } catch (fault) {
    await session.close();
    throw fault;
  }
  return { bundle, session, choice, decode: platform.decode };
}

/** A loaded bundle. */
export class Classifier {
  private isClosed = false;

  constructor(private readonly loaded: Loaded) {}

  get bundle(): Bundle {
    return this.loaded.bundle;
  }

  /** The names of the classes, in the order of `Prediction.probabilities`. */
  get labels(): readonly string[] {
    return this.bundle.labels;
  }

  /** The pixels that the model takes, and how an image becomes these pixels. */
  get input(): Input {
    return this.bundle.input;
  }

  /** Classify one image. Calls may overlap; the engine takes one image after the other. */
  async predict(image: ImageSource, source = sourceName(image)): Promise<Prediction> {
    this.checkOpen();
    const pixels = await imagePixels(image, this.input, this.loaded.decode, source);
    return this.loaded.choice.prediction(await this.loaded.session.run(pixels), source);
  }

  /** Run the engine on a blank image, so that the first prediction is as fast as later ones. */
  async warmUp(): Promise<void> {
    this.checkOpen();
    const blank = new Uint8Array(this.input.height * this.input.width * 3);
    for (let time = 0; time < 3; time++) await this.loaded.session.run(blank);
  }

  /** Free the engine when the running calls have their answers. Later calls throw `usage`. */
  async close(): Promise<void> {
    if (this.isClosed) return;
    this.isClosed = true;
    await this.loaded.session.close();
  }

  private checkOpen(): void {
    if (this.isClosed) throw new LibkdError("usage", "this classifier is closed; open the bundle again");
  }
}
