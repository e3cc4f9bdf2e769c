//! End-to-end encryption with matrix-sdk between the users of two homeservers.
//!
//! Alice is at `SAMTAL_URL`, Bob at `SAMTAL_OTHER_URL`; `tests/federation/with-synapse` runs this both ways round.

#![recursion_limit = "256"]

use anyhow::{Context, Result};
use samtal_clients::verification::{bootstrap_cross_signing, two_users_verify};
use samtal_clients::{Device, Encryption, homeserver, other_homeserver, room_of, until};

async fn alice_and_bob() -> Result<(Device, Device)> {
    Ok((Device::of_new_at(&homeserver(), "alice").await?, Device::of_new_at(&other_homeserver(), "bob").await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_two_servers_talk_encrypted() -> Result<()> {
    let (alice, bob) = alice_and_bob().await?;
    let room_id = room_of(&alice, &[&bob], Encryption::On).await?;
    for n in 0..3 {
        let seen = bob.sees(&alice.say(&room_id, &format!("question {n}")).await?).await?;
        assert_eq!(seen.body, format!("question {n}"));
        assert!(seen.encrypted);
        let seen = alice.sees(&bob.say(&room_id, &format!("answer {n}")).await?).await?;
        assert_eq!(seen.body, format!("answer {n}"));
        assert!(seen.encrypted);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_device_at_the_other_server_reads_what_is_said_next() -> Result<()> {
    let (alice, bob) = alice_and_bob().await?;
    let room_id = room_of(&alice, &[&bob], Encryption::On).await?;
    bob.sees(&alice.say(&room_id, "before").await?).await?;

    let phone = Device::of_at(&other_homeserver(), bob.user_id()).await?;
    let phone_id = phone.client.device_id().context("logged in")?;
    until("the new device is known on the first server", || async {
        Ok(alice.client.encryption().get_device(bob.user_id(), phone_id).await?)
    })
    .await?;
    let said = alice.say(&room_id, "after").await?;
    for device in [&bob, &phone] {
        let seen = device.sees(&said).await?;
        assert_eq!((&*seen.body, seen.encrypted), ("after", true));
    }
    let said = phone.say(&room_id, "from the phone").await?;
    assert_eq!(alice.sees(&said).await?.body, "from the phone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_two_servers_verify_each_other_by_emoji() -> Result<()> {
    let (alice, bob) = alice_and_bob().await?;
    bootstrap_cross_signing(&alice.client).await?;
    bootstrap_cross_signing(&bob.client).await?;
    let room_id = room_of(&alice, &[&bob], Encryption::On).await?;
    bob.sees(&alice.say(&room_id, "let us verify").await?).await?;
    alice.sees(&bob.say(&room_id, "yes").await?).await?;
    for (me, other) in [(&alice, &bob), (&bob, &alice)] {
        until("the other's identity is known", || async {
            Ok(me.client.encryption().request_user_identity(other.user_id()).await?)
        })
        .await?;
    }
    alice.client.account().mark_as_dm(&room_id, &[bob.user_id().to_owned()]).await?;
    until("the room is theirs", || async { Ok(alice.client.get_dm_room(bob.user_id())) }).await?;
    two_users_verify(&alice, &bob).await
}
