"""mautrix-python as an application service: a bot, and ghosts for people elsewhere."""

import asyncio
import contextlib
import os
import tempfile

import nio
import pytest
import yaml
from mautrix.appservice import AppService
from mautrix.appservice.state_store import FileASStateStore
from mautrix.client import Client
from mautrix.crypto import MemoryCryptoStore, OlmMachine
from mautrix.errors import MExclusive
from mautrix.types import EventType, Membership, RoomEncryptionStateEventContent
from people import PATIENCE_S, URL, device, person, room_of

REGISTRATION = os.environ.get("SAMTAL_APPSERVICE")
NAME = os.environ.get("SAMTAL_SERVER_NAME", "")

pytestmark = pytest.mark.skipif(not REGISTRATION, reason="the server has no application service")


@contextlib.asynccontextmanager
async def service():
    """The application service, listening; `events` has all that it was sent."""
    with open(REGISTRATION) as f:
        file = yaml.safe_load(f)
    with tempfile.TemporaryDirectory() as directory:
        found = AppService(
            server=URL, domain=NAME, as_token=file["as_token"], hs_token=file["hs_token"],
            bot_localpart=file["sender_localpart"], id=file["id"], loop=asyncio.get_running_loop(),
            state_store=FileASStateStore(path=f"{directory}/state.json", binary=False), ephemeral_events=True,
            encryption_events=True)
        events, changed = [], asyncio.Condition()

        @found.matrix_event_handler
        async def note(event):
            async with changed:
                events.append(event)
                changed.notify_all()

        async def until(condition):
            async with changed:
                await asyncio.wait_for(
                    changed.wait_for(lambda: any(condition(event) for event in events)), PATIENCE_S)
            return next(event for event in events if condition(event))

        async def exists(user_or_alias):
            asked.append(user_or_alias)
            return {} if "known" in user_or_alias else None

        asked = found.asked = []
        found.query_user = found.query_alias = exists
        found.until, found.events = until, events
        await found.start("127.0.0.1", int(file["url"].rsplit(":", 1)[1]))
        try:
            await found.intent.ensure_registered()
            yield found
        finally:
            await found.stop()


@pytest.fixture(scope="module")
def loop_and_post():
    """One service for all tests, since a server waits before it tries a service again that was away."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    context = service()
    post = loop.run_until_complete(context.__aenter__())
    yield loop, post
    loop.run_until_complete(context.__aexit__(None, None, None))
    loop.close()


def run(story):
    def test(loop_and_post):
        loop, post = loop_and_post
        loop.run_until_complete(asyncio.wait_for(story(post), 120))
    test.__doc__ = story.__doc__
    return test


@run
async def test_the_server_reaches_the_service(post):
    """A ping goes round."""
    assert await post.ping_self() >= 0
    assert (await post.intent.whoami()).user_id == post.bot_mxid


@run
async def test_a_ghost_talks_with_a_user(post):
    """A ghost is invited, joins, is written to, and answers in its own name."""
    async with person("alice") as alice:
        ghost = post.intent.user(f"@post-{os.urandom(4).hex()}:{NAME}")
        await ghost.ensure_registered()
        await ghost.set_displayname("Karin (post)")
        room_id = await room_of(alice, [])
        await alice.client.room_invite(room_id, ghost.mxid)
        await post.until(lambda e: e.type == EventType.ROOM_MEMBER and e.room_id == room_id
                         and e.state_key == ghost.mxid and e.content.membership == Membership.INVITE)
        await ghost.join_room_by_id(room_id)
        event_id = await alice.say(room_id, "hello over there")
        got = await post.until(lambda e: getattr(e, "event_id", None) == event_id)
        assert got.content.body == "hello over there" and got.sender == alice.user_id
        answer = await ghost.send_text(room_id, "hello back")
        assert await alice.reads(answer) == "hello back"
        assert alice.messages[answer].sender == ghost.mxid
        assert alice.client.rooms[room_id].users[ghost.mxid].display_name == "Karin (post)"


class EncryptedRooms:
    """What the crypto machine asks about rooms: all that it is asked about are encrypted."""

    async def is_encrypted(self, _room_id):
        return True

    async def get_encryption_info(self, _room_id):
        return RoomEncryptionStateEventContent.deserialize({"algorithm": "m.megolm.v1.aes-sha2"})

    async def find_shared_rooms(self, _user_id):
        return ["!one:of.them"]


@contextlib.asynccontextmanager
async def ghost_with_device(post):
    """A ghost that has a device without ever having logged in (MSC4190), and what it was told in transactions."""
    ghost = post.intent.user(f"@post-{os.urandom(4).hex()}:{NAME}")
    await ghost.ensure_registered()
    client = Client(mxid=ghost.mxid, base_url=URL, token=post.as_token)
    await client.create_device_msc4190(f"POST{os.urandom(4).hex()}", "Post")
    crypto = OlmMachine(client, MemoryCryptoStore("", "test"), EncryptedRooms())
    changed, told = asyncio.Condition(), {"counts": [], "devices": [], "messages": []}

    async def note(kind, value):
        async with changed:
            told[kind].append(value)
            changed.notify_all()

    async def counts(all_counts):
        await crypto.handle_as_otk_counts(all_counts)
        await note("counts", all_counts[ghost.mxid][client.device_id])

    async def devices(lists):
        await crypto.handle_as_device_lists(lists)
        await note("devices", set(lists.changed))

    async def message(event):
        await crypto.handle_as_to_device_event(event)
        await note("messages", event.type)

    async def until(condition):
        async with changed:
            await asyncio.wait_for(changed.wait_for(lambda: condition(told)), PATIENCE_S)

    post.otk_handler, post.device_list_handler = counts, devices
    post.to_device_handler = message
    try:
        await crypto.load()
        await crypto.share_keys()
        yield ghost, client, crypto, told, until
    finally:
        post.otk_handler = post.device_list_handler = post.to_device_handler = None
        await client.api.session.close()


@run
async def test_a_ghost_talks_where_all_is_encrypted(post):
    """Its room keys come in transactions, as do counts of its one-time keys and changes of others' devices."""
    async with person("alice", encryption=True) as alice, ghost_with_device(post) as (ghost, client, crypto, told, until):
        room_id = await room_of(alice, [], encrypted=True)
        await alice.client.room_invite(room_id, ghost.mxid)
        await ghost.join_room_by_id(room_id)
        await alice.until("the ghost is in the room", lambda: ghost.mxid in alice.client.rooms[room_id].users)
        event_id = await alice.say(room_id, "a secret for the post")
        sent = await post.until(lambda e: getattr(e, "event_id", None) == event_id)
        assert sent.type == EventType.ROOM_ENCRYPTED
        await until(lambda told: EventType.TO_DEVICE_ENCRYPTED in told["messages"])
        assert (await crypto.decrypt_megolm_event(sent)).content.body == "a secret for the post"
        # alice's client took one of its one-time keys to get the room key there.
        await until(lambda told: any(count.signed_curve25519 < 50 for count in told["counts"]))

        await crypto.share_group_session(room_id, [alice.user_id])
        content = await crypto.encrypt_megolm_event(
            room_id, EventType.ROOM_MESSAGE, {"msgtype": "m.text", "body": "a secret from the post"})
        answer = await client.send_message_event(room_id, EventType.ROOM_ENCRYPTED, content)
        assert await alice.reads(answer) == "a secret from the post"
        assert alice.messages[answer].sender == ghost.mxid and alice.messages[answer].decrypted

        told["devices"].clear()
        async with device(alice.user_id, encryption=True):
            await until(lambda told: any(alice.user_id in changed for changed in told["devices"]))


@run
async def test_the_past_keeps_its_time(post):
    """A service gives the time at which something was said elsewhere."""
    async with person("alice") as alice:
        room_id = await room_of(alice, [])
        await alice.client.room_invite(room_id, post.bot_mxid)
        await post.until(lambda e: e.type == EventType.ROOM_MEMBER and e.room_id == room_id and e.state_key == post.bot_mxid)
        await post.intent.join_room_by_id(room_id)
        event_id = await post.intent.send_text(room_id, "long ago", timestamp=1_500_000_000_000)
        await alice.reads(event_id)
        assert alice.messages[event_id].server_timestamp == 1_500_000_000_000


@run
async def test_passing_messages_reach_the_service(post):
    """Typing and receipts in a room with a ghost are sent to the service."""
    async with person("alice") as alice:
        ghost = post.intent.user(f"@post-{os.urandom(4).hex()}:{NAME}")
        await ghost.ensure_registered()
        room_id = await room_of(alice, [])
        await alice.client.room_invite(room_id, ghost.mxid)
        await ghost.join_room_by_id(room_id)
        event_id = await ghost.send_text(room_id, "read me")
        await alice.reads(event_id)
        await alice.client.room_typing(room_id, True, 20_000)
        await post.until(lambda e: e.type == EventType.TYPING and e.room_id == room_id and alice.user_id in e.content.user_ids)
        await alice.client.room_read_markers(room_id, event_id, event_id)
        await post.until(lambda e: e.type == EventType.RECEIPT and e.room_id == room_id and event_id in e.content)


@run
async def test_names_of_the_service_are_its_own(post):
    """Users can't take its names; it can't take others'; unknown aliases are asked for."""
    async with person("alice") as alice:
        anonymous = nio.AsyncClient(URL, "")
        taken = await anonymous.register(f"post-{os.urandom(4).hex()}", "password")
        await anonymous.close()
        assert isinstance(taken, nio.ErrorResponse) and taken.status_code == "M_EXCLUSIVE", taken
        other = post.intent.user(f"@somebody-{os.urandom(4).hex()}:{NAME}")
        with pytest.raises(MExclusive):
            await other.ensure_registered()
            await other.set_displayname("x")
        alias = f"#post-known-{os.urandom(4).hex()}:{NAME}"
        await alice.client.room_resolve_alias(alias)
        assert alias in post.asked
