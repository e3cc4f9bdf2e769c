//! Invites that wait: for those invited, and held ones for an administrator.

use http::Method;
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_ops::{OpError, moderation::Invites, room_care::RoomTask};
use samtal_policy::WhichHeld;
use samtal_room::PendingInvite;
use serde_json::{Value, json};

use super::{FROM, LIMIT, NEXT_TOKEN, TOTAL};
use crate::{
    admin::{Admin, Page},
    openapi::{About, Field, Form, field, optional},
};

const INVITE_FORM: Form = Form::Object(&[
    field!("user_id", Form::Text, "Who is invited"),
    field!("room_id", Form::Text, "Where to"),
    field!("sender", Form::Text, "By whom"),
]);

const HELD_FORM: Form = Form::Object(&[
    field!("room_id", Form::Text, "Where to"),
    field!("user_id", Form::Text, "Who is invited"),
    field!("sender", Form::Text, "By whom"),
    field!("server", Form::Text, "Their server"),
    field!("version", Form::Text, "The room's version"),
    field!("since_ms", Form::Moment, "Since when it waits"),
]);

const SENDER: Field = optional!("sender", Form::Text, "Only invites from this user");
const SERVER: Field = optional!("server", Form::Text, "Only invites from users of this server");
const ROOM: Field = optional!("room_id", Form::Text, "Only invites to this room");
const INVITED: Field = optional!("user_id", Form::Text, "Only invites of this user");

pub(super) fn routes() -> Admin {
    Admin::default()
        .own(
            Method::GET,
            "/_samtal/admin/v1/invites",
            About::new(
                "Invites",
                "Invites of users of this server that wait",
                Form::Object(&[field!("invites", Form::List(&INVITE_FORM), "The invites"), TOTAL, NEXT_TOKEN]),
            )
            .query(&[FROM, LIMIT, SENDER, SERVER, ROOM, INVITED]),
            invites,
        )
        .own(
            Method::POST,
            "/_samtal/admin/v1/invites/refuse",
            About::new(
                "Invites",
                "Refuses all invites that wait and fit, in the background",
                Form::Object(&[field!("task_id", Form::Text, "The task, to be looked up")]),
            )
            .body(Form::Object(&[SENDER, SERVER, ROOM, INVITED])),
            refuse,
        )
        .own(
            Method::GET,
            "/_samtal/admin/v1/held_invites",
            About::new(
                "Invites",
                "Invites from servers that nobody named, which wait for an administrator",
                Form::Object(&[
                    field!("invites", Form::List(&HELD_FORM), "The invites, the oldest first"),
                    TOTAL,
                    NEXT_TOKEN,
                ]),
            )
            .query(&[FROM, LIMIT, SERVER, ROOM, INVITED]),
            held,
        )
        .own(
            Method::POST,
            "/_samtal/admin/v1/held_invites/release",
            About::new(
                "Invites",
                "Lets held invites through: those invited are told of them now",
                Form::Object(&[field!("released", Form::Number, "How many there were")]),
            )
            .body(Form::Object(&[SERVER, ROOM, INVITED])),
            release_held,
        )
        .own(
            Method::POST,
            "/_samtal/admin/v1/held_invites/refuse",
            About::new(
                "Invites",
                "Refuses held invites; those invited hear nothing of them",
                Form::Object(&[field!("refused", Form::Number, "How many there were")]),
            )
            .body(Form::Object(&[SERVER, ROOM, INVITED])),
            refuse_held,
        )
}

/// `GET /_samtal/admin/v1/invites`
async fn invites(args: RawArgs) -> Answer<Json<Value>> {
    let (which, page): (Invites, Page) = (args.query()?, args.query()?);
    let mut found = args.hs.rooms.pending_invites().await?;
    found.retain(|invite| which.has(invite));
    let written = |invite: &PendingInvite| json!({ "user_id": invite.user_id, "room_id": invite.room_id, "sender": invite.sender });
    Ok(page.answer("invites", found, written))
}

/// `POST /_samtal/admin/v1/invites/refuse`
async fn refuse(args: RawArgs) -> Answer<Json<Value>> {
    let which: Invites = args.json().await?;
    if which.is_empty() {
        return Err(ApiError::missing_param("Say which invites: by sender, server, room_id or user_id"));
    }
    let task = RoomTask::RefuseInvites { which, by: args.who.user_id.clone() };
    Ok(Json(json!({ "task_id": args.hs.begin_room_task(&task).await? })))
}

/// `GET /_samtal/admin/v1/held_invites`
async fn held(args: RawArgs) -> Answer<Json<Value>> {
    let (which, page): (WhichHeld, Page) = (args.query()?, args.query()?);
    let found = args.hs.held_invites().list(&which).await.map_err(OpError::from)?;
    Ok(page.answer("invites", found, |invite| json!(invite)))
}

/// `POST /_samtal/admin/v1/held_invites/release`
async fn release_held(args: RawArgs) -> Answer<Json<Value>> {
    let which = which_held(&args).await?;
    Ok(Json(json!({ "released": args.hs.release_invites(&which).await? })))
}

/// `POST /_samtal/admin/v1/held_invites/refuse`
async fn refuse_held(args: RawArgs) -> Answer<Json<Value>> {
    let which = which_held(&args).await?;
    Ok(Json(json!({ "refused": args.hs.refuse_held_invites(&which).await? })))
}

async fn which_held(args: &RawArgs) -> Result<WhichHeld, ApiError> {
    let which: WhichHeld = args.json().await?;
    if which.is_empty() {
        return Err(ApiError::missing_param("Say which invites: by server, room_id or user_id"));
    }
    Ok(which)
}
