//! The engine on both databases, with files in a directory.

use std::{future::Future, io::Cursor, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use ruma::{OwnedServerName, OwnedUserId, server_name};
use samtal_db::testing::{Directory, each_engine};
use samtal_kit::{Clock, Random};
use samtal_media::{About, Entry, Location, Media, MediaError, Method, Options, SCHEMA, Target, Thumbnail, Wanted};

mod animation;
mod cloud;
mod preview;
mod scan;

struct Bench {
    media: Media,
    clock: Clock,
    directory: Directory,
}

/// Runs a test with an engine on each database, and a directory of its own.
async fn each<F, Fut>(options: Options, test: F)
where
    F: Fn(Bench) -> Fut,
    Fut: Future<Output = ()>,
{
    each_engine(&[SCHEMA], |db| {
        let directory = Directory::new();
        let clock = Clock::manual(1_700_000_000_000);
        let options = Options { location: Location::Directory(directory.path("media")), ..options.clone() };
        let media = Media::open(here(), db, clock.clone(), Random::seeded(1), options);
        test(Bench { media: media.expect("the store opens"), clock, directory })
    })
    .await;
}

fn here() -> OwnedServerName {
    server_name!("here.example").to_owned()
}

fn user(name: &str) -> OwnedUserId {
    format!("@{name}:here.example").parse().expect("a user id")
}

type Chunks = stream::Iter<std::vec::IntoIter<Result<Bytes, std::io::Error>>>;

/// The bytes in pieces.
fn body(bytes: &[u8]) -> Chunks {
    let chunks: Vec<_> = bytes.chunks(10_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    stream::iter(chunks)
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image::RgbImage::new(width, height).write_to(&mut out, image::ImageFormat::Png).expect("a PNG");
    out.into_inner()
}

impl Bench {
    async fn upload(&self, name: &str, bytes: &[u8]) -> Result<String, MediaError> {
        self.media.upload(&user(name), Target::New, About::default(), None, body(bytes)).await
    }

    async fn entry(&self, media_id: &str) -> Option<Entry> {
        self.media.find(&here(), media_id, Duration::ZERO).await.expect("find")
    }

    async fn read(&self, media_id: &str) -> Vec<u8> {
        let entry = self.entry(media_id).await.expect("there");
        let mut stream = self.media.read(&entry, None).await.expect("read");
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.expect("chunk"));
        }
        bytes
    }

    /// Files in the store, whatever the ledger says.
    fn files(&self) -> usize {
        fn count(directory: &std::path::Path) -> usize {
            let entries = std::fs::read_dir(directory).expect("a directory");
            entries
                .map(|entry| entry.expect("an entry").path())
                .map(|path| if path.is_dir() { count(&path) } else { 1 })
                .sum()
        }
        count(&self.directory.path("media"))
    }

    async fn thumbnail(&self, media_id: &str, width: u32, height: u32, method: Method) -> Option<(u32, u32)> {
        let entry = self.entry(media_id).await.expect("there");
        match self.media.thumbnail(&entry, Wanted { width, height, method, animated: false }).await.expect("thumbnail")
        {
            Thumbnail::Original => None,
            Thumbnail::Smaller { bytes, mut body, .. } => {
                let mut read = Vec::new();
                while let Some(chunk) = body.next().await {
                    read.extend_from_slice(&chunk.expect("chunk"));
                }
                assert_eq!(read.len() as u64, bytes);
                let picture = image::load_from_memory(&read).expect("a picture");
                Some((picture.width(), picture.height()))
            }
        }
    }
}

#[tokio::test]
async fn the_same_content_is_kept_once_and_goes_with_its_last_name() {
    each(Options::default(), |bench| async move {
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let first = bench.upload("alice", &content).await.expect("upload");
        let second = bench.upload("bob", &content).await.expect("upload");
        assert_ne!(first, second);
        assert_eq!(bench.files(), 1);
        assert_eq!(bench.read(&first).await, content);
        assert!(bench.media.delete(&here(), &first).await.expect("delete"));
        assert!(bench.entry(&first).await.is_none());
        assert_eq!(bench.read(&second).await, content);
        assert!(bench.media.delete(&here(), &second).await.expect("delete"));
        assert_eq!(bench.files(), 0);
        assert!(!bench.media.delete(&here(), &second).await.expect("delete"));
        let third = bench.upload("alice", &content).await.expect("upload");
        assert_eq!(bench.read(&third).await, content);
    })
    .await;
}

#[tokio::test]
async fn an_empty_file_is_a_file() {
    each(Options::default(), |bench| async move {
        let id = bench.upload("alice", b"").await.expect("upload");
        assert!(bench.read(&id).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn note_71_too_long_an_upload_leaves_nothing_behind() {
    each(Options { upload_bytes_max: 25_000, ..Options::default() }, |bench| async move {
        let refused = bench.upload("alice", &[7; 25_001]).await;
        assert!(matches!(refused, Err(MediaError::TooLarge { bytes_max: 25_000 })), "{refused:?}");
        assert_eq!(bench.files(), 0);
        let said = bench.media.upload(&user("alice"), Target::New, About::default(), Some(25_001), body(b"x")).await;
        assert!(matches!(said, Err(MediaError::TooLarge { .. })), "{said:?}");
        bench.upload("alice", &[7; 25_000]).await.expect("as long as allowed");
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing_behind() {
    each(Options::default(), |bench| async move {
        let chunks = vec![Ok(Bytes::from_static(&[1; 100])), Err(std::io::Error::other("gone"))];
        let broken =
            bench.media.upload(&user("alice"), Target::New, About::default(), None, stream::iter(chunks)).await;
        assert!(matches!(broken, Err(MediaError::Broken(_))), "{broken:?}");
        assert_eq!(bench.files(), 0);
        assert_eq!(bench.media.used_bytes(&user("alice")).await.expect("used"), 0);
    })
    .await;
}

#[tokio::test]
async fn note_71_a_user_may_keep_so_much() {
    each(Options { user_bytes_max: Some(1_000), ..Options::default() }, |bench| async move {
        bench.upload("alice", &[1; 600]).await.expect("upload");
        let refused = bench.upload("alice", &[2; 600]).await;
        assert!(matches!(refused, Err(MediaError::QuotaExceeded { .. })), "{refused:?}");
        bench.upload("bob", &[2; 600]).await.expect("another user");
        assert_eq!(bench.media.delete_of_user(&user("alice")).await.expect("delete"), 1);
        bench.upload("alice", &[2; 600]).await.expect("there is room again");
    })
    .await;
}

#[tokio::test]
async fn note_71_a_reserved_id_takes_one_upload_of_its_owner_in_time() {
    each(Options { reservations_max: 2, ..Options::default() }, |bench| async move {
        let (alice, bob) = (user("alice"), user("bob"));
        let reserved = bench.media.reserve(&alice).await.expect("reserve");
        let id = reserved.media_id.as_str();
        let put = async |who: &OwnedUserId, id: &str| {
            bench.media.upload(who, Target::Reserved(id), About::default(), None, body(b"late")).await
        };
        let waiting = bench.media.find(&here(), id, Duration::ZERO).await;
        assert!(matches!(waiting, Err(MediaError::NotYetUploaded)), "{waiting:?}");
        assert!(matches!(put(&bob, id).await, Err(MediaError::NotYours)));
        assert!(matches!(put(&alice, "unknown").await, Err(MediaError::NotFound)));
        let here = here();
        let (found, uploaded) = tokio::join!(bench.media.find(&here, id, Duration::from_secs(30)), put(&alice, id));
        uploaded.expect("upload");
        assert_eq!(found.expect("find").expect("there").bytes, 4);
        assert!(matches!(put(&alice, id).await, Err(MediaError::CannotOverwrite)));

        let late = bench.media.reserve(&alice).await.expect("reserve");
        bench.media.reserve(&alice).await.expect("reserve");
        assert!(matches!(bench.media.reserve(&alice).await, Err(MediaError::TooManyReservations)));
        bench.clock.advance(Duration::from_secs(25 * 3600));
        assert!(matches!(put(&alice, &late.media_id).await, Err(MediaError::NotFound)));
        assert!(bench.entry(&late.media_id).await.is_none());
        bench.media.clean().await.expect("clean");
        bench.media.reserve(&alice).await.expect("reserve");
    })
    .await;
}

#[tokio::test]
async fn note_70_ids_that_mean_something_in_a_path_are_not_found() {
    each(Options::default(), |bench| async move {
        for id in ["../../etc/passwd", "a/b", "", ".", "a.b", "å", &"x".repeat(256)] {
            assert!(bench.entry(id).await.is_none(), "{id}");
            let stored = bench.media.store_remote(server_name!("a.example"), id, About::default(), body(b"x")).await;
            assert!(matches!(stored, Err(MediaError::NotFound)), "{id}");
        }
        assert_eq!(bench.files(), 0);
    })
    .await;
}

#[tokio::test]
async fn note_72_pictures_are_made_smaller_but_never_larger() {
    each(Options::default(), |bench| async move {
        let id = bench.upload("alice", &png(1000, 500)).await.expect("upload");
        assert_eq!(bench.thumbnail(&id, 30, 30, Method::Crop).await, Some((32, 32)));
        assert_eq!(bench.thumbnail(&id, 300, 200, Method::Scale).await, Some((320, 160)));
        assert_eq!(bench.thumbnail(&id, 1000, 500, Method::Scale).await, None);
        assert_eq!(bench.thumbnail(&id, 5000, 5000, Method::Scale).await, None);
        assert_eq!(bench.files(), 3);
        assert_eq!(bench.thumbnail(&id, 31, 29, Method::Crop).await, Some((32, 32)));
        assert_eq!(bench.files(), 3, "there are few sizes");
        bench.media.delete(&here(), &id).await.expect("delete");
        assert_eq!(bench.files(), 0, "the smaller ones go too");

        let text = bench.upload("alice", b"no picture").await.expect("upload");
        let entry = bench.entry(&text).await.expect("there");
        let refused =
            bench.media.thumbnail(&entry, Wanted { width: 9, height: 9, method: Method::Crop, animated: false }).await;
        assert!(matches!(refused, Err(MediaError::NoPicture(_))), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn smaller_pictures_are_made_ahead_where_that_is_wanted() {
    each(Options { pixels_max: 1_000_000, ..Options::default() }, |bench| async move {
        let making = tokio::spawn(bench.media.thumbnails_ahead());
        let picture = About { content_type: Some("image/png"), file_name: None };
        let upload = async |bytes: &[u8], about: About<'_>| {
            bench.media.upload(&user("alice"), Target::New, about, None, body(bytes)).await.expect("upload")
        };
        upload(b"no picture, whatever it says", picture).await;
        upload(&png(2_000, 1_000), picture).await;
        upload(b"nor this", About::default()).await;
        let id = upload(&png(1000, 500), picture).await;
        let all_made = async {
            while bench.files() < 4 + 5 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all_made).await.expect("they are made");
        assert_eq!(bench.thumbnail(&id, 30, 30, Method::Crop).await, Some((32, 32)));
        assert_eq!(bench.thumbnail(&id, 700, 500, Method::Scale).await, Some((800, 400)));
        assert_eq!(bench.files(), 4 + 5, "those were there already");
        making.abort();
    })
    .await;
}

#[tokio::test]
async fn note_71_a_picture_with_too_many_pixels_is_not_decoded() {
    each(Options { pixels_max: 1_000_000, ..Options::default() }, |bench| async move {
        let id = bench.upload("alice", &png(2_000, 1_000)).await.expect("upload");
        let entry = bench.entry(&id).await.expect("there");
        let refused = bench
            .media
            .thumbnail(&entry, Wanted { width: 32, height: 32, method: Method::Scale, animated: false })
            .await;
        assert!(matches!(refused, Err(MediaError::PictureTooLarge)), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn copies_of_other_servers_go_when_nobody_asks_for_them() {
    each(Options::default(), |bench| async move {
        let away = server_name!("away.example");
        for id in ["used", "unused"] {
            bench.media.store_remote(away, id, About::default(), body(id.as_bytes())).await.expect("store");
        }
        bench.media.store_remote(away, "used", About::default(), body(b"used")).await.expect("again");
        let own = bench.upload("alice", b"mine").await.expect("upload");
        for _ in 0..3 {
            bench.clock.advance(Duration::from_secs(40 * 24 * 3600));
            let entry = bench.media.find(away, "used", Duration::ZERO).await.expect("find").expect("there");
            drop(bench.media.read(&entry, None).await.expect("read"));
        }
        bench.media.clean().await.expect("clean");
        assert!(bench.media.find(away, "unused", Duration::ZERO).await.expect("find").is_none());
        assert!(bench.media.find(away, "used", Duration::ZERO).await.expect("find").is_some());
        assert!(bench.entry(&own).await.is_some());
        assert_eq!(bench.files(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_quarantined_content_is_given_out_under_none_of_its_names() {
    each(Options::default(), |bench| async move {
        let first = bench.upload("alice", b"bad").await.expect("upload");
        let second = bench.upload("bob", b"bad").await.expect("upload");
        assert!(bench.media.quarantine(&here(), &first, true).await.expect("quarantine"));
        for id in [&first, &second] {
            let refused = bench.media.find(&here(), id, Duration::ZERO).await;
            assert!(matches!(refused, Err(MediaError::NotFound)), "{refused:?}");
        }
        assert!(bench.media.quarantine(&here(), &first, false).await.expect("quarantine"));
        assert_eq!(bench.read(&second).await, b"bad");
    })
    .await;
}

#[tokio::test]
async fn a_part_of_a_file_can_be_read() {
    each(Options::default(), |bench| async move {
        let id = bench.upload("alice", b"0123456789").await.expect("upload");
        let entry = bench.entry(&id).await.expect("there");
        let mut part = bench.media.read(&entry, Some(2..5)).await.expect("read");
        assert_eq!(part.next().await.expect("one").expect("chunk"), "234");
    })
    .await;
}

#[tokio::test]
async fn many_uploads_of_one_content_at_once_leave_one_file() {
    each(Options::default(), |bench| async move {
        let ids = futures_util::future::join_all((0..20).map(|_| bench.upload("alice", b"the same"))).await;
        assert_eq!(bench.files(), 1);
        for id in ids {
            assert_eq!(bench.read(&id.expect("upload")).await, b"the same");
        }
    })
    .await;
}

#[tokio::test]
async fn note_73_previews_go_to_no_denied_network() {
    let network = |address: &str, prefix_bits| samtal_http::Network { address: address.parse().unwrap(), prefix_bits };
    let denied = vec![network("127.0.0.0", 8), network("169.254.0.0", 16), network("::1", 128)];
    let client = samtal_http::ClientOptions {
        policy: samtal_http::AddressPolicy::denying(denied),
        ..samtal_http::ClientOptions::default()
    };
    each(Options { previews: Some(client), ..Options::default() }, |bench| async move {
        for url in [
            "http://127.0.0.1:9/",
            "http://127.1:9/",
            "http://2130706433:9/",
            "http://localhost:9/",
            "http://169.254.169.254/latest/meta-data",
            "http://[::1]:9/",
            "http://[::ffff:127.0.0.1]:9/",
            "http://[64:ff9b::7f00:1]:9/",
        ] {
            let refused = bench.media.preview(url).await;
            assert!(matches!(refused, Err(samtal_media::preview::PreviewError::Denied)), "{url}: {refused:?}");
        }
    })
    .await;
    each(Options::default(), |bench| async move {
        let refused = bench.media.preview("https://a.example/").await;
        assert!(matches!(refused, Err(samtal_media::preview::PreviewError::Off)), "{refused:?}");
    })
    .await;
}
