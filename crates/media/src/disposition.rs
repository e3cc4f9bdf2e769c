//! The headers that keep a file from acting in this server's name in a browser.

/// Media types that a browser may show by itself: they cannot run scripts.
const INLINE: &[&str] = &[
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];
/// Longest file name that is passed on, in characters.
const NAME_CHARS_MAX: usize = 255;

/// `Content-Security-Policy` of all files.
pub const CONTENT_SECURITY_POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';";

/// `Content-Disposition` of a file with this media type and name.
pub fn content_disposition(content_type: Option<&str>, file_name: Option<&str>) -> String {
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let kind = if INLINE.contains(&essence.as_str()) { "inline" } else { "attachment" };
    let name: String =
        file_name.unwrap_or_default().chars().filter(|letter| !letter.is_control()).take(NAME_CHARS_MAX).collect();
    if name.is_empty() {
        return kind.to_owned();
    }
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.bytes().all(is_token) {
        format!("{kind}; filename={name}")
    } else if name.is_ascii() {
        format!("{kind}; filename=\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        format!("{kind}; filename*=utf-8''{}", percent_encoded(&name))
    }
}

/// RFC 8187.
fn percent_encoded(name: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(name.len() * 3);
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::content_disposition;

    #[test]
    fn note_70_only_harmless_types_are_shown_inline() {
        for (content_type, shown) in [
            (Some("image/png"), "inline"),
            (Some("text/plain; charset=utf-8"), "inline"),
            (Some("Image/PNG"), "inline"),
            (Some("image/svg+xml"), "attachment"),
            (Some("text/html"), "attachment"),
            (Some("text/html;image/png"), "attachment"),
            (None, "attachment"),
        ] {
            assert_eq!(content_disposition(content_type, None), shown, "{content_type:?}");
        }
    }

    #[test]
    fn note_70_names_cannot_leave_their_parameter() {
        for (name, shown) in [
            ("a.png", "attachment; filename=a.png"),
            ("a b.png", "attachment; filename=\"a b.png\""),
            ("a\"; x=\"\\", "attachment; filename=\"a\\\"; x=\\\"\\\\\""),
            ("a\r\nx: y", "attachment; filename=\"ax: y\""),
            ("räksmörgås", "attachment; filename*=utf-8''r%C3%A4ksm%C3%B6rg%C3%A5s"),
        ] {
            assert_eq!(content_disposition(None, Some(name)), shown);
        }
    }
}
