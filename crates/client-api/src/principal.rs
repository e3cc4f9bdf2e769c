//! Who asks.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, StatusCode, header, request};
use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, UserId,
    api::auth_scheme::{
        AccessToken, AccessTokenOptional, AppserviceToken, AppserviceTokenOptional, NoAccessToken, NoAuthentication,
    },
};
use samtal_account::{Client, Kind, Lapse, Service, TokenHash};
use samtal_ops::Homeserver;
use serde::Deserialize;

use crate::ApiError;

/// The address of the other end, put into the request's extensions by the listener (after it has looked at the headers of
/// the proxies that it trusts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// A user of this server who has shown a valid token.
#[derive(Clone, Debug)]
pub struct UserPrincipal {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device; application services may act without one.
    pub device_id: Option<OwnedDeviceId>,
    /// Hash of the access token; nothing for application services.
    pub token: Option<TokenHash>,
    /// Whether they have no account of their own.
    pub is_guest: bool,
    /// Whether they administrate the server.
    pub is_admin: bool,
    /// Whether they may only read and leave.
    pub suspended: bool,
    /// The application service that acts for them.
    pub service: Option<Arc<Service>>,
}

impl UserPrincipal {
    /// The device, where there must be one.
    pub fn device(&self) -> Result<&DeviceId, ApiError> {
        self.device_id.as_deref().ok_or_else(|| ApiError::missing_param("Name a device with device_id"))
    }

    /// Refuses all who are not administrators of the server.
    pub fn require_admin(&self) -> Result<(), ApiError> {
        if self.is_admin { Ok(()) } else { Err(ApiError::forbidden("You are not an administrator of this server")) }
    }

    /// Refuses what only `user` may do themselves.
    pub(crate) fn require_self(&self, user: &UserId) -> Result<(), ApiError> {
        if self.user_id == user { Ok(()) } else { Err(ApiError::forbidden("You may not do this for somebody else")) }
    }
}

/// What an endpoint lets pass besides ordinary users.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Whether guests may use it.
    pub guests: bool,
    /// Whether suspended users may use it.
    pub suspended: bool,
    /// Whether locked users may use it (to log out).
    pub locked: bool,
}

/// How an endpoint learns who asks; implemented for ruma's authentication schemes.
pub trait Scheme {
    /// What the handler gets.
    type Who: Send + Sync;

    /// Finds out who asks.
    fn authenticate(
        hs: &Homeserver,
        parts: &request::Parts,
        access: Access,
    ) -> impl Future<Output = Result<Self::Who, ApiError>> + Send;

    /// Whose rate limit counts; nothing for addresses'.
    fn limited(who: &Self::Who) -> Limited<'_>;
}

/// Whose rate limit a request counts against.
#[derive(Clone, Copy, Debug)]
pub enum Limited<'a> {
    /// The user's.
    User(&'a UserId),
    /// The address's.
    Address,
    /// Nobody's.
    Free,
}

impl Scheme for AccessToken {
    type Who = UserPrincipal;

    async fn authenticate(hs: &Homeserver, parts: &request::Parts, access: Access) -> Result<UserPrincipal, ApiError> {
        let token = bearer(parts)?.ok_or_else(|| ApiError::missing_token("An access token is needed"))?;
        user(hs, parts, access, &token).await
    }

    fn limited(who: &UserPrincipal) -> Limited<'_> {
        match &who.service {
            Some(service) if !service.rate_limited => Limited::Free,
            _ => Limited::User(&who.user_id),
        }
    }
}

impl Scheme for AccessTokenOptional {
    type Who = Option<UserPrincipal>;

    async fn authenticate(hs: &Homeserver, parts: &request::Parts, access: Access) -> Result<Self::Who, ApiError> {
        match bearer(parts)? {
            Some(token) => user(hs, parts, access, &token).await.map(Some),
            None => Ok(None),
        }
    }

    fn limited(who: &Self::Who) -> Limited<'_> {
        who.as_ref().map_or(Limited::Address, AccessToken::limited)
    }
}

impl Scheme for NoAccessToken {
    type Who = ();

    async fn authenticate(_: &Homeserver, _: &request::Parts, _: Access) -> Result<(), ApiError> {
        Ok(())
    }

    fn limited((): &()) -> Limited<'_> {
        Limited::Address
    }
}

impl Scheme for NoAuthentication {
    type Who = ();

    async fn authenticate(_: &Homeserver, _: &request::Parts, _: Access) -> Result<(), ApiError> {
        Ok(())
    }

    fn limited((): &()) -> Limited<'_> {
        Limited::Address
    }
}

impl Scheme for AppserviceToken {
    type Who = Arc<Service>;

    async fn authenticate(hs: &Homeserver, parts: &request::Parts, _: Access) -> Result<Arc<Service>, ApiError> {
        let token = bearer(parts)?.ok_or_else(|| ApiError::missing_token("An access token is needed"))?;
        match hs.accounts.services.by_token(&token) {
            Some(service) => Ok(service),
            None if hs.accounts.session(&token, &client(parts)).await?.is_ok() => {
                Err(ApiError::forbidden("Only application services may do this"))
            }
            None => Err(ApiError::unknown_token(false)),
        }
    }

    fn limited(_: &Arc<Service>) -> Limited<'_> {
        Limited::Free
    }
}

impl Scheme for AppserviceTokenOptional {
    type Who = Option<Arc<Service>>;

    async fn authenticate(hs: &Homeserver, parts: &request::Parts, _: Access) -> Result<Self::Who, ApiError> {
        Ok(bearer(parts)?.and_then(|token| hs.accounts.services.by_token(&token)))
    }

    fn limited(who: &Self::Who) -> Limited<'_> {
        match who {
            Some(service) if !service.rate_limited => Limited::Free,
            _ => Limited::Address,
        }
    }
}

/// The query parameters that every authenticated endpoint knows.
#[derive(Default, Deserialize)]
struct Asserted {
    access_token: Option<String>,
    user_id: Option<String>,
    device_id: Option<String>,
    #[serde(rename = "org.matrix.msc3202.device_id")]
    device_id_unstable: Option<String>,
}

impl Asserted {
    fn of(parts: &request::Parts) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        if query.is_empty() { Self::default() } else { serde_html_form::from_str(query).unwrap_or_default() }
    }
}

/// The access token in the `Authorization` header, or in the query as older clients send it.
fn bearer(parts: &request::Parts) -> Result<Option<String>, ApiError> {
    if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
        let token = value
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .filter(|token| !token.is_empty());
        return match token {
            Some(token) => Ok(Some(token.to_owned())),
            None => Err(ApiError::missing_token("The Authorization header holds no bearer token")),
        };
    }
    Ok(Asserted::of(parts).access_token.filter(|token| !token.is_empty()))
}

async fn user(hs: &Homeserver, parts: &request::Parts, access: Access, token: &str) -> Result<UserPrincipal, ApiError> {
    if let Some(service) = hs.accounts.services.by_token(token) {
        return as_service(hs, parts, service).await;
    }
    let session = hs
        .accounts
        .session(token, &client(parts))
        .await?
        .map_err(|lapse| ApiError::unknown_token(lapse == Lapse::Expired))?;
    if session.locked && !access.locked {
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "M_USER_LOCKED", "This account has been locked")
            .with("soft_logout", true));
    }
    if session.suspended && !access.suspended {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "M_USER_SUSPENDED", "This account has been suspended"));
    }
    let is_guest = session.kind == Kind::Guest;
    if is_guest && !access.guests {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", "Guests may not do this"));
    }
    Ok(UserPrincipal {
        user_id: session.user_id,
        device_id: Some(session.device_id),
        token: Some(session.token),
        is_guest,
        is_admin: session.admin,
        suspended: session.suspended,
        service: None,
    })
}

/// An application service speaks for itself, or for the user and device that it names.
async fn as_service(hs: &Homeserver, parts: &request::Parts, service: Arc<Service>) -> Result<UserPrincipal, ApiError> {
    let asserted = Asserted::of(parts);
    let user_id = match asserted.user_id {
        Some(user) => UserId::parse(user).map_err(|_| ApiError::invalid_param("user_id is not a user id"))?.to_owned(),
        None => service.sender.clone(),
    };
    if !hs.accounts.is_local(&user_id) || !service.owns_user(&user_id) {
        return Err(ApiError::forbidden("The application service may not act as this user"));
    }
    let Some(user) = hs.accounts.user(&user_id).await? else {
        return Err(ApiError::forbidden("The application service has not registered this user"));
    };
    if user.deactivated {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "M_USER_DEACTIVATED", "This account has been deactivated"));
    }
    let device_id: Option<OwnedDeviceId> = asserted.device_id.or(asserted.device_id_unstable).map(Into::into);
    if let Some(device_id) = &device_id
        && hs.accounts.device(&user_id, device_id).await?.is_none()
    {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "M_UNKNOWN_DEVICE", "The user has no such device"));
    }
    Ok(UserPrincipal {
        user_id,
        device_id,
        token: None,
        is_guest: false,
        is_admin: user.admin,
        suspended: false,
        service: Some(service),
    })
}

/// The other end, for the device list and for rate limits.
pub(crate) fn client(parts: &request::Parts) -> Client {
    Client { ip: parts.extensions.get::<Peer>().map(|Peer(ip)| ip.to_string()), agent: agent(&parts.headers) }
}

fn agent(headers: &HeaderMap) -> Option<String> {
    let agent = headers.get(header::USER_AGENT)?.to_str().ok()?;
    Some(agent.chars().take(200).collect())
}
