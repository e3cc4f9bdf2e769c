//! Subscribing to threads (MSC4306, MSC4308).

use http::{Method, StatusCode};
use ruma::{EventId, OwnedEventId, OwnedRoomId, api::auth_scheme::AccessToken};
use samtal_room::{Relation, StoredEvent};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Answer, ApiError, Json, Raw, RawArgs, Routes};

/// Subscriptions of a page when the client names no number.
const LIMIT: usize = 100;

pub(super) fn routes() -> Routes {
    const ONE: &[&str] =
        &["/_matrix/client/unstable/io.element.msc4306/rooms/{room_id}/thread/{event_id}/subscription"];
    const ALL: &[&str] = &["/_matrix/client/unstable/io.element.msc4308/thread_subscriptions"];
    Routes::new()
        .raw::<AccessToken, _, _, _>(Method::GET, ONE, get)
        .raw::<AccessToken, _, _, _>(Method::PUT, ONE, subscribe)
        .raw::<AccessToken, _, _, _>(Method::DELETE, ONE, unsubscribe)
        .raw::<AccessToken, _, _, _>(Method::GET, ALL, list)
}

/// The thread in the path, whose first event the user must be able to see.
async fn thread(args: &RawArgs) -> Result<(OwnedRoomId, OwnedEventId), ApiError> {
    let missing = || ApiError::not_found("There is no such thread");
    let room_id: OwnedRoomId = args.path(0)?;
    let root: OwnedEventId = args.path(1)?;
    let event = args.hs.rooms.visible_event(&args.who.user_id, &room_id, &root).await.map_err(|_| missing())?;
    // An event in a thread begins none, and neither does one of the state.
    if event.pdu.is_state() || Relation::of(&event.pdu).is_some_and(|relation| relation.rel_type == "m.thread") {
        return Err(missing());
    }
    Ok((room_id, root))
}

/// `GET …/subscription`
async fn get(args: RawArgs) -> Answer<Json<Value>> {
    let (room_id, root) = thread(&args).await?;
    let known = args.hs.accounts.thread_subscription(&args.who.user_id, &room_id, &root).await?;
    match known.filter(|known| known.state.is_subscribed()) {
        Some(known) => Ok(Json(json!({ "automatic": known.state == samtal_account::ThreadState::Automatic }))),
        None => Err(ApiError::not_found("The thread is not subscribed to")),
    }
}

#[derive(Deserialize)]
struct Wish {
    automatic: Option<OwnedEventId>,
}

/// `PUT …/subscription`
async fn subscribe(args: RawArgs) -> Answer<Json<Value>> {
    let (room_id, root) = thread(&args).await?;
    let wish: Wish = args.json().await?;
    let cause = match wish.automatic {
        None => None,
        Some(event_id) => {
            let event = args.hs.rooms.visible_event(&args.who.user_id, &room_id, &event_id).await;
            let event = event.ok().filter(|event| is_in_thread(event, &root));
            let event = event.ok_or_else(|| {
                let code = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD";
                ApiError::new(StatusCode::BAD_REQUEST, code, "The event is not in the thread")
            })?;
            Some(event.position.map_or(0, |position| position.0))
        }
    };
    if args.hs.accounts.subscribe_thread(&args.who.user_id, &room_id, &root, cause).await? {
        return Ok(Json(json!({})));
    }
    let code = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION";
    Err(ApiError::new(StatusCode::CONFLICT, code, "The thread was unsubscribed from after the event"))
}

fn is_in_thread(event: &StoredEvent, root: &EventId) -> bool {
    Relation::of(&event.pdu)
        .is_some_and(|relation| relation.rel_type == "m.thread" && relation.event_id == root.as_str())
}

/// `DELETE …/subscription`
async fn unsubscribe(args: RawArgs) -> Answer<Json<Value>> {
    let (room_id, root) = thread(&args).await?;
    args.hs.accounts.unsubscribe_thread(&args.who.user_id, &room_id, &root).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
struct Page {
    dir: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
}

/// `GET …/thread_subscriptions`
async fn list(args: RawArgs) -> Answer<Raw> {
    let page: Page = args.query()?;
    if page.dir.as_deref().is_some_and(|dir| dir != "b") {
        return Err(ApiError::invalid_param("dir is b"));
    }
    if page.limit == Some(0) {
        return Err(ApiError::invalid_param("limit must be greater than 0"));
    }
    let (from, to) = (page.from.as_deref(), page.to.as_deref());
    let limit = page.limit.unwrap_or(LIMIT);
    let body = args.hs.sync.thread_subscriptions(&args.who.user_id, from, to, limit).await?;
    Ok(crate::sync::json(body))
}
