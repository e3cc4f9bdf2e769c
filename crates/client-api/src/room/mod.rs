//! Everything about rooms. Each file holds the endpoints of one noun.

mod alias;
mod create;
mod delayed;
mod directory;
mod error;
mod events;
mod hierarchy;
mod initial_sync;
mod members;
mod membership;
mod mutual;
mod redact;
mod relations;
mod report;
mod send;
mod state;
mod sticky;
mod summary;
mod thread;
mod timeline;
mod upgrade;

use ruma::{OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId, api::client::room::Visibility, serde::Raw};
use samtal_account::{Rates, UserRate};
use samtal_kit::Rate;
use samtal_model::{StreamPosition, SyncToken};
use samtal_ops::Homeserver;
use samtal_room::Form;
use serde_json::value::RawValue;

use crate::{ApiError, Routes, UserPrincipal};

pub(crate) fn routes() -> Routes {
    Routes::new()
        .merge(delayed::routes())
        .merge(create::routes())
        .merge(membership::routes())
        .merge(send::routes())
        .merge(redact::routes())
        .merge(state::routes())
        .merge(members::routes())
        .merge(timeline::routes())
        .merge(relations::routes())
        .merge(alias::routes())
        .merge(directory::routes())
        .merge(upgrade::routes())
        .merge(summary::routes())
        .merge(hierarchy::routes())
        .merge(mutual::routes())
        .merge(initial_sync::routes())
        .merge(events::routes())
        .merge(report::routes())
        .merge(thread::routes())
}

/// The place in history that a client's token stands for: one of `/sync`, or a position of sliding sync, which is one
/// behind a number.
fn position(token: &str) -> Result<StreamPosition, ApiError> {
    let token = token.find("s1_").and_then(|at| token.get(at..)).unwrap_or(token);
    let token: SyncToken = token.parse().map_err(|_| ApiError::invalid_param("The token is not one of this server"))?;
    Ok(token.position)
}

/// The token for a place in history.
pub(crate) fn token(position: StreamPosition) -> String {
    SyncToken::at(position).to_string()
}

/// How events are written for this reader.
pub(crate) fn form(who: &UserPrincipal) -> Form<'_> {
    Form {
        device_id: who.device_id.as_deref().map(|device| device.as_str()),
        with_room_id: true,
        with_bundles: true,
        without_past: false,
    }
}

/// How `count` state events are written that stand side by side. Of many it is not told what was before each of them: the
/// specification lets that be left out, and in a room of 100,000 it is 200,000 looks at as many states.
fn state_form(who: &UserPrincipal, count: usize) -> Form<'_> {
    const MANY: usize = 1_000;
    Form { with_bundles: false, without_past: count > MANY, ..form(who) }
}

/// The device's name in transactions; application services may have none.
fn device(who: &UserPrincipal) -> &str {
    who.device_id.as_deref().map_or("", |device| device.as_str())
}

/// The application service that asks, by its id.
fn service(who: &UserPrincipal) -> Option<&str> {
    who.service.as_ref().map(|service| service.id.as_str())
}

/// Events under ruma's name for their type.
fn raws<T>(events: Vec<Box<RawValue>>) -> Vec<Raw<T>> {
    events.into_iter().map(Raw::from_json).collect()
}

/// Whether a room shall be in the public directory.
fn public(visibility: &Visibility) -> Result<bool, ApiError> {
    match visibility {
        Visibility::Public => Ok(true),
        Visibility::Private => Ok(false),
        _ => Err(ApiError::bad_json("visibility is public or private")),
    }
}

/// Counts against one of the rates.
fn limit(hs: &Homeserver, who: &UserPrincipal, kind: &'static str, rate: fn(&Rates) -> Rate) -> Result<(), ApiError> {
    let free = who.service.as_ref().is_some_and(|service| !service.rate_limited);
    match hs.accounts.options().rates {
        Some(rates) if !free => {
            let rate = match hs.accounts.user_rate(&who.user_id).map(UserRate::rate) {
                // An administrator has lifted all limits.
                Some(None) => return Ok(()),
                Some(Some(own)) if kind == "messages" => own,
                _ => rate(&rates),
            };
            hs.limiter.take(kind, who.user_id.as_str(), rate).map_err(ApiError::limit_exceeded)
        }
        _ => Ok(()),
    }
}

/// The room that is meant, and servers that may be in it.
async fn resolve(
    hs: &Homeserver,
    room: &RoomOrAliasId,
    via: Vec<OwnedServerName>,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), ApiError> {
    match <&RoomId>::try_from(room) {
        Ok(room_id) => Ok((room_id.to_owned(), via)),
        Err(alias) => {
            let (room_id, mut servers) = hs.resolve_alias(alias).await?;
            servers.extend(via);
            Ok((room_id, servers))
        }
    }
}
