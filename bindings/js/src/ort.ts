/** A session of ONNX Runtime, which has the same interface in Node and in browsers. */

import type { InferenceSession, Tensor, TensorConstructor } from "onnxruntime-common";

import type { Port, Session } from "./session.js";

/** The part of onnxruntime-node and onnxruntime-web that is used. */
export interface OnnxRuntime {
  readonly InferenceSession: { create(model: Uint8Array, options: InferenceSession.SessionOptions): Promise<InferenceSession> };
  readonly Tensor: TensorConstructor;
}

const ERRORS_ONLY = 3;

/** Load a model. */
export async function openOrt(
  ort: OnnxRuntime,
  model: Uint8Array,
  options: InferenceSession.SessionOptions,
): Promise<Session> {
  const session = await ort.InferenceSession.create(model, { logSeverityLevel: ERRORS_ONLY, ...options });
  const inputs = session.inputMetadata.map(portOf);
  return {
    inputs,
    outputs: session.outputMetadata.map(portOf),
    async run(pixels) {
      const shape = [1, ...(inputs[0]?.shape.slice(1) as number[])];
      const answers = await session.run({ pixels: new ort.Tensor("uint8", pixels, shape) as Tensor });
      return answers.probabilities?.data;
    },
    close: () => session.release(),
  };
}

function portOf(value: InferenceSession.ValueMetadata): Port {
  if (!value.isTensor) return { name: value.name, dtype: "something other than a tensor", shape: [] };
  return { name: value.name, dtype: value.type, shape: value.shape.map((length) => (typeof length === "number" ? length : null)) };
}
