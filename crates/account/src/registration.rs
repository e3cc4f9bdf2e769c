//! New users.

use ruma::{OwnedUserId, UserId};
use samtal_db::{Batch, Change, Sql, params, sql};
use samtal_model::ChangeKind;

use crate::{AccountError, Accounts, Client, Issued, Kind, session::NewSession};

/// Longest user id, in bytes.
const USER_ID_BYTES_MAX: usize = 255;

const USER_INSERT: Sql = sql!(
    "INSERT INTO account_user (user_id, kind, password, admin, locked, suspended, deactivated, erased, service, terms,
        created_ms, position)
     VALUES ($1, $2, $3, $4, 0, 0, 0, 0, $5, $6, $7, $8)"
);
const GUEST_UPGRADE: Sql = sql!(
    "UPDATE account_user SET kind = $1, password = $2, terms = $3, position = $4
     WHERE user_id = $5 AND kind = $6 AND deactivated = 0"
);
const USER_TAKEN: Sql = sql!("SELECT 1 FROM account_user WHERE user_id = $1");

/// A user to be made.
#[derive(Clone, Debug)]
pub struct NewUser {
    /// The id; see [`Accounts::new_user_id`].
    pub user_id: OwnedUserId,
    /// What they are.
    pub kind: Kind,
    /// Whether the id is a guest's, who becomes this user.
    pub was_guest: bool,
    /// The password, if they have one.
    pub password: Option<String>,
    /// Whether they administrate the server.
    pub admin: bool,
    /// The application service that makes them.
    pub service: Option<String>,
    /// Version of the terms that they have accepted.
    pub terms: Option<String>,
    /// What they are called at first.
    pub display_name: Option<String>,
    /// The registration token that is used up by this.
    pub registration_token: Option<String>,
    /// A mail address that has been shown to be theirs.
    pub mail: Option<String>,
    /// A first session.
    pub session: Option<NewSession>,
}

impl NewUser {
    /// A normal user without a password or a session, called by the local part of its id.
    pub fn normal(user_id: OwnedUserId) -> Self {
        let display_name = Some(user_id.localpart().to_owned());
        Self {
            user_id,
            kind: Kind::Normal,
            was_guest: false,
            password: None,
            admin: false,
            service: None,
            terms: None,
            display_name,
            registration_token: None,
            mail: None,
            session: None,
        }
    }
}

impl Accounts {
    /// The id that a new user with this local part gets: in lower case, of the letters that new ids may have.
    pub fn new_user_id(&self, localpart: &str) -> Result<OwnedUserId, AccountError> {
        let localpart = localpart.to_lowercase();
        if localpart.is_empty() {
            return Err(AccountError::InvalidUsername("it is empty"));
        }
        if !localpart
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'=' | b'-' | b'/' | b'+'))
        {
            return Err(AccountError::InvalidUsername("it may hold a-z, 0-9 and ._=-/+ only"));
        }
        let user_id = format!("@{localpart}:{}", self.name);
        if user_id.len() > USER_ID_BYTES_MAX {
            return Err(AccountError::InvalidUsername("it is too long"));
        }
        UserId::parse(user_id).map_err(|_| AccountError::InvalidUsername("it is not a user id"))
    }

    /// An id for somebody who did not choose one.
    pub fn random_user_id(&self) -> Result<OwnedUserId, AccountError> {
        self.new_user_id(&self.random.alphanumeric(12))
    }

    /// Whether the id has never been given away.
    pub async fn is_free(&self, user: &UserId) -> Result<bool, AccountError> {
        Ok(self.db.query_opt(&USER_TAKEN, params![user.as_str()]).await?.is_none())
    }

    /// Makes a user, and its first session if one is wanted.
    pub async fn create(&self, new: NewUser, client: &Client) -> Result<Option<Issued>, AccountError> {
        if let Some(password) = &new.password {
            self.check_password_strength(password)?;
        }
        if !new.was_guest && !self.is_free(&new.user_id).await? {
            return Err(AccountError::UserInUse);
        }
        let hash = match &new.password {
            Some(password) => Some(self.hash_password(password).await?.expose().clone()),
            None => None,
        };
        let mut batch = Batch::new();
        let position = batch.log(Change::new(ChangeKind::Account).user(&new.user_id));
        let (id, kind, terms) = (new.user_id.as_str(), new.kind.code(), new.terms.as_deref());
        if new.was_guest {
            batch.expect(&GUEST_UPGRADE, params![kind, hash, terms, position, id, Kind::Guest.code()], 1);
        } else {
            let service = new.service.as_deref();
            batch.expect(&USER_INSERT, params![id, kind, hash, new.admin, service, terms, self.now(), position], 1);
        }
        if let Some(name) = new.display_name.filter(|name| !name.is_empty()) {
            self.profile_write(&mut batch, &new.user_id, "displayname", &serde_json::Value::String(name));
        }
        if let Some(address) = &new.mail {
            self.threepid_write(&mut batch, &new.user_id, "email", address);
        }
        if let Some(token) = &new.registration_token {
            self.registration_token_used(&mut batch, token);
        }
        let issued = new.session.map(|session| self.session_write(&mut batch, &new.user_id, session, client));
        match self.db.commit(batch).await {
            Ok(_) => Ok(issued),
            Err(error) if error.is_conflict() => Err(AccountError::UserInUse),
            Err(error) => Err(error.into()),
        }
    }
}
