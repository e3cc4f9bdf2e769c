//! The Client-Server API.
