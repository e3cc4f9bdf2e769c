//! The administration API: what those who look after a server ask of it.
//!
//! Under `/_synapse/admin` stand the endpoints that common tools know (Ketesa, Element Admin, Draupnir and others were made for
//! them), with the answers that these tools read; under `/_samtal/admin/v1` our own. Every endpoint is for administrators of the server
//! only: `admin::Admin::on` is the one place where handlers are registered, and asks first. It holds no rules beside that.
//!
//! Not offered: what belongs to another product's inside (its workers, experimental features), and shadow bans.

mod admin;

mod appservices;
mod devices;
mod federation;
mod media;
mod notices;
pub mod openapi;
mod own;
mod registration_tokens;
mod reports;
mod room_care;
mod rooms;
mod statistics;
mod user_care;
mod users;

use samtal_client_api::Routes;

/// The endpoints that common tools know.
pub fn synapse_routes() -> Routes {
    admin::Admin::default()
        .merge(users::routes())
        .merge(user_care::routes())
        .merge(devices::routes())
        .merge(rooms::routes())
        .merge(room_care::routes())
        .merge(registration_tokens::routes())
        .merge(reports::routes())
        .merge(federation::routes())
        .merge(media::routes())
        .merge(notices::routes())
        .merge(statistics::routes())
        .into_routes()
}

/// Our own endpoints.
pub fn own_routes() -> Routes {
    own().into_routes()
}

/// Our own endpoints' description (OpenAPI 3.1).
pub fn openapi() -> serde_json::Value {
    openapi::document(&own().into_described())
}

/// The form of the answer of one of our own endpoints.
pub fn answer_form(method: &http::Method, path: &str) -> Option<openapi::Form> {
    let described = own().into_described();
    let found = described.into_iter().find(|endpoint| endpoint.method == *method && endpoint.path == path);
    found.map(|endpoint| endpoint.about.answer)
}

fn own() -> admin::Admin {
    appservices::routes().merge(own::routes()).merge(statistics::own_routes())
}
