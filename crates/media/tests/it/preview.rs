//! Previews of pages that say what they are in an oEmbed document, by scripted servers of which one may not be gone to.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    http::{HeaderName, header::CONTENT_TYPE},
    routing::{any, get},
};
use samtal_http::{AddressPolicy, ClientOptions, Network};
use samtal_media::{Options, preview::PreviewError};

use crate::{Bench, each, png};

/// Serves on a port of its own of an address of this machine. The base URL.
async fn serve(address: &str, router: Router) -> String {
    let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    base
}

/// Previews from everywhere but 127.0.0.2.
fn options() -> Options {
    let denied = Network { address: "127.0.0.2".parse().unwrap(), prefix_bits: 32 };
    let client = ClientOptions { policy: AddressPolicy::denying(vec![denied]), ..ClientOptions::default() };
    Options { previews: Some(client), ..Options::default() }
}

fn page(head: &str) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, "text/html")], format!("<html><head>{head}</head><body>text</body></html>"))
}

fn linking(to: &str) -> String {
    format!("<title>The page</title><link rel=alternate type=application/json+oembed href='{to}'>")
}

async fn property(bench: &Bench, url: &str, name: &str) -> Option<String> {
    let preview = bench.media.preview(url).await.unwrap();
    preview.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned))
}

#[tokio::test]
async fn a_page_is_filled_up_from_its_oembed_document() {
    let document = r#"{"type":"video","title":"no","provider_name":"Films","thumbnail_url":"pictures/1.png"}"#;
    let rich = r#"{"type":"rich","html":"<blockquote>What was said</blockquote>"}"#;
    let router = Router::new()
        .route("/film", get(|| async { page(&linking("/oembed/film?format=json")) }))
        .route("/oembed/film", get(move || async move { document }))
        .route("/oembed/pictures/1.png", get(|| async { ([(CONTENT_TYPE, "image/png")], png(40, 30)) }))
        .route("/post", get(|| async { page(&linking("oembed/post")) }))
        .route("/oembed/post", get(move || async move { rich }));
    let base = serve("127.0.0.1", router).await;
    each(options(), |bench| {
        let base = base.clone();
        async move {
            let film = format!("{base}/film");
            for (name, expected) in [
                ("og:title", "The page"),
                ("og:site_name", "Films"),
                ("og:image:type", "image/png"),
                ("og:image:width", "40"),
            ] {
                assert_eq!(property(&bench, &film, name).await.as_deref(), Some(expected), "{name}");
            }
            let said = property(&bench, &format!("{base}/post"), "og:description").await;
            assert_eq!(said.as_deref(), Some("What was said"));
        }
    })
    .await;
}

#[tokio::test]
async fn note_73_an_oembed_document_leads_to_no_denied_network() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let internal = any(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        async { r#"{"type":"link","title":"a secret","provider_name":"a secret"}"# }
    });
    let inside = serve("127.0.0.2", Router::new().fallback(internal)).await;
    let picture = format!(r#"{{"type":"photo","url":"{inside}/secret.png","provider_name":"P"}}"#);
    let (directly, redirect) = (linking(&format!("{inside}/secret")), format!("{inside}/secret"));
    let router = Router::new()
        .route("/directly", get(move || async move { page(&directly) }))
        .route("/redirected", get(|| async { page(&linking("/redirect")) }))
        .route("/redirect", get(move || async move { axum::response::Redirect::temporary(&redirect) }))
        .route("/pictured", get(|| async { page(&linking("/picture")) }))
        .route("/picture", get(move || async move { picture }))
        .route("/file", get(|| async { page(&linking("file:///etc/passwd")) }));
    let base = serve("127.0.0.1", router).await;
    each(options(), |bench| {
        let (base, inside) = (base.clone(), inside.clone());
        async move {
            for name in ["directly", "redirected", "pictured", "file"] {
                let url = format!("{base}/{name}");
                assert_eq!(property(&bench, &url, "og:title").await.as_deref(), Some("The page"), "{name}");
                assert_eq!(property(&bench, &url, "og:image").await, None, "{name}");
                let expected = (name == "pictured").then_some("P");
                assert_eq!(property(&bench, &url, "og:site_name").await.as_deref(), expected, "{name}");
            }
            let refused = bench.media.preview(&inside).await;
            assert!(matches!(refused, Err(PreviewError::Denied)), "{refused:?}");
        }
    })
    .await;
    assert_eq!(asked.load(Ordering::SeqCst), 0, "nobody may have been there");
}

#[tokio::test]
async fn an_oembed_document_that_is_too_much_is_left_alone() {
    let long = format!(r#"{{"title":"{}","provider_name":"P"}}"#, "x".repeat(200_000));
    let deep = format!(r#"{{"provider_name":"P","x":{}}}"#, "[".repeat(60_000));
    let router = Router::new()
        .route("/a", get(|| async { page(&linking("/long")) }))
        .route("/b", get(|| async { page(&linking("/deep")) }))
        .route("/c", get(|| async { page(&linking("/round")) }))
        .route("/d", get(|| async { page(&linking("/nowhere")) }))
        .route("/long", get(move || async move { long }))
        .route("/deep", get(move || async move { deep }))
        .route("/round", get(|| async { axum::response::Redirect::temporary("/round") }));
    let base = serve("127.0.0.1", router).await;
    each(options(), |bench| {
        let base = base.clone();
        async move {
            for name in ["a", "b", "c", "d"] {
                let url = format!("{base}/{name}");
                assert_eq!(property(&bench, &url, "og:title").await.as_deref(), Some("The page"), "{name}");
                assert_eq!(property(&bench, &url, "og:site_name").await, None, "{name}");
            }
        }
    })
    .await;
}
