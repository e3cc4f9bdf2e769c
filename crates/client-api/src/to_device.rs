//! Messages to devices.

use http::Method;
use ruma::api::auth_scheme::AccessToken;
use samtal_ops::to_device::Messages;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Answer, ApiError, Json, RawArgs, Routes};

/// Longest event type and transaction id, in bytes.
const NAME_BYTES_MAX: usize = 255;

pub(crate) fn routes() -> Routes {
    Routes::new().raw::<AccessToken, _, _, _>(
        Method::PUT,
        &[
            "/_matrix/client/v3/sendToDevice/{event_type}/{txn_id}",
            "/_matrix/client/r0/sendToDevice/{event_type}/{txn_id}",
            "/_matrix/client/unstable/sendToDevice/{event_type}/{txn_id}",
        ],
        send,
    )
}

#[derive(Deserialize)]
struct Body {
    messages: Messages,
}

/// `PUT /sendToDevice/{eventType}/{txnId}`
async fn send(args: RawArgs) -> Answer<Json<Value>> {
    let body: Body = args.json().await?;
    let [event_type, txn_id] = args.path.as_slice() else {
        return Err(ApiError::invalid_param("The path needs an event type and a transaction id"));
    };
    if event_type.len() > NAME_BYTES_MAX || txn_id.len() > NAME_BYTES_MAX {
        return Err(ApiError::invalid_param("Event types and transaction ids have at most 255 bytes"));
    }
    let contents = body.messages.values().flat_map(|devices| devices.values());
    if !contents.into_iter().all(|content| content.get().starts_with('{')) {
        return Err(ApiError::bad_json("The content of a message must be an object"));
    }
    // An application service without a device has transaction ids of its own.
    let device = match (&args.who.device_id, &args.who.service) {
        (Some(device), _) => device.to_string(),
        (None, Some(service)) => format!("/{}", service.id),
        (None, None) => return Err(ApiError::missing_param("Name a device with device_id")),
    };
    args.hs.send_to_device(&args.who.user_id, &device, event_type, txn_id, body.messages).await?;
    Ok(Json(json!({})))
}
