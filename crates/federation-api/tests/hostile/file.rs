//! Files of servers that lie about them, hang, never end, or lead elsewhere: nothing of them stays.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Response, StatusCode};
use ruma::ServerName;
use samtal_db::testing::Directory;
use samtal_http::{AddressPolicy, ClientOptions, Network as Range};
use samtal_kit::Random;
use samtal_media::{Location, MediaError};
use samtal_ops::{
    Settings,
    media::{Effort, FileError},
};
use samtal_remote::{Body, Internet, NetworkError};
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    peer::Peer,
    world::{Node, World, each_engine, until},
};

const DOWNLOAD: &str = "/_matrix/federation/v1/media/download/";
const TYPE: &str = "multipart/mixed; boundary=b";
/// Before and after the file.
const HEAD: &str = "--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nContent-Type: text/plain\r\n\r\n";
const TAIL: &str = "\r\n--b--\r\n";
/// Longest file that is fetched.
const BYTES_MAX: usize = 1 << 20;

/// A server with its files in a directory, and how many there are in it.
async fn node(world: &World, directory: &Directory) -> Node {
    let settings = Settings::default();
    let media = samtal_media::Options {
        location: Location::Directory(directory.path("media")),
        remote_bytes_max: BYTES_MAX as u64,
        ..settings.media
    };
    world.node_with("a.example", Settings { media, ..settings }).await
}

fn files(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

async fn ask(node: &Node, server: &ServerName, media_id: &str) -> Result<Vec<u8>, FileError> {
    let entry = node.hs.file(server, media_id, Effort { wait: Duration::ZERO, remote: true }).await?;
    let mut body = node.hs.media.read(&entry, None).await?;
    let mut read = Vec::new();
    while let Some(chunk) = body.next().await {
        read.extend_from_slice(&chunk.unwrap());
    }
    Ok(read)
}

/// A good answer.
fn whole(content: &str) -> Response<Body> {
    let body = Bytes::from(format!("{HEAD}{content}{TAIL}"));
    Response::builder().header("content-type", TYPE).body(body.into()).unwrap()
}

/// What a server says that does not know the endpoint.
fn unrecognized() -> Response<Body> {
    let body = Bytes::from(json!({ "errcode": "M_UNRECOGNIZED", "error": "no" }).to_string());
    Response::builder().status(404).body(body.into()).unwrap()
}

/// An answer of these chunks, said to be so long.
fn chunks(chunks: impl futures_util::Stream<Item = Bytes> + Send + 'static, length: Option<u64>) -> Response<Body> {
    let head = stream::iter([Bytes::from(HEAD)]);
    let body = Body::new(head.chain(chunks).map(Ok::<_, NetworkError>), length);
    Response::builder().header("content-type", TYPE).body(body).unwrap()
}

#[tokio::test]
async fn what_is_said_of_a_file_must_be_true() {
    each_engine(async |world| {
        let directory = Directory::new();
        let node = node(world, &directory).await;
        let peer = Peer::new(world, "peer.example");
        let size = |bytes: usize| stream::iter([Bytes::from(vec![b'x'; bytes]), Bytes::from(TAIL)]);
        let around = (HEAD.len() + TAIL.len()) as u64;
        type Answer = Box<dyn Fn() -> Response<Body> + Send + Sync>;
        let refused: Vec<(&str, bool, Answer)> = vec![
            ("endless", true, Box::new(|| chunks(stream::repeat(Bytes::from(vec![b'x'; 65_536])), None))),
            ("one byte too long", true, Box::new(move || chunks(size(BYTES_MAX + 1), None))),
            ("said to be too long", true, Box::new(|| chunks(stream::pending(), Some(1 << 40)))),
            ("longer than said", false, Box::new(move || chunks(size(10), Some(around + 9)))),
            ("old, and shorter than said", false, Box::new(unrecognized)),
            ("old, and longer than said", false, Box::new(unrecognized)),
            ("hung up in the middle", false, Box::new(|| chunks(stream::iter([Bytes::from("half")]), None))),
            (
                "broken in the middle",
                false,
                Box::new(|| {
                    let broken = stream::iter([
                        Ok(Bytes::from(format!("{HEAD}half"))),
                        Err(NetworkError::Unreachable("reset".to_owned())),
                    ]);
                    Response::builder().header("content-type", TYPE).body(Body::new(broken, None)).unwrap()
                }),
            ),
            (
                "an endless beginning",
                false,
                Box::new(|| {
                    let body = Body::new(stream::repeat_with(|| Ok(Bytes::from(vec![b'-'; 4_096]))), None);
                    Response::builder().header("content-type", TYPE).body(body).unwrap()
                }),
            ),
            (
                "an endless error",
                false,
                Box::new(|| {
                    let body = Body::new(stream::repeat_with(|| Ok(Bytes::from(vec![b' '; 4_096]))), None);
                    Response::builder().status(500).body(body).unwrap()
                }),
            ),
            (
                "no parts",
                false,
                Box::new(|| {
                    let answer = Response::builder().header("content-type", "text/plain");
                    answer.body(Bytes::from("hello").into()).unwrap()
                }),
            ),
        ];
        let answers = Arc::new(refused);
        let scripts = Arc::clone(&answers);
        peer.answer_http(DOWNLOAD, move |request| {
            let number = request.uri().path().rsplit('/').next().unwrap();
            scripts[number.parse::<usize>().unwrap()].2()
        });
        peer.answer_http("/_matrix/media/v3/download/peer.example/", |request| {
            let length = if request.uri().path().ends_with("/1") { 4 } else { 6 };
            let body = Body::new(stream::iter([Ok(Bytes::from("hello"))]), Some(length));
            Response::builder().header("content-type", "text/plain").body(body).unwrap()
        });
        for (number, (name, too_large, _)) in answers.iter().enumerate() {
            let answer = ask(&node, &peer.name, &number.to_string()).await;
            match answer {
                Err(FileError::RemoteTooLarge) if *too_large => {}
                Err(FileError::Remote(_)) if !*too_large => {}
                other => panic!("{name}: {other:?}"),
            }
            assert_eq!(files(&directory.path("media")), 0, "{name}");
        }
        assert_eq!(node.hs.media.total().await.unwrap(), (0, 0));
        // Nor is there anything for the sweep, whatever time it is.
        world.clock.advance(Duration::from_secs(7 * 3_600));
        assert_eq!(node.hs.media.clean().await.unwrap(), 0);

        // The longest that may be; and the server is none the worse for what it said before.
        peer.answer_http(DOWNLOAD, move |_| chunks(size(BYTES_MAX), Some(around + BYTES_MAX as u64)));
        assert_eq!(ask(&node, &peer.name, "longest").await.unwrap().len(), BYTES_MAX);
        assert_eq!(files(&directory.path("media")), 1);
    })
    .await;
}

#[tokio::test]
async fn many_who_ask_wait_for_one_fetch_which_goes_on_without_them() {
    each_engine(async |world| {
        let directory = Directory::new();
        let node = node(world, &directory).await;
        let peer = Peer::new(world, "peer.example");
        let go_on = Arc::new(Notify::new());
        let going = Arc::clone(&go_on);
        peer.answer_http(DOWNLOAD, move |_| {
            let going = Arc::clone(&going);
            let slow = stream::once(async move {
                going.notified().await;
                Bytes::from(format!("slow{TAIL}"))
            });
            chunks(slow, None)
        });
        // The first gives up when its server has been asked; the others come while it hangs.
        let mut first = Box::pin(ask(&node, &peer.name, "slow"));
        tokio::select! {
            _ = &mut first => panic!("nothing was sent yet"),
            () = until("the peer is asked", async || peer.asked(DOWNLOAD) == 1) => {}
        }
        drop(first);
        let others = futures_util::future::join_all((0..5).map(|_| ask(&node, &peer.name, "slow")));
        let (others, ()) = tokio::join!(others, async { go_on.notify_one() });
        for read in others {
            assert_eq!(read.unwrap(), b"slow");
        }
        assert_eq!(peer.asked(DOWNLOAD), 1);

        // Nobody at all waits for this one.
        let mut alone = Box::pin(ask(&node, &peer.name, "alone"));
        tokio::select! {
            _ = &mut alone => panic!("nothing was sent yet"),
            () = until("the peer is asked", async || peer.asked(DOWNLOAD) == 2) => {}
        }
        drop(alone);
        go_on.notify_one();
        until("the file is here", async || {
            node.hs.media.find(&peer.name, "alone", Duration::ZERO).await.unwrap().is_some()
        })
        .await;

        // All who wait hear of a failure, and the next one asks again.
        peer.answer(DOWNLOAD, |_| (StatusCode::NOT_FOUND, json!({ "errcode": "M_NOT_FOUND", "error": "no" })));
        let asking = futures_util::future::join_all((0..3).map(|_| ask(&node, &peer.name, "none"))).await;
        assert!(asking.iter().all(|read| matches!(read, Err(FileError::Media(MediaError::NotFound)))), "{asking:?}");
        let before = peer.asked(DOWNLOAD);
        ask(&node, &peer.name, "none").await.unwrap_err();
        assert_eq!(peer.asked(DOWNLOAD), before + 1);
    })
    .await;
}

#[tokio::test]
async fn servers_that_hang_do_not_keep_others_waiting() {
    let world = World::new();
    let directory = Directory::new();
    let node = node(&world, &directory).await;
    let slow = Peer::new(&world, "slow.example");
    slow.answer_http(DOWNLOAD, |_| chunks(stream::pending(), None));
    let quick = Peer::new(&world, "quick.example");
    quick.answer_http(DOWNLOAD, |_| whole("quick"));
    let ids: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let hanging = futures_util::future::join_all(ids.iter().map(|id| ask(&node, &slow.name, id)));
    tokio::select! {
        _ = hanging => panic!("they hang"),
        read = ask(&node, &quick.name, "quick") => assert_eq!(read.unwrap(), b"quick"),
    }
    // Few of these are asked for at a time.
    assert!((1..=4).contains(&slow.asked(DOWNLOAD)), "{}", slow.asked(DOWNLOAD));
    // The end does not wait for them either.
    assert_eq!(node.hs.tasks.shut_down(Duration::from_secs(60)).await, 0);
    assert_eq!(files(&directory.path("media")), 1);
}

#[tokio::test]
async fn a_file_elsewhere_is_fetched_from_where_we_may_go_only() {
    let denied = ["127.0.0.0", "::1"].map(|address| Range { address: address.parse().unwrap(), prefix_bits: 8 });
    let options = ClientOptions { policy: AddressPolicy::denying(denied.to_vec()), ..ClientOptions::default() };
    let clock = World::new().clock;
    let web = Internet::new(&options, clock, Random::seeded(3)).unwrap();
    let world = World::with_web(Some(web));
    let directory = Directory::new();
    let node = node(&world, &directory).await;
    let peer = Peer::new(&world, "peer.example");
    let inside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = inside.local_addr().unwrap().port();
    peer.answer_http(DOWNLOAD, move |request| {
        let url = match request.uri().path().rsplit('/').next().unwrap() {
            "number" => format!("https://127.0.0.1:{port}/secret"),
            "name" => format!("https://localhost:{port}/secret"),
            "mapped" => format!("https://[::ffff:127.0.0.1]:{port}/secret"),
            "plain" => format!("http://127.0.0.1:{port}/secret"),
            "file" => "file:///etc/passwd".to_owned(),
            _ => "nonsense".to_owned(),
        };
        let body = Bytes::from(format!("--b\r\n\r\n{{}}\r\n--b\r\nLocation: {url}\r\n\r\n{TAIL}"));
        Response::builder().header("content-type", TYPE).body(body.into()).unwrap()
    });
    for id in ["number", "name", "mapped", "plain", "file", "nonsense"] {
        let refused = ask(&node, &peer.name, id).await;
        assert!(matches!(refused, Err(FileError::Remote(_))), "{id}: {refused:?}");
    }
    inside.set_nonblocking(true).unwrap();
    let came = inside.accept();
    assert!(came.is_err(), "{came:?}");
    assert_eq!(files(&directory.path("media")), 0);
}
