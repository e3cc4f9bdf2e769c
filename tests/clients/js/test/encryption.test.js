// End-to-end encryption: the server carries what it cannot read.

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { VerificationPhase, VerificationRequestEvent, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/verification.js";
import {
    CryptoEvent, device, ENCRYPTED, person, roomOf, stopAll, until, untilEvent, untilReadable, withPassword,
} from "../lib/people.js";

after(stopAll);

const crypto = { crypto: true };
const send = async (client, roomId, body) => (await client.sendTextMessage(roomId, body)).event_id;

async function bootstrapCrossSigning(client) {
    await client.getCrypto().bootstrapCrossSigning({
        setupNewCrossSigning: true,
        authUploadDeviceSigningKeys: withPassword(client),
    });
}

/** Secret storage with the cross-signing keys and a new key backup; the client keeps the recovery key. */
async function bootstrapSecretStorage(client) {
    await client.getCrypto().bootstrapSecretStorage({
        setupNewSecretStorage: true,
        setupNewKeyBackup: true,
        createSecretStorageKey: async () => {
            const key = await client.getCrypto().createRecoveryKeyFromPassphrase();
            client.recoveryKey = key.privateKey;
            return key;
        },
    });
}

test("two users talk, and the server holds only ciphertext", async () => {
    const [alice, bob] = await Promise.all([person("alice", crypto), person("bob", crypto)]);
    const roomId = await roomOf(alice, [bob], ENCRYPTED);
    const first = await send(alice, roomId, "psst");
    assert.equal(await untilReadable(bob, roomId, first), "psst");
    const answer = await send(bob, roomId, "what?");
    assert.equal(await untilReadable(alice, roomId, answer), "what?");
    const raw = await bob.fetchRoomEvent(roomId, first);
    assert.equal(raw.type, "m.room.encrypted");
    assert.ok(!JSON.stringify(raw).includes("psst"));
});

test("a device that logs in later reads what is sent from then on", async () => {
    const [alice, bob] = await Promise.all([person("alice", crypto), person("bob", crypto)]);
    const roomId = await roomOf(alice, [bob], ENCRYPTED);
    assert.equal(await untilReadable(bob, roomId, await send(alice, roomId, "one")), "one");
    const phone = await device(bob.getUserId(), crypto);
    // alice's client learns of the device from device_lists in sync
    await until(alice, [CryptoEvent.DevicesUpdated], () => true, "device update");
    await until(phone, ["Room"], () => phone.getRoom(roomId));
    for (let i = 0; ; i++) {
        const eventId = await send(alice, roomId, `two ${i}`);
        const event = await untilEvent(phone, roomId, eventId);
        await until(phone, ["Event.decrypted"], () => !event.isBeingDecrypted() && event.isDecryptionFailure() !== undefined);
        if (!event.isDecryptionFailure()) break;
        assert.ok(i < 5, "the new device never got the room's key");
    }
});

test("a new device restores the key backup and reads the past", async () => {
    const [alice, bob] = await Promise.all([person("alice", crypto), person("bob", crypto)]);
    await bootstrapCrossSigning(alice);
    await bootstrapSecretStorage(alice);
    assert.ok(await alice.getCrypto().checkKeyBackupAndEnable());
    const roomId = await roomOf(alice, [bob], ENCRYPTED);
    const eventId = await send(bob, roomId, "remember this");
    assert.equal(await untilReadable(alice, roomId, eventId), "remember this");
    await untilAsync(async () => (await backupVersion(alice)).count >= 1, "the key is in the backup");

    const laptop = await device(alice.getUserId(), { ...crypto });
    laptop.recoveryKey = alice.recoveryKey;
    await laptop.getCrypto().loadSessionBackupPrivateKeyFromSecretStorage();
    await laptop.getCrypto().checkKeyBackupAndEnable();
    const { imported, total } = await laptop.getCrypto().restoreKeyBackup();
    assert.ok(total >= 1 && imported === total);
    assert.equal(await untilReadable(laptop, roomId, eventId), "remember this");

    // with the private keys from secret storage the new device signs itself
    await laptop.getCrypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: withPassword(laptop) });
    await untilAsync(async () => {
        const status = await alice.getCrypto().getDeviceVerificationStatus(laptop.getUserId(), laptop.getDeviceId());
        return status?.crossSigningVerified;
    }, "the old device sees the new one as verified");
});

test("two users verify each other by emoji", async () => {
    const [alice, bob] = await Promise.all([person("alice", crypto), person("bob", crypto)]);
    await Promise.all([bootstrapCrossSigning(alice), bootstrapCrossSigning(bob)]);
    const roomId = await roomOf(alice, [bob], ENCRYPTED);
    assert.equal(await untilReadable(bob, roomId, await send(alice, roomId, "let us verify")), "let us verify");
    assert.equal(await untilReadable(alice, roomId, await send(bob, roomId, "yes")), "yes");
    const incoming = nextRequest(bob);
    const outgoing = await alice.getCrypto().requestVerificationDM(bob.getUserId(), roomId);
    await verify(outgoing, await incoming);
    const verified = async (me, other) =>
        (await me.getCrypto().getUserVerificationStatus(other.getUserId())).isCrossSigningVerified();
    await untilAsync(() => verified(alice, bob), "alice has verified bob");
    await untilAsync(() => verified(bob, alice), "bob has verified alice");
});

test("a user's two devices verify each other by emoji and share secrets", async () => {
    const alice = await person("alice", crypto);
    await bootstrapCrossSigning(alice);
    const phone = await device(alice.getUserId(), crypto);
    await phone.getCrypto().userHasCrossSigningKeys(alice.getUserId(), true);
    const incoming = nextRequest(alice);
    const outgoing = await phone.getCrypto().requestOwnUserVerification();
    await verify(outgoing, await incoming);
    const status = async () =>
        (await alice.getCrypto().getDeviceVerificationStatus(alice.getUserId(), phone.getDeviceId()))?.crossSigningVerified;
    await untilAsync(status, "the old device has signed the new one");
    // the private cross-signing keys travel by to-device messages
    await untilAsync(async () => {
        const { privateKeysCachedLocally: keys } = await phone.getCrypto().getCrossSigningStatus();
        return keys.masterKey && keys.selfSigningKey && keys.userSigningKey;
    }, "the new device has the private keys");
});

const backupVersion = (client) =>
    client.http.authedRequest("GET", "/room_keys/version", undefined, undefined, { prefix: "/_matrix/client/v3" });

function nextRequest(client) {
    return new Promise((resolve) => client.once(CryptoEvent.VerificationRequestReceived, resolve));
}

/** Plays both sides of SAS to its end. */
async function verify(outgoing, incoming) {
    await incoming.accept();
    await until(outgoing, VerificationRequestEvent.Change, () => outgoing.phase === VerificationPhase.Ready);
    const ours = await outgoing.startVerification("m.sas.v1");
    const theirs = await until(incoming, VerificationRequestEvent.Change, () => incoming.verifier);
    const [a, b] = [shown(ours), shown(theirs)];
    const ends = [ours.verify(), theirs.verify()];
    const [sasA, sasB] = await Promise.all([a, b]);
    assert.deepEqual(sasA.sas.emoji, sasB.sas.emoji);
    assert.deepEqual(sasA.sas.decimal, sasB.sas.decimal);
    await Promise.all([sasA.confirm(), sasB.confirm(), ...ends]);
    await until(incoming, VerificationRequestEvent.Change, () => incoming.phase === VerificationPhase.Done);
}

function shown(verifier) {
    const now = verifier.getShowSasCallbacks();
    return now ? Promise.resolve(now) : new Promise((resolve) => verifier.once(VerifierEvent.ShowSas, resolve));
}

/** Asks again until the answer is true; for what the SDK tells by no event. */
async function untilAsync(condition, what) {
    const until = Date.now() + Number(process.env.SAMTAL_WAIT_MS ?? 20_000);
    while (!(await condition())) {
        assert.ok(Date.now() < until, `waited in vain until ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
}
