//! What the server is and holds.

use std::collections::HashMap;

use http::Method;
use samtal_account::{Kind, ListedUser, User};
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_media::UserFiles;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    admin::{Admin, Page},
    openapi::{About, Form, field},
    own::cases::CASES_MAX,
};

/// Rooms in the list of the largest.
const LARGEST: usize = 10;

const NUMBERS: Form = Form::Object(&[
    field!(
        "users",
        Form::Object(&[
            field!("total", Form::Number, "Accounts that are not deactivated"),
            field!("administrators", Form::Number, "Administrators of the server"),
            field!("guests", Form::Number, "Guests"),
            field!("of_application_services", Form::Number, "Users that bridges and bots have made"),
            field!("locked", Form::Number, "Locked accounts"),
            field!("suspended", Form::Number, "Suspended accounts"),
            field!("deactivated", Form::Number, "Deactivated accounts"),
            field!("active_30_days", Form::Number, "Users with a device that was seen within 30 days"),
        ]),
        "Users",
    ),
    field!(
        "rooms",
        Form::Object(&[
            field!("total", Form::Number, "Rooms that this server is or was in"),
            field!("published", Form::Number, "Rooms in the public directory"),
            field!("federated", Form::Number, "Rooms with members of other servers"),
            field!("without_users_of_this_server", Form::Number, "Rooms that all users of this server have left"),
        ]),
        "Rooms",
    ),
    field!(
        "media",
        Form::Object(&[
            field!("files", Form::Number, "Different contents"),
            field!("bytes", Form::Number, "Their size in bytes"),
        ]),
        "Files",
    ),
    field!("cases", Form::Object(&[field!("open", Form::Number, "Reports that nobody has dealt with")]), "Cases"),
    field!(
        "servers",
        Form::Object(&[field!("not_answering", Form::Number, "Servers that do not answer")]),
        "Other servers",
    ),
]);

pub(crate) fn routes() -> Admin {
    Admin::default()
        .on(Method::GET, &["/_synapse/admin/v1/server_version"], version)
        .on(Method::GET, &["/_synapse/admin/v1/statistics/users/media"], media_by_user)
        .on(Method::GET, &["/_synapse/admin/v1/statistics/database/rooms"], largest_rooms)
        .on(Method::GET, &["/_synapse/admin/v1/background_updates/status"], background_updates)
        .on(Method::GET, &["/_synapse/admin/v1/background_updates/enabled"], background_updates_enabled)
}

pub(crate) fn own_routes() -> Admin {
    Admin::default().own(
        Method::GET,
        "/_samtal/admin/v1/statistics",
        About::new("Statistics", "The server in numbers", NUMBERS),
        numbers,
    )
}

/// `GET /_synapse/admin/v1/server_version`
async fn version(_: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(json!({ "server_version": concat!("Samtal ", env!("CARGO_PKG_VERSION")) })))
}

#[derive(Deserialize)]
struct Span {
    from_ts: Option<i64>,
    until_ts: Option<i64>,
    search_term: Option<String>,
}

/// `GET /_synapse/admin/v1/statistics/users/media`: who has uploaded how much.
async fn media_by_user(args: RawArgs) -> Answer<Json<Value>> {
    let (page, span): (Page, Span) = (args.query()?, args.query()?);
    let (from, until) = (span.from_ts.unwrap_or(0), span.until_ts.unwrap_or(i64::MAX));
    let totals = args.hs.media.totals_by_user(from, until).await.map_err(ApiError::internal)?;
    let mut names: HashMap<String, Option<String>> = HashMap::new();
    for listed in args.hs.accounts.user_list().await? {
        names.insert(listed.user.user_id.to_string(), listed.display_name);
    }
    let mut users: Vec<(UserFiles, Option<String>)> = totals
        .into_iter()
        .map(|files| (names.remove(&files.user).flatten(), files))
        .map(|(name, files)| (files, name))
        .collect();
    if let Some(term) = span.search_term.map(|term| term.to_lowercase()) {
        let holds = |text: &str| text.to_lowercase().contains(&term);
        users.retain(|(files, name)| holds(&files.user) || name.as_deref().is_some_and(holds));
    }
    match page.order_by.as_deref() {
        None | Some("user_id") => users.sort_by(|(one, _), (other, _)| one.user.cmp(&other.user)),
        Some("media_length") => users.sort_by_key(|(files, _)| files.bytes),
        Some("media_count") => users.sort_by_key(|(files, _)| files.count),
        Some("displayname") => users.sort_by(|(_, one), (_, other)| one.cmp(other)),
        Some(_) => return Err(ApiError::invalid_param("order_by names no field of the list")),
    }
    if page.is_descending()? {
        users.reverse();
    }
    Ok(page.answer("users", users, |(files, name)| {
        json!({
            "user_id": files.user, "displayname": name, "media_length": files.bytes, "media_count": files.count,
        })
    }))
}

/// `GET /_synapse/admin/v1/statistics/database/rooms`: the largest rooms, by what their events take.
async fn largest_rooms(args: RawArgs) -> Answer<Json<Value>> {
    let rooms = args.hs.rooms.largest_rooms(LARGEST).await?;
    let rooms: Vec<Value> =
        rooms.iter().map(|(room_id, bytes)| json!({ "room_id": room_id, "estimated_size": bytes })).collect();
    Ok(Json(json!({ "rooms": rooms })))
}

/// `GET /_samtal/admin/v1/statistics`: the server in numbers.
async fn numbers(args: RawArgs) -> Answer<Json<Value>> {
    let hs = &args.hs;
    let users = hs.accounts.user_list().await?;
    let active_since = hs.clock.now_ms().saturating_sub(30 * 24 * 3_600_000);
    let living = |listed: &&ListedUser| !listed.user.deactivated;
    let count = |test: fn(&User) -> bool| users.iter().filter(living).filter(|listed| test(&listed.user)).count();
    let rooms = hs.rooms.room_list().await?;
    let (files, bytes) = hs.media.total().await.map_err(ApiError::internal)?;
    let cases = hs.rooms.cases(i64::MAX, CASES_MAX).await?;
    Ok(Json(json!({
        "users": {
            "total": count(|_| true),
            "administrators": count(|user| user.admin),
            "guests": count(|user| user.kind == Kind::Guest),
            "of_application_services": count(|user| user.kind == Kind::Service),
            "locked": count(|user| user.locked),
            "suspended": count(|user| user.suspended),
            "deactivated": users.iter().filter(|listed| listed.user.deactivated).count(),
            "active_30_days": users
                .iter()
                .filter(living)
                .filter(|listed| listed.seen_ms.is_some_and(|seen_ms| seen_ms >= active_since))
                .count(),
        },
        "rooms": {
            "total": rooms.len(),
            "published": rooms.iter().filter(|room| room.published).count(),
            "federated": rooms.iter().filter(|room| room.joined > room.joined_local).count(),
            "without_users_of_this_server": rooms.iter().filter(|room| room.joined_local == 0).count(),
        },
        "media": { "files": files, "bytes": bytes },
        "cases": { "open": cases.iter().filter(|case| !case.closed).count() },
        "servers": { "not_answering": hs.remote.destinations().all_failing().len() },
    })))
}

/// `GET /_synapse/admin/v1/background_updates/enabled`
async fn background_updates_enabled(_: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(json!({ "enabled": true })))
}

/// `GET /_synapse/admin/v1/background_updates/status`: migrations run at the start, never behind one's back.
async fn background_updates(_: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(json!({ "enabled": true, "current_updates": {} })))
}
