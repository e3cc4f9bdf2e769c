//! What happens to accounts and concerns several engines.

use std::sync::Arc;

use ruma::{DeviceId, UserId};
use samtal_account::AccountError;
use samtal_db::Batch;
use samtal_e2ee::device_list::log_change;
use samtal_jobs::State;

use crate::{Homeserver, OpError, member_task::MemberTask};

impl Homeserver {
    /// Ends devices: their sessions, and what the server keeps for them.
    pub async fn delete_devices<'a>(
        &self,
        user: &UserId,
        devices: impl IntoIterator<Item = &'a DeviceId>,
    ) -> Result<(), AccountError> {
        let devices: Vec<&DeviceId> = devices.into_iter().collect();
        let mut batch = self.accounts.device_removal(user, devices.iter().copied());
        self.devices_gone(&mut batch, user, &devices);
        self.db.commit(batch).await?;
        Ok(())
    }

    /// Gives a device another name.
    pub async fn rename_device(
        &self,
        user: &UserId,
        device: &DeviceId,
        display_name: Option<&str>,
    ) -> Result<(), AccountError> {
        let mut batch = self.accounts.device_rename(user, device, display_name)?;
        log_change(&mut batch, user, Some(device));
        match self.db.commit(batch).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => Err(AccountError::NotFound("device")),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends an account for good. With `erase`, what the user wrote is hidden from those who come later.
    pub async fn deactivate(self: &Arc<Self>, user: &UserId, erase: bool) -> Result<(), OpError> {
        let devices = self.accounts.devices(user).await?;
        let devices: Vec<&DeviceId> = devices.iter().map(|device| &*device.device_id).collect();
        let mut batch = self.accounts.deactivation(user, erase).await?;
        self.devices_gone(&mut batch, user, &devices);
        self.e2ee.user_delete(&mut batch, user);
        // Stored first: an account that is gone is in no room for ever.
        let task = MemberTask::LeaveEverything { user: user.to_owned() };
        let id = self.store_member_task(&task).await?;
        match self.db.commit(batch).await {
            Ok(_) => {}
            Err(error) => {
                self.jobs.end(&id, State::Cancelled, None).await?;
                let gone = error.is_conflict();
                return Err(if gone { AccountError::NotFound("user").into() } else { error.into() });
            }
        }
        if erase {
            self.rooms.store().erasures.add([user.to_owned()]);
        }
        // The account is gone already; its rooms follow, however long that takes.
        self.tasks.spawn("leave_everything", Arc::clone(self).finish_member_task(id, task));
        Ok(())
    }

    /// What other engines keep for devices that go.
    fn devices_gone(&self, batch: &mut Batch, user: &UserId, devices: &[&DeviceId]) {
        self.e2ee.devices_delete(batch, user, devices.iter().copied());
    }
}
