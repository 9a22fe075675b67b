/** Chosen or dropped files, grouped into recordings: a WFDB header goes with the signal files that it names. */

import { zip } from "./zip.js";

const bytesOf = async (file) => new Uint8Array(await file.arrayBuffer());
const stem = (name) => name.replace(/\.[^.]*$/, "");

/**
 * Return [{name, title, body}], one for each recording. Files without a header of their own are one recording each.
 *
 * files: File objects, or objects with name and bytes.
 */
export async function recordings(files) {
  const left = new Map();
  for (const file of files) left.set(file.name, file);
  const grouped = [];
  for (const header of [...left.values()].filter((file) => /\.hea$/i.test(file.name))) {
    const text = new TextDecoder().decode(await bytesOf(header));
    const named = new Set(text.split(/\r?\n/).map((line) => line.trim().split(/\s+/)[0]));
    const parts = [...left.values()].filter(
      (file) =>
        file === header ||
        named.has(file.name) ||
        (stem(file.name) === stem(header.name) && /\.(dat|mat)$/i.test(file.name)),
    );
    for (const part of parts) left.delete(part.name);
    const entries = await Promise.all(parts.map(async (part) => ({ name: part.name, bytes: await bytesOf(part) })));
    grouped.push({ name: `${stem(header.name)}.zip`, title: stem(header.name), body: zip(entries) });
  }
  const single = [...left.values()].map((file) => ({ name: file.name, title: file.name, body: file }));
  return [...grouped, ...single];
}

/** Return an example of the server as a recording. */
export const fromBytes = ({ name, bytes }, title) => ({ name, title: title ?? name, body: new Blob([bytes]) });

/** Return two recordings as one body: the folders 1 and 2 of an archive. */
export async function pair(first, second) {
  const entries = await Promise.all(
    [first, second].map(async ({ name, body }, i) => ({ name: `${i + 1}/${name}`, bytes: await bytesOf(body) })),
  );
  return { name: "pair.zip", body: zip(entries) };
}
