//! The body of a transaction of another server, before any event in it is looked at.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Most events of a transaction.
const PDUS_MAX: usize = 50;
/// Most passing messages of a transaction.
const EDUS_MAX: usize = 100;

/// The events and passing messages of a transaction, as texts. Whatever else stands there is nothing to us.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct TransactionBody {
    /// Events.
    #[serde(default)]
    pub pdus: Vec<Box<RawValue>>,
    /// Passing messages. ruma's list of them is typed; this one may hold what nobody knows.
    #[serde(default)]
    pub edus: Vec<Box<RawValue>>,
}

/// Why a body is no transaction.
#[derive(Debug, thiserror::Error)]
pub enum TransactionBodyError {
    /// It is not JSON, or something in it has the wrong type.
    #[error("the transaction cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// It has more events or messages than a transaction may have.
    #[error("the transaction has more than {PDUS_MAX} events or {EDUS_MAX} messages")]
    TooMany,
}

impl TransactionBody {
    /// Reads a body.
    ///
    /// # Errors
    /// It is not JSON, or has too much in it.
    pub fn parse(json: &[u8]) -> Result<Self, TransactionBodyError> {
        let body: Self = serde_json::from_slice(json)?;
        if body.pdus.len() > PDUS_MAX || body.edus.len() > EDUS_MAX {
            return Err(TransactionBodyError::TooMany);
        }
        Ok(body)
    }
}
