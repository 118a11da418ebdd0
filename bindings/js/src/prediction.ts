/** A prediction, and the choice of the labels that it lists. */

import { known, LibkdError } from "./errors.js";

/** The one JSON form of a prediction, in every language. */
export interface PredictionJson {
  readonly source: string;
  readonly label: string | null;
  readonly score: number;
  readonly top: readonly { readonly label: string; readonly score: number }[];
}

/** The answer for one image. */
export class Prediction {
  constructor(
    /** The name of the image: its path, or a description such as `<3051 bytes>`. */
    readonly source: string,
    /** Labels with their scores, best first, after all filters. */
    readonly top: PredictionJson["top"],
    /** Float32 [classes], of all classes before any filter, in the order of `Classifier.labels`. */
    readonly probabilities: Float32Array,
  ) {}

  /** The best label, or null if nothing passed the threshold and the lists. */
  get label(): string | null {
    return this.top[0]?.label ?? null;
  }

  /** The probability of `label`, 0 if there is none. */
  get score(): number {
    return this.top[0]?.score ?? 0;
  }

  toJSON(): PredictionJson {
    return { source: this.source, label: this.label, score: this.score, top: this.top };
  }
}

export interface ChoiceOptions {
  /** The largest number of labels in a prediction; the default is 5. */
  readonly topK?: number;
  /** Labels with a lower score are not listed; between 0 and 1. */
  readonly scoreThreshold?: number;
  /** Only these labels are listed. */
  readonly allow?: readonly string[];
  /** These labels are not listed. */
  readonly deny?: readonly string[];
}

/** The filters that decide which labels a prediction lists. */
export class Choice {
  private readonly topK: number;
  private readonly threshold: number;
  private readonly candidates: readonly number[];

  constructor(
    private readonly labels: readonly string[],
    { topK = 5, scoreThreshold = 0, allow, deny }: ChoiceOptions,
  ) {
    if (!(Number.isInteger(topK) && topK >= 1)) throw new LibkdError("usage", `topK: ${topK}; at least 1`);
    if (!(scoreThreshold >= 0 && scoreThreshold <= 1)) {
      throw new LibkdError("usage", `scoreThreshold: ${scoreThreshold}; between 0 and 1`);
    }
    if (allow && deny) throw new LibkdError("usage", "allow and deny are both given; give one of them");
    this.topK = topK;
    this.threshold = scoreThreshold;
    const named = new Set(allow ?? deny ?? []);
    for (const name of named) {
      if (!labels.includes(name)) {
        throw new LibkdError("usage", `'${name}' is none of the ${labels.length} labels; ${known(labels)}`);
      }
    }
    this.candidates = [...labels.keys()].filter((index) => (allow ? named.has(labels[index]!) : !named.has(labels[index]!)));
    if (this.candidates.length === 0) throw new LibkdError("usage", "allow or deny leaves no label to predict");
  }

  prediction(probabilities: Float32Array, source: string): Prediction {
    const top = this.candidates
      .map((index) => ({ label: this.labels[index]!, score: probabilities[index]! }))
      .sort((one, other) => other.score - one.score)
      .slice(0, this.topK)
      .filter(({ score }) => score >= this.threshold);
    return new Prediction(source, top, probabilities);
  }
}
