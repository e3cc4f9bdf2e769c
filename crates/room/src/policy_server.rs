//! Policy servers: a server that a room has chosen, which must have signed every event before others show it (SS API,
//! "Policy Servers", since Matrix 1.18).
//!
//! The engine knows when a signature is needed and whether it is right; asking for it is a [`PolicySource`]'s, which has a network.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use futures_util::future::BoxFuture;
use ruma::{
    OwnedServerName, RoomId, ServerName,
    serde::Base64,
    signatures::{PublicKeyMap, PublicKeySet},
};
use samtal_event::{POLICY_SERVER_KEY, Pdu, has_valid_signature, with_signature};
use serde::Deserialize;

use crate::{
    Rooms,
    error::RoomError,
    graph::Room,
    local::{Appended, LocalDraft},
    writer::{Expected, Outcome, Work},
};

/// How often an event is made anew because the room went on while the policy server looked at it.
const ATTEMPTS: usize = 3;

/// The policy server of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyServer {
    /// Its name.
    pub via: OwnedServerName,
    /// Its key for this room: the room's state says it, not the server.
    key: Base64,
}

/// Why a policy server has not signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRecommended {
    /// Its error code, `M_UNKNOWN` if there was no answer.
    pub errcode: String,
    /// Its words.
    pub message: String,
}

/// Asks policy servers for signatures. Each call is bounded in time by the one who implements it.
pub trait PolicySource: Send + Sync {
    /// The signature of `via` on an event. `for_a_person`: somebody waits for it.
    fn sign<'a>(
        &'a self,
        via: &'a ServerName,
        pdu: &'a Pdu,
        for_a_person: bool,
    ) -> BoxFuture<'a, Result<String, NotRecommended>>;
}

impl PolicyServer {
    /// From the content of `m.room.policy`; nothing if that names none.
    pub(crate) fn from_content(content: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: OwnedServerName,
            public_keys: BTreeMap<String, serde_json::Value>,
        }
        let Content { via, public_keys } = serde_json::from_str(content).ok()?;
        let key = Base64::parse(public_keys.get("ed25519")?.as_str()?).ok()?;
        Some(Self { via, key })
    }

    /// Whether it has signed the event.
    pub(crate) fn has_signed(&self, pdu: &Pdu, room: &Room) -> bool {
        let keys = PublicKeySet::from([(POLICY_SERVER_KEY.to_owned(), self.key.clone())]);
        let keys = PublicKeyMap::from([(self.via.to_string(), keys)]);
        has_valid_signature(pdu, &self.via, &keys, room.rules)
    }
}

/// The event that a policy server is never asked about: else none could be got rid of.
pub(crate) fn is_exempt(event_type: &str, state_key: Option<&str>) -> bool {
    event_type == "m.room.policy" && state_key == Some("")
}

impl Rooms {
    /// Has policy servers asked from now on. Without it no room has one.
    pub fn set_policy_source(&self, source: Arc<dyn PolicySource>) {
        // Who came first stays: there is one, set when the tenant opens.
        let _ = self.inner.policy_source.set(source);
        self.store().has_policy_source.store(true, Ordering::Relaxed);
    }

    /// The policy server that a room uses now: its state names it, and it has somebody in the room.
    pub async fn policy_server(&self, room_id: &RoomId) -> Result<Option<PolicyServer>, RoomError> {
        let Some(event) = self.current_state(room_id, "m.room.policy", "").await? else { return Ok(None) };
        let Some(server) = PolicyServer::from_content(event.pdu.content_str()) else { return Ok(None) };
        let room = self.room(room_id).await?;
        let is_there = !self.store().graph.joined_of(room.nid, &server.via).await?.is_empty();
        Ok(is_there.then_some(server))
    }

    /// The event with the signature of the room's policy server, if the room uses one: the signature it came with, or one asked for.
    ///
    /// # Errors
    /// [`RoomError::NotRecommended`] if the policy server does not sign.
    pub async fn recommended(&self, room: &Room, pdu: &Pdu, for_a_person: bool) -> Result<Pdu, RoomError> {
        let Some(source) = self.inner.policy_source.get() else { return Ok(pdu.clone()) };
        if is_exempt(pdu.type_str(), pdu.state_key()) {
            return Ok(pdu.clone());
        }
        let Some(server) = self.policy_server(&room.room_id).await? else { return Ok(pdu.clone()) };
        if server.has_signed(pdu, room) {
            return Ok(pdu.clone());
        }
        let signature = source.sign(&server.via, pdu, for_a_person).await.map_err(RoomError::NotRecommended)?;
        let signed = with_signature(pdu, &server.via, POLICY_SERVER_KEY, &signature, room.rules)?;
        if server.has_signed(&signed, room) {
            return Ok(signed);
        }
        let message =
            format!("the signature of the policy server {} is not by the key that the room names", server.via);
        Err(RoomError::NotRecommended(NotRecommended { errcode: "M_UNKNOWN".to_owned(), message }))
    }

    /// Sends events of local users in a room that uses a policy server: each is made, signed by both, and then appended.
    pub(crate) async fn send_recommended(
        &self,
        room_id: &RoomId,
        drafts: Vec<LocalDraft>,
        expected: Option<Expected>,
    ) -> Result<Vec<Appended>, RoomError> {
        let room = self.room(room_id).await?;
        let mut appended = Vec::with_capacity(drafts.len());
        for mut draft in drafts {
            let mut attempts = 0;
            loop {
                let unsigned = self.template_at(room_id, &draft.sender, &draft.draft, draft.ts_ms).await?;
                let pdu = self.sign(&unsigned, &room)?.into_pdu();
                draft.recommended = Some(self.recommended(&room, &pdu, true).await?);
                attempts += 1;
                let work = Work::Local { drafts: vec![draft.clone()], expected: expected.clone() };
                match self.submit(room_id, work).await {
                    Ok(Outcome::Appended(done)) => {
                        appended.extend(done);
                        break;
                    }
                    Ok(Outcome::Ingested(_) | Outcome::Inserted(_) | Outcome::Done) => break,
                    Err(RoomError::Refused(_)) if attempts < ATTEMPTS => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(appended)
    }
}
