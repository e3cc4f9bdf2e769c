//! What others may look up: profiles, aliases, public rooms, spaces.

use ruma::{
    api::federation::{
        directory::{get_public_rooms::v1 as get_rooms, get_public_rooms_filtered::v1 as post_rooms},
        query::{get_profile_information::v1 as profile, get_room_information::v1 as alias},
        space::{SpaceHierarchyParentSummary, get_hierarchy::v1 as hierarchy},
    },
    directory::Filter,
};
use samtal_ops::Homeserver;
use samtal_policy::Action;
use serde_json::{Map, Value};

use crate::{
    ApiError,
    args::Args,
    routes::{Answer, JsonText, Routes},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .route::<profile::Request, _, _, _>(query_profile)
        .route::<alias::Request, _, _, _>(query_directory)
        .route::<get_rooms::Request, _, _, _>(public_rooms)
        .route::<post_rooms::Request, _, _, _>(public_rooms_filtered)
        .route::<hierarchy::Request, _, _, _>(space_hierarchy)
}

/// `GET /_matrix/federation/v1/query/profile`
async fn query_profile(args: Args<profile::Request>) -> Answer<JsonText> {
    let user = &args.request.user_id;
    if !args.hs.is_local(user) {
        return Err(ApiError::invalid_param("The user is of another server"));
    }
    let fields = args.hs.profile(user).await?.ok_or_else(|| ApiError::not_found("There is no such user here"))?;
    let only = args.request.field.as_ref().map(|field| field.as_str());
    let shown: Map<String, Value> =
        fields.into_iter().filter(|(name, _)| only.is_none_or(|only| only == name)).collect();
    Ok(JsonText(Value::Object(shown).to_string()))
}

/// `GET /_matrix/federation/v1/query/directory`
async fn query_directory(args: Args<alias::Request>) -> Answer<alias::Response> {
    let alias = &args.request.room_alias;
    if alias.server_name() != args.hs.name {
        return Err(ApiError::not_found("The alias is of another server"));
    }
    let (room_id, servers) = args.hs.resolve_alias(alias).await?;
    Ok(alias::Response::new(room_id, servers))
}

fn require_shown_list(hs: &Homeserver) -> Result<(), ApiError> {
    match hs.settings.directory.over_federation {
        true => Ok(()),
        false => Err(ApiError::forbidden("This server shows its list of rooms to its own users only")),
    }
}

/// `GET /_matrix/federation/v1/publicRooms`
async fn public_rooms(args: Args<get_rooms::Request>) -> Answer<get_rooms::Response> {
    require_shown_list(&args.hs)?;
    let page = args.hs.public_rooms(&Filter::default(), args.request.limit, args.request.since.as_deref()).await?;
    let mut response = get_rooms::Response::new();
    response.chunk = page.chunk;
    response.next_batch = page.next_batch;
    response.prev_batch = page.prev_batch;
    response.total_room_count_estimate = page.total_room_count_estimate;
    Ok(response)
}

/// `POST /_matrix/federation/v1/publicRooms`
async fn public_rooms_filtered(args: Args<post_rooms::Request>) -> Answer<post_rooms::Response> {
    require_shown_list(&args.hs)?;
    let page = args.hs.public_rooms(&args.request.filter, args.request.limit, args.request.since.as_deref()).await?;
    let mut response = post_rooms::Response::new();
    response.chunk = page.chunk;
    response.next_batch = page.next_batch;
    response.prev_batch = page.prev_batch;
    response.total_room_count_estimate = page.total_room_count_estimate;
    Ok(response)
}

/// `GET /_matrix/federation/v1/hierarchy/{roomId}`
async fn space_hierarchy(args: Args<hierarchy::Request>) -> Answer<hierarchy::Response> {
    let hs = &args.hs;
    let server = &args.who.server;
    let room = hs.room_for(server, &args.request.room_id, Action::Room).await?;
    let summary = hs.room_summary(&room).await?;
    if !hs.server_may_preview(server, &room, &summary).await? {
        return Err(ApiError::not_found("The room is not known here"));
    }
    let (chunk, children) = hs.space_chunk(&room, summary, args.request.suggested_only).await?;
    let state = chunk.children_state;
    let (mut shown, mut hidden) = (Vec::new(), Vec::new());
    for (child, _) in children {
        let Some(room) = hs.resident_room(&child).await? else { continue };
        let summary = hs.room_summary(&room).await?;
        if hs.server_may_preview(server, &room, &summary).await? {
            shown.push(summary);
        } else {
            hidden.push(child);
        }
    }
    let mut response = hierarchy::Response::new(SpaceHierarchyParentSummary::new(chunk.summary, state));
    response.children = shown;
    response.inaccessible_children = hidden;
    Ok(response)
}
