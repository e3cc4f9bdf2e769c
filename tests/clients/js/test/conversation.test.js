// A conversation in the clear: what people do with messages.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { person, roomOf, sdk, stopAll, until, untilEvent, untilRoom, ROOM_EVENTS } from "../lib/people.js";

const PLAIN = { preset: "public_chat" };
let alice, bob;

before(async () => {
    [alice, bob] = await Promise.all([person("alice"), person("bob")]);
});
after(stopAll);

const send = async (client, roomId, body, more = {}) =>
    (await client.sendEvent(roomId, "m.room.message", { msgtype: "m.text", body, ...more })).event_id;

test("a message arrives, once, and the sender sees it as sent", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    const eventId = await send(alice, roomId, "hello");
    const got = await untilEvent(bob, roomId, eventId);
    assert.equal(got.getContent().body, "hello");
    assert.equal(got.getSender(), alice.getUserId());
    const own = await untilRoom(alice, roomId, (room) => {
        const event = room.findEventById(eventId);
        return event?.status === null ? event : null;
    });
    assert.ok(own.getUnsigned().transaction_id, "the sender's device gets its transaction id back");
    const copies = alice.getRoom(roomId).getLiveTimeline().getEvents().filter((e) => e.getContent().body === "hello");
    assert.equal(copies.length, 1);
});

test("an edit replaces the text", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    const original = await send(alice, roomId, "helo");
    await untilEvent(bob, roomId, original);
    await send(alice, roomId, "* hello", {
        "m.new_content": { msgtype: "m.text", body: "hello" },
        "m.relates_to": { rel_type: "m.replace", event_id: original },
    });
    await untilRoom(bob, roomId, (room) => room.findEventById(original).getContent().body === "hello");
    const { chunk } = await bob.http.authedRequest(
        "GET", `/rooms/${encodeURIComponent(roomId)}/relations/${encodeURIComponent(original)}/m.replace`, {},
        undefined, { prefix: "/_matrix/client/v1" },
    );
    assert.equal(chunk.length, 1);
    const fetched = await bob.fetchRoomEvent(roomId, original);
    assert.equal(fetched.unsigned["m.relations"]["m.replace"].content["m.new_content"].body, "hello");
});

test("reactions are counted by key and sender", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    const target = await send(alice, roomId, "cake?");
    await untilEvent(bob, roomId, target);
    const react = (client) => client.sendEvent(roomId, "m.reaction", {
        "m.relates_to": { rel_type: "m.annotation", event_id: target, key: "👍" },
    });
    await react(alice);
    await react(bob);
    await untilRoom(alice, roomId, (room) => {
        const sorted = room.relations.getChildEventsForEvent(target, "m.annotation", "m.reaction")
            ?.getSortedAnnotationsByKey();
        return sorted?.[0]?.[0] === "👍" && sorted[0][1].size === 2;
    });
    await assert.rejects(react(bob), (error) => error.errcode === "M_DUPLICATE_ANNOTATION");
});

test("a reply points to what it answers", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    const question = await send(alice, roomId, "who?");
    const answer = await send(bob, roomId, "me", { "m.relates_to": { "m.in_reply_to": { event_id: question } } });
    const got = await untilEvent(alice, roomId, answer);
    assert.equal(got.replyEventId, question);
});

test("a thread has its own timeline, summary and replies", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    const root = await send(alice, roomId, "let us talk about this");
    await untilEvent(bob, roomId, root);
    const replies = [];
    for (const [who, text] of [[bob, "one"], [alice, "two"], [bob, "three"]]) {
        replies.push(await send(who, roomId, text, {
            "m.relates_to": { rel_type: "m.thread", event_id: root, is_falling_back: true,
                "m.in_reply_to": { event_id: replies.at(-1) ?? root } },
        }));
    }
    await untilRoom(alice, roomId, (room) => {
        const thread = room.getThread(root);
        return thread?.length === 3 && thread.replyToEvent?.getId() === replies[2];
    });
    const main = alice.getRoom(roomId).getLiveTimeline().getEvents().map((e) => e.getId());
    assert.ok(!replies.some((id) => main.includes(id)), "replies are not in the main timeline");

    const fetched = await bob.fetchRoomEvent(roomId, root);
    const summary = fetched.unsigned["m.relations"]["m.thread"];
    assert.equal(summary.count, 3);
    assert.equal(summary.current_user_participated, true);
    assert.equal(summary.latest_event.event_id, replies[2]);

    const list = await alice.createThreadListMessagesRequest(roomId, null, 10, sdk.Direction.Backward, "all");
    assert.deepEqual(list.chunk.map((event) => event.event_id), [root]);
});

test("a redaction takes the content away for everybody", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    const eventId = await send(alice, roomId, "oops");
    await untilEvent(bob, roomId, eventId);
    await alice.redactEvent(roomId, eventId, undefined, { reason: "a slip" });
    await untilRoom(bob, roomId, (room) => room.findEventById(eventId).isRedacted());
    const fetched = await bob.fetchRoomEvent(roomId, eventId);
    assert.deepEqual(fetched.content, {});
    assert.equal(fetched.unsigned.redacted_because.content.reason, "a slip");
    await assert.rejects(bob.redactEvent(roomId, roomCreate(bob, roomId)), (error) => error.errcode === "M_FORBIDDEN");
});

const roomCreate = (client, roomId) =>
    client.getRoom(roomId).getLiveTimeline().getState(sdk.EventTimeline.FORWARDS).getStateEvents("m.room.create", "").getId();

test("unread and highlight counts rise with messages and fall with a receipt", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    const counts = (room) => [
        room.getRoomUnreadNotificationCount("total"), room.getRoomUnreadNotificationCount("highlight"),
    ].join();
    await send(alice, roomId, "one");
    await send(alice, roomId, "two");
    const last = await send(alice, roomId, "you!", { "m.mentions": { user_ids: [bob.getUserId()] } });
    const event = await untilEvent(bob, roomId, last);
    await untilRoom(bob, roomId, (room) => counts(room) === "3,1");
    await bob.sendReadReceipt(event);
    await untilRoom(bob, roomId, (room) => counts(room) === "0,0");
    await untilRoom(alice, roomId, (room) => room.getEventReadUpTo(bob.getUserId()) === last);
    const next = await send(alice, roomId, "three");
    await untilEvent(bob, roomId, next);
    await untilRoom(bob, roomId, (room) => counts(room) === "1,0");
});

test("a thread's messages are counted and read apart", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    const root = await send(bob, roomId, "root");
    await untilEvent(alice, roomId, root);
    const reply = await send(alice, roomId, "reply", {
        "m.relates_to": { rel_type: "m.thread", event_id: root, is_falling_back: true, "m.in_reply_to": { event_id: root } },
    });
    await untilRoom(bob, roomId, (room) => room.getThreadUnreadNotificationCount(root, "total") === 1);
    const event = await untilEvent(bob, roomId, reply);
    await bob.sendReadReceipt(event);
    await untilRoom(bob, roomId, (room) => room.getThreadUnreadNotificationCount(root, "total") === 0);
});

test("private receipts stay private, and the read marker moves", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    const eventId = await send(alice, roomId, "read me");
    const event = await untilEvent(bob, roomId, eventId);
    await bob.sendReadReceipt(event, sdk.ReceiptType.ReadPrivate);
    await bob.setRoomReadMarkers(roomId, eventId);
    await untilRoom(bob, roomId, (room) => room.getAccountData("m.fully_read")?.getContent().event_id === eventId);
    const later = await send(bob, roomId, "later");
    await untilEvent(alice, roomId, later);
    assert.notEqual(alice.getRoom(roomId).getEventReadUpTo(bob.getUserId(), true), eventId);
});

test("typing is seen and ends", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    const typing = () => alice.getRoom(roomId)?.getMember(bob.getUserId())?.typing ?? null;
    await bob.sendTyping(roomId, true, 20_000);
    await until(alice, [sdk.RoomMemberEvent.Typing], () => typing() === true);
    await bob.sendTyping(roomId, false, 0);
    await until(alice, [sdk.RoomMemberEvent.Typing], () => typing() === false);
});

test("names, topics, profiles and account data reach the other side", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    await alice.setRoomName(roomId, "Kitchen");
    await alice.setRoomTopic(roomId, "cake");
    await untilRoom(bob, roomId, (room) => room.name === "Kitchen");
    await alice.setDisplayName("Alice A.");
    await untilRoom(bob, roomId, (room) => room.getMember(alice.getUserId())?.name === "Alice A.");
    assert.equal((await bob.getProfileInfo(alice.getUserId())).displayname, "Alice A.");
    await bob.setRoomTag(roomId, "m.favourite", { order: 0.5 });
    await untilRoom(bob, roomId, (room) => room.tags["m.favourite"]?.order === 0.5);
    await bob.setAccountData("org.example.setting", { on: true });
    await until(bob, sdk.ClientEvent.AccountData, () => bob.getAccountData("org.example.setting")?.getContent().on === true);
});

test("history is paged backwards without gap or repetition", async () => {
    const roomId = await roomOf(alice, [], PLAIN);
    for (let i = 0; i < 45; i++) await send(alice, roomId, String(i));
    await bob.joinRoom(roomId);
    const room = await untilRoom(bob, roomId, (found) => (found.getMyMembership() === "join" ? found : null));
    const texts = () => room.getLiveTimeline().getEvents().filter((e) => e.getType() === "m.room.message")
        .map((e) => e.getContent().body);
    while (await bob.paginateEventTimeline(room.getLiveTimeline(), { backwards: true, limit: 10 }));
    assert.deepEqual(texts(), Array.from({ length: 45 }, (_, i) => String(i)));
});

test("a media upload comes back unchanged", async () => {
    const bytes = new Uint8Array(100_000).map((_, i) => (i * 7) % 251);
    const { content_uri: uri } = await alice.uploadContent(Buffer.from(bytes), { type: "image/x-test", name: "bytes.bin" });
    const answer = await fetch(bob.mxcUrlToHttp(uri, undefined, undefined, undefined, true, true, true), {
        headers: { Authorization: `Bearer ${bob.getAccessToken()}` },
    });
    assert.equal(answer.status, 200);
    assert.deepEqual(new Uint8Array(await answer.arrayBuffer()), bytes);
});

test("a room upgrade leads to the new room", async () => {
    const roomId = await roomOf(alice, [bob], { ...PLAIN, room_version: "11", name: "Old" });
    await alice.sendEvent(roomId, "m.room.message", { msgtype: "m.text", body: "before" });
    const { replacement_room: newId } = await alice.upgradeRoom(roomId, "12");
    await untilRoom(bob, roomId, (room) => room.currentState.getStateEvents("m.room.tombstone", "")
        ?.getContent().replacement_room === newId);
    await bob.joinRoom(newId);
    const room = await untilRoom(bob, newId, (found) => (found.getMyMembership() === "join" ? found : null));
    assert.equal(room.getVersion(), "12");
    assert.equal(room.findPredecessor()?.roomId, roomId);
    await untilRoom(bob, newId, (found) => found.name === "Old");
    await assert.rejects(send(bob, roomId, "too late"), (error) => error.errcode === "M_FORBIDDEN");
});

test("leaving, banning and forgetting end a membership", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    await bob.leave(roomId);
    await untilRoom(alice, roomId, (room) => room.getMember(bob.getUserId())?.membership === "leave");
    await bob.joinRoom(roomId);
    await untilRoom(bob, roomId, (room) => room.getMyMembership() === "join");
    await alice.ban(roomId, bob.getUserId(), "enough");
    await untilRoom(bob, roomId, (room) => room.getMyMembership() === "ban");
    await assert.rejects(bob.joinRoom(roomId), (error) => error.httpStatus === 403);
    await bob.forget(roomId);
    await until(bob, ROOM_EVENTS, () => bob.getRoom(roomId) === null);
});
