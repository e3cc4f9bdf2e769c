//! Being in rooms: join, leave, invite, kick, ban, unban, knock, forget.

use ruma::{
    OwnedUserId, RoomId, UserId,
    api::client::{
        knock::knock_room,
        membership::{
            Invite3pid, ThirdPartySigned, ban_user, forget_room, invite_user, invite_user::v3::InvitationRecipient,
            join_room_by_id, join_room_by_id_or_alias, joined_rooms, kick_user, leave_room, unban_user,
        },
    },
    events::room::member::MembershipState,
};
use samtal_ops::{Address, BoundInvite, Content, Homeserver};

use crate::{Answer, ApiError, Args, Routes};

pub(super) fn routes() -> Routes {
    Routes::new()
        .route(join)
        .route(join_by_alias)
        .route(knock)
        .route(leave)
        .route(invite)
        .route(kick)
        .route(ban)
        .route(unban)
        .route(forget)
        .route(joined)
}

/// What the request says beyond who and where.
fn reason(reason: Option<String>) -> Content {
    reason.into_iter().map(|reason| ("reason".to_owned(), reason.into())).collect()
}

/// What a join says beyond who and where: all that clients put into the request goes into the member event.
fn join_content(json: &[u8]) -> Content {
    const OTHERS: [&str; 4] = ["third_party_signed", "membership", "id", "join_authorised_via_users_server"];
    let mut content: Content = serde_json::from_slice(json).unwrap_or_default();
    content.retain(|name, _| !OTHERS.contains(&name.as_str()));
    content
}

/// `POST /rooms/{roomId}/join`
async fn join(args: Args<join_room_by_id::v3::Request>) -> Answer<join_room_by_id::v3::Response> {
    super::limit(&args.hs, &args.who, "joins", |rates| rates.joins)?;
    let room_id = args.body.room_id;
    take_up(&args.hs, &args.who.user_id, &room_id, args.body.third_party_signed.as_ref(), &args.json).await?;
    args.hs.join(&args.who.user_id, &room_id, &[], join_content(&args.json)).await?;
    Ok(join_room_by_id::v3::Response::new(room_id))
}

/// `POST /join/{roomIdOrAlias}`
async fn join_by_alias(
    args: Args<join_room_by_id_or_alias::v3::Request>,
) -> Answer<join_room_by_id_or_alias::v3::Response> {
    super::limit(&args.hs, &args.who, "joins", |rates| rates.joins)?;
    let (room_id, via) = super::resolve(&args.hs, &args.body.room_id_or_alias, args.body.via).await?;
    take_up(&args.hs, &args.who.user_id, &room_id, args.body.third_party_signed.as_ref(), &args.json).await?;
    args.hs.join(&args.who.user_id, &room_id, &via, join_content(&args.json)).await?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room_id))
}

/// `POST /knock/{roomIdOrAlias}`
async fn knock(args: Args<knock_room::v3::Request>) -> Answer<knock_room::v3::Response> {
    super::limit(&args.hs, &args.who, "joins", |rates| rates.joins)?;
    let (room_id, via) = super::resolve(&args.hs, &args.body.room_id_or_alias, args.body.via).await?;
    args.hs.knock(&args.who.user_id, &room_id, &via, reason(args.body.reason)).await?;
    Ok(knock_room::v3::Response::new(room_id))
}

/// `POST /rooms/{roomId}/leave`
async fn leave(args: Args<leave_room::v3::Request>) -> Answer<leave_room::v3::Response> {
    args.hs.leave(&args.who.user_id, &args.body.room_id, reason(args.body.reason)).await?;
    Ok(leave_room::v3::Response::new())
}

/// `POST /rooms/{roomId}/invite`
async fn invite(args: Args<invite_user::v3::Request>) -> Answer<invite_user::v3::Response> {
    super::limit(&args.hs, &args.who, "invites", |rates| rates.invites)?;
    let invited = match args.body.recipient {
        InvitationRecipient::UserId(invited) => invited,
        InvitationRecipient::ThirdPartyId(invited) => {
            args.hs.invite_address(&args.who.user_id, &args.body.room_id, &address(invited)).await?;
            return Ok(invite_user::v3::Response::new());
        }
        _ => return Err(ApiError::bad_json("Name whom to invite")),
    };
    check_id(&args.hs, &invited.user_id)?;
    args.hs.invite(&args.who.user_id, &invited.user_id, &args.body.room_id, reason(invited.reason)).await?;
    Ok(invite_user::v3::Response::new())
}

/// An address to invite, as clients name it.
pub(super) fn address(invited: Invite3pid) -> Address {
    Address {
        id_server: invited.id_server,
        id_access_token: invited.id_access_token,
        medium: invited.medium.to_string(),
        address: invited.address,
    }
}

/// What the identity server signed, as it came: any change would break the signature.
fn third_party_signed(json: &[u8]) -> serde_json::Value {
    let body: Content = serde_json::from_slice(json).unwrap_or_default();
    body.get("third_party_signed").cloned().unwrap_or_default()
}

/// Takes up an invite that was made to an address of the user.
async fn take_up(
    hs: &Homeserver,
    user: &UserId,
    room_id: &RoomId,
    signed: Option<&ThirdPartySigned>,
    json: &[u8],
) -> Result<(), ApiError> {
    let Some(signed) = signed else { return Ok(()) };
    if signed.mxid != user {
        return Err(ApiError::forbidden("The invite is somebody else's"));
    }
    let bound =
        BoundInvite { sender: signed.sender.clone(), target: user.to_owned(), signed: third_party_signed(json) };
    Ok(hs.invite_bound(room_id, bound).await?)
}

/// Refuses ids that no server makes any more, for users of ours.
fn check_id(hs: &Homeserver, user: &UserId) -> Result<(), ApiError> {
    if hs.is_local(user) && user.validate_historical().is_err() {
        return Err(ApiError::invalid_param("There is no such user"));
    }
    Ok(())
}

/// `POST /rooms/{roomId}/kick`
async fn kick(args: Args<kick_user::v3::Request>) -> Answer<kick_user::v3::Response> {
    let target: OwnedUserId = args.body.user_id;
    args.hs.kick(&args.who.user_id, &target, &args.body.room_id, reason(args.body.reason)).await?;
    Ok(kick_user::v3::Response::new())
}

/// `POST /rooms/{roomId}/ban`
async fn ban(args: Args<ban_user::v3::Request>) -> Answer<ban_user::v3::Response> {
    args.hs.ban(&args.who.user_id, &args.body.user_id, &args.body.room_id, reason(args.body.reason)).await?;
    Ok(ban_user::v3::Response::new())
}

/// `POST /rooms/{roomId}/unban`
async fn unban(args: Args<unban_user::v3::Request>) -> Answer<unban_user::v3::Response> {
    args.hs.unban(&args.who.user_id, &args.body.user_id, &args.body.room_id, reason(args.body.reason)).await?;
    Ok(unban_user::v3::Response::new())
}

/// `POST /rooms/{roomId}/forget`
async fn forget(args: Args<forget_room::v3::Request>) -> Answer<forget_room::v3::Response> {
    args.hs.rooms.forget(&args.who.user_id, &args.body.room_id).await?;
    Ok(forget_room::v3::Response::new())
}

/// `GET /joined_rooms`
async fn joined(args: Args<joined_rooms::v3::Request>) -> Answer<joined_rooms::v3::Response> {
    let memberships = args.hs.rooms.store().graph.memberships(&args.who.user_id).await?;
    let joined = memberships.into_iter().filter(|found| found.membership == MembershipState::Join);
    Ok(joined_rooms::v3::Response::new(joined.map(|found| found.room_id).collect()))
}
