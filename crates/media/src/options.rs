//! What the operator decides about files.

use std::time::Duration;

use crate::{Location, scan::Scanner};

/// What the operator decides about files.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where they are kept.
    pub location: Location,
    /// Longest upload, in bytes.
    pub upload_bytes_max: u64,
    /// Longest file of another server that is fetched, in bytes.
    pub remote_bytes_max: u64,
    /// All that one user may have uploaded, in bytes.
    pub user_bytes_max: Option<u64>,
    /// All that is kept of uploads and copies of other servers' files, in bytes.
    pub total_bytes_max: Option<u64>,
    /// Who looks at files before they are kept.
    pub scanner: Option<Scanner>,
    /// All smaller pictures together, in bytes; beyond it those go that nobody has asked for in the longest time.
    pub thumbnail_bytes_max: u64,
    /// Whether the usual smaller pictures are made when a picture is uploaded: whoever has this engine then runs
    /// [`Media::thumbnails_ahead`](crate::Media::thumbnails_ahead).
    pub thumbnails_ahead: bool,
    /// Ids that one user may have reserved and not used yet.
    pub reservations_max: u64,
    /// How long a reserved id waits for its upload.
    pub reservation: Duration,
    /// How long a file of another server is kept after it was last asked for.
    pub remote_kept: Duration,
    /// Most pixels of a picture that is made smaller; each takes four bytes of memory meanwhile.
    pub pixels_max: u64,
    /// How pages are fetched for previews; nothing when they are not. Its address policy says where the server does not go.
    pub previews: Option<samtal_http::ClientOptions>,
    /// Whether the old endpoints without authentication still give files out.
    pub legacy_downloads: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            location: Location::Memory,
            upload_bytes_max: 50 << 20,
            remote_bytes_max: 50 << 20,
            user_bytes_max: None,
            total_bytes_max: None,
            scanner: None,
            thumbnail_bytes_max: 5 << 30,
            thumbnails_ahead: false,
            reservations_max: 20,
            reservation: Duration::from_secs(24 * 3600),
            remote_kept: Duration::from_secs(90 * 24 * 3600),
            pixels_max: 32_000_000,
            previews: None,
            legacy_downloads: false,
        }
    }
}
