//! Files are looked at before they are kept, by scripted daemons.

use std::time::Duration;

use samtal_media::{
    MediaError, Options,
    scan::{Address, Protocol, Scanner},
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

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

/// A server that speaks ICAP: it forbids what has `EICAR` in it, by name where the file says `NAMED`, hangs up on `SILENT`,
/// and refuses what begins with `LONG` before it has read it.
async fn icap() -> (Address, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut heads = String::new();
            // The request's own head, and the two that are encapsulated.
            for _ in 0..3 {
                while !heads.ends_with("\r\n\r\n") {
                    assert!(stream.read_line(&mut heads).await.unwrap() > 0, "{heads}");
                }
                heads.push('|');
            }
            assert!(heads.starts_with(&format!("RESPMOD icap://{address}/avscan ICAP/1.0\r\nHost: {address}\r\n")));
            let (own, encapsulated) = heads.split_once('|').unwrap();
            let (request, response) = encapsulated.split_once('|').unwrap();
            let body_at = request.len() + response.len() - 1;
            let places = format!("Encapsulated: req-hdr=0, res-hdr={}, res-body={body_at}\r\n", request.len());
            assert!(own.contains(&places) && own.contains("Allow: 204\r\n"), "{own}");
            let mut file = Vec::new();
            loop {
                let mut length = String::new();
                stream.read_line(&mut length).await.unwrap();
                let length = usize::from_str_radix(length.trim(), 16).unwrap();
                let mut piece = vec![0; length + 2];
                stream.read_exact(&mut piece).await.unwrap();
                assert!(piece.ends_with(b"\r\n"));
                file.extend_from_slice(&piece[..length]);
                if length == 0 || file.starts_with(b"LONG") {
                    break;
                }
            }
            let has = |what: &[u8]| file.windows(what.len()).any(|window| window == what);
            let answer: &[u8] = match () {
                () if has(b"SILENT") => b"",
                () if has(b"LONG") => b"ICAP/1.0 413 Too long\r\n\r\n",
                () if has(b"NAMED EICAR") => {
                    b"ICAP/1.0 200 OK\r\nX-Infection-Found: Type=0; Resolution=2; Threat=Eicar-Test-Signature;\r\n\
                      Encapsulated: res-hdr=0, res-body=19\r\n\r\nHTTP/1.1 200 OK\r\n\r\n0\r\n\r\n"
                }
                () if has(b"EICAR") => {
                    b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=26\r\n\r\n\
                      HTTP/1.1 403 Forbidden\r\n\r\n0\r\n\r\n"
                }
                () => b"ICAP/1.0 204 No modifications needed\r\nISTag: \"1\"\r\n\r\n",
            };
            stream.write_all(answer).await.unwrap();
        }
    });
    (Address::Tcp(address), serving)
}

#[tokio::test]
async fn a_scanner_by_icap_sees_all_and_its_word_holds() {
    let (address, serving) = icap().await;
    let protocol = Protocol::Icap { service: "avscan".to_owned() };
    let scanner = Scanner { address, protocol, time: Duration::from_secs(60), passes_unscanned: false };
    each(Options { scanner: Some(scanner), ..Options::default() }, |bench| async move {
        let clean = bench.upload("alice", &vec![b'x'; 700_000]).await.unwrap();
        assert_eq!(bench.read(&clean).await.len(), 700_000);
        let empty = bench.upload("alice", b"").await.unwrap();
        assert!(bench.read(&empty).await.is_empty());
        let refused = bench.upload("alice", b"a NAMED EICAR test").await;
        assert!(matches!(&refused, Err(MediaError::NotClean(what)) if what == "Eicar-Test-Signature"), "{refused:?}");
        let refused = bench.upload("alice", &[&vec![b'x'; 300_000][..], b"EICAR"].concat()).await;
        assert!(matches!(&refused, Err(MediaError::NotClean(_))), "{refused:?}");
        for unscanned in [b"SILENT".to_vec(), [&b"LONG"[..], &vec![b'x'; 900_000]].concat()] {
            let refused = bench.upload("alice", &unscanned).await;
            assert!(matches!(refused, Err(MediaError::NotScanned(_))), "{refused:?}");
        }
        assert_eq!(bench.files(), 2, "what was refused leaves nothing behind");
    })
    .await;
    serving.abort();
}

fn scanner(address: Address, passes_unscanned: bool) -> Options {
    let scanner = Scanner { address, protocol: Protocol::ClamAv, time: Duration::from_secs(10), passes_unscanned };
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
