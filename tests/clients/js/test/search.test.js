// Finding messages and people, as the search panel and the invite dialog of a web client do.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { person, roomOf, stopAll, untilEvent } from "../lib/people.js";

let alice, bob, carol;

before(async () => {
    [alice, bob, carol] = await Promise.all([person("alice"), person("bob"), person("carol")]);
});
after(stopAll);

const send = async (client, roomId, body) =>
    (await client.sendEvent(roomId, "m.room.message", { msgtype: "m.text", body })).event_id;

test("messages are found in all rooms, with what stands around them, page by page", async () => {
    const roomId = await roomOf(alice, [bob], { preset: "public_chat" });
    let last;
    for (let number = 0; number < 15; number++) last = await send(alice, roomId, `Mötet nummer ${number} är flyttat`);
    await untilEvent(bob, roomId, last);
    const found = await bob.searchRoomEvents({ term: "möten flyttat" });
    assert.equal(found.count, 15);
    assert.equal(found.results.length, 10);
    assert.ok(found.highlights.includes("mötet"));
    const newest = found.results[0].context;
    assert.equal(newest.getEvent().getId(), last);
    assert.ok(newest.getTimeline().length > 1, "the messages before it come along");
    await bob.backPaginateRoomEventsSearch(found);
    assert.equal(found.results.length, 15);
    const elsewhere = await carol.searchRoomEvents({ term: "möten flyttat" });
    assert.equal(elsewhere.count, 0, "nobody finds what they cannot read");
});

test("a redacted message is not found any more", async () => {
    const roomId = await roomOf(alice, [bob], { preset: "public_chat" });
    const eventId = await send(alice, roomId, "hemligheten");
    assert.equal((await alice.searchRoomEvents({ term: "hemligheten" })).count, 1);
    await alice.redactEvent(roomId, eventId);
    assert.equal((await alice.searchRoomEvents({ term: "hemligheten" })).count, 0);
});

test("people are found by name when a room is shared or public", async () => {
    const name = `Örjan ${alice.getUserIdLocalpart()}`;
    await alice.setDisplayName(name);
    await roomOf(alice, [bob], { preset: "private_chat" });
    await roomOf(alice, [], { preset: "public_chat" });
    for (const searcher of [bob, carol]) {
        const { results, limited } = await searcher.searchUserDirectory({ term: `orjan ${alice.getUserIdLocalpart()}` });
        assert.deepEqual(results.map((user) => [user.user_id, user.display_name]), [[alice.getUserId(), name]]);
        assert.equal(limited, false);
    }
});
