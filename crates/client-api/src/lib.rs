//! The Client-Server API: translates it, holds no rules.
//!
//! An endpoint is one function: `async fn name(args: Args<ruma's Request>) -> Answer<ruma's Response>`. `args.body` is the
//! parsed request, `args.who` who sent it, `args.hs` the tenant. Each area has a file with such functions and one
//! `routes()`, which [`routes`] merges. Endpoints that ruma's types do not fit get [`RawArgs`] and answer [`Json`] or
//! [`Raw`].

mod access;
mod args;
mod error;
mod principal;
mod routes;

mod account;
mod account_data;
mod admin;
mod appservice;
mod calls;
mod dehydrated_device;
mod device;
mod discovery;
mod filter;
mod key_backup;
mod keys;
mod login;
mod media;
mod page;
mod presence;
mod profile;
mod push_rules;
mod pusher;
mod receipts;
mod register;
mod room;
mod search;
mod sync;
mod threepid;
mod to_device;
mod uia;
mod uia_page;
mod user_directory;

pub use args::{Args, BODY_BYTES_MAX, RawArgs};
pub use error::ApiError;
pub use principal::{Access, Limited, Peer, Scheme, UserPrincipal};
pub use routes::Routes;
pub use samtal_edge::{Json, Raw, Reply, json as json_response};

/// What a handler answers: one of ruma's responses, a [`Json`] or a [`Raw`].
pub type Answer<R> = Result<R, ApiError>;

/// All endpoints of this crate.
pub fn routes() -> Routes {
    Routes::new()
        .merge(discovery::routes())
        .merge(login::routes())
        .merge(register::routes())
        .merge(account::routes())
        .merge(threepid::routes())
        .merge(uia_page::routes())
        .merge(device::routes())
        .merge(profile::routes())
        .merge(account_data::routes())
        .merge(filter::routes())
        .merge(push_rules::routes())
        .merge(pusher::routes())
        .merge(presence::routes())
        .merge(receipts::routes())
        .merge(sync::routes())
        .merge(keys::routes())
        .merge(media::routes())
        .merge(to_device::routes())
        .merge(key_backup::routes())
        .merge(dehydrated_device::routes())
        .merge(admin::routes())
        .merge(appservice::routes())
        .merge(calls::routes())
        .merge(room::routes())
        .merge(search::routes())
        .merge(user_directory::routes())
}

/// The router of all endpoints. The tenant is expected as an `Arc<Homeserver>` among the request's extensions, the other
/// end's address as a [`Peer`].
pub fn router() -> axum::Router {
    samtal_edge::with_errors(routes().into_router())
}
