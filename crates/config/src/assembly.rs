//! From tables that were found right to tenants.

use std::path::{Path, PathBuf};

use ruma::OwnedServerName;

use crate::process::File;
use crate::tenant::{Tenant, TenantEntry};

/// The tenant of `server.name`.
pub(crate) fn main_tenant(file: &File, name: OwnedServerName) -> Tenant {
    Tenant {
        data_dir: tenant_dir(&file.server.data_dir, &name),
        public_base_url: base_url(file.server.public_base_url.as_deref(), &name),
        federation_address: file.server.federation_address.clone(),
        registration: file.registration.clone(),
        login: file.login.clone(),
        rooms: file.rooms.clone(),
        federation: file.federation.clone(),
        url_previews: file.url_previews.clone(),
        limits: file.limits.clone(),
        media: file.media.clone(),
        presence: file.presence.clone(),
        search: file.search.clone(),
        application_services: file.application_services.clone(),
        mail: file.mail.clone(),
        turn: file.turn.clone(),
        calls: file.calls.clone(),
        notices: file.notices.clone(),
        contact: file.contact.clone(),
        name,
    }
}

/// The tenant of one `[[tenants]]`, if it has a name.
pub(crate) fn tenant(entry: TenantEntry, data_dir: &Path) -> Option<Tenant> {
    let name = entry.name?;
    Some(Tenant {
        data_dir: tenant_dir(data_dir, &name),
        public_base_url: base_url(entry.public_base_url.as_deref(), &name),
        federation_address: entry.federation_address,
        registration: entry.registration,
        login: entry.login,
        rooms: entry.rooms,
        federation: entry.federation,
        url_previews: entry.url_previews,
        limits: entry.limits,
        media: entry.media,
        presence: entry.presence,
        search: entry.search,
        application_services: entry.application_services,
        mail: entry.mail,
        turn: entry.turn,
        calls: entry.calls,
        notices: entry.notices,
        contact: entry.contact,
        name,
    })
}

/// Where `samtal tenant add` puts its files: one for each tenant, named `NAME.toml`.
pub fn added_tenants_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("tenants.d")
}

/// A tenant's directory: its name, with what a file system may not like replaced.
fn tenant_dir(data_dir: &Path, name: &OwnedServerName) -> PathBuf {
    data_dir.join("tenants").join(name.as_str().replace([':', '[', ']'], "_"))
}

fn base_url(given: Option<&str>, name: &OwnedServerName) -> String {
    match given {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("https://{name}"),
    }
}
