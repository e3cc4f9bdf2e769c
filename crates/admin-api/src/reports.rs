//! Reports: what users have complained about.

use http::Method;
use ruma::{OwnedEventId, OwnedRoomId};
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_ops::Homeserver;
use samtal_room::{Case, CaseStep, Form};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    admin::{Admin, Page},
    own::cases::CASES_MAX,
};

pub(crate) fn routes() -> Admin {
    Admin::default()
        .on(Method::GET, &["/_synapse/admin/v1/event_reports"], list)
        .on(Method::GET, &["/_synapse/admin/v1/event_reports/{report_id}"], one)
        .on(Method::DELETE, &["/_synapse/admin/v1/event_reports/{report_id}"], close)
        .on(Method::GET, &["/_synapse/admin/v1/user_reports"], list_of_users)
        .on(Method::GET, &["/_synapse/admin/v1/user_reports/{report_id}"], one_of_user)
        .on(Method::DELETE, &["/_synapse/admin/v1/user_reports/{report_id}"], close)
}

async fn written(hs: &Homeserver, case: &Case) -> Result<Value, ApiError> {
    let room = case.room_id.as_deref().and_then(|room| OwnedRoomId::try_from(room).ok());
    let (mut name, mut alias) = (Value::Null, Value::Null);
    if let Some(room) = &room
        && hs.rooms.store().graph.room(room).await?.is_some()
    {
        let field = |content: Option<samtal_ops::Content>, field: &str| {
            content.and_then(|content| content.get(field).cloned()).unwrap_or_default()
        };
        name = field(hs.state_content(room, "m.room.name").await?, "name");
        alias = field(hs.state_content(room, "m.room.canonical_alias").await?, "alias");
    }
    let sender = match case.event_id.as_deref().and_then(|id| OwnedEventId::try_from(id).ok()) {
        Some(id) => hs.rooms.store().graph.event(&id).await?.map(|event| event.pdu.sender().to_owned()),
        None => None,
    };
    Ok(json!({
        "id": case.id,
        "received_ts": case.reported_ms,
        "room_id": case.room_id,
        "event_id": case.event_id,
        "reported_user_id": case.user_id,
        "user_id": case.reporter,
        "reason": case.reason,
        "score": null,
        "sender": sender,
        "name": name,
        "canonical_alias": alias,
    }))
}

#[derive(Deserialize)]
struct Filter {
    user_id: Option<String>,
    room_id: Option<String>,
    event_sender_user_id: Option<String>,
}

/// `GET /_synapse/admin/v1/event_reports`: those that nobody has dealt with, the newest first.
async fn list(args: RawArgs) -> Answer<Json<Value>> {
    let (filter, page): (Filter, Page) = (args.query()?, args.query()?);
    let holds = |text: Option<&str>, part: &Option<String>| {
        part.as_deref().is_none_or(|part| text.is_some_and(|text| text.contains(part)))
    };
    let mut cases = args.hs.rooms.cases(i64::MAX, CASES_MAX).await?;
    cases.retain(|case| {
        !case.closed
            && case.event_id.is_some()
            && holds(Some(&case.reporter), &filter.user_id)
            && holds(case.room_id.as_deref(), &filter.room_id)
    });
    if page.dir.as_deref() == Some("f") {
        cases.reverse();
    }
    let mut reports = Vec::with_capacity(cases.len());
    for case in &cases {
        let report = written(&args.hs, case).await?;
        if holds(report["sender"].as_str(), &filter.event_sender_user_id) {
            reports.push(report);
        }
    }
    let total = reports.len();
    let (reports, next) = page.cut(reports);
    let mut answer = json!({ "event_reports": reports, "total": total });
    if let Some(next) = next {
        answer["next_token"] = next.into();
    }
    Ok(Json(answer))
}

/// A report of the kind that the path names.
async fn found(args: &RawArgs) -> Result<Case, ApiError> {
    let of_user = args.parts.uri.path().contains("/user_reports/");
    let case = args.hs.rooms.case(args.path(0)?).await?.filter(|case| is_of_user(case) == of_user);
    case.ok_or_else(|| ApiError::not_found("There is no such report"))
}

/// Whether a case is about a user, not about an event or a room.
fn is_of_user(case: &Case) -> bool {
    case.event_id.is_none() && case.user_id.is_some()
}

#[derive(Deserialize)]
struct UserFilter {
    user_id: Option<String>,
    target_user_id: Option<String>,
}

fn written_of_user(case: &Case) -> Value {
    json!({
        "id": case.id,
        "received_ts": case.reported_ms,
        "target_user_id": case.user_id,
        "user_id": case.reporter,
        "reason": case.reason,
    })
}

/// `GET /_synapse/admin/v1/user_reports`: those that nobody has dealt with, the newest first.
async fn list_of_users(args: RawArgs) -> Answer<Json<Value>> {
    let (filter, page): (UserFilter, Page) = (args.query()?, args.query()?);
    let holds = |text: Option<&str>, part: &Option<String>| {
        part.as_deref().is_none_or(|part| text.is_some_and(|text| text.contains(part)))
    };
    let mut cases = args.hs.rooms.cases(i64::MAX, CASES_MAX).await?;
    cases.retain(|case| {
        !case.closed
            && is_of_user(case)
            && holds(Some(&case.reporter), &filter.user_id)
            && holds(case.user_id.as_deref(), &filter.target_user_id)
    });
    if page.dir.as_deref() == Some("f") {
        cases.reverse();
    }
    let total = cases.len();
    let (cases, next) = page.cut(cases);
    let mut answer = json!({ "user_reports": cases.iter().map(written_of_user).collect::<Vec<_>>(), "total": total });
    if let Some(next) = next {
        answer["next_token"] = next.into();
    }
    Ok(Json(answer))
}

/// `GET /_synapse/admin/v1/user_reports/{reportId}`
async fn one_of_user(args: RawArgs) -> Answer<Json<Value>> {
    Ok(Json(written_of_user(&found(&args).await?)))
}

/// `GET /_synapse/admin/v1/event_reports/{reportId}`
async fn one(args: RawArgs) -> Answer<Json<Value>> {
    let case = found(&args).await?;
    let mut answer = written(&args.hs, &case).await?;
    if let Some(id) = case.event_id.as_deref().and_then(|id| OwnedEventId::try_from(id).ok())
        && let Some(event) = args.hs.rooms.store().graph.event(&id).await?
    {
        let form = Form { with_room_id: true, ..Form::default() };
        let event = args.hs.rooms.client_event(&event, &args.who.user_id, form).await?;
        answer["event_json"] = serde_json::from_str(event.get()).unwrap_or_default();
    }
    Ok(Json(answer))
}

/// `DELETE /_synapse/admin/v1/event_reports/{reportId}`, `…/user_reports/{reportId}`: somebody has dealt with it.
async fn close(args: RawArgs) -> Answer<Json<Value>> {
    let case = found(&args).await?;
    let step = CaseStep::Close { by: args.who.user_id.as_str(), note: None };
    args.hs.rooms.work_case(case.id, step).await?;
    Ok(Json(json!({})))
}
