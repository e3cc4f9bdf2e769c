//! Files are looked at before they are kept, by a scripted daemon.

use std::time::Duration;

use samtal_media::{
    MediaError, Options,
    scan::{Address, Scanner},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{body, each, user};

/// A daemon that finds everything with `EICAR` in it, and hangs up without a word on `SILENT`.
async fn daemon() -> (Address, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut command = [0; 10];
            stream.read_exact(&mut command).await.unwrap();
            assert_eq!(&command, b"zINSTREAM\0");
            let mut file = Vec::new();
            loop {
                let length = stream.read_u32().await.unwrap();
                if length == 0 {
                    break;
                }
                let mut piece = vec![0; usize::try_from(length).unwrap()];
                stream.read_exact(&mut piece).await.unwrap();
                file.extend(piece);
            }
            let has = |what: &[u8]| file.windows(what.len()).any(|window| window == what);
            let answer: &[u8] = match () {
                () if has(b"SILENT") => b"",
                () if has(b"EICAR") => b"stream: Eicar-Test-Signature FOUND\0",
                () => b"stream: OK\0",
            };
            stream.write_all(answer).await.unwrap();
        }
    });
    (address, serving)
}

fn scanner(address: Address, passes_unscanned: bool) -> Options {
    let scanner = Scanner { address, time: Duration::from_secs(10), passes_unscanned };
    Options { scanner: Some(scanner), ..Options::default() }
}

#[tokio::test]
async fn what_is_not_clean_leaves_nothing_behind() {
    let (address, serving) = daemon().await;
    each(scanner(address, false), |bench| async move {
        let clean = bench.upload("alice", &vec![b'x'; 700_000]).await.unwrap();
        assert_eq!(bench.read(&clean).await.len(), 700_000);
        let refused = bench.upload("alice", b"an EICAR test").await;
        assert!(matches!(&refused, Err(MediaError::NotClean(what)) if what == "Eicar-Test-Signature"), "{refused:?}");
        let about = samtal_media::About::default();
        let other = ruma::server_name!("there.example");
        let refused = bench.media.store_remote(other, "id", about, body(b"EICAR from afar")).await;
        assert!(matches!(refused, Err(MediaError::NotClean(_))), "{refused:?}");
        let refused = bench.upload("alice", b"SILENT").await;
        assert!(matches!(refused, Err(MediaError::NotScanned(_))), "{refused:?}");
        assert_eq!((bench.files(), bench.media.used_bytes(&user("alice")).await.unwrap()), (1, 700_000));
    })
    .await;
    serving.abort();
}

#[tokio::test]
async fn whether_files_are_kept_without_a_scanner_is_the_operators_word() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for passes in [false, true] {
        each(scanner(Address::Tcp(nobody), passes), |bench| async move {
            let uploaded = bench.upload("alice", b"x").await;
            assert_eq!(uploaded.is_ok(), passes, "{uploaded:?}");
            assert_eq!(bench.files(), usize::from(passes));
        })
        .await;
    }
}
