//! What a page's oEmbed document says, for previews: title, site, picture, and the words of what is to be embedded. Pure.

use std::collections::BTreeMap;

use html5gum::{Token, Tokenizer};
use serde_json::Value;

use crate::page::tidy;

/// Longest markup that words are taken from, in bytes.
const HTML_BYTES_MAX: usize = 32 * 1024;

/// The document's properties, by their OpenGraph names. Nothing from what is no such document.
pub(crate) fn properties(json: &[u8]) -> BTreeMap<String, String> {
    let Ok(Value::Object(document)) = serde_json::from_slice(json) else { return BTreeMap::new() };
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    let kind = text("type").unwrap_or_default();
    let picture = match kind {
        "photo" => text("url").or_else(|| text("thumbnail_url")),
        _ => text("thumbnail_url"),
    };
    let words = text("html").filter(|html| kind == "rich" && html.len() <= HTML_BYTES_MAX).map(words);
    let found = [
        ("og:title", text("title").map(tidy)),
        ("og:site_name", text("provider_name").map(tidy)),
        ("og:image", picture.map(tidy)),
        ("og:description", words),
    ];
    let found = found.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    found.filter(|(_, value)| !value.is_empty()).collect()
}

/// The words that a browser would show of the markup.
fn words(html: &str) -> String {
    let mut hidden = false;
    let mut words = String::new();
    for token in Tokenizer::new(html) {
        let Ok(token) = token;
        match token {
            Token::StartTag(tag) => hidden = matches!(tag.name.as_slice(), b"script" | b"style"),
            Token::EndTag(_) => hidden = false,
            Token::String(text) if !hidden => {
                words.push_str(&String::from_utf8_lossy(&text));
                words.push(' ');
            }
            _ => {}
        }
    }
    tidy(&words)
}

#[cfg(test)]
mod tests {
    use super::properties;

    fn check(json: &str, expected: &[(&str, &str)]) {
        let found = properties(json.as_bytes());
        let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, expected, "{json}");
    }

    #[test]
    fn each_kind_of_document_says_what_it_can() {
        check(
            r#"{"version":"1.0","type":"video","title":"A  film","provider_name":"Films","thumbnail_url":"/a.png","html":"<b>no</b>"}"#,
            &[("og:image", "/a.png"), ("og:site_name", "Films"), ("og:title", "A film")],
        );
        check(
            r#"{"type":"photo","url":"https://a.example/large.jpg","thumbnail_url":"small.jpg"}"#,
            &[("og:image", "https://a.example/large.jpg")],
        );
        check(
            r#"{"type":"rich","html":"<style>p{}</style><p>Hello, <a href=x>world</a> &amp; all<script>bad()</script></p>"}"#,
            &[("og:description", "Hello, world & all")],
        );
    }

    #[test]
    fn soup_is_no_trouble() {
        for json in ["", "[]", "null", r#"{"title":7,"html":["x"],"type":{}}"#, &"[".repeat(50_000), "{\"title\":\""] {
            check(json, &[]);
        }
    }
}
