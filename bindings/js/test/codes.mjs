/** Print, as JSON, the code of the error with which each bundle is refused, or "ok". */

import { Bundle, Folder, LibkdError } from "libkd";

const codes = [];
for (const folder of process.argv.slice(2)) {
  try {
    await Bundle.open(new Folder(folder));
    codes.push("ok");
  } catch (fault) {
    codes.push(fault instanceof LibkdError ? fault.code : String(fault));
  }
}
console.log(JSON.stringify(codes));
