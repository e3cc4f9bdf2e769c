//! What every endpoint has in common: unknown paths and methods, tokens.

use http::{Method, Request, header};

use crate::harness::each_engine;

#[test]
fn no_two_handlers_want_the_same_request() {
    // Building the router panics where they do.
    let _ = samtal_client_api::router();
}

/// Conformance note 43.
#[tokio::test]
async fn note_43_unknown_endpoints_and_methods_are_unrecognized() {
    each_engine(async |node| {
        for path in ["/v3/nothing", "/v3", "/v99/sync", "/_matrix/client/unstable/org.example/x", "/v3/login/"] {
            node.get(path).await.refused(404, "M_UNRECOGNIZED");
        }
        for (method, path) in [
            (Method::PATCH, "/v3/login"),
            (Method::DELETE, "/v3/account/whoami"),
            (Method::POST, "/versions"),
            (Method::PUT, "/v3/register"),
        ] {
            node.bytes(method, path, None, "").await.refused(405, "M_UNRECOGNIZED");
        }
    })
    .await;
}

#[tokio::test]
async fn tokens_are_read_from_the_header_and_from_the_query() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        node.get("/v3/account/whoami").await.refused(401, "M_MISSING_TOKEN");
        let unknown = node.get("/v3/account/whoami?access_token=nonsense").await.refused(401, "M_UNKNOWN_TOKEN");
        assert_eq!(unknown["soft_logout"], false);
        node.get(&format!("/v3/account/whoami?access_token={}", alice.token)).await.ok();
        let whoami = |value: String| {
            let request = Request::builder().uri("/_matrix/client/v3/account/whoami");
            request.header(header::AUTHORIZATION, value).body(axum::body::Body::empty()).unwrap()
        };
        node.send(whoami(format!("bearer {}", alice.token))).await.ok();
        node.send(whoami(format!("Basic {}", alice.token))).await.refused(401, "M_MISSING_TOKEN");
        node.send(whoami("Bearer ".to_owned())).await.refused(401, "M_MISSING_TOKEN");
    })
    .await;
}
