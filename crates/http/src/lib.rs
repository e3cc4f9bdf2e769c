//! Speaking HTTP, as a server and as a client, within limits.
//!
//! [`server`] takes connections (TCP, TLS by rustls, HTTP/1.1 and 2) for an axum router, with time limits, size limits,
//! CORS, request ids and an orderly end. [`client`] is the one way out: every connection is checked against the
//! [`address`] policy after its name is resolved, and every answer is bounded in time and size.
//!
//! Nothing here knows Matrix but the shape of its errors ([`error_body`]), which a limit that is hit must have too.

pub mod address;
pub mod body;
pub mod client;
pub mod connect;
mod cors;
mod crowd;
mod handle;
mod proxy;
pub mod server;
pub mod tls;

pub use address::{AddressPolicy, Network};
pub use body::{BodyError, collect};
pub use client::{Client, ClientError, ClientOptions, Limits as FetchLimits};
pub use connect::{Direct, Resolve, Target};
pub use handle::{Peer, RequestId, error_body, error_response};
pub use proxy::{NoProxy, Proxy};
pub use server::{Listener, Server, ServerOptions, tell_route};
pub use tls::{Certificate, Certificates, TlsError};
