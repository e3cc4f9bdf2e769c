//! Events as one reader sees them: what is said beside the event.

use std::sync::Arc;

use ruma::{DeviceId, UserId, events::room::member::MembershipState};
use samtal_event::{Unsigned, write_client};
use samtal_kit::signed_ms;
use samtal_room::{RoomError, Store, StoredEvent, sticky_left_ms};

/// Under which name events say for how long they are sticky yet (MSC4354), in milliseconds.
const STICKY_LEFT: &str = "msc4354_sticky_duration_ttl_ms";

/// Who reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) user_id: &'a UserId,
    pub(crate) device_id: Option<&'a DeviceId>,
    pub(crate) now_ms: u64,
}

impl Reader<'_> {
    /// The transaction id of the event, if this device sent it.
    pub(crate) fn transaction_id<'e>(&self, event: &'e StoredEvent) -> Option<&'e str> {
        event.txn.as_ref()?;
        (event.pdu.sender() == self.user_id).then(|| event.transaction_id_for(self.device_id?.as_str())).flatten()
    }
}

/// The event in client form.
pub(crate) async fn render(
    store: &Store,
    event: &StoredEvent,
    now_ms: u64,
    membership: Option<&MembershipState>,
    transaction_id: Option<&str>,
    relations: Option<&str>,
) -> Result<String, RoomError> {
    let replaced = match (event.pdu.state_key(), event.before) {
        (Some(state_key), Some(before)) => store.state_event(before, event.pdu.type_str(), state_key).await?,
        _ => None,
    };
    let redaction = match &event.redacted_by {
        Some(event_id) => store.graph.event(event_id).await?,
        None => None,
    };
    let redaction = redaction.map(|redaction| {
        let mut json = String::new();
        write_client(&redaction.pdu, None, &Unsigned::default(), &mut json);
        json
    });
    let sticky_left = sticky_left_ms(&event.pdu, now_ms).map(|left| left.to_string());
    let sticky_left: Option<[(&str, &str); 1]> = sticky_left.as_deref().map(|left| [(STICKY_LEFT, left)]);
    let unsigned = Unsigned {
        age_ms: Some(signed_ms(now_ms).saturating_sub(event.pdu.origin_server_ts_ms())),
        transaction_id,
        membership: membership.map(MembershipState::as_str),
        prev_content_json: replaced.as_ref().map(|replaced| replaced.pdu.content_str()),
        prev_sender: replaced.as_ref().map(|replaced| replaced.pdu.sender()),
        replaces_state: replaced.as_ref().map(|replaced| replaced.pdu.event_id()),
        redacted_because_json: redaction.as_deref(),
        relations_json: relations,
        extra: sticky_left.as_ref().map_or(&[], |left| left.as_slice()),
    };
    let mut json = String::with_capacity(event.pdu.content_str().len() + 512);
    let room = store.graph.room_by_nid(event.room).await?;
    write_client(&store.erasures.shown(event, &room, membership), None, &unsigned, &mut json);
    Ok(json)
}

/// State events in client form, as they stand in `state`: without what they replaced.
pub(crate) fn render_state(event: &Arc<StoredEvent>, now_ms: u64) -> String {
    let age_ms = signed_ms(now_ms).saturating_sub(event.pdu.origin_server_ts_ms());
    let mut json = String::with_capacity(event.pdu.content_str().len() + 256);
    write_client(&event.pdu, None, &Unsigned { age_ms: Some(age_ms), ..Unsigned::default() }, &mut json);
    json
}
