/** Questions to the server. A file is sent again with each question: the server keeps nothing. */

const STORE = "leadwise-token";
const WAIT_S = 6; // at most, where the server is busy and asks to come again

let token = "";

/** An answer that is an error: one sentence for the reader, and the HTTP status. */
export class Refusal extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Take the token from the address (`#token=...` or `#...`) and remove it there; a reload finds it in the tab's storage. */
export function takeToken() {
  const part = decodeURIComponent(location.hash.slice(1)).replace(/^token=/, "");
  if (part && part !== "main") {
    token = part;
    sessionStorage.setItem(STORE, token);
    history.replaceState(null, "", location.pathname);
  } else token = sessionStorage.getItem(STORE) ?? "";
  return token !== "";
}

const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

/**
 * Return the parsed answer (or the bytes of one that is not JSON, with the name of its file).
 *
 * options: query {name: value or list}, file {name, body} as the raw body, json as the body, signal to give up.
 */
export async function call(path, { query = {}, file, json, signal } = {}, again = true) {
  const address = new URL(path, location.origin);
  for (const [name, value] of Object.entries(query)) {
    for (const one of [value].flat())
      if (one !== "" && one !== null && one !== undefined) address.searchParams.append(name, one);
  }
  const headers = { "X-Leadwise-Token": token };
  const request = { method: file || json ? "POST" : "GET", headers, signal, cache: "no-store", credentials: "omit" };
  if (file) {
    headers["Content-Type"] = "application/octet-stream";
    headers["X-File-Name"] = encodeURIComponent(file.name);
    request.body = file.body;
  } else if (json) {
    headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(json);
  }
  let answer;
  try {
    answer = await fetch(address, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server does not answer. Check that `leadwise serve` is running, then try again.");
  }
  if (answer.status === 503 && again) {
    await pause(Math.min(WAIT_S, Number(answer.headers.get("Retry-After")) || 1));
    return call(path, { query, file, json, signal }, false);
  }
  const isJson = (answer.headers.get("Content-Type") ?? "").includes("json");
  if (!answer.ok) {
    const text = isJson ? (await answer.json()).error : "";
    if (answer.status === 401) {
      throw new Refusal(
        "This page has no valid token. Open the address that `leadwise serve` printed, with its last part.",
        401,
      );
    }
    throw new Refusal(text || `The server refused the request (status ${answer.status}).`, answer.status);
  }
  if (isJson) return answer.json();
  const name = decodeURIComponent(answer.headers.get("X-File-Name") ?? "example");
  return { name, bytes: new Uint8Array(await answer.arrayBuffer()) };
}

/** Return the buffer of base64 text. */
export function decoded(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
}

/** Return samples of the server (int16) as millivolts; NaN where a sample is missing. null stays null. */
export function millivolts(samples) {
  if (!samples) return null;
  const whole = new Int16Array(decoded(samples.base64));
  const missing = samples.missing ?? -32768;
  return Float32Array.from(whole, (value) => (value === missing ? NaN : value * samples.mv_per_unit));
}
