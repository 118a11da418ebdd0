/** What the page and its worker say to each other. */

import type { ErrorCode, Precision, PredictionJson, Provider } from "../src/web.js";

export type Request =
  | { readonly kind: "predict"; readonly id: number; readonly image: Blob; readonly name: string }
  | { readonly kind: "webgpu" };

/** An error as one line, and its code. */
export interface Failure {
  readonly code: ErrorCode;
  readonly message: string;
}

/** A model that is ready. Without golden images, `golden` is null. */
export interface Ready {
  readonly name: string;
  readonly precision: Precision;
  readonly labels: number;
  readonly provider: Provider;
  readonly threads: number;
  readonly golden: { readonly images: number; readonly difference: number; readonly tolerance: number } | null;
}

export type Reply =
  | { readonly kind: "ready"; readonly ready: Ready }
  | { readonly kind: "failed"; readonly failure: Failure }
  | { readonly kind: "kept"; readonly failure: Failure }
  | { readonly kind: "answer"; readonly id: number; readonly prediction: PredictionJson; readonly milliseconds: number }
  | { readonly kind: "refused"; readonly id: number; readonly failure: Failure };
