//! Pushers, and what there was to be told of.

use http::Method;
use ruma::api::auth_scheme::{AccessToken, NoAccessToken};
use samtal_push::{PushError, Pusher, PusherKey};
use samtal_room::Form;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Answer, ApiError, Json, Raw, RawArgs, Routes,
    page::{escape, page},
};

/// Longest `app_id`, in bytes.
const APP_ID_MAX: usize = 64;
/// Longest `pushkey`, in bytes.
const PUSHKEY_MAX: usize = 512;
/// Longest `data`, in bytes.
const DATA_MAX: usize = 16_384;
/// Where gateways listen.
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";
/// Where the link in letters leads.
const UNSUBSCRIBE: &str = "/_samtal/client/unsubscribe/{token}";
/// Notifications of a page when the client names no number, and at most.
const PAGE: u64 = 20;
const PAGE_MAX: u64 = 100;

pub(crate) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(Method::GET, &["/_matrix/client/r0/pushers", "/_matrix/client/v3/pushers"], list)
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &["/_matrix/client/r0/pushers/set", "/_matrix/client/v3/pushers/set"],
            set,
        )
        .raw::<AccessToken, _, _, _>(
            Method::GET,
            &["/_matrix/client/r0/notifications", "/_matrix/client/v3/notifications"],
            notifications,
        )
        .raw::<NoAccessToken, _, _, _>(Method::GET, &[UNSUBSCRIBE], unsubscribe_page)
        .raw::<NoAccessToken, _, _, _>(Method::POST, &[UNSUBSCRIBE], unsubscribe)
}

/// `GET /pushers`
async fn list(args: RawArgs) -> Answer<Json<Value>> {
    let pushers = args.hs.pushers.of_user(&args.who.user_id).await?;
    // Those of a device that has gone go soon after it.
    let devices = args.hs.accounts.devices(&args.who.user_id).await?;
    let is_there = |device: &str| devices.iter().any(|known| known.device_id == device);
    let pushers: Vec<Value> =
        pushers.iter().filter(|pusher| pusher.device_id.as_deref().is_none_or(is_there)).map(shown).collect();
    Ok(Json(json!({ "pushers": pushers })))
}

fn shown(pusher: &Pusher) -> Value {
    let mut shown = json!({
        "kind": pusher.kind,
        "app_id": pusher.key.app_id,
        "pushkey": pusher.key.pushkey,
        "app_display_name": pusher.app_display_name,
        "device_display_name": pusher.device_display_name,
        "lang": pusher.lang,
        "data": pusher.data,
    });
    if let Some(tag) = &pusher.profile_tag {
        shown["profile_tag"] = json!(tag);
    }
    shown
}

#[derive(Deserialize)]
struct Set {
    app_id: String,
    pushkey: String,
    kind: Option<String>,
    app_display_name: Option<String>,
    device_display_name: Option<String>,
    profile_tag: Option<String>,
    lang: Option<String>,
    data: Option<Map<String, Value>>,
    #[serde(default)]
    append: bool,
}

/// `POST /pushers/set`
async fn set(args: RawArgs) -> Answer<Json<Value>> {
    // `kind` must be there, if only to say `null`.
    let fields: Map<String, Value> = args.json().await?;
    if !fields.contains_key("kind") {
        return Err(ApiError::missing_param("kind is missing"));
    }
    let set: Set = serde_json::from_value(Value::Object(fields)).map_err(|error| crate::args::json_error(&error))?;
    if set.app_id.len() > APP_ID_MAX || set.pushkey.len() > PUSHKEY_MAX {
        return Err(ApiError::invalid_param("app_id has at most 64 bytes, pushkey at most 512"));
    }
    let key = PusherKey { user_id: args.who.user_id.clone(), app_id: set.app_id, pushkey: set.pushkey };
    let Some(kind) = set.kind else {
        args.hs.pushers.delete(&key).await?;
        return Ok(Json(json!({})));
    };
    let missing = |name: &'static str| ApiError::missing_param(format!("{name} is missing"));
    let data = set.data.ok_or_else(|| missing("data"))?;
    match kind.as_str() {
        "http" => check_url(&data)?,
        "email" => check_mail(&args, &key.pushkey).await?,
        _ => return Err(ApiError::invalid_param("Pushers of the kinds http and email are known here")),
    }
    if Value::Object(data.clone()).to_string().len() > DATA_MAX {
        return Err(ApiError::invalid_param("data is too large"));
    }
    let pusher = Pusher {
        key,
        kind,
        device_id: args.who.device_id.as_ref().map(ToString::to_string),
        app_display_name: set.app_display_name.ok_or_else(|| missing("app_display_name"))?,
        device_display_name: set.device_display_name.ok_or_else(|| missing("device_display_name"))?,
        profile_tag: set.profile_tag,
        lang: set.lang.ok_or_else(|| missing("lang"))?,
        data,
        created_ms: 0,
    };
    args.hs.pushers.set(pusher, set.append).await?;
    Ok(Json(json!({})))
}

/// Letters go to addresses that the user has shown to be theirs.
async fn check_mail(args: &RawArgs, address: &str) -> Result<(), ApiError> {
    if args.hs.settings.mail.as_ref().is_none_or(|mail| mail.notifications.is_none()) {
        return Err(ApiError::invalid_param("This server tells nobody by mail"));
    }
    let known = args.hs.accounts.threepids(&args.who.user_id).await?;
    if !known.iter().any(|known| known.medium == "email" && known.address == address) {
        return Err(ApiError::new(
            http::StatusCode::BAD_REQUEST,
            "M_THREEPID_NOT_FOUND",
            "This mail address is not one of your account",
        ));
    }
    Ok(())
}

/// `GET /_samtal/client/unsubscribe/{token}`: asks, since programs that look into mails follow links.
async fn unsubscribe_page(args: RawArgs<NoAccessToken>) -> Answer<Raw> {
    let token: String = args.path(0)?;
    Ok(match args.hs.pushers.of_token(&token).await? {
        Some(key) => page(
            http::StatusCode::OK,
            "No more mails about unread messages?",
            &format!(
                "<p>{} will get no more of them.</p><form method=\"post\"><button>No more mails</button></form>",
                escape(&key.pushkey)
            ),
        ),
        None => page(http::StatusCode::NOT_FOUND, "There is nothing to end", "<p>These mails have been ended.</p>"),
    })
}

/// `POST /_samtal/client/unsubscribe/{token}`: from the page, or from a mail program at one click (RFC 8058).
async fn unsubscribe(args: RawArgs<NoAccessToken>) -> Answer<Raw> {
    let token: String = args.path(0)?;
    args.hs.pushers.unsubscribe(&token).await?;
    Ok(page(http::StatusCode::OK, "Done", "<p>There will be no more mails about unread messages.</p>"))
}

fn check_url(data: &Map<String, Value>) -> Result<(), ApiError> {
    let url = data.get("url").ok_or_else(|| ApiError::missing_param("data.url is missing"))?;
    let uri: Option<http::Uri> = url.as_str().and_then(|url| url.parse().ok());
    let fits = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some() && uri.path() == GATEWAY_PATH
    });
    if !fits {
        return Err(ApiError::invalid_param(format!("data.url is not a URL with the path {GATEWAY_PATH}")));
    }
    Ok(())
}

#[derive(Deserialize)]
struct Page {
    from: Option<String>,
    limit: Option<u64>,
    only: Option<String>,
}

/// `GET /notifications`
async fn notifications(args: RawArgs) -> Answer<Json<Value>> {
    let page: Page = args.query()?;
    let wrong = |_| ApiError::invalid_param("from is not a token of this server");
    let from = page.from.as_deref().map(str::parse::<i64>).transpose().map_err(wrong)?;
    let limit = usize::try_from(page.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX)).unwrap_or(1);
    let user_id = &args.who.user_id;
    let highlights = page.only.as_deref() == Some("highlight");
    let history = args.hs.push.history(user_id, from.map(Into::into), limit, highlights).await?;
    let mut shown = Vec::with_capacity(history.notifications.len());
    let device_id = args.who.device_id.as_ref().map(|device_id| device_id.as_str());
    for notification in &history.notifications {
        let form = Form { device_id, ..Form::default() };
        let event = args.hs.rooms.client_event(&notification.event, user_id, form).await;
        shown.push(json!({
            "room_id": notification.room_id,
            "event": event.map_err(ApiError::internal)?,
            "actions": notification.actions,
            "read": notification.read,
            "ts": notification.event.pdu.origin_server_ts_ms(),
            "profile_tag": null,
        }));
    }
    let mut answer = json!({ "notifications": shown });
    if let Some(next) = history.next {
        answer["next_token"] = json!(next.0.to_string());
    }
    Ok(Json(answer))
}

impl From<PushError> for ApiError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::TooMany => Self::invalid_param("There are too many pushers"),
            PushError::Storage(error) => error.into(),
            PushError::Rooms(_) | PushError::Accounts(_) => Self::internal(error),
        }
    }
}
