/** Where the files of a bundle come from. */

export type Bytes = Uint8Array<ArrayBuffer>;

export interface Source {
  /** The place, for errors. */
  readonly place: string;
  /** Return the names of all files there, or null where files can't be listed. */
  names(): Promise<readonly string[] | null>;
  /** Return the content of a file, if it is there and has at most so many bytes. */
  read(name: string, most: number): Promise<Bytes | "missing" | "larger">;
}
