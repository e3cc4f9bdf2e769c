//! `GET /sync`.

use std::time::Duration;

use axum::{body::Body, response::Response};
use http::{HeaderValue, Method, StatusCode, header};
use ruma::{api::auth_scheme::AccessToken, presence::PresenceState};
use samtal_sync::{Shape, SlidingBody, SlidingRequest, StateAfter, SyncError, SyncRequest};
use serde::Deserialize;

use crate::{Answer, ApiError, Raw, RawArgs, Routes};

pub(crate) fn routes() -> Routes {
    Routes::new()
        .raw::<AccessToken, _, _, _>(Method::GET, &["/_matrix/client/r0/sync", "/_matrix/client/v3/sync"], sync)
        .raw::<AccessToken, _, _, _>(
            Method::POST,
            &["/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"],
            sliding_deployed,
        )
        .raw::<AccessToken, _, _, _>(Method::POST, &["/_matrix/client/v4/sync"], sliding_accepted)
}

#[derive(Deserialize)]
struct Query {
    filter: Option<String>,
    since: Option<String>,
    #[serde(default)]
    full_state: bool,
    set_presence: Option<String>,
    timeout: Option<u64>,
    #[serde(default)]
    use_state_after: bool,
    #[serde(default, rename = "org.matrix.msc4222.use_state_after")]
    use_state_after_unstable: bool,
}

/// `GET /sync`
async fn sync(args: RawArgs) -> Answer<Raw> {
    let query: Query = args.query()?;
    let since = query.since.as_deref().filter(|since| !since.is_empty()).map(str::parse).transpose();
    let state_after = match (query.use_state_after_unstable, query.use_state_after) {
        (true, _) => StateAfter::Unstable,
        (false, true) => StateAfter::Stable,
        (false, false) => StateAfter::No,
    };
    let request = SyncRequest {
        filter: args.hs.sync.filter(&args.who.user_id, query.filter.as_deref()).await?,
        since: since.map_err(|_| ApiError::invalid_param("The token is not one of this server"))?,
        full_state: query.full_state,
        state_after,
        timeout: Duration::from_millis(query.timeout.unwrap_or(0)).min(args.hs.settings.sync_wait_max),
        set_presence: presence(query.set_presence.as_deref())?,
        user_id: args.who.user_id.clone(),
        device_id: args.who.device_id.clone(),
    };
    args.hs.sync.sync(&request).await.map(json).map_err(Into::into)
}

/// What the deployed shape of sliding sync has in the query.
#[derive(Deserialize)]
struct SlidingQuery {
    pos: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<String>,
}

/// `POST /sync` as clients have it (MSC4186 under the name of `org.matrix.simplified_msc3575`)
async fn sliding_deployed(args: RawArgs) -> Answer<Raw> {
    let query: SlidingQuery = args.query()?;
    let mut body: SlidingBody = args.json().await?;
    body.pos = query.pos;
    body.timeout = query.timeout;
    body.set_presence = query.set_presence;
    sliding(args, Shape::Deployed, body).await
}

/// `POST /v4/sync` as it was accepted (MSC4186)
async fn sliding_accepted(args: RawArgs) -> Answer<Raw> {
    let body: SlidingBody = args.json().await?;
    sliding(args, Shape::Accepted, body).await
}

async fn sliding(args: RawArgs, shape: Shape, body: SlidingBody) -> Answer<Raw> {
    let set_presence = presence(body.set_presence.as_deref())?;
    let mut request =
        SlidingRequest::new(shape, args.who.user_id.clone(), args.who.device_id.clone(), set_presence, body)?;
    request.timeout = request.timeout.min(args.hs.settings.sync_wait_max);
    args.hs.sync.sliding_sync(&request).await.map(json).map_err(Into::into)
}

/// What `set_presence` says; `online` when it says nothing.
pub(crate) fn presence(text: Option<&str>) -> Result<PresenceState, ApiError> {
    match text.unwrap_or("online") {
        "online" => Ok(PresenceState::Online),
        "unavailable" => Ok(PresenceState::Unavailable),
        "offline" => Ok(PresenceState::Offline),
        _ => Err(ApiError::invalid_param("set_presence is online, unavailable or offline")),
    }
}

/// An answer that is JSON already.
pub(crate) fn json(body: String) -> Raw {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Raw(response)
}

impl From<SyncError> for ApiError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Ended => Self::unknown_token(false),
            SyncError::UnknownPosition => {
                Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN_POS", "The position is not known; start again without it")
            }
            SyncError::Invalid(why) => Self::invalid_param(why),
            SyncError::Accounts(error) => error.into(),
            SyncError::Storage(error) => error.into(),
            SyncError::Rooms(_) | SyncError::E2ee(_) | SyncError::Push(_) => Self::internal(error),
        }
    }
}
