//! What administrators of the server may do over the client API.

use std::collections::BTreeMap;

use http::StatusCode;
use ruma::{
    MilliSecondsSinceUnixEpoch, UserId,
    api::client::admin::{
        get_user_info::{
            self,
            v3::{ConnectionInfo, DeviceInfo, SessionInfo},
        },
        is_user_locked, is_user_suspended, lock_user, suspend_user,
    },
};
use samtal_account::{Switch, User};
use samtal_ops::Homeserver;

use crate::{Answer, ApiError, Args, Routes, UserPrincipal};

pub(crate) fn routes() -> Routes {
    Routes::new().route(whois).route(is_locked).route(lock).route(is_suspended).route(suspend)
}

/// `GET /admin/whois/{userId}`
async fn whois(args: Args<get_user_info::v3::Request>) -> Answer<get_user_info::v3::Response> {
    let user = &args.body.user_id;
    if *user != args.who.user_id {
        args.who.require_admin()?;
    }
    if !args.hs.accounts.is_local(user) {
        return Err(ApiError::bad_request("This user is another server's"));
    }
    let mut devices = BTreeMap::new();
    for device in args.hs.accounts.devices(user).await? {
        let mut connection = ConnectionInfo::new();
        connection.ip = device.seen_ip;
        connection.last_seen = device.seen_ms.and_then(ruma::UInt::new).map(MilliSecondsSinceUnixEpoch);
        connection.user_agent = device.seen_agent;
        let mut session = SessionInfo::new();
        session.connections = vec![connection];
        let mut info = DeviceInfo::new();
        info.sessions = vec![session];
        devices.insert(device.device_id.to_string(), info);
    }
    let mut response = get_user_info::v3::Response::new();
    response.user_id = Some(user.clone());
    response.devices = devices;
    Ok(response)
}

async fn subject(hs: &Homeserver, who: &UserPrincipal, user: &UserId) -> Result<User, ApiError> {
    who.require_admin()?;
    if !hs.accounts.is_local(user) {
        return Err(ApiError::invalid_param("This user is another server's"));
    }
    match hs.accounts.user(user).await? {
        Some(user) if !user.deactivated => Ok(user),
        _ => Err(ApiError::not_found("There is no such user")),
    }
}

/// Administrators may not be locked or suspended this way, themselves included.
fn ordinary(user: &User) -> Result<(), ApiError> {
    if user.admin {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "M_FORBIDDEN", "This user is an administrator"));
    }
    Ok(())
}

/// `GET /admin/lock/{userId}`
async fn is_locked(args: Args<is_user_locked::v1::Request>) -> Answer<is_user_locked::v1::Response> {
    let user = subject(&args.hs, &args.who, &args.body.user_id).await?;
    Ok(is_user_locked::v1::Response::new(user.locked))
}

/// `PUT /admin/lock/{userId}`
async fn lock(args: Args<lock_user::v1::Request>) -> Answer<lock_user::v1::Response> {
    ordinary(&subject(&args.hs, &args.who, &args.body.user_id).await?)?;
    args.hs.accounts.switch(&args.body.user_id, Switch::Locked, args.body.locked).await?;
    Ok(lock_user::v1::Response::new(args.body.locked))
}

/// `GET /admin/suspend/{userId}`
async fn is_suspended(args: Args<is_user_suspended::v1::Request>) -> Answer<is_user_suspended::v1::Response> {
    let user = subject(&args.hs, &args.who, &args.body.user_id).await?;
    Ok(is_user_suspended::v1::Response::new(user.suspended))
}

/// `PUT /admin/suspend/{userId}`
async fn suspend(args: Args<suspend_user::v1::Request>) -> Answer<suspend_user::v1::Response> {
    ordinary(&subject(&args.hs, &args.who, &args.body.user_id).await?)?;
    args.hs.accounts.switch(&args.body.user_id, Switch::Suspended, args.body.suspended).await?;
    Ok(suspend_user::v1::Response::new(args.body.suspended))
}
