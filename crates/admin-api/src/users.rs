//! Users: lists, details, making and changing them.

use std::{cmp::Ordering, sync::Arc};

use http::{Method, StatusCode};
use ruma::{DeviceId, OwnedUserId, UserId, events::room::member::MembershipState};
use samtal_account::{AccountError, Client, Kind, ListedUser, NewSession, NewUser, Switch, User};
use samtal_client_api::{Answer, ApiError, Json, Raw, RawArgs, json_response};
use samtal_ops::Homeserver;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admin::{Admin, Page, local_user, local_user_id};

pub(crate) fn routes() -> Admin {
    Admin::default()
        .on(Method::GET, &["/_synapse/admin/v2/users", "/_synapse/admin/v3/users"], list)
        .on(Method::GET, &["/_synapse/admin/v2/users/{user_id}"], details)
        .on(Method::PUT, &["/_synapse/admin/v2/users/{user_id}"], put)
        .on(Method::POST, &["/_synapse/admin/v1/deactivate/{user_id}"], deactivate)
        .on(Method::POST, &["/_synapse/admin/v1/reset_password/{user_id}"], reset_password)
        .on(Method::GET, &["/_synapse/admin/v1/users/{user_id}/admin"], is_admin)
        .on(Method::PUT, &["/_synapse/admin/v1/users/{user_id}/admin"], set_admin)
        .on(Method::PUT, &["/_synapse/admin/v1/suspend/{user_id}"], suspend)
        .on(Method::GET, &["/_synapse/admin/v1/users/{user_id}/joined_rooms"], joined_rooms)
        .on(Method::GET, &["/_synapse/admin/v1/users/{user_id}/memberships"], memberships)
        .on(Method::GET, &["/_synapse/admin/v1/users/{user_id}/accountdata"], account_data)
        .on(Method::GET, &["/_synapse/admin/v1/users/{user_id}/pushers"], pushers)
        .on(Method::POST, &["/_synapse/admin/v1/users/{user_id}/login"], log_in_as)
        .on(Method::GET, &["/_synapse/admin/v1/username_available"], username_available)
        .on(Method::GET, &["/_synapse/admin/v1/threepid/{medium}/users/{address}"], by_threepid)
}

#[derive(Deserialize)]
struct Filter {
    user_id: Option<String>,
    name: Option<String>,
    guests: Option<bool>,
    deactivated: Option<bool>,
    admins: Option<bool>,
    locked: Option<bool>,
}

impl Filter {
    fn passes(&self, listed: &ListedUser) -> bool {
        let user = &listed.user;
        let holds = |text: &str, part: &str| text.to_lowercase().contains(&part.to_lowercase());
        let shown = listed.display_name.as_deref().unwrap_or_default();
        self.user_id.as_deref().is_none_or(|part| holds(user.user_id.as_str(), part))
            && self.name.as_deref().is_none_or(|part| holds(user.user_id.localpart(), part) || holds(shown, part))
            && (self.guests != Some(false) || user.kind != Kind::Guest)
            && (!user.deactivated || self.deactivated == Some(true))
            && self.admins.is_none_or(|admins| user.admin == admins)
            && (!user.locked || self.locked == Some(true))
    }
}

/// `GET /_synapse/admin/v2/users`
async fn list(args: RawArgs) -> Answer<Json<Value>> {
    let (mut filter, page): (Filter, Page) = (args.query()?, args.query()?);
    let mut users = args.hs.accounts.user_list().await?;
    // The third version says which it wants of the deactivated; without a word it gives all.
    let is_v3 = args.parts.uri.path().starts_with("/_synapse/admin/v3");
    let wanted = if is_v3 { filter.deactivated } else { None };
    if is_v3 {
        filter.deactivated = Some(true);
    }
    users.retain(|listed| {
        filter.passes(listed) && wanted.is_none_or(|deactivated| listed.user.deactivated == deactivated)
    });
    sort(&mut users, &page)?;
    Ok(page.answer("users", users, listed))
}

fn sort(users: &mut [ListedUser], page: &Page) -> Result<(), ApiError> {
    let by: fn(&ListedUser, &ListedUser) -> Ordering = match page.order_by.as_deref() {
        None | Some("name") => |one, other| one.user.user_id.cmp(&other.user.user_id),
        Some("is_guest") => |one, other| is_guest(&one.user).cmp(&is_guest(&other.user)),
        Some("admin") => |one, other| one.user.admin.cmp(&other.user.admin),
        Some("deactivated") => |one, other| one.user.deactivated.cmp(&other.user.deactivated),
        Some("displayname") => |one, other| one.display_name.cmp(&other.display_name),
        Some("avatar_url") => |one, other| one.avatar_url.cmp(&other.avatar_url),
        Some("creation_ts") => |one, other| one.user.created_ms.cmp(&other.user.created_ms),
        Some("last_seen_ts") => |one, other| one.seen_ms.cmp(&other.seen_ms),
        Some("locked") => |one, other| one.user.locked.cmp(&other.user.locked),
        Some("user_type" | "shadow_banned" | "approved") => |_, _| Ordering::Equal,
        Some(_) => return Err(ApiError::invalid_param("order_by names no field of the list")),
    };
    users.sort_by(by);
    if page.is_descending()? {
        users.reverse();
    }
    Ok(())
}

fn is_guest(user: &User) -> bool {
    user.kind == Kind::Guest
}

fn listed(listed: &ListedUser) -> Value {
    let user = &listed.user;
    json!({
        "name": user.user_id,
        "user_type": null,
        "is_guest": is_guest(user),
        "admin": user.admin,
        "deactivated": user.deactivated,
        "erased": user.erased,
        "locked": user.locked,
        "suspended": user.suspended,
        "shadow_banned": false,
        "displayname": listed.display_name,
        "avatar_url": listed.avatar_url,
        "creation_ts": user.created_ms,
        "last_seen_ts": listed.seen_ms,
        "approved": true,
    })
}

/// `GET /_synapse/admin/v2/users/{userId}`
async fn details(args: RawArgs) -> Answer<Json<Value>> {
    let user = local_user(&args, 0).await?;
    Ok(Json(detailed(&args.hs, &user).await?))
}

async fn detailed(hs: &Homeserver, user: &User) -> Result<Value, ApiError> {
    let profile = hs.accounts.profile(&user.user_id).await?;
    let threepids: Vec<Value> = hs
        .accounts
        .threepids(&user.user_id)
        .await?
        .iter()
        .map(|known| {
            json!({
                "medium": known.medium, "address": known.address,
                "added_at": known.added_ms, "validated_at": known.validated_ms,
            })
        })
        .collect();
    let devices = hs.accounts.devices(&user.user_id).await?;
    Ok(json!({
        "name": user.user_id,
        "displayname": profile.get("displayname"),
        "avatar_url": profile.get("avatar_url"),
        "threepids": threepids,
        "external_ids": [],
        "is_guest": is_guest(user),
        "admin": user.admin,
        "deactivated": user.deactivated,
        "erased": user.erased,
        "locked": user.locked,
        "suspended": user.suspended,
        "shadow_banned": false,
        // Seconds here, milliseconds in lists: the tools expect it so.
        "creation_ts": user.created_ms / 1_000,
        "last_seen_ts": devices.iter().filter_map(|device| device.seen_ms).max(),
        "appservice_id": user.service,
        "consent_server_notice_sent": null,
        "consent_version": null,
        "consent_ts": null,
        "user_type": null,
    }))
}

#[derive(Deserialize)]
struct Threepid {
    medium: String,
    address: String,
}

/// What is to be changed of a user. A field that is left out stays as it is; one that is `null` is taken away.
#[derive(Deserialize)]
struct Change {
    password: Option<String>,
    #[serde(default = "yes")]
    logout_devices: bool,
    #[serde(default, deserialize_with = "some")]
    displayname: Option<Option<String>>,
    #[serde(default, deserialize_with = "some")]
    avatar_url: Option<Option<String>>,
    threepids: Option<Vec<Threepid>>,
    admin: Option<bool>,
    deactivated: Option<bool>,
    #[serde(default)]
    erase: bool,
    locked: Option<bool>,
    suspended: Option<bool>,
    user_type: Option<String>,
    #[serde(default)]
    external_ids: Vec<Value>,
}

impl Change {
    /// Refuses what this server has no place for, rather than forget it.
    fn check(&self) -> Result<(), ApiError> {
        if self.user_type.as_deref().is_some_and(|kind| !kind.is_empty()) {
            return Err(ApiError::invalid_param("Users have no other types than normal, guest and of a service here"));
        }
        if !self.external_ids.is_empty() {
            return Err(ApiError::invalid_param("Users have no ids of other sign-on services here"));
        }
        if self.deactivated == Some(true) && self.locked == Some(true) {
            return Err(ApiError::invalid_param("A user cannot be deactivated and locked"));
        }
        Ok(())
    }
}

fn yes() -> bool {
    true
}

#[expect(clippy::option_option, reason = "left out and null are two things")]
fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

/// `PUT /_synapse/admin/v2/users/{userId}`: makes a user or changes one.
async fn put(args: RawArgs) -> Answer<Raw> {
    let change: Change = args.json().await?;
    change.check()?;
    let user_id = local_user_id(&args, 0)?;
    let hs = &args.hs;
    let status = match hs.accounts.user(&user_id).await? {
        None => {
            create(hs, &user_id, &change).await?;
            StatusCode::CREATED
        }
        Some(user) => {
            modify(&args, &user, &change).await?;
            StatusCode::OK
        }
    };
    set_profile(hs, &user_id, &change).await?;
    if let Some(threepids) = &change.threepids {
        set_threepids(hs, &user_id, threepids).await?;
    }
    let user = hs.accounts.user(&user_id).await?.ok_or_else(|| ApiError::not_found("User not found"))?;
    Ok(Raw(json_response(status, &detailed(hs, &user).await?)))
}

async fn create(hs: &Homeserver, user_id: &UserId, change: &Change) -> Result<(), ApiError> {
    if hs.accounts.new_user_id(user_id.localpart())? != user_id {
        return Err(AccountError::InvalidUsername("it may hold a-z, 0-9 and ._=-/+ only").into());
    }
    let mut new = NewUser::normal(user_id.to_owned());
    new.password.clone_from(&change.password);
    new.admin = change.admin.unwrap_or(false);
    hs.accounts.create(new, &Client::default()).await?;
    if change.locked == Some(true) {
        hs.accounts.switch(user_id, Switch::Locked, true).await?;
    }
    if change.suspended == Some(true) {
        hs.accounts.switch(user_id, Switch::Suspended, true).await?;
    }
    Ok(())
}

async fn modify(args: &RawArgs, user: &User, change: &Change) -> Result<(), ApiError> {
    let (hs, user_id) = (&args.hs, &user.user_id);
    let is_self = *user_id == args.who.user_id;
    if change.deactivated == Some(false) && user.deactivated {
        hs.accounts.reactivate(user_id, change.password.as_deref()).await?;
    } else if let Some(password) = &change.password {
        new_password(hs, user_id, password, change.logout_devices).await?;
    }
    if change.admin == Some(false) && user.admin && is_self {
        return Err(ApiError::bad_request("You may not demote yourself"));
    }
    let switches = [
        (Switch::Admin, change.admin, user.admin),
        (Switch::Locked, change.locked, user.locked),
        (Switch::Suspended, change.suspended, user.suspended),
    ];
    for (switch, wanted, now) in switches {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != now) {
            hs.accounts.switch(user_id, switch, wanted).await?;
        }
    }
    if change.deactivated == Some(true) && !user.deactivated {
        hs.deactivate(user_id, change.erase).await?;
    }
    Ok(())
}

async fn set_profile(hs: &Arc<Homeserver>, user_id: &UserId, change: &Change) -> Result<(), ApiError> {
    for (field, value) in [("displayname", &change.displayname), ("avatar_url", &change.avatar_url)] {
        if let Some(value) = value {
            let value = value.as_deref().filter(|value| !value.is_empty()).map(Value::from);
            hs.update_profile(user_id, field, value.as_ref()).await?;
        }
    }
    Ok(())
}

async fn set_threepids(hs: &Homeserver, user_id: &UserId, wanted: &[Threepid]) -> Result<(), ApiError> {
    for known in hs.accounts.threepids(user_id).await? {
        if !wanted.iter().any(|wanted| wanted.medium == known.medium && wanted.address == known.address) {
            hs.accounts.delete_threepid(user_id, &known.medium, &known.address).await?;
        }
    }
    for wanted in wanted {
        hs.accounts.add_threepid(user_id, &wanted.medium, &wanted.address).await?;
    }
    Ok(())
}

async fn new_password(hs: &Homeserver, user: &UserId, password: &str, logout_devices: bool) -> Result<(), ApiError> {
    hs.accounts.check_password_strength(password)?;
    hs.accounts.set_password(user, password).await?;
    if logout_devices {
        let devices = hs.accounts.devices(user).await?;
        let devices: Vec<&DeviceId> = devices.iter().map(|device| &*device.device_id).collect();
        hs.delete_devices(user, devices).await?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Deactivate {
    #[serde(default)]
    erase: bool,
}

/// `POST /_synapse/admin/v1/deactivate/{userId}`
async fn deactivate(args: RawArgs) -> Answer<Json<Value>> {
    let body: Deactivate = args.json().await?;
    let user = local_user(&args, 0).await?;
    if !user.deactivated {
        args.hs.deactivate(&user.user_id, body.erase).await?;
    }
    Ok(Json(json!({ "id_server_unbind_result": "success" })))
}

#[derive(Deserialize)]
struct NewPassword {
    new_password: String,
    #[serde(default = "yes")]
    logout_devices: bool,
}

/// `POST /_synapse/admin/v1/reset_password/{userId}`
async fn reset_password(args: RawArgs) -> Answer<Json<Value>> {
    let body: NewPassword = args.json().await?;
    let user = local_user(&args, 0).await?;
    new_password(&args.hs, &user.user_id, &body.new_password, body.logout_devices).await?;
    Ok(Json(json!({})))
}

/// `GET /_synapse/admin/v1/users/{userId}/admin`
async fn is_admin(args: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(json!({ "admin": local_user(&args, 0).await?.admin })))
}

#[derive(Deserialize)]
struct SetAdmin {
    admin: bool,
}

/// `PUT /_synapse/admin/v1/users/{userId}/admin`
async fn set_admin(args: RawArgs) -> Answer<Json<Value>> {
    let body: SetAdmin = args.json().await?;
    let user = local_user(&args, 0).await?;
    if user.user_id == args.who.user_id && !body.admin {
        return Err(ApiError::bad_request("You may not demote yourself"));
    }
    args.hs.accounts.switch(&user.user_id, Switch::Admin, body.admin).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Suspend {
    suspend: bool,
}

/// `PUT /_synapse/admin/v1/suspend/{userId}`
async fn suspend(args: RawArgs) -> Answer<Json<Value>> {
    let body: Suspend = args.json().await?;
    let user = local_user(&args, 0).await?;
    args.hs.accounts.switch(&user.user_id, Switch::Suspended, body.suspend).await?;
    Ok(Json(json!({ format!("user_{}_suspended", user.user_id): body.suspend })))
}

/// `GET /_synapse/admin/v1/users/{userId}/joined_rooms`
async fn joined_rooms(args: RawArgs) -> Answer<Json<Value>> {
    let user: OwnedUserId = args.path(0)?;
    let found = args.hs.rooms.store().graph.memberships(&user).await?;
    let rooms: Vec<_> =
        found.iter().filter(|found| found.membership == MembershipState::Join).map(|found| &found.room_id).collect();
    Ok(Json(json!({ "joined_rooms": rooms, "total": rooms.len() })))
}

/// `GET /_synapse/admin/v1/users/{userId}/memberships`
async fn memberships(args: RawArgs) -> Answer<Json<Value>> {
    let user = local_user(&args, 0).await?;
    let found = args.hs.rooms.store().graph.memberships(&user.user_id).await?;
    let memberships: serde_json::Map<String, Value> =
        found.iter().map(|found| (found.room_id.to_string(), found.membership.as_str().into())).collect();
    Ok(Json(json!({ "memberships": memberships })))
}

/// `GET /_synapse/admin/v1/users/{userId}/accountdata`
async fn account_data(args: RawArgs) -> Answer<Json<Value>> {
    let (user, accounts) = (local_user(&args, 0).await?, &args.hs.accounts);
    let (mut global, mut rooms) = (json!({}), json!({}));
    for data in accounts.account_data_changed(&user.user_id, 0, i64::MAX).await? {
        global[data.data_type] = serde_json::to_value(&data.content).unwrap_or_default();
    }
    for data in accounts.room_account_data_changed(&user.user_id, 0, i64::MAX).await? {
        rooms[data.room_id.unwrap_or_default()][data.data_type] =
            serde_json::to_value(&data.content).unwrap_or_default();
    }
    Ok(Json(json!({ "account_data": { "global": global, "rooms": rooms } })))
}

/// `GET /_synapse/admin/v1/users/{userId}/pushers`
async fn pushers(args: RawArgs) -> Answer<Json<Value>> {
    let user = local_user(&args, 0).await?;
    let found = args.hs.pushers.of_user(&user.user_id).await.map_err(ApiError::internal)?;
    let pushers: Vec<Value> = found
        .iter()
        .map(|pusher| {
            json!({
                "app_id": pusher.key.app_id,
                "pushkey": pusher.key.pushkey,
                "kind": pusher.kind,
                "app_display_name": pusher.app_display_name,
                "device_display_name": pusher.device_display_name,
                "profile_tag": pusher.profile_tag.as_deref().unwrap_or_default(),
                "lang": pusher.lang,
                "data": pusher.data,
            })
        })
        .collect();
    Ok(Json(json!({ "pushers": pushers, "total": pushers.len() })))
}

#[derive(Deserialize)]
struct LogInAs {
    valid_until_ms: Option<u64>,
}

/// `POST /_synapse/admin/v1/users/{userId}/login`: a token by which the administrator acts as the user.
async fn log_in_as(args: RawArgs) -> Answer<Json<Value>> {
    let body: LogInAs = args.json().await?;
    let user = local_user(&args, 0).await?;
    if user.user_id == args.who.user_id {
        return Err(ApiError::bad_request("You are logged in already"));
    }
    if user.deactivated {
        return Err(ApiError::bad_request("This account has been deactivated"));
    }
    let now_ms = args.hs.clock.now_ms();
    let session = NewSession {
        display_name: Some(format!("Administrator {}", args.who.user_id)),
        valid_for_ms: body.valid_until_ms.map(|until_ms| until_ms.saturating_sub(now_ms)),
        ..NewSession::default()
    };
    tracing::warn!(admin = %args.who.user_id, user = %user.user_id, "an administrator acts as a user");
    let issued = args.hs.accounts.log_in(&user.user_id, session, &args.client).await?;
    Ok(Json(json!({ "access_token": issued.access_token })))
}

#[derive(Deserialize)]
struct Username {
    username: String,
}

/// `GET /_synapse/admin/v1/username_available`
async fn username_available(args: RawArgs) -> Answer<Json<Value>> {
    let query: Username = args.query()?;
    let user_id = args.hs.accounts.new_user_id(&query.username)?;
    if args.hs.accounts.services.exclusive_user(&user_id).is_some() {
        return Err(AccountError::Exclusive.into());
    }
    if !args.hs.accounts.is_free(&user_id).await? {
        return Err(AccountError::UserInUse.into());
    }
    Ok(Json(json!({ "available": true })))
}

/// `GET /_synapse/admin/v1/threepid/{medium}/users/{address}`
async fn by_threepid(args: RawArgs) -> Answer<Json<Value>> {
    let (medium, address): (String, String) = (args.path(0)?, args.path(1)?);
    let user = args.hs.accounts.threepid_user(&medium, &address).await?;
    user.map(|user| Json(json!({ "user_id": user }))).ok_or_else(|| ApiError::not_found("User not found"))
}
