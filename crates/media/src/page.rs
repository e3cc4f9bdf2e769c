//! What a page says about itself, for previews. Pure.

use std::collections::BTreeMap;

use encoding_rs::Encoding;
use html5gum::{StartTag, Token, Tokenizer};

/// Properties taken from one page.
const PROPERTIES_MAX: usize = 64;
/// Longest value of a property, in characters.
const VALUE_CHARS_MAX: usize = 1_000;

/// As what a page links to its oEmbed document, in the form that is read.
const OEMBED_TYPE: &str = "application/json+oembed";
/// Bytes at the beginning of a page in which it may say how it is written (HTML, "prescan a byte stream").
const PRESCAN_BYTES: usize = 1_024;

/// A page's text: as a byte order mark says, or what it was sent as, or what it says itself near its beginning; otherwise
/// UTF-8.
pub(crate) fn text(content_type: &str, body: &[u8]) -> String {
    let sent_as = || charset_in(content_type.as_bytes());
    let said = || {
        let beginning = body.get(..PRESCAN_BYTES).unwrap_or(body);
        Tokenizer::new(beginning).flatten().find_map(|token| match token {
            Token::StartTag(tag) if tag.name.as_slice() == b"meta" => {
                let attribute = |name: &[u8]| {
                    tag.attributes.iter().find(|(key, _)| key.as_slice() == name).map(|(_, value)| value.as_slice())
                };
                attribute(b"charset")
                    .and_then(Encoding::for_label)
                    .or_else(|| charset_in(attribute(b"http-equiv").and(attribute(b"content"))?))
                    // Whoever can be read so far does not write in two bytes a letter.
                    .map(Encoding::output_encoding)
            }
            _ => None,
        })
    };
    let encoding = Encoding::for_bom(body).map(|(encoding, _)| encoding);
    let encoding = encoding.or_else(sent_as).or_else(said).unwrap_or(encoding_rs::UTF_8);
    encoding.decode(body).0.into_owned()
}

/// The encoding that a content type names.
fn charset_in(content_type: &[u8]) -> Option<&'static Encoding> {
    let mut parameters = content_type.split(|byte| *byte == b';').skip(1);
    parameters.find_map(|parameter| {
        let (name, value) = parameter.split_at_checked(parameter.iter().position(|byte| *byte == b'=')?)?;
        let is_charset = name.trim_ascii().eq_ignore_ascii_case(b"charset");
        let value = value.get(1..)?.trim_ascii();
        let value = value.strip_prefix(b"\"").unwrap_or(value);
        let value = value.strip_suffix(b"\"").unwrap_or(value);
        is_charset.then(|| Encoding::for_label(value)).flatten()
    })
}

/// What a page says about itself.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Its OpenGraph properties; title and description come from elsewhere in it when it has none.
    pub(crate) properties: BTreeMap<String, String>,
    /// Where it says that its oEmbed document is.
    pub(crate) oembed: Option<String>,
}

/// Reads a page.
pub(crate) fn read(html: &str) -> Page {
    let (mut found, mut oembed) = (BTreeMap::new(), None);
    let (mut title, mut description) = (String::new(), None);
    let mut in_title = false;
    for token in Tokenizer::new(html) {
        let Ok(token) = token;
        match token {
            Token::StartTag(tag) if tag.name.as_slice() == b"title" => in_title = title.is_empty(),
            Token::EndTag(tag) if tag.name.as_slice() == b"title" => in_title = false,
            Token::EndTag(tag) if tag.name.as_slice() == b"head" && found.len() > 3 => break,
            Token::String(text) if in_title => title.push_str(&String::from_utf8_lossy(&text)),
            Token::StartTag(tag) if tag.name.as_slice() == b"link" && oembed.is_none() => {
                let attribute = |name| attribute(&tag, name);
                let is_oembed = attribute(b"type").is_some_and(|kind| kind.eq_ignore_ascii_case(OEMBED_TYPE))
                    && attribute(b"rel").is_some_and(|rel| rel.eq_ignore_ascii_case("alternate"));
                oembed = attribute(b"href").filter(|_| is_oembed);
            }
            Token::StartTag(tag) if tag.name.as_slice() == b"meta" => {
                let attribute = |name| attribute(&tag, name);
                let Some(content) = attribute(b"content") else { continue };
                match attribute(b"property").or_else(|| attribute(b"name")) {
                    Some(name) if name.starts_with("og:") && found.len() < PROPERTIES_MAX && name.len() <= 64 => {
                        found.entry(name).or_insert_with(|| tidy(&content));
                    }
                    Some(name) if name.eq_ignore_ascii_case("description") => description = Some(content),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    for (name, text) in [("og:title", Some(title)), ("og:description", description)] {
        let text = text.map(|text| tidy(&text)).filter(|text| !text.is_empty());
        if let (Some(text), false) = (text, found.contains_key(name)) {
            found.insert(name.to_owned(), text);
        }
    }
    found.retain(|_, value| !value.is_empty());
    Page { properties: found, oembed }
}

fn attribute(tag: &StartTag<()>, name: &[u8]) -> Option<String> {
    let (_, value) = tag.attributes.iter().find(|(key, _)| key.as_slice() == name)?;
    Some(String::from_utf8_lossy(value.as_slice()).into_owned())
}

/// White space as single spaces, at most so long.
pub(crate) fn tidy(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|letter| !letter.is_control()).take(VALUE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::{read, text};

    #[test]
    fn a_page_is_read_as_it_is_written() {
        let swedish = b"<title>R\xe4ksm\xf6rg\xe5s</title>";
        let with = |head: &[u8]| [head, swedish].concat();
        for (content_type, body, expected) in [
            ("text/html; charset=ISO-8859-1", swedish.to_vec(), "R\u{e4}ksm\u{f6}rg\u{e5}s"),
            ("text/html;x=y; Charset=\"windows-1252\"", swedish.to_vec(), "R\u{e4}ksm\u{f6}rg\u{e5}s"),
            ("text/html", with(b"<meta charset=latin1>"), "R\u{e4}ksm\u{f6}rg\u{e5}s"),
            (
                "text/html",
                with(b"<META http-equiv=Content-Type content='text/html; charset=iso-8859-15'>"),
                "R\u{e4}ksm\u{f6}rg\u{e5}s",
            ),
            ("text/html", with(b"<meta charset=utf-16><meta charset=no-such>"), "R\u{fffd}ksm\u{fffd}rg\u{fffd}s"),
            ("text/html; charset=no-such", "<title>caf\u{e9}</title>".into(), "caf\u{e9}"),
            ("text/html; charset=shift_jis", b"<title>\x93\xfa\x96{</title>".to_vec(), "\u{65e5}\u{672c}"),
            ("text/html; charset=latin1", "\u{feff}<title>caf\u{e9}</title>".into(), "caf\u{e9}"),
        ] {
            let found = read(&text(content_type, &body)).properties;
            assert_eq!(found.get("og:title").map(String::as_str), Some(expected), "{content_type}");
        }
    }

    fn check(html: &str, expected: &[(&str, &str)]) {
        let found = read(html).properties;
        let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_page_speaks_by_its_properties() {
        check(
            r#"<html><head><title>The &amp; Title</title><meta property="og:title" content="Fish &lt;3">
               <META content='a.png' PROPERTY=og:image></head><body><p>text"#,
            &[("og:image", "a.png"), ("og:title", "Fish <3")],
        );
    }

    #[test]
    fn a_page_without_them_has_a_title_and_a_description() {
        check(
            "<title> A\n  page </title><meta name=Description content='What it is'><svg><title>no</title></svg>",
            &[("og:description", "What it is"), ("og:title", "A page")],
        );
    }

    #[test]
    fn a_page_says_where_its_oembed_document_is() {
        for (html, expected) in [
            ("<link rel=alternate type='application/json+oembed' href='/o?a=1&amp;b=2'>", Some("/o?a=1&b=2")),
            ("<LINK REL=Alternate TYPE=Application/JSON+oEmbed HREF=x><link rel=alternate href=y>", Some("x")),
            ("<link rel=alternate type=text/xml+oembed href=x><link rel=stylesheet href=y>", None),
            ("<link rel=alternate type=application/json+oembed>", None),
        ] {
            assert_eq!(read(html).oembed.as_deref(), expected, "{html}");
        }
    }

    #[test]
    fn soup_is_no_trouble() {
        check("<meta property=og:title", &[]);
        check("<<<>><title", &[]);
        check("", &[]);
        check("<meta property=og:x content=''>", &[]);
    }
}
