//! Keys of devices here and elsewhere, for users of ours.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ruma::{DeviceId, OwnedServerName, OwnedUserId, UserId, events::room::member::MembershipState};
use samtal_account::AccountError;
use samtal_db::{Batch, DbError};
use samtal_e2ee::{
    E2eeError,
    device_key::KeysFound,
    device_list::log_change,
    one_time_key::{Claim, Claimed},
};
use samtal_model::ChangeKind;
use samtal_room::RoomError;
use serde_json::json;

use crate::{Homeserver, OpError};

/// Longest time for another server's answer, whatever the client wishes.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// Why keys could not be had or stored.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The engine says so.
    #[error(transparent)]
    E2ee(#[from] E2eeError),
    /// The accounts say so.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The rooms say so.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// Others' keys could not be had.
    #[error(transparent)]
    Remote(#[from] OpError),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] DbError),
}

/// The users asked for, each with the devices that are meant; none means all.
pub type WantedKeys = BTreeMap<OwnedUserId, Vec<String>>;

impl Homeserver {
    /// Tells those who share rooms with a user of ours that a device of theirs is new, before it has keys.
    pub async fn device_appeared(&self, user: &UserId, device: &DeviceId) -> Result<(), KeysError> {
        let mut batch = Batch::new();
        log_change(&mut batch, user, Some(device));
        self.db.commit(batch).await?;
        Ok(())
    }

    /// The keys of these users, ours and others', as `viewer` may see them. Others' servers get `time` to answer; those that
    /// do not are named.
    pub async fn query_keys(
        &self,
        viewer: &UserId,
        wanted: WantedKeys,
        time: Duration,
    ) -> Result<(KeysFound, Vec<OwnedServerName>), KeysError> {
        let (here, elsewhere): (WantedKeys, WantedKeys) =
            wanted.into_iter().partition(|(user, _)| self.accounts.is_local(user));
        let mut found = self.e2ee.keys_query(&here, Some(viewer)).await?;
        self.name_devices(&mut found).await?;
        if elsewhere.is_empty() {
            with_unsigned(&mut found);
            return Ok((found, Vec::new()));
        }
        let (more, failed) = self.remote_keys(&elsewhere, Some(viewer), time.min(ANSWER_TIME_MAX)).await?;
        found.device_keys.extend(more.device_keys);
        found.master_keys.extend(more.master_keys);
        found.self_signing_keys.extend(more.self_signing_keys);
        with_unsigned(&mut found);
        Ok((found, failed))
    }

    /// Adds the display names of our users' devices.
    pub async fn name_devices(&self, found: &mut KeysFound) -> Result<(), KeysError> {
        for (user, devices) in &mut found.device_keys {
            if devices.is_empty() {
                continue;
            }
            for device in self.accounts.devices(user).await? {
                if let (Some(name), Some(keys)) = (device.display_name, devices.get_mut(device.device_id.as_str())) {
                    keys.insert("unsigned".to_owned(), json!({ "device_display_name": name }));
                }
            }
        }
        Ok(())
    }

    /// Claims one key for each of these, here and elsewhere. Servers that do not answer in time are named.
    pub async fn claim_keys(
        &self,
        claims: Vec<Claim>,
        time: Duration,
    ) -> Result<(Claimed, Vec<OwnedServerName>), KeysError> {
        let (here, elsewhere): (Vec<Claim>, Vec<Claim>) =
            claims.into_iter().partition(|claim| self.accounts.is_local(&claim.user));
        let mut claimed = self.e2ee.keys_claim(&here).await?;
        if elsewhere.is_empty() {
            return Ok((claimed, Vec::new()));
        }
        let (more, failed) = self.remote_claim(&elsewhere, time.min(ANSWER_TIME_MAX)).await?;
        claimed.extend(more);
        Ok((claimed, failed))
    }

    /// Whether a user elsewhere is in a room with one of ours.
    async fn is_company(&self, user: &UserId) -> Result<bool, KeysError> {
        let memberships = self.rooms.store().graph.memberships(user).await?;
        Ok(memberships.iter().any(|room| room.membership == MembershipState::Join))
    }

    /// Forgets the device lists of users elsewhere who leave the last room that they share with ours: their servers tell
    /// no further changes. Ends with the tenant.
    pub(crate) async fn follow_company(self: Arc<Self>) {
        let mut changes = self.db.changes(self.db.position());
        loop {
            let changes = tokio::select! {
                biased;
                () = self.tasks.stopping() => return,
                changes = changes.next() => changes,
            };
            let Ok(changes) = changes else { return };
            for logged in changes.iter() {
                let change = &logged.change;
                if change.kind != ChangeKind::Membership.code() || change.reference.as_deref() == Some("join") {
                    continue;
                }
                let Some(user) = change.user.as_deref().and_then(|user| UserId::parse(user).ok()) else { continue };
                if self.accounts.is_local(&user) {
                    continue;
                }
                if let Err(error) = self.forget_unless_company(&user).await {
                    tracing::warn!(%error, "could not forget the device list of a user who left");
                }
            }
        }
    }

    async fn forget_unless_company(&self, user: &UserId) -> Result<(), KeysError> {
        if self.e2ee.remote_is_held(user).await? && !self.is_company(user).await? {
            self.e2ee.remote_forget(user).await?;
        }
        Ok(())
    }
}

/// Clients expect the field on every device.
fn with_unsigned(found: &mut KeysFound) {
    for keys in found.device_keys.values_mut().flat_map(BTreeMap::values_mut) {
        keys.entry("unsigned").or_insert_with(|| json!({}));
    }
}
