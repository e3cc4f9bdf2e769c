//! Rooms that services list as those of other networks (AS API, "Application service room directories").

use ruma::{OwnedRoomId, RoomId};
use samtal_db::{Batch, DbError, Row, params};

use crate::{Appservices, schema};

impl Appservices {
    /// Puts a room into a service's list of a network, or takes it out.
    pub async fn list_room(&self, service: &str, network: &str, room: &RoomId, listed: bool) -> Result<(), DbError> {
        let sql = if listed { &schema::ROOM_LIST } else { &schema::ROOM_UNLIST };
        let mut batch = Batch::new();
        batch.exec(sql, params![room.as_str(), service, network]);
        self.db().commit(batch).await?;
        Ok(())
    }

    /// The rooms of one instance of a network: `service|network`, as [`Appservices::protocols`] names it.
    pub async fn rooms_of_instance(&self, instance: &str) -> Result<Vec<OwnedRoomId>, DbError> {
        let Some((service, network)) = instance.split_once('|') else { return Ok(Vec::new()) };
        Ok(rooms(&self.db().query(&schema::ROOMS_OF, params![service, network]).await?))
    }

    /// The rooms of all networks.
    pub async fn rooms_of_networks(&self) -> Result<Vec<OwnedRoomId>, DbError> {
        Ok(rooms(&self.db().query(&schema::ROOMS_ALL, params![]).await?))
    }
}

fn rooms(rows: &[Row]) -> Vec<OwnedRoomId> {
    rows.iter().filter_map(|row| RoomId::parse(row.text(0).ok()?).ok()).collect()
}
