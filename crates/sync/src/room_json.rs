//! The sections of a room in `GET /v3/sync`, written.

use samtal_model::{StreamPosition, SyncToken};
use samtal_push::Counts;

use crate::{
    json::{self, Object},
    room::{Draft, Round},
    summary::Summary,
    v3::StateAfter,
};

/// The `summary` of a room's members.
pub(crate) fn write_summary(object: &mut Object<'_>, summary: &Summary) {
    if let Some(heroes) = &summary.heroes {
        json::texts(object.key("m.heroes"), heroes);
    }
    object.number("m.joined_member_count", summary.joined);
    object.number("m.invited_member_count", summary.invited);
}

/// `state`, or `state_after` under the name that was asked for.
pub(crate) fn write_state<T: AsRef<str>>(object: &mut Object<'_>, state_after: StateAfter, events: &[T]) {
    let name = match state_after {
        StateAfter::No => "state",
        StateAfter::Stable => "state_after",
        StateAfter::Unstable => "org.matrix.msc4222.state_after",
    };
    write_section(object, name, events);
}

/// A section of a room, which clients expect to be there even when it is empty.
pub(crate) fn write_section<T: AsRef<str>>(object: &mut Object<'_>, name: &str, events: &[T]) {
    let out = object.key(name);
    out.push_str("{\"events\":");
    json::array(out, events);
    out.push('}');
}

/// The `timeline`: of a room of which nothing new is shown, an empty one.
pub(crate) fn write_timeline(object: &mut Object<'_>, draft: Option<&Draft>, round: &Round<'_>) {
    let (events, limited, prev) = match draft {
        Some(draft) => (&*draft.events, draft.timeline.limited, draft.timeline.prev),
        None => (&[][..], false, StreamPosition(round.until)),
    };
    object.object("timeline", |inner| {
        json::array(inner.key("events"), events);
        inner.flag("limited", limited);
        // Nothing is before a first sync that has everything: who asks at its token means the room of now. Clients that ask
        // there for messages get what they hold once more, as they do of Synapse, and SyTest holds servers to it.
        let whole = !limited && round.since.is_none();
        let prev = if whole { StreamPosition(round.until) } else { prev };
        inner.text("prev_batch", &SyncToken::at(prev).to_string());
    });
}

/// The unread counts, of threads apart if the reader wants that.
pub(crate) fn write_counts(object: &mut Object<'_>, counts: &Counts, by_thread: bool) {
    let write = |inner: &mut Object<'_>, count: samtal_push::Count| {
        inner.number("highlight_count", count.highlights);
        inner.number("notification_count", count.notifications);
    };
    let own = if by_thread { counts.main } else { counts.total() };
    object.object("unread_notifications", |inner| write(inner, own));
    if by_thread {
        object.object("unread_thread_notifications", |inner| {
            for (thread, count) in &counts.threads {
                inner.object(thread, |inner| write(inner, *count));
            }
        });
    }
}
