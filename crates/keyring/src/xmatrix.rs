//! The `Authorization: X-Matrix` header: [Request authentication, Matrix 1.19](https://spec.matrix.org/v1.19/server-server-api/#request-authentication).
//!
//! Read by RFC 9110: names in any case, optional whitespace, quoted strings with escapes, and beyond it, as servers send them, colons
//! and slashes in bare values.

use ruma::{OwnedServerName, ServerName, signatures::Ed25519KeyPair};
use samtal_event::json::{JsonError, Numbers, Object, Value, parse};

use crate::signed::{base64, bytes_of, verifies};

/// Longest header that is read, in bytes.
const HEADER_BYTES_MAX: usize = 4096;

/// A parsed X-Matrix header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XMatrix {
    /// The server that says it made the request.
    pub origin: OwnedServerName,
    /// The server the request is for; old servers leave it out.
    pub destination: Option<OwnedServerName>,
    /// Id of the key, `ed25519:name`.
    pub key: String,
    /// The signature's bytes.
    pub sig: Vec<u8>,
}

/// Why a header is no X-Matrix header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XMatrixError {
    /// Another scheme, or none.
    #[error("the authorization header is not of the scheme X-Matrix")]
    Scheme,
    /// The list of parameters cannot be read.
    #[error("the X-Matrix header cannot be read")]
    Syntax,
    /// A parameter stands there twice.
    #[error("the X-Matrix header gives {0} twice")]
    Twice(&'static str),
    /// A parameter is missing.
    #[error("the X-Matrix header lacks {0}")]
    Missing(&'static str),
    /// A parameter has no acceptable value.
    #[error("the X-Matrix header has an unusable {0}")]
    Value(&'static str),
}

impl XMatrix {
    /// Reads the value of an `Authorization` header.
    pub fn parse(header: &str) -> Result<Self, XMatrixError> {
        if header.len() > HEADER_BYTES_MAX {
            return Err(XMatrixError::Syntax);
        }
        let header = header.trim_matches(is_space);
        let (scheme, mut rest) = header.split_once(is_space).ok_or(XMatrixError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("X-Matrix") {
            return Err(XMatrixError::Scheme);
        }
        let (mut origin, mut destination, mut key, mut sig) = (None, None, None, None);
        loop {
            rest = rest.trim_start_matches(|c| is_space(c) || c == ',');
            if rest.is_empty() {
                break;
            }
            let (name, value, left) = parameter(rest).ok_or(XMatrixError::Syntax)?;
            rest = left;
            let (slot, word) = match name.to_ascii_lowercase().as_str() {
                "origin" => (&mut origin, "origin"),
                "destination" => (&mut destination, "destination"),
                "key" => (&mut key, "key"),
                "sig" => (&mut sig, "sig"),
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(XMatrixError::Twice(word));
            }
        }
        let server = |text: String, word| OwnedServerName::try_from(text).map_err(|_| XMatrixError::Value(word));
        let key = key.ok_or(XMatrixError::Missing("key"))?;
        // What cannot be printed could not be written into a header again either.
        if !key.starts_with("ed25519:") || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(XMatrixError::Value("key"));
        }
        Ok(Self {
            origin: server(origin.ok_or(XMatrixError::Missing("origin"))?, "origin")?,
            destination: destination.map(|text| server(text, "destination")).transpose()?,
            key,
            sig: base64(&sig.ok_or(XMatrixError::Missing("sig"))?).ok_or(XMatrixError::Value("sig"))?,
        })
    }

    /// Signs a request. `uri` is the raw path and query, `content` the JSON body, empty for none.
    pub fn sign(
        origin: &ServerName,
        destination: &ServerName,
        key: &Ed25519KeyPair,
        method: &str,
        uri: &str,
        content: &str,
    ) -> Result<Self, JsonError> {
        use ruma::signatures::KeyPair;
        let signature = key.sign(request_bytes(origin, destination, method, uri, content)?.as_bytes());
        Ok(Self {
            origin: origin.to_owned(),
            destination: Some(destination.to_owned()),
            key: signature.id(),
            sig: signature.as_bytes().to_vec(),
        })
    }

    /// Whether the signature by `public_key` covers this request. `destination` is our name: the one the header gives must have been
    /// compared with it before.
    pub fn verify(
        &self,
        destination: &ServerName,
        public_key: &[u8],
        method: &str,
        uri: &str,
        content: &str,
    ) -> Result<bool, JsonError> {
        let with = request_bytes(&self.origin, destination, method, uri, content)?;
        Ok(verifies(public_key, &self.sig, with.as_bytes()))
    }
}

impl std::fmt::Display for XMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Everything is quoted: a server name with a port is no token of RFC 9110.
        write!(f, "X-Matrix origin={}", quoted(self.origin.as_str()))?;
        if let Some(destination) = &self.destination {
            write!(f, ",destination={}", quoted(destination.as_str()))?;
        }
        let sig: ruma::serde::Base64 = ruma::serde::Base64::new(self.sig.clone());
        write!(f, ",key={},sig={}", quoted(&self.key), quoted(&sig.encode()))
    }
}

fn request_bytes(
    origin: &ServerName,
    destination: &ServerName,
    method: &str,
    uri: &str,
    content: &str,
) -> Result<String, JsonError> {
    let mut object = Object::new();
    object.insert("method", Value::from(method));
    object.insert("uri", Value::from(uri));
    object.insert("origin", Value::from(origin.as_str()));
    object.insert("destination", Value::from(destination.as_str()));
    if !content.is_empty() {
        object.insert("content", parse(content, Numbers::Lax)?);
    }
    Ok(bytes_of(&mut object))
}

fn is_space(c: char) -> bool {
    c == ' ' || c == '\t'
}

/// One `name=value`, and what follows it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.split_once('=')?;
    let name = name.trim_end_matches(is_space);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
        return None;
    }
    let rest = rest.trim_start_matches(is_space);
    if let Some(quoted) = rest.strip_prefix('"') {
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        while let Some((at, c)) = characters.next() {
            match c {
                '"' => return after_value(quoted.get(at + 1..)?).map(|rest| (name, value, rest)),
                '\\' => value.push(characters.next()?.1),
                c if c.is_ascii_control() && c != '\t' => return None,
                c => value.push(c),
            }
        }
        None
    } else {
        let end = rest.find(|c| c == ',' || is_space(c)).unwrap_or(rest.len());
        let (value, rest) = rest.split_at_checked(end)?;
        if value.is_empty() || value.contains('"') {
            return None;
        }
        after_value(rest).map(|rest| (name, value.to_owned(), rest))
    }
}

/// After a value comes a comma or nothing.
fn after_value(rest: &str) -> Option<&str> {
    let rest = rest.trim_start_matches(is_space);
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(',') }
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if c == '"' || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::own::OwnKey;

    #[test]
    fn note_30_the_header_is_read_by_rfc_9110() {
        let plain =
            XMatrix::parse(r#"X-Matrix origin="a.example",destination="b.example",key="ed25519:k1",sig="dGVzdA""#)
                .unwrap();
        for same in [
            r#"x-matrix ORIGIN=a.example , Destination = "b.example",	key=ed25519:k1, sig=dGVzdA=="#,
            r#"X-MATRIX key="ed25519:\k1",,sig="dGVzdA==",origin="a.example",destination=b.example,"#,
            r#"X-Matrix future="1,2 \" 3",origin=a.example,destination=b.example,key=ed25519:k1,sig=dGVzdA"#,
        ] {
            assert_eq!(XMatrix::parse(same).unwrap(), plain, "{same}");
        }
        let port = XMatrix::parse("X-Matrix origin=a.example:8448,key=ed25519:k1,sig=dGVzdA").unwrap();
        assert_eq!((port.origin.as_str(), port.destination), ("a.example:8448", None));
    }

    #[test]
    fn note_30_malformed_headers_are_refused() {
        use XMatrixError::{Missing, Scheme, Syntax, Twice, Value};
        for (header, error) in [
            ("X-Matrix origin=a.example,key=\"ed25519:\u{5}\",sig=dGVzdA", Syntax),
            ("", Scheme),
            ("X-Matrix", Scheme),
            ("Bearer abc", Scheme),
            ("X-Matrix ,", Missing("key")),
            ("X-Matrix origin", Syntax),
            ("X-Matrix origin=", Syntax),
            (r#"X-Matrix origin="a"#, Syntax),
            (r#"X-Matrix origin="a"b,key=ed25519:k,sig=dGVzdA"#, Syntax),
            ("X-Matrix origin=a,origin=b,key=ed25519:k,sig=dGVzdA", Twice("origin")),
            ("X-Matrix origin=a/b,key=ed25519:k,sig=dGVzdA", Value("origin")),
            ("X-Matrix origin=a,key=rsa:k,sig=dGVzdA", Value("key")),
            ("X-Matrix origin=a,key=ed25519:k,sig=!", Value("sig")),
            ("X-Matrix origin=a,key=ed25519:k", Missing("sig")),
        ] {
            assert_eq!(XMatrix::parse(header), Err(error), "{header}");
        }
    }

    #[test]
    fn note_30_the_signature_covers_method_uri_names_and_content() {
        let key = OwnKey::from_seed("ed25519:k1", [7; 32], 0, None).unwrap();
        let (us, them) = (server_name!("us.example"), server_name!("them.example:8448"));
        let uri = "/_matrix/federation/v1/event/%24abc?x=%C3%A9";
        let body = r#"{"b":1.50,"a":"é"}"#;
        let header = XMatrix::sign(us, them, key.pair(), "PUT", uri, body).unwrap();
        let header = XMatrix::parse(&header.to_string()).unwrap();
        let public = key.public_key();
        let check = |method, uri, body| header.verify(them, &public, method, uri, body).unwrap();
        assert!(check("PUT", uri, r#"{ "a": "\u00e9", "b": 1.50 }"#), "the content is compared in canonical form");
        assert!(!check("POST", uri, body));
        assert!(
            !check("PUT", "/_matrix/federation/v1/event/$abc?x=%C3%A9", body),
            "the uri is compared as it was sent"
        );
        assert!(!check("PUT", uri, r#"{"b":1.5,"a":"é"}"#));
        assert!(!check("PUT", uri, ""));
        assert!(!header.verify(server_name!("other.example"), &public, "PUT", uri, body).unwrap());
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read_or_refused(text in ".{0,200}", params in "X-Matrix [a-z=\",\\\\ :@\\[\\].0-9]{0,120}") {
            let _ = XMatrix::parse(&text);
            let _ = XMatrix::parse(&params);
        }

        #[test]
        fn what_is_written_is_read_back(
            origin in "[a-z]{1,10}(\\.[a-z]{1,5}){0,2}(:[1-9][0-9]{0,3})?",
            name in "[!-~]{1,30}",
            sig in proptest::collection::vec(proptest::num::u8::ANY, 1..80),
        ) {
            let origin = OwnedServerName::try_from(origin).unwrap();
            let header = XMatrix { origin: origin.clone(), destination: Some(origin), key: format!("ed25519:{name}"), sig };
            proptest::prop_assert_eq!(XMatrix::parse(&header.to_string()), Ok(header));
        }
    }
}
