//! From tables that were found right to tenants.

use std::path::{Path, PathBuf};

use ruma::OwnedServerName;

use crate::process::Server;
use crate::tenant::{Tenant, TenantEntry, TenantOptions};

/// The tenant of `server.name`.
pub(crate) fn main_tenant(server: &Server, name: OwnedServerName, options: TenantOptions) -> Tenant {
    Tenant {
        data_dir: tenant_dir(&server.data_dir, &name),
        public_base_url: base_url(server.public_base_url.as_deref(), &name),
        is_base_url_given: server.public_base_url.is_some(),
        federation_address: server.federation_address.clone(),
        options,
        name,
    }
}

/// The tenant of one `[[tenants]]`, if it has a name.
pub(crate) fn tenant(entry: TenantEntry, data_dir: &Path, options: TenantOptions) -> Option<Tenant> {
    let name = entry.name?;
    Some(Tenant {
        data_dir: tenant_dir(data_dir, &name),
        public_base_url: base_url(entry.public_base_url.as_deref(), &name),
        is_base_url_given: entry.public_base_url.is_some(),
        federation_address: entry.federation_address,
        options,
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
