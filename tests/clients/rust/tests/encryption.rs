//! End-to-end encryption with matrix-sdk: conversation, backup, verification.

#![recursion_limit = "256"]

use anyhow::{Context, Result};
use matrix_sdk::Client;
use matrix_sdk::ruma::events::key::verification::VerificationMethod;
use samtal_clients::verification::{bootstrap_cross_signing, macs, to_device_requests, two_users_verify, verify};
use samtal_clients::{Device, Encryption, PATIENCE, room_of, until};

#[tokio::test(flavor = "multi_thread")]
async fn two_users_talk_and_the_server_holds_ciphertext() -> Result<()> {
    let (alice, bob) = (Device::of_new("alice").await?, Device::of_new("bob").await?);
    let room_id = room_of(&alice, &[&bob], Encryption::On).await?;
    let event_id = alice.say(&room_id, "psst").await?;
    let seen = bob.sees(&event_id).await?;
    assert_eq!(seen.body, "psst");
    assert!(seen.encrypted);
    let answer = bob.say(&room_id, "what?").await?;
    assert_eq!(alice.sees(&answer).await?.body, "what?");
    let messages = bob.room(&room_id)?.messages(matrix_sdk::room::MessagesOptions::backward()).await?;
    assert!(!messages.chunk.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_messages_each_way_are_all_read_in_order() -> Result<()> {
    let (alice, bob) = (Device::of_new("alice").await?, Device::of_new("bob").await?);
    let room_id = room_of(&alice, &[&bob], Encryption::On).await?;
    bob.sees(&alice.say(&room_id, "are you there?").await?).await?;
    alice.sees(&bob.say(&room_id, "yes").await?).await?;
    let talk = |who: Client| {
        let room_id = room_id.clone();
        async move {
            let room = who.get_room(&room_id).context("in the room")?;
            let mut last = None;
            for i in 0..50 {
                let content =
                    matrix_sdk::ruma::events::room::message::RoomMessageEventContent::text_plain(i.to_string());
                last = Some(room.send(content).await?.response.event_id);
            }
            last.context("sent")
        }
    };
    let (from_alice, from_bob) = tokio::try_join!(talk(alice.client.clone()), talk(bob.client.clone()))?;
    bob.sees(&from_alice).await?;
    alice.sees(&from_bob).await?;
    for (reader, writer) in [(&alice, &bob), (&bob, &alice)] {
        let texts: Vec<String> =
            reader.all_seen().into_iter().filter(|s| s.sender == writer.user_id()).skip(1).map(|s| s.body).collect();
        assert_eq!(texts, (0..50).map(|i| i.to_string()).collect::<Vec<_>>());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_device_restores_the_backup_and_reads_the_past() -> Result<()> {
    let (alice, bob) = (Device::of_new("alice").await?, Device::of_new("bob").await?);
    bootstrap_cross_signing(&alice.client).await?;
    let room_id = room_of(&alice, &[&bob], Encryption::On).await?;
    let event_id = bob.say(&room_id, "remember this").await?;
    alice.sees(&event_id).await?;
    let recovery = alice.client.encryption().recovery();
    let key = recovery.enable().wait_for_backups_to_upload().await?;

    let laptop = Device::of(alice.user_id()).await?;
    let before = laptop.room(&room_id)?.event(&event_id, None).await?;
    assert!(before.kind.is_utd(), "without the key it cannot be read");
    laptop.client.encryption().recovery().recover(&key).await?;
    laptop.client.encryption().backups().download_room_keys_for_room(&room_id).await?;
    let after = laptop.room(&room_id)?.event(&event_id, None).await?;
    assert!(!after.kind.is_utd(), "with the backup it can");
    assert!(after.raw().json().get().contains("remember this"));

    // Recovery brought the private cross-signing keys, so the new device is signed by them.
    until("the first device sees the second as verified", || async {
        let device_id = laptop.client.device_id().context("logged in")?;
        let device = alice.client.encryption().get_device(alice.user_id(), device_id).await?;
        Ok(device.filter(|d| d.is_cross_signed_by_owner()))
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_verify_each_other_by_emoji() -> Result<()> {
    let (alice, bob) = (Device::of_new("alice").await?, Device::of_new("bob").await?);
    bootstrap_cross_signing(&alice.client).await?;
    bootstrap_cross_signing(&bob.client).await?;
    let room_id = alice.client.create_dm(bob.user_id()).await?.room_id().to_owned();
    let invited = until("the invite is there", || async { Ok(bob.client.get_room(&room_id)) }).await?;
    invited.join().await?;
    bob.is_in(&room_id).await?;
    bob.sees(&alice.say(&room_id, "let us verify").await?).await?;
    alice.sees(&bob.say(&room_id, "yes").await?).await?;

    two_users_verify(&alice, &bob).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_of_a_user_verify_each_other_by_emoji() -> Result<()> {
    let alice = Device::of_new("alice").await?;
    bootstrap_cross_signing(&alice.client).await?;
    let mut requests = to_device_requests(&alice.client);
    let macs = macs(&alice.client);
    let phone = Device::of(alice.user_id()).await?;
    let device_id = alice.client.device_id().context("logged in")?;
    phone.client.encryption().request_user_identity(alice.user_id()).await?;
    until("the first device knows the second", || async {
        let id = phone.client.device_id().context("logged in")?;
        Ok(alice.client.encryption().get_device(alice.user_id(), id).await?)
    })
    .await?;
    let device = phone.client.encryption().get_device(alice.user_id(), device_id).await?.context("the first device")?;
    let ours = device.request_verification_with_methods(vec![VerificationMethod::SasV1]).await?;
    let theirs =
        tokio::time::timeout(PATIENCE, requests.recv()).await.context("no request came")?.context("a request comes")?;
    verify(ours, theirs, macs).await?;
    until("the new device has the private cross-signing keys", || async {
        Ok(phone.client.encryption().cross_signing_status().await.filter(|s| s.is_complete()))
    })
    .await?;
    Ok(())
}
