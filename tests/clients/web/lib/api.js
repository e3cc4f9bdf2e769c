// The Client-Server API, for what a test sets up and looks at beside the browser.

import { randomBytes } from "node:crypto";

export const url = process.env.SAMTAL_URL;
if (!url) throw new Error("SAMTAL_URL must be the base URL of a homeserver with open registration");

export const PASSWORD = "correct horse battery staple";

/** Registers a person with a name of their own. */
export async function register(name) {
    const username = `${name}-${randomBytes(4).toString("hex")}`;
    const auth = { type: "m.login.dummy" };
    const made = await request("POST", "/v3/register", { username, password: PASSWORD, auth });
    const { user_id: userId, device_id: deviceId, access_token: token } = made;
    return { username, userId, deviceId, token, call: (method, path, body) => request(method, path, body, token) };
}

/** One request; its answer's body, or an error with `status` and `errcode`. */
export async function request(method, path, body, token) {
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    const answer = await fetch(`${url}/_matrix/client${path}`, {
        method, headers, body: body === undefined ? undefined : JSON.stringify(body),
    });
    const content = await answer.json();
    if (!answer.ok) {
        const { errcode, error } = content;
        throw Object.assign(new Error(`${method} ${path}: ${answer.status} ${errcode}: ${error}`), { status: answer.status, errcode });
    }
    return content;
}

/** Syncs until `found` answers something for a sync's body; that. */
export async function syncUntil(person, found, { wait = 20_000, filter } = {}) {
    const query = filter ? `&filter=${encodeURIComponent(JSON.stringify(filter))}` : "";
    const until = Date.now() + wait;
    let since = "";
    for (;;) {
        const left = until - Date.now();
        if (left <= 0) throw new Error(`not seen within ${wait} ms: ${found}`);
        const timeout = since ? Math.min(left, 10_000) : 0;
        const body = await person.call("GET", `/v3/sync?timeout=${timeout}${since && `&since=${since}`}${query}`);
        const result = await found(body);
        if (result) return result;
        since = body.next_batch;
    }
}

/** The events of a room in a sync's answer: its state, and its timeline. */
export function events(body, roomId) {
    const room = body.rooms?.join?.[roomId];
    return room ? [...(room.state?.events ?? []), ...(room.timeline?.events ?? [])] : [];
}
