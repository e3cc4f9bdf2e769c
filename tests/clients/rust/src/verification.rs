//! Verification by emoji, as two people do it.

use anyhow::{Context, Result};
use futures_util::StreamExt;
use matrix_sdk::encryption::verification::{
    SasState, SasVerification, Verification, VerificationRequest, VerificationRequestState,
};
use matrix_sdk::ruma::api::client::uiaa::{AuthData, MatrixUserIdentifier, Password, UserIdentifier};
use matrix_sdk::ruma::events::key::verification::VerificationMethod;
use matrix_sdk::ruma::events::key::verification::mac::{
    OriginalSyncKeyVerificationMacEvent, ToDeviceKeyVerificationMacEvent,
};
use matrix_sdk::ruma::events::key::verification::request::ToDeviceKeyVerificationRequestEvent;
use matrix_sdk::ruma::events::room::message::{MessageType, OriginalSyncRoomMessageEvent};
use matrix_sdk::{Client, Room};
use tokio::sync::mpsc;

use crate::{Device, PASSWORD, PATIENCE, until};

/// Makes a user's cross-signing keys and uploads them, with the password where it is asked for.
pub async fn bootstrap_cross_signing(client: &Client) -> Result<()> {
    let Err(error) = client.encryption().bootstrap_cross_signing(None).await else { return Ok(()) };
    let uiaa = error.as_uiaa_response().context("cross-signing was refused")?;
    let user = client.user_id().context("logged in")?.to_string();
    let mut password = Password::new(UserIdentifier::Matrix(MatrixUserIdentifier::new(user)), PASSWORD.to_owned());
    password.session = uiaa.session.clone();
    client.encryption().bootstrap_cross_signing(Some(AuthData::Password(password))).await?;
    Ok(())
}

/// Verification requests that come in rooms.
fn room_requests(client: &Client) -> mpsc::Receiver<VerificationRequest> {
    let (tell, requests) = mpsc::channel(4);
    client.add_event_handler(move |event: OriginalSyncRoomMessageEvent, _: Room, client: Client| {
        let tell = tell.clone();
        async move {
            if !matches!(event.content.msgtype, MessageType::VerificationRequest(_)) {
                return;
            }
            if let Some(found) = client.encryption().get_verification_request(&event.sender, &event.event_id).await {
                let _ = tell.send(found).await;
            }
        }
    });
    requests
}

/// Verification requests that come between a user's devices.
pub fn to_device_requests(client: &Client) -> mpsc::Receiver<VerificationRequest> {
    let (tell, requests) = mpsc::channel(4);
    client.add_event_handler(move |event: ToDeviceKeyVerificationRequestEvent, client: Client| {
        let tell = tell.clone();
        async move {
            let id = &event.content.transaction_id;
            if let Some(found) = client.encryption().get_verification_request(&event.sender, id).await {
                let _ = tell.send(found).await;
            }
        }
    });
    requests
}

/// The MACs of others that a client has taken in, in rooms and between devices.
pub fn macs(client: &Client) -> mpsc::Receiver<()> {
    let (tell, macs) = mpsc::channel(4);
    let tell_too = tell.clone();
    client.add_event_handler(move |event: OriginalSyncKeyVerificationMacEvent, _: Room, client: Client| {
        let tell = tell.clone();
        async move {
            if client.user_id() != Some(&*event.sender) {
                let _ = tell.send(()).await;
            }
        }
    });
    client.add_event_handler(move |_: ToDeviceKeyVerificationMacEvent| {
        let tell = tell_too.clone();
        async move {
            let _ = tell.send(()).await;
        }
    });
    macs
}

/// One user verifies another by emoji, in the room that is theirs; then each knows the other as verified.
pub async fn two_users_verify(one: &Device, other: &Device) -> Result<()> {
    let mut requests = room_requests(&other.client);
    let macs = macs(&other.client);
    let identity = one.client.encryption().request_user_identity(other.user_id()).await?;
    let identity = identity.context("the other has an identity")?;
    let ours = identity.request_verification_with_methods(vec![VerificationMethod::SasV1]).await?;
    let theirs =
        tokio::time::timeout(PATIENCE, requests.recv()).await.context("no request came")?.context("a request comes")?;
    verify(ours, theirs, macs).await?;
    for (me, other) in [(one, other), (other, one)] {
        until("the identity is verified", || async {
            let identity = me.client.encryption().get_user_identity(other.user_id()).await?;
            Ok(identity.filter(|i| i.is_verified()))
        })
        .await?;
    }
    Ok(())
}

/// Plays both sides of SAS to its end.
///
/// They confirm one after the other: a client that confirms while the other's MAC comes in sends its own MAC and
/// the end of the verification from two tasks at once, and if the end overtakes the MAC, the other side, which
/// takes no end before a MAC, waits for ever.
pub async fn verify(
    ours: VerificationRequest,
    theirs: VerificationRequest,
    mut macs: mpsc::Receiver<()>,
) -> Result<()> {
    theirs.accept_with_methods(vec![VerificationMethod::SasV1]).await?;
    until("the request is accepted", || async { Ok(ours.is_ready().then_some(())) }).await?;
    let ours = ours.start_sas().await?.context("SAS starts")?;
    let theirs = tokio::time::timeout(PATIENCE, async {
        let mut changes = Box::pin(theirs.changes());
        loop {
            let state = match theirs.state() {
                state @ VerificationRequestState::Transitioned { .. } => state,
                _ => changes.next().await.context("the request goes on")?,
            };
            if let VerificationRequestState::Transitioned { verification: Verification::SasV1(sas) } = state {
                return anyhow::Ok(sas);
            }
        }
    })
    .await
    .context("SAS did not start")??;
    theirs.accept().await?;
    let shown = |sas: SasVerification| async move {
        until("the emoji are there", || async { Ok(sas.can_be_presented().then(|| sas.emoji()).flatten()) }).await
    };
    let (a, b) = tokio::try_join!(shown(ours.clone()), shown(theirs.clone()))?;
    assert_eq!(a.map(|e| e.symbol), b.map(|e| e.symbol));
    ours.confirm().await?;
    tokio::time::timeout(PATIENCE, macs.recv()).await.context("no MAC came")?.context("a MAC comes")?;
    theirs.confirm().await?;
    for sas in [ours, theirs] {
        until("the verification is done", || async {
            match sas.state() {
                SasState::Done { .. } => Ok(Some(())),
                SasState::Cancelled(info) => anyhow::bail!("cancelled: {info:?}"),
                _ => Ok(None),
            }
        })
        .await?;
    }
    Ok(())
}
