//! Names of rooms.

use ruma::{
    OwnedRoomAliasId, OwnedRoomId,
    api::client::{
        alias::{create_alias::v3 as create, delete_alias::v3 as delete, get_alias::v3 as get},
        room::aliases::v3 as of_room,
    },
};
use samtal_ops::OpError;
use samtal_room::RoomError;

use crate::{Answer, ApiError, Args, Routes};

pub(super) fn routes() -> Routes {
    Routes::new().route(resolve).route(put).route(remove).route(list)
}

/// `GET /directory/room/{roomAlias}`
async fn resolve(args: Args<get::Request>) -> Answer<get::Response> {
    let (room_id, servers) = args.hs.resolve_alias(&args.body.room_alias).await?;
    Ok(get::Response::new(room_id, servers))
}

/// `PUT /directory/room/{roomAlias}`
async fn put(args: Args<create::Request>) -> Answer<create::Response> {
    let (who, alias, room_id): (_, OwnedRoomAliasId, OwnedRoomId) =
        (&args.who, args.body.room_alias, args.body.room_id);
    args.hs.create_alias(&who.user_id, &alias, &room_id, super::service(who)).await?;
    Ok(create::Response::new())
}

/// `DELETE /directory/room/{roomAlias}`
async fn remove(args: Args<delete::Request>) -> Answer<delete::Response> {
    let who = &args.who;
    args.hs.delete_alias(&who.user_id, &args.body.room_alias, who.is_admin, super::service(who)).await?;
    Ok(delete::Response::new())
}

/// `GET /rooms/{roomId}/aliases`
async fn list(args: Args<of_room::Request>) -> Answer<of_room::Response> {
    let (hs, user) = (&args.hs, &args.who.user_id);
    let room = hs.rooms.room(&args.body.room_id).await?;
    let (_, is_current) = hs.rooms.readable_snapshot(user, &room).await?;
    if !is_current {
        return Err(ApiError::forbidden("You are not in the room"));
    }
    let aliases = hs.rooms.aliases(&room.room_id).await.map_err(|error: RoomError| OpError::from(error))?;
    Ok(of_room::Response::new(aliases))
}
