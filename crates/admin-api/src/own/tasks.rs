//! Tasks: what is done in the background.

use http::Method;
use samtal_client_api::{Answer, ApiError, Json, RawArgs};
use samtal_jobs::State;
use samtal_ops::room_care::TaskStatus;
use serde_json::{Value, json};

use crate::{
    admin::Admin,
    openapi::{About, Form, field},
    room_care::word,
};

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

pub(super) fn routes() -> Admin {
    Admin::default()
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
