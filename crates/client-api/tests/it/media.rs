//! Files, through the router.

use std::io::Cursor;

use axum::body::Body;
use http::{Method, Request, header};
use serde_json::json;

use crate::harness::{Answer, Node, Person, each_engine, each_engine_with, settings};

/// Sends bytes of a media type.
async fn put(node: &Node, who: &Person, method: Method, path: &str, content_type: &str, bytes: &[u8]) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {}", who.token))
        .header(header::CONTENT_TYPE, content_type)
        .body(Body::from(bytes.to_vec()))
        .unwrap();
    node.send(request).await
}

/// Uploads; the path of the file behind `download/` and `thumbnail/`.
async fn upload(node: &Node, who: &Person, query: &str, content_type: &str, bytes: &[u8]) -> String {
    let path = format!("/_matrix/media/v3/upload{query}");
    let answer = put(node, who, Method::POST, &path, content_type, bytes).await.ok();
    answer["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image::RgbImage::new(width, height).write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

#[tokio::test]
async fn note_70_a_file_comes_back_under_headers_that_disarm_it() {
    each_engine(async |node| {
        let (alice, bob) = (node.somebody().await, node.somebody().await);
        let html = upload(&node, &alice, "?filename=a%20b.html", "text/html", br#"{"really":"json"}"#).await;
        let path = format!("/v1/media/download/{html}");
        let answer = node.get_as(&bob, &path).await;
        assert_eq!(answer.body, json!({ "really": "json" }));
        let header = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "text/html");
        assert_eq!(header("content-disposition"), "attachment; filename=\"a b.html\"");
        assert_eq!(header("content-length"), "17");
        assert_eq!(header("cross-origin-resource-policy"), "cross-origin");
        assert!(header("content-security-policy").starts_with("sandbox; default-src 'none'"));
        let named = node.get_as(&bob, &format!("{path}/%C3%A5.txt")).await;
        assert_eq!(named.headers["content-disposition"], "attachment; filename*=utf-8''%C3%A5.txt");
        let picture = upload(&node, &alice, "", "image/png", &png(2, 2)).await;
        let answer = node.get_as(&bob, &format!("/v1/media/download/{picture}")).await;
        assert_eq!(answer.headers["content-disposition"], "inline");

        node.get(&path).await.refused(401, "M_MISSING_TOKEN");
        node.get(&format!("/_matrix/media/v3/download/{html}")).await.refused(404, "M_NOT_FOUND");
        node.get_as(&bob, "/v1/media/download/samtal.test/nothing").await.refused(404, "M_NOT_FOUND");
        node.get_as(&bob, "/v1/media/download/samtal.test/..%2F..%2Fetc").await.refused(404, "M_NOT_FOUND");
        node.get_as(&bob, "/v1/media/download/not%20a%20name/id").await.refused(400, "M_INVALID_PARAM");
    })
    .await;
}

#[tokio::test]
async fn parts_and_unchanged_files_are_known() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        let file = upload(&node, &alice, "", "video/mp4", b"0123456789").await;
        let ask = async |name: header::HeaderName, value: &str| {
            let request = Request::builder()
                .uri(format!("/_matrix/client/v1/media/download/{file}"))
                .header(header::AUTHORIZATION, format!("Bearer {}", alice.token))
                .header(name, value)
                .body(Body::empty())
                .unwrap();
            node.send(request).await
        };
        let part = ask(header::RANGE, "bytes=2-4").await;
        assert_eq!(part.status, 206);
        assert_eq!(part.headers["content-range"], "bytes 2-4/10");
        assert_eq!(part.body, json!(234));
        for past in ["bytes=10-", "bytes=10-20", "bytes=18446744073709551615-"] {
            let past = ask(header::RANGE, past).await;
            assert_eq!(past.status, 416);
            assert_eq!(past.headers["content-range"], "bytes */10");
        }
        for not_one in ["bytes=5-2", "bytes=0-1,4-5", "bytes=20-10", "lines=10-"] {
            assert_eq!(ask(header::RANGE, not_one).await.status, 200, "{not_one}");
        }
        let etag = part.headers["etag"].to_str().unwrap().to_owned();
        for known in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
            assert_eq!(ask(header::IF_NONE_MATCH, &known).await.status, 304, "{known}");
        }
        assert_eq!(ask(header::IF_NONE_MATCH, "\"other\"").await.status, 200);
    })
    .await;
}

#[tokio::test]
async fn the_old_endpoints_give_files_out_where_the_operator_lets_them() {
    let mut settings = settings();
    settings.media.legacy_downloads = true;
    each_engine_with(settings, async |node| {
        let alice = node.somebody().await;
        let file = upload(&node, &alice, "", "application/json", b"[1]").await;
        for version in ["v3", "r0", "v1"] {
            assert_eq!(node.get(&format!("/_matrix/media/{version}/download/{file}")).await.ok(), json!([1]));
        }
    })
    .await;
}

#[tokio::test]
async fn note_71_limits_are_told_and_kept() {
    let mut settings = settings();
    settings.media.upload_bytes_max = 1_000;
    settings.media.user_bytes_max = Some(1_500);
    each_engine_with(settings, async |node| {
        let alice = node.somebody().await;
        assert_eq!(node.get_as(&alice, "/v1/media/config").await.ok(), json!({ "m.upload.size": 1_000 }));
        assert_eq!(node.get_as(&alice, "/_matrix/media/v3/config").await.ok(), json!({ "m.upload.size": 1_000 }));
        let post =
            async |bytes: &[u8]| put(&node, &alice, Method::POST, "/_matrix/media/v3/upload", "a/b", bytes).await;
        post(&[0; 1_001]).await.refused(413, "M_TOO_LARGE");
        post(&[1; 1_000]).await.ok();
        post(&[2; 600]).await.refused(403, "M_FORBIDDEN");
        node.post("/_matrix/media/v3/upload", json!({})).await.refused(401, "M_MISSING_TOKEN");
    })
    .await;
}

#[tokio::test]
async fn note_71_an_id_can_be_made_first_and_filled_once_by_its_owner() {
    each_engine(async |node| {
        let (alice, bob) = (node.somebody().await, node.somebody().await);
        let made = node.post_as(&alice, "/_matrix/media/v1/create", json!({})).await.ok();
        assert!(made["unused_expires_at"].as_u64().unwrap() > 1_700_000_000_000);
        let file = made["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
        let (upload, download) = (format!("/_matrix/media/v3/upload/{file}"), format!("/v1/media/download/{file}"));
        node.get_as(&bob, &format!("{download}?timeout_ms=0")).await.refused(504, "M_NOT_YET_UPLOADED");
        put(&node, &bob, Method::PUT, &upload, "a/b", b"1").await.refused(403, "M_FORBIDDEN");
        let (waited, put_now) = tokio::join!(
            node.get_as(&bob, &download),
            put(&node, &alice, Method::PUT, &upload, "application/json", b"[7]")
        );
        put_now.ok();
        assert_eq!(waited.ok(), json!([7]));
        put(&node, &alice, Method::PUT, &upload, "a/b", b"1").await.refused(409, "M_CANNOT_OVERWRITE_MEDIA");
        let unknown = "/_matrix/media/v3/upload/samtal.test/unknown";
        put(&node, &alice, Method::PUT, unknown, "a/b", b"1").await.refused(404, "M_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn note_72_thumbnails_are_smaller_pictures() {
    each_engine(async |node| {
        let alice = node.somebody().await;
        let file = upload(&node, &alice, "", "image/png", &png(400, 200)).await;
        let get = async |query: &str| node.get_as(&alice, &format!("/v1/media/thumbnail/{file}?{query}")).await;
        let small = get("width=32&height=32&method=crop").await;
        assert_eq!((small.status.as_u16(), &small.headers["content-type"]), (200, &"image/png".parse().unwrap()));
        assert!(small.headers["content-disposition"].to_str().unwrap().starts_with("inline"));
        let original = get("width=640&height=480").await;
        assert_eq!(original.headers["content-type"], "image/png");
        get("width=0&height=4").await.refused(400, "M_INVALID_PARAM");
        get("width=9&height=9&method=stretch").await.refused(400, "M_INVALID_PARAM");
        get("width=9").await.refused(400, "M_MISSING_PARAM");
        let text = upload(&node, &alice, "", "image/png", b"not a picture").await;
        node.get_as(&alice, &format!("/v1/media/thumbnail/{text}?width=9&height=9")).await.refused(400, "M_UNKNOWN");
    })
    .await;
}
