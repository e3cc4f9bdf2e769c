//! Cases: what users have reported, and what comes of it.

use http::Method;
use ruma::{OwnedUserId, UserId};
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_room::{Case, CaseStep};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{FROM, LIMIT, NEXT_TOKEN, TOTAL};
use crate::{
    admin::{Admin, Page},
    openapi::{About, Form, field, optional},
};

/// Most cases that are looked at.
pub(crate) const CASES_MAX: usize = 10_000;

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

pub(super) fn routes() -> Admin {
    Admin::default()
        .own(
            Method::GET,
            "/_samtal/admin/v1/cases",
            About::new(
                "Cases",
                "What users have reported, the newest first",
                Form::Object(&[field!("cases", Form::List(&CASE_FORM), "The cases"), TOTAL, NEXT_TOKEN]),
            )
            .query(&[
                FROM,
                LIMIT,
                optional!(
                    "state",
                    Form::OneOf(&["open", "assigned", "closed", "all"]),
                    "Only these; all but closed if not given"
                ),
                optional!("about", Form::OneOf(&["event", "user", "room"]), "Only reports of this"),
                optional!("assignee", Form::Text, "Only cases of this user"),
            ]),
            cases,
        )
        .own(Method::GET, "/_samtal/admin/v1/cases/{case_id}", About::new("Cases", "One case", CASE_FORM), one_case)
        .own(
            Method::PUT,
            "/_samtal/admin/v1/cases/{case_id}",
            About::new("Cases", "Gives a case to somebody, closes it, or opens it again", CASE_FORM).body(
                Form::Object(&[
                    optional!("assignee", Form::Maybe(&Form::Text), "Who deals with it from now on; null for nobody"),
                    optional!("state", Form::OneOf(&["open", "closed"]), "What it becomes"),
                    optional!("note", Form::Text, "What came of it; when it is closed"),
                ]),
            ),
            change_case,
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
    Ok(page.answer("cases", cases, written))
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
    let step = match change.state.as_deref() {
        None => None,
        Some("closed") => Some(CaseStep::Close { by: args.who.user_id.as_str(), note: change.note.as_deref() }),
        Some("open") => Some(CaseStep::Reopen),
        Some(_) => return Err(ApiError::invalid_param("state is open or closed")),
    };
    if let Some(assignee) = &change.assignee {
        rooms.work_case(case.id, CaseStep::Assign(assignee.as_deref().map(UserId::as_str))).await?;
    }
    if let Some(step) = step {
        rooms.work_case(case.id, step).await?;
    }
    Ok(Json(written(&found(&args).await?)))
}
