//! The Server-Server API: translates requests of other servers, holds no rules.
//!
//! Every signed request passes `args::Scheme::authenticate` and arrives at a handler as the word of a [`ServerPrincipal`]. What is
//! not built answers 404. One file for each area; `routes.rs` and `args.rs` are what they share.

mod args;
mod device;
mod directory;
mod error;
mod event;
mod history;
mod invite;
mod keys;
mod media;
mod membership;
mod openid;
mod routes;
mod send;
mod thirdparty;
mod version;

pub use args::ServerPrincipal;
pub use error::ApiError;

/// The endpoints. The tenant (`Arc<Homeserver>`) must be in each request's extensions.
pub fn router() -> axum::Router {
    all().into_router()
}

/// Method and path of each endpoint.
pub fn endpoints() -> Vec<(http::Method, &'static str)> {
    all().list()
}

fn all() -> routes::Routes {
    [
        keys::routes,
        version::routes,
        openid::routes,
        directory::routes,
        device::routes,
        membership::routes,
        invite::routes,
        send::routes,
        event::routes,
        history::routes,
        media::routes,
        thirdparty::routes,
    ]
    .into_iter()
    .fold(routes::Routes::default(), |routes, area| area(routes))
}
