//! Writing JSON straight into a text, without a tree of values: most of an answer is stored JSON that is passed through.

use samtal_event::json::write_string;

/// An object under way.
pub(crate) struct Object<'a> {
    out: &'a mut String,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Begins an object at the end of `out`.
    pub(crate) fn new(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, empty: true }
    }

    /// Begins a member, whose value is to be written into the answer.
    pub(crate) fn key(&mut self, name: &str) -> &mut String {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        write_string(name, self.out);
        self.out.push(':');
        self.out
    }

    /// A member that is JSON already.
    pub(crate) fn raw(&mut self, name: &str, json: &str) {
        self.key(name).push_str(json);
    }

    /// A member that is a text.
    pub(crate) fn text(&mut self, name: &str, text: &str) {
        write_string(text, self.key(name));
    }

    /// A member that is a number.
    pub(crate) fn number(&mut self, name: &str, number: u64) {
        self.key(name).push_str(&number.to_string());
    }

    /// A member that is `true` or `false`.
    pub(crate) fn flag(&mut self, name: &str, flag: bool) {
        self.key(name).push_str(if flag { "true" } else { "false" });
    }

    /// A member that is an object; left out when `write` writes nothing into it.
    pub(crate) fn object(&mut self, name: &str, write: impl FnOnce(&mut Object<'_>)) {
        let length = self.out.len();
        let was_empty = self.empty;
        let mut inner = Object::new(self.key(name));
        write(&mut inner);
        if inner.empty {
            self.out.truncate(length);
            self.empty = was_empty;
        } else {
            inner.end();
        }
    }

    /// A member `{"events": [...]}`; left out when there are none.
    pub(crate) fn events<T: AsRef<str>>(&mut self, name: &str, events: &[T]) {
        if !events.is_empty() {
            let out = self.key(name);
            out.push_str("{\"events\":");
            array(out, events);
            out.push('}');
        }
    }

    /// Ends the object.
    pub(crate) fn end(self) {
        self.out.push('}');
    }
}

/// An array of values that are JSON already.
pub(crate) fn array<T: AsRef<str>>(out: &mut String, values: &[T]) {
    out.push('[');
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(value.as_ref());
    }
    out.push(']');
}

/// An array of texts.
pub(crate) fn texts<T: AsRef<str>>(out: &mut String, values: impl IntoIterator<Item = T>) {
    out.push('[');
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_string(value.as_ref(), out);
    }
    out.push(']');
}

/// `{"type": ..., "content": ...}`.
pub(crate) fn event(event_type: &str, content: &str) -> String {
    let mut out = String::with_capacity(content.len() + event_type.len() + 24);
    let mut object = Object::new(&mut out);
    object.raw("content", content);
    object.text("type", event_type);
    object.end();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_without_members_leaves_no_trace_in_the_one_around_it() {
        let mut out = String::new();
        let mut object = Object::new(&mut out);
        object.object("none", |_| {});
        object.text("a\"b", "c");
        object.object("some", |inner| {
            inner.object("none", |_| {});
            inner.flag("yes", true);
            inner.events::<&str>("no", &[]);
            inner.events("events", &["1", "2"]);
        });
        object.end();
        assert_eq!(out, r#"{"a\"b":"c","some":{"yes":true,"events":{"events":[1,2]}}}"#);
    }
}
