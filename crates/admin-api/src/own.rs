//! Our own endpoints for what the common tools have no calls for: cases, recovery of rooms, unwanted invites, tasks, the record of
//! what administrators did.

use http::Method;
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_jobs::State;
use samtal_ops::{
    Homeserver, OpError,
    moderation::Invites,
    room_care::{RoomTask, TaskStatus},
};
use samtal_policy::WhichHeld;
use samtal_room::{Case, CaseStep};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    admin::{Admin, Page, set_next},
    openapi::{About, Field, Form, NOTHING, field, optional},
    room_care::word,
};

/// Most cases that are looked at.
const CASES_MAX: usize = 10_000;

const CASE_FORM: Form = Form::Object(&[
    field!("id", Form::Number, "Its number"),
    field!("reporter", Form::Text, "The user who reported"),
    field!("about", Form::OneOf(&["event", "user", "room"]), "What was reported"),
    field!("room_id", Form::Maybe(&Form::Text), "The room, or the event's room"),
    field!("event_id", Form::Maybe(&Form::Text), "The event"),
    field!("user_id", Form::Maybe(&Form::Text), "The user"),
    field!("reason", Form::Text, "Why, in the reporter's words"),
    field!("reported_ts", Form::Moment, "When"),
    field!("state", Form::OneOf(&["open", "assigned", "closed"]), "Where it stands"),
    field!("assignee", Form::Maybe(&Form::Text), "Who deals with it"),
    field!("note", Form::Maybe(&Form::Text), "What came of it"),
    field!("closed_by", Form::Maybe(&Form::Text), "Who has dealt with it"),
    field!("closed_ts", Form::Maybe(&Form::Moment), "When"),
]);

const TASK_FORM: Form = Form::Object(&[
    field!("id", Form::Text, "Its id"),
    field!(
        "action",
        Form::OneOf(&["shutdown_and_purge_room", "purge_history", "redact_all_events", "refuse_invites"]),
        "What it does",
    ),
    field!("subject", Form::Text, "The room or user that it is about"),
    field!("status", Form::OneOf(&["active", "complete", "failed"]), "Where it stands"),
    field!("begun_ts", Form::Moment, "When it began"),
    field!("result", Form::Maybe(&Form::Free), "What came of it"),
    field!("error", Form::Maybe(&Form::Text), "Why it failed"),
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

const FROM: Field = optional!("from", Form::Number, "Where to begin: next_token of the page before");
const LIMIT: Field = optional!("limit", Form::Number, "At most so many; 100 if not given, 1000 at most");

pub(crate) fn routes() -> Admin {
    Admin::default()
        .own(
            Method::GET,
            "/_samtal/admin/v1/cases",
            About::new(
                "Cases",
                "What users have reported, the newest first",
                Form::Object(&[
                    field!("cases", Form::List(&CASE_FORM), "The cases"),
                    field!("total", Form::Number, "How many there are"),
                    optional!("next_token", Form::Text, "Where the next page begins, if there is one"),
                ]),
            )
            .query(&[
                FROM,
                LIMIT,
                optional!("state", Form::OneOf(&["open", "assigned", "closed", "all"]), "Only these; all but closed if not given"),
                optional!("about", Form::OneOf(&["event", "user", "room"]), "Only reports of this"),
                optional!("assignee", Form::Text, "Only cases of this user"),
            ]),
            cases,
        )
        .own(
            Method::GET,
            "/_samtal/admin/v1/cases/{case_id}",
            About::new("Cases", "One case", CASE_FORM),
            one_case,
        )
        .own(
            Method::PUT,
            "/_samtal/admin/v1/cases/{case_id}",
            About::new("Cases", "Gives a case to somebody, closes it, or opens it again", CASE_FORM).body(Form::Object(&[
                optional!("assignee", Form::Maybe(&Form::Text), "Who deals with it from now on; null for nobody"),
                optional!("state", Form::OneOf(&["open", "closed"]), "What it becomes"),
                optional!("note", Form::Text, "What came of it; when it is closed"),
            ])),
            change_case,
        )
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
            "/_samtal/admin/v1/invites",
            About::new(
                "Invites",
                "Invites of users of this server that wait",
                Form::Object(&[
                    field!(
                        "invites",
                        Form::List(&Form::Object(&[
                            field!("user_id", Form::Text, "Who is invited"),
                            field!("room_id", Form::Text, "Where to"),
                            field!("sender", Form::Text, "By whom"),
                        ])),
                        "The invites",
                    ),
                    field!("total", Form::Number, "How many there are"),
                    optional!("next_token", Form::Text, "Where the next page begins, if there is one"),
                ]),
            )
            .query(&[
                FROM,
                LIMIT,
                SENDER,
                SERVER,
                ROOM,
                INVITED,
            ]),
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
                    field!("total", Form::Number, "How many there are"),
                    optional!("next_token", Form::Text, "Where the next page begins, if there is one"),
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
        .own(
            Method::GET,
            "/_samtal/admin/v1/tasks",
            About::new(
                "Tasks",
                "What is done in the background, and what ended within a day",
                Form::Object(&[field!("tasks", Form::List(&TASK_FORM), "The tasks, the oldest first")]),
            ),
            tasks,
        )
        .own(Method::GET, "/_samtal/admin/v1/tasks/{task_id}", About::new("Tasks", "One task", TASK_FORM), one_task)
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

fn about(case: &Case) -> &'static str {
    match (&case.event_id, &case.user_id) {
        (Some(_), _) => "event",
        (None, Some(_)) => "user",
        (None, None) => "room",
    }
}

fn state(case: &Case) -> &'static str {
    match (case.closed, &case.assignee) {
        (true, _) => "closed",
        (false, Some(_)) => "assigned",
        (false, None) => "open",
    }
}

fn written(case: &Case) -> Value {
    json!({
        "id": case.id,
        "reporter": case.reporter,
        "about": about(case),
        "room_id": case.room_id,
        "event_id": case.event_id,
        "user_id": case.user_id,
        "reason": case.reason,
        "reported_ts": case.reported_ms,
        "state": state(case),
        "assignee": case.assignee,
        "note": case.note,
        "closed_by": case.closed_by,
        "closed_ts": case.closed_ms,
    })
}

#[derive(Deserialize)]
struct CaseFilter {
    state: Option<String>,
    about: Option<String>,
    assignee: Option<String>,
}

/// `GET /_samtal/admin/v1/cases`
async fn cases(args: RawArgs) -> Answer<Json<Value>> {
    let (filter, page): (CaseFilter, Page) = (args.query()?, args.query()?);
    let mut cases = args.hs.rooms.cases(i64::MAX, CASES_MAX).await?;
    cases.retain(|case| {
        let in_state = match filter.state.as_deref() {
            None => !case.closed,
            Some("all") => true,
            Some(wanted) => state(case) == wanted,
        };
        in_state
            && filter.about.as_deref().is_none_or(|wanted| about(case) == wanted)
            && (filter.assignee.is_none() || case.assignee == filter.assignee)
    });
    let total = cases.len();
    let (cases, next) = page.cut(cases);
    let mut answer = json!({ "cases": cases.iter().map(written).collect::<Vec<_>>(), "total": total });
    set_next(&mut answer, "next_token", next);
    Ok(Json(answer))
}

async fn found(args: &RawArgs) -> Result<Case, ApiError> {
    let case = args.hs.rooms.case(args.path(0)?).await?;
    case.ok_or_else(|| ApiError::not_found("There is no such case"))
}

/// `GET /_samtal/admin/v1/cases/{caseId}`
async fn one_case(args: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(written(&found(&args).await?)))
}

#[derive(Deserialize)]
struct CaseChange {
    #[serde(default, deserialize_with = "some")]
    assignee: Option<Option<OwnedUserId>>,
    state: Option<String>,
    note: Option<String>,
}

#[expect(clippy::option_option, reason = "left out and null are two things")]
fn some<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<OwnedUserId>>, D::Error> {
    Option::<OwnedUserId>::deserialize(deserializer).map(Some)
}

/// `PUT /_samtal/admin/v1/cases/{caseId}`
async fn change_case(args: RawArgs) -> Answer<Json<Value>> {
    let (case, change): (Case, CaseChange) = (found(&args).await?, args.json().await?);
    let rooms = &args.hs.rooms;
    if let Some(assignee) = &change.assignee {
        rooms.work_case(case.id, CaseStep::Assign(assignee.as_deref().map(UserId::as_str))).await?;
    }
    match change.state.as_deref() {
        None => {}
        Some("closed") => {
            let step = CaseStep::Close { by: args.who.user_id.as_str(), note: change.note.as_deref() };
            rooms.work_case(case.id, step).await?;
        }
        Some("open") => drop(rooms.work_case(case.id, CaseStep::Reopen).await?),
        Some(_) => return Err(ApiError::invalid_param("state is open or closed")),
    }
    Ok(Json(written(&found(&args).await?)))
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

/// `GET /_samtal/admin/v1/invites`
async fn invites(args: RawArgs) -> Answer<Json<Value>> {
    let (which, page): (Invites, Page) = (args.query()?, args.query()?);
    let mut found = args.hs.rooms.pending_invites().await?;
    found.retain(|invite| which.has(invite));
    let total = found.len();
    let (found, next) = page.cut(found);
    let invites: Vec<Value> = found
        .iter()
        .map(|invite| json!({ "user_id": invite.user_id, "room_id": invite.room_id, "sender": invite.sender }))
        .collect();
    let mut answer = json!({ "invites": invites, "total": total });
    set_next(&mut answer, "next_token", next);
    Ok(Json(answer))
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
    let total = found.len();
    let (found, next) = page.cut(found);
    let mut answer = json!({ "invites": found, "total": total });
    set_next(&mut answer, "next_token", next);
    Ok(Json(answer))
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

fn task(status: &TaskStatus) -> Value {
    let failed = status.state == State::Failed;
    let result = status.outcome.as_deref().filter(|_| !failed);
    json!({
        "id": status.id,
        "action": status.task.action(),
        "subject": status.task.subject(),
        "status": word(status.state),
        "begun_ts": status.since_ms,
        "result": result.and_then(|result| serde_json::from_str::<Value>(result).ok()),
        "error": status.outcome.as_deref().filter(|_| failed),
    })
}

/// `GET /_samtal/admin/v1/tasks`
async fn tasks(args: RawArgs) -> Answer<Json<Value>> {
    let tasks = args.hs.care_tasks().await?;
    Ok(Json(json!({ "tasks": tasks.iter().map(task).collect::<Vec<_>>() })))
}

/// `GET /_samtal/admin/v1/tasks/{taskId}`
async fn one_task(args: RawArgs) -> Answer<Json<Value>> {
    let status = args.hs.room_task(&args.path::<String>(0)?).await?;
    status.map(|status| Json(task(&status))).ok_or_else(|| ApiError::not_found("There is no such task"))
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
