//! What the tests with matrix-sdk share.
