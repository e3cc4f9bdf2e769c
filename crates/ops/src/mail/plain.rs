//! SMTP without extensions, for relays on the same machine that know no `EHLO` (RFC 5321, 3.2 asks clients to fall back).

use std::io;

use lettre::Message;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Longest line that a mail server may answer.
const LINE_BYTES_MAX: usize = 4096;

struct Conversation {
    answers: Lines<BufReader<OwnedReadHalf>>,
    out: OwnedWriteHalf,
}

/// Hands a mail over.
pub(super) async fn send(host: &str, port: u16, message: &Message) -> io::Result<()> {
    let (read, out) = TcpStream::connect((host, port)).await?.into_split();
    let mut smtp = Conversation { answers: BufReader::new(read).lines(), out };
    smtp.expect('2').await?;
    smtp.say("HELO localhost", '2').await?;
    let envelope = message.envelope();
    let from = envelope.from().map(ToString::to_string).unwrap_or_default();
    smtp.say(&format!("MAIL FROM:<{from}>"), '2').await?;
    for to in envelope.to() {
        smtp.say(&format!("RCPT TO:<{to}>"), '2').await?;
    }
    smtp.say("DATA", '3').await?;
    for line in message.formatted().split_inclusive(|byte| *byte == b'\n') {
        if line.first() == Some(&b'.') {
            smtp.out.write_all(b".").await?;
        }
        smtp.out.write_all(line).await?;
    }
    smtp.say("\r\n.", '2').await?;
    // It has taken the mail: how it says good-bye is its own affair.
    let _ = smtp.say("QUIT", '2').await;
    Ok(())
}

impl Conversation {
    async fn say(&mut self, line: &str, class: char) -> io::Result<()> {
        self.out.write_all(line.as_bytes()).await?;
        self.out.write_all(b"\r\n").await?;
        self.expect(class).await
    }

    /// Reads an answer, of several lines perhaps, whose code begins with `class`.
    async fn expect(&mut self, class: char) -> io::Result<()> {
        loop {
            let line = self.answers.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if line.len() > LINE_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if line.as_bytes().get(3) == Some(&b'-') {
                continue;
            }
            return if line.starts_with(class) { Ok(()) } else { Err(io::Error::other(line)) };
        }
    }
}
