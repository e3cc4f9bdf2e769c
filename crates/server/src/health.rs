//! Whether the process lives (`/health`), and whether it can do its work (`/ready`).

use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde_json::{Value, json};

use crate::Tenants;

pub(crate) fn router(tenants: Tenants) -> Router {
    Router::new()
        .route("/health", get(|| std::future::ready(Json(json!({"status": "ok"})))))
        .route("/ready", get(ready))
        .with_state(tenants)
}

/// 200 when every tenant's database answers, else 503 with the number of those that do not. Names stay inside: anyone may
/// ask.
async fn ready(State(tenants): State<Tenants>) -> Response {
    let mut unready = 0;
    for homeserver in tenants.homeservers() {
        if let Err(error) = homeserver.db.cursor("ready").await {
            tracing::error!(tenant = %homeserver.name, %error, "the database does not answer");
            unready += 1;
        }
    }
    let (status, body) = match unready {
        0 => (StatusCode::OK, json!({"status": "ready"})),
        n => (StatusCode::SERVICE_UNAVAILABLE, json!({"status": "not ready", "tenants_not_ready": n})),
    };
    answer(status, body)
}

fn answer(status: StatusCode, body: Value) -> Response {
    axum::response::IntoResponse::into_response((status, Json(body)))
}
