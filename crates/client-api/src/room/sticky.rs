//! For how long an event is to be sticky (MSC4354).

use samtal_event::Draft;
use samtal_room::STICKY_MS_MAX;
use serde::Deserialize;

use crate::ApiError;

#[derive(Deserialize)]
struct Query {
    #[serde(rename = "org.matrix.msc4354.sticky_duration_ms")]
    duration_ms: Option<i64>,
}

/// What the query of a request says, in milliseconds.
pub(super) fn duration_of(query: Option<&str>) -> Result<Option<i64>, ApiError> {
    let Some(query) = query.filter(|query| query.contains("msc4354.sticky_duration_ms=")) else { return Ok(None) };
    let wrong = || {
        ApiError::invalid_param(format!("org.matrix.msc4354.sticky_duration_ms is a number from 0 to {STICKY_MS_MAX}"))
    };
    let query: Query = serde_html_form::from_str(query).map_err(|_| wrong())?;
    match query.duration_ms {
        Some(duration_ms) if !(0..=STICKY_MS_MAX).contains(&duration_ms) => Err(wrong()),
        duration_ms => Ok(duration_ms),
    }
}

/// The draft, sticky as the query of its request says.
pub(super) fn with_duration(draft: Draft, query: Option<&str>) -> Result<Draft, ApiError> {
    match duration_of(query)? {
        Some(duration_ms) => Ok(samtal_ops::delayed_event::sticky(draft, duration_ms)?),
        None => Ok(draft),
    }
}
