// People with a client each, on the homeserver at SAMTAL_URL.
//
// What is waited for is always a condition, looked at anew whenever the client says
// that something happened; there are no sleeps.

import { randomBytes } from "node:crypto";
import * as sdk from "matrix-js-sdk";
import { CryptoEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

// The SDK tells a lot, also of what a test provokes; SAMTAL_CLIENT_LOG=1 lets it.
if (!process.env.SAMTAL_CLIENT_LOG) {
    for (const level of ["trace", "debug", "log", "info", "warn", "error"]) console[level] = () => {};
}

const WAIT_MS = Number(process.env.SAMTAL_WAIT_MS ?? 20_000);
export const url = process.env.SAMTAL_URL;
if (!url) throw new Error("SAMTAL_URL must be the base URL of a homeserver with open registration");

export const PASSWORD = "correct horse battery staple";

const running = new Set();

/** Ends all clients; for `after`. */
export function stopAll() {
    for (const client of running) client.stopClient();
    running.clear();
}

/** Registers a person with a name of their own, and logs in with the password. */
export async function person(name, options = {}) {
    const localpart = `${name}-${randomBytes(4).toString("hex")}`;
    const anonymous = sdk.createClient({ baseUrl: url });
    const auth = { type: "m.login.dummy" };
    const { user_id: userId } = await anonymous.registerRequest({
        username: localpart, password: PASSWORD, auth, inhibit_login: true,
    });
    return device(userId, options);
}

/** A new device of a person, logged in with the password, and syncing. */
export async function device(userId, { crypto = false, sync = {}, ...options } = {}) {
    const anonymous = sdk.createClient({ baseUrl: url });
    const login = await anonymous.loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user: userId },
        password: PASSWORD,
        initial_device_display_name: "test",
    });
    const secrets = new Map();
    const client = sdk.createClient({
        baseUrl: url,
        userId: login.user_id,
        deviceId: login.device_id,
        accessToken: login.access_token,
        timelineSupport: true,
        verificationMethods: ["m.sas.v1"],
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => {
                for (const id of Object.keys(keys)) if (secrets.has(id)) return [id, secrets.get(id)];
                for (const id of Object.keys(keys)) if (client.recoveryKey) return [id, client.recoveryKey];
                return null;
            },
            cacheSecretStorageKey: (id, _info, key) => secrets.set(id, key),
        },
        ...options,
    });
    running.add(client);
    if (crypto) await client.initRustCrypto({ useIndexedDB: false });
    client.setMaxListeners?.(100);
    await client.startClient({ threadSupport: true, lazyLoadMembers: true, pollTimeout: 10_000, ...sync });
    await until(client, sdk.ClientEvent.Sync, () => ["PREPARED", "SYNCING"].includes(client.getSyncState()));
    return client;
}

/** Answers to the UIA that guards cross-signing keys, with the password. */
export function withPassword(client) {
    return (makeRequest) =>
        makeRequest(null).catch((error) => {
            if (!error.data?.session) throw error;
            return makeRequest({
                type: "m.login.password",
                identifier: { type: "m.id.user", user: client.getUserId() },
                password: PASSWORD,
                session: error.data.session,
            });
        });
}

/** Waits until `condition()` is neither false, null nor undefined, looking whenever one of `events` is emitted. */
export function until(emitter, events, condition, what = condition.toString()) {
    const names = [events].flat();
    const stack = new Error(`waited ${WAIT_MS} ms in vain for: ${what}`);
    return new Promise((resolve, reject) => {
        const done = (settle, value) => {
            clearTimeout(timer);
            clearInterval(beat);
            for (const name of names) emitter.off(name, look);
            settle(value);
        };
        const look = () => {
            let value;
            try {
                value = condition();
            } catch (error) {
                done(reject, error);
                return;
            }
            if (value !== false && value !== null && value !== undefined) done(resolve, value);
        };
        const timer = setTimeout(() => done(reject, stack), WAIT_MS);
        // The SDK changes some of what it shows without an event.
        const beat = setInterval(look, 100);
        for (const name of names) emitter.on(name, look);
        look();
    });
}

/** Any of the events after which a room may look different. */
export const ROOM_EVENTS = [
    sdk.ClientEvent.Room, sdk.ClientEvent.Event, sdk.RoomEvent.Timeline, sdk.RoomEvent.MyMembership,
    sdk.RoomStateEvent.Events, sdk.RoomEvent.Receipt, sdk.RoomEvent.Redaction, sdk.MatrixEventEvent.Decrypted,
];

/** Waits until a room looks a certain way to a client. */
export function untilRoom(client, roomId, condition) {
    return until(client, ROOM_EVENTS, () => {
        const room = client.getRoom(roomId);
        return room ? condition(room) : null;
    }, condition.toString());
}

/** An event of a room, in its main timeline or a thread, as soon as the client has it. */
export function untilEvent(client, roomId, eventId) {
    return untilRoom(client, roomId, (room) => room.findEventById(eventId) ?? null);
}

/** The clear text of a message, as soon as the client can read it. */
export async function untilReadable(client, roomId, eventId) {
    const event = await untilEvent(client, roomId, eventId);
    await until(client, [sdk.MatrixEventEvent.Decrypted], () => !event.isBeingDecrypted() && !event.isDecryptionFailure()
        && event.getType() === "m.room.message", `event ${eventId} readable`);
    return event.getContent().body;
}

/** A room that `owner` makes and all `others` join. */
export async function roomOf(owner, others, options = {}) {
    const { room_id: roomId } = await owner.createRoom({
        preset: "private_chat",
        invite: others.map((other) => other.getUserId()),
        ...options,
    });
    for (const other of others) {
        await untilRoom(other, roomId, (room) => room.getMyMembership() === "invite");
        await other.joinRoom(roomId);
    }
    for (const client of [owner, ...others]) {
        await untilRoom(client, roomId, (room) => room.getMyMembership() === "join");
    }
    for (const other of others) {
        await untilRoom(owner, roomId, (room) => room.getMember(other.getUserId())?.membership === "join");
    }
    return roomId;
}

export const ENCRYPTED = {
    initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
};

export { CryptoEvent, sdk };
