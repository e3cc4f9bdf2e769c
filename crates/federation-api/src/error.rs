//! Errors as other servers see them.

use http::StatusCode;
use samtal_account::AccountError;
use samtal_db::DbError;
use samtal_e2ee::E2eeError;
use samtal_ops::{OpError, ResidentError};
use samtal_room::RoomError;

samtal_edge::api_error! {
    /// An error as other servers see it.
    pub struct ApiError {
        /// 401 `M_UNAUTHORIZED`: the request is not signed as it must be.
        unauthorized => UNAUTHORIZED "M_UNAUTHORIZED";
        /// 401 `M_MISSING_TOKEN`.
        missing_token => UNAUTHORIZED "M_MISSING_TOKEN";
        /// 401 `M_UNKNOWN_TOKEN`.
        unknown_token => UNAUTHORIZED "M_UNKNOWN_TOKEN";
        /// 400 `M_UNABLE_TO_AUTHORISE_JOIN`: we cannot tell whether the conditions hold.
        unable_to_authorise_join => BAD_REQUEST "M_UNABLE_TO_AUTHORISE_JOIN";
        /// 400 `M_UNABLE_TO_GRANT_JOIN`: the conditions hold, but nobody here may invite.
        unable_to_grant_join => BAD_REQUEST "M_UNABLE_TO_GRANT_JOIN";
        /// 503 `M_UNKNOWN`: come again.
        unavailable => SERVICE_UNAVAILABLE "M_UNKNOWN";
    }
}

impl ApiError {
    /// 400 `M_INCOMPATIBLE_ROOM_VERSION`.
    pub(crate) fn incompatible_room_version(version: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "M_INCOMPATIBLE_ROOM_VERSION", "The room has a version that was not offered")
            .with("room_version", version)
    }
}

impl From<samtal_keyring::KeyError> for ApiError {
    fn from(error: samtal_keyring::KeyError) -> Self {
        Self::internal(error)
    }
}

impl From<OpError> for ApiError {
    fn from(error: OpError) -> Self {
        match error {
            OpError::Room(error) => error.into(),
            OpError::Account(error) => error.into(),
            OpError::Remote(error) => Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", error.to_string()),
            OpError::NotFound(message) => Self::not_found(message),
            OpError::Forbidden(message) => Self::forbidden(message),
            OpError::Invalid(message) => Self::invalid_param(message),
            OpError::BadContent(message) => Self::bad_json(message),
            OpError::BadRequest(message) => Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", message),
            OpError::InvalidRoomState(message) => Self::new(StatusCode::BAD_REQUEST, "M_INVALID_ROOM_STATE", message),
            OpError::BadAlias(message) => Self::new(StatusCode::BAD_REQUEST, "M_BAD_ALIAS", message),
            OpError::RoomInUse => Self::new(StatusCode::CONFLICT, "M_ROOM_IN_USE", "The alias is already in use"),
            OpError::Exclusive => Self::new(StatusCode::BAD_REQUEST, "M_EXCLUSIVE", "The name is reserved"),
            OpError::InviteBlocked => {
                Self::new(StatusCode::FORBIDDEN, "M_INVITE_BLOCKED", "The user does not accept this invite")
            }
            error @ OpError::NoticeRoom => Self::forbidden(error.to_string()),
            OpError::GuestsForbidden => {
                Self::new(StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", "Guests may not join this room")
            }
            OpError::CannotAuthorizeJoin(_) => Self::unable_to_authorise_join("This server cannot authorize the join"),
            OpError::BadRemote(message) => Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", message),
            OpError::Storage(error) => error.into(),
        }
    }
}

impl From<ResidentError> for ApiError {
    fn from(error: ResidentError) -> Self {
        match error {
            ResidentError::Op(error) => error.into(),
            ResidentError::IncompatibleVersion(version) => Self::incompatible_room_version(version.as_str()),
            ResidentError::UnableToAuthorize => {
                Self::unable_to_authorise_join("This server cannot tell whether the user may join")
            }
            ResidentError::UnableToGrant => Self::unable_to_grant_join("Nobody of this server may let the user in"),
        }
    }
}

impl From<RoomError> for ApiError {
    fn from(error: RoomError) -> Self {
        match error {
            RoomError::UnknownRoom => Self::not_found("The room is not known here"),
            RoomError::UnknownEvent => Self::not_found("The event is not known here"),
            RoomError::Forbidden(message) | RoomError::Refused(message) => Self::forbidden(message),
            RoomError::BadEvent(message) => Self::bad_json(message),
            RoomError::TooLarge(message) => Self::too_large(message),
            RoomError::UnsupportedVersion(version) => Self::incompatible_room_version(version.as_str()),
            RoomError::AliasTaken => Self::new(StatusCode::CONFLICT, "M_ROOM_IN_USE", "The alias is already in use"),
            RoomError::UnknownAlias => Self::not_found("The alias is not known here"),
            RoomError::CannotAuthorizeJoin => Self::unable_to_authorise_join("This server cannot authorize the join"),
            RoomError::Blocked => Self::forbidden("The room is blocked on this server"),
            RoomError::NotRecommended(refusal) => Self::forbidden(refusal.message),
            RoomError::Busy => Self::unavailable("The room is busy"),
            error @ (RoomError::NotAsked | RoomError::Damaged(_) | RoomError::Storage(_)) => Self::internal(error),
        }
    }
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::NotFound(what) => Self::not_found(format!("{what} not found")),
            AccountError::Storage(error) => error.into(),
            other => Self::new(StatusCode::BAD_REQUEST, "M_UNKNOWN", other.to_string()),
        }
    }
}

impl From<E2eeError> for ApiError {
    fn from(error: E2eeError) -> Self {
        match error {
            E2eeError::Storage(error) => error.into(),
            E2eeError::NotFound(message) => Self::not_found(message),
            E2eeError::TooLarge(message) => Self::too_large(message),
            E2eeError::Invalid(message) | E2eeError::Signature(message) => Self::invalid_param(message),
            E2eeError::Malformed(message) => Self::bad_json(message),
            E2eeError::WrongVersion { .. } => Self::invalid_param(error.to_string()),
        }
    }
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Busy => Self::unavailable("The server is busy"),
            other => Self::internal(other),
        }
    }
}
