//! Files between servers.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use samtal_media::{About, MediaError, Target};
use samtal_ops::media::{Effort, FileError};

use crate::world::{Node, World};

const NOW: Effort = Effort { wait: Duration::ZERO, remote: true };

async fn upload(node: &Node, bytes: &'static [u8], about: About<'_>) -> String {
    let body = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(bytes))]);
    node.hs.media.upload(&node.user(), Target::New, about, None, body).await.unwrap()
}

#[tokio::test]
async fn a_file_is_fetched_once_and_kept() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let about = About { content_type: Some("text/plain; charset=utf-8"), file_name: Some("räksmörgås.txt") };
    let bytes = b"first line\r\n--boundary\r\nlast line\r\n";
    let id = upload(&b, bytes, about).await;
    for up in [true, false] {
        b.set_up(up);
        let entry = a.hs.file(&b.hs.name, &id, NOW).await.unwrap();
        assert_eq!(entry.content_type.as_deref(), about.content_type);
        assert_eq!(entry.file_name.as_deref(), about.file_name);
        let mut body = a.hs.media.read(&entry, None).await.unwrap();
        let mut read = Vec::new();
        while let Some(chunk) = body.next().await {
            read.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!(read, bytes);
    }
    let never = upload(&b, b"never fetched", About::default()).await;
    let refused = a.hs.file(&b.hs.name, &never, NOW).await;
    assert!(matches!(refused, Err(FileError::Remote(_))), "{refused:?}");
}

#[tokio::test]
async fn what_is_not_there_is_not_there_for_others_either() {
    let world = World::new();
    let (a, b) = (world.node("a.example").await, world.node("b.example").await);
    let id = upload(&b, b"x", About::default()).await;
    let stay = Effort { remote: false, ..NOW };
    for (id, effort) in [("unknown", NOW), ("../x", NOW), (id.as_str(), stay)] {
        let refused = a.hs.file(&b.hs.name, id, effort).await;
        assert!(matches!(refused, Err(FileError::Media(MediaError::NotFound))), "{id}: {refused:?}");
    }
    let reserved = b.hs.media.reserve(&b.user()).await.unwrap();
    let waiting = a.hs.file(&b.hs.name, &reserved.media_id, NOW).await;
    assert!(matches!(waiting, Err(FileError::Media(MediaError::NotYetUploaded))), "{waiting:?}");
}
