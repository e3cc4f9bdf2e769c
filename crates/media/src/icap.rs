//! Having a file looked at by a server that speaks ICAP (RFC 3507), as virus scanners for proxies do: it is shown the file as
//! the answer to a request (`RESPMOD`), and says whether the answer may pass as it is.

use futures_util::{
    StreamExt,
    future::{Either, select},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{ByteStream, scan::Verdict};

/// Longest beginning of an answer that is looked at: its head, and how what it would put in the file's place begins.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// The request that the file would be the answer to, and the head of that answer.
const REQUEST: &str = "GET /file HTTP/1.1\r\nHost: media\r\n\r\n";
const RESPONSE: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
/// Headers by which scanners say what they found.
const FOUND: [&str; 4] = ["x-infection-found", "x-virus-id", "x-virus-name", "x-violations-found"];

/// Shows a file to a service of the daemon. It may make up its mind before it has seen all of it.
pub(crate) async fn exchange(
    daemon: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    service: &str,
    body: ByteStream,
) -> std::io::Result<Verdict> {
    let (mut from, to) = tokio::io::split(daemon);
    let answered = std::pin::pin!(read_verdict(&mut from));
    let sent = std::pin::pin!(send(to, head(host, service), body));
    match select(answered, sent).await {
        Either::Left((verdict, _)) => verdict,
        Either::Right((sent, answered)) => match (sent, answered.await) {
            // It may say why it wants no more before all has been sent.
            (_, Ok(verdict)) => Ok(verdict),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        },
    }
}

fn head(host: &str, service: &str) -> String {
    let (response_at, body_at) = (REQUEST.len(), REQUEST.len() + RESPONSE.len());
    format!(
        "RESPMOD icap://{host}/{service} ICAP/1.0\r\nHost: {host}\r\nAllow: 204\r\nConnection: close\r\n\
         Encapsulated: req-hdr=0, res-hdr={response_at}, res-body={body_at}\r\n\r\n{REQUEST}{RESPONSE}"
    )
}

/// Sends head and body; the sending half is given back, since an end of it is taken for the end of all by some.
async fn send<W: AsyncWrite + Unpin>(mut to: W, head: String, mut body: ByteStream) -> std::io::Result<W> {
    to.write_all(head.as_bytes()).await?;
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        // An empty chunk would be the end.
        if !chunk.is_empty() {
            to.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
            to.write_all(&chunk).await?;
            to.write_all(b"\r\n").await?;
        }
    }
    to.write_all(b"0\r\n\r\n").await?;
    to.flush().await?;
    Ok(to)
}

/// Reads as much of the answer as it takes to know what it says.
async fn read_verdict(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Verdict> {
    let mut answer = Vec::new();
    loop {
        let mut piece = [0; 2048];
        let length = from.read(&mut piece).await?;
        answer.extend_from_slice(piece.get(..length).unwrap_or_default());
        let ended = length == 0 || answer.len() >= ANSWER_BYTES_MAX;
        if let Some(verdict) = verdict(&String::from_utf8_lossy(&answer), ended) {
            return Ok(verdict);
        }
    }
}

/// What an answer says, as soon as it can be told. Whatever is no clear word is a failure.
fn verdict(answer: &str, ended: bool) -> Option<Verdict> {
    let failed = |what: &str| Some(Verdict::Failed(what.chars().take(200).collect()));
    let Some((head, rest)) = answer.split_once("\r\n\r\n") else {
        return if ended { failed("it says nothing that is ICAP") } else { None };
    };
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let mut words = status_line.split(' ');
    if !words.next().is_some_and(|protocol| protocol.starts_with("ICAP/1.")) {
        return failed("it does not speak ICAP");
    }
    let headers = || lines.clone().filter_map(|line| line.split_once(':'));
    let found = headers().find(|(name, _)| FOUND.iter().any(|header| name.trim().eq_ignore_ascii_case(header)));
    match (words.next(), found) {
        (Some("200" | "204" | "403"), Some((_, what))) => Some(Verdict::Found(threat(what))),
        (Some("204"), None) => Some(Verdict::Clean),
        // The file itself is refused, in the words of some.
        (Some("403"), None) => Some(Verdict::Found("it is forbidden".to_owned())),
        // Something else is put in the file's place: a page that says why, mostly.
        (Some("200"), None) => {
            let status = rest.split_once("\r\n").and_then(|(line, _)| line.split(' ').nth(1));
            match status {
                Some("403") => Some(Verdict::Found("it is forbidden".to_owned())),
                Some(_) => failed("it would change the file"),
                None if ended => failed("it would change the file"),
                None => None,
            }
        }
        _ => failed(status_line),
    }
}

/// The name of what was found: `Type=0; Resolution=2; Threat=Eicar;` or just a name.
fn threat(what: &str) -> String {
    let named = what.split(';').find_map(|part| part.trim().strip_prefix("Threat="));
    named.unwrap_or(what).trim().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_word_is_taken_for_one() {
        let found = |what: &str| Some(Verdict::Found(what.to_owned()));
        let failed = |what: &str| Some(Verdict::Failed(what.to_owned()));
        for (answer, expected) in [
            ("ICAP/1.0 204 No modifications\r\nISTag: \"x\"\r\n\r\n", Some(Verdict::Clean)),
            ("ICAP/1.0 204 Fine\r\nX-Infection-Found: Type=0; Resolution=2; Threat=Eicar;\r\n\r\n", found("Eicar")),
            ("ICAP/1.0 200 OK\r\nx-virus-id: Eicar-Test\r\n\r\nHTTP/1.1 200 OK\r\n", found("Eicar-Test")),
            ("ICAP/1.0 200 OK\r\nISTag: x\r\n\r\nHTTP/1.1 403 Forbidden\r\n\r\n", found("it is forbidden")),
            ("ICAP/1.0 200 OK\r\nISTag: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", failed("it would change the file")),
            ("ICAP/1.0 403 Infected\r\n\r\n", found("it is forbidden")),
            ("ICAP/1.0 404 ICAP Service not found\r\n\r\n", failed("ICAP/1.0 404 ICAP Service not found")),
            ("ICAP/1.0 100 Continue\r\n\r\n", failed("ICAP/1.0 100 Continue")),
            ("HTTP/1.1 204 No Content\r\n\r\n", failed("it does not speak ICAP")),
            ("", failed("it says nothing that is ICAP")),
            ("ICAP/1.0 204 No modifications\r\nISTag", failed("it says nothing that is ICAP")),
        ] {
            assert_eq!(verdict(answer, true), expected, "{answer}");
        }
        for early in ["", "ICAP/1.0 204 No", "ICAP/1.0 204 Fine\r\n", "ICAP/1.0 200 OK\r\nISTag: x\r\n\r\nHTTP/1.1 4"] {
            assert_eq!(verdict(early, false), None, "{early}");
        }
    }
}
