//! Our own endpoints for what the common tools have no calls for: cases, recovery of rooms, unwanted invites, tasks, the record of
//! what administrators did.

pub(crate) mod cases;
mod invites;
mod tasks;

use http::Method;
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_ops::Homeserver;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    admin::Admin,
    openapi::{About, Field, Form, NOTHING, field, optional},
};

const FROM: Field = optional!("from", Form::Number, "Where to begin: next_token of the page before");
const LIMIT: Field = optional!("limit", Form::Number, "At most so many; 100 if not given, 1000 at most");
const TOTAL: Field = field!("total", Form::Number, "How many there are");
const NEXT_TOKEN: Field = optional!("next_token", Form::Text, "Where the next page begins, if there is one");

pub(crate) fn routes() -> Admin {
    Admin::default()
        .merge(cases::routes())
        .merge(invites::routes())
        .merge(tasks::routes())
        .own(
            Method::POST,
            "/_samtal/admin/v1/rooms/{room_id}/recover",
            About::new(
                "Rooms",
                "Gives a user power in a room where nobody has any: somebody of this server who once had it comes back for that",
                Form::Object(&[field!("by", Form::Text, "In whose name it was done")]),
            )
            .body(Form::Object(&[field!("user_id", Form::Text, "Who gets the power")])),
            recover,
        )
        .own(
            Method::GET,
            "/_samtal/admin/v1/audit",
            About::new(
                "Audit",
                "What administrators did through this API and the command line, the newest first",
                Form::Object(&[
                    field!(
                        "entries",
                        Form::List(&Form::Object(&[
                            field!("id", Form::Number, "Its number"),
                            field!("ts", Form::Moment, "When"),
                            field!("actor", Form::Text, "Who"),
                            field!("action", Form::Text, "What: the method and the path's form"),
                            field!("subject", Form::Text, "To whom or what"),
                            field!("outcome", Form::Text, "What came of it: the answer's status"),
                        ])),
                        "The entries",
                    ),
                    optional!("next_before", Form::Number, "`before` of the next page, if there is one"),
                ]),
            )
            .query(&[
                optional!("before", Form::Number, "Only entries with a number below"),
                optional!("limit", Form::Number, "At most so many; 100 if not given, 1000 at most"),
            ]),
            audit,
        )
        .own(
            Method::GET,
            "/_samtal/admin/v1/openapi.json",
            About::new("About", "This description (OpenAPI 3.1)", Form::Free),
            description,
        )
        .own(
            Method::POST,
            "/_samtal/admin/v1/users/{user_id}/log_out",
            About::new("Users", "Ends all sessions of a user", NOTHING),
            log_out,
        )
}

#[derive(Deserialize)]
struct Recover {
    user_id: OwnedUserId,
}

/// `POST /_samtal/admin/v1/rooms/{roomId}/recover`
async fn recover(args: RawArgs) -> Answer<Json<Value>> {
    let (room_id, body): (OwnedRoomId, Recover) = (args.path(0)?, args.json().await?);
    Ok(Json(json!({ "by": args.hs.make_room_admin(&room_id, &body.user_id).await? })))
}

#[derive(Deserialize)]
struct AuditPage {
    before: Option<i64>,
    limit: Option<usize>,
}

/// `GET /_samtal/admin/v1/audit`
async fn audit(args: RawArgs) -> Answer<Json<Value>> {
    let page: AuditPage = args.query()?;
    let limit = page.limit.unwrap_or(100).clamp(1, 1_000);
    let found = args.hs.accounts.audited(page.before.unwrap_or(i64::MAX), limit).await?;
    let entries: Vec<Value> = found
        .iter()
        .map(|entry| {
            json!({
                "id": entry.id, "ts": entry.at_ms, "actor": entry.actor, "action": entry.action,
                "subject": entry.subject, "outcome": entry.outcome,
            })
        })
        .collect();
    let mut answer = json!({ "entries": entries });
    if let Some(last) = found.last().filter(|_| found.len() == limit) {
        answer["next_before"] = last.id.into();
    }
    Ok(Json(answer))
}

/// `GET /_samtal/admin/v1/openapi.json`
async fn description(_: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(crate::openapi()))
}

/// `POST /_samtal/admin/v1/users/{userId}/log_out`
async fn log_out(args: RawArgs) -> Answer<Json<Value>> {
    let user = crate::admin::local_user(&args, 0).await?;
    end_sessions(&args.hs, &user.user_id).await?;
    Ok(Json(json!({})))
}

/// Ends all sessions of a user.
pub(crate) async fn end_sessions(hs: &Homeserver, user: &UserId) -> Result<(), ApiError> {
    let devices = hs.accounts.devices(user).await?;
    hs.delete_devices(user, devices.iter().map(|device| &*device.device_id)).await?;
    Ok(())
}
