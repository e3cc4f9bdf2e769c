//! Which requests go where: edges by listener, tenants by host.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use http::{StatusCode, Version, header};
use samtal_config::process::Serve;
use samtal_edge::with_errors;
use samtal_http::{error_response, tell_route};
use samtal_telemetry::Metrics;

use crate::tenants::Open;
use crate::{Tenants, health, welcome, well_known};

/// The router of a listener.
pub(crate) fn router(serve: &[Serve], tenants: &Tenants, metrics: &Metrics, body_bytes_max: usize) -> Router {
    let serve: BTreeSet<&str> = serve.iter().map(|serve| serve.word()).collect();
    let mut edges = Router::new();
    let (client, admin) = (serve.contains(Serve::Client.word()), serve.contains(Serve::Admin.word()));
    if client {
        edges = edges.merge(well_known::for_clients()).merge(welcome::router());
    }
    if client || admin {
        // The tools for administrators log in at the same address as they administrate.
        let mut routes = if client { samtal_client_api::routes() } else { samtal_client_api::Routes::new() };
        routes = routes.merge(samtal_admin_api::synapse_routes());
        if admin {
            routes = routes.merge(samtal_admin_api::own_routes());
        }
        edges = edges.merge(routes.into_router());
    }
    if serve.contains(Serve::Federation.word()) {
        edges = edges.merge(samtal_federation_api::router());
    }
    if serve.contains(Serve::Federation.word()) || serve.contains(Serve::Client.word()) {
        edges = edges.merge(well_known::for_servers());
    }
    let edges = with_errors(edges)
        .layer(middleware::from_fn(tell_route))
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .layer(middleware::from_fn_with_state(tenants.clone(), choose_tenant));
    let mut process = health::router(tenants.clone());
    if serve.contains(Serve::Metrics.word()) {
        let metrics = metrics.clone();
        process = process.route("/metrics", get(move || std::future::ready(metrics.render())));
    }
    // What belongs to the process rather than a tenant is asked first, under any host.
    process.fallback_service(edges)
}

/// What other servers ask, for a request that has its tenant already.
pub(crate) fn federation() -> Router {
    with_errors(samtal_federation_api::router())
}

/// Puts the tenant that the request's host names into its extensions.
async fn choose_tenant(State(tenants): State<Tenants>, mut request: Request, next: Next) -> Response {
    // Who comes before us may have gone by the other one (RFC 9112, 3.2).
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_11 => {
            return error_response(StatusCode::BAD_REQUEST, "M_UNKNOWN", "the request names no host");
        }
        (_, Some(_)) => return error_response(StatusCode::BAD_REQUEST, "M_UNKNOWN", "the request names two hosts"),
        _ => {}
    }
    // HTTP/2 has the host in the URI.
    let from_uri = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let from_header = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    let host = from_uri.or(from_header).unwrap_or_default();
    let Some(Open { config, homeserver }) = tenants.find(&host) else {
        return error_response(StatusCode::NOT_FOUND, "M_NOT_FOUND", "no homeserver of this name is here");
    };
    if let Some(peer) = request.extensions().get::<samtal_http::Peer>() {
        let peer = samtal_client_api::Peer(peer.client);
        request.extensions_mut().insert(peer);
    }
    request.extensions_mut().insert::<Arc<samtal_config::Tenant>>(config);
    request.extensions_mut().insert(homeserver);
    next.run(request).await
}
