// Hydrogen, a whole web client, used as two people use it: by its buttons.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { events, PASSWORD, register, syncUntil, url } from "../lib/api.js";
import { launch, open, serve } from "../lib/browser.js";

let browser, pages;
before(async () => {
    [browser, pages] = await Promise.all([launch(), serve()]);
});
after(async () => {
    await browser?.close();
    pages?.close();
});

// A picture of 64 times 48 pixels, in red.
const PICTURE = Buffer.from(
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAAAwCAIAAAAuKetIAAAAQElEQVR42u3PQQkAAAgAsetfWiv4FQYrsKZeS0BAQEBAQEBAQEBA" +
    "QEBAQEBAQEBAQEBAQEBAQEBAQEBAQEDgagGlwfSmsRz7tgAAAABJRU5ErkJggg==", "base64");

/** Logs a person in by the log-in form. */
async function client(person) {
    const page = await open(browser, `${pages.address}/hydrogen.html?homeserver=${encodeURIComponent(url)}`);
    await page.fill("#username", person.username);
    await page.fill("#password", PASSWORD);
    await page.click(".PasswordLoginView button[type=submit]");
    await page.waitForSelector(".LeftPanel .RoomList", { state: "attached" });
    return page;
}

/** Opens a room from the list at the left. */
async function openRoom(page, name) {
    await page.click(`.RoomList a:has-text("${name}")`);
    await page.waitForSelector(".RoomView .MessageComposer textarea");
}

/** Makes a room by the form, and opens it. */
async function createRoom(page, { name, alias, encrypted = false }) {
    await page.click(".utilities .create");
    await page.click("text=Create Room");
    await page.fill("#name", name);
    if (alias) {
        await page.check("#isPublic");
        await page.fill("#roomAlias", alias);
    } else {
        await page.setChecked("#isEncrypted", encrypted);
    }
    await page.click(".CreateRoomView button[type=submit]");
    await page.waitForSelector(".CreateRoomView", { state: "detached" });
    await openRoom(page, name);
}

async function say(page, text) {
    await page.fill(".MessageComposer textarea", text);
    await page.click(".MessageComposer .send");
}

const message = (text) => `.Timeline_message:has-text("${text}")`;

/** The room of this name among those the person is in. */
function roomNamed(person, name) {
    return syncUntil(person, (body) =>
        Object.keys(body.rooms?.join ?? {}).find((id) =>
            events(body, id).some((event) => event.type === "m.room.name" && event.content.name === name)));
}

test("two people log in, make and join a room, talk, react, and share a picture", async () => {
    const [anna, bo] = await Promise.all([register("anna"), register("bo")]);
    const [annas, bos] = await Promise.all([client(anna), client(bo)]);
    const alias = `#lounge-${anna.username}:${anna.userId.split(":").slice(1).join(":")}`;
    await createRoom(annas, { name: "Lounge", alias });
    const roomId = await roomNamed(anna, "Lounge");

    await bos.click(".utilities .create");
    await bos.click("text=Join Room");
    await bos.fill("#roomAlias, [name=roomIdOrAlias], .JoinRoomView input[type=text]", alias);
    await bos.click(".JoinRoomView button[type=submit]");
    await bos.waitForSelector(".RoomView .MessageComposer textarea");

    await say(annas, "hello from anna");
    await bos.waitForSelector(message("hello from anna"));
    await say(bos, "hello from bo");
    await annas.waitForSelector(message("hello from bo"));

    // A reaction: bo gives it, both see it, and anna takes part in it by a click.
    await bos.hover(message("hello from anna"));
    await bos.click(`${message("hello from anna")} .Timeline_messageOptions`);
    await bos.click(".quick-reactions button >> nth=3");
    await annas.waitForSelector(`${message("hello from anna")} .Timeline_messageReactions button:has-text("🎉 1")`);
    await annas.click(`${message("hello from anna")} .Timeline_messageReactions button`);
    await bos.waitForSelector(`${message("hello from anna")} .Timeline_messageReactions button:has-text("🎉 2")`);

    // A picture: anna uploads it, bo's browser shows it.
    await annas.click(".MessageComposer .sendFile");
    const [chooser] = await Promise.all([annas.waitForEvent("filechooser"), annas.click("text=Send picture")]);
    await chooser.setFiles({ name: "red.png", mimeType: "image/png", buffer: PICTURE });
    const sent = await syncUntil(bo, (body) =>
        events(body, roomId).find((event) => event.content.msgtype === "m.image"));
    assert.match(sent.content.url, /^mxc:\/\//);
    assert.equal(sent.content.info.w, 64);
    await bos.waitForFunction(() => [...document.querySelectorAll(".media img")].some((image) => image.naturalWidth > 0));

    // Deleted, it is gone for the other.
    await annas.hover(message("hello from anna"));
    await annas.click(`${message("hello from anna")} .Timeline_messageOptions`);
    await annas.click("text=Delete");
    await bos.waitForSelector(message("hello from anna"), { state: "detached" });
});

test("two people talk in an encrypted room, one invited by the other", async () => {
    const [anna, bo] = await Promise.all([register("anna"), register("bo")]);
    const [annas, bos] = await Promise.all([client(anna), client(bo)]);
    await createRoom(annas, { name: "Secret lounge", encrypted: true });
    const roomId = await roomNamed(anna, "Secret lounge");
    await anna.call("POST", `/v3/rooms/${encodeURIComponent(roomId)}/invite`, { user_id: bo.userId });
    await bos.click('.RoomList a:has-text("Secret lounge")');
    await bos.click("text=Accept");
    await bos.waitForSelector(".RoomView .MessageComposer textarea");
    // Until anna's client knows that bo is in, it encrypts for nobody else.
    await annas.waitForSelector(`.AnnouncementView:has-text("joined the room")`);
    await say(annas, "nobody else reads this");
    await bos.waitForSelector(message("nobody else reads this"));
    await say(bos, "nor this");
    await annas.waitForSelector(message("nor this"));
    const seen = await syncUntil(bo, (body) => {
        const found = events(body, roomId).filter((event) => event.type === "m.room.encrypted");
        return found.length >= 2 && found;
    });
    assert.ok(seen.every((event) => event.content.algorithm === "m.megolm.v1.aes-sha2" && !event.content.body));
});
