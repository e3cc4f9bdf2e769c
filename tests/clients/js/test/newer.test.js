// What is newer than most rooms: lists of threads, polls, delayed and sticky events, profiles with more in them, sliding sync.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { PollEndEvent } from "matrix-js-sdk/lib/extensible_events_v1/PollEndEvent.js";
import { PollResponseEvent } from "matrix-js-sdk/lib/extensible_events_v1/PollResponseEvent.js";
import { PollStartEvent } from "matrix-js-sdk/lib/extensible_events_v1/PollStartEvent.js";
import { SlidingSync } from "matrix-js-sdk/lib/sliding-sync.js";
import { device, person, roomOf, sdk, stopAll, until, untilEvent, untilRoom, url, ROOM_EVENTS } from "../lib/people.js";

const PLAIN = { preset: "public_chat" };
let alice, bob;

before(async () => {
    [alice, bob] = await Promise.all([person("alice"), person("bob")]);
});
after(stopAll);

const send = async (client, roomId, body, more = {}) =>
    (await client.sendEvent(roomId, "m.room.message", { msgtype: "m.text", body, ...more })).event_id;

const inThread = (root) => ({
    "m.relates_to": { rel_type: "m.thread", event_id: root, is_falling_back: true, "m.in_reply_to": { event_id: root } },
});

test("a device that comes later lists the room's threads, all and one's own", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    const roots = [];
    for (const text of ["first", "second"]) roots.push(await send(alice, roomId, text));
    await send(alice, roomId, "in the second", inThread(roots[1]));
    const last = await send(bob, roomId, "in the first", inThread(roots[0]));
    const later = await device(alice.getUserId());
    const room = await untilRoom(later, roomId, (found) => found);
    await room.createThreadsTimelineSets();
    await room.fetchRoomThreads();
    const listed = (set) => set.getLiveTimeline().getEvents().map((event) => event.getId());
    const [all, own] = room.threadsTimelineSets;
    await until(later, ROOM_EVENTS, () => listed(all).length === 2 && listed(own).length > 0);
    assert.deepEqual(listed(all), [roots[1], roots[0]], "the one with the newest reply is last");
    assert.deepEqual(listed(own).toSorted(), roots.toSorted(), "alice has begun both");
    assert.equal(room.getThread(roots[0]).replyToEvent.getId(), last);
});

test("a poll is voted in, and its end counts the votes", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    const poll = PollStartEvent.from("Tea or coffee?", ["Tea", "Coffee"], "m.poll.disclosed").serialize();
    const { event_id: pollId } = await alice.sendEvent(roomId, poll.type, poll.content);
    const start = await untilEvent(bob, roomId, pollId);
    const answers = start.unstableExtensibleEvent.answers.map((answer) => answer.id);
    for (const [who, answer] of [[alice, answers[0]], [bob, answers[0]], [bob, answers[1]]]) {
        const vote = PollResponseEvent.from([answer], pollId).serialize();
        await who.sendEvent(roomId, vote.type, vote.content);
    }
    const end = PollEndEvent.from(pollId, "Closed").serialize();
    await alice.sendEvent(roomId, end.type, end.content);
    const later = await device(bob.getUserId());
    const room = await untilRoom(later, roomId, (found) => found);
    const found = await later.relations(roomId, pollId, "m.reference", null, { limit: 10 });
    assert.equal(found.events.length, 4, "three votes and the end");
    await room.processPollEvents([found.originalEvent]);
    const votes = await room.polls.get(pollId).getResponses();
    const newest = new Map();
    for (const event of votes.getRelations().toSorted((one, other) => one.getTs() - other.getTs())) {
        newest.set(event.getSender(), event.unstableExtensibleEvent.answerIds[0]);
    }
    assert.deepEqual(Object.fromEntries(newest), { [alice.getUserId()]: answers[0], [bob.getUserId()]: answers[1] });
    assert.ok(room.polls.get(pollId).isEnded);
});

test("a delayed event waits, can be put off, called off, and sent at once", async () => {
    const roomId = await roomOf(alice, [bob], PLAIN);
    const later = async (body) => (await alice._unstable_sendDelayedEvent(
        roomId, { delay: 3_600_000 }, null, "m.room.message", { msgtype: "m.text", body })).delay_id;
    const [sent, dropped] = [await later("at once, after all"), await later("never")];
    const scheduled = async () => (await alice._unstable_getDelayedEvents("scheduled")).scheduled.map((one) => one.delay_id);
    assert.deepEqual((await scheduled()).toSorted(), [sent, dropped].toSorted());
    await alice._unstable_restartScheduledDelayedEvent(sent);
    await alice._unstable_cancelScheduledDelayedEvent(dropped);
    assert.deepEqual(await scheduled(), [sent]);
    await alice._unstable_sendScheduledDelayedEvent(sent);
    const bodies = await untilRoom(bob, roomId, (room) => {
        const found = room.getLiveTimeline().getEvents().filter((event) => event.getType() === "m.room.message");
        return found.length > 0 && found.map((event) => event.getContent().body);
    });
    assert.deepEqual(bodies, ["at once, after all"]);
    await alice._unstable_sendDelayedStateEvent(roomId, { delay: 1 }, "m.room.topic", { topic: "later" }, "");
    await untilRoom(bob, roomId, (room) =>
        room.currentState.getStateEvents("m.room.topic", "")?.getContent().topic === "later");
});

test("a sticky event is told to who comes after it was said", async () => {
    const roomId = await roomOf(alice, [], PLAIN);
    const { event_id: eventId } = await alice._unstable_sendStickyEvent(
        roomId, 600_000, null, "org.example.presence", { msc4354_sticky_key: "alice", here: true });
    for (let number = 0; number < 30; number += 1) await send(alice, roomId, `more ${number}`);
    await bob.joinRoom(roomId);
    const sticky = await untilRoom(bob, roomId, (room) => [...room._unstable_getStickyEvents()].at(0));
    assert.equal(sticky.getId(), eventId);
    assert.equal(sticky.getContent().here, true);
});

test("a profile has more than a name and a picture", async () => {
    assert.ok(await alice.doesServerSupportExtendedProfiles());
    await alice.setExtendedProfileProperty("m.tz", "Europe/Stockholm");
    await alice.setExtendedProfileProperty("org.example.pronouns", [{ summary: "hon" }]);
    assert.equal(await bob.getExtendedProfileProperty(alice.getUserId(), "m.tz"), "Europe/Stockholm");
    assert.deepEqual((await bob.getExtendedProfile(alice.getUserId()))["org.example.pronouns"], [{ summary: "hon" }]);
    await alice.deleteExtendedProfileProperty("m.tz");
    assert.equal((await bob.getExtendedProfile(alice.getUserId()))["m.tz"], undefined);
});

test("by sliding sync come the list, what is said, and what it was said about", async () => {
    const rooms = [];
    for (const name of ["one", "two", "three"]) rooms.push(await roomOf(alice, [bob], { ...PLAIN, name }));
    await send(alice, rooms[0], "this is the newest room now");
    const login = await sdk.createClient({ baseUrl: url }).loginRequest({
        type: "m.login.password", identifier: { type: "m.id.user", user: bob.getUserId() }, password: "correct horse battery staple",
    });
    const client = sdk.createClient({
        baseUrl: url, userId: login.user_id, deviceId: login.device_id, accessToken: login.access_token, timelineSupport: true,
    });
    const wish = { timeline_limit: 1, required_state: [["m.room.name", ""], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]] };
    const lists = new Map([["all", { ...wish, ranges: [[0, 0]] }]]);
    const slidingSync = new SlidingSync(url, lists, { ...wish, timeline_limit: 20 }, client, 5_000);
    try {
        await client.startClient({ slidingSync, threadSupport: true });
        const room = await until(client, ROOM_EVENTS, () => client.getRoom(rooms[0]));
        assert.equal(room.name, "one");
        await until(client, ROOM_EVENTS, () => slidingSync.getListData("all")?.joinedCount >= 3);
        assert.equal(client.getRoom(rooms[1]), null, "it is not in the window");
        slidingSync.modifyRoomSubscriptions(new Set([rooms[1]]));
        await until(client, ROOM_EVENTS, () => client.getRoom(rooms[1])?.name === "two");
        const eventId = await send(alice, rooms[1], "said while it is open");
        assert.equal((await untilEvent(client, rooms[1], eventId)).getContent().body, "said while it is open");
        assert.equal((await send(client, rooms[1], "and answered")).startsWith("$"), true);
        await untilRoom(alice, rooms[1], (found) =>
            found.getLiveTimeline().getEvents().some((event) => event.getContent().body === "and answered"));
    } finally {
        slidingSync.stop();
        client.stopClient();
    }
});
