// Element Call as clients embed it: a widget that joins a call by what it writes into the room. Media would flow over a
// LiveKit server, which is not here; what stands in for it says hello and nothing more, so only the signalling is tested.
//
// The server under test must name https://rtc.samtal.test as its LiveKit service (tests/clients/run sees to it).

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { events, register, syncUntil, url } from "../lib/api.js";
import { launch, serve } from "../lib/browser.js";

const SERVICE = "https://rtc.samtal.test";
const MEMBER = "org.matrix.msc3401.call.member";

let browser, pages;
before(async () => {
    const config = { matrix_rtc_session: { delayed_leave: { delay_ms: 3_000, restart_ms: 500 } } };
    [browser, pages] = await Promise.all([
        launch(),
        serve({ "/npm/@element-hq/element-call-embedded/dist/config.json": () => config }),
    ]);
});
after(async () => {
    await browser?.close();
    pages?.close();
});

/** Two people in a room in which everyone may join calls. */
async function room() {
    const [anna, bo] = await Promise.all([register("anna"), register("bo")]);
    const { room_id: roomId } = await anna.call("POST", "/v3/createRoom", {
        name: "Call", preset: "public_chat", power_level_content_override: { events: { [MEMBER]: 0 } },
    });
    await bo.call("POST", `/v3/join/${encodeURIComponent(roomId)}`, {});
    return { anna, bo, roomId };
}

// In the encoding of protocol buffers: a field that is bytes, here always shorter than 128.
const field = (number, content) => Buffer.concat([Buffer.of((number << 3) | 2, content.length), content]);
const text = (number, content) => field(number, Buffer.from(content));
const HELLO = field(1, Buffer.concat([
    field(1, Buffer.concat([text(1, "RM_1"), text(2, "alias")])),
    field(2, Buffer.concat([text(1, "PA_1"), text(2, "anna")])),
    text(4, "1.9.0"),
]));

/** Opens the call for a person; `asked` is what came to the LiveKit service, `restarts` counts signs of life to the server. */
async function join(person, roomId) {
    const context = await browser.newContext({ permissions: ["camera", "microphone"] });
    const cors = { "access-control-allow-origin": "*", "access-control-allow-headers": "*" };
    const asked = [];
    const jwt = `e30.${Buffer.from(JSON.stringify({ sub: "anna", video: { room: "alias" } })).toString("base64")}.e30`;
    await context.route(`${SERVICE}/**`, async (route) => {
        const request = route.request();
        if (request.method() === "OPTIONS") return route.fulfill({ status: 204, headers: cors });
        if (!request.url().endsWith("/sfu/get")) return route.fulfill({ status: 404, headers: cors, json: {} });
        asked.push(request.postDataJSON());
        return route.fulfill({ headers: cors, json: { url: SERVICE.replace("https", "wss"), jwt } });
    });
    await context.routeWebSocket(/^wss:\/\/rtc\.samtal\.test/, (socket) => socket.send(HELLO));
    const page = await context.newPage();
    const call = { asked, restarts: 0, page, close: () => context.close() };
    page.on("requestfinished", (request) => {
        if (request.url().endsWith("/restart")) call.restarts += 1;
    });
    if (process.env.SAMTAL_CLIENT_LOG) page.on("console", (message) => console.error(`# ${message.text()}`));
    const { token, userId, deviceId } = person;
    await page.goto(`${pages.address}/call.html?${new URLSearchParams({ homeserver: url, token, userId, deviceId, roomId })}`);
    return call;
}

/** The next membership of a call that the room is told of, joined or left. */
function membership(viewer, roomId, joined) {
    return syncUntil(viewer, (body) =>
        events(body, roomId).findLast((event) => event.type === MEMBER && ("device_id" in event.content) === joined));
}

test("a client that dies in a call leaves it, by the event that the server was given for that", async () => {
    const { anna, bo, roomId } = await room();
    const call = await join(anna, roomId);
    const joined = await membership(bo, roomId, true);
    assert.equal(joined.sender, anna.userId);
    assert.equal(joined.state_key, `_${anna.userId}_${anna.deviceId}_m.call`);
    assert.equal(joined.content.device_id, anna.deviceId);
    assert.equal(joined.content.foci_preferred[0].livekit_service_url, SERVICE);

    // The service was shown a token by which the server says who it is.
    const shown = call.asked[0].openid_token;
    const info = await fetch(`${url}/_matrix/federation/v1/openid/userinfo?access_token=${encodeURIComponent(shown.access_token)}`);
    assert.deepEqual(await info.json(), { sub: anna.userId });

    // While it lives, it puts off its leaving; the room sees nothing of that.
    await call.page.waitForEvent("requestfinished", () => call.restarts >= 3);
    const state = `/v3/rooms/${encodeURIComponent(roomId)}/state/${MEMBER}/${encodeURIComponent(joined.state_key)}`;
    assert.equal((await bo.call("GET", state)).device_id, anna.deviceId);

    await call.close();
    const left = await membership(bo, roomId, false);
    assert.equal(left.sender, anna.userId);
    assert.deepEqual(left.content, {});
    assert.equal(left.state_key, joined.state_key);
});

test("who hangs up has left, and nothing is left to be sent later", async () => {
    const { anna, bo, roomId } = await room();
    const call = await join(anna, roomId);
    await membership(bo, roomId, true);
    await call.page.waitForEvent("requestfinished", () => call.restarts >= 1);
    const pending = async () =>
        (await anna.call("GET", "/unstable/org.matrix.msc4140/delayed_events")).delayed_events;
    assert.equal((await pending()).length, 1);
    const sent = call.page.waitForEvent("requestfinished", (request) => request.url().endsWith("/send"));
    await call.page.evaluate(() => window.hangUp());
    await Promise.all([membership(bo, roomId, false), sent]);
    assert.deepEqual(await pending(), []);
    await call.close();
});
