//! Profiles, here and elsewhere, and what rooms are told of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use http::StatusCode;
use ruma::{
    OwnedRoomId, OwnedUserId, UserId, api::federation::query::get_profile_information,
    events::room::member::MembershipState,
};
use samtal_jobs::State;
use samtal_remote::RemoteError;
use serde_json::Value;

use crate::{Homeserver, OpError, member_task::MemberTask};

/// Rooms that are told of a change at the same time.
const ROOMS_AT_ONCE: usize = 8;

/// How long the one who changes their profile waits for their rooms to be told. It goes on behind their back.
const TELLING_TIME_MAX: Duration = Duration::from_secs(10);

/// What member events repeat of a profile.
const SHOWN_IN_ROOMS: [&str; 2] = ["displayname", "avatar_url"];

impl Homeserver {
    /// Sets a field of a user's profile, or removes it when there is no value, and tells the rooms of a new name or picture.
    pub async fn update_profile(
        self: &Arc<Self>,
        user: &UserId,
        field: &str,
        value: Option<&Value>,
    ) -> Result<(), OpError> {
        if !SHOWN_IN_ROOMS.contains(&field) || !self.is_in_rooms(user).await? {
            self.accounts.set_profile_field(user, field, value).await?;
            return Ok(());
        }
        // Stored first: whatever happens from here on, no room goes on with the old name for ever.
        let task = MemberTask::TellRooms { user: user.to_owned() };
        let id = self.store_member_task(&task).await?;
        if !self.accounts.set_profile_field(user, field, value).await? {
            self.jobs.end(&id, State::Cancelled, None).await?;
            return Ok(());
        }
        // A task of its own: it goes on when the request is given up.
        let telling = self.tasks.spawn("profile", Arc::clone(self).finish_member_task(id, task));
        if let Ok(Ok(told)) = tokio::time::timeout(TELLING_TIME_MAX, telling).await {
            told?;
        }
        Ok(())
    }

    async fn is_in_rooms(&self, user: &UserId) -> Result<bool, OpError> {
        let known = self.rooms.store().graph.memberships(user).await?;
        Ok(known.iter().any(|known| known.membership == MembershipState::Join))
    }

    /// Makes the user's member events say what the profile says, in all rooms that they are in.
    pub(crate) async fn tell_rooms(&self, user: OwnedUserId) -> Result<(), OpError> {
        let memberships = self.rooms.store().graph.memberships(&user).await?;
        let joined = memberships.into_iter().filter(|known| known.membership == MembershipState::Join);
        stream::iter(joined)
            .for_each_concurrent(ROOMS_AT_ONCE, |known| async {
                let room_id = known.room_id;
                if let Err(error) = self.tell_room(&user, &room_id).await {
                    tracing::warn!(%room_id, %error, "a room cannot be told of a changed profile");
                }
            })
            .await;
        Ok(())
    }

    async fn tell_room(&self, user: &UserId, room_id: &OwnedRoomId) -> Result<(), OpError> {
        let Some(before) = self.member_event_content(room_id, user).await? else { return Ok(()) };
        let mut content = before.clone();
        let profile = self.accounts.profile(user).await?;
        for field in SHOWN_IN_ROOMS {
            match profile.get(field).filter(|value| value.is_string()) {
                Some(value) => content.insert(field.to_owned(), value.clone()),
                None => content.remove(field),
            };
        }
        if content == before {
            return Ok(());
        }
        // What was said on joining is not said again; and who is in a room needs nobody to let them in.
        content.remove("reason");
        content.remove("join_authorised_via_users_server");
        let draft = Self::member_draft(user, user, &content)?;
        self.rooms.send_one(room_id, draft).await?;
        Ok(())
    }

    /// Lets a user leave all rooms, refuse all invites and take back all knocks. What fails is logged.
    pub(crate) async fn leave_everything(&self, user: OwnedUserId) -> Result<(), OpError> {
        use MembershipState::{Invite, Join, Knock};
        for known in self.rooms.store().graph.memberships(&user).await? {
            if matches!(known.membership, Join | Invite | Knock)
                && let Err(error) = self.part(&user, &known.room_id, crate::Content::new()).await
            {
                tracing::warn!(room_id = %known.room_id, %error, "a deactivated user could not leave");
            }
        }
        Ok(())
    }

    /// The profile of a user, of ours or of another server, which is asked; nothing when there is no such user.
    pub async fn profile(&self, user: &UserId) -> Result<Option<BTreeMap<String, Value>>, OpError> {
        if self.is_local(user) {
            return Ok(match self.accounts.user(user).await? {
                Some(known) if !known.deactivated => Some(self.accounts.profile(user).await?),
                _ => None,
            });
        }
        let request = get_profile_information::v1::Request::new(user.to_owned());
        match self.remote.send(user.server_name(), request).await {
            Ok(response) => {
                Ok(Some(response.data.into_iter().map(|(field, value)| (field.to_string(), value)).collect()))
            }
            Err(RemoteError::Status { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
