//! A way out through an HTTP proxy: `CONNECT host:port`, then the connection is as if there were none between (RFC 9110, 9.3.6).

use std::fmt;
use std::io;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest answer to `CONNECT`, in bytes.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// A proxy that all connections go through. What is sent through it is TLS all the way, for federation always.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<String>,
}

/// Its address only: its password is nobody's business.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

/// Why a text names no proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a proxy's address such as \"http://proxy.example.org:3128\"")]
pub struct NoProxy;

impl FromStr for Proxy {
    type Err = NoProxy;

    /// From `http://host:port`, or `http://user:password@host:port`.
    fn from_str(text: &str) -> Result<Proxy, NoProxy> {
        let uri: Uri = text.parse().map_err(|_| NoProxy)?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or(NoProxy)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(NoProxy);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(NoProxy);
        }
        let authorization = match authority.as_str().rsplit_once('@') {
            Some((credentials, _)) => Some(format!("Basic {}", STANDARD.encode(unescaped(credentials)?))),
            None => None,
        };
        Ok(Proxy { host, port: authority.port_u16().unwrap_or(3128), authorization })
    }
}

/// With `%` escapes resolved, as a password may have any letters.
fn unescaped(text: &str) -> Result<Vec<u8>, NoProxy> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or(NoProxy);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| NoProxy)?);
    }
    Ok(bytes)
}

impl Proxy {
    /// Has it connect to a host.
    ///
    /// # Errors
    /// It cannot be reached, or will not.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        // Names come from other servers: what cannot stand in a request's line is none.
        if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a host's name"));
        }
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        // Byte by byte to the end of the headers: what comes after them is the other server's already.
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= ANSWER_BYTES_MAX {
                return Err(io::Error::other("its answer is too long"));
            }
            answer.push(stream.read_u8().await?);
        }
        let answer = String::from_utf8_lossy(&answer);
        let line = answer.lines().next().unwrap_or_default();
        match line.split_whitespace().nth(1) {
            Some(status) if line.starts_with("HTTP/1.") && status.len() == 3 && status.starts_with('2') => Ok(stream),
            _ => Err(io::Error::other(line.chars().take(200).collect::<String>())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_address_is_read_with_its_password() {
        let proxy: Proxy = "http://proxy.example.org:8080".parse().unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port, proxy.authorization), ("proxy.example.org", 8080, None));
        let proxy: Proxy = "http://me:p%40ss@[2001:db8::1]".parse().unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("2001:db8::1", 3128));
        assert_eq!(proxy.authorization.as_deref(), Some("Basic bWU6cEBzcw=="));
        assert!(!format!("{proxy:?}").contains("bWU"), "a password is not printed");
        for wrong in
            ["proxy.example.org:8080", "https://proxy.example.org", "http://", "http://a/path", "socks5://a:1", ""]
        {
            assert_eq!(wrong.parse::<Proxy>(), Err(NoProxy), "{wrong}");
        }
    }
}
