//! Server notices: telling a user of this server something.

use http::Method;
use ruma::OwnedUserId;
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_ops::Notice;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::admin::Admin;

pub(crate) fn routes() -> Admin {
    Admin::default().on(Method::POST, &["/_synapse/admin/v1/send_server_notice"], send).on(
        Method::PUT,
        &["/_synapse/admin/v1/send_server_notice/{txn_id}"],
        send,
    )
}

#[derive(Deserialize)]
struct Wish {
    user_id: OwnedUserId,
    content: Box<RawValue>,
    #[serde(rename = "type", default = "message")]
    event_type: String,
    state_key: Option<String>,
}

fn message() -> String {
    "m.room.message".to_owned()
}

/// `POST /_synapse/admin/v1/send_server_notice`, `PUT /_synapse/admin/v1/send_server_notice/{txnId}`
async fn send(args: RawArgs) -> Answer<Json<Value>> {
    let wish: Wish = args.json().await?;
    if !wish.content.get().trim_start().starts_with('{') {
        return Err(ApiError::bad_json("content is not an object"));
    }
    let notice = Notice {
        event_type: &wish.event_type,
        state_key: wish.state_key.as_deref(),
        content: &wish.content,
        txn: args.path.first().map(|txn_id| (&*args.who.user_id, txn_id.as_str())),
    };
    let event_id = args.hs.send_notice(&wish.user_id, notice).await?;
    Ok(Json(json!({ "event_id": event_id })))
}
