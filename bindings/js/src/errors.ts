/** The one error of this package. Its codes are those of the Python SDK; docs/errors.md explains each. */

const EXIT_CODES = {
  "usage": 2,
  "image-unreadable": 2,
  "bundle-invalid": 2,
  "engine-missing": 2,
  "engine-failed": 1,
  "proof-failed": 1,
} as const;

export type ErrorCode = keyof typeof EXIT_CODES;

/** One line: what is wrong, where, and how to fix it. `code` is stable, so that programs can rely on it. */
export class LibkdError extends Error {
  override readonly name = "LibkdError";
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, cause?: unknown) {
    super(message.replace(/[\x00-\x1f\x7f-\x9f\u2028\u2029]+/g, " "), cause === undefined ? undefined : { cause });
    this.code = code;
  }

  /** What a command line returns: 2 if the user can fix the cause, else 1. */
  get exitCode(): 1 | 2 {
    return EXIT_CODES[this.code];
  }
}

/** Return the error of a bundle that is damaged, foreign, or of a newer version. */
export function invalid(place: string, problem: string, cause?: unknown): LibkdError {
  return new LibkdError("bundle-invalid", `${place}: ${problem}`, cause);
}

/** Return the first line of somebody else's error. */
export function firstLine(fault: unknown): string {
  const text = fault instanceof Error ? fault.message || fault.name : String(fault);
  return text.trim().split("\n")[0] ?? "";
}

/** Return the end of a message about an unknown word: a few of the known ones. */
export function known(words: readonly string[]): string {
  return `known: ${words.slice(0, 10).join(", ")}${words.length > 10 ? ", ..." : ""}`;
}
