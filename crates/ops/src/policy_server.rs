//! Asking policy servers to sign events, and what is done with those they do not sign.

use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, header};
use ruma::ServerName;
use samtal_event::{POLICY_SERVER_KEY, Pdu};
use samtal_remote::{Options, Remote, RemoteError, Urgency};
use samtal_room::{NotRecommended, PolicySource, Room, RoomError};
use serde_json::Value;

use crate::{Homeserver, OpError};

/// A policy server gets so long: the room waits for it.
const ASK_TIME: Duration = Duration::from_secs(10);
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Asks policy servers over federation.
pub(crate) struct PolicyServers(pub(crate) Remote);

impl PolicySource for PolicyServers {
    fn sign<'a>(
        &'a self,
        via: &'a ServerName,
        pdu: &'a Pdu,
        for_a_person: bool,
    ) -> BoxFuture<'a, Result<String, NotRecommended>> {
        Box::pin(async move {
            let unknown = |message: String| NotRecommended { errcode: "M_UNKNOWN".to_owned(), message };
            let request = Request::post("/_matrix/policy/v1/sign")
                .header(header::CONTENT_TYPE, "application/json")
                .body(pdu.json().to_owned().into())
                .map_err(|error| unknown(error.to_string()))?;
            let urgency = if for_a_person { Urgency::Person } else { Urgency::Background };
            let options = Options { urgency, ..Options::default() }.time(ASK_TIME).body_bytes_max(ANSWER_BYTES_MAX);
            match self.0.send_raw(via, request, options).await {
                Ok(answer) => {
                    let answer: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
                    let signature = answer.get(via.as_str()).and_then(|keys| keys.get(POLICY_SERVER_KEY));
                    let signature = signature.and_then(Value::as_str).map(ToOwned::to_owned);
                    signature.ok_or_else(|| unknown(format!("the policy server {via} gave no signature")))
                }
                Err(RemoteError::Status { status, errcode, message, .. }) if status.is_client_error() => {
                    Err(NotRecommended { errcode, message })
                }
                Err(error) => {
                    tracing::info!(%via, %error, "a policy server did not answer");
                    Err(unknown(format!("the policy server {via} cannot be asked")))
                }
            }
        })
    }
}

impl Homeserver {
    /// A received event with the signature of the room's policy server, or, without one, why it is not to be shown.
    pub(crate) async fn reviewed(&self, room: &Room, pdu: &Pdu) -> Result<(Pdu, Option<String>), OpError> {
        match self.rooms.recommended(room, pdu, false).await {
            Ok(pdu) => Ok((pdu, None)),
            Err(RoomError::NotRecommended(refusal)) => {
                Ok((pdu.clone(), Some(format!("the room's policy server does not recommend it: {}", refusal.message))))
            }
            Err(error) => Err(error.into()),
        }
    }
}
