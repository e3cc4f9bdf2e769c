"""People with a matrix-nio client each, on the homeserver at SAMTAL_URL.

What is waited for is always a condition, looked at after each sync.
"""

import contextlib
import os
import tempfile
import time
import uuid

import nio

URL = os.environ.get("SAMTAL_URL")
PASSWORD = "correct horse battery staple"
PATIENCE_S = 20


class Person:
    """One device of somebody; it syncs when a test waits for something."""

    def __init__(self, client, directory):
        self.client = client
        self.directory = directory
        self.messages = {}
        client.add_event_callback(lambda _room, event: self.messages.__setitem__(event.event_id, event), nio.Event)

    @property
    def user_id(self):
        return self.client.user_id

    async def until(self, what, condition):
        """Syncs until the condition holds, and returns what it gave."""
        end = time.monotonic() + PATIENCE_S
        while True:
            found = condition()
            if found:
                return found
            assert time.monotonic() < end, f"{self.user_id} waited in vain until {what}"
            answer = await self.client.sync(timeout=1000)
            assert isinstance(answer, nio.SyncResponse), answer
            await self.housekeeping()

    async def housekeeping(self):
        """What nio's sync_forever does between syncs."""
        if not self.client.olm:
            return
        if self.client.should_upload_keys:
            await self.client.keys_upload()
        if self.client.should_query_keys:
            await self.client.keys_query()
        if self.client.should_claim_keys:
            await self.client.keys_claim(self.client.get_users_for_key_claiming())
        await self.client.send_to_device_messages()

    async def say(self, room_id, text, **more):
        content = {"msgtype": "m.text", "body": text, **more}
        answer = await self.client.room_send(room_id, "m.room.message", content, ignore_unverified_devices=True)
        assert isinstance(answer, nio.RoomSendResponse), answer
        return answer.event_id

    async def reads(self, event_id):
        """The clear text of a message, once it has come by."""
        event = await self.until(f"{event_id} is there", lambda: self.messages.get(event_id))
        assert isinstance(event, nio.RoomMessageText), event
        return event.body


@contextlib.asynccontextmanager
async def person(name, encryption=False):
    """Somebody who registers, and leaves when the block ends."""
    user = f"{name}-{uuid.uuid4().hex[:8]}"
    async with device(user, encryption, register=True) as found:
        yield found


@contextlib.asynccontextmanager
async def device(user, encryption=False, register=False):
    """A device of somebody, which has synced once."""
    with tempfile.TemporaryDirectory() as directory:
        config = nio.AsyncClientConfig(
            encryption_enabled=encryption, store=nio.store.SqliteMemoryStore, store_sync_tokens=False)
        client = nio.AsyncClient(URL, user, store_path=directory if encryption else "", config=config)
        try:
            if register:
                answer = await client.register(user.lstrip("@").split(":")[0], PASSWORD, "test")
                assert isinstance(answer, nio.RegisterResponse), answer
            else:
                answer = await client.login(PASSWORD, "test")
                assert isinstance(answer, nio.LoginResponse), answer
            found = Person(client, directory)
            answer = await client.sync(full_state=True)
            assert isinstance(answer, nio.SyncResponse), answer
            await found.housekeeping()
            yield found
        finally:
            await client.close()


async def room_of(owner, others, encrypted=False, **options):
    """A room that the owner makes and the others join."""
    state = []
    if encrypted:
        state.append({"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}})
    answer = await owner.client.room_create(
        preset=nio.RoomPreset.public_chat, invite=[other.user_id for other in others], initial_state=state, **options)
    assert isinstance(answer, nio.RoomCreateResponse), answer
    room_id = answer.room_id
    for other in others:
        await other.until("the invite is there", lambda: room_id in other.client.invited_rooms)
        answer = await other.client.join(room_id)
        assert isinstance(answer, nio.JoinResponse), answer
    everybody = {owner.user_id, *(other.user_id for other in others)}
    for one in [owner, *others]:
        await one.until("all are in the room", lambda: room_id in one.client.rooms
                        and everybody <= set(one.client.rooms[room_id].users))
        await one.housekeeping()
    return room_id
