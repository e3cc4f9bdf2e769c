//! The Server-Server API: translates requests of other servers, holds no rules.
//!
//! Every signed request passes [`args::Scheme::authenticate`] and arrives at a handler as the word of a [`ServerPrincipal`]. What is
//! not built answers 404. One file for each area; `routes.rs` and `args.rs` are what they share.

mod args;
mod error;
mod keys;
mod routes;
mod version;

pub use args::ServerPrincipal;
pub use error::ApiError;

/// The endpoints. The tenant (`Arc<Homeserver>`) must be in each request's extensions.
pub fn router() -> axum::Router {
    routes().into_router()
}

/// Method and path of each endpoint.
pub fn endpoints() -> Vec<(http::Method, &'static str)> {
    routes().list()
}

fn routes() -> routes::Routes {
    let routes = routes::Routes::default();
    let routes = keys::routes(routes);
    version::routes(routes)
}
