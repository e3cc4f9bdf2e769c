//! The life of a PDU as types: `Draft` (wished) → `UnsignedPdu` (placed in the graph) → `SignedPdu`
//! (hashed and signed by us), and from outside bytes → `ParsedPdu` (well formed) → `Verified`
//! (signatures checked). All of them end in a [`Pdu`]: checked, immutable and cheap to clone.
//!
//! Pure: no I/O, no clock, no randomness, no async.

mod client;
mod draft;
mod hash;
pub mod json;
mod limits;
mod parse;
mod pdu;
mod redact;
mod rules;
mod transaction;
mod verify;

pub use client::{Unsigned, client_form, stripped_form, write_client};
pub use draft::{Draft, DraftError, SignError, SignedPdu, UnsignedPdu, build, cosign, sign_and_hash, with_signature};
pub use hash::{content_hash, event_id, reference_hash};
pub use limits::{AUTH_EVENTS_MAX, DEPTH_MAX, ID_BYTES_MAX, JSON_NESTING_MAX, PDU_BYTES_MAX, PREV_EVENTS_MAX};
pub use parse::{FormatError, Origin, ParsedPdu, Peek, peek};
pub use pdu::{Pdu, StoredPduError};
pub use redact::{prune_content, redact};
pub use rules::rules_of;
pub use transaction::{TransactionBody, TransactionBodyError};
pub use verify::POLICY_SERVER_KEY;
pub use verify::{RequiredSignature, Verified, VerifyError, has_valid_signature, required_signatures, verify};
