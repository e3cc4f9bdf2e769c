//! Reading the log again for one destination.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, ServerName};
use samtal_model::StreamPosition;

use crate::{
    SenderError,
    audience::Audience,
    item::{Item, Placed},
    sender::Engines,
};

/// Changes read at a time.
const PAGE: i64 = 1_000;
/// Events of a room among which our newest is looked for, where the log does not reach back far enough.
const LOOKED_AT: usize = 200;
/// Missed events that are all sent, in order. Of more, only each room's newest is.
const EVENTS_MAX: usize = 1_000;

/// How much of what was missed is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    /// All of it; of very many events only the newest of each room.
    Newest,
    /// The first events, for one that answers but cannot keep up: it gets all of them in the end.
    Page,
}

/// What a destination has missed. Its size is bounded by [`EVENTS_MAX`] and the number of its rooms and of our users.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    events: Vec<(i64, OwnedRoomId, OwnedEventId)>,
    newest: Option<BTreeMap<OwnedRoomId, (i64, OwnedEventId)>>,
    devices: BTreeSet<OwnedUserId>,
    receipts: BTreeSet<(OwnedRoomId, OwnedUserId)>,
    sticky: BTreeSet<OwnedRoomId>,
}

impl Missed {
    /// Reads the log after `after` up to `until`, or to where the page is full; says to where.
    pub(crate) async fn read(
        engines: &Engines,
        destination: &ServerName,
        after: i64,
        until: i64,
        amount: Amount,
    ) -> Result<(Self, i64), SenderError> {
        let mut missed = Self::default();
        let mut position = after;
        let oldest = engines.db.changes_after(0, 1).await?;
        if oldest.first().is_none_or(|oldest| oldest.position > after + 1) && after < until {
            // The log is not kept as long as servers may be away. Then the rooms say what there is to tell.
            missed.read_rooms(engines, destination, after).await?;
        }
        while position < until {
            let changes = engines.db.changes_after(position, PAGE).await?;
            let mut audience = Audience::new(engines);
            for change in &changes {
                if change.position > until {
                    break;
                }
                let news = audience.news(change).await?.into_iter().chain(audience.missed(change).await?);
                for news in news.filter(|news| news.servers.contains(destination)) {
                    missed.add(change.position, news.item);
                    if amount == Amount::Page && missed.events.len() >= EVENTS_MAX {
                        return Ok((missed, change.position));
                    }
                }
            }
            match changes.last() {
                Some(last) => position = last.position,
                None => break,
            }
        }
        Ok((missed, until))
    }

    /// What a destination has missed since `after`, without the log: of each of its rooms our newest event, who was put out, and
    /// whose devices changed.
    async fn read_rooms(&mut self, engines: &Engines, destination: &ServerName, after: i64) -> Result<(), SenderError> {
        let graph = &engines.rooms.store().graph;
        let newest = self.newest.get_or_insert_default();
        let mut ours: BTreeSet<OwnedUserId> = BTreeSet::new();
        for room_id in graph.rooms_of_server(destination).await? {
            let Some(room) = graph.room(&room_id).await? else { continue };
            let (from, to) = (StreamPosition(i64::MAX), StreamPosition(after));
            let events = graph.timeline_back(room.nid, from, to, LOOKED_AT).await?;
            let own =
                events.iter().find(|event| event.is_visible() && event.pdu.sender().server_name() == engines.name);
            if let Some((event, position)) = own.and_then(|event| Some((event, event.position?))) {
                newest.insert(room_id, (position.0, event.pdu.event_id().to_owned()));
            }
            ours.extend(graph.joined_of(room.nid, &engines.name).await?);
        }
        for (room_id, event_id, position) in graph.put_out_since(destination, StreamPosition(after)).await? {
            newest.entry(room_id).or_insert((position.0, event_id));
        }
        for user in ours {
            if engines.e2ee.device_list_position(&user).await? > after {
                self.devices.insert(user);
            }
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, position: i64, item: Item) {
        match item {
            Item::Event { room, event_id } => match &mut self.newest {
                Some(newest) => {
                    newest.insert(room, (position, event_id));
                }
                None => {
                    self.events.push((position, room, event_id));
                    if self.events.len() > EVENTS_MAX {
                        let events = std::mem::take(&mut self.events).into_iter();
                        self.newest =
                            Some(events.map(|(position, room, event_id)| (room, (position, event_id))).collect());
                    }
                }
            },
            // Of several changes of a list only the last would be told, and that may be one of another kind: so all of it is.
            Item::DeviceList { user } | Item::Devices { user } | Item::Missed { user } => {
                self.devices.insert(user);
            }
            Item::Receipt { room, user } => {
                self.receipts.insert((room, user));
            }
            Item::Sticky { room } => {
                self.sticky.insert(room);
            }
            // They are looked up in their table in any case.
            Item::Edu => {}
        }
    }

    /// All of it, in an order to send it in. The position of each is `until`: only when all is sent may the cursor move.
    pub(crate) fn into_items(self, until: i64) -> Vec<Placed> {
        let mut events = self.events;
        // Where only the newest goes out, sticky events go out nevertheless.
        let mut sticky = self.sticky;
        sticky.extend(self.newest.iter().flat_map(|newest| newest.keys().cloned()));
        let sticky = sticky.into_iter().map(|room| Item::Sticky { room });
        if let Some(newest) = self.newest {
            events = newest.into_iter().map(|(room, (position, event_id))| (position, room, event_id)).collect();
            events.sort();
        }
        let edus = std::iter::once(Item::Edu);
        let events = events.into_iter().map(|(_, room, event_id)| Item::Event { room, event_id });
        // Devices last: the other side may need the membership first to see why they matter.
        let devices = self.devices.into_iter().map(|user| Item::Devices { user });
        let receipts = self.receipts.into_iter().map(|(room, user)| Item::Receipt { room, user });
        edus.chain(sticky)
            .chain(events)
            .chain(devices)
            .chain(receipts)
            .map(|item| Placed { position: until, item })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: i64) -> Item {
        Item::Event {
            room: OwnedRoomId::try_from(format!("!r{}:a", n % 3)).unwrap(),
            event_id: OwnedEventId::try_from(format!("$e{n}")).unwrap(),
        }
    }

    #[test]
    fn few_missed_events_all_go_out_in_order_and_of_many_the_newest_of_each_room() {
        let mut missed = Missed::default();
        (0..1_000).for_each(|n| missed.add(n, event(n)));
        let items = missed.into_items(5_000);
        let events: Vec<Item> = items.into_iter().skip(1).map(|placed| placed.item).collect();
        assert_eq!(events, (0..1_000).map(event).collect::<Vec<_>>());

        let mut missed = Missed::default();
        (0..1_000_000).for_each(|n| missed.add(n, event(n)));
        let items = missed.into_items(5_000_000);
        let rooms = (0..3).map(|n| Item::Sticky { room: OwnedRoomId::try_from(format!("!r{n}:a")).unwrap() });
        let newest: Vec<Item> = rooms.chain((999_997..1_000_000).map(event)).collect();
        assert_eq!(items.into_iter().skip(1).map(|placed| placed.item).collect::<Vec<_>>(), newest);
    }

    #[test]
    fn device_lists_and_receipts_are_said_once() {
        let mut missed = Missed::default();
        for n in 0..10 {
            missed.add(n, Item::DeviceList { user: "@a:a".try_into().unwrap() });
            missed.add(n, Item::Receipt { room: "!r:a".try_into().unwrap(), user: "@a:a".try_into().unwrap() });
            missed.add(n, Item::Edu);
        }
        assert_eq!(missed.into_items(10).len(), 3);
    }
}
