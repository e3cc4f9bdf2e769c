//! Which state events of a room a client wants.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, UserId};

/// Any type, or any key.
const ANY: &str = "*";
/// The member event type.
const MEMBER: &str = "m.room.member";

/// One wish: pairs of type and state key, each of which may be `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    pairs: BTreeSet<(String, String)>,
    excluded: BTreeSet<(String, String)>,
    /// Members are told as their events are shown.
    lazy: bool,
}

impl Wish {
    /// As the deployed interface has it: `$ME` is the reader, `$LAZY` those whose events are shown.
    pub(crate) fn of_pairs(pairs: &[(String, String)], reader: &UserId) -> Self {
        let mut wish = Self::default();
        for (event_type, state_key) in pairs {
            match (&**event_type, &**state_key) {
                (MEMBER, "$LAZY") => wish.lazy = true,
                (_, "$ME") => wish.add(event_type, reader.as_str()),
                _ => wish.add(event_type, state_key),
            }
        }
        wish
    }

    /// As the accepted proposal has it; a missing type or key stands for any.
    pub(crate) fn of_sets(
        include: &[super::request::Pattern],
        exclude: &[super::request::Pattern],
        lazy: bool,
    ) -> Self {
        let pair = |pattern: &super::request::Pattern| {
            let part = |part: &Option<String>| part.clone().unwrap_or_else(|| ANY.to_owned());
            (part(&pattern.event_type), part(&pattern.state_key))
        };
        Self { pairs: include.iter().map(pair).collect(), excluded: exclude.iter().map(pair).collect(), lazy }
    }

    fn add(&mut self, event_type: &str, state_key: &str) {
        self.pairs.insert((event_type.to_owned(), state_key.to_owned()));
    }

    fn has(&self, event_type: &str, state_key: &str) -> bool {
        self.pairs.contains(&(event_type.to_owned(), state_key.to_owned()))
    }

    fn wants(&self, event_type: &str, state_key: &str) -> bool {
        let excludes =
            |event_type: &str, state_key: &str| self.excluded.contains(&(event_type.to_owned(), state_key.to_owned()));
        if !self.excluded.is_empty()
            && (excludes(event_type, state_key) || excludes(event_type, ANY) || excludes(ANY, state_key))
        {
            return false;
        }
        if self.has(event_type, state_key) || self.has(event_type, ANY) || self.has(ANY, state_key) {
            return true;
        }
        // With everything wanted, a type that is named besides is wanted with the named keys only.
        let lazy_members = self.lazy && event_type == MEMBER;
        let named = self.pairs.iter().any(|(named, _)| named == event_type);
        self.has(ANY, ANY) && !named && !lazy_members
    }
}

/// All that a client wants of one room: what any of the lists and subscriptions that hold it asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Required {
    wishes: Vec<Wish>,
}

impl Required {
    pub(crate) fn add(&mut self, wish: &Wish) {
        if !self.wishes.contains(wish) {
            self.wishes.push(wish.clone());
        }
    }

    /// Whether the state event is wanted, apart from lazily loaded members.
    pub(crate) fn wants(&self, event_type: &str, state_key: &str) -> bool {
        self.wishes.iter().any(|wish| wish.wants(event_type, state_key))
    }

    /// Whether members are told as their events are shown.
    pub(crate) fn is_lazy(&self) -> bool {
        self.wishes.iter().any(|wish| wish.lazy)
    }

    /// Pairs without `*`: each can be looked up by itself.
    pub(crate) fn exact(&self) -> BTreeSet<(&str, &str)> {
        let pairs = self.wishes.iter().flat_map(|wish| &wish.pairs);
        pairs
            .filter(|(event_type, key)| event_type != ANY && key != ANY)
            .map(|(event_type, key)| (&**event_type, &**key))
            .collect()
    }

    /// Whether state other than members must be gone through.
    pub(crate) fn has_patterns(&self) -> bool {
        let pairs = self.wishes.iter().flat_map(|wish| &wish.pairs);
        pairs.into_iter().any(|(event_type, key)| event_type == ANY || event_type != MEMBER && key == ANY)
    }

    /// Whether all members must be gone through.
    pub(crate) fn wants_all_members(&self) -> bool {
        self.wants(MEMBER, "@nobody-in-particular")
    }

    /// Whether the member event of `user_id` is wanted by itself.
    pub(crate) fn wants_member(&self, user_id: &OwnedUserId) -> bool {
        self.wants(MEMBER, user_id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn required(pairs: &[(&str, &str)]) -> Required {
        let pairs: Vec<_> = pairs.iter().map(|(one, two)| ((*one).to_owned(), (*two).to_owned())).collect();
        let mut required = Required::default();
        required.add(&Wish::of_pairs(&pairs, user_id!("@me:a")));
        required
    }

    #[test]
    fn stars_stand_for_any_type_or_key() {
        let some = required(&[
            ("m.room.name", ""),
            ("m.space.child", "*"),
            ("m.room.member", "$ME"),
            ("m.room.member", "$LAZY"),
        ]);
        assert!(some.wants("m.room.name", "") && !some.wants("m.room.name", "x"));
        assert!(some.wants("m.space.child", "!any:a"));
        assert!(
            some.wants_member(&user_id!("@me:a").to_owned()) && !some.wants_member(&user_id!("@other:a").to_owned())
        );
        assert!(some.is_lazy() && some.has_patterns() && !some.wants_all_members());
        assert!(!required(&[("m.room.name", "")]).has_patterns());
    }

    #[test]
    fn with_everything_wanted_a_named_type_is_wanted_with_the_named_keys_only() {
        let all = required(&[("*", "*"), ("m.room.member", "$LAZY"), ("m.space.child", "one")]);
        assert!(all.wants("anything", "at all"));
        assert!(all.wants("m.space.child", "one") && !all.wants("m.space.child", "two"));
        assert!(!all.wants_all_members());
        assert!(required(&[("*", "*")]).wants_all_members());
    }
}
