//! Filtering by relations: by what an event says of another (MSC3874), and by what others say of it (CS API,
//! "related_by_rel_types", "related_by_senders").

use samtal_room::{Relation, RoomError, Store, StoredEvent};
use serde::Deserialize;

/// Which relations events must have. ruma's filter knows none of it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RelationFilter {
    #[serde(default, alias = "org.matrix.msc3874.rel_types")]
    rel_types: Option<Vec<String>>,
    #[serde(default, alias = "org.matrix.msc3874.not_rel_types")]
    not_rel_types: Option<Vec<String>>,
    #[serde(default)]
    related_by_rel_types: Option<Vec<String>>,
    #[serde(default)]
    related_by_senders: Option<Vec<String>>,
}

impl RelationFilter {
    /// Whether every event passes.
    pub(crate) fn passes_all(&self) -> bool {
        self.rel_types.is_none() && self.not_rel_types.is_none() && !self.asks_for_children()
    }

    /// Whether an event with this content is wanted.
    pub(crate) fn passes_content(&self, content: &str) -> bool {
        if self.rel_types.is_none() && self.not_rel_types.is_none() {
            return true;
        }
        let relation = Relation::of_content(content).map(|relation| relation.rel_type);
        let is_in = |names: &[String]| relation.as_ref().is_some_and(|relation| names.contains(relation));
        self.rel_types.as_deref().is_none_or(is_in) && !self.not_rel_types.as_deref().is_some_and(is_in)
    }

    fn asks_for_children(&self) -> bool {
        self.related_by_rel_types.is_some() || self.related_by_senders.is_some()
    }

    /// Whether others say of the event what is asked for.
    pub(crate) async fn passes_children(&self, store: &Store, event: &StoredEvent) -> Result<bool, RoomError> {
        if !self.asks_for_children() {
            return Ok(true);
        }
        let fits =
            |wanted: &Option<Vec<String>>, name: &String| wanted.as_ref().is_none_or(|names| names.contains(name));
        let children = store.children(event).await?;
        Ok(children.iter().any(|(rel_type, sender)| {
            fits(&self.related_by_rel_types, rel_type) && fits(&self.related_by_senders, sender)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart_by_what_they_say_of_others() {
        let filter = |json: &str| serde_json::from_str::<RelationFilter>(json).unwrap();
        let plain = r#"{"body":"x"}"#;
        let threaded = r#"{"m.relates_to":{"rel_type":"m.thread","event_id":"$a"}}"#;
        for (definition, passes_plain, passes_threaded) in [
            ("{}", true, true),
            (r#"{"org.matrix.msc3874.rel_types":["m.thread"]}"#, false, true),
            (r#"{"rel_types":["m.reference"]}"#, false, false),
            (r#"{"org.matrix.msc3874.not_rel_types":["m.thread"]}"#, true, false),
            (r#"{"rel_types":[]}"#, false, false),
        ] {
            let filter = filter(definition);
            let passed = (filter.passes_content(plain), filter.passes_content(threaded));
            assert_eq!(passed, (passes_plain, passes_threaded), "{definition}");
        }
    }
}
