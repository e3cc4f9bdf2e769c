//! A TLS connection to whoever an authority means, within the address policy.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{ClientConfig, pki_types::ServerName};
use samtal_kit::Random;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    address::AddressPolicy,
    dns::Dns,
    network::NetworkError,
    resolve::{Authority, Host, federation_addresses, web_addresses},
};

/// One address gets so long before the next is tried.
const TCP_TIME: Duration = Duration::from_secs(5);
/// The handshake gets so long.
const TLS_TIME: Duration = Duration::from_secs(10);

/// How an authority is turned into addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// SRV records and port 8448.
    Federation,
    /// Port 443.
    Web,
}

/// Makes connections for the client's pool, which keys them by authority.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) kind: Kind,
    pub(crate) dns: Arc<dyn Dns>,
    pub(crate) addresses: Arc<AddressPolicy>,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) random: Random,
}

impl Connector {
    async fn connect(self, uri: Uri) -> Result<Stream, NetworkError> {
        let malformed = || NetworkError::Malformed(format!("no authority in {uri}"));
        if uri.scheme() != Some(&http::uri::Scheme::HTTPS) {
            return Err(malformed());
        }
        let authority = Authority::of_uri(&uri).ok_or_else(malformed)?;
        let found = match self.kind {
            Kind::Federation => federation_addresses(&authority, &*self.dns, &self.random).await,
            Kind::Web => web_addresses(&authority, &*self.dns).await,
        };
        let name = || uri.authority().map(ToString::to_string).unwrap_or_default();
        if found.is_empty() {
            return Err(NetworkError::Unresolved(name()));
        }
        let permitted: Vec<SocketAddr> = found.into_iter().filter(|address| self.addresses.permits(address.ip())).collect();
        if permitted.is_empty() {
            return Err(NetworkError::DeniedNetwork(name()));
        }
        let stream = tcp(&permitted).await?;
        // The certificate must be for the name that was asked for, never for the target of an SRV record.
        let server = match authority.host {
            Host::Ip(address) => ServerName::IpAddress(address.into()),
            Host::Name(name) => ServerName::try_from(name).map_err(|_| malformed())?,
        };
        let handshake = TlsConnector::from(self.tls.clone()).connect(server, stream);
        let stream = timeout(TLS_TIME, handshake)
            .await
            .map_err(|_| NetworkError::Timeout)?
            .map_err(|error| NetworkError::Tls(error.to_string()))?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Stream { inner: TokioIo::new(stream), h2 })
    }
}

async fn tcp(addresses: &[SocketAddr]) -> Result<TcpStream, NetworkError> {
    let mut last = NetworkError::Timeout;
    for address in addresses {
        match timeout(TCP_TIME, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small requests must not wait for an acknowledgment of earlier ones.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = NetworkError::Unreachable(format!("{address}: {error}")),
            Err(_) => last = NetworkError::Timeout,
        }
    }
    Err(last)
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = NetworkError;
    type Future = BoxFuture<'static, Result<Stream, NetworkError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NetworkError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// A connection that knows which protocol was agreed on.
pub(crate) struct Stream {
    inner: TokioIo<TlsStream<TcpStream>>,
    h2: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        if self.h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, buffers)
    }
}
