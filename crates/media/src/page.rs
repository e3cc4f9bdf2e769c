//! What a page says about itself, for previews. Pure.

use std::collections::BTreeMap;

use html5gum::{Token, Tokenizer};

/// Properties taken from one page.
const PROPERTIES_MAX: usize = 64;
/// Longest value of a property, in characters.
const VALUE_CHARS_MAX: usize = 1_000;

/// The page's OpenGraph properties; title and description come from elsewhere in it when it has none.
pub(crate) fn properties(html: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let (mut title, mut description) = (String::new(), None);
    let mut in_title = false;
    for token in Tokenizer::new(html) {
        let Ok(token) = token;
        match token {
            Token::StartTag(tag) if tag.name.as_slice() == b"title" => in_title = title.is_empty(),
            Token::EndTag(tag) if tag.name.as_slice() == b"title" => in_title = false,
            Token::EndTag(tag) if tag.name.as_slice() == b"head" && found.len() > 3 => break,
            Token::String(text) if in_title => title.push_str(&String::from_utf8_lossy(&text)),
            Token::StartTag(tag) if tag.name.as_slice() == b"meta" => {
                let attribute = |name: &[u8]| {
                    let (_, value) = tag.attributes.iter().find(|(key, _)| key.as_slice() == name)?;
                    Some(String::from_utf8_lossy(value.as_slice()).into_owned())
                };
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
    found
}

/// White space as single spaces, at most so long.
fn tidy(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|letter| !letter.is_control()).take(VALUE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::properties;

    fn check(html: &str, expected: &[(&str, &str)]) {
        let found = properties(html);
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
    fn soup_is_no_trouble() {
        check("<meta property=og:title", &[]);
        check("<<<>><title", &[]);
        check("", &[]);
        check("<meta property=og:x content=''>", &[]);
    }
}
