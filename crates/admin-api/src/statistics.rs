//! What the server is and holds.

use http::Method;
use samtal_client_api::{Answer, Json, RawArgs};
use serde_json::{Value, json};

use crate::admin::{Admin, Page, set_next};

pub(crate) fn routes() -> Admin {
    Admin::default()
        .on(Method::GET, &["/_synapse/admin/v1/server_version"], version)
        .on(Method::GET, &["/_synapse/admin/v1/statistics/users/media"], media_by_user)
        .on(Method::GET, &["/_synapse/admin/v1/background_updates/status"], background_updates)
}

/// `GET /_synapse/admin/v1/server_version`
async fn version(_: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(json!({ "server_version": concat!("Samtal ", env!("CARGO_PKG_VERSION")) })))
}

/// `GET /_synapse/admin/v1/statistics/users/media`: who has uploaded how much.
async fn media_by_user(args: RawArgs) -> Answer<Json<Value>> {
    let page: Page = args.query()?;
    let mut users = Vec::new();
    for user in args.hs.accounts.user_list().await? {
        let bytes = args.hs.media.used_bytes(&user.user_id).await.map_err(samtal_client_api::ApiError::internal)?;
        if bytes > 0 {
            users.push((user, bytes));
        }
    }
    match page.order_by.as_deref() {
        Some("media_length" | "media_count") => users.sort_by_key(|(_, bytes)| *bytes),
        Some("displayname") => users.sort_by(|(one, _), (other, _)| one.display_name.cmp(&other.display_name)),
        _ => {}
    }
    if page.is_descending()? {
        users.reverse();
    }
    let total = users.len();
    let (users, next) = page.cut(users);
    let users: Vec<Value> = users
        .iter()
        .map(
            |(user, bytes)| json!({ "user_id": user.user_id, "displayname": user.display_name, "media_length": bytes }),
        )
        .collect();
    let mut answer = json!({ "users": users, "total": total });
    set_next(&mut answer, "next_token", next);
    Ok(Json(answer))
}

/// `GET /_synapse/admin/v1/background_updates/status`: migrations run at the start, never behind one's back.
async fn background_updates(_: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(json!({ "enabled": true, "current_updates": {} })))
}
