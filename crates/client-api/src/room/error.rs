//! What the room engine and the use cases say, as the specification's errors.

use http::StatusCode;
use samtal_ops::OpError;
use samtal_remote::RemoteError;
use samtal_room::RoomError;

use crate::ApiError;

impl From<RoomError> for ApiError {
    fn from(error: RoomError) -> Self {
        match error {
            // Whether a room exists is nobody's business who is not in it.
            RoomError::UnknownRoom => Self::forbidden("You are not in the room, or it does not exist"),
            RoomError::UnknownEvent => Self::not_found("Event not found"),
            RoomError::Forbidden(why) => Self::forbidden(why),
            RoomError::Refused(why) => Self::forbidden(format!("Not allowed: {why}")),
            RoomError::BadEvent(why) => Self::bad_request(why),
            RoomError::TooLarge(why) => Self::too_large(why),
            RoomError::UnsupportedVersion(version) => Self::new(
                StatusCode::BAD_REQUEST,
                "M_UNSUPPORTED_ROOM_VERSION",
                format!("Room version {version} is not supported here"),
            ),
            RoomError::AliasTaken => Self::new(StatusCode::CONFLICT, "M_UNKNOWN", "The alias is already in use"),
            RoomError::UnknownAlias => Self::not_found("Room alias not found"),
            RoomError::CannotAuthorizeJoin => Self::forbidden("Nobody of this server may let you in"),
            RoomError::Blocked => Self::forbidden("The room has been blocked on this server"),
            // Its words are the client's, as it said them.
            RoomError::NotRecommended(refusal) => Self::new(StatusCode::BAD_REQUEST, refusal.errcode, refusal.message),
            RoomError::NotAsked => Self::internal(error),
            RoomError::Busy => samtal_db::DbError::Busy.into(),
            RoomError::Damaged(_) => Self::internal(error),
            RoomError::Storage(error) => error.into(),
        }
    }
}

impl From<OpError> for ApiError {
    fn from(error: OpError) -> Self {
        match error {
            OpError::Room(error) => error.into(),
            OpError::Account(error) => error.into(),
            OpError::Remote(error) => error.into(),
            OpError::Storage(error) => error.into(),
            OpError::NotFound(why) => Self::not_found(why),
            OpError::Forbidden(why) => Self::forbidden(why),
            OpError::Invalid(why) => Self::invalid_param(why),
            OpError::BadContent(why) => Self::bad_json(why),
            OpError::BadRequest(why) => Self::bad_request(why),
            OpError::InvalidRoomState(why) => Self::new(StatusCode::BAD_REQUEST, "M_INVALID_ROOM_STATE", why),
            OpError::BadAlias(why) => Self::new(StatusCode::BAD_REQUEST, "M_BAD_ALIAS", why),
            OpError::RoomInUse => {
                Self::new(StatusCode::BAD_REQUEST, "M_ROOM_IN_USE", "The room alias is already in use")
            }
            OpError::Exclusive => {
                Self::new(StatusCode::BAD_REQUEST, "M_EXCLUSIVE", "The alias is reserved for an application service")
            }
            OpError::InviteBlocked => {
                Self::new(StatusCode::FORBIDDEN, "M_INVITE_BLOCKED", "The user does not accept this invite")
            }
            OpError::NoticeRoom => Self::new(
                StatusCode::FORBIDDEN,
                "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM",
                "An invite to a room of server notices cannot be refused",
            ),
            OpError::GuestsForbidden => Self::forbidden("Guests may not join this room"),
            OpError::CannotAuthorizeJoin(_) => Self::forbidden("No server could be found that may let you in"),
            OpError::BadRemote(why) => Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", why),
        }
    }
}

impl From<RemoteError> for ApiError {
    fn from(error: RemoteError) -> Self {
        match error {
            // What the other server refuses, it refuses our user: they get to know why. But only we may tell them to log in again.
            RemoteError::Status { status, errcode, message, body, .. }
                if status.is_client_error() && status != StatusCode::UNAUTHORIZED =>
            {
                let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                let error = Self::new(status, errcode, message);
                match body.get("room_version") {
                    Some(version) => error.with("room_version", version.clone()),
                    None => error,
                }
            }
            RemoteError::Status { server, status, .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", format!("{server} answered {status}"))
            }
            RemoteError::Refused(_) => Self::forbidden("The policy of this server does not allow it"),
            RemoteError::BackingOff { .. } | RemoteError::Unreachable { .. } | RemoteError::Timeout(_) => {
                Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", error.to_string())
            }
            RemoteError::Malformed { .. } => Self::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", error.to_string()),
            RemoteError::Request(_) => Self::internal(error),
            RemoteError::Storage(error) => error.into(),
        }
    }
}
