"""What matrix-nio's users (bots, small clients) do."""

import asyncio
import io
import os

import nio
from nio.api import RelationshipType
from people import PASSWORD, device, person, room_of


def run(story):
    """Makes a test of a coroutine function."""
    def test():
        asyncio.run(asyncio.wait_for(story(), 120))
    test.__doc__ = story.__doc__
    return test


@run
async def test_a_conversation():
    """Messages arrive; replies, threads, edits, reactions and redactions are events as sent."""
    async with person("alice") as alice, person("bob") as bob:
        room_id = await room_of(alice, [bob])
        first = await alice.say(room_id, "hello")
        assert await bob.reads(first) == "hello"
        answer = await bob.say(room_id, "hi", **{"m.relates_to": {"m.in_reply_to": {"event_id": first}}})
        await alice.reads(answer)
        assert alice.messages[answer].source["content"]["m.relates_to"]["m.in_reply_to"]["event_id"] == first
        reaction = await alice.client.room_send(room_id, "m.reaction", {
            "m.relates_to": {"rel_type": "m.annotation", "event_id": answer, "key": "👍"}})
        await bob.until("the reaction is there", lambda: reaction.event_id in bob.messages)
        relations = [event async for event in bob.client.room_get_event_relations(
            room_id, answer, RelationshipType.annotation, "m.reaction")]
        assert [event.event_id for event in relations] == [reaction.event_id]
        redaction = await alice.client.room_redact(room_id, first, reason="a slip")
        assert isinstance(redaction, nio.RoomRedactResponse), redaction
        await bob.until("the redaction is there", lambda: redaction.event_id in bob.messages)
        got = await bob.client.room_get_event(room_id, first)
        assert isinstance(got.event, nio.RedactedEvent), got


@run
async def test_two_users_talk_encrypted():
    """Each reads the other; the server gave out only ciphertext."""
    async with person("alice", encryption=True) as alice, person("bob", encryption=True) as bob:
        room_id = await room_of(alice, [bob], encrypted=True)
        first = await alice.say(room_id, "psst")
        assert await bob.reads(first) == "psst"
        assert bob.messages[first].decrypted
        answer = await bob.say(room_id, "what?")
        assert await alice.reads(answer) == "what?"


@run
async def test_a_second_device_reads_with_exported_keys():
    """What was said before a device was there can be read with imported keys; what is said after, at once."""
    async with person("alice", encryption=True) as alice, person("bob", encryption=True) as bob:
        room_id = await room_of(alice, [bob], encrypted=True)
        past = await bob.say(room_id, "before")
        await alice.reads(past)
        async with device(alice.user_id, encryption=True) as laptop:
            await laptop.until("the room is there", lambda: room_id in laptop.client.rooms)
            await bob.until("the new device is known",
                            lambda: laptop.client.device_id in bob.client.device_store[alice.user_id])
            bob.client.invalidate_outbound_session(room_id)
            later = await bob.say(room_id, "after")
            assert await laptop.reads(later) == "after"

            file = os.path.join(alice.directory, "keys.txt")
            await alice.client.export_keys(file, "a passphrase", count=1000)
            await laptop.client.import_keys(file, "a passphrase")
            got = await laptop.client.room_messages(room_id, limit=50)
            texts = {event.event_id: event.body for event in got.chunk if isinstance(event, nio.RoomMessageText)}
            assert texts[past] == "before"


@run
async def test_two_devices_verify_each_other():
    """SAS by to-device messages, until both show the same emoji and confirm."""
    async with person("alice", encryption=True) as alice, device(alice.user_id, encryption=True) as phone:
        # nio follows the devices of those it shares encrypted rooms with
        room_id = await room_of(alice, [], encrypted=True)
        await phone.until("the room is there", lambda: room_id in phone.client.rooms)
        await alice.until("the phone is known",
                          lambda: phone.client.device_id in alice.client.device_store[alice.user_id])
        await phone.until("the first device is known",
                          lambda: alice.client.device_id in phone.client.device_store[alice.user_id])
        target = alice.client.device_store[alice.user_id][phone.client.device_id]
        answer = await alice.client.start_key_verification(target)
        assert isinstance(answer, nio.ToDeviceResponse), answer
        theirs = await phone.until("the verification starts",
                                   lambda: next(iter(phone.client.key_verifications.values()), None))
        await phone.client.accept_key_verification(theirs.transaction_id)
        ours = alice.client.key_verifications[theirs.transaction_id]
        for one, sas in ((alice, ours), (phone, theirs), (alice, ours), (phone, theirs)):
            await one.client.sync(timeout=500)
            await one.housekeeping()
        await alice.until("the emoji are there", lambda: ours.established_sas)
        await phone.until("the emoji are there", lambda: theirs.established_sas)
        assert ours.get_emoji() == theirs.get_emoji()
        await alice.client.confirm_short_auth_string(ours.transaction_id)
        await phone.client.confirm_short_auth_string(theirs.transaction_id)
        await alice.until("the phone is verified", lambda: ours.verified)
        await phone.until("the first device is verified", lambda: theirs.verified)
        assert alice.client.device_store[alice.user_id][phone.client.device_id].verified


@run
async def test_membership_state_and_history():
    """Kick, ban, unban, names, topics, aliases, and paging back over all of it."""
    async with person("alice") as alice, person("bob") as bob:
        room_id = await room_of(alice, [bob], name="Kitchen", topic="cake")
        assert bob.client.rooms[room_id].display_name == "Kitchen"
        assert bob.client.rooms[room_id].topic == "cake"
        alias = f"#{alice.user_id[1:]}"
        assert isinstance(await alice.client.room_put_alias(alias, room_id), nio.RoomPutAliasResponse)
        assert (await bob.client.room_resolve_alias(alias)).room_id == room_id
        for i in range(30):
            await alice.say(room_id, str(i))
        assert isinstance(await alice.client.room_kick(room_id, bob.user_id, "out"), nio.RoomKickResponse)
        await alice.until("the kick is seen", lambda: bob.user_id not in alice.client.rooms[room_id].users)
        assert isinstance(await bob.client.join(room_id), nio.JoinResponse)
        assert isinstance(await alice.client.room_ban(room_id, bob.user_id), nio.RoomBanResponse)
        refused = await bob.client.join(room_id)
        assert isinstance(refused, nio.JoinError), refused
        assert isinstance(await alice.client.room_unban(room_id, bob.user_id), nio.RoomUnbanResponse)
        assert isinstance(await bob.client.join(room_id), nio.JoinResponse)
        texts, start = [], ""
        while True:
            page = await bob.client.room_messages(room_id, start, limit=7)
            assert isinstance(page, nio.RoomMessagesResponse), page
            texts += [event.body for event in page.chunk if isinstance(event, nio.RoomMessageText)]
            if not page.end or not page.chunk:
                break
            start = page.end
        assert texts == [str(i) for i in reversed(range(30))]


@run
async def test_profile_media_and_devices():
    """Names, pictures, files, and devices that log out."""
    async with person("alice") as alice, person("bob") as bob:
        assert isinstance(await alice.client.set_displayname("Alice A."), nio.ProfileSetDisplayNameResponse)
        profile = await bob.client.get_profile(alice.user_id)
        assert profile.displayname == "Alice A."
        data = bytes(range(256)) * 100
        upload, _ = await alice.client.upload(io.BytesIO(data), "application/octet-stream", "x.bin", filesize=len(data))
        assert isinstance(upload, nio.UploadResponse), upload
        download = await bob.client.download(upload.content_uri)
        assert isinstance(download, (nio.DiskDownloadResponse, nio.MemoryDownloadResponse)), download
        assert download.body == data and download.filename == "x.bin"
        async with device(alice.user_id) as phone:
            devices = await alice.client.devices()
            assert {d.id for d in devices.devices} == {alice.client.device_id, phone.client.device_id}
            assert isinstance(await phone.client.logout(), nio.LogoutResponse)
        devices = await alice.client.devices()
        assert [d.id for d in devices.devices] == [alice.client.device_id]
        unknown = await alice.client.delete_devices(["NOTHERE"], {
            "type": "m.login.password", "identifier": {"type": "m.id.user", "user": alice.user_id},
            "password": PASSWORD})
        assert isinstance(unknown, (nio.DeleteDevicesResponse, nio.DeleteDevicesAuthResponse)), unknown


@run
async def test_typing_and_receipts():
    """Passing messages reach the other side."""
    async with person("alice") as alice, person("bob") as bob:
        room_id = await room_of(alice, [bob])
        seen = []
        bob.client.add_ephemeral_callback(lambda _room, event: seen.append(event), (nio.TypingNoticeEvent, nio.ReceiptEvent))
        await alice.client.room_typing(room_id, True, 20_000)
        await bob.until("typing is seen", lambda: any(
            isinstance(e, nio.TypingNoticeEvent) and e.users == [alice.user_id] for e in seen))
        event_id = await bob.say(room_id, "read me")
        await alice.reads(event_id)
        await alice.client.room_read_markers(room_id, event_id, event_id)
        await bob.until("the receipt is seen", lambda: any(
            isinstance(e, nio.ReceiptEvent) and any(
                r.event_id == event_id and r.user_id == alice.user_id for r in e.receipts) for e in seen))
