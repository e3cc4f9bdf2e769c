//! Having files looked at before they are kept: by a ClamAV daemon, to which a file is streamed (`INSTREAM`), or by a server
//! that speaks ICAP (`crate::icap`).
//!
//! What is encrypted end to end cannot be looked at by any server: such files pass.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use futures_util::StreamExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use crate::{ByteStream, MediaError, icap};

/// Bytes of one piece, as the daemon gets them.
const PIECE: usize = 256 * 1024;
/// Longest answer.
const ANSWER_BYTES_MAX: u64 = 4_096;

/// Where the daemon listens. The operator names it: no address policy holds for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket of this machine.
    Unix(PathBuf),
    /// An address.
    Tcp(SocketAddr),
}

/// How the daemon is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// As ClamAV's daemon is.
    ClamAv,
    /// By ICAP.
    Icap {
        /// Which of its services is asked, as it stands in an address: `avscan`.
        service: String,
    },
}

/// Who looks at files before they are kept.
#[derive(Clone, Debug)]
pub struct Scanner {
    /// Where the daemon listens.
    pub address: Address,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// How long it may take over one file.
    pub time: Duration,
    /// Whether files are kept that it could not look at, because it is not there or they are too long for it.
    pub passes_unscanned: bool,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Clean,
    /// Something, by this name.
    Found(String),
    /// It could not be looked at, for this reason.
    Failed(String),
}

impl Scanner {
    /// Has a file looked at: one that is not clean is [`MediaError::NotClean`].
    pub(crate) async fn look(&self, body: ByteStream) -> Result<(), MediaError> {
        let looked = tokio::time::timeout(self.time, self.ask(body)).await;
        let failed = match looked {
            Ok(Ok(Verdict::Clean)) => return Ok(()),
            Ok(Ok(Verdict::Found(what))) => return Err(MediaError::NotClean(what)),
            Ok(Ok(Verdict::Failed(why))) => why,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it takes too long".to_owned(),
        };
        tracing::warn!(why = %failed, "a file could not be scanned");
        if self.passes_unscanned { Ok(()) } else { Err(MediaError::NotScanned(failed)) }
    }

    async fn ask(&self, body: ByteStream) -> std::io::Result<Verdict> {
        match &self.address {
            Address::Unix(path) => self.exchange(UnixStream::connect(path).await?, "localhost", body).await,
            Address::Tcp(address) => {
                self.exchange(TcpStream::connect(address).await?, &address.to_string(), body).await
            }
        }
    }

    async fn exchange(
        &self,
        daemon: impl AsyncRead + AsyncWrite + Unpin,
        host: &str,
        body: ByteStream,
    ) -> std::io::Result<Verdict> {
        match &self.protocol {
            Protocol::ClamAv => exchange(daemon, body).await,
            Protocol::Icap { service } => icap::exchange(daemon, host, service, body).await,
        }
    }
}

async fn exchange(mut daemon: impl AsyncRead + AsyncWrite + Unpin, mut body: ByteStream) -> std::io::Result<Verdict> {
    let sent = async {
        daemon.write_all(b"zINSTREAM\0").await?;
        while let Some(chunk) = body.next().await {
            for piece in chunk?.chunks(PIECE) {
                let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
                daemon.write_all(&length.to_be_bytes()).await?;
                daemon.write_all(piece).await?;
            }
        }
        daemon.write_all(&0_u32.to_be_bytes()).await?;
        daemon.flush().await
    }
    .await;
    let mut answer = Vec::new();
    let read = daemon.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await;
    // It may say why it wants no more before all has been sent.
    match (sent, read) {
        (_, Ok(_)) if !answer.is_empty() => Ok(verdict(&String::from_utf8_lossy(&answer))),
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
        (Ok(()), Ok(_)) => Ok(Verdict::Failed("it says nothing".to_owned())),
    }
}

fn verdict(answer: &str) -> Verdict {
    let answer = answer.trim_matches(['\0', '\n', ' ']);
    match answer.strip_prefix("stream: ") {
        Some("OK") => Verdict::Clean,
        Some(found) if found.ends_with(" FOUND") => Verdict::Found(found.trim_end_matches(" FOUND").to_owned()),
        _ => Verdict::Failed(answer.chars().take(200).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_word_is_taken_for_one() {
        for (answer, expected) in [
            ("stream: OK\0", Verdict::Clean),
            ("stream: Eicar-Test-Signature FOUND\0", Verdict::Found("Eicar-Test-Signature".to_owned())),
            (
                "INSTREAM size limit exceeded. ERROR\0",
                Verdict::Failed("INSTREAM size limit exceeded. ERROR".to_owned()),
            ),
            ("OK", Verdict::Failed("OK".to_owned())),
            ("", Verdict::Failed(String::new())),
        ] {
            assert_eq!(verdict(answer), expected, "{answer}");
        }
    }
}
