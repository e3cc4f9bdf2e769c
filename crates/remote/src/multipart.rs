//! A file as servers send it: `multipart/mixed` of an object about the file and the file itself, or where it is
//! ([Server-Server API v1.18, content repository]). What comes before the file is short; the file is not kept in memory.
//!
//! [Server-Server API v1.18, content repository]: https://spec.matrix.org/v1.18/server-server-api/#content-repository

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use memchr::memmem;

use crate::{body::Body, network::NetworkError};

/// All before the file: the first part and both parts' headers.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Longest boundary (RFC 2046, 5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;
const LINE_END: &[u8] = b"\r\n";
const HEADERS_END: &[u8] = b"\r\n\r\n";

/// What a server answers that is asked for a file.
#[derive(Debug)]
pub enum Part {
    /// The file.
    File {
        /// Its media type.
        content_type: Option<String>,
        /// Its `Content-Disposition`.
        disposition: Option<String>,
        /// Its bytes. They end with an error if the answer ended before the file did.
        body: Body,
    },
    /// An address where it is.
    Location(String),
}

/// Reads an answer of this `Content-Type` up to the file.
///
/// # Errors
/// It is no `multipart/mixed` of two parts, or broke off.
pub async fn read(content_type: &str, body: Body) -> Result<Part, NetworkError> {
    let boundary = boundary(content_type).ok_or_else(|| malformed("no multipart/mixed with a boundary"))?;
    // The line end before a boundary belongs to it, but for the first, which may be the very beginning.
    let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
    let mut head = Head { body, read: BytesMut::from(LINE_END) };
    head.part(&delimiter).await?;
    let headers = head.part(&delimiter).await?;
    if let Some(location) = header(&headers, "location") {
        return Ok(Part::Location(location));
    }
    Ok(Part::File {
        content_type: header(&headers, "content-type"),
        disposition: header(&headers, "content-disposition"),
        body: file(head.body, head.read, delimiter),
    })
}

/// The beginning of an answer.
struct Head {
    body: Body,
    read: BytesMut,
}

impl Head {
    /// Goes on to the next part's content. Its headers.
    async fn part(&mut self, delimiter: &[u8]) -> Result<Bytes, NetworkError> {
        self.up_to(delimiter).await?;
        // Blanks may follow the boundary, until the line ends; two hyphens mean that there is no further part.
        if !self.up_to(LINE_END).await?.iter().all(u8::is_ascii_whitespace) {
            return Err(malformed("no second part"));
        }
        // Without headers, the line's end is the one before the empty line.
        self.put_back(LINE_END);
        let headers = self.up_to(HEADERS_END).await?;
        // Without content, the empty line's end is the one before the boundary.
        self.put_back(LINE_END);
        while self.read.len() < delimiter.len() {
            self.more().await?;
        }
        if !self.read.starts_with(delimiter) {
            self.read.advance(LINE_END.len());
        }
        Ok(headers)
    }

    /// What comes before these bytes; what comes after them is left to be read.
    async fn up_to(&mut self, end: &[u8]) -> Result<Bytes, NetworkError> {
        // However small the chunks are, nothing is looked at twice.
        let mut seen = 0;
        loop {
            if let Some(at) = memmem::find(self.read.get(seen..).unwrap_or_default(), end) {
                let before = self.read.split_to(seen + at).freeze();
                self.read.advance(end.len());
                return Ok(before);
            }
            if self.read.len() > HEAD_BYTES_MAX {
                return Err(malformed("too much before the file"));
            }
            seen = self.read.len().saturating_sub(end.len() - 1);
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), NetworkError> {
        let chunk = self.body.next().await.ok_or_else(|| malformed("it ends before the file"))??;
        self.read.extend_from_slice(&chunk);
        Ok(())
    }

    fn put_back(&mut self, bytes: &[u8]) {
        self.read = [bytes, &self.read].concat().as_slice().into();
    }
}

/// The bytes up to the delimiter, without holding more than one chunk of them.
fn file(body: Body, read: BytesMut, delimiter: Vec<u8>) -> Body {
    let chunks = stream::unfold(Some((body, read)), move |state| {
        let delimiter = delimiter.clone();
        async move {
            let (mut body, mut read) = state?;
            loop {
                if let Some(at) = memmem::find(&read, &delimiter) {
                    return (at > 0).then(|| (Ok(read.split_to(at).freeze()), None));
                }
                // The last bytes may be the beginning of the delimiter.
                let sure = read.len().saturating_sub(delimiter.len() - 1);
                if sure > 0 {
                    let chunk = read.split_to(sure).freeze();
                    return Some((Ok(chunk), Some((body, read))));
                }
                match body.next().await {
                    Some(Ok(chunk)) => read.extend_from_slice(&chunk),
                    Some(Err(error)) => return Some((Err(error), None)),
                    None => {
                        let early = NetworkError::Unreachable("the answer ended before the file did".to_owned());
                        return Some((Err(early), None));
                    }
                }
            }
        }
    });
    Body::new(chunks, None)
}

fn malformed(why: &str) -> NetworkError {
    NetworkError::Malformed(why.to_owned())
}

/// The boundary that a `multipart/mixed` names.
fn boundary(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let boundary = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim())
    })?;
    let boundary = boundary.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(boundary);
    (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len()).then_some(boundary)
}

/// The value of a header of this name.
fn header(headers: &[u8], name: &str) -> Option<String> {
    headers.split(|byte| *byte == b'\n').find_map(|line| {
        let (key, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/mixed; boundary=\"b b\"";

    /// Reads an answer that comes in pieces of so many bytes: type, disposition and content, or the address.
    async fn read_in(pieces: usize, answer: &[u8]) -> Result<(Option<String>, Vec<u8>), NetworkError> {
        let chunks: Vec<_> = answer.chunks(pieces).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        match read(TYPE, Body::new(stream::iter(chunks), None)).await? {
            Part::Location(url) => Ok((Some(url), b"elsewhere".to_vec())),
            Part::File { content_type, mut body, .. } => {
                let mut all = Vec::new();
                while let Some(chunk) = body.next().await {
                    all.extend_from_slice(&chunk?);
                }
                Ok((content_type, all))
            }
        }
    }

    #[tokio::test]
    async fn a_file_is_the_same_however_it_is_cut_up() {
        let plain = Some("text/plain".to_owned());
        let cases: &[(&[u8], _, &[u8])] = &[
            (
                b"--b b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b b\r\ncontent-type: text/plain\r\n\r\none\r\n--b\r\n--b  b\r\n\r\n--b b--\r\n",
                &plain,
                b"one\r\n--b\r\n--b  b\r\n",
            ),
            // Something before the first boundary, blanks after it, no headers, no content, nothing after the end.
            (b"hello\r\n--b b \t\r\n\r\n{}\r\n--b b\r\n\r\nx\r\n--b b--", &None, b"x"),
            (b"--b b\r\n\r\n--b b\r\nContent-Type:text/plain\r\n\r\n\r\n--b b--", &plain, b""),
            (b"--b b\r\n\r\n{}\r\n--b b\r\nX: y\r\nLocation: https://cdn/x\r\n\r\n\r\n--b b--", &Some("https://cdn/x".to_owned()), b"elsewhere"),
        ];
        for (answer, about, content) in cases {
            for pieces in [1, 2, 3, 7, 1_000] {
                let read = read_in(pieces, answer).await;
                assert_eq!(read, Ok(((*about).clone(), content.to_vec())), "{pieces} {}", answer.escape_ascii());
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_none_is_refused() {
        let endless = [b"--b b\r\n\r\n".as_slice(), &[b'x'; 3 * HEAD_BYTES_MAX]].concat();
        let cases: &[&[u8]] = &[
            b"",
            b"{}",
            b"--b b\r\n\r\n{}\r\n--b b--\r\n",
            b"--b b\r\n\r\n{}\r\n--b b\r\nContent-Type: text/plain",
            b"--b b\r\n\r\n{}\r\n--b b\r\n\r\nthe file goes on",
            b"--b b\r\n\r\n{}\r\n--b b\r\n\r\nthe file\r\n--b",
            &endless,
        ];
        for answer in cases {
            for pieces in [1, 5_000] {
                let read = read_in(pieces, answer).await;
                assert!(read.is_err(), "{read:?} {}", answer.get(..20).unwrap_or(answer).escape_ascii());
            }
        }
        let no_boundary = ["multipart/mixed", "multipart/mixed; boundary=", "text/plain; boundary=b", ""];
        for content_type in no_boundary {
            assert!(read(content_type, Body::from(Bytes::new())).await.is_err(), "{content_type}");
        }
    }
}
