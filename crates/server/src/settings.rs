//! From the file's words to each engine's plain options.

use std::time::Duration;

use samtal_account::{Options as AccountOptions, Rates, Terms};
use samtal_appservice::{Registration, RegistrationError};
use samtal_config::Tenant;
use samtal_config::process::Process;
use samtal_config::tenant::{EncryptedByDefault as WhichRooms, FederationPolicy, Rate as ConfigRate, Who};
use samtal_http::{AddressPolicy, Certificate, ClientOptions, Network, Proxy};
use samtal_kit::{Rate, Secret};
use samtal_media::{
    Cloud, Location,
    scan::{Address, Protocol, Scanner},
};
use samtal_ops::{
    Directory, EncryptedByDefault, Federation, Mail, MailNotifications, MailTls, Notices, Publishers, Settings, Turn,
};
use samtal_policy::{ServerRule, Unnamed};

use crate::ServerError;

/// Where a tenant's database is.
pub(crate) fn database(process: &Process, tenant: &Tenant) -> samtal_db::Options {
    match &process.database.url {
        None => samtal_db::Options::Sqlite { path: tenant.data_dir.join("samtal.db") },
        Some(url) => samtal_db::Options::Postgres {
            url: url.expose().to_owned(),
            schema: schema_name(tenant.name.as_str()),
            connections_max: process.database.connections_max as usize,
        },
    }
}

/// A schema's name for a server name: letters and digits as they are, `.` as `_`, all else by its code.
fn schema_name(name: &str) -> String {
    let mut schema = String::from("samtal_");
    for c in name.chars() {
        match c {
            'a'..='z' | '0'..='9' => schema.push(c),
            '.' => schema.push('_'),
            other => schema.push_str(&format!("_x{:x}_", u32::from(other))),
        }
    }
    if schema.len() > SCHEMA_CHARS_MAX {
        // PostgreSQL would cut it off, and two tenants might share what is left.
        let hash = blake3::hash(name.as_bytes()).to_hex();
        schema.truncate(SCHEMA_CHARS_MAX - SCHEMA_HASH_CHARS - 1);
        schema.push('_');
        schema.extend(hash.chars().take(SCHEMA_HASH_CHARS));
    }
    schema
}

/// Longest name of a schema in PostgreSQL.
const SCHEMA_CHARS_MAX: usize = 63;
/// What tells long names apart.
const SCHEMA_HASH_CHARS: usize = 24;

/// What one tenant is opened with.
pub(crate) fn tenant(process: &Process, tenant: &Tenant) -> Settings {
    Settings {
        accounts: accounts(tenant),
        public_base_url: Some(tenant.public_base_url.clone()),
        tell_base_url: tenant.is_base_url_given,
        default_room_version: tenant.options.rooms.default_version.clone(),
        encrypted_by_default: match tenant.options.rooms.encrypted_by_default {
            WhichRooms::None => EncryptedByDefault::None,
            WhichRooms::Private => EncryptedByDefault::Private,
            WhichRooms::All => EncryptedByDefault::All,
        },
        directory: directory(tenant),
        sync_wait_max: Duration::from_millis(tenant.options.limits.sync_wait_ms_max),
        presence: tenant.options.presence.enabled,
        search: search(tenant),
        media: media(process, tenant),
        federation: federation(tenant),
        turn: turn(tenant),
        livekit_service_urls: tenant.options.calls.livekit_service_urls.clone(),
        notices: Notices {
            sender: tenant.options.notices.sender.clone(),
            display_name: tenant.options.notices.display_name.clone(),
            room_name: tenant.options.notices.room_name.clone(),
        },
        mail: mail(tenant),
        ..Settings::default()
    }
}

fn directory(tenant: &Tenant) -> Directory {
    Directory {
        publishers: match tenant.options.rooms.publish {
            Who::Everyone => Publishers::Everyone,
            Who::Administrators => Publishers::Administrators,
            Who::Nobody => Publishers::Nobody,
        },
        without_login: tenant.options.rooms.public_directory_without_login,
        over_federation: tenant.options.rooms.public_directory_over_federation,
    }
}

/// The bridges and bots of a tenant.
///
/// # Errors
/// A registration file cannot be used.
pub(crate) fn appservices(process: &Process, tenant: &Tenant) -> Result<samtal_appservice::Options, RegistrationError> {
    Ok(samtal_appservice::Options {
        registrations: Registration::load(&tenant.options.application_services.registrations)?,
        // No denied networks: the operator chose the addresses, and most are on this machine.
        client: ClientOptions {
            trusted_certificates: process.outgoing.trusted_certificates.clone(),
            ..ClientOptions::default()
        },
        ..samtal_appservice::Options::default()
    })
}

/// How pages are fetched for previews, where the operator lets them be.
pub(crate) fn previews(process: &Process, tenant: &Tenant) -> Option<ClientOptions> {
    tenant.options.url_previews.enabled.then(|| web(process))
}

/// How others than servers are spoken to.
pub(crate) fn web(process: &Process) -> ClientOptions {
    let outgoing = &process.outgoing;
    let denied = outgoing
        .denied_networks
        .iter()
        .map(|network| Network { address: network.address, prefix_bits: network.prefix_bits });
    ClientOptions {
        trusted_certificates: outgoing.trusted_certificates.clone(),
        policy: AddressPolicy::denying(denied.collect()),
        ..ClientOptions::default()
    }
}

/// Where a tenant's files are, how long they may be, and who looks at them.
fn media(process: &Process, tenant: &Tenant) -> samtal_media::Options {
    let wish = &tenant.options.media;
    samtal_media::Options {
        location: media_location(process, tenant),
        upload_bytes_max: tenant.options.limits.upload_bytes_max,
        remote_bytes_max: tenant.options.limits.upload_bytes_max,
        user_bytes_max: wish.user_bytes_max,
        total_bytes_max: wish.total_bytes_max,
        thumbnail_bytes_max: wish.thumbnail_bytes_max,
        thumbnails_ahead: wish.thumbnails_ahead,
        remote_kept: Duration::from_millis(wish.remote_kept_ms),
        legacy_downloads: wish.legacy_downloads,
        scanner: scanner(tenant),
        ..samtal_media::Options::default()
    }
}

fn media_location(process: &Process, tenant: &Tenant) -> Location {
    let wish = &tenant.options.media;
    match wish.store.as_deref() {
        None => Location::Directory(tenant.data_dir.join("media")),
        Some(url) if ["s3://", "az://", "gs://"].iter().any(|scheme| url.starts_with(scheme)) => {
            let copies = (wish.store_copies_bytes_max > 0)
                .then(|| (tenant.data_dir.join("media-copies"), wish.store_copies_bytes_max));
            Location::Cloud(Box::new(Cloud {
                url: url.to_owned(),
                endpoint: wish.store_endpoint.clone(),
                region: wish.store_region.clone(),
                key_id: wish.store_key_id.clone(),
                key: wish.store_key.as_ref().map(|key| Secret::new(key.expose().to_owned())),
                // The operator names it: it may well lie in a network of our own.
                http: ClientOptions {
                    trusted_certificates: process.outgoing.trusted_certificates.clone(),
                    ..ClientOptions::default()
                },
                copies,
            }))
        }
        Some(store) => Location::Directory(store.strip_prefix("file://").unwrap_or(store).into()),
    }
}

fn scanner(tenant: &Tenant) -> Option<Scanner> {
    let wish = &tenant.options.media;
    let address = match (&wish.scanner_socket, wish.scanner_address) {
        (Some(socket), _) => Address::Unix(socket.clone()),
        (None, Some(address)) => Address::Tcp(address),
        (None, None) => return None,
    };
    let time = Duration::from_millis(wish.scanner_ms_max);
    let protocol = match &wish.scanner_icap_service {
        // It goes into a request's first line.
        Some(service) => Protocol::Icap { service: service.chars().filter(char::is_ascii_graphic).collect() },
        None => Protocol::ClamAv,
    };
    Some(Scanner { address, protocol, time, passes_unscanned: !wish.scanner_required })
}

fn turn(tenant: &Tenant) -> Option<Turn> {
    let turn = tenant.options.turn.as_ref()?;
    let secret = turn.shared_secret.as_ref()?;
    Some(Turn {
        uris: turn.uris.clone(),
        secret: Secret::new(secret.expose().to_owned()),
        lifetime_ms: turn.lifetime_ms,
    })
}

fn mail(tenant: &Tenant) -> Option<Mail> {
    let mail = tenant.options.mail.as_ref()?;
    let password = mail.password.as_ref().map(|password| password.expose().to_owned()).unwrap_or_default();
    Some(Mail {
        host: mail.smtp_host.clone(),
        port: mail.smtp_port,
        tls: match mail.tls {
            samtal_config::tenant::MailTls::None => MailTls::None,
            samtal_config::tenant::MailTls::StartTls => MailTls::StartTls,
            samtal_config::tenant::MailTls::Tls => MailTls::Tls,
        },
        credentials: mail.username.clone().map(|user| (user, Secret::new(password))),
        from: mail.from.clone(),
        notifications: mail.notifications.then(|| MailNotifications {
            delay: Duration::from_millis(mail.notification_delay_ms),
            ..MailNotifications::default()
        }),
    })
}

fn search(tenant: &Tenant) -> samtal_search::Options {
    use samtal_config::tenant::Language as Word;
    use samtal_search::Language;
    let language = |word: &Word| match word {
        Word::Danish => Language::Danish,
        Word::Dutch => Language::Dutch,
        Word::English => Language::English,
        Word::Finnish => Language::Finnish,
        Word::French => Language::French,
        Word::German => Language::German,
        Word::Hungarian => Language::Hungarian,
        Word::Italian => Language::Italian,
        Word::Norwegian => Language::Norwegian,
        Word::Portuguese => Language::Portuguese,
        Word::Romanian => Language::Romanian,
        Word::Russian => Language::Russian,
        Word::Spanish => Language::Spanish,
        Word::Swedish => Language::Swedish,
    };
    samtal_search::Options {
        languages: tenant.options.search.languages.iter().map(language).collect(),
        all_local_users: tenant.options.search.all_users,
    }
}

/// With whom a tenant speaks, and how.
pub(crate) fn federation(tenant: &Tenant) -> Federation {
    let settings = &tenant.options.federation;
    let rules = |servers: &[String]| servers.iter().map(|server| ServerRule::new(server, "")).collect();
    let default = match settings.policy {
        Some(FederationPolicy::Closed) => Unnamed::Closed,
        Some(FederationPolicy::Open) => Unnamed::Open,
        // Who lists whom they talk with means only these.
        None if settings.allow.is_some() => Unnamed::Closed,
        None => Unnamed::Open,
    };
    let denied = settings
        .denied_networks
        .iter()
        .map(|network| Network { address: network.address, prefix_bits: network.prefix_bits });
    Federation {
        enabled: settings.enabled,
        policy: samtal_policy::Settings {
            enabled: settings.enabled,
            default,
            allow: rules(settings.allow.as_deref().unwrap_or_default()),
            deny: rules(&settings.deny),
            encrypted_only: settings.encrypted_only,
            room_types: settings.room_types.clone(),
            hold_unknown_invites: settings.hold_unknown_invites,
        },
        device_names: settings.device_names,
        rate: Some(rate(&tenant.options.limits.federation)),
        key_servers: settings.key_servers.clone(),
        client: ClientOptions {
            trusted_certificates: settings.trusted_certificates.clone(),
            certificate: settings
                .client_certificate
                .as_ref()
                .map(|own| Certificate { certificate: own.certificate.clone(), private_key: own.private_key.clone() }),
            policy: AddressPolicy::denying(denied.collect()),
            ..ClientOptions::default()
        },
    }
}

/// The proxy that a tenant's connections to other servers go through.
///
/// # Errors
/// What is given is no proxy's address: to go round it would be worse than not to start.
pub(crate) fn proxy(tenant: &Tenant) -> Result<Option<Proxy>, ServerError> {
    let proxy = tenant.options.federation.proxy.as_ref().map(|proxy| proxy.expose().parse()).transpose();
    proxy.map_err(|source| ServerError::Proxy { name: tenant.name.clone(), source })
}

/// What accounts go by.
pub(crate) fn accounts(tenant: &Tenant) -> AccountOptions {
    let (registration, login, limits) = (&tenant.options.registration, &tenant.options.login, &tenant.options.limits);
    let secret = |secret: &samtal_config::Secret| Secret::new(secret.expose().to_owned());
    AccountOptions {
        registration_open: registration.open,
        registration_tokens: registration.tokens.iter().map(secret).collect(),
        registration_shared_secret: registration.shared_secret.as_ref().map(secret),
        guests: registration.guests,
        terms: registration.terms.as_ref().map(|terms| Terms {
            version: terms.version.clone(),
            name: terms.name.clone(),
            url: terms.url.clone(),
        }),
        password_login: login.password,
        password_length_min: registration.password_length_min as usize,
        access_token_ms: login.access_token_ms,
        rates: Some(Rates {
            login: rate(&limits.login),
            registration: rate(&limits.registration),
            messages: rate(&limits.messages),
            joins: rate(&limits.joins),
            invites: rate(&limits.invites),
            ..Rates::default()
        }),
        ..AccountOptions::default()
    }
}

fn rate(rate: &ConfigRate) -> Rate {
    Rate::new(rate.per_second, rate.burst)
}

#[cfg(test)]
mod tests {
    use super::{SCHEMA_CHARS_MAX, schema_name};

    #[test]
    fn two_server_names_never_share_a_schema() {
        let long = "a-very-long-name-of-an-authority.in-a-municipality.example.org";
        let longer = format!("{long}:8448");
        let names = ["example.org", "example-org", "example.org:8448", "[::1]:80", "example_org", long, &longer];
        let mut schemas: Vec<String> = names.iter().map(|name| schema_name(name)).collect();
        assert!(schemas.iter().all(|s| s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')), "{schemas:?}");
        assert!(
            schemas.iter().all(|schema| schema.len() <= SCHEMA_CHARS_MAX),
            "PostgreSQL cuts off the rest: {schemas:?}"
        );
        schemas.sort();
        schemas.dedup();
        assert_eq!(schemas.len(), names.len());
    }
}
