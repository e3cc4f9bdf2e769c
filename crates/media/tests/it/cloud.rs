//! A store that speaks S3, as a scripted server, with copies on this machine.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, Response, StatusCode, header},
};
use samtal_db::testing::{Directory, each_engine};
use samtal_kit::{Clock, Random, Secret};
use samtal_media::{Cloud, Location, Media, Options, SCHEMA};

use crate::{Bench, here, user};

/// What the server holds, and what it was asked.
#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Bytes>,
    parts: BTreeMap<String, BTreeMap<u32, Bytes>>,
    asked: Vec<String>,
}

type Shared = Arc<Mutex<Bucket>>;

/// The value of a parameter in a query.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn answer(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let response = Response::builder().status(status).header(header::ETAG, "\"e\"");
    response.header(header::LAST_MODIFIED, "Wed, 21 Oct 2015 07:28:00 GMT").body(body.into()).unwrap()
}

async fn object(State(bucket): State<Shared>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    let (key, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
    let signed = parts.headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    if !signed.is_some_and(|signed| signed.starts_with("AWS4-HMAC-SHA256 Credential=key/")) {
        return answer(StatusCode::FORBIDDEN, "");
    }
    let mut bucket = bucket.lock().unwrap();
    bucket.asked.push(format!("{} {key}", parts.method));
    match parts.method {
        Method::POST if query.starts_with("uploads") => {
            let xml = "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>u</UploadId>\
                 </InitiateMultipartUploadResult>";
            bucket.parts.insert(key, BTreeMap::new());
            answer(StatusCode::OK, xml)
        }
        Method::POST => {
            let whole: Vec<u8> = bucket.parts.remove(&key).unwrap_or_default().into_values().flatten().collect();
            bucket.objects.insert(key, whole.into());
            let xml = "<CompleteMultipartUploadResult><Location>l</Location><Bucket>b</Bucket><Key>k</Key>\
                 <ETag>\"e\"</ETag></CompleteMultipartUploadResult>";
            answer(StatusCode::OK, xml)
        }
        Method::PUT => {
            match parameter(&query, "partNumber") {
                Some(number) => {
                    bucket.parts.entry(key).or_default().insert(number.parse().unwrap(), body);
                }
                None => {
                    bucket.objects.insert(key, body);
                }
            }
            answer(StatusCode::OK, "")
        }
        Method::DELETE => {
            bucket.objects.remove(&key);
            bucket.parts.remove(&key);
            answer(StatusCode::NO_CONTENT, "")
        }
        _ => match bucket.objects.get(&key).cloned() {
            None => answer(StatusCode::NOT_FOUND, ""),
            Some(bytes) => match parts.headers.get(header::RANGE) {
                None => answer(StatusCode::OK, bytes),
                Some(range) => {
                    let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                    let (from, to): (usize, usize) = (range.0.parse().unwrap(), range.1.parse().unwrap());
                    let part = bytes.slice(from..=to);
                    let mut response = answer(StatusCode::PARTIAL_CONTENT, part);
                    let range = format!("bytes {from}-{to}/{}", bytes.len());
                    response.headers_mut().insert(header::CONTENT_RANGE, range.parse().unwrap());
                    response
                }
            },
        },
    }
}

#[tokio::test]
async fn files_lie_in_the_bucket_and_copies_of_what_was_read_here() {
    let bucket = Shared::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(object).with_state(Arc::clone(&bucket));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    each_engine(&[SCHEMA], |db| {
        let directory = Directory::new();
        let cloud = Cloud {
            url: "s3://bucket/media".to_owned(),
            endpoint: Some(endpoint.clone()),
            region: None,
            key_id: Some("key".to_owned()),
            key: Some(Secret::new("secret".to_owned())),
            http: samtal_http::ClientOptions::default(),
            copies: Some((directory.path("copies"), 1_000_000)),
        };
        let clock = Clock::manual(1_700_000_000_000);
        let options = Options { location: Location::Cloud(Box::new(cloud)), ..Options::default() };
        let media = Media::open(here(), db, clock.clone(), Random::seeded(1), options).unwrap();
        let bench = Bench { media, clock, directory };
        let bucket = Arc::clone(&bucket);
        *bucket.lock().unwrap() = Bucket::default();
        async move {
            let small = bench.upload("alice", b"small").await.unwrap();
            let large: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
            let long = bench.upload("alice", &large).await.unwrap();
            {
                let bucket = bucket.lock().unwrap();
                assert_eq!(bucket.objects.len(), 2);
                assert!(
                    bucket.objects.keys().all(|key| key.starts_with("/bucket/media/")),
                    "{:?}",
                    bucket.objects.keys()
                );
            }
            let gets = || bucket.lock().unwrap().asked.iter().filter(|asked| asked.starts_with("GET")).count();
            let before = gets();
            for _ in 0..3 {
                assert_eq!(bench.read(&small).await, b"small");
            }
            assert_eq!(gets() - before, 1, "read once from afar");
            assert_eq!(bench.read(&long).await, large);
            let entry = bench.entry(&long).await.unwrap();
            let part = bench.media.read(&entry, Some(10..20)).await.unwrap();
            let part: Vec<u8> =
                futures_util::TryStreamExt::try_concat(futures_util::TryStreamExt::map_ok(part, |chunk| {
                    chunk.to_vec()
                }))
                .await
                .unwrap();
            assert_eq!(part, large[10..20]);
            let copies = || std::fs::read_dir(bench.directory.path("copies")).unwrap().count();
            assert_eq!(copies(), 1, "what is very long is not copied");
            // One ledger: nothing stays anywhere.
            assert_eq!(bench.media.delete_of_user(&user("alice")).await.unwrap(), 2);
            assert!(bucket.lock().unwrap().objects.is_empty());
            assert_eq!(copies(), 0);
            bucket.lock().unwrap().asked.clear();
            // Another node deletes: the copy goes with the next cleaning.
            let other = bench.upload("alice", b"other").await.unwrap();
            bench.read(&other).await;
            assert_eq!(copies(), 1);
            bench.media.quarantine(&here(), &other, true).await.unwrap();
            assert!(bench.media.find(&here(), &other, Duration::ZERO).await.is_err(), "not even from a copy");
        }
    })
    .await;
    server.abort();
}
