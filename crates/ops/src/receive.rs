//! Events as other servers send them, and whether they may be believed.

use std::sync::Arc;

use ruma::{OwnedServerName, RoomId, room_version_rules::RoomVersionRules};
use samtal_event::Origin as Source;
use samtal_event::{FormatError, ParsedPdu, Pdu, required_signatures, verify};
use samtal_keyring::{KeySet, Purpose, Wanted};
use samtal_room::Room;
use serde_json::value::RawValue;

use crate::{Homeserver, OpError};

/// Events whose signatures are checked by one task: some milliseconds of work.
const CHUNK: usize = 64;
/// So few are checked where they are.
const FEW: usize = 4;

impl Homeserver {
    /// Reads events of one room and checks their signatures. Those that are bad are left out, and said in the log.
    pub(crate) async fn received(
        &self,
        room: &Room,
        raw: &[Box<RawValue>],
        source: Source,
    ) -> Result<Vec<Pdu>, OpError> {
        let texts: Vec<&str> = raw.iter().map(|event| event.get()).collect();
        self.received_texts(room, &texts, source).await
    }

    /// As [`Self::received`], of events that lie in a longer text.
    pub(crate) async fn received_texts(
        &self,
        room: &Room,
        texts: &[&str],
        source: Source,
    ) -> Result<Vec<Pdu>, OpError> {
        let mut parsed = Vec::with_capacity(texts.len());
        for text in texts {
            match ParsedPdu::from_bytes_of(text.as_bytes(), room.rules, source) {
                Ok(pdu) if pdu.room_id() == room.room_id => parsed.push(pdu),
                Ok(pdu) => {
                    tracing::info!(event = %pdu.event_id(), room = %room.room_id, "an event of another room is left out")
                }
                Err(error) => tracing::info!(room = %room.room_id, %error, "an event is left out"),
            }
        }
        let checked = self.verified(room.rules, parsed).await?;
        Ok(checked.into_iter().filter_map(Result::ok).collect())
    }

    /// Reads one event of a room and checks its signatures.
    pub(crate) async fn received_one(
        &self,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        raw: &RawValue,
    ) -> Result<Pdu, OpError> {
        let parsed = ParsedPdu::from_bytes_of(raw.get().as_bytes(), rules, Source::Live).map_err(unusable)?;
        if parsed.room_id() != room_id {
            return Err(OpError::Invalid("the event is of another room".into()));
        }
        let checked = self.verified(rules, vec![parsed]).await?.into_iter().next();
        checked.unwrap_or_else(|| Err("no event".into())).map_err(OpError::Forbidden)
    }

    /// Checks the signatures of events: in batches, keys asked for all at once, work on the blocking pool.
    pub(crate) async fn verified(
        &self,
        rules: &'static RoomVersionRules,
        parsed: Vec<ParsedPdu>,
    ) -> Result<Vec<Result<Pdu, String>>, OpError> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for pdu in &parsed {
            let ts_ms = u64::try_from(pdu.unverified().origin_server_ts_ms()).unwrap_or(0);
            let purpose = Purpose::Event { ts_ms, enforce: rules.enforce_key_validity };
            // What cannot be read here is refused when it is verified.
            for required in required_signatures(pdu, rules).unwrap_or_default() {
                let server = required.server;
                wanted.extend(required.key_ids.into_iter().map(|key_id| Wanted {
                    server: server.clone(),
                    key_id,
                    purpose,
                }));
            }
        }
        wanted.sort();
        wanted.dedup();
        let keys = self
            .keyring
            .keys_for(&wanted, &self.remote)
            .await
            .map_err(|error| OpError::BadRemote(error.to_string()))?;
        if parsed.len() <= FEW || !has_threads() {
            return Ok(parsed.iter().map(|pdu| check(pdu, &keys, rules)).collect());
        }
        let keys = Arc::new(keys);
        let mut parsed = parsed.into_iter();
        let mut tasks = Vec::new();
        loop {
            let chunk: Vec<ParsedPdu> = parsed.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                break;
            }
            let keys = Arc::clone(&keys);
            tasks.push(tokio::task::spawn_blocking(move || {
                chunk.iter().map(|pdu| check(pdu, &keys, rules)).collect::<Vec<_>>()
            }));
        }
        let mut checked = Vec::new();
        for task in tasks {
            checked.extend(task.await.map_err(|_| OpError::BadRemote("checking signatures was interrupted".into()))?);
        }
        Ok(checked)
    }
}

/// What is said about an event that cannot be read: one without hashes or signatures is not signed, the others have the wrong form.
pub(crate) fn unusable(error: FormatError) -> OpError {
    match error {
        FormatError::Field("hashes" | "signatures") => OpError::Forbidden("the event is not signed".into()),
        error => OpError::BadContent(error.to_string()),
    }
}

/// Whether work elsewhere would save time. It would not on a runtime of one thread; and there one seed is to be one history.
fn has_threads() -> bool {
    tokio::runtime::Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() != tokio::runtime::RuntimeFlavor::CurrentThread)
}

fn check(parsed: &ParsedPdu, keys: &KeySet, rules: &RoomVersionRules) -> Result<Pdu, String> {
    let ts_ms = u64::try_from(parsed.unverified().origin_server_ts_ms()).unwrap_or(0);
    let required = required_signatures(parsed, rules).map_err(|error| error.to_string())?;
    let servers: Vec<OwnedServerName> = required.into_iter().map(|required| required.server).collect();
    let keys = keys.of_servers(servers.iter().map(|server| &**server), ts_ms, rules.enforce_key_validity);
    match verify(parsed, &keys, rules) {
        // Too long for us, but other servers may build on it.
        Ok(verified) if parsed.must_be_rejected() => Ok(verified.into_pdu().with_rejected(true)),
        Ok(verified) => Ok(verified.into_pdu()),
        Err(error) => {
            tracing::info!(event = %parsed.event_id(), %error, "an event's signatures are refused");
            Err(error.to_string())
        }
    }
}
