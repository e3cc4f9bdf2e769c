//! `/.well-known/matrix/server`: what it says, and for how long.

use http::{HeaderMap, StatusCode, header};
use ruma::OwnedServerName;
use serde_json::Value;

/// Longest answer that is read, in bytes.
pub const WELL_KNOWN_BYTES_MAX: usize = 50 * 1024;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
/// Without a word of the server an answer counts for a day,
const DEFAULT_MS: u64 = 24 * HOUR_MS;
/// never longer than two,
const MAX_MS: u64 = 48 * HOUR_MS;
/// and at least so long, lest each request asks.
const MIN_MS: u64 = MINUTE_MS;

/// What is known of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WellKnown {
    /// The server it delegates to; nothing if it does not delegate.
    pub delegated: Option<OwnedServerName>,
    /// For how long this counts, in ms.
    pub lifetime_ms: u64,
}

impl WellKnown {
    /// From an answer. What is wrong with it makes it "does not delegate", for an hour at most.
    pub fn from_answer(status: StatusCode, headers: &HeaderMap, body: &[u8], now_ms: u64) -> Self {
        match delegated(status, body) {
            Some(server) => Self { delegated: Some(server), lifetime_ms: lifetime_ms(headers, now_ms) },
            // A server in trouble may recover soon; one that has no such file will not have it in a minute.
            None if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Self::unreachable(),
            None => Self { delegated: None, lifetime_ms: HOUR_MS },
        }
    }

    /// The host could not be asked.
    pub fn unreachable() -> Self {
        Self { delegated: None, lifetime_ms: 5 * MINUTE_MS }
    }
}

fn delegated(status: StatusCode, body: &[u8]) -> Option<OwnedServerName> {
    if status != StatusCode::OK || body.len() > WELL_KNOWN_BYTES_MAX {
        return None;
    }
    let body: Value = serde_json::from_slice(body).ok()?;
    OwnedServerName::try_from(body.get("m.server")?.as_str()?).ok()
}

/// For how long the headers let an answer count.
fn lifetime_ms(headers: &HeaderMap, now_ms: u64) -> u64 {
    let mut lifetime_ms = None;
    let texts = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    for directive in texts.flat_map(|text| text.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return MIN_MS,
            "max-age" => {
                let seconds: Option<u64> = value.trim().trim_matches('"').parse().ok();
                lifetime_ms = lifetime_ms.or(seconds.map(|seconds| seconds.saturating_mul(1000)));
            }
            _ => {}
        }
    }
    if lifetime_ms.is_none() {
        lifetime_ms = headers
            .get(header::EXPIRES)
            .and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok())
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_sub(now_ms));
    }
    lifetime_ms.unwrap_or(DEFAULT_MS).clamp(MIN_MS, MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, headers: &[(header::HeaderName, &str)], body: &str) -> WellKnown {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        WellKnown::from_answer(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes(), 784_111_777_000)
    }

    #[test]
    fn note_29_an_answer_counts_as_long_as_its_headers_say_within_two_days() {
        let body = r#"{"m.server":"matrix.example:443"}"#;
        let lifetime = |headers: &[_]| read(200, headers, body).lifetime_ms;
        assert_eq!(read(200, &[], body).delegated.unwrap(), "matrix.example:443");
        assert_eq!(lifetime(&[]), 24 * HOUR_MS);
        assert_eq!(lifetime(&[(header::CACHE_CONTROL, "public, Max-Age=7200")]), 2 * HOUR_MS);
        assert_eq!(lifetime(&[(header::CACHE_CONTROL, "max-age=99999999999999999999")]), 24 * HOUR_MS);
        assert_eq!(lifetime(&[(header::CACHE_CONTROL, "max-age=9999999")]), 48 * HOUR_MS);
        assert_eq!(lifetime(&[(header::CACHE_CONTROL, "no-store")]), MIN_MS);
        assert_eq!(lifetime(&[(header::EXPIRES, "Sun, 06 Nov 1994 09:49:37 GMT")]), HOUR_MS);
        assert_eq!(lifetime(&[(header::EXPIRES, "0")]), 24 * HOUR_MS);
    }

    #[test]
    fn note_29_what_cannot_be_read_delegates_to_nobody_for_an_hour_at_most() {
        let big = format!(r#"{{"m.server":"a.example","x":"{}"}}"#, "x".repeat(WELL_KNOWN_BYTES_MAX));
        for (status, body) in [
            (200, ""),
            (200, "[]"),
            (200, r#"{"m.server":7}"#),
            (200, r#"{"m.server":"https://a.example/"}"#),
            (200, big.as_str()),
            (404, r#"{"m.server":"a.example"}"#),
            (503, ""),
        ] {
            let answer = read(status, &[(header::CACHE_CONTROL, "max-age=9999999")], body);
            assert_eq!(answer.delegated, None, "{status} {body:.20}");
            assert!(answer.lifetime_ms <= HOUR_MS);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_answer_counts_for_a_minute_to_two_days(status in 100_u16..600, cache in "[ -~]{0,40}", body in ".{0,80}", server in "[ -~]{0,30}") {
            for body in [body, format!(r#"{{"m.server":{}}}"#, Value::from(server))] {
                let answer = read(status, &[(header::CACHE_CONTROL, cache.as_str()), (header::EXPIRES, cache.as_str())], &body);
                proptest::prop_assert!((MIN_MS..=MAX_MS).contains(&answer.lifetime_ms));
            }
        }
    }
}
