//! Users, devices, sessions, profiles, account data, push rules: what the server knows of its own people.
//!
//! [`Accounts`] is the one handle. It leaves out: what a room knows of a member (`samtal-room`), keys (`samtal-e2ee`),
//! and HTTP.

mod accounts;
mod audit;
mod binding;
mod data;
mod device;
mod error;
mod filter;
mod glob;
mod invite_filter;
mod nonce;
mod options;
mod password;
mod profile;
mod push_rules;
mod rate;
mod registration;
mod schema;
mod services;
mod session;
mod short_token;
mod thread_subscription;
mod threepid;
mod uia;
mod user;
mod user_list;
mod validation;

pub use accounts::Accounts;
pub use audit::Audited;
pub use binding::Binding;
pub use data::{AccountData, DATA_BYTES_MAX, DATA_TYPE_BYTES_MAX, PUSH_RULES};
pub use device::{DEVICE_TEXT_BYTES_MAX, Device};
pub use error::AccountError;
pub use filter::{FILTER_BYTES_MAX, FILTERS_MAX};
pub use invite_filter::{InviteFilter, InviteVerdict};
pub use options::{Options, PasswordCost, Rates, Terms};
pub use profile::{FIELD_NAME_BYTES_MAX, PROFILE_BYTES_MAX, SHORT_FIELD_BYTES_MAX};
pub use push_rules::{NewPushRule, PUSH_RULE_KINDS, PUSH_RULES_MAX, PushRuleError, PushRules, ThreadRules};
pub use rate::UserRate;
pub use registration::NewUser;
pub use schema::SCHEMA;
pub use services::{Namespace, Service, Services};
pub use session::{Client, Issued, Lapse, NewSession, Session, TokenHash};
pub use short_token::{OPENID_SECONDS, RegistrationToken};
pub use thread_subscription::{ThreadState, ThreadSubscription};
pub use threepid::Threepid;
pub use uia::UiaSession;
pub use user::{Kind, Switch, User};
pub use user_list::ListedUser;
pub use validation::{Begun, Purpose, check_client_secret, mail_address};
