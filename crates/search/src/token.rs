//! Where a search goes on: opaque to clients.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{SearchError, found::GroupBy, query::Reach};

/// A place in the results of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) reach: Reach,
    /// The document before which to go on (by time), or how many have been shown (by rank).
    pub(crate) at: i64,
    /// The only group to go on with.
    pub(crate) group: Option<(GroupBy, String)>,
}

#[derive(Deserialize, Serialize)]
struct Form(u8, i64, Option<(u8, String)>);

impl Token {
    pub(crate) fn print(&self) -> String {
        let group = self.group.as_ref().map(|(by, of)| (u8::from(*by == GroupBy::Sender), of.clone()));
        let form = Form(u8::from(self.reach == Reach::Part), self.at, group);
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&form).unwrap_or_default())
    }

    pub(crate) fn parse(text: &str) -> Result<Self, SearchError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SearchError::BadToken)?;
        let Form(reach, at, group) = serde_json::from_slice(&bytes).map_err(|_| SearchError::BadToken)?;
        let reach = if reach == 0 { Reach::Form } else { Reach::Part };
        let by = |by| if by == 0 { GroupBy::Room } else { GroupBy::Sender };
        Ok(Self { reach, at, group: group.map(|(kind, of)| (by(kind), of)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_as_it_was_written() {
        let token = Token { reach: Reach::Part, at: -7, group: Some((GroupBy::Sender, "@a:b".into())) };
        assert_eq!(Token::parse(&token.print()).unwrap(), token);
        assert!(Token::parse("nonsense").is_err());
    }
}
